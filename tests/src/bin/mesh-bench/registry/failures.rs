//! What users wait for when a process dies.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;

use super::{
    rates::value,
    target::{Client, Held, Seen, Target, ms, now},
};

/// How long a holder's lease outlives it.
const TTL: Duration = Duration::from_secs(2);
/// Leases that a dead holder leaves.
const MANY: usize = 1000;
/// How long a follower is away.
const AWAY: Duration = Duration::from_secs(2);
/// How long puts are watched after it is back.
const AFTER: Duration = Duration::from_secs(4);

/// From the leader's death to the answer to a put that was sent after it.
pub(super) async fn failover(target: &mut dyn Target, run: usize) -> Result<f64> {
    let client = target.client().await?;
    client.put(&format!("f/{run}"), value()).await?;
    target.kill_leader().await?;
    let died = now();
    until_done(|| client.put("f/next", value())).await;
    let time = ms(died.elapsed());
    target.revive().await?;
    Ok(time)
}

/// From a holder's death to another's grant of the same key. The holder dies half a renewal after its
/// last one; with `leader_too`, the store's leader dies at the same moment.
pub(super) async fn takeover(target: &mut dyn Target, run: usize, leader_too: bool) -> Result<f64> {
    let key = format!("lease/{run}-{leader_too}");
    let (holder, next) = (target.client().await?, target.client().await?);
    let held = holder.hold(TTL).await?;
    ensure!(holder.take(held, std::slice::from_ref(&key)).await?, "{key} is taken");
    let waiting = next.hold(Duration::from_secs(60)).await?;
    let mut events = next.watch(&key).await?;
    for _ in 0..3 {
        tokio::time::sleep(TTL / 3).await;
        holder.renew(held).await?;
    }
    tokio::time::sleep(TTL / 6).await;
    if leader_too {
        target.kill_leader().await?;
    }
    let died = now();
    loop {
        match tokio::time::timeout(Duration::from_secs(30), events.next()).await.context("nobody let go")? {
            Some(Seen::Deleted) => break,
            Some(Seen::Put(_)) => {}
            // A watch may break with the leader; whoever waits begins again.
            None => events = reopened(&*next, &key).await,
        }
        if next.get(&key).await.is_ok_and(|found| found.is_none()) {
            break;
        }
    }
    take_until_done(&*next, waiting, &key).await;
    let time = ms(died.elapsed());
    if leader_too {
        target.revive().await?;
    }
    Ok(time)
}

/// From the first of a dead holder's leases that is free to the last.
pub(super) async fn mass_release(target: &dyn Target, run: usize) -> Result<f64> {
    let prefix = format!("mass/{run}/");
    let client = target.client().await?;
    let held = client.hold(TTL).await?;
    let keys: Vec<String> = (0..MANY).map(|at| format!("{prefix}{at}")).collect();
    for some in keys.chunks(100) {
        ensure!(client.take(held, some).await?, "a key under {prefix} is taken");
    }
    let mut events = client.watch(&prefix).await?;
    let (mut first, mut gone) = (None, 0);
    while gone < MANY {
        let event = tokio::time::timeout(Duration::from_secs(30), events.next()).await;
        if let Seen::Deleted = event.context("not all keys came free")?.context("the watch ended")? {
            first.get_or_insert_with(now);
            gone += 1;
        }
    }
    Ok(first.map_or(f64::NAN, |first| ms(first.elapsed())))
}

/// The longest put after a follower that was away is back, less the longest before it went.
pub(super) async fn rejoin_stall(target: &mut dyn Target) -> Result<f64> {
    let client = target.client().await?;
    let before = longest_put(&*client, AFTER).await?;
    target.freeze_follower(AWAY).await?;
    let after = longest_put(&*client, AFTER).await?;
    Ok((after - before).max(0.0))
}

async fn longest_put(client: &dyn Client, time: Duration) -> Result<f64> {
    let start = now();
    let mut longest: f64 = 0.0;
    while start.elapsed() < time {
        let begun = now();
        client.put("stall", value()).await?;
        longest = longest.max(ms(begun.elapsed()));
    }
    Ok(longest)
}

/// Repeats a call until it succeeds; each try has a short time.
async fn until_done<F: Future<Output = Result<()>>>(mut call: impl FnMut() -> F) {
    loop {
        if let Ok(Ok(())) = tokio::time::timeout(Duration::from_millis(1000), call()).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn take_until_done(client: &dyn Client, held: Held, key: &str) {
    let keys = [key.to_owned()];
    loop {
        if let Ok(Ok(true)) =
            tokio::time::timeout(Duration::from_millis(1000), client.take(held, &keys)).await
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn reopened(client: &dyn Client, key: &str) -> futures_util::stream::BoxStream<'static, Seen> {
    loop {
        if let Ok(Ok(events)) = tokio::time::timeout(Duration::from_millis(500), client.watch(key)).await {
            // What was deleted while nobody watched is seen by a read.
            let gone = client.get(key).await.is_ok_and(|found| found.is_none());
            let first = futures_util::stream::iter(gone.then_some(Seen::Deleted));
            return Box::pin(first.chain(events));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
