//! Anti-entropy: what it costs to find out how two sets differ, beside negentropy, and what a store takes and gives.
//!
//! Both sides of a comparison are in this process, and all that one has to say arrives before the other answers.

mod negentropy;
mod ours;
mod shapes;
mod store;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::{Map, Value, json};

use self::shapes::{SHAPES, Sets};
use crate::load::load_average;

#[derive(Args)]
pub(crate) struct Options {
    /// Measurements of each comparison, under another key each time; the median is told.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Entries in the store that is opened again; 0 leaves stores out.
    #[arg(long, default_value_t = 1_000_000)]
    entries: u64,
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

pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(options.runs > 0, "--runs must be at least 1");
    let mut figures = BTreeMap::new();
    let before = load_average();
    for shape in SHAPES {
        let sets = Sets::new(shape);
        eprintln!("{}: {} and {} ids", shape.name, sets.a.len(), sets.b.len());
        compare::<ours::Ours>(&sets, options.runs, &mut figures)?;
        if options.peers {
            compare::<negentropy::Negentropy>(&sets, options.runs, &mut figures)?;
        }
    }
    if options.entries > 0 {
        let dir = options.dir.clone().unwrap_or_else(std::env::temp_dir);
        let folder =
            tempfile::Builder::new().prefix("mesh-bench-").tempdir_in(dir).context("a folder for data")?;
        store::measure(folder.path(), options.entries, &mut |name, figure| tell(&mut figures, name, figure))?;
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
