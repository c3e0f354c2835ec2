//! Elections in virtual time: many nodes that campaign, one modelled log of three voters, one seed.
//!
//! The cores of `mesh-leader` and the state of `mesh-registry` are the real ones, and every log entry goes
//! through the real codec. What is modelled is the agreement of the voters: entries commit in order, a
//! leader that goes leaves some of what it had not committed to the next, and each voter counts the time of
//! sessions on a clock of its own.
//!
//! What the cores and their programs ask and are told is written down, and given to the judges of histories in
//! the end.
//!
//! A run has a time with faults, then they end and every scope must have one leader whom all know.

mod options;
mod rules;
mod store;
mod world;

pub use options::{ElectionFault, ElectionFaultKind, ElectionOptions};
pub use store::StoreBug;
pub use world::{EXPLAINED, ElectionOutcome, Plant, Planted, run_election, run_election_with};
