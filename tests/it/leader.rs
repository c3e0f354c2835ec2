//! Leadership on a real store: the driver, its leases, its control routes and its gRPC service.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use futures_util::StreamExt;
use mesh_core::{
    CertificateInfo, Clock, Instant, MemberEvents, MemberSnapshot, Membership, NodeId, PeerIdentity,
    Settings, SystemClock, WallTime,
    store::{
        Applied, ByteStream, Fresh, Key, OpenSession, Operation, Page, Prefix, Record, Restored, Scan,
        Session, SessionError, SessionId, Stale, StoreError, StoreStatus, Txn, TxnError, TxnOutcome,
        VersionedStore, WatchFrom, WatchOptions, WatchStream,
    },
};
use mesh_leader::{
    CampaignOptions, LeaderConfig, Leadership, LeaseError, Notice, Order, Refusal, Scope, ScopeConfig,
    Transition,
    api::{LeadersOptions, leaders_routes},
    rpc::{LeadershipService, SubscribeRequest, leadership_server::Leadership as _, subscribe_reply},
};
use mesh_registry::MemoryStore;
use mesh_transport::edge::{EdgeConfig, EdgeMetrics};
use serde_json::{Value, json};
use tower::ServiceExt;

const S: &str = "global-control";

/// Nobody tells anything about anybody.
struct Silent;

impl Membership for Silent {
    fn snapshot(&self) -> MemberSnapshot {
        MemberSnapshot::default()
    }
    fn subscribe(&self) -> (MemberSnapshot, MemberEvents) {
        (MemberSnapshot::default(), Box::pin(futures_util::stream::pending()))
    }
}

/// One node's way to the store, which can be cut.
struct Line {
    store: MemoryStore,
    cut: AtomicBool,
}

impl Line {
    async fn through<T>(&self, request: impl Future<Output = T> + Send) -> T {
        if self.cut.load(Ordering::SeqCst) {
            // As if the packets went nowhere: the caller's patience ends it.
            std::future::pending::<()>().await;
        }
        request.await
    }
}

#[async_trait]
impl VersionedStore for Line {
    async fn get(&self, key: &Key) -> Result<Fresh<Option<Record>>, StoreError> {
        self.through(self.store.get(key)).await
    }
    async fn get_stale(&self, key: &Key) -> Result<Stale<Option<Record>>, StoreError> {
        self.store.get_stale(key).await
    }
    async fn scan(&self, scan: &Scan) -> Result<Fresh<Page>, StoreError> {
        self.through(self.store.scan(scan)).await
    }
    async fn scan_stale(&self, scan: &Scan) -> Result<Stale<Page>, StoreError> {
        self.store.scan_stale(scan).await
    }
    async fn transact(&self, txn: Txn) -> Result<TxnOutcome, TxnError> {
        self.through(self.store.transact(txn)).await
    }
    async fn watch(
        &self,
        prefix: &Prefix,
        from: WatchFrom,
        options: WatchOptions,
    ) -> Result<WatchStream, StoreError> {
        self.through(self.store.watch(prefix, from, options)).await
    }
    async fn open_session(&self, request: OpenSession) -> Result<Session, SessionError> {
        self.through(self.store.open_session(request)).await
    }
    async fn keep_alive(&self, session: SessionId) -> Result<Session, SessionError> {
        self.through(self.store.keep_alive(session)).await
    }
    async fn close_session(&self, session: SessionId) -> Result<mesh_core::Revision, SessionError> {
        self.through(self.store.close_session(session)).await
    }
    async fn session(&self, session: SessionId) -> Result<Option<Session>, StoreError> {
        self.store.session(session).await
    }
    async fn compact(&self, through: mesh_core::Revision) -> Result<(), StoreError> {
        self.store.compact(through).await
    }
    async fn snapshot(&self) -> Result<ByteStream, StoreError> {
        self.store.snapshot().await
    }
    async fn restore(&self, snapshot: ByteStream) -> Result<Restored, StoreError> {
        self.store.restore(snapshot).await
    }
    async fn status(&self) -> Result<StoreStatus, StoreError> {
        Err(StoreError::Unavailable {
            operation: "tell the status",
            reason: "nobody asks for it".into(),
            applied: Applied::No,
            source: None,
        })
    }
}

/// The machine's clock, which can be made to jump: to the node it is as if it had been paused.
#[derive(Default)]
struct Jumpy {
    ahead_ms: AtomicU64,
}

impl Jumpy {
    fn jump(&self, by: Duration) {
        self.ahead_ms.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clock for Jumpy {
    fn now(&self) -> Instant {
        SystemClock.now() + Duration::from_millis(self.ahead_ms.load(Ordering::SeqCst))
    }
    fn wall(&self) -> WallTime {
        SystemClock.wall()
    }
}

struct Node {
    leadership: Leadership,
    line: Arc<Line>,
    clock: Arc<Jumpy>,
}

fn node_id(name: &str) -> NodeId {
    name.parse().expect("a node id")
}

fn scope(name: &str) -> Scope {
    name.parse().expect("a scope")
}

fn start(store: &MemoryStore, name: &str, config: LeaderConfig) -> Node {
    let line = Arc::new(Line { store: store.clone(), cut: AtomicBool::new(false) });
    let config = config.validate().expect("valid");
    let clock = Arc::new(Jumpy::default());
    let leadership = Leadership::spawn(config, line.clone(), Arc::new(Silent), clock.clone(), node_id(name));
    Node { leadership, line, clock }
}

/// Long enough for a busy machine; nothing waits for it to pass.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.unwrap_or_else(|_| panic!("{what}: never"))
}

/// A time to live that a busy machine can keep.
fn config() -> LeaderConfig {
    LeaderConfig { ttl: Duration::from_secs(4), ..LeaderConfig::default() }
}

fn order() -> Order {
    Order { by: "an operator".into(), reason: "a test".into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_writes_under_its_fence_until_it_has_handed_over() {
    let store = MemoryStore::new();
    let (a, b) = (start(&store, "a", config()), start(&store, "b", config()));
    soon("ready", a.leadership.ready()).await.expect("ready");
    let mut campaign = a.leadership.campaign(scope(S), CampaignOptions::default()).await.expect("taken");
    let lease = soon("elected", campaign.elected()).await.expect("elected");
    assert_eq!((lease.holder(), lease.term()), (&node_id("a"), 1));
    assert!(lease.valid_for() > Duration::ZERO);

    let put = |value: &'static str| {
        let key = Key::new("tables/orders").expect("a key");
        Txn::new(node_id("a")).then(Operation::Put { key, value: value.into(), session: None })
    };
    store.transact(lease.guard(put("one")).expect("leads")).await.expect("taken");

    let mut other = b.leadership.campaign(scope(S), CampaignOptions::default()).await.expect("taken");
    let prepared = lease.guard(put("two")).expect("still leads");
    let mut observer = b.leadership.observe(scope(S));
    while soon("b is a candidate", observer_candidates(&b)).await < 2 {}
    // From the node that does not lead.
    soon("handed over", b.leadership.step_down(&scope(S), order())).await.expect("done");
    let next = soon("b leads", other.elected()).await.expect("elected");
    assert!(next.token() > lease.token() && next.term() == 2);
    assert!(lease.check().is_err(), "two leaders");
    soon("a knows", lease.ended()).await;
    assert!(matches!(lease.check(), Err(LeaseError::Over { .. })), "{:?}", lease.check());
    // What the old leader prepared before is refused by the store itself.
    let refused = store.transact(prepared).await.expect_err("fenced");
    assert!(matches!(refused, TxnError::Fenced { .. }), "{refused}");
    next.confirm().await.expect("leads");
    let seen = soon("observed", observer.changed()).await.expect("open");
    assert_eq!(seen.leader, Some(node_id("b")));

    let prefix = Prefix::new("~audit/").expect("a prefix");
    let audits = store.scan(&Scan::of(prefix)).await.expect("reads").value.records;
    let texts: Vec<Value> =
        audits.iter().map(|record| serde_json::from_slice(&record.value).expect("JSON")).collect();
    assert_eq!(texts.len(), 2, "the ask at b and the handover by a: {texts:?}");
    assert_eq!(texts[0]["correlation_id"], texts[1]["correlation_id"]);
    assert!(texts.iter().all(|text| text["action"] == "leader.step-down"), "{texts:?}");
}

/// Waits for a change, and counts who would lead.
async fn observer_candidates(node: &Node) -> usize {
    tokio::task::yield_now().await;
    node.leadership.leader(&scope(S)).map_or(0, |view| view.candidates.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_knows_it_before_the_next_one_leads() {
    let store = MemoryStore::new();
    let short = LeaderConfig { ttl: Duration::from_secs(2), ttl_probes: 0, ..LeaderConfig::default() };
    let (a, b) = (start(&store, "a", short.clone()), start(&store, "b", short));
    let mut first = a.leadership.campaign(scope(S), CampaignOptions::default()).await.expect("taken");
    let lease = soon("elected", first.elected()).await.expect("elected");
    let mut second = b.leadership.campaign(scope(S), CampaignOptions::default()).await.expect("taken");
    a.line.cut.store(true, Ordering::SeqCst);
    let next = soon("b leads", second.elected()).await.expect("elected");
    assert!(lease.check().is_err(), "two leaders");
    assert!(next.check().is_ok() || next.confirm().await.is_ok());
    let over = soon("a knows", lease.confirm()).await.expect_err("over");
    assert!(matches!(over, LeaseError::Over { .. }), "{over}");
    // Once it is back it is a candidate again, with a session of its own.
    a.line.cut.store(false, Ordering::SeqCst);
    drop(second);
    soon("a leads again", first.elected()).await.expect("elected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_pause_a_lease_is_not_trusted_until_the_store_has_confirmed_it() {
    let store = MemoryStore::new();
    let long = LeaderConfig { ttl: Duration::from_secs(60), ..LeaderConfig::default() };
    let a = start(&store, "a", long);
    let mut campaign = a.leadership.campaign(scope(S), CampaignOptions::default()).await.expect("taken");
    let lease = soon("elected", campaign.elected()).await.expect("elected");
    // Longer than the time to live, for this node alone: the store has not noticed.
    a.line.cut.store(true, Ordering::SeqCst);
    a.clock.jump(Duration::from_secs(100));
    assert!(matches!(lease.check(), Err(LeaseError::Unconfirmed { .. })), "{:?}", lease.check());
    assert_eq!(lease.valid_for(), Duration::ZERO);
    assert!(lease.guard(Txn::new(node_id("a"))).is_err());
    a.line.cut.store(false, Ordering::SeqCst);
    soon("confirmed", lease.confirm()).await.expect("the same reign");
    assert!(lease.check().is_ok());
    // Less than the time to live, but longer than this process may go without a word of the store.
    a.clock.jump(Duration::from_secs(40));
    assert!(matches!(lease.check(), Err(LeaseError::Unconfirmed { .. })), "{:?}", lease.check());
    soon("confirmed", lease.confirm()).await.expect("the same reign");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_start_campaigns_and_a_drain_moves_every_lease() {
    let store = MemoryStore::new();
    let scopes: Vec<ScopeConfig> =
        ["x", "y", "z"].map(|name| ScopeConfig { name: name.into(), ..ScopeConfig::default() }).into();
    let a = start(&store, "a", LeaderConfig { scopes: scopes.clone(), ..config() });
    for name in ["x", "y", "z"] {
        let mut leases = a.leadership.leases(&scope(name));
        soon("a leads", leases.wait_for(Option::is_some)).await.expect("running");
    }
    let b = start(&store, "b", LeaderConfig { scopes, ..config() });
    while a.leadership.leaders().iter().any(|view| view.candidates.len() < 2) {
        soon("a yield", tokio::task::yield_now()).await;
    }
    soon("drained", a.leadership.drain()).await.expect("drained");
    for name in ["x", "y", "z"] {
        let mut leases = b.leadership.leases(&scope(name));
        soon("b leads", leases.wait_for(Option::is_some)).await.expect("running");
        assert!(a.leadership.lease(&scope(name)).is_none());
    }
    soon("stopped", a.leadership.stop(Duration::from_secs(10))).await;
    assert!(!a.leadership.is_running());
    let refused = a.leadership.campaign(scope("w"), CampaignOptions::default()).await.expect_err("stopped");
    assert_eq!(refused, Refusal::Stopped);
    // The end of the last handle gives everything back, without waiting for the time to live.
    drop(b.leadership);
    let key = mesh_leader::lease_key(&scope("x"));
    while soon("read", store.get(&key)).await.expect("reads").value.is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_campaign_gives_the_lease_back() {
    let store = MemoryStore::new();
    let a = start(&store, "a", config());
    let mut campaign = a.leadership.campaign(scope(S), CampaignOptions::default()).await.expect("taken");
    let lease = soon("elected", campaign.elected()).await.expect("elected");
    let again = a.leadership.campaign(scope(S), CampaignOptions::default()).await.expect_err("twice");
    assert!(matches!(again, Refusal::Campaigning { .. }));
    assert!(lease.check().is_ok(), "the refused campaign did not withdraw the first");
    drop(campaign);
    soon("given back", lease.ended()).await;
    let mut again = a.leadership.campaign(scope(S), CampaignOptions::default()).await.expect("free again");
    let next = soon("elected", again.elected()).await.expect("elected");
    assert!(next.token() > lease.token());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_see_each_transition_once_and_can_come_back() {
    let store = MemoryStore::new();
    let a = start(&store, "a", config());
    let mut subscription = a.leadership.subscribe(None).expect("fits");
    let campaign = a.leadership.campaign(scope(S), CampaignOptions::default()).await.expect("taken");
    let mut elected = None;
    while elected.is_none() {
        if let Notice::Event { id, event } = soon("an event", subscription.next()).await.expect("open")
            && event.transition == Transition::Elected
        {
            elected = Some(id);
        }
    }
    soon("withdrawn", campaign.withdraw()).await.expect("withdrawn");
    let mut again = a.leadership.subscribe(elected).expect("fits");
    loop {
        match soon("an event", again.next()).await.expect("open") {
            Notice::Snapshot { .. } => panic!("it could resume"),
            Notice::Event { event, .. } if event.transition == Transition::Renewed => {}
            Notice::Event { event, .. } => {
                assert_eq!(event.transition, Transition::SteppedDown);
                break;
            }
        }
    }
    // The same over gRPC.
    let service = LeadershipService::new(a.leadership.clone());
    let after = elected.map(|id| id.to_string()).unwrap_or_default();
    let request = SubscribeRequest { scopes: vec![S.into()], after };
    let mut replies = service.subscribe(tonic::Request::new(request)).await.expect("taken").into_inner();
    loop {
        let reply = soon("a reply", replies.next()).await.expect("open").expect("well");
        let Some(subscribe_reply::Item::Event(event)) = reply.item else { panic!("a snapshot") };
        assert_eq!((event.scope.as_str(), event.leader.as_str()), (S, "a"));
        if event.transition() == mesh_leader::rpc::WireTransition::SteppedDown {
            break;
        }
    }
}

fn routes(node: &Node) -> Router {
    let config = EdgeConfig::default().validate().expect("valid");
    leaders_routes(LeadersOptions {
        leadership: node.leadership.clone(),
        pages: config.page_limits(),
        hub: config.hub_limits(),
        metrics: EdgeMetrics::default(),
    })
}

async fn post(router: &Router, path: &str, body: Value) -> (StatusCode, Value) {
    let operator = PeerIdentity {
        id: "spiffe://example.org/mesh/prod/operator/alice".parse().expect("an id"),
        certificate: CertificateInfo { serial: "0a".into(), not_before_s: 1, not_after_s: 2 },
    };
    let request = Request::post(path)
        .header("content-type", "application/json")
        .extension(Arc::new(operator))
        .body(Body::from(body.to_string()))
        .expect("a request");
    let response = soon("an answer", router.clone().oneshot(request)).await.expect("infallible");
    let status = response.status();
    let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_transfers_over_http_and_the_audit_names_who_and_why() {
    let store = MemoryStore::new();
    let (a, b) = (start(&store, "a", config()), start(&store, "b", config()));
    let mut first = a.leadership.campaign(scope(S), CampaignOptions::default()).await.expect("taken");
    soon("elected", first.elected()).await.expect("elected");
    let mut second = b.leadership.campaign(scope(S), CampaignOptions::default()).await.expect("taken");
    for node in [&a, &b] {
        while soon("candidates", observer_candidates(node)).await < 2 {}
    }
    let router = routes(&a);
    let path = format!("/control/v1/leaders/{S}:transfer");
    let (status, problem) = post(&router, &path, json!({"to": "nobody", "reason": "maintenance"})).await;
    assert_eq!(
        (status, problem["code"].as_str()),
        (StatusCode::CONFLICT, Some("leaders.transfer.candidate")),
        "{problem}"
    );
    let (status, reply) = post(&router, &path, json!({"to": "b", "reason": "maintenance"})).await;
    assert_eq!((status, reply["leader"]["leader"].as_str()), (StatusCode::OK, Some("b")), "{reply}");
    soon("b leads", second.elected()).await.expect("elected");
    let prefix = Prefix::new("~audit/").expect("a prefix");
    let audits = store.scan(&Scan::of(prefix)).await.expect("reads").value.records;
    let text: Value = serde_json::from_slice(&audits.last().expect("audited").value).expect("JSON");
    assert_eq!(text["action"], "leader.transfer");
    let reason = text["reason"].as_str().expect("text");
    assert!(reason.contains("maintenance") && reason.contains("operator/alice"), "{reason}");
}
