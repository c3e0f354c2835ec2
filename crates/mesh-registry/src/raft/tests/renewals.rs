//! Renewals that come together make one entry of the log.

use std::time::Duration;

use futures_util::future::join_all;
use mesh_core::store::{OpenSession, VersionedStore};
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::Instant;

use super::{
    cluster::{Cluster, soon},
    stories::test,
};
use crate::raft::Begin;

/// Renewals gather for so long.
const TICK: Duration = Duration::from_millis(100);

#[test]
fn renewals_of_many_sessions_take_one_entry_for_each_tenth_of_a_second() {
    const SESSIONS: usize = 200;
    test(async {
        let mut cluster = Cluster::new();
        cluster.start("n1", Begin::NewGroup).await;
        cluster.leader().await;
        let store = cluster.store("n1");
        let request = OpenSession { owner: "n1".parse().expect("a node"), ttl: Duration::from_secs(60) };
        let opened = join_all((0..SESSIONS).map(|_| store.open_session(request.clone()))).await;
        let opened: Vec<_> = opened.into_iter().map(|session| session.expect("opens").id).collect();
        let entries = || {
            let group = store.group_here();
            let metrics = group.raft.metrics();
            metrics.borrow_watched().last_log_index.expect("there are entries")
        };

        let (before, begun) = (entries(), Instant::now());
        let renewals = join_all(opened.iter().map(|session| store.keep_alive(*session)));
        for renewed in soon("the renewals", renewals).await {
            assert_eq!(renewed.expect("renews").renewals, 1);
        }
        let ticks = begun.elapsed().as_millis() / TICK.as_millis();
        let grown = u128::from(entries() - before);
        // The first does not wait for a tick, and the last tick may be under way.
        assert!((1..=ticks + 2).contains(&grown), "{grown} entries in {ticks} ticks");
        assert!(grown < SESSIONS as u128 / 4, "{grown} entries for {SESSIONS} renewals");
    });
}
