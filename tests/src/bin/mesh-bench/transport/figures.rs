//! Time and processor time of calls, and the report.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::service::{Caller, LARGE_BYTES};
use crate::load::cpu_seconds;

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
pub(super) fn now() -> Instant {
    Instant::now()
}

pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Every figure of every run; the report is their medians.
#[derive(Default)]
pub(super) struct Figures(Map<String, Value>);

impl Figures {
    pub(super) fn note(&mut self, name: impl Into<String>, value: f64) {
        if let Value::Array(list) = self.0.entry(name).or_insert_with(|| json!([])) {
            list.push(json!(value));
        }
    }

    pub(super) fn medians(&self) -> Map<String, Value> {
        let median = |list: &Value| {
            let mut values: Vec<f64> =
                list.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).map(|value| (value * 1000.0).round() / 1000.0)
        };
        self.0.iter().map(|(name, list)| (name.clone(), json!(median(list)))).collect()
    }

    /// What was measured in each run, to see how far the runs are apart.
    pub(super) fn runs(&self) -> &Map<String, Value> {
        &self.0
    }
}

/// Keeps `in_flight` unary calls going for `time`, and notes what they cost.
pub(super) async fn unary(
    figures: &mut Figures,
    name: &str,
    caller: &impl Caller,
    in_flight: usize,
    time: Duration,
) -> Result<()> {
    // Nobody's first calls count.
    repeat(caller, in_flight, time / 5).await?;
    let (cpu, begin) = (cpu_seconds()?, now());
    let mut times = repeat(caller, in_flight, time).await?;
    let (cpu, took) = (cpu_seconds()? - cpu, begin.elapsed());
    times.sort_unstable();
    let share = |share: f64| {
        let at = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times.get(at).copied().context("no call was completed")
    };
    let calls = times.len() as f64;
    figures.note(format!("{name}_unary_{in_flight}_cpu_us"), cpu * 1e6 / calls);
    figures.note(format!("{name}_unary_{in_flight}_p50_us"), ms(share(0.5)?) * 1e3);
    figures.note(format!("{name}_unary_{in_flight}_p99_ms"), ms(share(0.99)?));
    figures.note(format!("{name}_unary_{in_flight}_rps"), calls / took.as_secs_f64());
    Ok(())
}

async fn repeat(caller: &impl Caller, in_flight: usize, time: Duration) -> Result<Vec<Duration>> {
    let end = now() + time;
    let tasks: Vec<_> = (0..in_flight)
        .map(|_| {
            let mut caller = caller.clone();
            tokio::spawn(async move {
                let mut times = Vec::with_capacity(1 << 14);
                let mut begin = now();
                while begin < end {
                    caller.echo().await?;
                    let done = now();
                    times.push(done - begin);
                    begin = done;
                }
                anyhow::Ok(times)
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await??);
    }
    Ok(all)
}

/// Downloads one stream of large messages.
pub(super) async fn bulk(
    figures: &mut Figures,
    name: &str,
    caller: &impl Caller,
    megabytes: u64,
) -> Result<()> {
    let mut caller = caller.clone();
    let messages = (megabytes << 20) / LARGE_BYTES as u64;
    caller.download(messages / 8).await?;
    let (cpu, begin) = (cpu_seconds()?, now());
    caller.download(messages).await?;
    let (cpu, took) = (cpu_seconds()? - cpu, begin.elapsed());
    let bytes = (messages * LARGE_BYTES as u64) as f64;
    figures.note(format!("bulk_{name}_mb_s"), bytes / 1e6 / took.as_secs_f64());
    figures.note(format!("bulk_{name}_cpu_ns_b"), cpu * 1e9 / bytes);
    Ok(())
}
