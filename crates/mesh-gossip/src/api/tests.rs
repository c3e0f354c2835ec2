use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Duration,
};

use axum::body::Body;
use futures_util::{FutureExt, StreamExt, stream};
use mesh_core::{
    Health, Incarnation, Instant, Load, LoadReport, ManualClock, Member, MemberChange, MemberEvent,
    MemberEvents, MemberSnapshot, MemberState, Reason, Settings, SystemClock, Verification, WallTime,
};
use mesh_transport::edge::{EdgeConfig, StackOptions, stack};
use tokio::sync::mpsc;
use tower::ServiceExt;

use crate::{Driver, DriverOptions, GossipConfig, LocalNode, channels::ChannelNetwork};

use super::*;

mod schema;

/// A membership that a test changes by hand.
#[derive(Default)]
struct Fake(Mutex<(Table, Vec<mpsc::UnboundedSender<MemberEvent>>)>);

impl Membership for Fake {
    fn snapshot(&self) -> MemberSnapshot {
        MemberSnapshot::new(self.0.lock().expect("lock").0.values().cloned().collect())
    }
    fn subscribe(&self) -> (MemberSnapshot, MemberEvents) {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.lock().expect("lock").1.push(sender);
        let events =
            stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
        (self.snapshot(), Box::pin(events))
    }
}

struct Cluster {
    fake: Arc<Fake>,
    clock: ManualClock,
    router: Router,
}

impl Cluster {
    fn of(members: impl IntoIterator<Item = Member>) -> Self {
        let fake = Arc::new(Fake::default());
        for member in members {
            fake.0.lock().expect("lock").0.insert(member.node_id.clone(), Arc::new(member));
        }
        let clock = ManualClock::default();
        clock.advance(Duration::from_secs(60));
        clock.set_wall(WallTime(1_700_000_000_000));
        let config = EdgeConfig { events_kept: 16, requests_burst: 100_000, ..EdgeConfig::default() };
        let config = config.validate().expect("valid");
        let metrics = EdgeMetrics::default();
        let routes = peers_routes(PeersOptions {
            membership: fake.clone(),
            local: "n-1".parse().expect("id"),
            instance: InstanceId(0xabc),
            clock: Arc::new(clock.clone()),
            pages: config.page_limits(),
            hub: config.hub_limits(),
            metrics: metrics.clone(),
        });
        let router = stack(routes, StackOptions::new(&config, metrics, Arc::new(clock.clone())));
        Self { fake, clock, router }
    }

    /// Three members: a worker with all there is to say, one under suspicion, one that is gone.
    fn small() -> Self {
        let mut rich = member("w-1", 1);
        rich.incarnation = Incarnation(3);
        rich.verification = Verification::Direct;
        rich.addresses = vec!["127.0.0.1:17421".parse().expect("address")];
        rich.rtt = Some(Duration::from_micros(812));
        let load = Load::default().with_cpu_permille(250).with_custom("shards", 12);
        rich.load = Some(LoadReport::new(load, Instant::from_nanos(58_000_000_000)));
        for (key, value) in [
            ("cluster", "prod"),
            ("region", "eu"),
            ("zone", "eu-1a"),
            ("mesh_version", "0.1.0"),
            ("protocols", "gossip=1-2,leader=1"),
            ("transports", "h3,h2"),
            ("endpoints", r#"[{"service":"orders","url":"https://w-1:8443","transport":"h2"}]"#),
            ("label.tier", "gold"),
            ("cordoned", "true"),
            ("build", "7"),
        ] {
            rich.metadata.insert(key.to_owned(), value.to_owned());
        }
        let mut suspect = member("w-2", 2);
        suspect.state = MemberState::Suspect;
        suspect.since = Instant::from_nanos(59_500_000_000);
        suspect.metadata.insert("endpoints".to_owned(), "not json".to_owned());
        let mut dead = member("x-3", 3);
        dead.state = MemberState::Dead;
        dead.metadata.insert("label.tier".to_owned(), "silver".to_owned());
        Self::of([rich, suspect, dead])
    }

    async fn send(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = Request::get(path).header("x-request-id", "test");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).expect("request");
        self.router.clone().oneshot(request).await.expect("infallible")
    }

    async fn get(&self, path: &str) -> String {
        text(self.send(path, &[]).await).await
    }

    async fn names(&self, query: &str) -> Vec<String> {
        let reply: PeerList = serde_json::from_str(&self.get(&format!("/control/v1/peers?{query}")).await)
            .unwrap_or_else(|error| panic!("{query}: {error}"));
        reply.items.into_iter().map(|peer| peer.node_id.to_string()).collect()
    }

    /// Changes the membership, and lets the routes hear of it.
    async fn change(&self, change: MemberChange, reason: Reason, member: Member) {
        let member = Arc::new(member);
        {
            let mut inner = self.fake.0.lock().expect("lock");
            let before = if change == MemberChange::Reclaimed {
                inner.0.remove(&member.node_id)
            } else {
                inner.0.insert(member.node_id.clone(), member.clone())
            };
            let event = changed(change, before.map(|before| before.state), member, reason);
            inner.1.iter().for_each(|sender| sender.send(event.clone()).expect("followed"));
        }
        self.settle().await;
    }

    async fn resync(&self, members: Vec<Member>) {
        let snapshot = MemberSnapshot::new(members.into_iter().map(Arc::new).collect());
        for sender in &self.fake.0.lock().expect("lock").1 {
            sender.send(MemberEvent::Resynced(snapshot.clone())).expect("followed");
        }
        self.settle().await;
    }

    /// Lets the task that follows the membership run until it waits again.
    async fn settle(&self) {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
}

fn changed(
    change: MemberChange,
    before: Option<MemberState>,
    member: Arc<Member>,
    reason: Reason,
) -> MemberEvent {
    let observers = vec!["n-2".parse().expect("id")];
    MemberEvent::Changed { change, before, member, reason, observers, correlation_id: 0x2a }
}

fn member(name: &str, instance: u64) -> Member {
    Member::new(
        name.parse().expect("id"),
        InstanceId(instance),
        "worker".parse().expect("role"),
        Instant::from_nanos(10_000_000_000),
    )
}

/// A body; JSON is indented.
async fn text(response: Response) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("body");
    match serde_json::from_slice::<serde_json::Value>(&bytes) {
        Ok(json) => serde_json::to_string_pretty(&json).expect("json"),
        Err(_) => String::from_utf8(bytes.to_vec()).expect("text"),
    }
}

/// What a stream has to say without waiting.
struct Follower(axum::body::BodyDataStream);

impl Follower {
    async fn new(cluster: &Cluster, query: &str, last_event_id: Option<&str>) -> Self {
        let headers: Vec<_> = last_event_id.map(|id| ("last-event-id", id)).into_iter().collect();
        let response = cluster.send(&format!("/control/v1/peers?watch{query}"), &headers).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
        Self(response.into_body().into_data_stream())
    }

    /// Events as `<type> <data>`, and the last id.
    fn read(&mut self) -> (Vec<(String, serde_json::Value)>, Option<String>) {
        let (mut text, mut events, mut id) = (String::new(), Vec::new(), None);
        while let Some(Some(frame)) = self.0.next().now_or_never() {
            text.push_str(std::str::from_utf8(&frame.expect("frame")).expect("text"));
        }
        for block in text.split("\n\n") {
            let field =
                |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            id = field("id: ").or(id);
            if let (Some(event), Some(data)) = (field("event: "), field("data: ")) {
                events.push((event, serde_json::from_str(&data).expect("json")));
            }
        }
        (events, id)
    }
}

fn steps(events: &[(String, serde_json::Value)]) -> Vec<String> {
    let step = |(event, data): &(String, serde_json::Value)| match event.as_str() {
        "change" => format!(
            "{} {}",
            data["peer"]["node_id"].as_str().expect("id"),
            data["change"].as_str().expect("change")
        ),
        "snapshot" => format!("snapshot of {}", data["items"].as_array().expect("items").len()),
        other => other.to_owned(),
    };
    events.iter().map(step).collect()
}

#[tokio::test]
async fn a_list_shows_every_member_with_all_that_is_known() {
    insta::assert_snapshot!(Cluster::small().get("/control/v1/peers?limit=2").await, @r#"
    {
      "api_version": "control/v1",
      "items": [
        {
          "addresses": [
            "127.0.0.1:17421"
          ],
          "cluster": "prod",
          "cordoned": true,
          "draining": false,
          "endpoints": [
            {
              "encoding": null,
              "service": "orders",
              "transport": "h2",
              "url": "https://w-1:8443"
            }
          ],
          "health": "healthy",
          "incarnation": 3,
          "instance": "0000000000000001",
          "labels": {
            "tier": "gold"
          },
          "last_change": "2023-11-14T22:12:30.000Z",
          "load": {
            "cpu_permille": 250,
            "custom": {
              "shards": 12
            },
            "memory_permille": null,
            "said_at": "2023-11-14T22:13:18.000Z"
          },
          "mesh_version": "0.1.0",
          "metadata": {
            "build": "7"
          },
          "node_id": "w-1",
          "protocols": [
            "gossip=1-2",
            "leader=1"
          ],
          "region": "eu",
          "role": "worker",
          "rtt": 0.000812,
          "state": "alive",
          "transports": [
            "h3",
            "h2"
          ],
          "verification": "direct",
          "zone": "eu-1a"
        },
        {
          "addresses": [],
          "cluster": null,
          "cordoned": false,
          "draining": false,
          "endpoints": [],
          "health": "healthy",
          "incarnation": 0,
          "instance": "0000000000000002",
          "labels": {},
          "last_change": "2023-11-14T22:13:19.500Z",
          "load": null,
          "mesh_version": null,
          "metadata": {
            "endpoints": "not json"
          },
          "node_id": "w-2",
          "protocols": [],
          "region": null,
          "role": "worker",
          "rtt": null,
          "state": "suspect",
          "transports": [],
          "verification": "relayed",
          "zone": null
        }
      ],
      "next_cursor": "c2a14556772d32",
      "observer": "n-1"
    }
    "#);
}

#[tokio::test]
async fn one_peer_by_its_name_and_both_paths_agree() {
    let cluster = Cluster::small();
    insta::assert_snapshot!(cluster.get("/control/v1/peers/x-3").await, @r#"
    {
      "api_version": "control/v1",
      "observer": "n-1",
      "peer": {
        "addresses": [],
        "cluster": null,
        "cordoned": false,
        "draining": false,
        "endpoints": [],
        "health": "healthy",
        "incarnation": 0,
        "instance": "0000000000000003",
        "labels": {
          "tier": "silver"
        },
        "last_change": "2023-11-14T22:12:30.000Z",
        "load": null,
        "mesh_version": null,
        "metadata": {},
        "node_id": "x-3",
        "protocols": [],
        "region": null,
        "role": "worker",
        "rtt": null,
        "state": "dead",
        "transports": [],
        "verification": "relayed",
        "zone": null
      }
    }
    "#);
    assert_eq!(cluster.get("/control/peers/x-3").await, cluster.get("/control/v1/peers/x-3").await);
    assert_eq!(cluster.get("/control/peers").await, cluster.get("/control/v1/peers").await);
}

#[tokio::test]
async fn problems_name_the_object_the_cause_and_what_to_do() {
    let cluster = Cluster::small();
    insta::assert_snapshot!(cluster.get("/control/v1/peers/w-9").await, @r#"
    {
      "action": "list the members with GET /control/v1/peers",
      "code": "peers.unknown",
      "detail": "n-1 knows no member of that name; it may have left long ago",
      "object": "w-9",
      "request_id": "test",
      "status": 404,
      "title": "no such peer",
      "type": "urn:mesh:problem:peers.unknown"
    }
    "#);
    insta::assert_snapshot!(cluster.get("/control/v1/peers?stat=alive").await, @r#"
    {
      "action": "use node_id, state, role, verification, health, instance, incarnation, addresses, cluster, region, zone, mesh_version, protocols, transports, cordoned, draining, label.<name>, search, limit, cursor, watch",
      "code": "peers.filter.unknown",
      "detail": "peers can't be filtered by it; did you mean state?",
      "object": "stat",
      "request_id": "test",
      "status": 400,
      "title": "the query has an unknown parameter",
      "type": "urn:mesh:problem:peers.filter.unknown"
    }
    "#);
    for (path, code) in [
        ("/control/v1/peers/UPPER", "peers.id.invalid"),
        ("/control/v1/peers?state=gone", "peers.filter.value"),
        ("/control/v1/peers?limit=0", "peers.limit.invalid"),
        ("/control/v1/peers?cursor=00", "peers.cursor.invalid"),
        ("/control/v1/peers?watch=maybe", "peers.watch.invalid"),
        ("/control/v1/peers?watch&colour=red", "peers.filter.unknown"),
    ] {
        let body = cluster.get(path).await;
        assert!(body.contains(&format!("\"code\": \"{code}\"")), "{path}: {body}");
    }
}

#[tokio::test]
async fn every_field_filters() {
    let cluster = Cluster::small();
    assert_eq!(cluster.names("").await, ["w-1", "w-2", "x-3"]);
    for query in [
        "node_id=w-1",
        "state=alive",
        "verification=direct",
        "incarnation=3",
        "instance=0000000000000001",
        "addresses=127.0.0.1:17421",
        "cluster=prod",
        "region=eu",
        "zone=in(eu-1a,eu-1b)",
        "mesh_version=0.1.0",
        "protocols=leader%3D1",
        "transports=h2",
        "cordoned=true",
        "label.tier=gold",
        "search=EU-1",
        "search=17421",
        "search=tier%3Dgold",
        "state!=suspect,dead",
        "draining=false&role=worker&health=healthy&search=w-&label.tier",
    ] {
        assert_eq!(cluster.names(query).await, ["w-1"], "{query}");
    }
    assert_eq!(cluster.names("label.tier").await, ["w-1", "x-3"]);
    assert_eq!(cluster.names("label.tier!=gold").await, ["w-2", "x-3"]);
    assert_eq!(cluster.names("health=degraded").await, [""; 0]);
}

#[tokio::test]
async fn a_known_tag_gives_304_until_something_other_than_a_round_trip_changes() {
    let cluster = Cluster::small();
    for path in ["/control/v1/peers?state=alive", "/control/v1/peers/w-1"] {
        let first = cluster.send(path, &[]).await;
        let tag = first.headers()["etag"].to_str().expect("text").to_owned();
        let known = cluster.send(path, &[("if-none-match", &tag)]).await;
        assert_eq!(known.status(), 304);
        assert_eq!(known.headers()["etag"], tag);
        assert_eq!(text(known).await, "");

        let mut moved =
            Member::clone(cluster.fake.snapshot().find(&"w-1".parse().expect("id")).expect("w-1"));
        moved.rtt = moved.rtt.map(|rtt| rtt * 2);
        if let Some(report) = &mut moved.load {
            report.said_at = Instant::from_nanos(59_000_000_000);
        }
        cluster.clock.advance(Duration::from_millis(1234));
        cluster.change(MemberChange::Updated, Reason::Path, moved.clone()).await;
        assert_eq!(cluster.send(path, &[("if-none-match", &tag)]).await.status(), 304);

        moved.metadata.insert("label.moved".to_owned(), path.to_owned());
        cluster.change(MemberChange::Updated, Reason::Metadata, moved).await;
        let changed = cluster.send(path, &[("if-none-match", &tag)]).await;
        assert_eq!(changed.status(), 200);
        assert_ne!(changed.headers()["etag"], tag);
    }
}

#[tokio::test]
async fn everything_that_shows_of_a_member_is_in_the_tag() {
    let changes: [fn(&mut Member); 11] = [
        |_| (),
        |member| member.state = MemberState::Left,
        |member| member.since = Instant::from_nanos(11_000_000_000),
        |member| member.role = "control".parse().expect("role"),
        |member| member.verification = Verification::Direct,
        |member| member.health = Health::Degraded,
        |member| member.instance = InstanceId(2),
        |member| member.incarnation = Incarnation(1),
        |member| member.addresses.push("127.0.0.1:1".parse().expect("address")),
        |member| member.load = Some(LoadReport::new(Load::default().with_cpu_permille(1), Instant::ZERO)),
        |member| drop(member.metadata.insert("zone".to_owned(), "eu-1a".to_owned())),
    ];
    let cluster = Cluster::of([member("w-1", 1)]);
    let mut tags = BTreeSet::new();
    let mut bodies = BTreeSet::new();
    for change in changes {
        let mut changed = member("w-1", 1);
        change(&mut changed);
        cluster.change(MemberChange::Updated, Reason::Metadata, changed).await;
        let response = cluster.send("/control/v1/peers", &[]).await;
        tags.insert(response.headers()["etag"].clone().to_str().expect("text").to_owned());
        bodies.insert(text(response).await);
    }
    assert_eq!((tags.len(), bodies.len()), (11, 11));
}

#[tokio::test]
async fn a_walk_over_the_pages_sees_each_staying_member_once_while_others_come_and_go() {
    let cluster = Cluster::of((0..500).map(|n| member(&format!("n-{n:03}"), n)));
    let staying: BTreeSet<String> = (0..500).filter(|n| n % 3 != 0).map(|n| format!("n-{n:03}")).collect();
    let (mut seen, mut query, mut round) = (Vec::new(), "limit=17".to_owned(), 0);
    loop {
        let reply: PeerList =
            serde_json::from_str(&cluster.get(&format!("/control/v1/peers?{query}")).await).expect("list");
        seen.extend(reply.items.into_iter().map(|peer| peer.node_id.to_string()));
        let leaver = member(&format!("n-{:03}", (round * 51) % 501 / 3 * 3), 0);
        cluster.change(MemberChange::Reclaimed, Reason::Goodbye, leaver).await;
        let newcomer = member(&format!("n-{:03}.new", (round * 83) % 500), 1);
        cluster.change(MemberChange::Joined, Reason::Announced, newcomer).await;
        round += 1;
        let Some(cursor) = reply.next_cursor else { break };
        query = format!("limit=17&cursor={cursor}");
    }
    assert!(round > 20);
    let unique: BTreeSet<String> = seen.iter().cloned().collect();
    assert_eq!(unique.len(), seen.len(), "nobody twice");
    assert!(unique.is_superset(&staying), "missing: {:?}", staying.difference(&unique));
}

#[tokio::test]
async fn a_watcher_gets_a_snapshot_and_then_each_change() {
    let cluster = Cluster::small();
    let mut follower = Follower::new(&cluster, "", None).await;
    let mut revived = member("w-2", 2);
    revived.incarnation = Incarnation(1);
    cluster.change(MemberChange::Refuted, Reason::Refuted, revived).await;
    let (events, id) = follower.read();
    assert_eq!(steps(&events), ["snapshot of 3", "w-2 refuted"]);
    assert_eq!(id.as_deref(), Some("0000000000000abc-1"));
    let snapshot: PeersSnapshot = serde_json::from_value(events[0].1.clone()).expect("snapshot");
    assert_eq!((snapshot.part, snapshot.parts), (1, 1));
    insta::assert_snapshot!(serde_json::to_string_pretty(&events[1].1).expect("json"), @r#"
    {
      "before": "suspect",
      "change": "refuted",
      "correlation_id": "000000000000002a",
      "observers": [
        "n-2"
      ],
      "peer": {
        "addresses": [],
        "cluster": null,
        "cordoned": false,
        "draining": false,
        "endpoints": [],
        "health": "healthy",
        "incarnation": 1,
        "instance": "0000000000000002",
        "labels": {},
        "last_change": "2023-11-14T22:12:30.000Z",
        "load": null,
        "mesh_version": null,
        "metadata": {},
        "node_id": "w-2",
        "protocols": [],
        "region": null,
        "role": "worker",
        "rtt": null,
        "state": "alive",
        "transports": [],
        "verification": "relayed",
        "zone": null
      },
      "reason": "refuted"
    }
    "#);
    cluster.change(MemberChange::Reclaimed, Reason::SuspicionExpired, member("x-3", 3)).await;
    assert_eq!(steps(&follower.read().0), ["x-3 reclaimed"]);
    assert_eq!(steps(&Follower::new(&cluster, "", None).await.read().0), ["snapshot of 2"]);
}

#[tokio::test]
async fn a_watcher_that_comes_back_misses_nothing() {
    let cluster = Cluster::small();
    let (mut seen, mut last) = (Vec::new(), None);
    for round in 0..30 {
        let mut follower = Follower::new(&cluster, "", last.as_deref()).await;
        cluster.change(MemberChange::Joined, Reason::Announced, member(&format!("a-{round}"), 1)).await;
        let (events, id) = follower.read();
        seen.extend(steps(&events));
        last = id;
        drop(follower);
        cluster.change(MemberChange::Joined, Reason::Announced, member(&format!("b-{round}"), 1)).await;
    }
    let mut expected = vec!["snapshot of 3".to_owned()];
    expected.extend((0..30).flat_map(|round| [format!("a-{round} joined"), format!("b-{round} joined")]));
    assert_eq!(seen, expected[..60]);

    // After more events than are kept, or from another run, everything starts anew.
    for round in 0..20 {
        cluster.change(MemberChange::Joined, Reason::Announced, member(&format!("c-{round}"), 1)).await;
    }
    for gone in [last.as_deref().expect("id"), "0000000000000def-1"] {
        let (events, _) = Follower::new(&cluster, "", Some(gone)).await.read();
        assert_eq!(steps(&events), ["snapshot of 83"]);
    }
}

#[tokio::test]
async fn a_filtered_watcher_sees_members_come_into_view_and_go_out_of_it() {
    let cluster = Cluster::small();
    let mut follower = Follower::new(&cluster, "&state=alive", None).await;
    assert_eq!(steps(&follower.read().0), ["snapshot of 1"]);
    let mut dying = member("w-2", 2);
    dying.state = MemberState::Dead;
    cluster.change(MemberChange::Died, Reason::SuspicionExpired, dying).await;
    assert_eq!(steps(&follower.read().0), [""; 0], "it was not in view, and is not");
    cluster.change(MemberChange::Recovered, Reason::Refuted, member("w-2", 2)).await;
    let mut suspect = member("w-1", 1);
    suspect.state = MemberState::Suspect;
    cluster.change(MemberChange::Suspected, Reason::ProbeTimeout, suspect).await;
    assert_eq!(steps(&follower.read().0), ["w-2 recovered", "w-1 suspected"]);
}

#[tokio::test]
async fn a_resync_becomes_the_changes_that_it_stands_for() {
    let cluster = Cluster::small();
    let mut follower = Follower::new(&cluster, "", None).await;
    follower.read();
    let unchanged = Member::clone(cluster.fake.snapshot().find(&"w-1".parse().expect("id")).expect("w-1"));
    cluster.resync(vec![unchanged, member("w-2", 2), member("w-4", 4)]).await;
    let (events, _) = follower.read();
    assert_eq!(steps(&events), ["x-3 reclaimed", "w-2 refuted", "w-4 joined"]);
    assert!(events.iter().all(|(_, data)| data["reason"] == "resynced" && data["correlation_id"].is_null()));
}

#[tokio::test]
async fn a_watcher_too_slow_is_told_so_and_a_large_snapshot_comes_in_parts() {
    let cluster = Cluster::of((0..450).map(|n| member(&format!("n-{n:03}"), n)));
    let (mut slow, mut quick) =
        (Follower::new(&cluster, "", None).await, Follower::new(&cluster, "", None).await);
    let mut quick_steps = Vec::new();
    for n in 0..17 {
        cluster.change(MemberChange::Updated, Reason::Metadata, member("n-000", 1000 + n)).await;
        quick_steps.extend(steps(&quick.read().0));
    }
    let parts = ["snapshot of 200", "snapshot of 200", "snapshot of 50"];
    assert_eq!(quick_steps[..3], parts);
    assert_eq!(quick_steps.len(), 3 + 17);
    let (events, id) = slow.read();
    assert_eq!(steps(&events), [parts[0], parts[1], parts[2], "end"]);
    assert_eq!(events[3].1["code"], "events.subscriber.slow");
    assert_eq!(id.as_deref(), Some("0000000000000abc-0"));
}

#[tokio::test]
async fn streams_end_with_a_word_when_the_membership_ends() {
    let cluster = Cluster::small();
    let mut follower = Follower::new(&cluster, "", None).await;
    follower.read();
    cluster.fake.0.lock().expect("lock").1.clear();
    cluster.settle().await;
    let (events, _) = follower.read();
    assert_eq!(events[0].1["code"], "events.stream.closing");
}

#[test]
fn a_node_that_is_not_ready_says_why() {
    let codes = |status: GossipStatus| -> Vec<String> {
        readiness(&status).into_iter().map(|reason| reason.code.into_owned()).collect()
    };
    let ready = GossipStatus { ready: true, ..GossipStatus::default() };
    assert_eq!(codes(ready), [""; 0]);
    assert_eq!(codes(GossipStatus::default()), ["gossip.joining"]);
    assert_eq!(codes(GossipStatus { isolated: true, ..GossipStatus::default() }), ["gossip.isolated"]);
    assert_eq!(
        codes(GossipStatus { stepped_aside: true, left: true, ..ready }),
        ["gossip.conflict", "gossip.left"]
    );
}

#[tokio::test]
async fn the_routes_serve_a_running_driver() {
    const PATIENCE: Duration = Duration::from_secs(20);
    let network = ChannelNetwork::new();
    let start = async |name: &str, seeds: Vec<String>| {
        let identity = ChannelNetwork::identity(name).expect("identity");
        let (carrier, address) = network.join(identity.clone());
        let config = GossipConfig { seeds, ..GossipConfig::local() }.validate().expect("valid");
        let local = LocalNode { identity, addresses: vec![address], metadata: BTreeMap::new() };
        let handle = Driver::spawn(config, local, carrier, DriverOptions::default()).await.expect("starts");
        (handle, address)
    };
    let (a, address) = start("a", vec![]).await;
    let config = EdgeConfig::default();
    let router = peers_routes(PeersOptions {
        membership: Arc::new(a.clone()),
        local: "a".parse().expect("id"),
        instance: InstanceId(1),
        clock: Arc::new(SystemClock),
        pages: config.page_limits(),
        hub: config.hub_limits(),
        metrics: EdgeMetrics::default(),
    });
    let get = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).expect("request");
        router.clone().oneshot(request).await.expect("infallible")
    };
    let mut stream = get("/control/v1/peers?watch&node_id=b").await.into_body().into_data_stream();
    let mut until = async |wanted: &str| {
        let reading = async {
            let mut text = String::new();
            while !text.contains(wanted) {
                let frame = stream.next().await.expect("open").expect("frame");
                text.push_str(std::str::from_utf8(&frame).expect("text"));
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("never came: {wanted}"));
    };
    let (b, _) = start("b", vec![address.to_string()]).await;
    until(r#""change":"joined""#).await;
    b.set_metadata("zone", "eu-1a").await.expect("accepted");
    until(r#""zone":"eu-1a""#).await;
    let list: PeerList =
        serde_json::from_str(&text(get("/control/v1/peers?zone=eu-1a").await).await).expect("list");
    assert_eq!(list.items.iter().map(|peer| peer.node_id.as_str()).collect::<Vec<_>>(), ["b"]);
    b.leave(PATIENCE).await.expect("acknowledged");
    until(r#""change":"left""#).await;
    a.stop();
    until("events.stream.closing").await;
}
