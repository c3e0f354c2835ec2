//! What memory an engine takes that has a hundred peers, without transport and store.
//!
//! Engines in memory are started in processes of their own: once one with a hundred peers of one peer each, and once as
//! many in pairs. What the first process has grown more is that engine's. All of them have the same few entries.

use std::{process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use mesh_core::NodeId;
use mesh_sync::{
    engine::{Engine, PeerAddress},
    memory::MemoryNetwork,
    store::MemoryStore,
};

use super::node::{collection, dataset, engine_options};
use crate::load::rss_kib;

const PEERS: usize = 100;
const ENTRIES: usize = 10;
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
/// Heartbeats and confirmations have gone to and fro by then.
const SETTLED: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(crate) struct Options {
    /// Who is whose peer.
    #[arg(long)]
    shape: Shape,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shape {
    Star,
    Pairs,
}

pub(super) async fn measure(tell: &mut dyn FnMut(&str, f64)) -> Result<()> {
    let star = child("star").await?;
    let pairs = child("pairs").await?;
    // The pairs have two engines more than there are peers.
    tell("engine_mib_100_peers", star - pairs * PEERS as f64 / (PEERS + 2) as f64);
    tell("engine_mib_1_peer", pairs / (PEERS + 2) as f64);
    Ok(())
}

async fn child(shape: &str) -> Result<f64> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command.args(["sync-memory", "--shape", shape]).stderr(Stdio::inherit()).kill_on_drop(true);
    let output = command.output().await.context("start a process")?;
    ensure!(output.status.success(), "the measurement of memory failed");
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// Prints how many MiB the engines have taken.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let before = rss_kib()?;
    let network = MemoryNetwork::default();
    let mut engines: Vec<Engine> = Vec::new();
    let groups = match options.shape {
        Shape::Star => vec![PEERS + 1],
        Shape::Pairs => vec![2; PEERS / 2 + 1],
    };
    for (group, size) in groups.into_iter().enumerate() {
        let name = |at: usize| format!("n{group:03}-{at:03}");
        let first = NodeId::new(name(0))?;
        for at in 0..size {
            let node = NodeId::new(name(at))?;
            let carrier = Arc::new(network.carrier(&node));
            let stores = Arc::new(MemoryStore::in_memory());
            let engine = Engine::start(engine_options(&name(at), carrier, stores)?).await?;
            network.serve(&node, engine.handle().handler());
            if at == 0 {
                for n in 0..ENTRIES {
                    engine.handle().put(&dataset()?, &collection()?, format!("key {n}"), vec![7; 64]).await?;
                }
            } else {
                let addresses = vec!["memory".into()];
                engine.handle().set_peers(vec![PeerAddress { peer: first.clone(), addresses }]);
            }
            engines.push(engine);
        }
    }
    tokio::time::timeout(PATIENCE, async {
        for engine in &engines {
            loop {
                let status = engine.handle().status().await;
                let dataset = status.datasets.first().context("there is no dataset")?;
                let is_equal = dataset.peers.iter().all(|peer| peer.in_sync && peer.connected);
                if dataset.entries == ENTRIES as u64 && is_equal && !dataset.peers.is_empty() {
                    break;
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        anyhow::Ok(())
    })
    .await
    .context("the engines did not become equal")??;
    tokio::time::sleep(SETTLED).await;
    println!("{}", (rss_kib()? - before) / 1024.0);
    Ok(())
}
