//! What a group does when its nodes come and go.

use mesh_core::store::{Compare, StoreError, TxnError, VersionedStore};

use super::cluster::{Cluster, key, put, soon, until};
use crate::{LeaderHint, Leadership, raft::Begin};

fn test(story: impl Future<Output = ()>) {
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
        let cluster =
            Cluster::three_with(|config| config.request_timeout = std::time::Duration::from_secs(1)).await;
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
