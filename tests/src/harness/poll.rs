//! Waiting for what sends no event: a page, a file.

use std::{thread, time::Duration};

use anyhow::{Result, bail};
use mesh_core::{Clock, SystemClock};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks again and again until there is something, at most this long.
///
/// # Errors
///
/// There was nothing; or the look itself failed.
pub fn poll<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = SystemClock.now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if SystemClock.now().since(started) >= patience {
            bail!("waited {patience:?} until {what}");
        }
        thread::park_timeout(PAUSE);
    }
}
