//! Numbers that only grow: store revisions and fencing tokens.

use std::{fmt, str::FromStr};

/// The store's global change counter, used for compare-and-set and to resume watches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number that a leader states with each guarded write, so that an older leader is refused.
///
/// Ordered by restore generation first: a store restored from a snapshot starts a
/// higher generation and so outranks every token that was ever given out before.
///
/// ```
/// use mesh_core::FencingToken;
/// let before = FencingToken { generation: 1, counter: 900 };
/// let restored = FencingToken { generation: 2, counter: 1 };
/// assert!(restored > before);
/// assert_eq!(restored.to_string().parse(), Ok(restored));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken {
    /// Raised by every restore of the store.
    pub generation: u64,
    /// Raised by every grant within a generation.
    pub counter: u64,
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.counter)
    }
}

/// A text that is not a fencing token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fencing token {0:?} is not of the form <generation>.<counter>")]
pub struct FencingTokenError(String);

impl FromStr for FencingToken {
    type Err = FencingTokenError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || FencingTokenError(text.chars().take(60).collect());
        let (generation, counter) = text.split_once('.').ok_or_else(error)?;
        Ok(Self {
            generation: generation.parse().map_err(|_| error())?,
            counter: counter.parse().map_err(|_| error())?,
        })
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for FencingToken {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for FencingToken {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}
