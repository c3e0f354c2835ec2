//! The event heap: one order for everything that happens in a run.

use std::{cmp::Ordering, collections::BinaryHeap};

use mesh_core::Instant;

/// Events by time; of two at the same time the one pushed first comes first.
///
/// The order depends on nothing but the pushes, so that a run can be replayed.
#[derive(Debug)]
pub struct EventQueue<E> {
    heap: BinaryHeap<Entry<E>>,
    pushed: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at: Instant,
    order: u64,
    event: E,
}

impl<E> Default for EventQueue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), pushed: 0 }
    }
}

impl<E> EventQueue<E> {
    /// Adds an event that happens at `at`.
    pub fn push(&mut self, at: Instant, event: E) {
        self.pushed += 1;
        self.heap.push(Entry { at, order: self.pushed, event });
    }

    /// Takes the next event if it happens at `until` or before.
    pub fn pop_until(&mut self, until: Instant) -> Option<(Instant, E)> {
        if self.heap.peek()?.at > until {
            return None;
        }
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }

    /// Events that wait.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

// The heap yields its greatest entry, which has to be the earliest one.
impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_moment_keep_the_order_they_were_pushed_in() {
        let mut queue = EventQueue::default();
        let at = Instant::from_nanos;
        for (time, name) in [(7, 'c'), (3, 'a'), (7, 'd'), (3, 'b'), (9, 'e')] {
            queue.push(at(time), name);
        }
        let mut seen = String::new();
        while let Some((_, name)) = queue.pop_until(at(8)) {
            seen.push(name);
        }
        assert_eq!(seen, "abcd");
        assert_eq!(queue.len(), 1);
    }
}
