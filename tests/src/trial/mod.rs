//! Trials: real voters under load and faults, and judges of what their clients saw.
//!
//! A [`Trial`] is a cluster of processes: three that vote, two that do nothing but campaign for one
//! scope, and two clients of ours, nodes like any other in threads of this process. It goes on in
//! rounds. In each one the clients work (`load`), one [`Fault`] happens and is taken back, the cluster
//! heals, and everything that the clients were told is judged: records and leases are linearizable,
//! tokens only grow, watches are whole, and what was acknowledged is there. A call whose answer never
//! came stays of unknown outcome.
//!
//! What the judges reject stays with the logs and the history in `target/test-artifacts/`.

mod client;
mod elections;
mod fault;
mod figures;
mod load;
mod node;
mod probe;
mod round;
mod settle;
mod stage;

pub use fault::Fault;
pub use figures::{Figures, load_average};
pub use node::serve;
pub use settle::NotWhole;
pub use stage::{Trial, Tried};
