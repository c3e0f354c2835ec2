//! A session of mesh-sync between two indexes.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_sync::reconcile::{EpochKey, Index, Nonce, Outcome, Session, SessionOptions};

use super::{Comparer, Sets, Taken, timed};

pub(super) struct Ours {
    a: Index,
    b: Index,
}

impl Comparer for Ours {
    const PREFIX: &'static str = "";

    fn new(sets: &Sets, run: usize) -> Result<Self> {
        let key = EpochKey::derive("bench", run as u64);
        let index = |items: &[mesh_sync::Item]| Index::from_sorted(key, items.iter().copied(), None);
        Ok(Self { a: index(&sets.a), b: index(&sets.b) })
    }

    fn compare(&mut self, sets: &Sets, run: usize) -> Result<Taken> {
        let (a, b) = (&self.a, &self.b);
        let nonce = |side: u8| {
            let mut nonce = [side; 16];
            nonce[..8].copy_from_slice(&(run as u64).to_le_bytes());
            Nonce(nonce)
        };
        let mut cpu = Duration::ZERO;
        let mut us = timed(&mut cpu, || Session::initiate(a, SessionOptions::default(), nonce(1)));
        let mut them = Session::respond(SessionOptions::default(), nonce(2));
        let (mut bytes, mut session_bytes) = (0, 0);
        loop {
            let up = timed(&mut cpu, || drain(&mut us));
            timed(&mut cpu, || up.iter().try_for_each(|frame| them.handle_frame(b, frame)))?;
            let down = timed(&mut cpu, || drain(&mut them));
            timed(&mut cpu, || down.iter().try_for_each(|frame| us.handle_frame(a, frame)))?;
            let said: usize = up.iter().chain(&down).map(Vec::len).sum();
            bytes += said as u64;
            session_bytes = session_bytes.max(said + us.memory_bytes() + them.memory_bytes());
            if said == 0 {
                break;
            }
        }
        let round_trips = us.cost().round_trips;
        let gives = |outcome: Option<Outcome>, index: &Index| outcome.map(|it| it.give_all(index));
        ensure!(
            gives(us.into_outcome(), a).as_ref() == Some(&sets.only_a),
            "what one gives is not what it has more"
        );
        ensure!(gives(them.into_outcome(), b).as_ref() == Some(&sets.only_b), "nor is what the other gives");
        Ok(Taken { bytes, round_trips, cpu, session_bytes })
    }
}

fn drain(session: &mut Session) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| session.poll_transmit()).collect()
}
