//! A value in memory behind a fence.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mesh_core::FencingToken;

use super::{FenceError, HighWater};

/// A value that only the newest leader can change.
///
/// ```
/// use mesh_core::FencingToken;
/// use mesh_leader::fence::Fenced;
/// let jobs = Fenced::new(vec!["first"]);
/// let token = FencingToken { generation: 1, counter: 4 };
/// jobs.commit(token, |jobs| jobs.push("second"))?;
/// assert_eq!(jobs.read(|jobs| jobs.len()), 2);
/// # Ok::<(), mesh_leader::fence::FenceError>(())
/// ```
#[derive(Debug, Default)]
pub struct Fenced<T> {
    inner: Mutex<(HighWater, T)>,
}

impl<T> Fenced<T> {
    /// A value that nobody has changed yet.
    pub fn new(value: T) -> Self {
        Self { inner: Mutex::new((HighWater::default(), value)) }
    }

    fn lock(&self) -> MutexGuard<'_, (HighWater, T)> {
        // The mark is raised before the change: a change that panicked was the newest leader's own.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares, raises the mark and changes the value, in one step.
    ///
    /// # Errors
    ///
    /// [`FenceError::Stale`] if a newer token was admitted before; `change` was not called.
    pub fn commit<R>(&self, token: FencingToken, change: impl FnOnce(&mut T) -> R) -> Result<R, FenceError> {
        let mut inner = self.lock();
        inner.0.admit(token)?;
        Ok(change(&mut inner.1))
    }

    /// Looks at the value. Readers need no token.
    pub fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.lock().1)
    }

    /// The highest token that was admitted.
    pub fn admitted(&self) -> Option<FencingToken> {
        self.lock().0.token()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn of_many_writers_at_once_none_writes_below_another() {
        let log = Arc::new(Fenced::new(Vec::new()));
        let threads: Vec<_> = (0..8u64)
            .map(|counter| {
                let log = Arc::clone(&log);
                std::thread::spawn(move || {
                    let token = FencingToken { generation: 1, counter };
                    (0..200).filter(|_| log.commit(token, |log| log.push(counter)).is_ok()).count()
                })
            })
            .collect();
        let admitted: usize = threads.into_iter().map(|thread| thread.join().expect("no panic")).sum();
        log.read(|log| {
            assert_eq!(log.len(), admitted);
            assert!(log.is_sorted(), "an older token wrote after a newer one");
        });
    }
}
