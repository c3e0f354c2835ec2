//! Figures of whole clusters, over real QUIC with mutual TLS on loopback, and of sync's parts by themselves.
//!
//! `gossip` measures membership, `node` is one member in a process of its own
//! (so that it can be killed and frozen for real), `transport` measures RPC,
//! `sync` what it costs to compare sets and to keep nodes equal.

mod gossip;
mod load;
mod node;
mod peers;
mod registry;
mod sync;
mod transport;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "mesh-bench", about = "Measures Mesh on this machine")]
struct Args {
    #[command(subcommand)]
    area: Area,
}

#[derive(Subcommand)]
enum Area {
    /// Membership: join, death, leave, heal, and what it costs.
    Gossip(gossip::Options),
    /// One member, until it is killed.
    #[command(hide = true)]
    Node(node::Options),
    /// The registry: latency, rates, watches, and what users wait for when a process dies.
    Registry(registry::Options),
    /// Anti-entropy: what comparing two sets costs, what a store takes and gives, and what nodes come to.
    Sync(sync::Options),
    /// Engines in memory, and what memory they take.
    #[command(hide = true)]
    SyncMemory(sync::MemoryOptions),
    /// The other node of a pair, until its input ends.
    #[command(hide = true)]
    SyncNode(sync::NodeOptions),
    /// RPC: what a call costs over HTTP/3, HTTP/2, stock tonic and bare QUIC.
    Transport(transport::Options),
    /// A server, until it is killed.
    #[command(hide = true)]
    TransportServer(transport::ServerOptions),
    /// Measures idle connections in a process of its own.
    #[command(hide = true)]
    TransportMemory,
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match Args::parse().area {
        Area::Gossip(options) => runtime.block_on(gossip::run(options)),
        Area::Node(options) => runtime.block_on(node::run(options)),
        Area::Registry(options) => runtime.block_on(registry::run(options)),
        Area::Sync(options) => runtime.block_on(sync::run(&options)),
        Area::SyncMemory(options) => runtime.block_on(sync::run_memory(&options)),
        Area::SyncNode(options) => runtime.block_on(sync::run_node(&options)),
        Area::Transport(options) => runtime.block_on(transport::run(options)),
        Area::TransportServer(options) => runtime.block_on(transport::run_server(options)),
        Area::TransportMemory => runtime.block_on(transport::run_memory()),
    }
}
