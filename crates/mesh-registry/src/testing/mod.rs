//! How to find out whether a provider keeps its promises.

pub mod history;
