//! Who should vote: one decision at a time, from what the leader sees. Pure.
//!
//! Voters are one, three or five, since an even number survives no more failures than the odd one below it.
//! A node that may carry the registry comes in as a *learner*, which gets the log and has no vote, and gets
//! one once it has caught up. A raft id belongs to one data directory: a node whose directory was wiped
//! loses its old id first and comes in under a new one.

use std::{collections::BTreeSet, time::Duration};

use mesh_core::NodeId;

/// Learners beyond the voters that are wanted: those that take over when a voter dies.
const SPARES_MAX: usize = 2;
/// A node that has not answered for so long has no vote given to it.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(2);
/// A learner that lacks fewer entries than this keeps up.
const BEHIND_MAX: u64 = 500;

/// One of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) id: u64,
    pub(super) node: NodeId,
    pub(super) directory: u64,
    pub(super) voter: bool,
    /// Time since it last answered; zero for the leader itself.
    pub(super) silent: Duration,
    /// Entries of the log that it lacks; `None` if that is not known.
    pub(super) behind: Option<u64>,
    /// It said goodbye.
    pub(super) left: bool,
}

impl Peer {
    fn is_ready(&self) -> bool {
        self.silent <= SILENCE_MAX && !self.left && self.behind.is_some_and(|behind| behind <= BEHIND_MAX)
    }
}

/// A node that would like to be one of the group, and told the leader so a short while ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) node: NodeId,
    pub(super) directory: u64,
    /// The raft id that its directory has in this group, if it was one of it before.
    pub(super) id: Option<u64>,
}

/// What the leader sees.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// The leader.
    pub(super) own: u64,
    pub(super) peers: Vec<Peer>,
    pub(super) candidates: Vec<Candidate>,
    /// Voters that are wanted.
    pub(super) target: usize,
    /// A voter that has been silent for so long is replaced.
    pub(super) dead_after: Duration,
    /// How long the number of voters has been even.
    pub(super) even_for: Duration,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Give the directory a raft id, and take it in as a learner.
    Adopt { node: NodeId, directory: u64 },
    /// Take in a directory that has its raft id from before.
    Readmit { node: NodeId, directory: u64, id: u64 },
    /// Let these vote, and nobody else. Those that voted before become learners.
    Voters(BTreeSet<u64>),
    /// Take a learner out of the group.
    Forget(u64),
}

impl View {
    fn voters(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| peer.voter)
    }

    fn learners(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| !peer.voter)
    }

    fn is_dead(&self, peer: &Peer) -> bool {
        peer.id != self.own && (peer.left || self.is_wiped(peer) || peer.silent >= self.dead_after)
    }

    /// Its node has another data directory by now.
    fn is_wiped(&self, peer: &Peer) -> bool {
        self.candidates.iter().any(|c| c.node == peer.node && c.directory != peer.directory)
    }

    /// Whether a change to `voters` would be agreed on: more than half of those before and after answer.
    fn passes(&self, voters: &BTreeSet<u64>) -> bool {
        let answers = |peer: &Peer| peer.silent <= SILENCE_MAX && !self.is_wiped(peer);
        let majority = |all: usize, answering: usize| answering * 2 > all;
        let before = self.voters().filter(|peer| answers(peer)).count();
        let after = self.peers.iter().filter(|peer| voters.contains(&peer.id) && answers(peer)).count();
        majority(self.voters().count(), before) && majority(voters.len(), after)
    }

    fn ids<'p>(peers: impl Iterator<Item = &'p Peer>) -> BTreeSet<u64> {
        peers.map(|peer| peer.id).collect()
    }
}

/// The next step; `None` if all is as it should be, or nothing can be done.
pub(super) fn decide(view: &View) -> Option<Step> {
    remove_wiped(view)
        .or_else(|| set_voters(view).filter(|voters| view.passes(voters)).map(Step::Voters))
        .or_else(|| forget(view))
        .or_else(|| take_in(view))
}

/// The old id of a wiped directory goes before the new one comes.
fn remove_wiped(view: &View) -> Option<Step> {
    let wiped = view.peers.iter().find(|peer| peer.id != view.own && view.is_wiped(peer))?;
    if !wiped.voter {
        return Some(Step::Forget(wiped.id));
    }
    let rest = View::ids(view.voters().filter(|peer| peer.id != wiped.id));
    (!rest.is_empty() && view.passes(&rest)).then_some(Step::Voters(rest))
}

/// Who should vote, if that differs from who does.
fn set_voters(view: &View) -> Option<BTreeSet<u64>> {
    let present = View::ids(view.voters());
    let mut kept: Vec<&Peer> = view.voters().filter(|peer| !view.is_dead(peer)).collect();
    let mut dead: Vec<&Peer> = view.voters().filter(|peer| view.is_dead(peer)).collect();
    let mut ready: Vec<&Peer> =
        view.learners().filter(|peer| peer.is_ready() && !view.is_dead(peer)).collect();
    // The leader first, and then those with the oldest ids: whoever has a vote keeps it.
    kept.sort_by_key(|peer| (peer.id != view.own, peer.id));
    ready.sort_by_key(|peer| (peer.behind, peer.id));
    dead.sort_by_key(|peer| (peer.silent, peer.id));

    let living = kept.len() + ready.len();
    let mut wanted = odd_below(view.target.min(living));
    if wanted < present.len() {
        // Fewer than before only if fewer are wanted, or if an even number has lasted too long. Otherwise a
        // dead voter keeps its place until another can have it.
        let shrink_to = odd_below(view.target);
        let lasted = present.len().is_multiple_of(2) && view.even_for >= view.dead_after;
        wanted = match (present.len() > shrink_to, lasted) {
            (true, _) => shrink_to.max(wanted),
            (false, true) => odd_below(present.len()),
            (false, false) => present.len(),
        };
    }
    let voters: BTreeSet<u64> =
        kept.into_iter().chain(ready).chain(dead).take(wanted).map(|peer| peer.id).collect();
    (voters != present && !voters.is_empty()).then_some(voters)
}

/// The largest odd number up to this one; at least one.
fn odd_below(count: usize) -> usize {
    count.saturating_sub(usize::from(count.is_multiple_of(2))).max(1)
}

fn forget(view: &View) -> Option<Step> {
    view.learners().find(|peer| view.is_dead(peer)).map(|peer| Step::Forget(peer.id))
}

fn take_in(view: &View) -> Option<Step> {
    let living = view.peers.iter().filter(|peer| !view.is_dead(peer)).count();
    if living >= view.target + SPARES_MAX {
        return None;
    }
    let is_new = |candidate: &&Candidate| view.peers.iter().all(|peer| peer.node != candidate.node);
    let candidate = view.candidates.iter().find(is_new)?;
    let Candidate { node, directory, id } = candidate.clone();
    Some(match id {
        Some(id) => Step::Readmit { node, directory, id },
        None => Step::Adopt { node, directory },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD_AFTER: Duration = Duration::from_secs(30);

    fn node(id: u64) -> NodeId {
        format!("n{id}").parse().expect("a node id")
    }

    fn peer(id: u64, voter: bool) -> Peer {
        let silent = Duration::ZERO;
        Peer { id, node: node(id), directory: id * 10, voter, silent, behind: Some(0), left: false }
    }

    fn candidate(id: u64) -> Candidate {
        Candidate { node: node(id), directory: id * 10, id: None }
    }

    fn view(voters: &[u64], learners: &[u64]) -> View {
        let voters = voters.iter().map(|id| peer(*id, true));
        let peers = voters.chain(learners.iter().map(|id| peer(*id, false))).collect();
        View {
            own: 1,
            peers,
            candidates: Vec::new(),
            target: 3,
            dead_after: DEAD_AFTER,
            even_for: Duration::ZERO,
        }
    }

    fn change(view: &mut View, id: u64, change: impl FnOnce(&mut Peer)) {
        change(view.peers.iter_mut().find(|peer| peer.id == id).expect("there"));
    }

    fn voters(ids: &[u64]) -> Option<Step> {
        Some(Step::Voters(ids.iter().copied().collect()))
    }

    #[test]
    fn one_becomes_three_at_once_and_never_two() {
        let mut one = view(&[1], &[]);
        assert_eq!(decide(&one), None);
        one.candidates = vec![candidate(2), candidate(3)];
        assert_eq!(decide(&one), Some(Step::Adopt { node: node(2), directory: 20 }));
        let mut with_one = view(&[1], &[2]);
        assert_eq!(decide(&with_one), None);
        with_one.candidates = vec![candidate(3)];
        assert_eq!(decide(&with_one), Some(Step::Adopt { node: node(3), directory: 30 }));
        let mut with_two = view(&[1], &[2, 3]);
        change(&mut with_two, 3, |peer| peer.behind = Some(10_000));
        assert_eq!(decide(&with_two), None, "it has to catch up first");
        change(&mut with_two, 3, |peer| peer.behind = Some(3));
        assert_eq!(decide(&with_two), voters(&[1, 2, 3]));
        assert_eq!(decide(&view(&[1, 2, 3], &[])), None);
    }

    #[test]
    fn three_become_five_when_five_are_wanted_and_back() {
        let mut five = view(&[1, 2, 3], &[4]);
        five.target = 5;
        assert_eq!(decide(&five), None);
        five.peers.push(peer(5, false));
        assert_eq!(decide(&five), voters(&[1, 2, 3, 4, 5]));
        let mut three = view(&[1, 2, 3, 4, 5], &[]);
        change(&mut three, 2, |peer| peer.silent = DEAD_AFTER);
        assert_eq!(decide(&three), voters(&[1, 3, 4]), "the dead go first, the leader last");
    }

    #[test]
    fn a_dead_voter_is_replaced_when_another_is_ready() {
        let mut dead = view(&[1, 2, 3], &[]);
        change(&mut dead, 2, |peer| peer.silent = DEAD_AFTER);
        assert_eq!(decide(&dead), None, "there is nobody to replace it");
        dead.candidates = vec![candidate(4)];
        assert_eq!(decide(&dead), Some(Step::Adopt { node: node(4), directory: 40 }));
        dead.candidates.clear();
        dead.peers.push(peer(4, false));
        assert_eq!(decide(&dead), voters(&[1, 3, 4]));
        let mut after = view(&[1, 3, 4], &[2]);
        change(&mut after, 2, |peer| peer.silent = DEAD_AFTER);
        assert_eq!(decide(&after), Some(Step::Forget(2)));
        let mut left = view(&[1, 2, 3], &[4]);
        change(&mut left, 3, |peer| peer.left = true);
        assert_eq!(decide(&left), voters(&[1, 2, 4]), "one that said goodbye is not waited for");
        let mut silent = view(&[1, 2, 3], &[4]);
        change(&mut silent, 3, |peer| peer.silent = DEAD_AFTER - Duration::from_secs(1));
        assert_eq!(decide(&silent), None, "not yet");
    }

    #[test]
    fn a_wiped_directory_loses_its_old_id_before_it_gets_a_new_one() {
        let mut wiped = view(&[1, 2, 3], &[]);
        wiped.candidates = vec![Candidate { node: node(3), directory: 99, id: None }];
        assert_eq!(decide(&wiped), voters(&[1, 2]));
        let mut without = view(&[1, 2], &[3]);
        without.candidates = wiped.candidates.clone();
        assert_eq!(decide(&without), Some(Step::Forget(3)));
        let mut gone = view(&[1, 2], &[]);
        gone.candidates = wiped.candidates.clone();
        assert_eq!(decide(&gone), Some(Step::Adopt { node: node(3), directory: 99 }));
        assert_eq!(decide(&view(&[1, 2], &[7])), voters(&[1, 2, 7]));
        // With another one silent, nothing would be agreed on.
        change(&mut wiped, 2, |peer| peer.silent = DEAD_AFTER);
        assert_eq!(decide(&wiped), None);
    }

    #[test]
    fn an_even_number_does_not_last() {
        let mut two = view(&[1, 2], &[]);
        assert_eq!(decide(&two), None);
        two.even_for = DEAD_AFTER;
        assert_eq!(decide(&two), voters(&[1]));
        change(&mut two, 2, |peer| peer.silent = DEAD_AFTER);
        assert_eq!(decide(&two), None, "one of two can't decide it");
    }

    #[test]
    fn learners_beyond_the_spares_are_not_taken_in_and_one_of_before_keeps_its_id() {
        let mut full = view(&[1, 2, 3], &[4, 5]);
        full.candidates = vec![candidate(6)];
        assert_eq!(decide(&full), None);
        let mut back = view(&[1, 2, 3], &[]);
        back.candidates = vec![Candidate { id: Some(4), ..candidate(4) }];
        assert_eq!(decide(&back), Some(Step::Readmit { node: node(4), directory: 40, id: 4 }));
    }
}
