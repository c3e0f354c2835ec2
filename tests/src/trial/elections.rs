//! The one scope that processes of their own campaign for, as the store and they themselves tell of it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use mesh_core::{
    FencingToken, Instant, Revision,
    store::{Change, Key, Overflow, Prefix, SessionId, VersionedStore, WatchEvent, WatchFrom, WatchOptions},
};
use mesh_leader::{Scope, lease_key};
use tokio::{task::JoinHandle, time::sleep};

use super::client::Client;
use crate::harness::Boards;

/// The scope.
pub(super) const SCOPE: &str = "trial";
/// Pause before a watch is begun again.
const AGAIN: Duration = Duration::from_millis(20);

/// Everything that the store ever said of the scope's lease, judged as it comes.
pub(super) struct Tokens {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    holders: BTreeMap<FencingToken, Option<SessionId>>,
    upto: Option<Revision>,
    problems: Vec<String>,
}

impl Tokens {
    /// Follows the lease from now on.
    pub(super) fn follow(client: &Client) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let key = lease_key(&Scope::new(SCOPE).expect("a plain word"));
        let task = client.handle().spawn(follow(client.store(), key, Arc::clone(&seen)));
        Self { seen, task }
    }

    /// Rules that were broken since the last call.
    pub(super) fn problems(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.seen).problems)
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    // A reader after a panic elsewhere finds whole entries.
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn follow(store: Arc<dyn VersionedStore>, key: Key, seen: Arc<Mutex<Seen>>) {
    let prefix = Prefix::new(key.as_str()).expect("a key is a prefix");
    let options = WatchOptions { buffer_changes_max: 16_384, overflow: Overflow::Gap };
    loop {
        let from = lock(&seen).upto.map_or(WatchFrom::Now, WatchFrom::After);
        if let Ok(mut events) = store.watch(&prefix, from, options).await {
            while let Some(Ok(event)) = events.next().await {
                lock(&seen).event(&key, event);
            }
        }
        sleep(AGAIN).await;
    }
}

impl Seen {
    fn event(&mut self, lease: &Key, event: WatchEvent) {
        match event {
            WatchEvent::Changes { revision, changes } => {
                self.upto = Some(revision);
                for change in changes {
                    if let Change::Put(record) = change
                        && record.key == *lease
                    {
                        self.holds(record.token.unwrap_or_default(), record.session);
                    }
                }
            }
            WatchEvent::Bookmark { revision } => self.upto = Some(revision),
            WatchEvent::Gap { to, .. } => self.upto = Some(to),
        }
    }

    fn holds(&mut self, token: FencingToken, session: Option<SessionId>) {
        let highest = self.holders.last_key_value().map(|(token, _)| *token);
        if highest.is_some_and(|highest| token < highest) {
            self.problems.push(format!("token {token} of {SCOPE} came after {highest:?}"));
        }
        let before = *self.holders.entry(token).or_insert(session);
        if before != session {
            self.problems.push(format!("token {token} of {SCOPE} has two holders: {before:?}, {session:?}"));
        }
    }
}

/// When a process other than `than` first said, after this moment, that it was elected.
pub(super) fn elected(boards: &Boards, nodes: &[&str], than: &str, since: Instant) -> Option<Instant> {
    let others = nodes.iter().filter(|node| **node != than);
    let words = [r#""transition":"elected""#, &format!(r#""scope":"{SCOPE}""#)];
    others.filter_map(|node| boards.of(node).logged(&words, since).map(|line| line.at).next()).min()
}

/// Whether a process said, after this moment, that it is not the leader any more.
pub(super) fn deposed(boards: &Boards, node: &str, since: Instant) -> bool {
    let over = ["lost", "expired", "fenced", "observed", "stepped-down"];
    let scope = format!(r#""scope":"{SCOPE}""#);
    over.iter().any(|word| {
        let transition = format!(r#""transition":"{word}""#);
        boards.of(node).logged(&[&transition, &scope], since).next().is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_that_fall_or_have_two_holders_are_told() {
        let token = |counter| FencingToken { counter, ..FencingToken::default() };
        let mut seen = Seen::default();
        for (counter, session) in [(4, 1), (4, 1), (7, 2)] {
            seen.holds(token(counter), Some(SessionId(session)));
        }
        assert!(seen.problems.is_empty());
        seen.holds(token(7), Some(SessionId(3)));
        seen.holds(token(5), Some(SessionId(1)));
        assert_eq!(seen.problems.len(), 2, "{:?}", seen.problems);
    }
}
