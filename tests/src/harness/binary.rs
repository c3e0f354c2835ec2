//! The `mesh` binary.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

/// Names a binary that is built already.
const VARIABLE: &str = "MESH_BIN";

/// The `mesh` binary: the one that `MESH_BIN` names, else built here, once in a process.
///
/// # Errors
///
/// It does not build.
pub fn mesh_binary() -> Result<&'static Path> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| find().map_err(|error| format!("{error:#}")));
    built.as_deref().map_err(|error| anyhow!("there is no mesh binary: {error}"))
}

fn find() -> Result<PathBuf> {
    if let Some(path) = env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "{VARIABLE} names {}, which is no file", path.display());
        return Ok(path);
    }
    // A Cargo package can't ask for the binary of another one, so Cargo is asked to build it;
    // when it is fresh, that takes a moment.
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args([
            "build",
            "--package",
            "mesh-cli",
            "--bin",
            "mesh",
            "--message-format",
            "json-render-diagnostics",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit());
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let done = cargo.output().context("cannot start cargo")?;
    ensure!(done.status.success(), "`cargo build --package mesh-cli` ended with {}", done.status);
    let messages = String::from_utf8(done.stdout).context("cargo printed bytes that are not UTF-8")?;
    let mut executables = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_mesh = message["target"]["name"] == "mesh" && message["target"]["kind"][0] == "bin";
        message["executable"].as_str().filter(|_| is_mesh).map(PathBuf::from)
    });
    executables.next_back().context("cargo named no executable")
}
