//! Calls one after the other and many at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;

use super::target::{Client, Target, ms, now, percentile};

/// Bytes of each value.
pub(super) const VALUE_BYTES: usize = 256;
/// Keys that are written and read over and over.
const KEYS: u64 = 1000;

pub(super) fn value() -> Bytes {
    Bytes::from_static(&[b'v'; VALUE_BYTES])
}

/// p50 and p99 of a call that is repeated one after the other, in milliseconds.
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

fn latency(mut figures: Vec<f64>) -> Latency {
    Latency { p50: percentile(&mut figures, 0.5), p99: percentile(&mut figures, 0.99) }
}

/// Which key comes next; any order will do that does not repeat soon.
fn scattered(step: u64) -> String {
    format!("k/{:08}", step.wrapping_mul(6_364_136_223_846_793_005) % KEYS)
}

pub(super) async fn fill(client: &dyn Client) -> Result<()> {
    for key in 0..KEYS {
        client.put(&format!("k/{key:08}"), value()).await?;
    }
    Ok(())
}

pub(super) async fn puts(client: &dyn Client, time: Duration) -> Result<Latency> {
    let mut figures = Vec::new();
    let start = now();
    while start.elapsed() < time {
        let key = scattered(figures.len() as u64);
        let begun = now();
        client.put(&key, value()).await?;
        figures.push(ms(begun.elapsed()));
    }
    Ok(latency(figures))
}

pub(super) async fn gets(client: &dyn Client, time: Duration) -> Result<Latency> {
    let mut figures = Vec::new();
    let start = now();
    while start.elapsed() < time {
        let key = scattered(figures.len() as u64);
        let begun = now();
        let found = client.get(&key).await?;
        figures.push(ms(begun.elapsed()));
        anyhow::ensure!(found.is_some_and(|v| v.len() == VALUE_BYTES), "{key} is not there");
    }
    Ok(latency(figures))
}

pub(super) async fn lists(client: &dyn Client, time: Duration) -> Result<Latency> {
    let mut figures = Vec::new();
    let start = now();
    while start.elapsed() < time {
        let begun = now();
        let found = client.list("k/").await?;
        figures.push(ms(begun.elapsed()));
        anyhow::ensure!(found as u64 == KEYS, "a list has {found} of {KEYS} records");
    }
    Ok(latency(figures))
}

/// Puts a second of so many clients, each waiting for its own.
pub(super) async fn puts_at_once(target: &dyn Target, clients: usize, time: Duration) -> Result<f64> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for index in 0..clients {
        let (client, stop) = (target.client().await?, Arc::clone(&stop));
        tasks.push(tokio::spawn(async move {
            let mut done = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                client.put(&scattered(index as u64 * 7919 + done), value()).await?;
                done += 1;
            }
            anyhow::Ok(done)
        }));
    }
    let start = now();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut done = 0;
    for task in tasks {
        done += task.await??;
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}
