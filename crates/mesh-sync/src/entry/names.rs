//! What names datasets, collections and authors.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use super::{COLLECTION_BYTES_MAX, DATASET_BYTES_MAX};

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {value:?} is not valid: {problem}; allowed are 1 to {bytes_max} characters of a-z, 0-9, '-', '_' and '.', starting and ending with a letter or digit"
)]
pub struct NameError {
    what: &'static str,
    value: String,
    problem: &'static str,
    bytes_max: usize,
}

/// The longest part of a refused text that an error repeats.
const SHOWN_CHARS_MAX: usize = 80;

fn problem(value: &[u8], bytes_max: usize) -> Option<&'static str> {
    let outer = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if value.is_empty() {
        Some("it is empty")
    } else if value.len() > bytes_max {
        Some("it is too long")
    } else if !value.iter().all(|byte| outer(byte) || matches!(byte, b'-' | b'_' | b'.')) {
        Some("it has a character that is not allowed")
    } else if !value.first().is_some_and(outer) || !value.last().is_some_and(outer) {
        Some("it starts or ends with '-', '_' or '.'")
    } else {
        None
    }
}

fn check(what: &'static str, value: &[u8], bytes_max: usize) -> Result<Arc<str>, NameError> {
    let shown = String::from_utf8_lossy(value);
    match problem(value, bytes_max) {
        None => Ok(shown.into()),
        Some(problem) => {
            Err(NameError { what, value: shown.chars().take(SHOWN_CHARS_MAX).collect(), problem, bytes_max })
        }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Makes one from text.
            ///
            /// # Errors
            ///
            /// [`NameError`] tells the value, what is wrong with it and what is allowed.
            pub fn new(value: impl AsRef<str>) -> Result<Self, NameError> {
                check($what, value.as_ref().as_bytes(), $max).map(Self)
            }

            pub(crate) fn from_bytes(value: &[u8]) -> Result<Self, NameError> {
                check($what, value, $max).map(Self)
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(value: &str) -> Result<Self, NameError> {
                Self::new(value)
            }
        }

        impl Borrow<str> for $type {
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
    };
}

name!(
    /// The name of a dataset: the unit of replication, access and priority.
    DatasetId,
    "dataset",
    DATASET_BYTES_MAX
);
name!(
    /// The name of a collection of documents.
    Collection,
    "collection",
    COLLECTION_BYTES_MAX
);

/// What names of collections begin with that sync keeps for itself.
const RESERVED: &str = "mesh.";

impl Collection {
    /// Whether sync keeps it for itself, as it does with prunes.
    pub fn is_reserved(&self) -> bool {
        self.as_str().starts_with(RESERVED)
    }
}

/// Who makes entries: an Ed25519 public key. Whether it is a point of the curve is found out with its first
/// signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuthorId(pub [u8; 32]);

impl AuthorId {
    /// The bytes of the key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Why a text is not an author's key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "author key {value:?} is not valid: it must be 64 hexadecimal digits, as `mesh sync status` shows them"
)]
pub struct AuthorIdError {
    value: String,
}

impl FromStr for AuthorId {
    type Err = AuthorIdError;

    fn from_str(value: &str) -> Result<Self, AuthorIdError> {
        let refused = || AuthorIdError { value: value.chars().take(SHOWN_CHARS_MAX).collect() };
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let digits: Option<Vec<u8>> = value.bytes().map(digit).collect();
        let digits: [u8; 64] = digits.and_then(|digits| digits.try_into().ok()).ok_or_else(refused)?;
        Ok(Self(std::array::from_fn(|at| digits[2 * at] << 4 | digits[2 * at + 1])))
    }
}

impl fmt::Display for AuthorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for AuthorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which of its author's entries in a dataset an entry is. The first is 1; 0 is before all of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AuthorSequence(pub u64);

impl AuthorSequence {
    /// The first entry of an author.
    pub const FIRST: Self = Self(1);

    /// The one after it; `None` after the last that there can be.
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(next) => Some(Self(next)),
            None => None,
        }
    }
}

impl fmt::Display for AuthorSequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_checked_and_an_error_tells_what_is_allowed() {
        assert_eq!(DatasetId::new("orders.eu_1").expect("valid").as_str(), "orders.eu_1");
        for bad in ["", "Orders", "-a", "a.", "a b", "ä", &"a".repeat(DATASET_BYTES_MAX + 1)] {
            let error = DatasetId::new(bad).expect_err(bad).to_string();
            assert!(error.contains("1 to 63 characters"), "{error}");
        }
    }
}
