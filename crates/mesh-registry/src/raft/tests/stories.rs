//! What a group does when its nodes come and go.

use std::{future::Future, time::Duration};

use futures_util::StreamExt;
use mesh_core::store::{
    Compare, OpenSession, Prefix, SessionError, StoreError, TxnError, VersionedStore, WatchEvent, WatchFrom,
    WatchOptions,
};

use super::cluster::{Cluster, key, put, soon, until};
use crate::{
    LeaderHint, Leadership,
    raft::{Begin, snapshot, types::SnapshotMeta},
    state::{Command, State},
    wire,
};

pub(super) fn test(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(story);
}

#[test]
fn one_node_is_a_group_and_finds_everything_after_a_restart() {
    test(async {
        let mut cluster = Cluster::new();
        cluster.start("n1", Begin::NewGroup).await;
        for i in 0..50 {
            cluster.write(put(&format!("k{i}"), format!("v{i}"), None)).await;
        }
        let revision = cluster.store("n1").status().await.expect("a status").revision;
        cluster.kill("n1");
        // It has a group already, so that no other begins.
        cluster.start("n1", Begin::NewGroup).await;
        for i in 0..50 {
            assert_eq!(cluster.read("n1", &format!("k{i}")).await, Some(format!("v{i}").into()));
        }
        assert_eq!(cluster.store("n1").status().await.expect("a status").revision, revision);
    });
}

#[test]
fn three_nodes_become_voters_and_go_on_when_the_leader_dies() {
    test(async {
        let mut cluster = Cluster::three().await;
        cluster.write(put("a", "1", None)).await;
        for name in ["n1", "n2", "n3"] {
            assert_eq!(cluster.read(name, "a").await, Some("1".into()), "{name}");
        }
        let first = cluster.leader().await;
        cluster.kill(&first);
        cluster.write(put("a", "2", None)).await;
        let second = cluster.leader().await;
        assert_ne!(first, second);
        cluster.start(&first, Begin::Wait).await;
        assert_eq!(cluster.read(&first, "a").await, Some("2".into()));
        cluster.voters(&["n1", "n2", "n3"]).await;
    });
}

#[test]
fn a_follower_names_the_leader_and_takes_no_writes() {
    test(async {
        let cluster = Cluster::three().await;
        let (leader, follower) = (cluster.leader().await, cluster.follower().await);
        let error = cluster.store(&follower).transact(put("a", "1", None)).await.expect_err("not the leader");
        let TxnError::Store(StoreError::Unavailable { source: Some(source), .. }) = &error else {
            panic!("{error:?}");
        };
        assert_eq!(source.to_string(), format!("{leader} leads"));
        assert_eq!(cluster.store(&follower).leadership(), Leadership::There(leader.parse().expect("an id")));
    });
}

#[test]
fn a_leader_that_is_cut_off_neither_reads_nor_writes() {
    test(async {
        let cluster = Cluster::three_with(|config| config.request_timeout = Duration::from_secs(1)).await;
        cluster.write(put("a", "1", None)).await;
        let old = cluster.leader().await;
        cluster.cut(&old);
        cluster.write(put("a", "2", None)).await;
        let store = cluster.store(&old);
        assert!(store.get(&key("a")).await.is_err(), "it would be old");
        assert!(store.transact(put("a", "3", None)).await.is_err());
        assert_eq!(store.get_stale(&key("a")).await.expect("a copy").value.expect("there").value, "1");
        cluster.heal(&old);
        assert_eq!(cluster.read(&old, "a").await, Some("2".into()));
        cluster.write(put("a", "4", None).when(Compare::Value { key: key("a"), value: "2".into() })).await;
    });
}

#[test]
fn acknowledged_writes_survive_restarts_in_any_order() {
    test(async {
        let mut cluster = Cluster::three().await;
        let mut written = 0;
        for order in [["n1", "n2", "n3"], ["n3", "n1", "n2"], ["n2", "n3", "n1"]] {
            for _ in 0..20 {
                cluster.write(put(&format!("k{written}"), "v", None)).await;
                written += 1;
            }
            for name in order {
                cluster.kill(name);
            }
            for name in order.into_iter().rev() {
                cluster.start(name, Begin::Wait).await;
            }
            let leader = cluster.leader().await;
            for i in 0..written {
                assert_eq!(cluster.read(&leader, &format!("k{i}")).await, Some("v".into()), "k{i}");
            }
        }
    });
}

#[test]
fn a_voter_that_stays_dead_is_replaced_and_the_old_one_learns_it() {
    test(async {
        let mut cluster = Cluster::three().await;
        cluster.start("n4", Begin::Wait).await;
        let dead = cluster.follower().await;
        cluster.kill(&dead);
        let rest: Vec<&str> = ["n1", "n2", "n3", "n4"].into_iter().filter(|name| *name != dead).collect();
        cluster.voters(&rest).await;
        cluster.write(put("a", "1", None)).await;
        cluster.start(&dead, Begin::Wait).await;
        assert_eq!(cluster.read(&dead, "a").await, Some("1".into()));
        cluster.voters(&rest).await;
    });
}

#[test]
fn a_wiped_directory_comes_back_under_another_number() {
    test(async {
        let mut cluster = Cluster::three().await;
        cluster.write(put("a", "1", None)).await;
        let wiped = cluster.follower().await;
        let before = cluster.store(&wiped).voter_id();
        cluster.kill(&wiped);
        std::fs::remove_dir_all(cluster.data(&wiped)).expect("wiped");
        cluster.start(&wiped, Begin::Wait).await;
        soon("the node to be taken in", cluster.store(&wiped).joined()).await;
        cluster.voters(&["n1", "n2", "n3"]).await;
        assert_ne!(cluster.store(&wiped).voter_id(), before);
        assert_eq!(cluster.read(&wiped, "a").await, Some("1".into()));
    });
}

#[test]
fn a_learner_far_behind_catches_up_by_a_snapshot() {
    test(async {
        let mut cluster = Cluster::three_with(|config| config.snapshot_entries = 100).await;
        let behind = cluster.follower().await;
        cluster.kill(&behind);
        let value = vec![7_u8; 20_000];
        for i in 0..400 {
            cluster.write(put(&format!("k{i}"), value.clone(), None)).await;
        }
        cluster.start(&behind, Begin::Wait).await;
        assert_eq!(cluster.read(&behind, "k399").await, Some(value.clone().into()));
        assert_eq!(cluster.read(&behind, "k0").await, Some(value.into()));
        // What it has by now is on its disk as well.
        cluster.kill(&behind);
        cluster.start(&behind, Begin::Wait).await;
        until("the copy to be there", || {
            let store = cluster.store(&behind).clone();
            futures_util::FutureExt::now_or_never(async move { store.get_stale(&key("k399")).await })
                .is_some_and(|read| read.is_ok_and(|stale| stale.value.is_some()))
        })
        .await;
    });
}

#[test]
fn a_node_reaches_the_leader_through_its_own_store() {
    test(async {
        let cluster = Cluster::three().await;
        let follower = cluster.follower().await;
        let own = cluster.nodes[&follower].own.clone();
        let written = soon("a write", own.transact(put("a", "1", None))).await.expect("written");
        let read = soon("a read", own.get(&key("a"))).await.expect("read");
        assert!(read.revision >= written.revision);
        assert_eq!(read.value.expect("there").value, "1");
    });
}

#[test]
fn a_leader_that_stops_hands_over_first() {
    test(async {
        let mut cluster = Cluster::three().await;
        let leader = cluster.leader().await;
        soon("the stop", cluster.store(&leader).stop()).await;
        // The others did not have to miss it.
        let heir = cluster.leader().await;
        assert_ne!(heir, leader);
        cluster.kill(&leader);
        cluster.write(put("a", "1", None)).await;
    });
}

#[test]
fn a_session_goes_on_over_a_failover_and_ends_in_its_time_without_renewals() {
    test(async {
        let mut cluster = Cluster::three().await;
        let request =
            |ttl| OpenSession { owner: "tester".parse().expect("an id"), ttl: Duration::from_millis(ttl) };
        let leader = cluster.leader().await;
        let kept = cluster.store(&leader).open_session(request(60_000)).await.expect("open");
        let short = cluster.store(&leader).open_session(request(1500)).await.expect("open");
        cluster.write(put("kept", "", Some(kept.id))).await;
        cluster.write(put("short", "", Some(short.id))).await;
        cluster.kill(&leader);
        let next = cluster.leader().await;
        let store = cluster.store(&next);
        soon("the renewal", async {
            while store.keep_alive(kept.id).await.is_err_and(|e| matches!(e, SessionError::Store(_))) {}
        })
        .await;
        soon("the end of the session", async {
            while store.session(short.id).await.expect("read").is_some() {
                // sleeps: polls until the session is gone
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        assert_eq!(cluster.read(&next, "short").await, None);
        assert_eq!(cluster.read(&next, "kept").await, Some("".into()));
        let gone = store.keep_alive(short.id).await;
        assert!(matches!(gone, Err(SessionError::Gone { session }) if session == short.id), "{gone:?}");
    });
}

#[test]
fn watches_on_every_voter_see_each_change_once_and_in_order_over_a_failover() {
    test(async {
        let mut cluster = Cluster::three().await;
        let survivor = cluster.follower().await;
        let prefix = Prefix::new("k").expect("a prefix");
        let mut watch = cluster
            .store(&survivor)
            .watch(&prefix, WatchFrom::Now, WatchOptions::default())
            .await
            .expect("a watch");
        let mut revisions = Vec::new();
        for i in 0..20 {
            revisions.push(cluster.write(put("k", format!("{i}"), None)).await.revision);
            if i == 10 {
                let leader = cluster.leader().await;
                cluster.kill(&leader);
            }
        }
        let mut seen = Vec::new();
        soon("the changes", async {
            while seen.last() != revisions.last() {
                match watch.next().await.expect("goes on").expect("no error") {
                    WatchEvent::Changes { revision, .. } => seen.push(revision),
                    WatchEvent::Bookmark { .. } => {}
                    gap => panic!("{gap:?}"),
                }
            }
        })
        .await;
        // A write that had to be repeated may have happened twice, but nothing is missing or out of order.
        assert!(seen.is_sorted() && revisions.iter().all(|revision| seen.contains(revision)));
    });
}

#[test]
fn only_nodes_with_the_role_may_speak_and_only_for_themselves() {
    test(async {
        let cluster = Cluster::three().await;
        let leader = cluster.leader().await;
        let store = cluster.store(&leader);
        let group = store.group().expect("a group");
        let (own, other) =
            (store.voter_id().expect("an id"), cluster.store(&cluster.follower().await).voter_id());
        let head = |group: &[u8], from: Option<u64>, to| wire::RaftConfirm {
            head: Some(wire::RaftHead { group: group.to_vec().into(), from: from.unwrap_or(0), to }),
        };
        let group = group.to_bytes();
        let mut worker = cluster.raft_client("worker", "w1", &leader);
        let refused = worker.confirm(head(&group, other, own)).await.expect_err("a worker");
        assert!(refused.message().contains("has the role worker"), "{refused:?}");
        let mut stranger = cluster.raft_client("control", "n9", &leader);
        let refused = stranger.confirm(head(&group, other, own)).await.expect_err("somebody else's number");
        assert!(refused.message().contains("the certificate says n9"), "{refused:?}");
        let refused = stranger.confirm(head(&[1; 16], other, own)).await.expect_err("another group");
        assert!(refused.message().contains("this node belongs to"), "{refused:?}");
        let refused = stranger.confirm(head(&group, Some(999), own + 100)).await.expect_err("another voter");
        assert!(refused.message().contains("this is"), "{refused:?}");
    });
}

#[test]
fn a_snapshot_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut state = State::default();
    for i in 0..200 {
        state.apply(&Command::txn(put(&format!("k{i}"), vec![i as u8; 5000], None)));
    }
    let built = snapshot::build(folder.path(), state.clone(), SnapshotMeta::default()).expect("built");
    let meta = built.describe();
    let mut incoming = snapshot::Incoming::new(folder.path().to_owned());
    let half = meta.bytes / 2;
    let piece = built.read(0, usize::try_from(half).expect("small")).expect("read");
    assert!(incoming.push(&meta, 0, &piece).expect("taken").is_none());
    assert_eq!(incoming.offset(&meta), half);
    // The same piece again, as after an answer that was lost, changes nothing.
    assert!(incoming.push(&meta, 0, &piece).expect("ignored").is_none());
    assert_eq!(incoming.offset(&meta), half);
    let rest = built.read(half, usize::MAX).expect("read");
    let mut bent = rest.to_vec();
    let complete = incoming.push(&meta, half, &rest).expect("taken").expect("complete");
    assert_eq!(complete.load().expect("loads").records_len(), 200);
    // What arrives altered is refused, and begins anew.
    bent[100] ^= 1;
    assert!(incoming.push(&meta, 0, &piece).expect("taken").is_none());
    let refused = incoming.push(&meta, half, &bent).expect_err("altered").to_string();
    assert!(refused.contains("not what the leader has"), "{refused}");
    assert_eq!(incoming.offset(&meta), 0);
}

#[cfg(feature = "planted-bugs")]
#[test]
fn a_number_that_is_given_out_again_is_seen() {
    test(async {
        let mut cluster = Cluster::three().await;
        for node in cluster.nodes.values() {
            node.store.plant(crate::PlantedBug::ReuseRaftId);
        }
        let wiped = cluster.follower().await;
        let before = cluster.store(&wiped).voter_id();
        // The leader has to have looked at the group once.
        cluster.start("n4", Begin::Wait).await;
        soon("the fourth node to be taken in", cluster.store("n4").joined()).await;
        cluster.kill(&wiped);
        std::fs::remove_dir_all(cluster.data(&wiped)).expect("wiped");
        cluster.start(&wiped, Begin::Wait).await;
        soon("the node to be taken in", cluster.store(&wiped).joined()).await;
        // What the story of a wiped directory forbids.
        assert_eq!(cluster.store(&wiped).voter_id(), before);
    });
}
