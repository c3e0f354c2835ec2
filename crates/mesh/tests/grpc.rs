//! Services of a program, called from node to node through the facade.

#[path = "support/greeter.rs"]
mod greeter;
#[path = "grpc/json.rs"]
mod json;
mod support;

use greeter::{Greeter, Text, greet, greet_often};
use mesh::{MeshConfig, Node, ResolveError};
use mesh_core::MemberState;
use mesh_transport::{
    ca::DevCa,
    rpc::{Lane, Reason, TRANSPORT_HEADER, Transport},
};
use std::{net::SocketAddr, path::Path, time::Duration};
use support::{config, id, sees, soon};
use tonic::service::Routes;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// A node that greets, whose channels give HTTP/3 all the time it wants.
async fn greeter(ca: &DevCa, folder: &Path, name: &str, seeds: &[SocketAddr]) -> Node {
    greeter_with(ca, name, config(folder, name, seeds)).await
}

async fn greeter_with(ca: &DevCa, name: &str, mut config: MeshConfig) -> Node {
    config.transport.http3.head_start = Duration::from_secs(5);
    let identity = ca.identity("test", "worker", name).expect("an identity");
    let routes = Routes::new(Greeter);
    let node = Node::builder().config(config).identity(identity).grpc(routes);
    node.start().await.expect("the node starts")
}

fn status(answer: i32) -> ServingStatus {
    ServingStatus::try_from(answer).expect("a known status")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_called_over_http3_and_knows_who_calls() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let ca = DevCa::new("example.org").expect("an authority");
    let a = greeter(&ca, folder.path(), "a", &[]).await;
    let b = greeter(&ca, folder.path(), "b", &[a.address()]).await;
    sees(&a, "b", MemberState::Alive).await;
    sees(&b, "a", MemberState::Alive).await;

    let channel = b.channel(&id("a"), Lane::User).expect("a is a member");
    let answer = soon("a greeting", greet(channel.clone(), "good day")).await.expect("an answer");
    assert_eq!(answer.metadata().get(TRANSPORT_HEADER).expect("how it came"), "h3;reason=negotiated");
    assert_eq!(answer.get_ref().text, "good day to spiffe://example.org/mesh/test/worker/b over h3");
    assert_eq!(channel.current(), Some((Transport::Http3, Reason::Negotiated)));

    // The other way round, as a stream.
    let channel = a.channel(&id("b"), Lane::User).expect("b is a member");
    let answers = soon("all greetings", greet_often(channel, "hello", 3)).await.expect("answers");
    let text = "hello to spiffe://example.org/mesh/test/worker/a over h3";
    assert_eq!(answers, [0, 1, 2].map(|count| Text { text: text.to_owned(), count }));

    soon("b to stop", b.stop()).await.expect("a goodbye that was heard");
    sees(&a, "b", MemberState::Left).await;
    let gone = a.channel(&id("b"), Lane::User).expect_err("b has left");
    assert_eq!(gone, ResolveError::Gone { node_id: id("b"), state: MemberState::Left });
    let unknown = a.channel(&id("c"), Lane::User).expect_err("nobody has heard of c");
    assert_eq!(unknown, ResolveError::Unknown { node_id: id("c") });
    soon("a to stop", a.stop()).await.expect("nobody is left to hear it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_http3_says_so_and_is_called_over_http2() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let ca = DevCa::new("example.org").expect("an authority");
    let a = greeter(&ca, folder.path(), "a", &[]).await;
    let mut without = config(folder.path(), "b", &[a.address()]);
    without.transport.http3.enabled = false;
    let b = greeter_with(&ca, "b", without).await;
    sees(&a, "b", MemberState::Alive).await;

    let members = a.membership().snapshot();
    let transports = |name| members.find(&id(name)).and_then(|member| member.metadata("transports"));
    assert_eq!((transports("a"), transports("b")), (Some("h3,h2"), Some("h2")));

    let channel = a.channel(&id("b"), Lane::User).expect("b is a member");
    let answer = soon("a greeting", greet(channel.clone(), "good day")).await.expect("an answer");
    assert_eq!(answer.metadata().get(TRANSPORT_HEADER).expect("how it came"), "h2;reason=peer-capability");
    assert_eq!(answer.get_ref().text, "good day to spiffe://example.org/mesh/test/worker/a over h2");
    assert_eq!(channel.current(), Some((Transport::Http2, Reason::PeerCapability)));
    soon("b to stop", b.stop()).await.expect("a goodbye that was heard");
    soon("a to stop", a.stop()).await.expect("nobody is left to hear it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_answers_the_health_protocol_and_ends_a_watch_when_it_stops() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let ca = DevCa::new("example.org").expect("an authority");
    let a = support::start(&ca, folder.path(), "a", &[]).await;
    let b = greeter(&ca, folder.path(), "b", &[a.address()]).await;
    soon("a to be ready", a.ready()).await.expect("a is ready");
    sees(&b, "a", MemberState::Alive).await;

    let mut health = HealthClient::new(b.channel(&id("a"), Lane::Control).expect("a is a member"));
    let whole_node = HealthCheckRequest::default();
    let mut watch = soon("a watch", health.watch(whole_node.clone())).await.expect("an answer").into_inner();
    // Readiness reaches the service a moment after it reaches others.
    soon("a to serve", async {
        loop {
            let update = watch.message().await.expect("a status").expect("the node lives");
            if status(update.status) == ServingStatus::Serving {
                return;
            }
        }
    })
    .await;
    let checked = soon("a check", health.check(whole_node)).await.expect("an answer");
    assert_eq!(status(checked.get_ref().status), ServingStatus::Serving);
    let other = HealthCheckRequest { service: "test.Unheard".to_owned() };
    let unknown = soon("a check", health.check(other)).await.expect_err("there is no such service");
    assert_eq!(unknown.code(), tonic::Code::NotFound);

    // Far less than the time that calls at work are given: the watch does not hold the node up.
    let stopped = tokio::time::timeout(Duration::from_secs(15), a.stop()).await.expect("stops in time");
    stopped.expect("a goodbye that was heard");
    let mut rest = Vec::new();
    while let Some(update) = soon("the rest of the watch", watch.message()).await.expect("a good end") {
        rest.push(status(update.status));
    }
    assert!(!rest.is_empty() && rest.iter().all(|status| *status == ServingStatus::NotServing), "{rest:?}");
    soon("b to stop", b.stop()).await.expect("nobody is left to hear it");
}
