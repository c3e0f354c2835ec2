//! What holds whatever becomes of callers, watchers and nodes half way.

use std::{sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use mesh_core::{
    ManualClock, Revision, SystemClock,
    store::{OpenSession, Prefix, StoreError, VersionedStore, WatchEvent, WatchFrom, WatchOptions},
};

use super::{
    cluster::{Cluster, put, soon, until},
    stories::test,
};
use crate::{
    RegistryConfig,
    raft::{
        Begin,
        confirm::confirm,
        duties::{self, Tidy},
        propose::{self, propose},
    },
    state::{Command, Reply, State},
    wire,
};

async fn alone() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.start("n1", Begin::NewGroup).await;
    cluster.write(put("a", "1", None)).await;
    cluster
}

fn session(ttl: Duration) -> OpenSession {
    OpenSession { owner: "w-1".parse().expect("an id"), ttl }
}

#[test]
fn an_idle_watcher_learns_where_it_stands_before_a_compaction_among_other_commands() {
    test(async {
        let cluster = alone().await;
        let (store, idle) = (cluster.store("n1"), Prefix::new("idle/").expect("a prefix"));
        let mut watch = store.watch(&idle, WatchFrom::Now, WatchOptions::default()).await.expect("begun");
        let before = store.status().await.expect("a status").revision;
        let commands = vec![Command::txn(put("a", "2", None)), Command::Compact(Revision(u64::MAX))];
        let reply = propose::write(&store.group_here(), Command::Batch(commands)).await.expect("applied");
        let Reply::Batch(replies) = reply else { panic!("{reply:?}") };
        let compacted = Revision(before.0 + 1);
        assert_eq!(replies[1], Reply::Compacted(compacted));
        let told = soon("a bookmark", watch.next()).await.expect("goes on").expect("no error");
        assert_eq!(told, WatchEvent::Bookmark { revision: compacted }, "so that it can resume from there");
    });
}

#[test]
fn a_node_that_has_its_seat_has_its_group_whoever_gave_up_waiting() {
    test(async {
        let mut cluster = Cluster::new();
        cluster.start("n2", Begin::Wait).await;
        let core = cluster.store("n2").core_here();
        let asked =
            wire::RaftAdopt { group: vec![7; 16].into(), id: 9, directory: core.identity().directory };
        let by = "n1".parse().expect("an id");
        tokio::select! {
            biased;
            adopted = core.adopt(&by, &asked) => adopted.expect("seated"),
            () = until("the seat is taken", || core.identity().seat.is_some()) => {}
        }
        soon("a second try", core.adopt(&by, &asked)).await.expect("it has that seat");
        assert_eq!(cluster.store("n2").voter_id(), Some(9), "and its group runs");
        core.lose_group().await;
        soon("a third try", core.adopt(&by, &asked)).await.expect("it has that seat");
        assert_eq!(cluster.store("n2").voter_id(), Some(9), "even if it did not come about at first");
    });
}

#[test]
fn a_restore_that_fails_leaves_no_pieces() {
    test(async {
        let cluster = alone().await;
        let store = cluster.store("n1");
        let pieces = vec![Ok(Bytes::from_static(b"a piece")), Err(StoreError::Busy { limit: 1 })];
        store.restore(stream::iter(pieces).boxed()).await.expect_err("its source failed");
        assert_eq!(store.group_here().applied.read(State::staged), None);
    });
}

#[test]
fn a_restore_that_nobody_goes_on_with_is_dropped_after_a_while() {
    test(async {
        let cluster = alone().await;
        let group = cluster.store("n1").group_here();
        let (clock, config, mut tidy) = (ManualClock::default(), RegistryConfig::default(), Tidy::default());
        for (offset, staged) in [(0, 5), (5, 10)] {
            let piece = Command::RestoreChunk { id: 7, offset, data: "12345".into() };
            assert_eq!(propose(&group, piece).await, Ok(Reply::Staged(Ok(staged))));
            // It goes on now and then.
            for _ in 0..2 {
                tidy.run(&group, &clock, &config).await;
                assert_eq!(group.applied.read(State::staged), Some((7, staged)));
                clock.advance(Duration::from_secs(400));
            }
        }
        tidy.run(&group, &clock, &config).await;
        assert_eq!(group.applied.read(State::staged), None);
    });
}

#[test]
fn a_voter_that_does_not_lead_keeps_in_mind_whose_renewals_it_did_not_see() {
    test(async {
        let mut cluster = Cluster::three().await;
        let leader = cluster.leader().await;
        let opened = cluster.store(&leader).open_session(session(Duration::from_secs(600))).await;
        let opened = opened.expect("opened").id;
        let follower = cluster.follower().await;
        cluster.kill(&follower);
        cluster.start(&follower, Begin::Wait).await;
        let applied = Arc::clone(&cluster.store(&follower).group_here().applied);
        until("it is back", || applied.read(|state| state.session(opened).is_some())).await;
        let before = applied.recovered();
        assert!(before > 0, "it read of the session in its log");
        // As if it had led, and was replaced before it could confirm that.
        duties::lead(&cluster.store(&follower).group_here(), &SystemClock).await;
        assert_eq!(applied.recovered(), before);
    });
}

#[test]
fn a_reader_that_goes_away_outside_of_a_runtime_leaves_the_next_round_to_others() {
    test(async {
        let cluster = Cluster::three().await;
        cluster.write(put("a", "1", None)).await;
        let group = cluster.store(&cluster.leader().await).group_here();
        let read = || {
            let group = Arc::clone(&group);
            Box::pin(async move { confirm(&group).await })
        };
        let (mut first, mut second) = (read(), read());
        std::future::poll_fn(|context| {
            assert!(first.as_mut().poll(context).is_pending(), "others have to be asked");
            assert!(second.as_mut().poll(context).is_pending(), "it waits for the next round");
            Poll::Ready(())
        })
        .await;
        std::thread::spawn(move || drop(first)).join().expect("no panic");
        soon("its round", second).await;
        soon("a round", async {
            while !confirm(&group).await {
                tokio::task::yield_now().await;
            }
        })
        .await;
    });
}

#[test]
fn those_who_wait_go_on_when_the_runtime_of_who_went_before_them_ends() {
    test(async {
        let cluster = Cluster::three().await;
        cluster.write(put("a", "1", None)).await;
        let leader = cluster.leader().await;
        let group = cluster.store(&leader).group_here();
        cluster.cut(&leader);
        let begin = |name: &str| {
            let (group, command) = (Arc::clone(&group), Command::txn(put(name, "x", None)));
            async move { propose(&group, command).await }
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        // Four entries that nobody confirms, and one that waits for them.
        let stuck: Vec<_> = (0..5).map(|at| runtime.spawn(begin(&format!("stuck/{at}")))).collect();
        until("four are under way", || group.proposer.waiting() == 1).await;
        let waiting = tokio::spawn(begin("waits"));
        until("another waits", || group.proposer.waiting() == 2).await;
        runtime.shutdown_background();
        for stuck in stuck {
            assert!(soon("the end", stuck).await.expect_err("gone").is_cancelled());
        }
        until("it is on its way", || group.proposer.waiting() == 0).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!waiting.is_finished(), "its entry is as good as the others");
        waiting.abort();
    });
}

#[test]
fn a_session_lives_as_long_at_each_voter() {
    test(async {
        let mut cluster = alone().await;
        let asked = Duration::from_secs(60) + Duration::from_micros(300);
        let opened = cluster.store("n1").open_session(session(asked)).await.expect("opened");
        assert_eq!(opened.ttl, Duration::from_millis(60_001), "not shorter than it was asked for");
        // As those have it that read of it in their log.
        cluster.kill("n1");
        cluster.start("n1", Begin::Wait).await;
        let again =
            soon("a read", cluster.store("n1").session(opened.id)).await.expect("read").expect("open");
        assert_eq!(again.ttl, opened.ttl);
    });
}
