use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use mesh_core::InstanceId;
use tokio::sync::watch;

use crate::edge::{EdgeMetrics, EventHub, HubLimits, NewEvent, Problem, SubscribeOptions, Subscription};

/// A hub whose state is the sum of all numbers published.
type Hub = EventHub<u64, u64>;

fn hub(limits: HubLimits) -> Hub {
    EventHub::new(InstanceId(0xabc), limits, EdgeMetrics::default(), 0)
}

const LIMITS: HubLimits = HubLimits {
    events_kept: 8,
    subscribers_max: 3,
    subscribers_per_identity_max: 2,
    heartbeat: Duration::from_secs(15),
};

fn publish(hub: &Hub, number: u64) {
    hub.update(|sum| {
        *sum += number;
        vec![NewEvent::json("added", &number, number).expect("json")]
    });
}

fn subscribe_as(hub: &Hub, identity: &str, last: Option<&str>) -> Result<Subscription, Problem> {
    let options = SubscribeOptions {
        last_event_id: last.map(str::to_owned),
        identity: identity.to_owned(),
        draining: None,
    };
    hub.subscribe(options, |_| true, |sum| *sum, |sum| vec![format!("{{\"sum\":{sum}}}")])
}

fn subscribe(hub: &Hub, last: Option<&str>) -> Subscription {
    subscribe_as(hub, "w-1", last).expect("there is room")
}

/// All text that is there without waiting.
fn available(subscription: &mut Subscription) -> String {
    let mut text = String::new();
    while let Some(Some(frame)) = subscription.next().now_or_never() {
        text.push_str(std::str::from_utf8(&frame).expect("text"));
    }
    text
}

#[tokio::test]
async fn a_new_subscriber_gets_a_snapshot_and_then_each_event() {
    let hub = hub(LIMITS);
    publish(&hub, 5);
    let mut subscription = subscribe(&hub, None);
    publish(&hub, 7);
    insta::assert_snapshot!(available(&mut subscription), @r#"
    retry: 1000

    id: 0000000000000abc-1
    event: snapshot
    data: {"sum":5}

    id: 0000000000000abc-2
    event: added
    data: 7
    "#);
    publish(&hub, 9);
    assert_eq!(available(&mut subscription), "id: 0000000000000abc-3\nevent: added\ndata: 9\n\n");
}

#[tokio::test]
async fn a_subscriber_that_comes_back_misses_nothing_and_sees_nothing_twice() {
    let hub = hub(LIMITS);
    let mut seen = Vec::new();
    let mut last: Option<String> = None;
    for round in 0..50 {
        let mut subscription = subscribe(&hub, last.as_deref());
        publish(&hub, round);
        let mut text = available(&mut subscription);
        drop(subscription);
        // While it is away, fewer events come than are kept.
        publish(&hub, 1000 + round);
        if round == 0 {
            let (snapshot, events) = text.split_once("{\"sum\":0}\n\n").expect("snapshot first");
            assert!(snapshot.contains("event: snapshot"));
            text = events.to_owned();
        }
        assert!(!text.contains("snapshot"), "round {round}: {text}");
        seen.extend(text.lines().filter_map(|line| line.strip_prefix("data: ")?.parse::<u64>().ok()));
        last = text.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().map(str::to_owned);
    }
    let expected: Vec<u64> = (0..50).flat_map(|round| [round, 1000 + round]).collect();
    assert_eq!(seen, expected[..99]);
}

#[tokio::test]
async fn an_id_that_means_nothing_here_starts_with_a_snapshot() {
    let hub = hub(LIMITS);
    (1..=20).for_each(|number| publish(&hub, number));
    for unknown in [
        "0000000000000abc-11", // no longer kept
        "0000000000000abc-21", // not yet made
        "0000000000000abd-20", // of another run
        "nonsense",
        "",
        "0000000000000abc-99999999999999999999999",
    ] {
        let text = available(&mut subscribe(&hub, Some(unknown)));
        assert!(text.contains("event: snapshot\ndata: {\"sum\":210}"), "{unknown:?}: {text}");
    }
    let text = available(&mut subscribe(&hub, Some("0000000000000abc-12")));
    assert!(!text.contains("snapshot"));
    assert_eq!(text.matches("event: added").count(), 8);
    assert_eq!(available(&mut subscribe(&hub, Some("0000000000000abc-20"))), "retry: 1000\n\n");
}

#[tokio::test]
async fn a_cut_snapshot_is_not_resumed_from() {
    let hub = hub(LIMITS);
    publish(&hub, 1);
    let pages = |_| vec!["1".to_owned(), "2".to_owned(), "3".to_owned()];
    let mut subscription =
        hub.subscribe(SubscribeOptions::default(), |_| true, |_| (), pages).expect("there is room");
    let text = available(&mut subscription);
    assert_eq!(text.matches("event: snapshot").count(), 3);
    assert!(text.find("id: ").expect("id") > text.find("data: 2").expect("second page"), "{text}");
}

#[tokio::test]
async fn a_slow_subscriber_is_told_so_and_the_others_go_on() {
    let hub = hub(LIMITS);
    let (mut slow, mut quick) = (subscribe(&hub, None), subscribe(&hub, None));
    let mut quick_text = String::new();
    for number in 0..9 {
        publish(&hub, number);
        quick_text.push_str(&available(&mut quick));
    }
    let slow_text = available(&mut slow);
    assert!(slow_text.contains("event: end\ndata: {\"code\":\"events.subscriber.slow\""), "{slow_text}");
    assert!(!slow_text.contains("event: added"), "nothing after the gap: {slow_text}");
    assert_eq!(slow.next().now_or_never(), Some(None), "the stream is over");
    assert_eq!(quick_text.matches("event: added").count(), 9);
}

#[tokio::test]
async fn filtered_events_still_move_the_resume_position() {
    tokio::time::pause();
    let hub = hub(LIMITS);
    let even = |number: &u64| number.is_multiple_of(2);
    let mut subscription =
        hub.subscribe(SubscribeOptions::default(), even, |_| (), |()| vec![]).expect("there is room");
    (1..=5).for_each(|number| publish(&hub, number));
    let text = available(&mut subscription);
    assert_eq!(text.matches("event: added").count(), 2);
    assert!(!text.contains("-5"), "{text}");
    let heartbeat = subscription.next().await.expect("heartbeat");
    assert_eq!(&heartbeat[..], b"id: 0000000000000abc-5\n: heartbeat\n\n");
}

#[tokio::test]
async fn subscribers_are_bounded_and_leave_room_when_they_go() {
    let hub = hub(LIMITS);
    let first = subscribe(&hub, None);
    let _second = subscribe(&hub, None);
    let problem = subscribe_as(&hub, "w-1", None).err().expect("w-1 has two");
    assert_eq!((problem.status, &*problem.code), (503, "events.subscribers.full"));
    let _other = subscribe_as(&hub, "w-2", None).expect("there is room for one more");
    assert!(subscribe_as(&hub, "w-3", None).is_err());
    drop(first);
    assert_eq!(hub.subscribers(), 2);
    assert!(subscribe_as(&hub, "w-3", None).is_ok());
}

#[tokio::test]
async fn a_waiting_subscriber_is_woken_by_an_event_and_ended_by_a_drain_or_a_stop() {
    let hub = hub(LIMITS);
    let (drain, draining) = watch::channel(false);
    let options = SubscribeOptions { draining: Some(draining), ..SubscribeOptions::default() };
    let mut drained = hub.subscribe(options, |_| true, |_| (), |()| vec![]).expect("room");
    let mut stopped = subscribe(&hub, None);
    available(&mut drained);
    available(&mut stopped);

    let waiting = tokio::spawn(async move { (drained.next().await, drained) });
    publish(&hub, 1);
    let (event, mut drained) = waiting.await.expect("task");
    assert!(event.expect("event").starts_with(b"id: "));

    let waiting = tokio::spawn(async move { (drained.next().await, drained.next().await) });
    drain.send_replace(true);
    let (end, over) = waiting.await.expect("task");
    assert!(String::from_utf8_lossy(&end.expect("end")).contains("events.stream.closing"));
    assert_eq!(over, None);

    hub.close();
    let text = available(&mut stopped);
    assert!(
        text.contains("event: added")
            && text
                .ends_with("connect again with the last event id, here or at another node with none\"}\n\n"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_watchers_see_every_event_in_order() {
    let hub = hub(HubLimits {
        events_kept: 4096,
        subscribers_max: 100,
        subscribers_per_identity_max: 100,
        ..LIMITS
    });
    let watchers: Vec<_> = (0..100)
        .map(|_| {
            let mut subscription = subscribe(&hub, None);
            tokio::spawn(async move {
                let mut numbers = Vec::new();
                while let Some(frame) = subscription.next().await {
                    let text = String::from_utf8(frame.to_vec()).expect("text");
                    numbers
                        .extend(text.lines().filter_map(|l| l.strip_prefix("data: ")?.parse::<u64>().ok()));
                }
                numbers
            })
        })
        .collect();
    for number in 0..1000 {
        publish(&hub, number);
        if number % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    hub.close();
    for watcher in watchers {
        assert_eq!(watcher.await.expect("task"), (0..1000).collect::<Vec<u64>>());
    }
}
