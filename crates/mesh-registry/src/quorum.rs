//! Reads that their caller confirms: the leader answers at once, and the caller asks other voters, at the same time,
//! whether another could lead.
//!
//! A linearizable read needs to know that nobody leads by a newer ballot. The leader can ask most voters before it
//! answers, one hop after the other; or whoever reads asks both at once, and needs one hop. Why that is safe: each
//! voter's word is of a moment after the read began. At the first of those moments none of them, the leader among
//! them, had promised anything newer than the leader's ballot, and they are a majority; so nothing was committed by
//! then that this leader did not commit itself or had applied when it began to lead. What it answers with holds all of
//! that. (The quorum check of Raft's read index, section 6.4 of the dissertation, with the caller in the place of the
//! leader; Charapko, Ailijiang and Demirbas, *Linearizable Quorum Reads in Paxos*, 2019, have readers ask a quorum.)

use async_trait::async_trait;
use bytes::Bytes;
use mesh_core::store::{Fresh, Key, Record, StoreError};

/// A vote's number: votes are ordered by term, then by the voter that asked for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ballot {
    /// The term.
    pub term: u64,
    /// Who asked for the vote.
    pub voter: u64,
}

/// By what a voter leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lead {
    /// The group's id.
    pub group: Bytes,
    /// The vote that it won.
    pub ballot: Ballot,
    /// The voters; most of each set are a majority. Two sets while voters change.
    pub sets: Vec<Vec<u64>>,
}

/// What a voter vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The id of its group.
    pub group: Bytes,
    /// Its number in the group.
    pub voter: u64,
    /// The newest vote that it has promised to keep to, at a moment while it was asked.
    pub promised: Ballot,
}

impl Lead {
    /// Whether these voters, and the leader, are most of each set and had promised nothing newer.
    ///
    /// ```
    /// use mesh_registry::quorum::{Ballot, Lead, Witness};
    /// let group = bytes::Bytes::from_static(&[7; 16]);
    /// let ballot = Ballot { term: 3, voter: 1 };
    /// let lead = Lead { group: group.clone(), ballot, sets: vec![vec![1, 2, 3]] };
    /// let witness = Witness { group, voter: 2, promised: ballot };
    /// assert!(lead.is_confirmed_by(&[witness.clone()]));
    /// let newer = Witness { promised: Ballot { term: 4, voter: 3 }, ..witness };
    /// assert!(!lead.is_confirmed_by(&[newer]));
    /// ```
    pub fn is_confirmed_by(&self, witnesses: &[Witness]) -> bool {
        let vouches = |voter: &u64| {
            *voter == self.ballot.voter
                || witnesses.iter().any(|witness| {
                    witness.voter == *voter && witness.group == self.group && witness.promised <= self.ballot
                })
        };
        let majority = |set: &Vec<u64>| set.iter().filter(|voter| vouches(voter)).count() * 2 > set.len();
        !self.sets.is_empty() && self.sets.iter().all(majority)
    }
}

/// A provider that lets its callers confirm their reads.
#[async_trait]
pub trait QuorumReads: Send + Sync + 'static {
    /// The record at a key and by what this node leads; `None` if it does not, or not yet. The record is fresh if
    /// [`Lead::is_confirmed_by`] holds for words that voters gave after the read began.
    ///
    /// # Errors
    ///
    /// Those of [`VersionedStore::get`](mesh_core::store::VersionedStore::get).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    async fn get_led(&self, key: &Key) -> Result<Option<(Fresh<Option<Record>>, Lead)>, StoreError>;

    /// What this node vouches for as a voter; `None` if it is none. Answer from memory.
    fn witness(&self) -> Option<Witness>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead(sets: &[&[u64]]) -> Lead {
        let sets = sets.iter().map(|set| set.to_vec()).collect();
        Lead { group: Bytes::from_static(&[1; 16]), ballot: Ballot { term: 5, voter: 1 }, sets }
    }

    fn says(voter: u64, term: u64, by: u64) -> Witness {
        Witness { group: Bytes::from_static(&[1; 16]), voter, promised: Ballot { term, voter: by } }
    }

    #[test]
    fn most_of_each_set_must_vouch() {
        assert!(lead(&[&[1]]).is_confirmed_by(&[]));
        assert!(!lead(&[&[1, 2, 3]]).is_confirmed_by(&[]));
        assert!(lead(&[&[1, 2, 3]]).is_confirmed_by(&[says(3, 5, 1)]));
        let joint = lead(&[&[1, 2, 3], &[3, 4, 5]]);
        assert!(!joint.is_confirmed_by(&[says(2, 5, 1)]));
        assert!(!joint.is_confirmed_by(&[says(3, 5, 1)]));
        assert!(joint.is_confirmed_by(&[says(3, 5, 1), says(4, 4, 3)]));
        assert!(!lead(&[]).is_confirmed_by(&[says(2, 5, 1)]));
    }

    #[test]
    fn one_voter_counts_once_and_strangers_not_at_all() {
        let five = lead(&[&[1, 2, 3, 4, 5]]);
        assert!(!five.is_confirmed_by(&[says(2, 5, 1), says(2, 5, 1)]));
        assert!(!five.is_confirmed_by(&[says(2, 5, 1), says(9, 5, 1)]));
        assert!(!five.is_confirmed_by(&[
            says(2, 5, 1),
            Witness { group: Bytes::from_static(&[2; 16]), ..says(3, 5, 1) }
        ]));
        assert!(!five.is_confirmed_by(&[says(2, 5, 1), says(1, 5, 1)]), "the leader is one of them already");
        assert!(five.is_confirmed_by(&[says(2, 5, 1), says(3, 0, 0)]));
    }

    #[test]
    fn a_newer_promise_vouches_for_nobody() {
        assert!(!lead(&[&[1, 2, 3]]).is_confirmed_by(&[says(2, 6, 2)]));
        assert!(
            !lead(&[&[1, 2, 3]]).is_confirmed_by(&[says(2, 5, 2)]),
            "the same term, asked for by another"
        );
        assert!(lead(&[&[1, 2, 3]]).is_confirmed_by(&[says(2, 6, 2), says(3, 5, 1)]));
    }
}
