//! From the call of a put to its event at those who watch.

use std::time::Duration;

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use super::{
    rates::VALUE_BYTES,
    target::{Seen, Target, median, ms, now},
};

/// Puts a second.
const RATE: u32 = 200;
/// Longest wait for an event.
const PATIENCE: Duration = Duration::from_secs(20);

/// The median over all events at all of `watchers`, in milliseconds.
pub(super) async fn delivery(
    target: &dyn Target,
    watchers: usize,
    time: Duration,
    run: usize,
) -> Result<f64> {
    let prefix = format!("w{run}-{watchers}/");
    let epoch = now();
    let puts = (time.as_secs_f64() * f64::from(RATE)) as usize;
    let mut tasks = Vec::new();
    for _ in 0..watchers {
        let mut events = target.client().await?.watch(&prefix).await?;
        tasks.push(tokio::spawn(async move {
            let mut figures = Vec::with_capacity(puts);
            while figures.len() < puts {
                let Ok(Some(seen)) = tokio::time::timeout(PATIENCE, events.next()).await else {
                    anyhow::bail!("{} of {puts} events came", figures.len());
                };
                if let Seen::Put(value) = seen {
                    let stamp = value.first_chunk::<8>().copied().unwrap_or_default();
                    figures.push(ms(epoch.elapsed()) - u64::from_le_bytes(stamp) as f64 / 1e6);
                }
            }
            Ok(figures)
        }));
    }
    let writer = std::sync::Arc::<dyn super::target::Client>::from(target.client().await?);
    let mut interval = tokio::time::interval(Duration::from_secs(1) / RATE);
    let mut writes = Vec::new();
    for at in 0..puts {
        interval.tick().await;
        let (writer, key) = (std::sync::Arc::clone(&writer), format!("{prefix}{at}"));
        let stamped = stamped(epoch.elapsed());
        writes.push(tokio::spawn(async move { writer.put(&key, stamped).await }));
    }
    for write in writes {
        write.await??;
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await??);
    }
    Ok(median(&mut all))
}

fn stamped(time: Duration) -> Bytes {
    let mut value = BytesMut::zeroed(VALUE_BYTES);
    value[..8].copy_from_slice(&(time.as_nanos() as u64).to_le_bytes());
    value.freeze()
}
