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

/// A job, as far as it waits for a caller.
pub(crate) trait Waits {
    /// Whether nobody waits for it any more. It is dropped then.
    fn is_given_up(&self) -> bool;
}

/// The jobs of one way.
#[derive(Debug)]
pub(crate) struct Gather<J> {
    bounds: Together,
    queue: Mutex<Queue<J>>,
}

/// Jobs that wait, each with about how many bytes it is.
#[derive(Debug)]
struct Queue<J> {
    under_way: usize,
    waiting: VecDeque<(usize, J)>,
    /// With so many that wait, those that were given up are dropped: so there are at most twice as many as callers.
    look_at: usize,
}

/// Fewer jobs are not looked over.
const LOOK_AT_MIN: usize = 64;

impl<J> Queue<J> {
    fn is_idle(&self, under_way_max: usize) -> bool {
        self.under_way < under_way_max && self.waiting.is_empty()
    }
}

impl<J: Waits> Gather<J> {
    pub(crate) fn new(bounds: Together) -> Self {
        let queue = Queue { under_way: 0, waiting: VecDeque::new(), look_at: LOOK_AT_MIN };
        Self { bounds, queue: Mutex::new(queue) }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<J>> {
        // Each change is one step.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `alone` back if the caller may go at once; then it says [`next`](Self::next) when it is back. If not, the
    /// job waits for somebody who is.
    pub(crate) fn enter<A>(&self, bytes: usize, alone: A, wait: impl FnOnce(A) -> J) -> Option<A> {
        let mut queue = self.lock();
        if queue.is_idle(self.bounds.under_way_max) {
            queue.under_way += 1;
            return Some(alone);
        }
        if queue.waiting.len() >= queue.look_at {
            queue.waiting.retain(|(_, job)| !job.is_given_up());
            queue.look_at = (2 * queue.waiting.len()).max(LOOK_AT_MIN);
        }
        queue.waiting.push_back((bytes, wait(alone)));
        None
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// What goes next, by whoever is back. If nobody waits, one less is under way.
    pub(crate) fn next(&self) -> Option<Vec<J>> {
        let mut queue = self.lock();
        let mut trip = Vec::new();
        let mut bytes = 0;
        while trip.len() < self.bounds.jobs_max {
            let Some((more, job)) = queue.waiting.front() else { break };
            if job.is_given_up() {
                queue.waiting.pop_front();
                continue;
            }
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

    /// Whoever went on with what waits can't any more: all that wait now are dropped, and one less is under way.
    pub(crate) fn abandon(&self) {
        while self.next().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Waits for i32 {
        fn is_given_up(&self) -> bool {
            *self < 0
        }
    }

    #[test]
    fn jobs_that_were_given_up_neither_go_nor_pile_up() {
        let gather = Gather::new(Together { under_way_max: 1, jobs_max: 3, bytes_max: 10 });
        let enter = |job| gather.enter(1, job, |job| job).is_some();
        assert!(enter(1) && !enter(2));
        for _ in 0..10_000 {
            assert!(!enter(-1));
            assert!(gather.waiting() <= LOOK_AT_MIN + 1);
        }
        assert!(!enter(3));
        assert_eq!((gather.next(), gather.next()), (Some(vec![2, 3]), None));
        assert!(enter(4) && !enter(5));
        gather.abandon();
        assert!(enter(6), "nobody is under way");
    }

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
