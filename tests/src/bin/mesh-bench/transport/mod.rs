//! gRPC over HTTP/3 beside HTTP/2, stock tonic and bare quinn, all with mutual TLS.

mod events;
mod figures;
mod nodes;
mod service;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use clap::Args;
use mesh_transport::{ca::DevCa, rpc::Transport};
use serde_json::{Map, Value, json};

use self::{
    figures::Figures,
    nodes::{Quinn, direct, endpoint, serve, serve_quinn, serve_tonic, server_runtime, tonic_channel},
    service::{Caller as _, Client},
};
use crate::load::{load_average, rss_kib};

/// Connections of the memory measurement.
const IDLE_CONNECTIONS: usize = 200;
const IN_FLIGHT: [usize; 3] = [1, 16, 64];

#[derive(Args)]
pub(crate) struct Options {
    /// Times that everything is measured; the report has the medians.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Seconds of each measurement of unary calls.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Size of the bulk stream, in MiB.
    #[arg(long, default_value_t = 512)]
    megabytes: u64,
    /// What to measure: unary, bulk, events, memory; all of it by default.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Carriers to measure: h3, h2, tonic_h2, quinn; all by default.
    #[arg(long, value_delimiter = ',')]
    carriers: Vec<String>,
    /// Calls in flight: 1, 16, 64; all by default.
    #[arg(long, value_delimiter = ',')]
    in_flight: Vec<usize>,
    /// Output: table or json.
    #[arg(short, long, default_value = "table")]
    output: String,
}

#[derive(Args)]
pub(crate) struct ServerOptions {
    /// Folder of the development CA.
    #[arg(long)]
    ca: PathBuf,
    /// Address to listen at.
    #[arg(long)]
    bind: Option<SocketAddr>,
}

fn chosen<T: PartialEq>(list: &[T], item: &T) -> bool {
    list.is_empty() || list.contains(item)
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let load_before = load_average();
    let ca = DevCa::new("bench.local")?;
    let ca_folder = tempfile::tempdir()?;
    ca.save(ca_folder.path())?;
    let mut figures = Figures::default();
    let runtime = server_runtime()?;
    let outcome = measure(&mut figures, &options, &ca, ca_folder.path(), &runtime).await;
    runtime.shutdown_background();
    outcome?;
    let mut report = figures.medians();
    add_ratios(&mut report);
    report.insert("load_before".into(), json!(load_before));
    report.insert("load_after".into(), json!(load_average()));
    if options.output == "json" {
        println!("{}", Value::Object(report));
    } else {
        print_table(&report, &figures);
    }
    Ok(())
}

async fn measure(
    figures: &mut Figures,
    options: &Options,
    ca: &DevCa,
    ca_folder: &std::path::Path,
    runtime: &tokio::runtime::Runtime,
) -> Result<()> {
    let measures = |area: &str| chosen(&options.only, &area.to_owned());
    let (server, tonic, quinn) = {
        // Sockets belong to the runtime that they are made in.
        let ca = DevCa::load(ca_folder)?;
        let made = async move { anyhow::Ok((serve(&ca, None)?, serve_tonic(&ca).await?, serve_quinn(&ca)?)) };
        runtime.spawn(made).await??
    };
    let client = endpoint(ca, "client", None)?;
    let address = server.local_address();
    let h3 = Client(direct(&client, address, Transport::Http3)?);
    let h2 = Client(direct(&client, address, Transport::Http2)?);
    let tonic = Client(tonic_channel(ca, tonic).await?);
    let quinn = Quinn::connect(ca, quinn).await?;
    for (channel, transport) in [(&h3.0, Transport::Http3), (&h2.0, Transport::Http2)] {
        let (connected, _) = channel.connect().await?;
        anyhow::ensure!(connected == transport, "the channel chose {connected} instead of {transport}");
    }
    let time = Duration::from_secs_f64(options.seconds);
    for run in 1..=options.runs {
        eprintln!("[load {:.1}] run {run} of {}", load_average(), options.runs);
        let carried = |name: &str| chosen(&options.carriers, &name.to_owned());
        if measures("unary") {
            for in_flight in IN_FLIGHT.into_iter().filter(|count| chosen(&options.in_flight, count)) {
                if carried("h3") {
                    figures::unary(figures, "h3", &h3, in_flight, time).await?;
                }
                if carried("h2") {
                    figures::unary(figures, "h2", &h2, in_flight, time).await?;
                }
                if carried("tonic_h2") {
                    figures::unary(figures, "tonic_h2", &tonic, in_flight, time).await?;
                }
                if carried("quinn") {
                    figures::unary(figures, "quinn", &quinn, in_flight, time).await?;
                }
            }
        }
        if measures("bulk") {
            if carried("h3") {
                figures::bulk(figures, "h3", &h3, options.megabytes).await?;
            }
            if carried("h2") {
                figures::bulk(figures, "h2", &h2, options.megabytes).await?;
            }
            if carried("tonic_h2") {
                figures::bulk(figures, "tonic_h2", &tonic, options.megabytes).await?;
            }
            if carried("quinn") {
                figures::bulk(figures, "quinn", &quinn, options.megabytes).await?;
            }
        }
        if measures("events") {
            events::connect(figures, ca, address).await?;
            events::blocked(figures, ca, address).await?;
            events::revoke(figures, ca, &server).await?;
            events::restart(figures, ca, ca_folder).await?;
        }
        if measures("memory") {
            figures.note("idle_kib_per_connection", memory_of_own_process().await?);
        }
    }
    for (channel, transport) in [(&h3.0, Transport::Http3), (&h2.0, Transport::Http2)] {
        let carried = channel.current().map(|(carried, _)| carried);
        anyhow::ensure!(carried == Some(transport), "calls moved from {transport} to {carried:?}");
    }
    Ok(())
}

fn add_ratios(report: &mut Map<String, Value>) {
    let ratio = |over: &str, under: &str| {
        let value = |name: &str| report.get(name).and_then(Value::as_f64);
        Some(json!((value(over)? / value(under)? * 1000.0).round() / 1000.0))
    };
    let ratios = [
        ("h3_over_tonic_h2_cpu", ratio("h3_unary_64_cpu_us", "tonic_h2_unary_64_cpu_us")),
        ("h3_over_h2_p50", ratio("h3_unary_1_p50_us", "h2_unary_1_p50_us")),
        ("h3_over_tonic_h2_p50", ratio("h3_unary_1_p50_us", "tonic_h2_unary_1_p50_us")),
        ("h3_over_h2_p99", ratio("h3_unary_64_p99_ms", "h2_unary_64_p99_ms")),
        ("h3_over_quinn_bulk", ratio("bulk_h3_mb_s", "bulk_quinn_mb_s")),
    ];
    for (name, ratio) in ratios {
        report.extend(ratio.map(|ratio| (name.to_owned(), ratio)));
    }
}

fn print_table(report: &Map<String, Value>, figures: &Figures) {
    for (name, value) in report {
        let runs = figures.runs().get(name).and_then(Value::as_array);
        let runs: Vec<String> =
            runs.into_iter().flatten().filter_map(Value::as_f64).map(|value| format!("{value:.1}")).collect();
        println!("{name:28} {value:>12}   {}", runs.join(" "));
    }
}

/// Measures in a new process, whose heap has no holes to fill.
async fn memory_of_own_process() -> Result<f64> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    let output = command.arg("transport-memory").stderr(std::process::Stdio::inherit()).output().await?;
    String::from_utf8_lossy(&output.stdout).trim().parse().context("the memory measurement failed")
}

/// Prints the memory that an idle RPC connection over QUIC takes, both ends, in KiB.
pub(crate) async fn run_memory() -> Result<()> {
    let ca = DevCa::new("bench.local")?;
    let server = serve(&ca, None)?;
    let client = endpoint(&ca, "client", None)?;
    // What the first connection alone brings about is no part of the others.
    let mut channels = vec![direct(&client, server.local_address(), Transport::Http3)?];
    Client(channels[0].clone()).echo().await?;
    let empty = rss_kib()?;
    for _ in 0..IDLE_CONNECTIONS {
        let channel = direct(&client, server.local_address(), Transport::Http3)?;
        Client(channel.clone()).echo().await?;
        channels.push(channel);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let usable = channels.iter().filter(|channel| channel.current().is_some()).count();
    anyhow::ensure!(usable == channels.len(), "{usable} of {} connections live", channels.len());
    println!("{}", (rss_kib()? - empty) / IDLE_CONNECTIONS as f64);
    Ok(())
}

/// Serves until it is killed. Prints its address.
pub(crate) async fn run_server(options: ServerOptions) -> Result<()> {
    let endpoint = serve(&DevCa::load(&options.ca)?, options.bind)?;
    println!("{}", endpoint.local_address());
    std::future::pending().await
}
