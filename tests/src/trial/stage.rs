//! A trial from its cluster to its verdict.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use mesh_core::{Clock, SystemClock};
use mesh_registry::testing::Recording;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{
    client::Client,
    elections::{SCOPE, Tokens},
    fault::Fault,
    figures::Figures,
    load::Word,
    settle::{CANDIDATES, VOTERS, settled},
};
use crate::harness::{Cluster, Plan, Program};

/// Clients, each a node of its own.
const CLIENTS: usize = 2;
/// The voter with the small disk.
pub(super) const SMALL: &str = VOTERS[1];
/// KiB of that disk: room for the log of some rounds, and a snapshot beside an older one.
const SMALL_KIB: u32 = 192 * 1024;
/// Pause before a read is tried again.
const AGAIN: Duration = Duration::from_millis(20);
/// Longest wait for all that was acknowledged to be read once more.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster that goes through rounds of one fault.
pub struct Trial {
    // Dropped in this order: clients say goodbye to nodes that still run.
    pub(super) tokens: Tokens,
    pub(super) clients: Vec<Client>,
    pub(super) cluster: Cluster,
    pub(super) fault: Fault,
    pub(super) rng: fastrand::Rng,
    pub(super) figures: Figures,
    /// The last word on every key of every round.
    pub(super) ledger: Vec<Word>,
    violations: Vec<String>,
}

/// What came of a trial.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The sums of its rounds.
    pub figures: Figures,
    /// The rules that were broken.
    pub violations: Vec<String>,
    /// Logs, data and histories, if a rule was broken.
    pub artifacts: Option<PathBuf>,
    /// How long it took until all processes had left.
    pub stop: Duration,
}

impl Trial {
    /// Starts a cluster for one fault. `own` is how the program that is run by [`serve`](super::serve)
    /// starts, for faults that `mesh` itself can't do.
    ///
    /// # Errors
    ///
    /// The cluster does not start, or its voters do not find together.
    pub fn stage(fault: Fault, seed: u64, own: &Program) -> Result<Self> {
        let voters = (fault == Fault::ClockJump).then_some(own);
        Self::stage_with(fault, seed, voters)
    }

    /// The same, with voters that run this program in place of `mesh`.
    ///
    /// # Errors
    ///
    /// As [`stage`](Self::stage).
    pub fn stage_with(fault: Fault, seed: u64, voters: Option<&Program>) -> Result<Self> {
        let mut plan = Plan::new(&format!("trial-{fault}"), 3).voting();
        if let Some(program) = voters {
            plan = plan.running(program);
        }
        plan = plan.with_candidates(2, SCOPE);
        if fault.is_partition() {
            plan = plan.in_lab().with_guests(2);
        }
        if fault == Fault::FullDisk {
            // A log that is cut short more often than users' is, so that a round ends with room to spare.
            plan = plan.with_small_disk(SMALL, SMALL_KIB).set("registry.snapshot_bytes", 8 << 20);
        }
        let mut cluster = plan.prepare()?;
        for node in VOTERS.iter().chain(&CANDIDATES) {
            cluster.start(node)?;
        }
        let guests = cluster.guests().to_vec();
        let clients = (0..CLIENTS)
            .map(|number| Client::join(&cluster, &format!("client-{}", number + 1), guests.get(number)));
        let clients = clients.collect::<Result<Vec<_>>>()?;
        settled(&cluster)?;
        let tokens = Tokens::follow(clients.first().context("there are no clients")?);
        let (rng, figures) = (fastrand::Rng::with_seed(seed), Figures::default());
        Ok(Self { tokens, clients, cluster, fault, rng, figures, ledger: Vec::new(), violations: Vec::new() })
    }

    /// Notes what a round broke, and keeps what its clients saw.
    pub(super) fn violated(&mut self, what: Vec<String>, recording: &Recording) -> Result<()> {
        if what.is_empty() {
            return Ok(());
        }
        let history = self.cluster.folder().join(format!("round-{}-history.json", self.figures.rounds + 1));
        keep(&history, recording, &what)?;
        self.violations.extend(what);
        Ok(())
    }

    /// The sums of the rounds up to now.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// Whether a rule was broken.
    pub fn is_violated(&self) -> bool {
        !self.violations.is_empty()
    }

    /// Reads everything that rounds left behind once more, and ends the cluster.
    ///
    /// # Errors
    ///
    /// The cluster does not answer, or does not end well.
    pub fn finish(mut self) -> Result<Tried> {
        self.violations.extend(self.tokens.problems());
        let lost = self.lost()?;
        self.violations.extend(lost);
        let Self { tokens, clients, cluster, figures, violations, .. } = self;
        drop((tokens, clients));
        let began = SystemClock.now();
        let artifacts = if violations.is_empty() {
            cluster.finish()?;
            None
        } else {
            // Its files stay when it is not finished.
            Some(cluster.folder().to_owned())
        };
        Ok(Tried { figures, violations, artifacts, stop: SystemClock.now().since(began) })
    }

    /// Ends a trial whose cluster was broken on purpose, and drops what is left of it.
    ///
    /// # Errors
    ///
    /// Its files can't be removed.
    pub fn abandon(self) -> Result<()> {
        let folder = self.cluster.folder().to_owned();
        drop(self);
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))
    }

    /// What earlier rounds had acknowledged, and is not there any more.
    fn lost(&mut self) -> Result<Vec<String>> {
        let client = self.clients.first().context("there are no clients")?;
        let (store, ledger) = (client.store(), std::mem::take(&mut self.ledger));
        client.run(async move {
            let read = async {
                let mut lost = Vec::new();
                for (key, word) in ledger {
                    let found = loop {
                        match store.get(&key).await {
                            Ok(fresh) => break fresh.value.map(|record| record.value),
                            Err(_) => sleep(AGAIN).await,
                        }
                    };
                    if found != word {
                        lost.push(format!("{key:?} held {word:?} after its round, and {found:?} at the end"));
                    }
                }
                lost
            };
            timeout(PATIENCE, read).await.context("the cluster does not answer at the end")
        })?
    }
}

/// Writes a history for people and programs.
fn keep(path: &Path, recording: &Recording, violations: &[String]) -> Result<()> {
    let watches = recording.watches().iter().map(|watched| {
        let events: Vec<String> =
            watched.events.iter().map(|(at, event)| format!("{at}: {event:?}")).collect();
        json!({ "watch": watched.name, "since": watched.since.to_string(), "events": events })
    });
    let history = json!({
        "violations": violations,
        "calls": recording.lines().collect::<Vec<_>>(),
        "watches": watches.collect::<Vec<_>>(),
    });
    fs::write(path, format!("{history:#}")).with_context(|| format!("cannot write {}", path.display()))
}
