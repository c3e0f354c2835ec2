//! What servers refuse.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, StreamBody};
use mesh_core::NodeId;
use tonic::{Code, Status, body::Body};
use tower::Service as _;

use super::{
    calls::raw,
    harness::{Setup, World, counter, node, soon},
    service::{Client, Seen, text},
};
use crate::rpc::{Encoding, EndpointPolicy, Lane, Target, Transport};

const BOTH: [Transport; 2] = [Transport::Http3, Transport::Http2];

fn code(result: Result<impl Sized, Status>) -> Code {
    result.err().map_or(Code::Ok, |status| status.code())
}

#[tokio::test]
async fn an_oversize_message_is_refused_on_both_transports() {
    let mut setup = Setup::default();
    setup.server.message_bytes_max = 2048;
    let world = World::new(setup).await;
    for transport in BOTH {
        let mut client = world.over(transport);
        let status = soon(client.say(text("x".repeat(4096), 0))).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{transport}: {status:?}");
        assert!(status.message().contains("longer than the limit of 2048"), "{status:?}");
        assert_eq!(code(soon(client.say(text("x".repeat(1024), 0))).await), Code::Ok);
    }
}

#[tokio::test]
async fn a_body_that_stalls_inside_a_message_is_given_up() {
    let mut setup = Setup::default();
    setup.server.message_stall_timeout = Duration::from_millis(60);
    let mut world = World::new(setup).await;
    for lane in [Lane::User, Lane::Bulk] {
        // The length says two bytes, and one comes.
        let begun = Ok::<_, Status>(Frame::data(Bytes::from_static(&[0, 0, 0, 0, 2, 0x10])));
        let body = Body::new(StreamBody::new(stream::iter([begun]).chain(stream::pending())));
        let mut channel = world.channel(lane);
        let call =
            tokio::spawn(async move { channel.call(raw("/test.Echo/Collect", body)).await.map(|_| ()) });
        assert_eq!(world.saw().await, Seen::Broken(Code::Aborted), "{lane}");
        let _ = soon(call).await;
    }
}

#[tokio::test]
async fn a_stream_may_rest_between_messages() {
    let mut setup = Setup::default();
    setup.server.message_stall_timeout = Duration::from_millis(60);
    let world = World::new(setup).await;
    for transport in BOTH {
        let pause = Duration::from_millis(200);
        let late = stream::once(async move {
            // sleeps: a late part of a stream is what this tests
            tokio::time::sleep(pause).await;
            text("", 2)
        });
        let sum = soon(world.over(transport).collect(stream::iter([text("", 1)]).chain(late))).await.unwrap();
        assert_eq!(sum.number, 3);
    }
}

#[tokio::test]
async fn a_full_server_sheds_load() {
    let mut setup = Setup::default();
    setup.server.requests_in_flight_max = 1;
    let mut world = World::new(setup).await;
    for transport in BOTH {
        let mut waiting = world.over(transport);
        let call = tokio::spawn(async move { waiting.wait(text("", 1)).await });
        assert_eq!(world.saw().await, Seen::Waiting);
        let shed_before = world.metrics.shed_total();
        let status = soon(world.over(transport).say(text("", 0))).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{transport}: {status:?}");
        assert_eq!(world.metrics.shed_total(), shed_before + 1);
        world.echo.go.notify_one();
        soon(call).await.unwrap().unwrap();
        super::harness::until(|| world.metrics.requests_in_flight() == 0).await;
        assert_eq!(code(soon(world.over(transport).say(text("", 0))).await), Code::Ok);
    }
}

#[tokio::test]
async fn another_identity_than_the_expected_is_refused() {
    let world = World::new(Setup::default()).await;
    for lane in [Lane::User, Lane::Bulk] {
        let target = Target::new(node("somebody-else"), world.server.local_address());
        let status = soon(Client::new(world.channels.open(target, lane)).say(text("", 0))).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{lane}: {status:?}");
    }
}

#[tokio::test]
async fn a_revoked_peer_is_cut_off_and_stays_out() {
    let world = World::new(Setup::default()).await;
    let client: NodeId = node("client");
    for transport in BOTH {
        assert_eq!(code(soon(world.over(transport).say(text("", 0))).await), Code::Ok);
    }
    let channels = BOTH.map(|transport| (transport, world.over(transport)));
    for (_, client) in &channels {
        assert_eq!(code(soon(client.clone().say(text("", 0))).await), Code::Ok);
    }
    world.server.identity().deny([client].into());
    for (transport, mut client) in channels {
        // The sweep may need a moment; then every call fails, on old connections and new.
        soon(async { while client.say(text("", 0)).await.is_ok() {} }).await;
        for _ in 0..3 {
            // sleeps: spaces the calls over several sweeps
            tokio::time::sleep(Duration::from_millis(60)).await;
            let status = soon(client.say(text("", 0))).await.unwrap_err();
            assert!(
                matches!(status.code(), Code::Unauthenticated | Code::Unavailable),
                "{transport}: {status:?}"
            );
        }
        let status = soon(client.say(text("", 0))).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{transport}: {status:?}");
    }
}

#[tokio::test]
async fn the_policy_is_held_against_each_request() {
    let world = World::new(Setup::default()).await;
    for lane in [Lane::User, Lane::Bulk] {
        let mut request = raw("/test.Echo/Say", Body::empty());
        request.headers_mut().insert("content-type", "application/json".parse().unwrap());
        let response = soon(world.channel(lane).call(request)).await.unwrap();
        assert_eq!(response.status(), 415);
        assert!(response.headers().contains_key("rpc-transport"));
        let text = soon(response.into_body().collect()).await.unwrap().to_bytes();
        // As a line or in a problem document, by what the build has.
        let violation = "endpoint mesh does not allow encoding json; allowed are [grpc+proto]; see transport.endpoints.mesh.encodings";
        assert!(String::from_utf8_lossy(&text).contains(violation), "{text:?}");
    }
    let violations = "mesh_transport_policy_violations_total{endpoint=\"mesh\"}";
    assert_eq!(counter(&world.server, violations), 2);
}

#[tokio::test]
async fn raw_is_for_those_on_the_access_list() {
    for (entry, status) in [("node:client", 200), ("node:other", 403)] {
        let mut setup = Setup::default();
        let encodings = vec![Encoding::GrpcProto, Encoding::Raw];
        let mesh = EndpointPolicy { encodings, raw_access: vec![entry.into()], ..EndpointPolicy::default() };
        setup.policy.endpoints.insert("mesh".into(), mesh);
        let world = World::new(setup).await;
        let mut request = raw("/nothing", Body::empty());
        request.headers_mut().insert("content-type", "application/octet-stream".parse().unwrap());
        let response = soon(world.channel(Lane::User).call(request)).await.unwrap();
        // Past the policy, the router answers that it has no such service.
        assert_eq!(response.status(), status, "{entry}");
        assert!(!response.into_body().is_end_stream() || status == 200);
    }
}
