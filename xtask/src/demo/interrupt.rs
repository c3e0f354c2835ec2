//! Ctrl-C and SIGTERM: noted, and looked at wherever the demo waits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How often a wait looks up. People do not notice it, and the processor hardly does.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// Why a wait ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted by a signal")
    }
}

impl std::error::Error for Interrupted {}

/// Whether somebody asked the demo to stop. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From here on signals are noted and do not end the process.
    pub(super) fn listen() -> Result<Self> {
        Self::listen_to(&[SIGINT, SIGTERM, SIGHUP])
    }

    fn listen_to(signals: &[i32]) -> Result<Self> {
        let noted = Self::default();
        for number in signals {
            signal_hook::flag::register(*number, Arc::clone(&noted.0))
                .context("cannot listen for signals")?;
        }
        Ok(noted)
    }

    pub(super) fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails once somebody has asked.
    pub(super) fn check(&self) -> Result<(), Interrupted> {
        if self.asked() { Err(Interrupted) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_noted_and_does_not_end_the_process() {
        let interrupt = Interrupt::listen_to(&[SIGHUP]).expect("listens");
        assert_eq!(interrupt.check(), Ok(()));
        super::super::process::signal("HUP", std::process::id()).expect("sent");
        while !interrupt.asked() {
            std::thread::yield_now();
        }
        assert_eq!(interrupt.check(), Err(Interrupted));
    }
}
