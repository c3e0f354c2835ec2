//! Fences: what makes a late write of an old leader harmless.
//!
//! A leader that was paused between its last look at the lease and its write does not know that it is an
//! old one. So the resource must know: it keeps the highest token that ever wrote, and refuses lower ones.
//!
//! **A check followed later by a write is not fencing.** Comparing the token, raising the mark and making
//! the change must be one commit:
//!
//! ```
//! use mesh_core::FencingToken;
//! use mesh_leader::fence::{FenceError, Fenced, HighWater};
//!
//! let old = FencingToken { generation: 1, counter: 7 };
//! let new = FencingToken { generation: 1, counter: 9 };
//!
//! // Wrong: between the check and the write there is room for a new leader.
//! let mut mark = HighWater::default();
//! let mut balance = 0;
//! assert!(mark.check(old).is_ok()); // The old leader looks, and is paused here …
//! mark.admit(new)?;
//! balance += 100; //                   … a new one writes …
//! balance *= 2; //                     … and the old one wakes up and writes what it meant to.
//! assert_eq!(balance, 200);
//!
//! // Right: admission and effect are one step.
//! let balance = Fenced::new(0);
//! balance.commit(new, |balance| *balance += 100)?;
//! assert!(matches!(balance.commit(old, |balance| *balance *= 2), Err(FenceError::Stale { .. })));
//! assert_eq!(balance.read(|balance| *balance), 100);
//! # Ok::<(), FenceError>(())
//! ```
//!
//! | the resource is | its fence |
//! |---|---|
//! | a value in memory | [`Fenced`] |
//! | tables of redb (feature `redb`) | [`redb::RedbFence`]: a hook for the user's own write transaction |
//! | tables of PostgreSQL or SQLite | [`sql::SqlFence`]: one statement in the user's own transaction |
//! | records of the registry | [`Lease::compare`](crate::Lease::compare): the store compares |
//! | anything else that commits | [`HighWater`], kept and raised in the same commit as the effect |

mod memory;
#[cfg(feature = "redb")]
pub mod redb;
pub mod sql;

use mesh_core::FencingToken;

pub use memory::Fenced;

/// Why a write was not admitted. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FenceError {
    /// A newer leader has written. Stop leading at once.
    #[error("fenced: the write states token {stated}, and {admitted} has written already")]
    Stale {
        /// What the write stated.
        stated: FencingToken,
        /// The highest token that was admitted.
        admitted: FencingToken,
    },
    /// A part of the token is larger than the resource can store.
    #[error("token {token} can't be stored: its parts must be below 2^63")]
    Unstorable {
        /// The token.
        token: FencingToken,
    },
}

/// The highest token that a resource has admitted.
///
/// Keep it where the effect is kept, and raise it in the same commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HighWater(Option<FencingToken>);

impl HighWater {
    /// As it was stored; `None` if nobody has written yet.
    pub fn stored(token: Option<FencingToken>) -> Self {
        Self(token)
    }

    /// What to store.
    pub fn token(self) -> Option<FencingToken> {
        self.0
    }

    /// Whether a write with this token would be admitted now. Not fencing: see the [module](self).
    ///
    /// # Errors
    ///
    /// [`FenceError::Stale`] names both tokens.
    pub fn check(self, token: FencingToken) -> Result<(), FenceError> {
        match self.0 {
            Some(admitted) if admitted > token => Err(FenceError::Stale { stated: token, admitted }),
            _ => Ok(()),
        }
    }

    /// Compares and raises. Commit the effect together with the raised mark, or drop both.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check); the mark is as before.
    pub fn admit(&mut self, token: FencingToken) -> Result<(), FenceError> {
        self.check(token)?;
        self.0 = Some(token);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn admitted_tokens_never_go_down(tokens in proptest::collection::vec((0u64..3, 0u64..20), 1..60)) {
            let mut mark = HighWater::default();
            let mut admitted = Vec::new();
            for (generation, counter) in tokens {
                let token = FencingToken { generation, counter };
                let highest = admitted.last().copied();
                match mark.admit(token) {
                    Ok(()) => admitted.push(token),
                    Err(_) => prop_assert!(highest.is_some_and(|highest| highest > token)),
                }
            }
            prop_assert!(admitted.is_sorted());
            prop_assert_eq!(mark.token(), admitted.last().copied());
        }
    }
}
