//! What every node said, to its operator and in its log, as one picture to wait on.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    net::SocketAddr,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use anyhow::{Result, bail};
use mesh_core::{Clock, Instant, MemberState, SystemClock};
use mesh_gossip::api::{Peer, PeerChange, PeersSnapshot};
use serde_json::Value;

/// Log lines of each node in a picture of a failed wait.
const LINES_SHOWN: usize = 12;

/// The picture. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Board {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    boards: Mutex<Boards>,
    changed: Condvar,
}

/// What is on the board, by node.
#[derive(Debug, Default)]
pub struct Boards {
    observers: BTreeMap<String, Observer>,
}

/// One node: what its operator was told, and what its processes logged.
#[derive(Debug, Default)]
pub struct Observer {
    /// The members as the node sees them now.
    pub peers: BTreeMap<String, Peer>,
    /// Every change that it told of, over all of its runs, oldest first.
    pub events: Vec<Event>,
    /// Every line that it logged, over all of its runs, oldest first.
    pub log: Vec<LogLine>,
    /// Where the present run listens.
    pub addresses: Option<Addresses>,
    /// The present run said that it is ready.
    pub ready: bool,
    /// The process of the present run closed its output: it has ended.
    pub ended: bool,
}

/// Where a node listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// For nodes.
    pub mesh: SocketAddr,
    /// For operators.
    pub edge: SocketAddr,
}

/// A change that a node told of.
#[derive(Clone, Debug)]
pub struct Event {
    /// When we heard of it.
    pub at: Instant,
    /// What it was: `died`.
    pub change: String,
    /// Why: `probe-timeout`.
    pub reason: String,
    /// The member after it.
    pub peer: Peer,
}

/// A line of a log.
#[derive(Clone, Debug)]
pub struct LogLine {
    /// When we read it.
    pub at: Instant,
    /// As it was written.
    pub text: String,
    /// Its fields, if it is JSON.
    pub fields: Value,
}

impl LogLine {
    /// The level: `WARN`.
    pub fn level(&self) -> &str {
        self.fields["level"].as_str().unwrap_or_default()
    }
}

impl Boards {
    /// A node. One that was never started has told nothing.
    pub fn of(&self, observer: &str) -> &Observer {
        static NOTHING: Observer = Observer {
            peers: BTreeMap::new(),
            events: Vec::new(),
            log: Vec::new(),
            addresses: None,
            ready: false,
            ended: false,
        };
        self.observers.get(observer).unwrap_or(&NOTHING)
    }

    /// How one node sees another, if it lists it.
    pub fn peer(&self, observer: &str, peer: &str) -> Option<&Peer> {
        self.of(observer).peers.get(peer)
    }

    /// How one node sees another's state, if it lists it.
    pub fn state(&self, observer: &str, peer: &str) -> Option<MemberState> {
        self.peer(observer, peer).map(|peer| peer.state)
    }

    /// Whether each of these sees each of those in a state.
    pub fn all_see(&self, observers: &[&str], peers: &[&str], state: MemberState) -> bool {
        observers.iter().all(|observer| peers.iter().all(|peer| self.state(observer, peer) == Some(state)))
    }
}

impl Observer {
    /// The names of members in a state.
    pub fn names(&self, state: MemberState) -> Vec<&str> {
        self.peers.iter().filter(|(_, peer)| peer.state == state).map(|(name, _)| name.as_str()).collect()
    }

    /// The changes of one kind since a moment.
    pub fn changes(&self, change: &str, since: Instant) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |event| event.change == change && event.at >= since)
    }

    /// The log lines since a moment that have all of these in them.
    pub fn logged(&self, words: &[&str], since: Instant) -> impl Iterator<Item = &LogLine> {
        let fits = move |line: &&LogLine| words.iter().all(|word| line.text.contains(word));
        self.log.iter().filter(move |line| line.at >= since).filter(fits)
    }
}

impl Board {
    /// A look at it. Nothing changes while the guard lives.
    pub fn look(&self) -> MutexGuard<'_, Boards> {
        self.shared.boards.lock().expect("nobody panics while holding the board")
    }

    /// Waits until the board shows what is described, at most this long.
    ///
    /// # Errors
    ///
    /// It did not; the error has the whole picture.
    pub fn wait(&self, patience: Duration, what: &str, shows: impl Fn(&Boards) -> bool) -> Result<Duration> {
        let started = SystemClock.now();
        if self.shown_within(patience, shows) {
            return Ok(SystemClock.now().since(started));
        }
        bail!("waited {patience:?} until {what}; the board shows\n{}", *self.look())
    }

    /// Watches for a time, and sees that something does not happen.
    ///
    /// # Errors
    ///
    /// It happened; the error has the whole picture.
    pub fn never(&self, during: Duration, what: &str, shows: impl Fn(&Boards) -> bool) -> Result<()> {
        if self.shown_within(during, shows) {
            bail!("within {during:?} it happened that {what}; the board shows\n{}", *self.look());
        }
        Ok(())
    }

    fn shown_within(&self, limit: Duration, shows: impl Fn(&Boards) -> bool) -> bool {
        let board = self.look();
        let wait = self.shared.changed.wait_timeout_while(board, limit, |board| !shows(board));
        let (board, _) = wait.expect("nobody panics while holding the board");
        shows(&board)
    }

    /// A new run of a node begins: what the one before saw is no view any more.
    pub(super) fn run_begins(&self, node: &str) {
        self.change(node, |observer| {
            observer.peers.clear();
            observer.addresses = None;
            observer.ready = false;
            observer.ended = false;
        });
    }

    pub(super) fn run_ended(&self, node: &str) {
        self.change(node, |observer| observer.ended = true);
    }

    pub(super) fn listens(&self, node: &str, addresses: Addresses) {
        self.change(node, |observer| observer.addresses = Some(addresses));
    }

    pub(super) fn is_ready(&self, node: &str) {
        self.change(node, |observer| observer.ready = true);
    }

    pub(super) fn logged(&self, node: &str, text: String) {
        let fields = serde_json::from_str(&text).unwrap_or_default();
        let line = LogLine { at: SystemClock.now(), text, fields };
        self.change(node, |observer| observer.log.push(line));
    }

    pub(super) fn snapshot(&self, node: &str, snapshot: PeersSnapshot) {
        self.change(node, |observer| {
            if snapshot.part == 1 {
                observer.peers.clear();
            }
            observer.peers.extend(snapshot.items.into_iter().map(|peer| (peer.node_id.to_string(), peer)));
        });
    }

    pub(super) fn told(&self, node: &str, told: PeerChange) {
        let PeerChange { change, reason, peer, .. } = told;
        self.change(node, |observer| {
            let name = peer.node_id.to_string();
            if change == "reclaimed" {
                observer.peers.remove(&name);
            } else {
                observer.peers.insert(name, peer.clone());
            }
            observer.events.push(Event { at: SystemClock.now(), change, reason, peer });
        });
    }

    fn change(&self, node: &str, change: impl FnOnce(&mut Observer)) {
        change(self.look().observers.entry(node.to_owned()).or_default());
        self.shared.changed.notify_all();
    }
}

impl fmt::Display for Boards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, observer) in &self.observers {
            let run = match (observer.ended, observer.ready, observer.addresses) {
                (true, ..) => "ended",
                (_, true, _) => "ready",
                (.., Some(_)) => "listens",
                _ => "starts",
            };
            write!(f, "{name} ({run}) sees")?;
            for (peer, seen) in &observer.peers {
                let health = serde_json::to_string(&seen.health).unwrap_or_default();
                write!(f, " {peer}:{}:{}", seen.state, health.trim_matches('"'))?;
            }
            f.write_char('\n')?;
            let from = observer.log.len().saturating_sub(LINES_SHOWN);
            for line in &observer.log[from..] {
                writeln!(f, "    {}", line.text)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_the_change_and_a_failed_one_shows_the_board() {
        let board = Board::default();
        let other = board.clone();
        let writer = std::thread::spawn(move || {
            other.logged("a", r#"{"level":"WARN","message":"it burns"}"#.to_owned())
        });
        let burns = |boards: &Boards| boards.of("a").logged(&["burns"], Instant::ZERO).next().is_some();
        board.wait(Duration::from_secs(20), "it burns", burns).expect("it was logged");
        writer.join().expect("no panic");
        assert_eq!(board.look().of("a").log[0].level(), "WARN");
        let error = board
            .wait(Duration::ZERO, "b is ready", |boards| boards.of("b").ready)
            .expect_err("never started");
        assert!(
            error.to_string().contains("b is ready") && error.to_string().contains("it burns"),
            "{error}"
        );
        board.never(Duration::from_secs(20), "it burns", burns).expect_err("it does");
    }
}
