//! Trials of real clusters, fault by fault; one line of figures for each.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use mesh_sim::{
    harness::{Program, check},
    trial::{Fault, Figures, Trial, Tried, load_average, serve},
};
use serde_json::{Value, json};

/// Starts voters, candidates and clients as real processes, breaks them, and judges what clients saw.
#[derive(Parser)]
#[command(name = "mesh-chaos", args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Rounds of each fault.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only this fault; may be given several times. Default: all.
    #[arg(long)]
    fault: Vec<Fault>,
    /// Seed of the clients' choices; processes and networks have a mind of their own.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How to print the figures.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Subcommand)]
enum Command {
    /// A node whose wall clock can be set, until its standard input closes.
    #[command(hide = true)]
    Node {
        /// Its configuration.
        #[arg(long)]
        config: PathBuf,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// One line of JSON for each fault.
    Json,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if let Some(Command::Node { config }) = args.command {
        serve(&config, |_| {})?;
        return Ok(ExitCode::SUCCESS);
    }
    let own = std::env::current_exe().context("cannot find this program")?;
    let own = Program::with_flag(&own, &["node"], "--config");
    let faults = if args.fault.is_empty() { Fault::ALL.to_vec() } else { args.fault };
    let mut fine = true;
    for fault in faults {
        let line = match check(fault.needs()) {
            Err(missing) => json!({ "fault": fault.to_string(), "skipped": missing.to_string() }),
            Ok(()) => {
                let line = line(fault, try_fault(fault, args.rounds, args.seed, &own));
                fine &= line["violations"] == 0;
                line
            }
        };
        print(args.output, &line);
    }
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn try_fault(fault: Fault, rounds: usize, seed: u64, own: &Program) -> Result<Tried> {
    let mut trial = Trial::stage(fault, seed, own)?;
    for round in 1..=rounds {
        trial.round()?;
        let last = |times: &[Duration]| times.last().map_or("-".to_owned(), |time| format!("{time:.0?}"));
        let Figures { failovers, takeovers, heals, .. } = trial.figures();
        eprintln!(
            "{fault}: round {round} of {rounds}: failover {}, takeover {}, whole after {}",
            last(failovers),
            last(takeovers),
            last(heals),
        );
        if trial.is_violated() {
            break;
        }
    }
    trial.finish()
}

fn line(fault: Fault, tried: Result<Tried>) -> Value {
    let mut line = match tried {
        Ok(tried) => {
            for violation in &tried.violations {
                eprintln!("{fault}: {violation}");
            }
            let mut line = tried.figures.to_json();
            line["violations"] = json!(tried.violations.len());
            line["artifacts"] = json!(tried.artifacts);
            line["stop_ms"] = json!(tried.stop.as_millis());
            line
        }
        // A cluster that does not go on or does not heal breaks a rule, too.
        Err(error) => {
            eprintln!("{fault}: {error:#}");
            json!({ "violations": 1, "error": error.to_string() })
        }
    };
    line["fault"] = json!(fault.to_string());
    line["load"] = json!(load_average());
    line
}

fn print(output: Output, line: &Value) {
    if output == Output::Json {
        println!("{line}");
        return;
    }
    println!("{}", line["fault"].as_str().unwrap_or_default());
    for (name, figure) in line.as_object().into_iter().flatten().filter(|(name, _)| *name != "fault") {
        println!("    {name:<18} {figure}");
    }
}
