//! Revisions must grow as time goes on.
//!
//! Whoever calls after an answer came sees at least its revision, and what it changes gets a higher
//! one. This needs no search: one pass over all calls in the order of time.

use std::{collections::BTreeMap, fmt};

use super::Moment;

/// A call that was told a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped {
    /// When it was made.
    pub call: Moment,
    /// When it was answered.
    pub answered: Moment,
    /// The revision it was told.
    pub revision: u64,
    /// Whether it made this revision. A read did not.
    pub made: bool,
}

/// A revision that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionFault {
    /// The call that was told too low a revision, or one that another call had made.
    pub call: Stamped,
    /// The one that was answered before, or made the same.
    pub other: Stamped,
}

impl fmt::Display for RevisionFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, other } = self;
        let did = |made| if made { "made" } else { "saw" };
        write!(
            f,
            "a call from {} to {} {} revision {}, although another, from {} to {}, {} revision {}",
            call.call,
            call.answered,
            did(call.made),
            call.revision,
            other.call,
            other.answered,
            did(other.made),
            other.revision
        )
    }
}

/// Checks that each revision is made once, and that none is lower than one that was answered before the call.
///
/// # Errors
///
/// The first pair of calls that contradict each other.
pub fn check_revisions(calls: &[Stamped]) -> Result<(), Box<RevisionFault>> {
    let fault = |call: &Stamped, other: &Stamped| {
        Err(Box::new(RevisionFault { call: call.clone(), other: other.clone() }))
    };
    let mut makers: BTreeMap<u64, &Stamped> = BTreeMap::new();
    for call in calls.iter().filter(|call| call.made) {
        if let Some(other) = makers.insert(call.revision, call) {
            return fault(call, other);
        }
    }
    let mut by_call: Vec<&Stamped> = calls.iter().collect();
    by_call.sort_by_key(|call| call.call);
    let mut by_answer = by_call.clone();
    by_answer.sort_by_key(|call| call.answered);
    let mut answered = by_answer.into_iter().peekable();
    let mut highest: Option<&Stamped> = None;
    for call in by_call {
        while let Some(other) = answered.next_if(|other| other.answered < call.call) {
            if highest.is_none_or(|highest| other.revision > highest.revision) {
                highest = Some(other);
            }
        }
        if let Some(other) = highest
            && (call.revision < other.revision || call.made && call.revision == other.revision)
        {
            return fault(call, other);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamped(call: u64, answered: u64, revision: u64, made: bool) -> Stamped {
        Stamped { call: Moment::at(call), answered: Moment::at(answered), revision, made }
    }

    #[test]
    fn concurrent_calls_may_get_revisions_in_any_order() {
        let calls = [stamped(0, 10, 2, true), stamped(5, 15, 1, true), stamped(6, 7, 2, false)];
        assert_eq!(check_revisions(&calls), Ok(()));
    }

    #[test]
    fn a_revision_that_goes_back_or_comes_twice_is_found() {
        assert!(check_revisions(&[stamped(0, 1, 5, true), stamped(2, 3, 4, false)]).is_err());
        assert!(check_revisions(&[stamped(0, 1, 5, false), stamped(2, 3, 5, true)]).is_err());
        assert!(check_revisions(&[stamped(0, 9, 5, true), stamped(2, 3, 5, true)]).is_err());
        assert_eq!(check_revisions(&[stamped(0, 1, 5, true), stamped(2, 3, 5, false)]), Ok(()));
    }
}
