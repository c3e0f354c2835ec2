//! How two peers find out what the other lacks. Everything here is sans-io.
//!
//! An [`Index`] is what a replica keeps about its set; [`Root`] is what its heartbeat says. Where roots differ, a
//! [`Session`] on each side finds the [`Outcome`].

mod decode;
mod index;
mod key;
mod limits;
mod message;
mod narrow;
mod order;
mod outcome;
mod plan;
mod probe;
mod root;
mod session;
mod sip;
mod sketch;
mod slab;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

pub use self::{
    index::Index,
    key::{EpochKey, Nonce, ShortId},
    limits::{Limits, Refusal, SessionError},
    message::{Body, Hello, Message, Part, Plan, Tail, Welcome},
    outcome::{Bulk, Cost, Method, Outcome},
    probe::Probes,
    root::{Arrival, Root, SetHash},
    session::{Session, SessionOptions},
    sketch::{Cell, Sketch},
    wire::WireError,
};
