//! What fuzzers call: what a node answers.

use mesh::core::fuzz::Target;

/// The targets of this crate.
pub const TARGETS: &[Target] = &[("cli_events", crate::client::fuzz)];

#[cfg(test)]
mod tests {
    #[test]
    fn decoders_hold_over_their_corpus() {
        mesh::core::fuzz::exercise(super::TARGETS);
    }
}
