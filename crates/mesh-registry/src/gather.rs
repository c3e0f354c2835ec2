//! Jobs that come while enough are under way wait, and go together.
//!
//! So a single caller loses no time, and many callers share what each trip costs: to the log, or over the network.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// How much goes together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Together {
    /// Trips at once. More of them would each take fewer jobs along.
    pub(crate) under_way_max: usize,
    /// Jobs of one trip.
    pub(crate) jobs_max: usize,
    /// Bytes of one trip, about; a job that is larger has one to itself.
    pub(crate) bytes_max: usize,
}

/// The jobs of one way.
#[derive(Debug)]
pub(crate) struct Gather<J> {
    bounds: Together,
    queue: Mutex<Queue<J>>,
}

/// Jobs that wait, each with about how many bytes it is. Each has a caller that waits, so that there are never more than
/// callers.
#[derive(Debug)]
struct Queue<J> {
    under_way: usize,
    waiting: VecDeque<(usize, J)>,
}

impl<J> Gather<J> {
    pub(crate) fn new(bounds: Together) -> Self {
        Self { bounds, queue: Mutex::new(Queue { under_way: 0, waiting: VecDeque::new() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<J>> {
        // Each change is one step.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `alone` back if the caller may go at once; then it says [`next`](Self::next) when it is back. If not, the
    /// job waits for somebody who is.
    pub(crate) fn enter<A>(&self, bytes: usize, alone: A, wait: impl FnOnce(A) -> J) -> Option<A> {
        let mut queue = self.lock();
        if queue.under_way < self.bounds.under_way_max && queue.waiting.is_empty() {
            queue.under_way += 1;
            return Some(alone);
        }
        queue.waiting.push_back((bytes, wait(alone)));
        None
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// What goes next, by whoever is back. If nothing waits, one less is under way.
    pub(crate) fn next(&self) -> Option<Vec<J>> {
        let mut queue = self.lock();
        let mut trip = Vec::new();
        let mut bytes = 0;
        while trip.len() < self.bounds.jobs_max {
            let Some((more, _)) = queue.waiting.front() else { break };
            bytes += more;
            if bytes > self.bounds.bytes_max && !trip.is_empty() {
                break;
            }
            trip.extend(queue.waiting.pop_front().map(|(_, job)| job));
        }
        if trip.is_empty() {
            queue.under_way -= 1;
            return None;
        }
        Some(trip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_first_goes_alone_and_the_others_together() {
        let gather = Gather::new(Together { under_way_max: 2, jobs_max: 3, bytes_max: 10 });
        let enter = |bytes, job| gather.enter(bytes, job, |job| job).is_some();
        assert!(enter(1, 1) && enter(1, 2));
        for job in 3..=6 {
            assert!(!enter(1, job));
        }
        assert_eq!(gather.next(), Some(vec![3, 4, 5]), "no more than three");
        assert!(!enter(8, 7) && !enter(40, 8));
        assert_eq!(gather.next(), Some(vec![6, 7]), "no more than ten bytes");
        assert_eq!(gather.next(), Some(vec![8]), "what is larger goes by itself");
        assert_eq!((gather.next(), gather.next()), (None, None), "both are back");
        assert!(enter(1, 9));
    }
}
