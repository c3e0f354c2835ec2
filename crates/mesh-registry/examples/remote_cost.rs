//! What the network adds: the `remote` provider over the `memory` one, on the loopback interface with
//! mutual TLS. Prints percentiles. `cargo run --release --example remote_cost --features rpc`

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use futures_util::StreamExt;
use mesh_core::{
    Clock, Instant, Settings, SystemClock,
    store::{Key, Operation, Prefix, Scan, Txn, VersionedStore, WatchEvent, WatchFrom, WatchOptions},
};
use mesh_registry::{MemoryStore, RemoteConfig, RemoteStore, ServiceConfig, StoreService};
use mesh_transport::{
    TransportConfig,
    ca::DevCa,
    endpoint::{Endpoint, NodeSecret},
    rpc::{Channels, MESH, Policy, PolicyConfig, RpcMetrics, RpcServer, Target},
};
use tokio::sync::mpsc;

type Failed = Box<dyn std::error::Error + Send + Sync>;

const ROUNDS: u32 = 3000;

fn checked<T: Settings>(settings: T) -> Result<mesh_core::Validated<T>, Failed> {
    settings.validate().map_err(|problems| problems[0].clone().into())
}

fn put(key: &str) -> Result<Txn, Failed> {
    let operation = Operation::Put { key: Key::new(key)?, value: vec![7; 256].into(), session: None };
    Ok(Txn::new("w-1".parse()?).then(operation))
}

fn tell(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    println!("{what:<42} p50 {:>7.3} ms   p99 {:>7.3} ms", at(0.5), at(0.99));
}

fn endpoint(ca: &DevCa, role: &str, id: &str) -> Result<Endpoint, Failed> {
    let config = TransportConfig { bind: (Ipv4Addr::LOCALHOST, 0).into(), ..TransportConfig::default() };
    let secret = NodeSecret::from_bytes([id.len() as u8; 32]);
    Ok(Endpoint::bind(checked(config)?, ca.identity("c", role, id)?, Some(secret))?)
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let ca = DevCa::new("example.org")?;
    let policy = checked(PolicyConfig::default())?;
    let guard = Policy::new(&policy, Arc::new(SystemClock)).endpoint(None, MESH)?;

    let memory = MemoryStore::new();
    let server = endpoint(&ca, "control", "v-1")?;
    let service = StoreService::new(Arc::new(memory.clone()), checked(ServiceConfig::default())?);
    let routes = service.add_to(tonic::service::Routes::default()).prepare();
    let metrics = RpcMetrics::new(server.metrics().clone());
    let rpc = RpcServer::new(routes, guard.clone(), checked(server.config().server.clone())?, metrics);
    let incoming = server.rpc_incoming().ok_or("taken")?;
    tokio::spawn(async move { rpc.serve(incoming).await });

    let remote = |id: &str| -> Result<RemoteStore, Failed> {
        let client = endpoint(&ca, "worker", id)?;
        let channels = checked(client.config().channel_config())?;
        let metrics = RpcMetrics::new(client.metrics().clone());
        let channels = Channels::new(Arc::new(client), guard.clone(), channels, metrics);
        let voters: Arc<[Target]> = Arc::new([Target::new("v-1".parse()?, server.local_address())]);
        Ok(RemoteStore::new(channels, Arc::new(voters), checked(RemoteConfig::default())?))
    };
    let store = remote("w-1")?;
    let clock = SystemClock;
    for at in 0..1000 {
        store.transact(put(&format!("list/{at:04}"))?).await?;
    }

    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let began = clock.now();
        store.transact(put("a")?).await?;
        times.push(clock.now().since(began));
    }
    tell("put of 256 B, one after the other", times);

    let (mut times, key) = (Vec::new(), Key::new("a")?);
    for _ in 0..ROUNDS {
        let began = clock.now();
        store.get(&key).await?;
        times.push(clock.now().since(began));
    }
    tell("get of 256 B, one after the other", times);

    let (mut times, scan) = (Vec::new(), Scan::of(Prefix::new("list/")?));
    for _ in 0..ROUNDS / 10 {
        let began = clock.now();
        assert_eq!(store.scan(&scan).await?.value.records.len(), 1000);
        times.push(clock.now().since(began));
    }
    tell("list of 1,000 records of 256 B", times);

    let began = clock.now();
    let clients = 64;
    let mut writers = tokio::task::JoinSet::new();
    for client in 0..clients {
        let store = store.clone();
        let txn = put(&format!("c/{client}"))?;
        writers.spawn(async move {
            for _ in 0..ROUNDS / 10 {
                store.transact(txn.clone()).await.map(drop)?;
            }
            Ok::<_, Failed>(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    let each = f64::from(clients * (ROUNDS / 10)) / clock.now().since(began).as_secs_f64();
    println!("{:<42} {each:>7.0} /s", format!("puts of {clients} clients"));

    for (watchers, stores) in [(1, 1), (200, 1), (200, 20)] {
        let stores: Vec<RemoteStore> =
            (0..stores).map(|at| remote(&format!("r{watchers}-{stores}-{at}"))).collect::<Result<_, _>>()?;
        watch(&memory, &stores, watchers).await?;
    }
    Ok(())
}

/// 200 puts a second at the server's own handle; how long after each the events come.
async fn watch(memory: &MemoryStore, stores: &[RemoteStore], watchers: usize) -> Result<(), Failed> {
    let (sender, mut seen) = mpsc::channel(65_536);
    let mut tasks = tokio::task::JoinSet::new();
    for at in 0..watchers {
        let options = WatchOptions::default();
        let prefix = Prefix::new("w/")?;
        let mut watch = stores[at % stores.len()].watch(&prefix, WatchFrom::Now, options).await?;
        let sender = sender.clone();
        tasks.spawn(async move {
            while let Some(Ok(event)) = watch.next().await {
                if let WatchEvent::Changes { revision, .. } = event
                    && sender.send((revision, SystemClock.now())).await.is_err()
                {
                    return;
                }
            }
        });
    }
    let cpu = processor_time();
    let began = SystemClock.now();
    let rounds = 400;
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    let mut times = Vec::new();
    for _ in 0..rounds {
        pace.tick().await;
        let issued: Instant = SystemClock.now();
        let revision = memory.transact(put("w/a")?).await?.revision;
        for _ in 0..watchers {
            let (of, at) = seen.recv().await.ok_or("the watches ended")?;
            assert_eq!(of, revision);
            times.push(at.since(issued));
        }
    }
    let used = (processor_time() - cpu).as_secs_f64() / SystemClock.now().since(began).as_secs_f64();
    let connections = stores.len();
    tell(&format!("watch, {watchers} watchers, {connections} clients, {used:.2} cores"), times);
    tasks.abort_all();
    Ok(())
}

/// Processor time that this process used.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}
