//! How two peers find out what the other lacks. Everything here is sans-io.

mod decode;
mod index;
mod key;
mod order;
mod probe;
mod root;
mod sip;
mod sketch;
mod slab;
mod wire;

pub use self::{
    index::Index,
    key::{EpochKey, Nonce, ShortId},
    root::{Arrival, Root, SetHash},
    sketch::{Cell, Sketch},
    wire::WireError,
};
