//! The name of what somebody leads.

use std::{fmt, str::FromStr, sync::Arc};

/// What a leader leads: `global-control`, or any name that users choose.
///
/// ```
/// use mesh_leader::{Scope, ScopeKind};
/// let scope: Scope = "billing/nightly".parse()?;
/// assert_eq!(scope.kind(), ScopeKind::User);
/// assert!("a\nb".parse::<Scope>().is_err());
/// # Ok::<(), mesh_leader::ScopeError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(Arc<str>);

/// Why a text is not a scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "scope {shown:?} is not valid: {problem}; a scope is 1 to {max} bytes of text without control characters that does not begin or end with '/'",
    max = Scope::BYTES_MAX
)]
pub struct ScopeError {
    shown: String,
    problem: &'static str,
}

/// Longest part of a refused scope that an error repeats.
const SHOWN_CHARS_MAX: usize = 80;

/// What kind of scope it is. A closed set, fit for a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScopeKind {
    /// `global-control`: who steers the cluster itself.
    GlobalControl,
    /// `shard/<namespace>/<id>`.
    Shard,
    /// Whatever users name.
    User,
}

impl ScopeKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::GlobalControl, Self::Shard, Self::User];

    /// The word that people and programs see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GlobalControl => "global-control",
            Self::Shard => "shard",
            Self::User => "user",
        }
    }
}

impl Scope {
    /// The longest one, in bytes.
    pub const BYTES_MAX: usize = 200;
    /// Who steers the cluster itself.
    pub const GLOBAL_CONTROL: &'static str = "global-control";

    /// Makes one from text.
    ///
    /// # Errors
    ///
    /// [`ScopeError`] names the text, what is wrong with it and what is allowed.
    pub fn new(text: impl AsRef<str>) -> Result<Self, ScopeError> {
        let text = text.as_ref();
        let problem = if text.is_empty() {
            "it is empty"
        } else if text.len() > Self::BYTES_MAX {
            "it is too long"
        } else if text.chars().any(char::is_control) {
            "it has a control character"
        } else if text.starts_with('/') || text.ends_with('/') {
            "it begins or ends with '/'"
        } else {
            return Ok(Self(text.into()));
        };
        Err(ScopeError { shown: text.chars().take(SHOWN_CHARS_MAX).collect(), problem })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its kind.
    pub fn kind(&self) -> ScopeKind {
        if &*self.0 == Self::GLOBAL_CONTROL {
            ScopeKind::GlobalControl
        } else if self.0.starts_with("shard/") {
            ScopeKind::Shard
        } else {
            ScopeKind::User
        }
    }
}

impl FromStr for Scope {
    type Err = ScopeError;
    fn from_str(text: &str) -> Result<Self, ScopeError> {
        Self::new(text)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Scope {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Scope {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::new(text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_scope_names_the_problem_and_the_limit() {
        let long = "x".repeat(201);
        for (text, problem) in
            [("", "empty"), (long.as_str(), "too long"), ("a\0", "control"), ("/a", "begins"), ("a/", "ends")]
        {
            let error = Scope::new(text).expect_err(text).to_string();
            assert!(error.contains(problem) && error.contains("1 to 200"), "{text:?}: {error}");
            assert!(error.len() < 400, "{error}");
        }
    }

    #[test]
    fn the_kind_is_read_from_the_name() {
        let kind = |text: &str| Scope::new(text).expect("a scope").kind();
        assert_eq!(kind("global-control"), ScopeKind::GlobalControl);
        assert_eq!(kind("shard/orders/7"), ScopeKind::Shard);
        assert_eq!(kind("shards"), ScopeKind::User);
    }
}
