//! What fuzzers call: the settings.

use mesh_core::fuzz::Target;

/// The targets of this crate.
pub const TARGETS: &[Target] = &[("mesh_settings", crate::config::fuzz)];

#[cfg(test)]
mod tests {
    #[test]
    fn decoders_hold_over_their_corpus() {
        mesh_core::fuzz::exercise(super::TARGETS);
    }
}
