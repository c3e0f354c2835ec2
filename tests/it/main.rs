//! Stories that span crates, most of them in the simulator.

mod gossip;
mod planted;
mod processes;
mod regressions;
mod toy;
