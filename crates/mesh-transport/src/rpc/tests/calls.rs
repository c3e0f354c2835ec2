//! Every kind of call on both transports, and what must never look complete.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use tonic::{Code, IntoRequest as _, Status, body::Body};
use tower::Service as _;

use super::{
    harness::{Setup, World, counter, soon},
    service::{Seen, text},
};
use crate::rpc::{Lane, Transport};

const BOTH: [Transport; 2] = [Transport::Http3, Transport::Http2];
const CLIENT: &str = "spiffe://example.org/mesh/c/worker/client";

#[tokio::test]
async fn every_kind_of_call_works_on_both_transports_and_names_the_peer() {
    let world = World::new(Setup::default()).await;
    for transport in BOTH {
        let mut client = world.over(transport);
        let from = format!("from {CLIENT} over {transport}");

        let answer = soon(client.say(text("hello", 7))).await.unwrap();
        let reason = if transport == Transport::Http3 { "negotiated" } else { "policy" };
        assert_eq!(answer.metadata().get("rpc-transport").unwrap(), &format!("{transport};reason={reason}"));
        assert_eq!(answer.metadata().get("rpc-encoding").unwrap(), "grpc+proto");
        assert_eq!(answer.into_inner(), text(format!("hello {from}"), 7));

        let counted = soon(client.count(1000)).await.unwrap();
        assert_eq!(counted.len(), 1000);
        assert_eq!(counted[999], text(format!("counted {from}"), 999));

        let sum = soon(client.collect(stream::iter((1..=100).map(|n| text("", n))))).await.unwrap();
        assert_eq!(sum, text(format!("collected {from}"), 5050));

        // Each message is answered before the next one is sent.
        let (send, receive) = tokio::sync::mpsc::channel(1);
        let receive = stream::unfold(receive, |mut receive| async { Some((receive.recv().await?, receive)) });
        let mut answers = soon(client.chat(receive)).await.unwrap();
        for number in 0..5 {
            send.send(text("", number)).await.unwrap();
            assert_eq!(
                soon(answers.next()).await.unwrap().unwrap(),
                text(format!("chatted {from}"), number + 1)
            );
        }
        drop(send);
        assert!(soon(answers.next()).await.is_none());

        let labels = format!(
            "mesh_transport_requests_total{{transport=\"{transport}\",encoding=\"grpc+proto\",reason=\"{reason}\"}}"
        );
        assert_eq!(counter(&world.client, &labels), 4);
    }
    assert_eq!(counter(&world.client, "mesh_transport_downgrades_total"), 0);
}

#[tokio::test]
async fn both_ends_of_a_connection_have_the_same_exporter_and_no_other_connection_has() {
    let world = World::new(Setup::default()).await;
    let mut seen = std::collections::BTreeSet::new();
    for (transport, lane) in [(Transport::Http3, Lane::User), (Transport::Http2, Lane::Bulk)] {
        for _ in 0..2 {
            let answer = soon(world.over(transport).say(text("", 1))).await.unwrap();
            let ours = *answer.extensions().get::<crate::ChannelExporter>().unwrap();
            let theirs = answer.metadata().get_bin("exporter-bin").unwrap().to_bytes().unwrap();
            assert_eq!(&ours.as_bytes()[..], &theirs[..], "{transport}");
            assert!(seen.insert(*ours.as_bytes()), "a new connection over {transport} has one of its own");
            world.channel(lane).drop_connection();
        }
    }
}

#[tokio::test]
async fn a_handler_that_panics_takes_no_other_call_with_it() {
    let mut world = World::new(Setup::default()).await;
    for (transport, lane) in [(Transport::Http3, Lane::User), (Transport::Http2, Lane::Bulk)] {
        let mut channel = world.channel(lane);
        let mut waiting = world.over(transport);
        let wait = tokio::spawn(async move { waiting.wait(text("", 5)).await });
        assert_eq!(world.saw().await, Seen::Waiting);
        let serial = channel.serial();

        let request = raw("/test.Echo/Panic", Body::empty());
        assert!(soon(channel.call(request)).await.is_err(), "{transport}");
        soon(world.over(transport).say(text("", 1))).await.unwrap();
        world.echo.go.notify_one();
        assert_eq!(soon(wait).await.unwrap().unwrap().into_inner().number, 5);
        assert_eq!(channel.serial(), serial, "the connection over {transport} was kept");
    }
}

#[tokio::test]
async fn large_messages_arrive_whole_on_both_transports() {
    let world = World::new(Setup::default()).await;
    let large = "x".repeat(3 << 20);
    for transport in BOTH {
        let answer = soon(world.over(transport).say(text(large.clone(), 1))).await.unwrap();
        assert!(answer.into_inner().text.starts_with(&large));
    }
}

#[tokio::test]
async fn a_cancelled_upload_never_looks_complete() {
    let mut world = World::new(Setup::default()).await;
    for transport in BOTH {
        let mut client = world.over(transport);
        let messages = stream::iter((1..=3).map(|n| text("", n))).chain(stream::pending());
        let call = tokio::spawn(async move { client.collect(messages).await });
        for number in 1..=3 {
            assert_eq!(world.saw().await, Seen::Message(number));
        }
        call.abort();
        let end = world.saw().await;
        assert!(matches!(end, Seen::Broken(code) if code != Code::Cancelled), "{transport}: {end:?}");
    }
}

#[tokio::test]
async fn an_upload_whose_source_fails_never_looks_complete() {
    let mut world = World::new(Setup::default()).await;
    for (transport, lane) in [(Transport::Http3, Lane::User), (Transport::Http2, Lane::Bulk)] {
        let message = Ok(Frame::data(Bytes::from_static(&[0, 0, 0, 0, 2, 0x10, 9])));
        let (fail, failed) = tokio::sync::oneshot::channel::<()>();
        let failure = stream::once(async move {
            let _ = failed.await;
            Err(Status::internal("the source failed"))
        });
        let frames = stream::iter([message]).chain(failure);
        let request = raw("/test.Echo/Collect", Body::new(StreamBody::new(Box::pin(frames))));
        let mut channel = world.channel(lane);
        let call = tokio::spawn(async move { channel.call(request).await.map(|_| ()) });
        assert_eq!(world.saw().await, Seen::Message(9));
        fail.send(()).unwrap();
        let end = world.saw().await;
        assert!(matches!(end, Seen::Broken(_)), "{transport}: {end:?}");
        call.abort();
    }
}

#[tokio::test]
async fn an_upload_cut_off_with_its_connection_never_looks_complete() {
    for transport in BOTH {
        let mut world = World::new(Setup::default()).await;
        let mut client = world.over(transport);
        let messages = stream::iter([text("", 1)]).chain(stream::pending());
        let call = tokio::spawn(async move { client.collect(messages).await });
        assert_eq!(world.saw().await, Seen::Message(1));
        world.client.close();
        let end = if transport == Transport::Http2 {
            // The TCP connection ends with its channel.
            call.abort();
            world.saw().await
        } else {
            world.saw().await
        };
        // A handler whose connection is gone may be dropped instead of being told.
        assert!(matches!(end, Seen::Broken(code) if code != Code::Cancelled), "{transport}: {end:?}");
    }
}

#[tokio::test]
async fn a_handler_ends_when_its_caller_loses_interest() {
    let mut world = World::new(Setup::default()).await;
    for transport in BOTH {
        let mut client = world.over(transport);
        let call = tokio::spawn(async move { client.wait(text("", 1)).await });
        assert_eq!(world.saw().await, Seen::Waiting);
        call.abort();
        assert_eq!(world.saw().await, Seen::Dropped, "{transport}");
    }
}

#[tokio::test]
async fn a_deadline_ends_the_call_at_both_ends() {
    let mut world = World::new(Setup::default()).await;
    for transport in BOTH {
        let mut client = world.over(transport);
        // So that the handler begins well before the deadline.
        soon(client.say(text("", 0))).await.unwrap();
        let mut request = text("", 1).into_request();
        request.set_timeout(Duration::from_millis(300));
        let status = soon(client.wait(request)).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{transport}: {status:?}");
        assert_eq!(world.saw().await, Seen::Waiting);
        assert_eq!(world.saw().await, Seen::Dropped, "{transport}");
    }
}

#[tokio::test]
async fn the_server_has_a_deadline_of_its_own() {
    let mut setup = Setup::default();
    setup.server.deadline_max = Some(Duration::from_millis(50));
    let world = World::new(setup).await;
    for transport in BOTH {
        let status = soon(world.over(transport).wait(text("", 1))).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{transport}: {status:?}");
    }
}

pub(super) fn raw(path: &str, body: Body) -> http::Request<Body> {
    let request = http::Request::post(path);
    request.header("content-type", "application/grpc").header("te", "trailers").body(body).unwrap()
}

#[tokio::test]
async fn a_response_cut_off_with_its_connection_never_looks_complete() {
    for transport in BOTH {
        let world = World::new(Setup::default()).await;
        let messages = stream::iter([text("", 1)]).chain(stream::pending());
        let mut answers = soon(world.over(transport).chat(messages)).await.unwrap();
        assert_eq!(soon(answers.next()).await.unwrap().unwrap().number, 2);
        world.server.identity().deny([super::harness::node("client")].into());
        let end = soon(answers.next()).await;
        assert!(matches!(end, Some(Err(_))), "{transport}: {end:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_calls_than_streams_wait_their_turn() {
    let mut setup = Setup::default();
    setup.server.requests_per_connection_max = 4;
    let world = World::new(setup).await;
    for transport in BOTH {
        let calls: Vec<_> = (0..200)
            .map(|number| {
                let mut client = world.over(transport);
                tokio::spawn(async move { client.say(text("", number)).await })
            })
            .collect();
        for (number, call) in (0..).zip(calls) {
            assert_eq!(soon(call).await.unwrap().unwrap().into_inner().number, number, "{transport}");
        }
    }
}
