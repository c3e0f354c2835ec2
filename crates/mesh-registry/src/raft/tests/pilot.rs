//! What autopilot makes of changes that did not end as they should.

use std::collections::BTreeSet;

use openraft::{ChangeMembers, async_runtime::watch::WatchReceiver};

use super::{
    cluster::{Cluster, until},
    stories::test,
};

#[test]
fn a_change_of_voters_that_stopped_half_way_is_completed() {
    test(async {
        let cluster = Cluster::three().await;
        let leader = cluster.leader().await;
        let group = cluster.store(&leader).group_here();
        let sets = || group.membership().get_joint_config().len();
        let kept = cluster.follower().await;
        let wanted = BTreeSet::from([group.seat.id, cluster.store(&kept).voter_id().expect("it votes")]);
        // Two entries make a change. Whoever asked for it goes away when the first one is there; that can't commit yet,
        // so the second one is not asked for.
        cluster.cut(&kept);
        let mut metrics = group.raft.server_metrics();
        let changed = async {
            while sets() == 1 {
                metrics.changed().await.expect("it runs");
            }
        };
        let change = group.raft.change_membership(ChangeMembers::ReplaceAllVoters(wanted), true);
        tokio::select! {
            () = changed => {}
            done = change => panic!("it was not stopped half way: {done:?}"),
        }
        assert_eq!(sets(), 2);
        cluster.heal(&kept);
        until("somebody to complete the change", || sets() == 1).await;
        cluster.voters(&["n1", "n2", "n3"]).await;
    });
}
