//! Reads that are as fresh as they claim to be.

use mesh_core::store::VersionedStore;

use super::{
    cluster::{Cluster, key, put, soon},
    stories::test,
};
use crate::quorum::QuorumReads;

#[test]
fn a_client_confirms_its_reads_itself() {
    test(async {
        let cluster = Cluster::three().await;
        let client = cluster.client("control", "reader");
        cluster.write(put("a", "1", None)).await;
        // The first one finds out who leads.
        soon("a read", client.get(&key("a"))).await.expect("read");
        let confirmed = || client.counters().confirmed_reads_total();
        soon("a read that is confirmed", async {
            let mut value = 1;
            while confirmed() < 3 {
                value += 1;
                cluster.write(put("a", value.to_string(), None)).await;
                let read = client.get(&key("a")).await.expect("read");
                assert_eq!(read.value.expect("there").value, value.to_string());
            }
        })
        .await;
    });
}

#[test]
fn a_client_reads_on_when_voters_die() {
    test(async {
        let mut cluster = Cluster::three().await;
        let client = cluster.client("control", "reader");
        cluster.write(put("a", "1", None)).await;
        soon("a read", client.get(&key("a"))).await.expect("read");
        soon("a read", client.get(&key("a"))).await.expect("read");
        let leader = cluster.leader().await;
        cluster.kill(&leader);
        cluster.write(put("a", "2", None)).await;
        let read = soon("a read", client.get(&key("a"))).await.expect("read");
        assert_eq!(read.value.expect("there").value, "2");
        let before = client.counters().confirmed_reads_total();
        soon("a read that is confirmed", async {
            while client.counters().confirmed_reads_total() == before {
                assert_eq!(client.get(&key("a")).await.expect("read").value.expect("there").value, "2");
            }
        })
        .await;
    });
}

#[test]
fn nobody_vouches_for_a_leader_that_was_replaced() {
    test(async {
        let cluster = Cluster::three().await;
        cluster.write(put("a", "1", None)).await;
        let old = cluster.leader().await;
        let (read, lead) = cluster.store(&old).get_led(&key("a")).await.expect("read").expect("it leads");
        assert_eq!(read.value.expect("there").value, "1");
        let others: Vec<String> = cluster.nodes.keys().filter(|name| **name != old).cloned().collect();
        let vouches =
            |name: &String| lead.is_confirmed_by(&[cluster.store(name).witness().expect("it votes")]);
        assert!(others.iter().any(vouches));
        cluster.cut(&old);
        // Most votes are with the others now, and so is what is written.
        cluster.write(put("a", "2", None)).await;
        let words: Vec<_> =
            others.iter().map(|name| cluster.store(name).witness().expect("it votes")).collect();
        assert!(!lead.is_confirmed_by(&words));
    });
}

/// Followers learn that an entry is committed by the leader's word, and may have shown it before the leader has
/// applied it.
#[test]
fn a_leader_answers_with_nothing_older_than_what_it_told_others() {
    test(async {
        let cluster = Cluster::three().await;
        cluster.write(put("a", "1", None)).await;
        let leader = cluster.leader().await;
        let (store, group) = (cluster.store(&leader).clone(), cluster.store(&leader).group_here());
        let mut told = group.applied.last().expect("it has applied something");
        told.index += 2;
        group.told.note(Some(told));
        let index = soon("an index", group.own_read_index()).await;
        assert_eq!(index, Some(told.index + 1));
        for led in [false, true] {
            told.index = group.applied.last().expect("there").index + 2;
            group.told.note(Some(told));
            let (store, at) = (store.clone(), key("a"));
            let read = tokio::spawn(async move {
                match led {
                    false => store.get(&at).await.expect("read"),
                    true => store.get_led(&at).await.expect("read").expect("it leads").0,
                }
            });
            let value = if led { "led" } else { "asked" };
            while group.applied.last().expect("there").index < told.index {
                assert!(!read.is_finished(), "it would be old");
                cluster.write(put("a", value, None)).await;
            }
            let read = soon("the read", read).await.expect("no panic");
            assert_eq!(read.value.expect("there").value, value);
        }
    });
}
