//! What goes wrong in a run, what people do meanwhile, and how it ends.

use mesh_leader::{Command as LeaderCommand, OpId, Order};
use mesh_registry::state::{Command, SnapshotWriter};

use super::{
    super::{
        options::ElectionFaultKind,
        store::{Purpose, VOTERS, name},
    },
    Happening, World,
};
use crate::Violation;

impl World<'_> {
    pub(super) fn fault(&mut self, index: usize) -> Result<(), Violation> {
        let kind = self.options.faults[index].kind;
        self.trace.line(self.now, || format!("fault: {kind:?}"));
        match kind {
            ElectionFaultKind::CrashNode(node) => self.kill(node),
            ElectionFaultKind::PauseNode(node) => self.nodes[node].paused = true,
            ElectionFaultKind::CutNode(node) => self.nodes[node].cut = true,
            ElectionFaultKind::FalseDeath(node) => self.hint(node, true)?,
            ElectionFaultKind::CrashVoter(voter) => {
                self.store.voters[voter].up = false;
                if self.store.leader == Some(voter) {
                    let kept = self.kept();
                    self.lose_store_leader(kept);
                }
            }
            ElectionFaultKind::CrashStoreLeader
            | ElectionFaultKind::PauseStoreLeader
            | ElectionFaultKind::CutStoreLeader => {
                if let Some(leader) = self.store.leader {
                    let voter = &mut self.store.voters[leader];
                    match kind {
                        ElectionFaultKind::CrashStoreLeader => voter.up = false,
                        ElectionFaultKind::PauseStoreLeader => voter.paused = true,
                        _ => voter.cut = true,
                    }
                    let kept = self.kept();
                    self.lose_store_leader(kept);
                }
            }
            ElectionFaultKind::StepDown(node, scope) => self.hand_over(node, scope, None)?,
            ElectionFaultKind::Transfer(node, scope) => {
                let to = self.rng.usize(0..self.nodes.len());
                self.hand_over(node, scope, Some(to))?;
            }
            ElectionFaultKind::Drain(node) => {
                let op = self.op();
                self.command(node, LeaderCommand::Drain { op })?;
            }
            ElectionFaultKind::Compact => {
                let through = self.store.state.revision();
                self.append(&Command::Compact(through), Purpose::Own);
            }
            ElectionFaultKind::Restore => {
                let snapshot = SnapshotWriter::new(self.store.state.clone()).flatten().collect();
                self.snapshots.insert(index, snapshot);
            }
            ElectionFaultKind::LoseRenewal(node) => drop(self.doomed.insert(node)),
            ElectionFaultKind::LateRenewal(node) => drop(self.held.entry(node).or_default()),
        }
        Ok(())
    }

    pub(super) fn fault_ends(&mut self, index: usize) -> Result<(), Violation> {
        let kind = self.options.faults[index].kind;
        self.trace.line(self.now, || format!("over: {kind:?}"));
        match kind {
            ElectionFaultKind::CrashNode(node) if self.nodes[node].core.is_none() => self.start(node)?,
            ElectionFaultKind::PauseNode(node) => self.resume(node)?,
            ElectionFaultKind::CutNode(node) => self.nodes[node].cut = false,
            ElectionFaultKind::FalseDeath(node) => self.hint(node, false)?,
            ElectionFaultKind::Drain(node) => self.command(node, LeaderCommand::Undrain)?,
            ElectionFaultKind::CrashVoter(_)
            | ElectionFaultKind::CrashStoreLeader
            | ElectionFaultKind::PauseStoreLeader
            | ElectionFaultKind::CutStoreLeader => self.mend_voters(),
            ElectionFaultKind::Restore => self.restore(index),
            // If no renewal came, nothing happened.
            ElectionFaultKind::LoseRenewal(node) if !self.doomed.remove(&node) => {
                self.nodes[node].cut = false;
                self.mend_voters();
            }
            ElectionFaultKind::LateRenewal(node) => self.arrive_at_last(node),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn resume(&mut self, node: usize) -> Result<(), Violation> {
        if !std::mem::take(&mut self.nodes[node].paused) {
            return Ok(());
        }
        // The program runs first, and the core has not heard of anything yet.
        self.work(node)?;
        self.check_acting()?;
        let waiting = std::mem::take(&mut self.nodes[node].waiting);
        for happening in waiting {
            match happening {
                Happening::Timer { run, .. } => self.step(node, run, None)?,
                Happening::Input { run, input, .. } => self.step(node, run, Some(input))?,
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn mend_voters(&mut self) {
        for at in 0..VOTERS {
            if !self.store.voters[at].takes_part() {
                self.store.voter_is_back(self.now, at);
            }
        }
        if self.store.leader.is_some() {
            self.schedule_commit();
        }
    }

    pub(super) fn restore(&mut self, index: usize) {
        let Some(snapshot) = self.snapshots.remove(&index) else { return };
        let (id, bytes) = (index as u64 + 1, snapshot.len() as u64);
        let xxh3 = xxhash_rust::xxh3::xxh3_64(&snapshot);
        let chunk = Command::RestoreChunk { id, offset: 0, data: snapshot.into() };
        let end = Command::RestoreEnd { id, bytes, xxh3 };
        self.append(&Command::Batch(vec![chunk]), Purpose::Own);
        self.append(&end, Purpose::Own);
    }

    pub(super) fn hand_over(
        &mut self,
        node: usize,
        scope: usize,
        to: Option<usize>,
    ) -> Result<(), Violation> {
        let (op, scope) = (self.op(), self.scopes[scope].clone());
        let order = Order { by: "somebody".into(), reason: "a trial".into() };
        self.command(node, LeaderCommand::HandOver { op, scope, to: to.map(name), order })
    }

    /// How many entries that were not committed the other voters have.
    fn kept(&mut self) -> usize {
        self.rng.usize(0..=self.store.log_len())
    }

    pub(super) fn op(&mut self) -> OpId {
        self.ops += 1;
        OpId(self.ops)
    }

    pub(super) fn end_faults(&mut self) -> Result<(), Violation> {
        self.trace.line(self.now, || "faults end".into());
        self.faulty = false;
        self.doomed.clear();
        self.mend_voters();
        for node in 0..self.nodes.len() {
            self.arrive_at_last(node);
            self.nodes[node].cut = false;
            self.resume(node)?;
            if self.nodes[node].core.is_none() {
                self.start(node)?;
            } else {
                self.command(node, LeaderCommand::Undrain)?;
            }
            self.hint(node, false)?;
        }
        Ok(())
    }
}
