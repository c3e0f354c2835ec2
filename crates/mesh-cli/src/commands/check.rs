//! `mesh check`: what is wrong with a node or a cluster, with stable codes and hints.

mod cluster;
mod local;
mod network;
mod probe;
mod report;
mod rpc;

use std::{process::ExitCode, time::Duration};

use mesh::LoadedConfig;

use self::report::{Check, Outcome, Report};
use crate::{
    args::{CheckArgs, ConnectionArgs},
    client::Edge,
    context::{self, Target},
    failure::{Exit, Failure},
    output,
};

/// Pause between two rounds of `--wait`.
const RETRY: Duration = Duration::from_millis(500);

/// Every check, in the order in which they run: each rests on those before it.
pub(super) const CHECKS: &[Check] = &[
    Check { code: "config.valid", what: "the configuration is valid" },
    Check { code: "data.private", what: "the data directory is writable and private" },
    Check { code: "key.private", what: "the private key is readable by its owner alone" },
    Check { code: "certificate.valid", what: "the certificate is valid, and stays so for a while" },
    Check { code: "trust.matches", what: "the certificate is signed by the trust bundle" },
    Check { code: "ports.usable", what: "the ports are free, or the node answers there" },
    Check { code: "udp.reachable", what: "QUIC answers on UDP" },
    Check { code: "rpc.http3", what: "gRPC works over HTTP/3, and over HTTP/2" },
    Check { code: "seeds.reachable", what: "seeds resolve and answer" },
    Check { code: "edge.answers", what: "the control API answers" },
    Check { code: "clock.sane", what: "the clocks agree" },
    Check { code: "membership.ready", what: "the node is a member and not isolated" },
    Check { code: "peers.alive", what: "all members are alive" },
    Check { code: "sync.healthy", what: "datasets are in sync with their peers" },
];

/// What the checks look at.
struct Subject {
    /// The node's settings, if a file was named or is not needed.
    config: Option<LoadedConfig>,
    /// The cluster's edge, or why there is none.
    edge: Result<Edge, Failure>,
}

pub(super) async fn run(connection: &ConnectionArgs, args: CheckArgs) -> Result<ExitCode, Failure> {
    let selected = select(&args)?;
    let deadline = args.wait.map(|wait| tokio::time::Instant::now() + wait);
    loop {
        let report = round(connection, &args, &selected).await;
        let retry = deadline.is_some_and(|deadline| tokio::time::Instant::now() < deadline);
        if report.is_good() || !retry {
            output::print(&report.render(args.output.format))?;
            return Ok(finish(&report));
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The checks that `--only` and `--skip` leave.
fn select(args: &CheckArgs) -> Result<Vec<&'static Check>, Failure> {
    for code in args.only.iter().chain(&args.skip) {
        if !CHECKS.iter().any(|check| check.code == code) {
            let known: Vec<&str> = CHECKS.iter().map(|check| check.code).collect();
            return Err(Failure::new(Exit::Usage, format!("there is no check {code:?}"))
                .next(format!("choose from: {}", known.join(", "))));
        }
    }
    let listed = |list: &[String], check: &Check| list.iter().any(|code| code == check.code);
    let kept = CHECKS.iter().filter(|check| args.only.is_empty() || listed(&args.only, check));
    Ok(kept.filter(|check| !listed(&args.skip, check)).collect())
}

fn finish(report: &Report) -> ExitCode {
    if report.is_good() { ExitCode::SUCCESS } else { Exit::Failed.into() }
}

async fn round(connection: &ConnectionArgs, args: &CheckArgs, selected: &[&'static Check]) -> Report {
    let loaded = super::loader(&args.source).load();
    let mut report = Report::default();
    let config_outcome = match &loaded {
        Err(error) => Outcome::failed(error.to_string(), "mend the settings that are named"),
        Ok(_) if args.source.config.is_none() => {
            Outcome::ok("defaults and environment; no --config was given")
        }
        Ok(_) => Outcome::ok(""),
    };
    // Without a file there is no node to look at, only a cluster.
    let config = loaded.ok().filter(|_| args.source.config.is_some());
    let subject = Subject { config, edge: edge(connection).await };
    for check in selected {
        let mut transports = None;
        let outcome = match check.code {
            "config.valid" => config_outcome.clone(),
            "data.private" => with_node(&subject, local::data_directory),
            "key.private" => with_node(&subject, local::key),
            "certificate.valid" => local::certificate(&subject).await,
            "trust.matches" => local::trust(&subject).await,
            "ports.usable" => match &subject.config {
                Some(loaded) => network::ports(loaded).await,
                None => no_node(),
            },
            "udp.reachable" => network::udp(&subject).await,
            "rpc.http3" => {
                let (outcome, worked) = rpc::calls(&subject).await;
                transports = Some(worked);
                outcome
            }
            "seeds.reachable" => match &subject.config {
                Some(loaded) => network::seeds(loaded).await,
                None => no_node(),
            },
            "edge.answers" => cluster::edge_answers(&subject).await,
            "clock.sane" => cluster::clocks(&subject).await,
            "membership.ready" => cluster::ready(&subject).await,
            "peers.alive" => cluster::alive(&subject).await,
            "sync.healthy" => cluster::sync(&subject).await,
            other => {
                Outcome::failed(format!("the check {other} has no code behind it"), "report this defect")
            }
        };
        report.add(check, outcome);
        if let Some(worked) = transports {
            let words: Vec<&str> = worked.iter().map(|transport| transport.as_str()).collect();
            report.annotate("transports", words.into());
        }
    }
    report
}

async fn edge(connection: &ConnectionArgs) -> Result<Edge, Failure> {
    Edge::new(Target::resolve(connection, &context::home()?)?).await
}

fn with_node(subject: &Subject, check: impl FnOnce(&LoadedConfig) -> Outcome) -> Outcome {
    subject.config.as_ref().map_or_else(no_node, check)
}

fn no_node() -> Outcome {
    Outcome::skipped("no --config was given, or it can't be read")
}
