//! What watches must deliver: everything, once, in order, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mesh_core::{
    Revision,
    store::{Change, DeleteCause, Key, Prefix, WatchEvent},
};

use super::Moment;

/// What a transaction did to one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The key.
    pub key: Key,
    /// The new value; `None` if it was deleted, or was not there to be deleted.
    pub value: Option<Bytes>,
    /// Whether the record goes with a session, and so may vanish without a transaction.
    pub session: bool,
}

/// A transaction as its client saw it. One that was refused is no commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// When it was sent.
    pub call: Moment,
    /// Its revision; `None` if the outcome is unknown.
    pub revision: Option<Revision>,
    /// What it did. Unknown outcomes are told apart by it, so values should be unique.
    pub changes: Vec<Changed>,
}

/// What one watch delivered. A watch that was resumed is several of these.
#[derive(Clone, Debug)]
pub struct Watched {
    /// For people.
    pub name: String,
    /// What was watched.
    pub prefix: Prefix,
    /// Everything after this revision was asked for; `None` for everything from `since` on.
    pub after: Option<Revision>,
    /// When the watch stood.
    pub since: Moment,
    /// Whether older changes of a key may be dropped for newer ones.
    pub latest: bool,
    /// What came and when.
    pub events: Vec<(Moment, WatchEvent)>,
}

/// What is wrong with a watch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("watch {watch}: {problem}")]
pub struct WatchFault {
    /// Which.
    pub watch: String,
    /// What.
    pub problem: String,
}

/// Checks what watches delivered against what was committed.
///
/// # Errors
///
/// The first rule that a watch broke.
pub fn check_watches(commits: &[Commit], watches: &[Watched]) -> Result<(), WatchFault> {
    let fault = |watched: &Watched, problem| WatchFault { watch: watched.name.clone(), problem };
    let mut known = Known::new(commits);
    let mut all = Vec::with_capacity(watches.len());
    for watched in watches {
        all.push(known.delivered(watched).map_err(|problem| fault(watched, problem))?);
    }
    // Only now, when it is known which unknown outcomes any of them has seen.
    for (watched, delivered) in watches.iter().zip(&all) {
        known.complete(watched, delivered).map_err(|problem| fault(watched, problem))?;
    }
    Ok(())
}

/// What is known of the revisions.
struct Known<'c> {
    /// One that changed nothing carries a revision that another one made.
    acknowledged: BTreeMap<Revision, Vec<&'c Commit>>,
    /// Unknown outcomes that no watch has shown yet.
    unknown: Vec<&'c Commit>,
    /// Keys that an unknown outcome may have changed.
    uncertain: BTreeSet<&'c Key>,
    /// Keys that at some time went with a session.
    in_sessions: BTreeSet<&'c Key>,
}

/// What one watch delivered.
#[derive(Default)]
struct Delivered {
    /// By revision, the keys.
    keys: BTreeMap<Revision, BTreeSet<Key>>,
    /// Revisions that it said may be missing, ends included.
    gaps: Vec<(Revision, Revision)>,
    /// Everything up to here was delivered, as far as it said.
    upto: Option<Revision>,
}

impl<'c> Known<'c> {
    fn new(commits: &'c [Commit]) -> Self {
        let mut known = Self {
            acknowledged: BTreeMap::new(),
            unknown: Vec::new(),
            uncertain: BTreeSet::new(),
            in_sessions: BTreeSet::new(),
        };
        for commit in commits {
            match commit.revision {
                Some(revision) => known.acknowledged.entry(revision).or_default().push(commit),
                None => {
                    known.unknown.push(commit);
                    known.uncertain.extend(commit.changes.iter().map(|changed| &changed.key));
                }
            }
            let attached = commit.changes.iter().filter(|changed| changed.session);
            known.in_sessions.extend(attached.map(|changed| &changed.key));
        }
        known
    }

    /// Checks the events one by one: order, and that each was committed as it was delivered.
    fn delivered(&mut self, watched: &Watched) -> Result<Delivered, String> {
        let mut delivered = Delivered::default();
        // Everything up to `last` is behind us.
        let mut last = watched.after;
        for (at, event) in &watched.events {
            match event {
                WatchEvent::Changes { revision, changes } => {
                    if last.is_some_and(|last| *revision <= last) {
                        return Err(format!(
                            "revision {revision} came at {at}, after everything up to {} had come",
                            last.unwrap_or_default()
                        ));
                    }
                    check_shape(watched, *revision, changes)?;
                    self.explain(watched, *at, *revision, changes)?;
                    let keys = changes.iter().map(|change| change.key().clone()).collect();
                    delivered.keys.insert(*revision, keys);
                    last = Some(*revision);
                }
                WatchEvent::Bookmark { revision } => {
                    if last.is_some_and(|last| *revision < last) {
                        return Err(format!(
                            "a bookmark at {revision} came after revision {}",
                            last.unwrap_or_default()
                        ));
                    }
                    last = Some(*revision);
                }
                WatchEvent::Gap { from, to } => {
                    if from > to || last.is_some_and(|last| *to < last) {
                        return Err(format!("a gap from {from} to {to} came after {last:?}"));
                    }
                    delivered.gaps.push((*from, *to));
                    last = Some(*to);
                }
            }
        }
        delivered.upto = last;
        Ok(delivered)
    }

    /// Finds what made `revision`, and checks that it was delivered as it was made.
    fn explain(
        &mut self,
        watched: &Watched,
        at: Moment,
        revision: Revision,
        changes: &[Change],
    ) -> Result<(), String> {
        if watched.prefix.as_str().starts_with(Key::RESERVED) {
            return Ok(());
        }
        let fits = |commit: &&Commit| commit.call <= at && changes.iter().all(|change| did(commit, change));
        if let Some(commits) = self.acknowledged.get(&revision) {
            if commits.iter().any(fits) {
                return Ok(());
            }
            if let Some(maker) =
                commits.iter().find(|commit| commit.changes.iter().any(|c| c.value.is_some()))
            {
                return Err(format!(
                    "revision {revision} came at {at} as {changes:?}, but was sent at {} as {:?}",
                    maker.call, maker.changes
                ));
            }
        }
        if let Some(index) = self.unknown.iter().position(fits) {
            // It did take effect, and every other watch must agree.
            let commit = self.unknown.remove(index);
            self.acknowledged.entry(revision).or_default().push(commit);
            return Ok(());
        }
        let spontaneous = |change: &Change| match change {
            Change::Deleted { key, cause } => {
                *cause != DeleteCause::Written
                    && (self.in_sessions.contains(key) || *cause == DeleteCause::Restored)
            }
            Change::Put(_) => false,
        };
        if changes.iter().all(spontaneous) {
            return Ok(());
        }
        Err(format!("revision {revision} has {changes:?}, which nobody wrote"))
    }

    /// Checks that nothing acknowledged is missing.
    fn complete(&self, watched: &Watched, delivered: &Delivered) -> Result<(), String> {
        let Some(upto) = delivered.upto else { return Ok(()) };
        // The newest revision before the one looked at that wrote the key, to know whether it was there.
        let mut present: BTreeMap<&Key, bool> = BTreeMap::new();
        let acknowledged = self.acknowledged.range(..=upto);
        for (revision, commit) in acknowledged.flat_map(|(r, commits)| commits.iter().map(move |c| (r, c))) {
            let asked = match watched.after {
                Some(after) => *revision > after,
                None => commit.call > watched.since,
            };
            let in_gap = delivered.gaps.iter().any(|(from, to)| (from..=to).contains(&revision));
            let came = delivered.keys.get(revision);
            for changed in &commit.changes {
                let was_there = present.insert(&changed.key, changed.value.is_some());
                if !asked || in_gap || !watched.prefix.covers(&changed.key) {
                    continue;
                }
                let certain = changed.value.is_some()
                    || was_there == Some(true)
                        && !self.uncertain.contains(&changed.key)
                        && !self.in_sessions.contains(&changed.key);
                let replaced = watched.latest && is_replaced(delivered, &changed.key, *revision);
                if certain && !replaced && !came.is_some_and(|keys| keys.contains(&changed.key)) {
                    return Err(format!(
                        "revision {revision} changed {:?} and did not come, although everything up to {upto} had",
                        changed.key
                    ));
                }
            }
        }
        Ok(())
    }
}

fn is_replaced(delivered: &Delivered, key: &Key, revision: Revision) -> bool {
    let newer = delivered.keys.range((std::ops::Bound::Excluded(revision), std::ops::Bound::Unbounded));
    newer.into_iter().any(|(_, keys)| keys.contains(key))
}

fn did(commit: &Commit, change: &Change) -> bool {
    commit.changes.iter().any(|changed| {
        changed.key == *change.key()
            && match change {
                Change::Put(record) => changed.value.as_ref() == Some(&record.value),
                Change::Deleted { cause, .. } => {
                    changed.value.is_none() && matches!(cause, DeleteCause::Written | DeleteCause::Unknown)
                }
            }
    })
}

fn check_shape(watched: &Watched, revision: Revision, changes: &[Change]) -> Result<(), String> {
    if changes.is_empty() {
        return Err(format!("revision {revision} came without a change"));
    }
    if let Some(pair) = changes.windows(2).find(|pair| pair[0].key() >= pair[1].key()) {
        return Err(format!(
            "revision {revision} has {:?} before {:?}: not in key order",
            pair[0].key(),
            pair[1].key()
        ));
    }
    for change in changes {
        if !watched.prefix.covers(change.key()) {
            return Err(format!(
                "revision {revision} has {:?}, which {:?} does not cover",
                change.key(),
                watched.prefix
            ));
        }
        if let Change::Put(record) = change
            && record.revision != revision
        {
            return Err(format!("revision {revision} has a record of revision {}", record.revision));
        }
    }
    Ok(())
}
