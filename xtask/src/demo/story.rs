//! What the demo tells, each line with the time since its start.

use std::{fmt, time::Duration};

use crate::steps::Stopwatch;

/// Where the story goes: to people on standard output, or beside data on standard error.
#[derive(Debug)]
pub(super) struct Story {
    watch: Stopwatch,
    beside_data: bool,
}

impl Story {
    pub(super) fn start(beside_data: bool) -> Self {
        Self { watch: Stopwatch::start(), beside_data }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.watch.elapsed()
    }

    pub(super) fn tell(&self, what: impl fmt::Display) {
        let line = format!("{:7.3} s  {what}", self.elapsed().as_secs_f64());
        if self.beside_data {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    }
}
