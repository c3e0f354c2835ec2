//! The `mesh` binary, and programs of ours that stand in for it.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::lab::Namespace;

/// Names a binary that is built already.
const VARIABLE: &str = "MESH_BIN";

/// How a node is started.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    /// Where the path of the configuration goes.
    config: Config,
}

/// How a program is told where its configuration is.
#[derive(Clone, Debug)]
enum Config {
    /// As the value of this flag.
    Flag(&'static str),
    /// In this variable: the arguments of a test program are not its own.
    Variable(&'static str),
}

impl Program {
    /// `mesh run`.
    ///
    /// # Errors
    ///
    /// It does not build.
    pub fn mesh() -> Result<Self> {
        let run = ["run", "--events", "--until-stdin-closes", "--log-format", "json"];
        Ok(Self::of(mesh_binary()?, &run, Config::Flag("--config")))
    }

    /// A program that takes its configuration from this flag, prints the events of `mesh run --events` and
    /// stops when its standard input closes.
    pub fn with_flag(path: &Path, arguments: &[&str], flag: &'static str) -> Self {
        Self::of(path, arguments, Config::Flag(flag))
    }

    /// The same with a variable.
    pub fn with_variable(path: &Path, arguments: &[&str], variable: &'static str) -> Self {
        Self::of(path, arguments, Config::Variable(variable))
    }

    fn of(path: &Path, arguments: &[&str], config: Config) -> Self {
        let arguments = arguments.iter().map(OsString::from).collect();
        Self { path: path.to_owned(), arguments, environment: Vec::new(), config }
    }

    /// A variable of its environment; those whose names begin with `MESH_` do not get there.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub(super) fn command(&self, config: &Path, namespace: Option<&Namespace>) -> Command {
        let mut command = match namespace {
            Some(namespace) => namespace.command(&self.path),
            None => Command::new(&self.path),
        };
        command.args(&self.arguments).envs(self.environment.iter().cloned());
        match self.config {
            Config::Flag(flag) => command.arg(flag).arg(config),
            Config::Variable(variable) => command.env(variable, config),
        };
        command
    }
}

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
