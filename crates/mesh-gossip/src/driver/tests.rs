use std::collections::BTreeMap;

use futures_util::StreamExt;
use mesh_core::{MemberChange, MemberEvent, MemberState, NodeId, Settings};

use super::*;
use crate::channels::{ChannelDatagrams, ChannelNetwork};

const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    handle: GossipHandle,
    _carrier: Arc<ChannelDatagrams>,
    address: std::net::SocketAddr,
}

async fn start(
    network: &ChannelNetwork,
    name: &str,
    seeds: &[std::net::SocketAddr],
    data_dir: Option<PathBuf>,
) -> Running {
    let identity = ChannelNetwork::identity(name).expect("valid");
    let (carrier, address) = network.join(identity.clone());
    let config =
        GossipConfig { seeds: seeds.iter().map(ToString::to_string).collect(), ..GossipConfig::local() };
    let local = LocalNode { identity, addresses: vec![address], metadata: BTreeMap::new() };
    let options = DriverOptions { data_dir, ..DriverOptions::default() };
    let config = config.validate().expect("valid settings");
    let handle = Driver::spawn(config, local, carrier.clone(), options).await.expect("starts");
    Running { handle, _carrier: carrier, address }
}

async fn until(handle: &GossipHandle, what: &str, mut reached: impl FnMut(&MemberSnapshot) -> bool) {
    let (mut snapshot, mut events) = handle.subscribe();
    let waiting = async {
        while !reached(&snapshot) {
            events.next().await.expect("the driver runs");
            snapshot = handle.members();
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never reached: {what}"));
}

fn id(name: &str) -> NodeId {
    name.parse().expect("valid")
}

#[tokio::test]
async fn drivers_over_channels_find_each_other_and_notice_a_death() {
    let network = ChannelNetwork::new();
    let a = start(&network, "a", &[], None).await;
    let b = start(&network, "b", &[a.address], None).await;
    let c = start(&network, "c", &[a.address], None).await;
    for node in [&a, &b, &c] {
        until(&node.handle, "three alive", |m| m.alive().count() == 3).await;
    }
    c.handle.stop();
    network.cut(&id("c"));
    until(&a.handle, "c dead", |m| m.find(&id("c")).is_some_and(|c| c.state == MemberState::Dead)).await;
    network.heal(&id("c"));
}

#[tokio::test]
async fn leaving_ends_the_driver_and_its_subscriptions() {
    let network = ChannelNetwork::new();
    let a = start(&network, "a", &[], None).await;
    let b = start(&network, "b", &[a.address], None).await;
    until(&a.handle, "two alive", |m| m.alive().count() == 2).await;
    let (_, mut events) = b.handle.subscribe();
    b.handle.leave(PATIENCE).await.expect("acknowledged");
    until(&a.handle, "b left", |m| m.find(&id("b")).is_some_and(|b| b.state == MemberState::Left)).await;
    tokio::time::timeout(PATIENCE, async { while events.next().await.is_some() {} })
        .await
        .expect("the stream ends");
    let error = b.handle.set_metadata("k", "v").await.expect_err("stopped");
    assert!(matches!(error, GossipError::Stopped | GossipError::Refused(CommandError::NotMember)), "{error}");
}

#[tokio::test]
async fn a_slow_subscriber_is_told_to_start_again() {
    let network = ChannelNetwork::new();
    let a = start(&network, "a", &[], None).await;
    let (_, mut slow) = a.handle.subscribe();
    let member = a.handle.local();
    for correlation_id in 0..1500 {
        a.handle.shared.publish_member(MemberEvent::Changed {
            change: MemberChange::Updated,
            before: None,
            member: member.clone(),
            reason: mesh_core::Reason::Metadata,
            observers: Vec::new(),
            correlation_id,
        });
    }
    let first = tokio::time::timeout(PATIENCE, slow.next()).await.expect("in time").expect("runs");
    let MemberEvent::Resynced(snapshot) = first else {
        panic!("a gap was passed over in silence: {first:?}")
    };
    assert!(snapshot.find(&id("a")).is_some());
}

#[tokio::test]
async fn broadcasts_reach_subscribers_in_order() {
    let network = ChannelNetwork::new();
    let a = start(&network, "a", &[], None).await;
    let b = start(&network, "b", &[a.address], None).await;
    until(&a.handle, "two alive", |m| m.alive().count() == 2).await;
    until(&b.handle, "two alive", |m| m.alive().count() == 2).await;
    let mut heard = a.handle.broadcasts();
    for i in 0..20u8 {
        b.handle.broadcast(Bytes::from(vec![i])).await.expect("room");
    }
    for i in 0..20u8 {
        let event = tokio::time::timeout(PATIENCE, heard.next()).await.expect("in time").expect("runs");
        assert_eq!(event, BroadcastEvent::Message { from: id("b"), payload: Bytes::from(vec![i]) });
    }
}

#[tokio::test]
async fn a_restarted_node_finds_back_without_seeds() {
    let folder = tempfile::tempdir().expect("folder");
    let network = ChannelNetwork::new();
    let a = start(&network, "a", &[], None).await;
    let b = start(&network, "b", &[a.address], Some(folder.path().to_owned())).await;
    until(&b.handle, "two alive", |m| m.alive().count() == 2).await;
    let file = folder.path().join("members");
    let saved = async {
        while !file.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, saved).await.expect("members are saved");
    b.handle.stop();
    drop(b);
    let b = start(&network, "b", &[], Some(folder.path().to_owned())).await;
    until(&b.handle, "two alive again", |m| m.alive().count() == 2).await;
}

#[tokio::test]
async fn seeds_may_be_names() {
    let network = ChannelNetwork::new();
    let a = start(&network, "a", &[], None).await;
    let identity = ChannelNetwork::identity("b").expect("valid");
    let (carrier, address) = network.join(identity.clone());
    let config =
        GossipConfig { seeds: vec![format!("localhost:{}", a.address.port())], ..GossipConfig::local() };
    let local = LocalNode { identity, addresses: vec![address], metadata: BTreeMap::new() };
    let config = config.validate().expect("valid");
    let handle = Driver::spawn(config, local, carrier, DriverOptions::default()).await.expect("starts");
    until(&handle, "two alive", |m| m.alive().count() == 2).await;
}
