//! What the service and the client count. Plain numbers: exporting them is another module's business.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a [`StoreService`](crate::StoreService) counts.
#[derive(Debug, Default)]
pub struct ServiceCounters {
    denied: AtomicU64,
    shed: AtomicU64,
    redirected: AtomicU64,
    watchers: AtomicU64,
    changes_sent: AtomicU64,
    gaps: AtomicU64,
}

macro_rules! counts {
    ($type:ident { $($(#[$doc:meta])* $read:ident = $field:ident by $write:ident;)+ }) => {
        impl $type {
            $(
                $(#[$doc])*
                pub fn $read(&self) -> u64 {
                    self.$field.load(Relaxed)
                }
                pub(crate) fn $write(&self) {
                    self.$field.fetch_add(1, Relaxed);
                }
            )+
        }
    };
}

counts! { ServiceCounters {
    /// Requests of callers that may not do that.
    denied_total = denied by denied;
    /// Requests refused because too many were at work.
    shed_total = shed by shed;
    /// Requests answered with who leads, or that nobody is known to.
    redirected_total = redirected by redirected;
    /// Watches at work.
    watchers = watchers by watch_begun;
    /// Gaps that watchers were told of.
    gaps_total = gaps by gap;
} }

impl ServiceCounters {
    /// Changes that were sent to watchers, each counted once for each watcher.
    pub fn changes_sent_total(&self) -> u64 {
        self.changes_sent.load(Relaxed)
    }

    pub(crate) fn watch_ended(&self) {
        self.watchers.fetch_sub(1, Relaxed);
    }

    pub(crate) fn changes_sent(&self, changes: usize) {
        self.changes_sent.fetch_add(changes as u64, Relaxed);
    }
}

/// What a [`RemoteStore`](crate::RemoteStore) counts.
#[derive(Debug, Default)]
pub struct RemoteCounters {
    retries: AtomicU64,
    redirects: AtomicU64,
    sessions: AtomicU64,
    resumed: AtomicU64,
    confirmed: AtomicU64,
}

counts! { RemoteCounters {
    /// Tries after the first one of a request.
    retries_total = retries by retried;
    /// Answers that named another node as the leader.
    redirects_total = redirects by redirected;
    /// Sessions opened to name transactions with.
    sessions_total = sessions by session_opened;
    /// Watches taken up again after their connection was lost.
    watches_resumed_total = resumed by watch_resumed;
    /// Linearizable reads that this client confirmed itself.
    confirmed_reads_total = confirmed by read_confirmed;
} }
