//! Settings that were checked before anything is built from them.

use std::ops::Deref;

/// A setting outside its range, or two that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} ({value}) {rule}")]
pub struct SettingError {
    /// The setting by its path in the file, as `gossip.probe_interval`.
    pub setting: String,
    /// The offending value.
    pub value: String,
    /// The rule it breaks, with the limit: `must be between 20ms and 1m`.
    pub rule: String,
}

impl SettingError {
    /// `setting` and `value` break `rule`; the text reads `<setting> (<value>) <rule>`.
    pub fn new(setting: impl Into<String>, value: impl ToString, rule: impl Into<String>) -> Self {
        Self { setting: setting.into(), value: value.to_string(), rule: rule.into() }
    }
}

/// Settings that can tell whether they make sense.
pub trait Settings: Sized {
    /// Every rule that is broken; empty if all is well.
    fn problems(&self) -> Vec<SettingError>;

    /// Checks all rules.
    ///
    /// # Errors
    ///
    /// The broken rules, all of them, so that a person mends them in one go.
    fn validate(self) -> Result<Validated<Self>, Vec<SettingError>> {
        let problems = self.problems();
        if problems.is_empty() { Ok(Validated(self)) } else { Err(problems) }
    }
}

/// Settings that passed [`Settings::validate`]. Constructors take these, so
/// that an unchecked value can't reach a core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validated<T>(T);

impl<T> Validated<T> {
    /// The settings, to change and check again.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Validated<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}
