//! One run of a node: its process, what it prints, and the signals it gets.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::board::{Addresses, Board};

/// What children log, as users get it by default.
const LOG: &str = "info,openraft=error";

/// A child. It is killed when this value goes.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    /// The child stops when this closes, so that it does not outlive us however we end.
    stdin: Option<ChildStdin>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts this; what it prints goes to the board, and its log to a file too.
    pub(super) fn start(mut mesh: Command, log: &Path, name: &str, board: &Board) -> Result<Self> {
        mesh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A Ctrl-C of ours must not reach it before we decide how the story ends.
        mesh.process_group(0);
        clean_environment(&mut mesh);
        board.run_begins(name);
        let mut child = mesh.spawn().with_context(|| format!("cannot start {name}"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("a child without standard output")?;
        let stderr = child.stderr.take().context("a child without standard error")?;
        let file = OpenOptions::new().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot open {}", log.display()))?;
        let readers = vec![
            spawn_reader(name, board, stdout, read_events),
            spawn_reader(name, board, stderr, move |name, board, stderr| read_log(name, board, stderr, file)),
        ];
        Ok(Self { child, stdin, readers })
    }

    /// Its id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        let pid =
            i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("a process id out of range")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal process {}", self.pid()))
    }

    /// Writes a line to its standard input.
    pub(super) fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("a child without standard input")?;
        writeln!(stdin, "{line}").with_context(|| format!("cannot tell process {line:?}"))
    }

    /// Waits for its end; call it when the end is near.
    pub(super) fn wait(mut self) -> Result<ExitStatus> {
        let status = self.child.wait().context("cannot wait for a child")?;
        for reader in self.readers.drain(..) {
            reader.join().ok().context("a reader panicked")?;
        }
        Ok(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Settings in the user's environment are meant for other nodes.
fn clean_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MESH_") {
            command.env_remove(&name);
        }
    }
    command.env("MESH_LOG", std::env::var_os("MESH_TEST_LOG").unwrap_or_else(|| LOG.into()));
}

fn spawn_reader<R: Read + Send + 'static>(
    name: &str,
    board: &Board,
    from: R,
    read: impl FnOnce(&str, &Board, R) + Send + 'static,
) -> JoinHandle<()> {
    let (name, board) = (name.to_owned(), board.clone());
    thread::spawn(move || read(&name, &board, from))
}

/// The lines of `--events`, and the end of the process.
fn read_events(name: &str, board: &Board, stdout: impl Read) {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        let facts: Value = serde_json::from_str(&line).unwrap_or_default();
        let address = |key: &str| facts[key].as_str().and_then(|text| text.parse().ok());
        match facts["event"].as_str() {
            Some("listening") => {
                if let (Some(mesh), Some(edge)) = (address("mesh"), address("edge")) {
                    board.listens(name, Addresses { mesh, edge });
                }
            }
            Some("ready") => board.is_ready(name),
            _ => {}
        }
    }
    board.run_ended(name);
}

fn read_log(name: &str, board: &Board, stderr: impl Read, mut file: File) {
    let mut lines = BufReader::new(stderr);
    let mut line = Vec::new();
    while matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
        // The board has the line even if the disk is full.
        let _ = file.write_all(&line);
        board.logged(name, String::from_utf8_lossy(&line).trim_end().to_owned());
        line.clear();
    }
}
