//! The simulator on the command line: many seeds, one seed in detail, or one large cluster.

use std::{
    fs::File,
    io::BufWriter,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use mesh_sim::{
    Looking, Options, Outcome, Trace, Violation, converge,
    election::{ElectionOptions, Planted, run_election, run_election_with},
    heal, run, run_looking,
};

/// Runs membership clusters in virtual time and checks them.
#[derive(Parser)]
#[command(name = "mesh-sim")]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// Run 20,000 seeds, and go on after a failed one.
    #[arg(long, conflicts_with_all = ["seeds", "seed", "regression"])]
    nightly: bool,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this seed alone.
    #[arg(long, conflicts_with_all = ["seeds", "from", "regression"])]
    seed: Option<u64>,
    /// Run the options in this file alone.
    #[arg(long, value_name = "FILE")]
    regression: Option<PathBuf>,
    /// Run elections instead of membership.
    #[arg(long, conflicts_with_all = ["regression", "scenario"])]
    elections: bool,
    /// Stop after so many seconds of the run.
    #[arg(long, value_name = "SECONDS")]
    until: Option<f64>,
    /// Write a line for each event to this file.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Print the options of the run as TOML, the format of a regression.
    #[arg(long)]
    print_options: bool,
    /// Go on after a failed seed.
    #[arg(long)]
    keep_going: bool,
    /// Nodes of a scenario.
    #[arg(long, default_value_t = 1000)]
    nodes: u32,
    /// Seconds that the halves of the scenario `heal` are apart.
    #[arg(long, default_value_t = 25.0)]
    apart: f64,
    /// Run a scenario instead of seeds.
    #[arg(long)]
    scenario: Option<Scenario>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Scenario {
    /// A large cluster forms; then one node joins, and others go.
    Converge,
    /// A cluster is cut in halves, which then meet again; for each of `--seeds`.
    Heal,
}

/// Every so many seeds one is run twice, and the hashes compared.
const TWICE_EVERY: u64 = 50;

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = Arguments::parse();
    if arguments.nightly {
        (arguments.seeds, arguments.keep_going) = (20_000, true);
    }
    if arguments.elections {
        return Ok(if elections(&arguments)? { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let ok = match (arguments.scenario, arguments.seed, &arguments.regression) {
        (Some(Scenario::Converge), ..) => one_large_cluster(&arguments)?,
        (Some(Scenario::Heal), ..) => halves_that_meet(&arguments)?,
        (None, None, None) => many_seeds(&arguments)?,
        (None, Some(seed), _) => one_run(&arguments, &Options::pick(seed))?,
        (None, None, Some(path)) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
            let options = Options::from_toml(&text)
                .with_context(|| format!("{} has no valid options", path.display()))?;
            one_run(&arguments, &options)?
        }
    };
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[expect(clippy::disallowed_methods, reason = "the speed of the simulator itself is measured in real time")]
fn now() -> Instant {
    Instant::now()
}

fn print_failure(options: &Options, violation: &Violation) {
    println!("FAILED  {options}");
    println!("        {violation}");
    println!("        replay: cargo xtask sim --seed {}", options.seed);
}

/// Elections of many seeds, or of one.
fn elections(arguments: &Arguments) -> anyhow::Result<bool> {
    let start = now();
    let seeds = match arguments.seed {
        Some(seed) => seed..seed + 1,
        None => arguments.from..arguments.from.saturating_add(arguments.seeds),
    };
    let (mut events, mut grants, mut writes, mut refused, mut failed) = (0, 0, 0, 0, Vec::new());
    let mut healed = Vec::new();
    for seed in seeds.clone() {
        let options = ElectionOptions::pick(seed);
        let trace = match &arguments.trace {
            Some(path) => Trace::with_lines(Box::new(BufWriter::new(
                File::create(path).with_context(|| format!("can't write {}", path.display()))?,
            ))),
            None => Trace::default(),
        };
        let outcome = run_election_with(&options, Planted::default(), trace);
        let again = || run_election(&options).map(|outcome| outcome.hash);
        match outcome {
            Ok(outcome) if seed % TWICE_EVERY == 0 && again().ok() != Some(outcome.hash) => {
                println!("FAILED  {options}");
                println!("        two runs of one seed differ");
                failed.push(seed);
            }
            Ok(outcome) => {
                events += outcome.events;
                grants += outcome.grants;
                writes += outcome.writes.0;
                refused += outcome.writes.1;
                healed.push(outcome.healed_after);
            }
            Err(violation) => {
                println!("FAILED  {options}");
                println!("        {violation}");
                println!("        replay: cargo xtask sim --elections --seed {seed}");
                failed.push(seed);
            }
        }
        if !failed.is_empty() && !arguments.keep_going {
            break;
        }
    }
    healed.sort();
    let seconds = start.elapsed().as_secs_f64();
    let worst = healed.last().copied().unwrap_or_default();
    println!(
        "elections of {} seeds: {} failed {failed:?}; {events} events, {grants} leases, {writes} guarded writes, \
         {refused} refused; one leader each after {worst:?} at the latest; {:.0} events/s",
        seeds.end - seeds.start,
        failed.len(),
        events as f64 / seconds,
    );
    Ok(failed.is_empty())
}

fn many_seeds(arguments: &Arguments) -> anyhow::Result<bool> {
    let start = now();
    let (mut events, mut virtual_time, mut healed, mut failed) = (0, Duration::ZERO, Vec::new(), Vec::new());
    let (mut effects_max, mut queue_max, mut reported) = (0, 0, start);
    let seeds = arguments.from..arguments.from.saturating_add(arguments.seeds);
    for seed in seeds.clone() {
        let options = Options::pick(seed);
        let outcome = run(&options).and_then(|outcome| same_again(&options, outcome));
        match outcome {
            Ok(outcome) => {
                events += outcome.events;
                virtual_time += outcome.virtual_time;
                effects_max = effects_max.max(outcome.effects_max);
                queue_max = queue_max.max(outcome.queue_max);
                healed.push(outcome.healed_after);
            }
            Err(violation) => {
                print_failure(&options, &violation);
                failed.push(seed);
                if !arguments.keep_going {
                    break;
                }
            }
        }
        if reported.elapsed() > Duration::from_secs(5) {
            reported = now();
            println!("seed {seed}, {} passed, {} failed", healed.len(), failed.len());
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    healed.sort();
    let at = |share: f64| healed.get((healed.len() as f64 * share) as usize).or(healed.last()).copied();
    println!(
        "{} seeds passed, {} failed; {events} events and {:.0} s of cluster time in {seconds:.1} s: {:.0} events/s",
        healed.len(),
        failed.len(),
        virtual_time.as_secs_f64(),
        events as f64 / seconds.max(1e-9),
    );
    if let (Some(half), Some(most), Some(worst)) = (at(0.5), at(0.95), healed.last()) {
        println!(
            "healed after {half:?} (half of the seeds), {most:?} (95 %), {worst:?} (all); at most {effects_max} \
             effects of one step and {queue_max} items in the queues of one core"
        );
    }
    if !failed.is_empty() {
        println!("failed seeds: {failed:?}");
    }
    Ok(failed.is_empty())
}

/// Runs some of the seeds once more: the hash must be the same.
fn same_again(options: &Options, outcome: Outcome) -> Result<Outcome, Violation> {
    if !options.seed.is_multiple_of(TWICE_EVERY) {
        return Ok(outcome);
    }
    let again = run(options)?;
    if again == outcome {
        return Ok(outcome);
    }
    let detail = format!("hash {:016x}, and then {:016x}", outcome.hash, again.hash);
    Err(Violation { at: mesh_core::Instant::ZERO, host: None, rule: "a seed repeats exactly", detail })
}

fn one_run(arguments: &Arguments, options: &Options) -> anyhow::Result<bool> {
    if arguments.print_options {
        print!("{}", options.to_toml());
    }
    println!("{options}");
    let mut looking = Looking { until: arguments.until.map(Duration::from_secs_f64), ..Looking::default() };
    if let Some(path) = &arguments.trace {
        let file = File::create(path).with_context(|| format!("can't write {}", path.display()))?;
        looking.trace = Some(Box::new(BufWriter::new(file)));
    }
    let start = now();
    match run_looking(options, looking) {
        Ok(outcome) => {
            let rate = outcome.events as f64 / start.elapsed().as_secs_f64().max(1e-9);
            println!(
                "passed: healed after {:?}, {} deaths seen, {} events ({rate:.0}/s), hash {:016x}",
                outcome.healed_after, outcome.deaths, outcome.events, outcome.hash
            );
            for (name, count) in &outcome.counts {
                println!("  {name}: {count}");
            }
            Ok(true)
        }
        Err(violation) => {
            print_failure(options, &violation);
            Ok(false)
        }
    }
}

fn one_large_cluster(arguments: &Arguments) -> anyhow::Result<bool> {
    let start = now();
    let figures =
        converge(arguments.nodes, arguments.seed.unwrap_or(arguments.from), |line| eprintln!("{line}"))
            .with_context(|| format!("{} nodes did not converge", arguments.nodes))?;
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("{:.0} events/s over {seconds:.1} s", figures.events as f64 / seconds.max(1e-9));
    println!("{}", serde_json::to_string_pretty(&figures)?);
    Ok(true)
}

fn halves_that_meet(arguments: &Arguments) -> anyhow::Result<bool> {
    let seeds = arguments
        .seed
        .map_or(arguments.from..arguments.from.saturating_add(arguments.seeds), |seed| seed..seed + 1);
    let mut times = Vec::new();
    for seed in seeds {
        let figures = heal(arguments.nodes, seed, Duration::from_secs_f64(arguments.apart))
            .with_context(|| format!("seed {seed}: {} nodes did not heal", arguments.nodes))?;
        println!("{}", serde_json::to_string(&figures)?);
        times.push(figures.full_s);
    }
    times.sort_by(f64::total_cmp);
    let (half, most) = (times.get(times.len() / 2), times.last());
    eprintln!("full views after {half:.2?} s (median), {most:.2?} s (most) of {} seeds", times.len());
    Ok(true)
}
