//! Stories that span crates, most of them in the simulator.

mod gossip;
mod processes;
mod toy;
