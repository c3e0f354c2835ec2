//! Anti-entropy: what it costs to find out how two sets differ, beside negentropy; what a store takes and gives; and
//! what nodes come to, end to end.
//!
//! Both sides of a comparison are in this process, and all that one has to say arrives before the other answers. Of a
//! pair of nodes one is in this process and one in another.

mod memory;
mod negentropy;
mod node;
mod ours;
mod pair;
mod queue;
mod relay;
mod shapes;
mod store;
mod writer;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use self::shapes::{SHAPES, Sets};
pub(crate) use self::{
    memory::{Options as MemoryOptions, run as run_memory},
    node::{Options as NodeOptions, run as run_node},
};
use crate::load::load_average;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// What it costs to compare sets.
    Compare,
    /// A store, and an engine that opens a large one.
    Store,
    /// The queue to a peer.
    Queue,
    /// Two nodes.
    Pair,
    /// Memory of an engine with many peers.
    Memory,
}

#[derive(Args)]
pub(crate) struct Options {
    /// Measurements of each comparison, under another key each time; the median is told.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// What is measured; everything unless some of it is named.
    #[arg(long, value_delimiter = ',', default_value = "compare,store,queue,pair,memory")]
    parts: Vec<Part>,
    /// Entries in the store that is opened again.
    #[arg(long, default_value_t = 1_000_000)]
    entries: u64,
    /// Entries of 1 KiB that a node catches up with.
    #[arg(long, default_value_t = 60_000)]
    apply_entries: u64,
    /// How often a node catches up; the median is told.
    #[arg(long, default_value_t = 3)]
    apply_runs: usize,
    /// Measure negentropy as well.
    #[arg(long)]
    peers: bool,
    /// Folder for stores; default: the system's temporary folder.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Output: table or json.
    #[arg(short, long, default_value = "table")]
    output: String,
}

/// What one comparison took.
struct Taken {
    bytes: u64,
    round_trips: u32,
    /// Processor time of both sides.
    cpu: Duration,
    /// The most memory of a session, both sides: frames, cells and lists.
    session_bytes: usize,
}

/// Something that finds out how two sets differ.
trait Comparer {
    /// Before the names of its figures.
    const PREFIX: &'static str;

    /// Takes in both sets; not measured.
    fn new(sets: &Sets, run: usize) -> Result<Self>
    where
        Self: Sized;

    /// Compares, and checks that what was found is the difference.
    fn compare(&mut self, sets: &Sets, run: usize) -> Result<Taken>;
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    ensure!(options.runs > 0, "--runs must be at least 1");
    ensure!(options.entries > 0, "--entries must be at least 1");
    ensure!(options.apply_entries > 0, "--apply-entries must be at least 1");
    ensure!(options.apply_runs > 0, "--apply-runs must be at least 1");
    let mut figures = BTreeMap::new();
    let before = load_average();
    let dir = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let folder =
        tempfile::Builder::new().prefix("mesh-bench-").tempdir_in(dir).context("a folder for data")?;
    let wants = |part| options.parts.contains(&part);
    if wants(Part::Compare) {
        for shape in SHAPES {
            let sets = Sets::new(shape);
            eprintln!("{}: {} and {} ids", shape.name, sets.a.len(), sets.b.len());
            compare::<ours::Ours>(&sets, options.runs, &mut figures)?;
            if options.peers {
                compare::<negentropy::Negentropy>(&sets, options.runs, &mut figures)?;
            }
        }
    }
    let mut told = |name: &str, figure: f64| tell(&mut figures, name, figure);
    if wants(Part::Store) {
        store::measure(folder.path(), options.entries, &mut told).await?;
    }
    if wants(Part::Queue) {
        queue::measure(folder.path(), &mut told).await?;
    }
    if wants(Part::Pair) {
        pair::measure(folder.path(), options.apply_runs, options.apply_entries, &mut told).await?;
    }
    if wants(Part::Memory) {
        memory::measure(&mut told).await?;
    }
    tell(&mut figures, "load_before", before);
    tell(&mut figures, "load_after", load_average());
    if options.output == "json" {
        let figures: Map<String, Value> =
            figures.into_iter().map(|(name, figure)| (name, json!(figure))).collect();
        println!("{}", Value::Object(figures));
    } else {
        for (name, figure) in &figures {
            println!("{name:<48} {figure}");
        }
    }
    Ok(())
}

fn compare<C: Comparer>(sets: &Sets, runs: usize, figures: &mut BTreeMap<String, f64>) -> Result<()> {
    let mut taken = Vec::with_capacity(runs);
    for run in 0..runs {
        let mut comparer = C::new(sets, run)?;
        // The first one finds cold caches.
        comparer.compare(sets, 2 * run)?;
        taken.push(comparer.compare(sets, 2 * run + 1)?);
    }
    let mut figure = |name: &str, of: fn(&Taken) -> f64| {
        let mut all: Vec<f64> = taken.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        tell(figures, &format!("{}recon_{}_{name}", C::PREFIX, sets.shape.name), all[all.len() / 2]);
    };
    figure("bytes", |taken| taken.bytes as f64);
    figure("round_trips", |taken| f64::from(taken.round_trips));
    figure("cpu_ms", |taken| taken.cpu.as_secs_f64() * 1e3);
    figure("session_mib", |taken| taken.session_bytes as f64 / f64::from(1 << 20));
    Ok(())
}

fn tell(figures: &mut BTreeMap<String, f64>, name: &str, figure: f64) {
    eprintln!("{name} {figure:.3}");
    figures.insert(name.to_owned(), (figure * 1000.0).round() / 1000.0);
}

/// The figure that `part` of all figures are not above; sorts them.
fn percentile(figures: &mut [f64], part: f64) -> f64 {
    figures.sort_by(f64::total_cmp);
    let at = (figures.len() as f64 * part).ceil() as usize;
    figures.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Runs `work`, and adds the processor time of this thread to `spent`.
fn timed<T>(spent: &mut Duration, work: impl FnOnce() -> T) -> T {
    let now = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
    };
    let start = now();
    let out = work();
    *spent += now().saturating_sub(start);
    out
}
