//! The runtime under quinn: its tasks let others go first while requests come.
//!
//! tokio runs a task that was just woken before all others of its thread. quinn's tasks are
//! woken by each write, so that each small request would leave in a packet of its own and
//! with a system call of its own, although the next one is about to be written. Where a
//! task waits for its turn instead, the writes of all tasks before it go out together, and
//! so do their acknowledgements: a third of the processor time of a small call over HTTP/3.
//!
//! An endpoint on which no requests come, such as one that carries gossip alone, does not
//! wait: on a machine that has far too much to do, each turn counts there.

use std::{
    future::Future,
    io,
    net::UdpSocket,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};

/// Turns for which a request is remembered.
#[cfg(feature = "rpc")]
const TURNS: usize = 64;

/// Whether requests come on the QUIC connections of one endpoint. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Turns that are still to be waited for. It may be off by a few when threads race for it.
    turns: Arc<AtomicUsize>,
}

impl Load {
    /// A request begins.
    #[cfg(feature = "rpc")]
    pub(crate) fn request(&self) {
        // Not each time: all threads would have to fetch it again.
        if self.turns.load(Ordering::Relaxed) < TURNS / 2 {
            self.turns.store(TURNS, Ordering::Relaxed);
        }
    }

    /// Whether a task should wait before this turn of its.
    fn is_high(&self) -> bool {
        let turns = self.turns.load(Ordering::Relaxed);
        if turns > 0 {
            self.turns.store(turns - 1, Ordering::Relaxed);
        }
        turns > 0
    }
}

/// tokio, for an endpoint with this load.
#[derive(Debug)]
pub(crate) struct LoadedRuntime(pub(crate) Load);

impl Runtime for LoadedRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        tokio::spawn(Patient { task, load: self.0.clone(), waited: false });
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }
}

/// A task that gives way once before each turn.
struct Patient {
    task: Pin<Box<dyn Future<Output = ()> + Send>>,
    load: Load,
    waited: bool,
}

impl Future for Patient {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.waited = !self.waited && self.load.is_high();
        if self.waited {
            // To the end of the queue: a task that wakes itself does not go first.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.task.as_mut().poll(cx)
    }
}

#[cfg(all(test, feature = "rpc"))]
mod tests {
    use super::*;

    /// How many of three writers get their turn before a task of quinn's that one of them wakes.
    async fn writers_before(load: Load) -> usize {
        let (wake, woken) = tokio::sync::oneshot::channel();
        let (done, sent) = tokio::sync::oneshot::channel();
        let written = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&written);
        LoadedRuntime(load).spawn(Box::pin(async move {
            woken.await.expect("a writer");
            done.send(seen.load(Ordering::Relaxed)).expect("somebody waits");
        }));
        // Let it begin to wait.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        let mut wake = Some(wake);
        for _ in 0..3 {
            let (written, wake) = (Arc::clone(&written), wake.take());
            tokio::spawn(async move {
                written.fetch_add(1, Ordering::Relaxed);
                if let Some(wake) = wake {
                    wake.send(()).expect("it waits");
                }
            });
        }
        sent.await.expect("it is sent")
    }

    #[test]
    fn while_requests_come_all_write_before_anything_is_sent() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
        let runtime = runtime.expect("a runtime");
        // On the one worker, whose order this is about.
        let count = |load: &Load| {
            let task = runtime.spawn(writers_before(load.clone()));
            runtime.block_on(task).expect("no panic")
        };
        let load = Load::default();
        // This is why: tokio lets the woken task pass the others. If it no longer does, this file can go.
        assert!(count(&load) < 3);
        load.request();
        assert_eq!(count(&load), 3);
    }

    #[test]
    fn a_request_is_remembered_for_a_while() {
        let load = Load::default();
        let turns = || std::iter::repeat_with(|| load.is_high()).take_while(|high| *high).count();
        assert_eq!(turns(), 0);
        load.request();
        load.request();
        assert_eq!(turns(), TURNS);
    }

    #[test]
    fn a_task_gives_way_once_before_each_turn_and_only_under_load() {
        let turns = Arc::new(AtomicUsize::new(0));
        let load = Load::default();
        let counted = Arc::clone(&turns);
        let task = Box::pin(std::future::poll_fn(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Poll::Pending
        }));
        let mut patient = Box::pin(Patient { task, load: load.clone(), waited: false });
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut after = |polls: usize| {
            for _ in 0..polls {
                assert!(patient.as_mut().poll(&mut cx).is_pending());
            }
            turns.swap(0, Ordering::Relaxed)
        };
        assert_eq!(after(4), 4);
        load.request();
        assert_eq!(after(1), 0);
        assert_eq!(after(1), 1);
        assert_eq!(after(4), 2);
    }
}
