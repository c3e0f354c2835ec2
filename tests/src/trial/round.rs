//! One round: work, a fault, its end, a whole cluster, a verdict.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_core::{
    Clock, Instant, SystemClock,
    store::{Key, Operation, Txn},
};
use mesh_registry::testing::history::Budget;
use tokio::time::timeout;

use super::{
    elections::{deposed, elected},
    fault::Fault,
    load::Load,
    node::WALL,
    probe::Probe,
    settle::{CANDIDATES, Roles, VOTERS, read_only, settled},
    stage::{SMALL, Trial},
};
use crate::harness::poll;

/// Calls that are answered before the fault.
const BEFORE: u64 = 60;
/// How long a network is cut.
const CUT: Duration = Duration::from_secs(3);
/// How long a wall clock stays wrong, each way.
const WRONG: Duration = Duration::from_millis(1500);
/// How far ahead it jumps, and then back behind the true time, in milliseconds.
const JUMPS_MS: [i64; 2] = [3_600_000, -30_000];
/// Bytes of the writes that use a small disk up, and how many there may be.
const BULK_BYTES: usize = 256 * 1024;
const BULK_MAX: usize = 400;
/// Longest wait for what has to come, on a machine under load.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for one bulky write.
const BULK_PATIENCE: Duration = Duration::from_secs(6);

/// A fault that was done.
struct Strike {
    at: Instant,
    /// Nobody can write until another voter leads.
    leaderless: bool,
    /// The process that does not hold the lease any more, before long.
    deposed: Option<String>,
    mend: Mend,
}

/// How the fault ends.
enum Mend {
    /// These are started again.
    Start(Vec<String>),
    /// This one goes on.
    Resume(String),
    /// The network of this one is whole again.
    Heal(String),
    /// The small disk has space.
    Free,
    /// The wall clock of this one is right again.
    Wall(String),
}

impl Trial {
    /// One round.
    ///
    /// # Errors
    ///
    /// The cluster did not do what it must without any judge: go on, heal, answer.
    pub fn round(&mut self) -> Result<()> {
        let number = self.figures.rounds + 1;
        let fault = self.fault;
        self.play(number).with_context(|| {
            format!("round {number} of {fault}; what is left of it is in {}", self.cluster.folder().display())
        })
    }

    fn play(&mut self, number: usize) -> Result<()> {
        let roles = settled(&self.cluster)?;
        let load = Load::begin(&self.clients, number, self.rng.u64(..));
        let probe = Probe::begin(&self.clients, load.hands());
        poll(PATIENCE, "the load is under way", || Ok((load.answered() >= BEFORE).then_some(())))?;

        let strike = self.strike(&roles)?;
        self.follow(&strike, &probe)?;
        let mended = SystemClock.now();
        self.mend(&strike)?;
        poll(PATIENCE, "every client can write again", || Ok(probe.all_after(mended).then_some(())))?;
        settled(&self.cluster)?;
        self.figures.heals.push(SystemClock.now().since(mended));
        drop(probe);

        let (recording, words) = load.end(&self.clients)?;
        let mut problems = self.tokens.problems();
        problems.extend(recording.judge(&Budget::default()).err());
        self.violated(problems, &recording)?;
        self.ledger.extend(words);
        self.figures.operations += recording.len();
        self.figures.unknown += recording.unknown();
        self.figures.rounds = number;
        Ok(())
    }

    fn strike(&mut self, roles: &Roles) -> Result<Strike> {
        let Roles { leader, holder } = roles.clone();
        let follower = self.follower(&leader)?;
        let at = SystemClock.now();
        let mut strike = Strike { at, leaderless: false, deposed: None, mend: Mend::Free };
        match self.fault {
            Fault::KillLeader => {
                self.cluster.kill_all(&[&leader])?;
                strike = Strike { leaderless: true, mend: Mend::Start(vec![leader]), ..strike };
            }
            Fault::KillLeaderAndHolder => {
                self.cluster.kill_all(&[&leader, &holder])?;
                let mend = Mend::Start(vec![leader, holder.clone()]);
                strike = Strike { leaderless: true, deposed: Some(holder), mend, ..strike };
            }
            Fault::KillHolder => {
                self.cluster.kill_all(&[&holder])?;
                let mend = Mend::Start(vec![holder.clone()]);
                strike = Strike { deposed: Some(holder), mend, ..strike };
            }
            Fault::KillVoters => {
                self.cluster.kill_all(&VOTERS)?;
                let mut voters = VOTERS.map(str::to_owned);
                self.rng.shuffle(&mut voters);
                strike.mend = Mend::Start(voters.into());
            }
            Fault::PauseLeader => {
                self.cluster.pause(&leader)?;
                strike = Strike { leaderless: true, mend: Mend::Resume(leader), ..strike };
            }
            Fault::PauseHolder => {
                self.cluster.pause(&holder)?;
                let mend = Mend::Resume(holder.clone());
                strike = Strike { deposed: Some(holder), mend, ..strike };
            }
            Fault::PartitionMinority => {
                self.cut(&follower)?;
                strike.mend = Mend::Heal(follower);
            }
            Fault::PartitionMajority => {
                self.cut(&leader)?;
                // Packet filters take a moment to be there.
                let at = SystemClock.now();
                strike = Strike { at, leaderless: true, mend: Mend::Heal(leader), ..strike };
            }
            Fault::PartitionOneWay => {
                let others = self.namespaces_but(&leader)?;
                let others: Vec<_> = others.iter().collect();
                self.cluster.namespace(&leader)?.stop_hearing(&others)?;
                let at = SystemClock.now();
                strike = Strike { at, leaderless: true, mend: Mend::Heal(leader), ..strike };
            }
            Fault::FullDisk => self.cluster.disk(SMALL)?.fill()?,
            Fault::ClockJump => {
                let node = if self.rng.bool() { leader } else { follower };
                self.cluster.tell(&node, &format!("{WALL}{}", JUMPS_MS[0]))?;
                strike.mend = Mend::Wall(node);
            }
        }
        Ok(strike)
    }

    /// Waits until the fault has had its effect.
    fn follow(&mut self, strike: &Strike, probe: &Probe) -> Result<()> {
        if strike.leaderless {
            let answered =
                poll(PATIENCE, "a write is answered after the fault", || Ok(probe.first_after(strike.at)))?;
            self.figures.failovers.push(answered.since(strike.at));
        }
        if let Some(before) = &strike.deposed {
            let next = |boards: &_| elected(boards, &CANDIDATES, before, strike.at);
            self.cluster
                .board()
                .wait(PATIENCE, "the other candidate holds the lease", |boards| next(boards).is_some())?;
            let next = next(&self.cluster.board().look()).context("it was there a moment ago")?;
            self.figures.takeovers.push(next.since(strike.at));
        }
        match (self.fault, &strike.mend) {
            (Fault::PauseLeader, _) => {
                let time = Duration::from_millis(self.rng.u64(1000..5000));
                self.linger(time.saturating_sub(SystemClock.now().since(strike.at)))
            }
            (_, Mend::Heal(_)) => self.linger(CUT),
            (_, Mend::Free) => self.use_disk_up(),
            (_, Mend::Wall(node)) => {
                let node = node.clone();
                self.linger(WRONG)?;
                self.cluster.tell(&node, &format!("{WALL}{}", JUMPS_MS[1]))?;
                self.linger(WRONG)
            }
            _ => Ok(()),
        }
    }

    /// Ends the fault.
    fn mend(&mut self, strike: &Strike) -> Result<()> {
        match &strike.mend {
            Mend::Start(nodes) => nodes.iter().try_for_each(|node| self.cluster.start(node)),
            Mend::Resume(node) => {
                let resumed = SystemClock.now();
                self.cluster.resume(node)?;
                if strike.deposed.is_some() {
                    self.cluster.board().wait(PATIENCE, "it knows that it lost the lease", |boards| {
                        deposed(boards, node, resumed)
                    })?;
                }
                Ok(())
            }
            Mend::Heal(node) => self.cluster.namespace(node)?.heal(),
            Mend::Free => self.cluster.disk(SMALL)?.free(),
            Mend::Wall(node) => self.cluster.tell(node, &format!("{WALL}0")),
        }
    }

    /// Cuts a voter off from the other voters. Clients and candidates still reach it.
    fn cut(&self, voter: &str) -> Result<()> {
        let others = self.namespaces_but(voter)?;
        self.cluster.namespace(voter)?.cut_from(&others.iter().collect::<Vec<_>>())
    }

    fn namespaces_but(&self, voter: &str) -> Result<Vec<crate::harness::Namespace>> {
        let others = VOTERS.iter().filter(|other| **other != voter);
        others.map(|other| Ok(self.cluster.namespace(other)?.clone())).collect()
    }

    fn follower(&mut self, leader: &str) -> Result<String> {
        let others: Vec<&str> = VOTERS.into_iter().filter(|voter| *voter != leader).collect();
        Ok((*self.rng.choice(&others).context("there are no others")?).to_owned())
    }

    /// Lets the load go on, and sees that no process ends.
    fn linger(&self, time: Duration) -> Result<()> {
        self.cluster.board().never(time, "a process ends by itself", |boards| {
            self.cluster.running().any(|node| boards.of(node).ended)
        })
    }

    /// Writes until the voter with the small disk says that it takes nothing more.
    fn use_disk_up(&self) -> Result<()> {
        let client = self.clients.first().context("there are no clients")?;
        let (store, writer) = (client.store(), client.id().clone());
        let key = Key::new("bulk").context("a plain word")?;
        for _ in 0..BULK_MAX {
            if read_only(&self.cluster, SMALL)?.is_some() {
                return self.linger(WRONG);
            }
            let put = Operation::Put { key: key.clone(), value: vec![7; BULK_BYTES].into(), session: None };
            let txn = Txn::new(writer.clone()).then(put);
            let store = std::sync::Arc::clone(&store);
            // Whether it is written does not matter: a full leader refuses it.
            let _ = client.run(async move { timeout(BULK_PATIENCE, store.transact(txn)).await })?;
        }
        ensure!(read_only(&self.cluster, SMALL)?.is_some(), "{SMALL} writes on, although its disk is full");
        Ok(())
    }
}
