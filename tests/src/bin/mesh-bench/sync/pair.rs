//! Two nodes, each a process of its own, over HTTP/3 with mutual TLS on loopback, signed and durable: how fast one
//! catches up, how soon it sees a write, and how soon both are equal after the network failed.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use mesh_sync::reconcile::EpochKey;
use mesh_transport::ca::DevCa;

use super::{
    node::{End, Other, dataset, monotonic_ns},
    relay::Relay,
    store,
    writer::Writer,
};
use crate::load::cpu_seconds;

/// Writes, and the time between two of them.
const WRITES: u64 = 500;
const WRITE_EVERY: Duration = Duration::from_millis(20);
/// How long the network fails, and what each side writes meanwhile.
const OUTAGE: Duration = Duration::from_secs(10);
const WRITES_APART: u64 = 50;

pub(super) async fn measure(
    folder: &Path,
    runs: usize,
    entries: u64,
    tell: &mut dyn FnMut(&str, f64),
) -> Result<()> {
    let ca_folder = folder.join("ca");
    let ca = DevCa::new("example.org")?;
    ca.save(&ca_folder)?;
    {
        let store = store::open(&folder.join("a"), &dataset()?)?;
        Writer::new("a", &dataset()?, 1024)?.fill(&*store, EpochKey::derive("bench", 0), entries)?;
    }
    let a = End::start(&ca, "a", &folder.join("a")).await?;
    let mut runs = Runs { ca: &ca_folder, folder, left: runs, all: Vec::new() };
    while runs.left > 0 {
        catch_up(&a, entries, &mut runs, tell).await?;
    }
    runs.all.sort_by(f64::total_cmp);
    tell("apply_entries_per_s", runs.all[runs.all.len() / 2]);
    a.stop().await;
    recover(&ca, &ca_folder, folder, tell).await
}

struct Runs<'r> {
    ca: &'r Path,
    folder: &'r Path,
    left: usize,
    all: Vec<f64>,
}

/// The other node has nothing, and meets one that has `entries`. The last one of them watches writes as well.
async fn catch_up(a: &End, entries: u64, runs: &mut Runs<'_>, tell: &mut dyn FnMut(&str, f64)) -> Result<()> {
    runs.left -= 1;
    // Another name each time: one that comes back with nothing is another story.
    let name = format!("b{}", runs.left);
    let mut b = Other::start(runs.ca, &name, &runs.folder.join(&name)).await?;
    let (theirs, ours) = (b.cpu_seconds(0).await?, cpu_seconds()?);
    let start = monotonic_ns();
    a.meet(&name, b.address)?;
    let (at, root) = b.holds(entries).await?;
    ensure!(a.holds(entries).await?.1 == root, "the sets are not equal");
    runs.all.push(entries as f64 / ((at - start) as f64 / 1e9));
    let each = 1e6 / entries as f64;
    tell("apply_sender_cpu_us", (cpu_seconds()? - ours) * each);
    tell("apply_receiver_cpu_us", (b.cpu_seconds(entries).await? - theirs) * each);
    if runs.left == 0 {
        visible(a, &mut b, tell).await?;
    }
    Ok(())
}

async fn visible(a: &End, b: &mut Other, tell: &mut dyn FnMut(&str, f64)) -> Result<()> {
    b.ask("watch").await?;
    let writing = async {
        let mut ticks = tokio::time::interval(WRITE_EVERY);
        let mut puts = FuturesUnordered::new();
        let mut begun = 0;
        // One that the disk holds up does not put off the next one.
        while begun < WRITES || !puts.is_empty() {
            tokio::select! {
                _ = ticks.tick(), if begun < WRITES => {
                    let key = format!("seen {begun}");
                    begun += 1;
                    puts.push(async move {
                        let mut payload = vec![7; 1024];
                        payload[..8].copy_from_slice(&monotonic_ns().to_le_bytes());
                        a.put(key, payload).await
                    });
                }
                Some(written) = puts.next() => written?,
            }
        }
        anyhow::Ok(())
    };
    let line = format!("seen {WRITES}");
    let (written, seen) = tokio::join!(writing, b.ask(&line));
    written?;
    let seen = seen?;
    tell("visible_p50_ms", seen["p50_ms"].as_f64().context("no figure")?);
    tell("visible_p99_ms", seen["p99_ms"].as_f64().context("no figure")?);
    Ok(())
}

async fn recover(ca: &DevCa, ca_folder: &Path, folder: &Path, tell: &mut dyn FnMut(&str, f64)) -> Result<()> {
    let a = End::start(ca, "a", &folder.join("recover-a")).await?;
    let mut b = Other::start(ca_folder, "b", &folder.join("recover-b")).await?;
    let to_a = Relay::start(a.address).await?;
    let to_b = Relay::start(b.address).await?;
    a.meet("b", to_b.address)?;
    b.ask(&format!("meet a {}", to_a.address)).await?;
    a.put("first".into(), vec![7; 1024]).await?;
    b.holds(1).await?;
    [&to_a, &to_b].iter().for_each(|relay| relay.cut(true));
    for n in 0..WRITES_APART {
        a.put(format!("a {n}"), vec![7; 1024]).await?;
        b.ask(&format!("put {n}")).await?;
    }
    tokio::time::sleep(OUTAGE).await;
    [&to_a, &to_b].iter().for_each(|relay| relay.cut(false));
    let healed = monotonic_ns();
    let entries = 1 + 2 * WRITES_APART;
    let (ours, theirs) = tokio::join!(a.holds(entries), b.holds(entries));
    let ((ours_at, ours), (theirs_at, theirs)) = (ours?, theirs?);
    ensure!(ours == theirs, "the sets are not equal");
    tell("recover_s", (ours_at.max(theirs_at) - healed) as f64 / 1e9);
    a.stop().await;
    Ok(())
}
