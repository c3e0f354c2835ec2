//! What keeps a leader: those who were away do not disturb it, and heartbeats do not wait behind the log.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use mesh_core::{BoxError, NodeId};
use mesh_transport::rpc::{Channel, Lane};
use openraft::{
    RaftNetworkFactory, RaftNetworkV2,
    async_runtime::{instant::Instant as _, watch::WatchReceiver},
    network::RPCOption,
    raft::{AppendEntriesRequest, VoteRequest},
};

use super::{
    cluster::{Cluster, put, until},
    stories::test,
};
use crate::raft::{
    Begin, Peers,
    identity::{GroupId, Seat},
    network::Network,
    types::{LeaderId, Vote, Voter},
};

fn term(cluster: &Cluster, name: &str) -> u64 {
    cluster.store(name).group_here().raft.metrics().borrow_watched().current_term
}

/// Without a pre-vote it would come back with a higher term, and the leader would have to give way.
#[test]
fn a_follower_that_was_cut_off_comes_back_and_the_leader_leads_on_in_its_term() {
    test(async {
        let cluster = Cluster::three().await;
        let (leader, away) = (cluster.leader().await, cluster.follower().await);
        cluster.write(put("a", "1", None)).await;
        let (before, id) = (term(&cluster, &leader), cluster.store(&away).voter_id().expect("it votes"));
        cluster.cut(&away);
        // Long enough for several elections of its own.
        let unheard = cluster.config.election_timeout * 10;
        let group = cluster.store(&leader).group_here();
        until("the leader to miss the follower for long", || {
            let metrics = group.raft.metrics();
            let metrics = metrics.borrow_watched();
            let heard = metrics.heartbeat.as_ref().and_then(|of| of.get(&id).copied().flatten());
            heard.is_some_and(|at| at.into_inner().elapsed() > unheard)
        })
        .await;
        cluster.write(put("a", "2", None)).await;
        cluster.heal(&away);
        assert_eq!(cluster.read(&away, "a").await, Some("2".into()));
        assert_eq!(cluster.leader().await, leader);
        for name in cluster.nodes.keys() {
            assert_eq!(term(&cluster, name), before, "{name}");
        }
    });
}

#[test]
fn a_leader_that_starts_again_leads_in_a_new_term_only() {
    test(async {
        let mut cluster = Cluster::new();
        cluster.start("n1", Begin::NewGroup).await;
        cluster.write(put("a", "1", None)).await;
        let before = term(&cluster, "n1");
        cluster.kill("n1");
        cluster.start("n1", Begin::Wait).await;
        cluster.leader().await;
        assert!(term(&cluster, "n1") > before, "{} after {before}", term(&cluster, "n1"));
    });
}

/// Notes the lanes that it was asked for, and has no channels.
#[derive(Default)]
struct Lanes(Mutex<Vec<Lane>>);

impl Peers for Lanes {
    fn channel(&self, _: &NodeId, lane: Lane) -> Result<Channel, BoxError> {
        self.0.lock().expect("not poisoned").push(lane);
        Err("nobody is there".into())
    }
}

/// Each lane to a node is a connection of its own.
#[test]
fn heartbeats_and_votes_have_a_lane_of_their_own() {
    test(async {
        let lanes = Arc::new(Lanes::default());
        let asked = || std::mem::take(&mut *lanes.0.lock().expect("not poisoned"));
        let mut network = Network {
            peers: Arc::clone(&lanes) as Arc<dyn Peers>,
            seat: Seat { group: GroupId::random(&mut fastrand::Rng::with_seed(1)), id: 1 },
            told: Arc::default(),
        };
        let to = Voter { node: Some("n2".parse().expect("a node")), directory: 2 };
        let vote = Vote { leader_id: LeaderId { term: 1, node_id: 1 }, committed: true };
        let append =
            || AppendEntriesRequest { vote, prev_log_id: None, entries: Vec::new(), leader_commit: None };
        let option = || RPCOption::new(Duration::from_secs(1));
        let mut beats = network.new_heartbeat_client(2, &to).await;
        beats.append_entries(append(), option()).await.expect_err("nobody is there");
        assert_eq!(asked(), [Lane::Heartbeat]);
        let mut entries = network.new_client(2, &to).await;
        entries.append_entries(append(), option()).await.expect_err("nobody is there");
        assert_eq!(asked(), [Lane::Control]);
        entries.vote(VoteRequest::new(vote, None), option()).await.expect_err("nobody is there");
        assert_eq!(asked(), [Lane::Heartbeat]);
    });
}
