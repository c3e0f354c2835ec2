//! A node as a program of its own that can do what no shipped binary can: live with another wall clock.
//!
//! To a cluster it is as `mesh run`. It also reads standard input: `wall -30000` sets its wall clock,
//! and no other, half a minute back.

use std::{
    io::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use anyhow::{Context, Result};
use mesh::{MeshConfig, Node};
use mesh_core::{Clock, Instant, SystemClock, WallTime};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader, stdin},
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

/// What sets the wall clock, before the milliseconds.
pub(super) const WALL: &str = "wall ";

/// The machine's clocks, but for a wall clock that was set.
#[derive(Default)]
struct SetClock {
    ahead_ms: AtomicI64,
}

impl Clock for SetClock {
    fn now(&self) -> Instant {
        SystemClock.now()
    }

    fn wall(&self) -> WallTime {
        WallTime(SystemClock.wall().0.saturating_add_signed(self.ahead_ms.load(Ordering::Relaxed)))
    }
}

/// Runs a node with this configuration until it gets `SIGTERM` or its standard input closes. `prepare` sees it first.
///
/// # Errors
///
/// The configuration can't be used, or the node ends by itself.
pub fn serve(config: &Path, prepare: impl FnOnce(&Node)) -> Result<()> {
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(run(config, prepare));
    // A read of standard input that waits for ever must not keep the process.
    runtime.shutdown_background();
    served
}

async fn run(config: &Path, prepare: impl FnOnce(&Node)) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let loaded = MeshConfig::loader().file(config).load()?;
    let clock = Arc::new(SetClock::default());
    let node = Node::builder().config(loaded.config).clock(Arc::clone(&clock) as _).start().await?;
    prepare(&node);
    tell("listening", &node)?;
    let mut lines = BufReader::new(stdin()).lines();
    let mut ready = false;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            error = node.failed() => return Err(error.into()),
            result = node.ready(), if !ready => {
                result?;
                ready = true;
                tell("ready", &node)?;
            }
            line = lines.next_line() => {
                let Some(line) = line? else { break };
                let ahead = line.strip_prefix(WALL).context("an order that nobody knows")?;
                clock.ahead_ms.store(ahead.parse()?, Ordering::Relaxed);
                eprintln!("the wall clock is {ahead} ms ahead from here on");
            }
        }
    }
    Ok(node.stop().await?)
}

/// An event as `mesh run --events` prints it.
fn tell(event: &str, node: &Node) -> Result<()> {
    let facts = json!({ "event": event, "mesh": node.address(), "edge": node.edge_address() });
    // A test runner may have left the line open.
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{facts}")?;
    Ok(out.flush()?)
}
