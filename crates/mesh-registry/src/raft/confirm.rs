//! Whether this node still leads: asked before each linearizable read, of most voters.
//!
//! A leader's own copy holds everything that it acknowledged, and everything that leaders before it did
//! once it has applied an entry of its own. What it can't know by itself is whether another leads by now.
//! Nobody can without most votes; so a round asks voters for the newest ballot that they have promised to
//! keep to, and succeeds if most of them, at a time after the read began, had promised none but this
//! leader's. (Raft, dissertation, section 6.4; no clock is involved.)
//!
//! The promise is noted before a vote is written, let alone answered, and is read without asking openraft's
//! own task. Reads that come while a round is under way share the next one.
//!
//! One thing more: followers may apply an entry, and show it, before the leader has applied it itself. So the
//! leader's read waits for all that it has told others to be committed ([`Told`](super::network::Told)).

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use mesh_transport::rpc::Lane;
use openraft::{ServerState, async_runtime::watch::WatchReceiver};
use tokio::sync::oneshot;

use super::{
    codec,
    group::Group,
    types::{Membership, Vote},
};
use crate::wire::{self, raft_client::RaftClient};

/// How long the voters that answered last are given before the others are asked as well.
const HEDGE: Duration = Duration::from_millis(5);
/// Longest round.
const ROUND_TIMEOUT: Duration = Duration::from_millis(500);

/// The rounds of one group.
#[derive(Default)]
pub(super) struct Rounds {
    state: Mutex<State>,
    /// The voter that answered first in the last round, so that it is asked first in the next.
    quickest: AtomicU64,
}

#[derive(Default)]
struct State {
    under_way: bool,
    /// Who waits for the next round.
    waiting: Vec<oneshot::Sender<bool>>,
}

impl Rounds {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes those who wait. If there are none, no round is under way any more.
    fn next(&self) -> Option<Vec<oneshot::Sender<bool>>> {
        let mut state = self.lock();
        state.under_way = !state.waiting.is_empty();
        state.under_way.then(|| std::mem::take(&mut state.waiting))
    }
}

/// A round that its caller runs. When it ends, or the caller goes away, the next one begins.
struct Running<'g>(&'g Arc<Group>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let Some(waiting) = self.0.rounds.next() else { return };
        let group = Arc::clone(self.0);
        // Not on the reader's, which may end, or be none: then nobody would ask again.
        self.0.runtime.spawn(async move {
            let mut next = Some(waiting);
            while let Some(waiting) = next {
                let confirmed = round(&group).await;
                for reader in waiting {
                    // Who asked may be gone.
                    let _ = reader.send(confirmed);
                }
                next = group.rounds.next();
            }
        });
    }
}

/// Whether the group's node here led at some moment after this call.
pub(super) async fn confirm(group: &Arc<Group>) -> bool {
    let waiting = {
        let mut state = group.rounds.lock();
        if state.under_way {
            let (told, waiting) = oneshot::channel();
            state.waiting.push(told);
            Some(waiting)
        } else {
            state.under_way = true;
            None
        }
    };
    match waiting {
        Some(waiting) => waiting.await.unwrap_or(false),
        None => {
            let running = Running(group);
            let confirmed = round(group).await;
            drop(running);
            confirmed
        }
    }
}

/// The ballot by which this node leads.
pub(super) fn own_ballot(group: &Group) -> Option<Vote> {
    let metrics = group.raft.server_metrics();
    let metrics = metrics.borrow_watched();
    let leads = metrics.state == ServerState::Leader
        && metrics.vote.committed
        && metrics.vote.leader_id.node_id == group.seat.id;
    leads.then_some(metrics.vote)
}

/// Whether no newer ballot than ours was promised.
pub(super) fn keeps_to(promise: Option<&Vote>, ours: &Vote) -> bool {
    promise.is_none_or(|promise| promise.leader_id <= ours.leader_id)
}

fn is_quorum(membership: &Membership, confirmed: &BTreeSet<u64>) -> bool {
    let majority = |set: &BTreeSet<u64>| set.intersection(confirmed).count() * 2 > set.len();
    membership.get_joint_config().iter().all(majority)
}

/// Asks voters once.
async fn round(group: &Group) -> bool {
    let Some(ours) = own_ballot(group) else { return false };
    let membership = group.membership();
    let mut confirmed = BTreeSet::from([group.seat.id]);
    if !is_quorum(&membership, &confirmed) {
        let asking = ask_voters(group, &ours, &membership, &mut confirmed);
        if tokio::time::timeout(ROUND_TIMEOUT, asking).await.is_err() {
            return false;
        }
    }
    is_quorum(&membership, &confirmed) && keeps_to(group.log.promise().as_ref(), &ours)
}

/// Asks as many voters as are needed, and the others if those do not answer at once.
async fn ask_voters(group: &Group, ours: &Vote, membership: &Membership, confirmed: &mut BTreeSet<u64>) {
    let quickest = group.rounds.quickest.load(Ordering::Relaxed);
    let mut others: Vec<u64> = membership.voter_ids().filter(|id| *id != group.seat.id).collect();
    others.sort_by_key(|id| *id != quickest);
    let needed = match &membership.get_joint_config()[..] {
        [voters] => voters.len() / 2,
        _ => others.len(),
    };
    let mut later = others.split_off(needed.min(others.len()));
    let mut asked: FuturesUnordered<_> = others.into_iter().map(|id| ask(group, id)).collect();
    let mut hedge = std::pin::pin!(tokio::time::sleep(HEDGE));
    let mut hedged = false;
    loop {
        let more = tokio::select! {
            biased;
            Some((id, promise)) = asked.next() => {
                let keeps = promise.is_some_and(|promise| keeps_to(promise.as_ref(), ours));
                if keeps {
                    if confirmed.len() == 1 {
                        group.rounds.quickest.store(id, Ordering::Relaxed);
                    }
                    confirmed.insert(id);
                    if is_quorum(membership, confirmed) {
                        return;
                    }
                }
                !keeps
            }
            () = &mut hedge, if !hedged => {
                hedged = true;
                true
            }
            else => return,
        };
        if more {
            asked.extend(later.drain(..).map(|id| ask(group, id)));
        }
    }
}

/// What a voter has promised; `None` if it does not answer.
async fn ask(group: &Group, id: u64) -> (u64, Option<Option<Vote>>) {
    let answer = async {
        let channel = group.peers.channel(&group.node_of(id)?, Lane::Heartbeat).ok()?;
        let head = wire::RaftHead { group: group.seat.group.to_bytes(), from: group.seat.id, to: id };
        let asked = wire::RaftConfirm { head: Some(head) };
        let reply = RaftClient::new(channel).confirm(asked).await.ok()?.into_inner();
        Some(reply.promised.map(codec::ballot_from))
    };
    (id, answer.await)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::raft::types::Voter;

    #[test]
    fn most_of_each_set_must_confirm() {
        let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
        let nodes: BTreeMap<u64, Voter> = (1..=5).map(|id| (id, Voter::default())).collect();
        let joint = Membership::new(vec![set(&[1, 2, 3]), set(&[3, 4, 5])], nodes).expect("valid");
        assert!(!is_quorum(&joint, &set(&[1, 2])));
        assert!(!is_quorum(&joint, &set(&[1, 2, 3])));
        assert!(is_quorum(&joint, &set(&[1, 3, 4])));
        let (ours, older, newer) = (Vote::new_committed(5, 1), Vote::new(4, 3), Vote::new(5, 2));
        assert!(keeps_to(None, &ours) && keeps_to(Some(&older), &ours) && keeps_to(Some(&ours), &ours));
        assert!(!keeps_to(Some(&newer), &ours));
    }
}
