//! The registry: three voters as processes, on disk and with mutual TLS, beside three of etcd.
//!
//! A client of either is in this process. Both sides do the same: puts of 256 bytes,
//! linearizable reads, lists of 1,000 records, watches, and the same deaths.

mod etcd;
mod failures;
mod ours;
mod rates;
mod target;
mod watches;

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Map, Value, json};

use self::target::{Target, median, percentile};
use crate::load::load_average;

#[derive(Args)]
pub(crate) struct Options {
    /// Measurements of each figure; the median is told.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Seconds of each rate.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Deaths of each kind; their 99th percentile is told.
    #[arg(long, default_value_t = 9)]
    deaths: usize,
    /// Measure etcd as well, after us; needs the Debian package etcd-server.
    #[arg(long)]
    peers: bool,
    /// Only etcd.
    #[arg(long, requires = "peers")]
    peers_only: bool,
    /// Folder for the data of all processes; default: the system's temporary folder.
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
    /// Output: table or json.
    #[arg(short, long, default_value = "table")]
    output: String,
}

/// Figures of which ours is told over etcd's.
const RATIOS: [&str; 6] =
    ["put_p50_ms", "puts_per_s_64", "get_lin_p50_ms", "list1000_p50_ms", "watch1_p50_ms", "watch200_p50_ms"];

pub(crate) async fn run(options: Options) -> Result<()> {
    let dir = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let folder =
        tempfile::Builder::new().prefix("mesh-bench-").tempdir_in(dir).context("a folder for data")?;
    let mut figures = Map::new();
    figures.insert("load_before".to_owned(), json!(load_average()));
    if !options.peers_only {
        let mut ours = ours::Ours::start(&folder.path().join("mesh")).await?;
        measure(&mut ours, &options, &mut figures).await?;
    }
    if options.peers {
        let mut etcd = etcd::Etcd::start(&folder.path().join("etcd")).await?;
        measure(&mut etcd, &options, &mut figures).await?;
        for name in RATIOS {
            let figure = |name: &str| figures.get(name).and_then(Value::as_f64);
            if let (Some(ours), Some(theirs)) = (figure(name), figure(&format!("etcd_{name}"))) {
                let name = name.strip_suffix("_ms").unwrap_or(name);
                figures.insert(format!("{name}_ratio"), rounded(ours / theirs));
            }
        }
    }
    figures.insert("load_after".to_owned(), json!(load_average()));
    if options.output == "json" {
        println!("{}", Value::Object(figures));
    } else {
        for (name, figure) in &figures {
            println!("{name:<32} {figure}");
        }
    }
    Ok(())
}

fn rounded(figure: f64) -> Value {
    json!((figure * 1000.0).round() / 1000.0)
}

async fn measure(target: &mut dyn Target, options: &Options, figures: &mut Map<String, Value>) -> Result<()> {
    let prefix = target.prefix();
    let mut tell = |name: &str, figure: f64| {
        eprintln!("{prefix}{name} {figure:.3}");
        figures.insert(format!("{prefix}{name}"), rounded(figure));
    };
    let time = Duration::from_secs_f64(options.seconds);
    let client = target.client().await?;
    rates::fill(&*client).await?;

    let (mut p50, mut p99, mut many, mut reads, mut lists) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut one, mut crowd) = (vec![], vec![]);
    for run in 0..options.runs {
        let puts = rates::puts(&*client, time).await?;
        p50.push(puts.p50);
        p99.push(puts.p99);
        many.push(rates::puts_at_once(target, 64, time).await?);
        reads.push(rates::gets(&*client, time).await?.p50);
        lists.push(rates::lists(&*client, time).await?.p50);
        one.push(watches::delivery(target, 1, time, run).await?);
        crowd.push(watches::delivery(target, 200, time, run).await?);
    }
    tell("put_p50_ms", median(&mut p50));
    tell("put_p99_ms", median(&mut p99));
    tell("puts_per_s_64", median(&mut many));
    tell("get_lin_p50_ms", median(&mut reads));
    tell("list1000_p50_ms", median(&mut lists));
    tell("watch1_p50_ms", median(&mut one));
    tell("watch200_p50_ms", median(&mut crowd));
    tell("rss_mib", target.rss_mib());

    let (mut failovers, mut takeovers, mut doubles) = (vec![], vec![], vec![]);
    for run in 0..options.deaths {
        failovers.push(failures::failover(target, run).await?);
        takeovers.push(failures::takeover(target, run, false).await?);
        doubles.push(failures::takeover(target, run, true).await?);
    }
    tell("failover_p50_ms", median(&mut failovers));
    tell("failover_p99_ms", percentile(&mut failovers, 0.99));
    tell("takeover_p99_ms", percentile(&mut takeovers, 0.99));
    tell("double_failure_p99_ms", percentile(&mut doubles, 0.99));
    let (mut masses, mut stalls) = (vec![], vec![]);
    for run in 0..options.runs {
        masses.push(failures::mass_release(target, run).await?);
        stalls.push(failures::rejoin_stall(target).await?);
    }
    tell("mass_release_ms", median(&mut masses));
    tell("rejoin_stall_ms", median(&mut stalls));
    Ok(())
}
