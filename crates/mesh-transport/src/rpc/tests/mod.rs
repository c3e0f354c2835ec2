//! Stories over real sockets on the loopback interface.

mod blocked;
mod calls;
mod harness;
mod limits;
mod moves;
mod service;
