//! What a voter does by itself while it leads.

use std::{sync::Arc, time::Duration};

use mesh_core::Clock;
use openraft::async_runtime::watch::WatchReceiver;

use super::{group::Group, propose};
use crate::{Leadership, state::Command};

/// Sessions that one entry ends.
const EXPIRIES_MAX: usize = 1024;
/// Longest pause between two looks at the deadlines.
const LOOK: Duration = Duration::from_millis(100);
/// Pause after something did not work.
const PAUSE: Duration = Duration::from_millis(20);

/// Starts the tasks of a group. They end with it.
pub(super) fn start(group: &Arc<Group>, clock: &Arc<dyn Clock>) {
    let (weak, clock) = (Arc::downgrade(group), Arc::clone(clock));
    let mut metrics = group.raft.server_metrics();
    tokio::spawn(async move {
        loop {
            let Some(group) = weak.upgrade() else { return };
            if group.leadership() == Leadership::Here {
                lead(&group, &*clock).await;
            }
            drop(group);
            if metrics.changed().await.is_err() {
                return;
            }
        }
    });
}

/// From an election to the end of this leadership.
async fn lead(group: &Arc<Group>, clock: &dyn Clock) {
    // What leaders before this one committed is to be known first.
    while group.leadership() == Leadership::Here {
        if group.own_read_index().await.is_some() {
            break;
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
