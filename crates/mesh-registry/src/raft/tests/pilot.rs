//! What autopilot makes of changes that did not end as they should.

use std::collections::BTreeSet;

use openraft::{ChangeMembers, async_runtime::watch::WatchReceiver};

use super::{
    cluster::{Cluster, soon, until},
    stories::test,
};

#[test]
fn a_change_of_voters_that_stopped_half_way_is_completed() {
    test(async {
        let cluster = Cluster::three().await;
        // Two entries make a change. Whoever asks for it goes away when the first one is there; that can't commit yet,
        // so the second one is not asked for.
        let half = async {
            loop {
                let (leader, kept) = (cluster.leader().await, cluster.follower().await);
                let group = cluster.store(&leader).group_here();
                let wanted = [group.seat.id, cluster.store(&kept).voter_id().expect("it votes")];
                cluster.cut(&kept);
                let mut metrics = group.raft.server_metrics();
                let changed = async {
                    while group.membership().get_joint_config().len() == 1 {
                        metrics.changed().await.expect("it runs");
                    }
                };
                let change = ChangeMembers::ReplaceAllVoters(BTreeSet::from(wanted));
                let changed = tokio::select! {
                    () = changed => true,
                    done = group.raft.change_membership(change, true) => {
                        // A busy machine may have elected another one by now.
                        done.expect_err("most of the wanted voters can't be reached");
                        false
                    }
                };
                cluster.heal(&kept);
                if changed {
                    return group;
                }
            }
        };
        let group = soon("half a change", half).await;
        let sets = || group.membership().get_joint_config().len();
        until("somebody to complete the change", || sets() == 1).await;
        cluster.voters(&["n1", "n2", "n3"]).await;
    });
}
