//! Names and numbers that identify things, each a type of its own.
//!
//! A name is validated when it is made, so that code which holds a [`NodeId`]
//! never asks again whether it is one. Cloning is cheap: names share their text.

use std::{fmt, str::FromStr, sync::Arc};

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {value:?} is not valid: {problem}; allowed are 1 to {bytes_max} characters of a-z, 0-9, '-' and '.', starting and ending with a letter or digit"
)]
pub struct IdError {
    what: &'static str,
    value: String,
    problem: &'static str,
    bytes_max: usize,
}

/// Longest part of a refused value that an error repeats.
const SHOWN_CHARS_MAX: usize = 80;

fn check(what: &'static str, value: &str, bytes_max: usize) -> Result<(), IdError> {
    let problem = if value.is_empty() {
        "it is empty"
    } else if value.len() > bytes_max {
        "it is too long"
    } else if !value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.') {
        "it has a character that is not allowed"
    } else if !value.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !value.ends_with(|c: char| c.is_ascii_alphanumeric())
    {
        "it starts or ends with '-' or '.'"
    } else {
        return Ok(());
    };
    Err(IdError { what, value: value.chars().take(SHOWN_CHARS_MAX).collect(), problem, bytes_max })
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The longest one, in bytes.
            pub const BYTES_MAX: usize = $max;

            /// Makes one from text.
            ///
            /// # Errors
            ///
            /// [`IdError`] names the value, what is wrong with it and what is allowed.
            pub fn new(value: impl AsRef<str>) -> Result<Self, IdError> {
                let value = value.as_ref();
                check($what, value, $max)?;
                Ok(Self(value.into()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = IdError;
            fn from_str(value: &str) -> Result<Self, IdError> {
                Self::new(value)
            }
        }

        impl TryFrom<String> for $type {
            type Error = IdError;
            fn try_from(value: String) -> Result<Self, IdError> {
                Self::new(value)
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.0.as_ref().to_owned()
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        #[cfg(feature = "serde")]
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        #[cfg(feature = "serde")]
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                Self::new(text).map_err(serde::de::Error::custom)
            }
        }
    };
}

name! {
    /// The name that people give a node, bound to its certificate.
    ///
    /// ```
    /// use mesh_core::NodeId;
    /// let id: NodeId = "worker-7.eu".parse()?;
    /// assert_eq!(id.as_str(), "worker-7.eu");
    /// assert!("Worker 7".parse::<NodeId>().is_err());
    /// # Ok::<(), mesh_core::IdError>(())
    /// ```
    NodeId, "node id", 63
}
name! {
    /// The name of a cluster, the same in the certificate of each of its nodes.
    ClusterName, "cluster name", 63
}
name! {
    /// What a node is for, as its certificate states it: `control`, `worker`, `operator`, …
    Role, "role", 63
}
name! {
    /// The trust domain of a SPIFFE id: who issued the certificates.
    TrustDomain, "trust domain", 255
}

impl Role {
    /// The role whose certificate may steer the cluster.
    pub const OPERATOR: &'static str = "operator";
    /// The role of nodes that may carry durable control state.
    pub const CONTROL: &'static str = "control";
}

/// One run of a node's process: random at each start.
///
/// Two runs of one node differ in it, so that a restart is seen even where the
/// addresses stay the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct InstanceId(pub u64);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A member's own counter: the higher one is the newer word about it.
///
/// Only the member itself raises it, to refute a suspicion or to supersede an
/// earlier run (SWIM, section 4.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// The next higher one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_id_names_value_problem_and_limit() {
        let long = "a".repeat(64);
        for (text, problem) in [
            ("", "empty"),
            (long.as_str(), "too long"),
            ("UPPER", "character"),
            ("a b", "character"),
            ("ä", "character"),
            ("-a", "starts or ends"),
            ("a.", "starts or ends"),
        ] {
            let error = NodeId::new(text).expect_err(text).to_string();
            assert!(error.contains(problem), "{text:?}: {error}");
            assert!(error.contains("1 to 63"), "{error}");
        }
        assert!(NodeId::new("a".repeat(63)).is_ok());
    }

    #[test]
    fn a_huge_refused_value_is_cut_in_the_error() {
        let error = NodeId::new("X".repeat(1 << 20)).expect_err("too long").to_string();
        assert!(error.len() < 400, "{}", error.len());
    }
}
