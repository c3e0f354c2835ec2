//! Stories that span crates, most of them in the simulator.

mod elections;
mod fence;
mod gossip;
mod leader;
mod planted;
mod processes;
mod regressions;
mod toy;
