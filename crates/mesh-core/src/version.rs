//! Protocol versions: every wire message and file format has one from the first day.

use std::fmt;

/// The version of one protocol or file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct ProtocolVersion(pub u32);

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The versions that one program speaks, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VersionRange {
    /// The oldest.
    pub min: ProtocolVersion,
    /// The newest.
    pub max: ProtocolVersion,
}

/// Two programs have no version in common.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no common version of {protocol}: we speak {ours}, the other end {theirs}; upgrade the older one")]
pub struct VersionError {
    /// The protocol.
    pub protocol: &'static str,
    /// What this program speaks.
    pub ours: VersionRange,
    /// What the other end speaks.
    pub theirs: VersionRange,
}

impl VersionRange {
    /// Both ends are versions that the program speaks.
    pub const fn new(min: u32, max: u32) -> Self {
        Self { min: ProtocolVersion(min), max: ProtocolVersion(max) }
    }

    /// Whether `version` is one of them.
    pub fn contains(self, version: ProtocolVersion) -> bool {
        self.min <= version && version <= self.max
    }

    /// The newest version that both speak.
    ///
    /// # Errors
    ///
    /// [`VersionError`] if there is none; it names both ranges.
    pub fn negotiate(self, protocol: &'static str, theirs: Self) -> Result<ProtocolVersion, VersionError> {
        let best = self.max.min(theirs.max);
        if self.contains(best) && theirs.contains(best) {
            Ok(best)
        } else {
            Err(VersionError { protocol, ours: self, theirs })
        }
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_wins() {
        let common = VersionRange::new(1, 3).negotiate("gossip", VersionRange::new(2, 9));
        assert_eq!(common, Ok(ProtocolVersion(3)));
    }

    #[test]
    fn no_common_version_names_both_ranges() {
        let error = VersionRange::new(1, 2).negotiate("gossip", VersionRange::new(4, 5)).expect_err("apart");
        assert!(error.to_string().contains("1..=2") && error.to_string().contains("4..=5"));
    }
}
