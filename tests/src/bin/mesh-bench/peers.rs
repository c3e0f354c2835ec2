//! Runs programs that measure other systems, found in a folder, one after the other.
//!
//! Each program takes `--nodes N --runs R` and prints JSON lines with `impl`,
//! `phase` and figures; those are passed on as medians by program and phase.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

pub(crate) fn run(folder: &Path, nodes: usize, runs: usize) -> Result<Value> {
    let mut programs: Vec<_> = std::fs::read_dir(folder)
        .with_context(|| format!("read the peers' folder {}", folder.display()))?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| is_program(path))
        .collect();
    programs.sort();
    let mut report = Map::new();
    for program in programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        eprintln!("peer {name}: {nodes} nodes, {runs} runs");
        let output = Command::new(&program)
            .args(["--nodes", &nodes.to_string(), "--runs", &runs.to_string()])
            .output()
            .with_context(|| format!("run {}", program.display()))?;
        report.insert(name, summary(&String::from_utf8_lossy(&output.stdout)));
    }
    Ok(Value::Object(report))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

fn summary(lines: &str) -> Value {
    let mut figures: BTreeMap<String, BTreeMap<String, Vec<f64>>> = BTreeMap::new();
    for line in lines.lines().filter_map(|l| serde_json::from_str::<Map<String, Value>>(l).ok()) {
        let phase = line.get("phase").and_then(Value::as_str).unwrap_or("all").to_owned();
        for (name, value) in &line {
            if let Some(number) = value.as_f64() {
                figures.entry(phase.clone()).or_default().entry(name.clone()).or_default().push(number);
            }
        }
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let phases = figures.into_iter().map(|(phase, names)| {
        let names: Map<String, Value> = names.into_iter().map(|(n, v)| (n, json!(median(v)))).collect();
        (phase, Value::Object(names))
    });
    Value::Object(phases.collect())
}
