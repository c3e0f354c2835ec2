//! Messages, jobs and timers: what replicas want done, and what comes of it.

use std::{hash::Hash, time::Duration};

use mesh_core::Instant;
use mesh_sync::replica::{Message, Transmit};

use super::{EFFECTS_MAX, Event, Pending, Violation, World, at_of, name};

impl World<'_> {
    pub(super) fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Arrives { from, to, epoch, dataset, bytes } => {
                let pair = (from.min(to), from.max(to));
                if self.epochs.get(&pair) != Some(&epoch) || self.cut.contains(&pair) || !self.nodes[to].up {
                    return Ok(());
                }
                (from, to, dataset, &bytes, self.now.as_nanos()).hash(&mut self.trace);
                let now = self.now_of(to);
                let message = Message::decode(&bytes)
                    .map_err(|error| self.broken(("what a replica writes can be read", error.to_string())))?;
                self.nodes[to].parts[dataset].replica.handle_message(now, &name(from), message);
                self.drain(to)
            }
            Event::JobEnds { node, run, dataset, id, work } => {
                if self.nodes[node].run != run || !self.nodes[node].up {
                    return Ok(());
                }
                let now = self.now_of(node);
                let part = &mut self.nodes[node].parts[dataset];
                let result = match *work {
                    Pending::ToDo(work) => work.perform(&*part.store),
                    Pending::Done(result) => result,
                };
                part.replica.handle_done(now, id, result);
                self.drain(node)?;
                self.look_at_cursors(node, dataset)
            }
            Event::Timer { node, run, dataset } => {
                if self.nodes[node].run != run || !self.nodes[node].up {
                    return Ok(());
                }
                let now = self.now_of(node);
                let part = &mut self.nodes[node].parts[dataset];
                if part.timer != Some(self.now) {
                    return Ok(());
                }
                part.timer = None;
                part.replica.handle_timeout(now);
                self.drain(node)
            }
            Event::Write { node } => self.write(node),
            Event::Prune => self.prune(),
            Event::Fault => self.fault(),
            Event::CutEnds { a, b } => {
                self.cut.remove(&(a, b));
                self.reconnect(a, b)
            }
            Event::Notices { node, run, peer, epoch } => {
                let pair = (node.min(peer), node.max(peer));
                if self.nodes[node].run != run
                    || !self.nodes[node].up
                    || self.epochs.get(&pair) != Some(&epoch)
                {
                    return Ok(());
                }
                let now = self.now_of(node);
                for part in &mut self.nodes[node].parts {
                    part.replica.handle_disconnected(now, &name(peer));
                }
                self.drain(node)
            }
            Event::Restart { node } => {
                if self.nodes[node].up {
                    return Ok(());
                }
                self.start(node);
                for peer in 0..self.options.nodes {
                    if peer != node {
                        self.reconnect(node, peer)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Takes out what replicas want done, and looks at what they tell.
    pub(super) fn drain(&mut self, node: usize) -> Result<(), Violation> {
        for at in 0..self.options.datasets {
            let mut effects = 0;
            while let Some(transmit) = self.nodes[node].parts[at].replica.poll_transmit() {
                self.carry(node, at, transmit)?;
                effects += 1;
            }
            while let Some(job) = self.nodes[node].parts[at].replica.poll_job() {
                effects += 1;
                let run = self.nodes[node].run;
                // A write may be on disk long before its end is heard of, or not until then.
                let early = job.work.writes() && self.rng.bool();
                let work = match early {
                    true => Pending::Done(job.work.perform(&*self.nodes[node].parts[at].store)),
                    false => Pending::ToDo(job.work),
                };
                let ms = if self.faulty { self.options.disk_ms_max } else { 2 };
                let event = Event::JobEnds { node, run, dataset: at, id: job.id, work: Box::new(work) };
                self.push_in(0, ms, event);
            }
            while let Some(event) = self.nodes[node].parts[at].replica.poll_event() {
                self.look_at_event(node, at, event)?;
            }
            if effects > EFFECTS_MAX {
                return Err(self.broken(("a step has bounded effects", effects.to_string())));
            }
            let run = self.nodes[node].run;
            let part = &mut self.nodes[node].parts[at];
            let next = part.replica.poll_timeout().map(|next| next.max(self.now + Duration::from_millis(1)));
            if let Some(next) = next.filter(|next| part.timer.is_none_or(|timer| *next < timer)) {
                part.timer = Some(next);
                self.push(next, Event::Timer { node, run, dataset: at });
            }
        }
        Ok(())
    }

    fn carry(&mut self, from: usize, at: usize, Transmit { to, message }: Transmit) -> Result<(), Violation> {
        if let Message::Reconcile { frame, .. } = &message {
            self.nonces.on_frame(frame).map_err(|broken| self.broken(broken))?;
        }
        let to = at_of(&to);
        self.report.messages += 1;
        let pair = (from.min(to), from.max(to));
        let lost = self.faulty && self.rng.u32(0..100) < self.options.loss_percent;
        if lost || self.cut.contains(&pair) {
            return Ok(());
        }
        let Some(epoch) = self.epochs.get(&pair).copied() else { return Ok(()) };
        let ms = if self.faulty { self.options.latency_ms_max } else { 5 };
        let last = self.last.get(&(from, to)).copied().unwrap_or(Instant::ZERO);
        let arrives = (self.now + Duration::from_millis(self.rng.u64(1..=ms))).max(last);
        self.last.insert((from, to), arrives);
        if let Some(shown) = self.shown_from.filter(|shown| self.now >= *shown) {
            let text: String = format!("{message:?}").chars().take(200).collect();
            println!("{:>8} ms, set {at}: n{from} to n{to}: {text}", self.now.since(shown).as_millis());
        }
        let message = self.flip(message);
        self.push(arrives, Event::Arrives { from, to, epoch, dataset: at, bytes: message.encode() });
        Ok(())
    }

    /// Flips a bit of an entry, as a peer would that is broken.
    fn flip(&mut self, mut message: Message) -> Message {
        let Message::Entries { entries, .. } = &mut message else { return message };
        if self.faulty && !entries.is_empty() && self.rng.u32(0..1000) < self.options.flips_permille {
            let which = self.rng.usize(0..entries.len());
            let mut body = entries[which].1.to_vec();
            let at = self.rng.usize(0..body.len());
            body[at] ^= 1 << self.rng.u32(0..8);
            entries[which].1 = body.into();
            self.report.flips += 1;
        }
        message
    }
}
