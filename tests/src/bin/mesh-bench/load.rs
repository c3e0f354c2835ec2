//! What this process and this machine spend: CPU time, memory, load average.

use anyhow::{Context, Result};

/// User and system time of this process, in seconds.
pub(crate) fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("read /proc/self/stat")?;
    let after_name = stat.rsplit_once(')').context("/proc/self/stat has no name")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks =
        |at: usize| -> Result<f64> { Ok(fields.get(at).context("short /proc/self/stat")?.parse::<f64>()?) };
    let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
    Ok((ticks(11)? + ticks(12)?) / ticks_per_second)
}

/// Resident memory of this process, in KiB.
pub(crate) fn rss_kib() -> Result<f64> {
    let statm = std::fs::read_to_string("/proc/self/statm").context("read /proc/self/statm")?;
    let pages: f64 = statm.split_whitespace().nth(1).context("short /proc/self/statm")?.parse()?;
    Ok(pages * rustix::param::page_size() as f64 / 1024.0)
}

/// The machine's load average over the last minute.
pub(crate) fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(f64::NAN)
}
