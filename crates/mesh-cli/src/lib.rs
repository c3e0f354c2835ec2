#![doc = include_str!("../README.md")]

pub mod args;
pub mod client;
pub mod commands;
pub mod context;
pub mod failure;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
pub mod output;
