//! What a voter does by itself: all of them keep the log short, the leader keeps the store tidy.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use mesh_core::{Clock, Instant, Revision, WallTime};
use openraft::async_runtime::watch::WatchReceiver;

use super::{
    group::Group,
    propose::{self, propose},
};
use crate::{
    Leadership, RegistryConfig,
    state::{Command, Reply, State, TRIMMED_MAX},
};

/// Sessions that one entry ends.
const EXPIRIES_MAX: usize = 1024;
/// Longest pause between two looks at the deadlines.
const LOOK: Duration = Duration::from_millis(100);
/// Pause after something did not work.
const PAUSE: Duration = Duration::from_millis(20);
/// Between two looks at the size of the log, and at what is too old.
const TIDY: Duration = Duration::from_secs(1);
/// A restore to which nothing was added for so long was given up.
const RESTORE_IDLE: Duration = Duration::from_secs(600);
/// Points of the history whose age is known.
const MARKS: u32 = 20;
/// Entries that a snapshot must be worth.
const SNAPSHOT_ENTRIES_MIN: u64 = 100;

/// Starts the tasks of a group. They end with it.
pub(super) fn start(group: &Arc<Group>, clock: &Arc<dyn Clock>, config: &RegistryConfig) {
    let (weak, held) = (Arc::downgrade(group), Arc::clone(clock));
    let mut metrics = group.raft.server_metrics();
    tokio::spawn(async move {
        let mut leader = None;
        loop {
            let Some(group) = weak.upgrade() else { return };
            let now = metrics.borrow_watched().current_leader;
            if now.is_some() && now != leader {
                leader = now;
                group.count_leader();
            }
            if group.leadership() == Leadership::Here {
                lead(&group, &*held).await;
            }
            drop(group);
            if metrics.changed().await.is_err() {
                return;
            }
        }
    });
    let (weak, clock, config) = (Arc::downgrade(group), Arc::clone(clock), config.clone());
    tokio::spawn(async move {
        let mut tidy = Tidy::default();
        loop {
            tokio::time::sleep(TIDY).await;
            let Some(group) = weak.upgrade() else { return };
            shorten(&group, &config).await;
            if group.leadership() == Leadership::Here {
                tidy.run(&group, &*clock, &config).await;
                give_way(&group).await;
            } else {
                tidy = Tidy::default();
            }
        }
    });
}

/// From an election to the end of this leadership.
pub(super) async fn lead(group: &Arc<Group>, clock: &dyn Clock) {
    // What leaders before this one committed is to be known first.
    while group.own_read_index().await.is_none() {
        if group.leadership() != Leadership::Here {
            // Whoever leads next here needs to know whose renewals it did not see.
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
    group.applied.elected();
    while group.leadership() == Leadership::Here {
        let due = group.applied.due(EXPIRIES_MAX);
        if due.is_empty() {
            let next = group.applied.next_deadline().map(|deadline| deadline.since(clock.now()));
            tokio::time::sleep(next.unwrap_or(LOOK).clamp(Duration::from_millis(1), LOOK)).await;
            continue;
        }
        if propose::write(group, Command::Expire(due)).await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Takes a snapshot if the log has grown too large in bytes, and drops what a snapshot has.
async fn shorten(group: &Group, config: &RegistryConfig) {
    if group.log.bytes() < config.snapshot_bytes {
        return;
    }
    let (applied, snapshot) = {
        let metrics = group.raft.metrics();
        let metrics = metrics.borrow_watched();
        (metrics.last_applied.map(|id| id.index), metrics.snapshot.map(|id| id.index))
    };
    let (Some(applied), since) = (applied, snapshot.map_or(0, |index| index + 1)) else { return };
    // Either is only asked for; what does not come about is asked for again.
    let _ = if applied >= since + SNAPSHOT_ENTRIES_MIN {
        group.raft.trigger().snapshot().await
    } else if let Some(snapshot) = snapshot {
        group.raft.trigger().purge_log(snapshot).await
    } else {
        Ok(())
    };
}

/// A leader whose disk is full lets another lead that has space.
async fn give_way(group: &Group) {
    if group.log.full().is_some()
        && let Some(successor) = group.successor()
    {
        tracing::info!(successor, "the disk is full here, another voter is to lead");
        // If it does not come about, the next look asks again.
        let _ = group.raft.trigger().transfer_leader(successor).await;
    }
}

/// What the leader remembers to tell what is too old.
#[derive(Default)]
pub(super) struct Tidy {
    /// Revisions and when they were the newest, oldest first.
    marks: VecDeque<(Instant, Revision)>,
    audited: Option<Instant>,
    /// The restore under way, how far it is, and since when.
    staged: Option<((u64, u64), Instant)>,
}

impl Tidy {
    pub(super) async fn run(&mut self, group: &Arc<Group>, clock: &dyn Clock, config: &RegistryConfig) {
        let now = clock.now();
        let (revision, compacted) = group.applied.read(|state| (state.revision(), state.compacted()));
        if self.marks.back().is_none_or(|(at, _)| now.since(*at) >= config.history_retention / MARKS) {
            self.marks.push_back((now, revision));
        }
        let mut old = None;
        while self.marks.front().is_some_and(|(at, _)| now.since(*at) >= config.history_retention) {
            old = self.marks.pop_front();
        }
        if let Some((_, through)) = old.filter(|(_, through)| *through > compacted) {
            // What fails is done with the next mark.
            let _ = propose(group, Command::Compact(through)).await;
        }
        self.look_at_restore(group, now).await;
        let pause = (config.audit_retention / MARKS).min(Duration::from_secs(3600));
        if self.audited.is_none_or(|at| now.since(at) >= pause) {
            let age_ms = u64::try_from(config.audit_retention.as_millis()).unwrap_or(u64::MAX);
            let before = WallTime(clock.wall().0.saturating_sub(age_ms));
            let trimmed = propose(group, Command::TrimAudit(before)).await;
            // As long as there are more, the next look goes on.
            if !matches!(trimmed, Ok(Reply::Trimmed(count)) if count >= TRIMMED_MAX) {
                self.audited = Some(now);
            }
        }
    }

    /// Every voter keeps the pieces of a restore, in memory and in its snapshots, until it ends.
    async fn look_at_restore(&mut self, group: &Arc<Group>, now: Instant) {
        let staged = group.applied.read(State::staged);
        match (staged, self.staged) {
            (Some((id, bytes)), Some((before, since))) if (id, bytes) == before => {
                if now.since(since) >= RESTORE_IDLE {
                    // What fails is done at the next look.
                    let _ = propose(group, Command::RestoreDrop { id, bytes }).await;
                }
            }
            _ => self.staged = staged.map(|staged| (staged, now)),
        }
    }
}
