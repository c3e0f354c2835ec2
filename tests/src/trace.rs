//! What happened in a run: a hash to compare two runs, and lines to read.

use std::{fmt, io::Write};

use mesh_core::Instant;
use xxhash_rust::xxh3::Xxh3Default;

/// Collects every event of a run.
///
/// Two runs of one seed have the same [`hash`](Self::hash); if they do not,
/// something in a core or in the simulator depends on more than the seed.
pub struct Trace {
    hash: Xxh3Default,
    events: u64,
    lines: Option<Box<dyn Write>>,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "trace of {} events, hash {:016x}", self.events, self.hash())
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self { hash: Xxh3Default::new(), events: 0, lines: None }
    }
}

impl Trace {
    /// A trace that also writes a line for each event.
    pub fn with_lines(lines: Box<dyn Write>) -> Self {
        Self { lines: Some(lines), ..Self::default() }
    }

    /// Takes one event: its time, a tag for its kind, three numbers and its payload.
    pub(crate) fn record(&mut self, at: Instant, kind: u8, numbers: [u64; 3], payload: &[u8]) {
        self.events += 1;
        let mut head = [0u8; 33];
        let (time, rest) = head.split_at_mut(8);
        time.copy_from_slice(&at.as_nanos().to_le_bytes());
        for (slot, number) in rest.chunks_exact_mut(8).zip(numbers) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        head[32] = kind;
        self.hash.update(&head);
        self.hash.update(payload);
    }

    /// Writes a line, if this trace keeps lines. A file that can't be written ends the lines, not the run.
    pub(crate) fn line(&mut self, at: Instant, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            let seconds = at.as_nanos() as f64 / 1e9;
            if writeln!(lines, "{seconds:>12.6} {}", text()).is_err() {
                self.lines = None;
            }
        }
    }

    /// Whether lines are written.
    pub(crate) fn has_lines(&self) -> bool {
        self.lines.is_some()
    }

    /// The hash of all events so far.
    pub fn hash(&self) -> u64 {
        self.hash.digest()
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_payload_change_the_hash() {
        let run = |events: &[(u64, &[u8])]| {
            let mut trace = Trace::default();
            for (at, payload) in events {
                trace.record(Instant::from_nanos(*at), 1, [0; 3], payload);
            }
            trace.hash()
        };
        let one = run(&[(1, b"a"), (1, b"b")]);
        assert_eq!(one, run(&[(1, b"a"), (1, b"b")]));
        assert_ne!(one, run(&[(1, b"b"), (1, b"a")]));
        assert_ne!(one, run(&[(1, b"a"), (2, b"b")]));
    }
}
