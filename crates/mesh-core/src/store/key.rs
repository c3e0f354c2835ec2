//! Keys of records, and prefixes of keys.

use std::{fmt, sync::Arc};

/// Why a text is not a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key {shown:?} ({bytes} bytes) is not valid: {problem}; a key is 1 to {max} bytes of text without control characters", max = Key::BYTES_MAX)]
pub struct KeyError {
    shown: String,
    bytes: usize,
    problem: &'static str,
}

/// Longest part of a refused key that an error repeats.
const SHOWN_CHARS_MAX: usize = 80;

fn check(text: &str) -> Result<(), KeyError> {
    let problem = if text.len() > Key::BYTES_MAX {
        "it is too long"
    } else if text.chars().any(char::is_control) {
        "it has a control character"
    } else {
        return Ok(());
    };
    Err(KeyError { shown: text.chars().take(SHOWN_CHARS_MAX).collect(), bytes: text.len(), problem })
}

/// The name of a record. By habit a path: `leases/global-control`.
///
/// Keys are ordered by their bytes. Those that begin with [`Key::RESERVED`] belong to the store
/// itself: they can be read and watched, not written.
///
/// ```
/// use mesh_core::store::Key;
/// let key = Key::new("tables/orders")?;
/// assert!(Key::new("").is_err());
/// assert!(key < Key::new("tables/users")?);
/// # Ok::<(), mesh_core::store::KeyError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The longest key, in bytes.
    pub const BYTES_MAX: usize = 512;
    /// How keys of the store itself begin.
    pub const RESERVED: char = '~';

    /// Makes one from text.
    ///
    /// # Errors
    ///
    /// [`KeyError`] names the text, what is wrong with it and what is allowed.
    pub fn new(text: impl AsRef<str>) -> Result<Self, KeyError> {
        let text = text.as_ref();
        if text.is_empty() {
            return Err(KeyError { shown: String::new(), bytes: 0, problem: "it is empty" });
        }
        check(text)?;
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it belongs to the store itself.
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with(Self::RESERVED)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Key {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::new(text)
    }
}

/// The beginning that a set of keys shares; empty for all of them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(Arc<str>);

impl Prefix {
    /// The prefix of every key.
    pub fn all() -> Self {
        Self("".into())
    }

    /// Makes one from text.
    ///
    /// # Errors
    ///
    /// [`KeyError`], as for a key, but a prefix may be empty.
    pub fn new(text: impl AsRef<str>) -> Result<Self, KeyError> {
        check(text.as_ref())?;
        Ok(Self(text.as_ref().into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `key` begins with it. A prefix that does not itself begin with [`Key::RESERVED`] does not
    /// cover the store's own keys.
    pub fn covers(&self, key: &Key) -> bool {
        key.0.starts_with(&*self.0) && (!key.is_reserved() || self.0.starts_with(Key::RESERVED))
    }
}

impl From<&Key> for Prefix {
    fn from(key: &Key) -> Self {
        Self(Arc::clone(&key.0))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}*", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_key_says_why_and_is_cut_in_the_error() {
        let long = Key::new("x".repeat(10_000)).expect_err("too long").to_string();
        assert!(long.contains("10000 bytes") && long.contains("1 to 512") && long.len() < 300, "{long}");
        assert!(Key::new("a\nb").expect_err("control").to_string().contains("control character"));
    }

    #[test]
    fn a_prefix_covers_the_stores_own_keys_only_when_it_names_them() {
        let audit = Key::new("~audit/1").expect("a key");
        assert!(!Prefix::all().covers(&audit));
        assert!(Prefix::new("~audit/").expect("a prefix").covers(&audit));
        assert!(Prefix::all().covers(&Key::new("a").expect("a key")));
    }
}
