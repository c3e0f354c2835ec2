//! How busy a member is, in its own words.

use std::collections::BTreeMap;

use crate::Instant;

/// How busy a node says it is: what a shard placer weighs and an operator looks at.
///
/// A load says nothing until something is set. It is measured by the program that
/// runs the node; membership only carries it.
///
/// ```
/// use mesh_core::Load;
/// let load = Load::default().with_cpu_permille(250).with_custom("shards", 12);
/// assert_eq!(load.custom["shards"], 12);
/// load.validate()?;
/// assert!(Load::default().with_cpu_permille(1001).validate().is_err());
/// # Ok::<(), mesh_core::LoadError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct Load {
    /// Processor time, in thousandths of what the node may use, 0 to 1000.
    pub cpu_permille: Option<u16>,
    /// Memory, in thousandths of what the node may use, 0 to 1000.
    pub memory_permille: Option<u16>,
    /// What else matters to those who place work, by name: `shards`, `queue_bytes`.
    pub custom: BTreeMap<String, u64>,
}

/// Why a [`Load`] can't be told to others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A share is over the whole.
    #[error("load {name} is {value}, it must be between 0 and 1000 thousandths")]
    Share {
        /// `cpu_permille` or `memory_permille`.
        name: &'static str,
        /// The value.
        value: u16,
    },
    /// Too many custom values.
    #[error("a load has {0} custom values, at most {max} travel with probes", max = Load::CUSTOM_MAX)]
    TooMany(usize),
    /// The name of a custom value can't be used.
    #[error(
        "load value {name:?} must be named by 1 to {max} characters of a-z 0-9 _ . -",
        max = Load::NAME_BYTES_MAX
    )]
    Name {
        /// The name, cut to a readable length.
        name: String,
    },
}

impl Load {
    /// Custom values of one load.
    pub const CUSTOM_MAX: usize = 8;
    /// Bytes of the name of a custom value.
    pub const NAME_BYTES_MAX: usize = 24;

    /// The same with this share of the processors in use, in thousandths.
    #[must_use]
    pub fn with_cpu_permille(mut self, permille: u16) -> Self {
        self.cpu_permille = Some(permille);
        self
    }

    /// The same with this share of the memory in use, in thousandths.
    #[must_use]
    pub fn with_memory_permille(mut self, permille: u16) -> Self {
        self.memory_permille = Some(permille);
        self
    }

    /// The same with one more custom value.
    #[must_use]
    pub fn with_custom(mut self, name: impl Into<String>, value: u64) -> Self {
        self.custom.insert(name.into(), value);
        self
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it can be told to others.
    ///
    /// # Errors
    ///
    /// The first value that is out of its bounds.
    pub fn validate(&self) -> Result<(), LoadError> {
        for (name, value) in [("cpu_permille", self.cpu_permille), ("memory_permille", self.memory_permille)]
        {
            if let Some(value) = value.filter(|value| *value > 1000) {
                return Err(LoadError::Share { name, value });
            }
        }
        if self.custom.len() > Self::CUSTOM_MAX {
            return Err(LoadError::TooMany(self.custom.len()));
        }
        let fits = |name: &&String| {
            (1..=Self::NAME_BYTES_MAX).contains(&name.len())
                && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-'))
        };
        match self.custom.keys().find(|name| !fits(name)) {
            Some(name) => Err(LoadError::Name { name: name.chars().take(60).collect() }),
            None => Ok(()),
        }
    }
}

/// A load that a member told, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadReport {
    /// What it said.
    pub load: Load,
    /// When it said so, on the local clock; later than the truth by the time the word was under way.
    pub said_at: Instant,
}

impl LoadReport {
    /// A report of now.
    pub fn new(load: Load, said_at: Instant) -> Self {
        Self { load, said_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_bounds_are_named() {
        let check = |load: Load, part: &str| {
            let error = load.validate().expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        };
        check(Load::default().with_memory_permille(1001), "memory_permille is 1001");
        check(Load::default().with_custom("", 1), "\"\"");
        check(Load::default().with_custom("Queue", 1), "\"Queue\"");
        check(Load::default().with_custom("x".repeat(25), 1), "1 to 24");
        let many = (0..9).fold(Load::default(), |load, i| load.with_custom(format!("v{i}"), i));
        check(many, "9 custom values, at most 8");
        let full = (0..8).fold(Load::default(), |load, i| load.with_custom(format!("v{i}"), i));
        full.with_cpu_permille(1000).validate().expect("at its bounds");
    }
}
