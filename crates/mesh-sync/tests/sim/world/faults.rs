//! What goes wrong, and its end.

use mesh_sync::store::EntryStore;

use super::{Event, Violation, World, name};

impl World<'_> {
    /// Faults end: everybody is up and connected.
    pub(super) fn calm(&mut self) -> Result<(), Violation> {
        self.faulty = false;
        self.cut.clear();
        for node in 0..self.options.nodes {
            if !self.nodes[node].up {
                self.start(node);
            }
        }
        for a in 0..self.options.nodes {
            for b in a + 1..self.options.nodes {
                self.reconnect(a, b)?;
            }
        }
        Ok(())
    }

    pub(super) fn fault(&mut self) -> Result<(), Violation> {
        if !self.faulty {
            return Ok(());
        }
        self.push_in(1, self.options.fault_every_ms * 2, Event::Fault);
        if self.options.retires && self.retired.is_empty() {
            return self.retire();
        }
        let node = self.rng.usize(0..self.options.nodes);
        match self.rng.u32(0..10) {
            _ if self.options.only_cuts => self.cut_off(node),
            0..=2 => self.cut_off(node),
            3..=5 => self.crash(node, false),
            6..=7 => self.crash(node, self.options.restores),
            _ => self.copy(node),
        }
        Ok(())
    }

    /// The node that prunes waits no more for another one, which is down or cut off or not, and comes back later.
    fn retire(&mut self) -> Result<(), Violation> {
        let node = self.rng.usize(1..self.options.nodes);
        self.crash(node, false);
        if !self.nodes[0].up {
            return Ok(());
        }
        self.retired.insert(node);
        self.report.retired += 1;
        let now = self.now_of(0);
        for part in &mut self.nodes[0].parts {
            part.replica.retire(now, &name(node));
        }
        self.drain(0)
    }

    pub(super) fn copy(&mut self, node: usize) {
        if self.options.restores {
            self.nodes[node].copy = Some(self.nodes[node].disk.copy());
        }
    }

    fn cut_off(&mut self, a: usize) {
        let b = self.rng.usize(0..self.options.nodes);
        let pair = (a.min(b), a.max(b));
        if a == b || !self.options.linked(a, b) || !self.cut.insert(pair) {
            return;
        }
        self.report.cuts += 1;
        let epoch = self.epochs.get(&pair).copied().unwrap_or(0);
        for (node, peer) in [(a, b), (b, a)] {
            let run = self.nodes[node].run;
            self.push_in(1, 3000, Event::Notices { node, run, peer, epoch });
        }
        self.push_in(1000, 20_000, Event::CutEnds { a: pair.0, b: pair.1 });
    }

    /// What was not committed is gone, and sometimes the disk is replaced by an older copy.
    fn crash(&mut self, node: usize, restore: bool) {
        if !self.nodes[node].up {
            return;
        }
        self.report.crashes += 1;
        self.nodes[node].up = false;
        for peer in 0..self.options.nodes {
            let pair = (node.min(peer), node.max(peer));
            if let Some(epoch) = self.epochs.get(&pair).copied().filter(|_| self.nodes[peer].up) {
                let run = self.nodes[peer].run;
                self.push_in(1, 1000, Event::Notices { node: peer, run, peer: node, epoch });
            }
        }
        if restore && let Some(copy) = self.nodes[node].copy.take() {
            self.report.restores += 1;
            self.nodes[node].restored = true;
            self.nodes[node].disk = copy;
            for at in 0..self.options.datasets {
                let stores: Vec<_> = (0..self.options.nodes).map(|other| self.store_of(other, at)).collect();
                let stores: Vec<&dyn EntryStore> = stores.iter().map(|store| &**store).collect();
                self.rules[at].on_restore(&stores);
            }
        }
        self.push_in(500, 10_000, Event::Restart { node });
    }
}
