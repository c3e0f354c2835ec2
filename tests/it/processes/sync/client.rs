//! An operator who writes and reads documents of a node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, anyhow};
use mesh_cli::client::Edge;
use mesh_sim::harness::{Cluster, target};
use tokio::runtime::{Builder, Runtime};

use super::{COLLECTION, DATASET};

/// Asks one node, one thing at a time.
pub(super) struct Client {
    edge: Edge,
    runtime: Runtime,
}

impl Client {
    pub(super) fn new(cluster: &Cluster, name: &str) -> Result<Self> {
        let target = target(cluster, name)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let edge = runtime.block_on(Edge::new(target)).map_err(|failure| anyhow!("{failure}"))?;
        Ok(Self { edge, runtime })
    }

    /// The node's documents by their keys, with the entries that wrote them last.
    pub(super) fn entries(&self) -> Result<BTreeMap<String, String>> {
        let mut all = BTreeMap::new();
        let path = format!("/control/v1/data/{DATASET}");
        let mut query = vec![("limit".to_owned(), "1000".to_owned())];
        loop {
            let page = self
                .runtime
                .block_on(self.edge.get(&path, &query))
                .map_err(|failure| anyhow!("{failure}"))?;
            for document in page["items"].as_array().context("a list without items")? {
                let text = |field: &str| document[field].as_str().unwrap_or_default().to_owned();
                all.insert(text("key"), text("id"));
            }
            match page["next_cursor"].as_str() {
                None => return Ok(all),
                Some(next) => {
                    query.truncate(1);
                    query.push(("cursor".to_owned(), next.to_owned()));
                }
            }
        }
    }

    fn put(&self, key: &str) -> Result<()> {
        let path = format!("/control/v1/data/{DATASET}/{COLLECTION}/{key}");
        let put = self.runtime.block_on(self.edge.put(&path, "a value".into()));
        put.map(drop).map_err(|failure| anyhow!("{key} was not written: {failure}"))
    }
}

/// Writes one document after the other until it is stopped, or its node dies.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: JoinHandle<BTreeSet<String>>,
}

impl Load {
    pub(super) fn start(cluster: &Cluster, name: &str, prefix: &str) -> Result<Self> {
        let client = Client::new(cluster, name)?;
        let (stop, count) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (stopped, counted, prefix) = (Arc::clone(&stop), Arc::clone(&count), prefix.to_owned());
        let thread = thread::spawn(move || {
            let mut acknowledged = BTreeSet::new();
            for number in 0.. {
                let key = format!("{prefix}-{number}");
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                if let Err(error) = client.put(&key) {
                    // For whoever waits for writes that do not come any more.
                    println!("{error}");
                    break;
                }
                acknowledged.insert(key);
                counted.fetch_add(1, Ordering::Relaxed);
            }
            acknowledged
        });
        Ok(Self { stop, count, thread })
    }

    /// How many writes were acknowledged.
    pub(super) fn acknowledged(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Ends it; the keys that were acknowledged.
    pub(super) fn stop(self) -> Result<BTreeSet<String>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the writer panicked")
    }
}
