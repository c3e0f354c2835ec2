//! Child processes: one node each, watched by one task each.

use std::{
    env, io,
    process::{ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    sync::mpsc,
};

use super::files::NodeFiles;
use crate::failure::{Exit, Failure};

/// What a child did.
#[derive(Debug)]
pub(super) enum ChildEvent {
    /// It listens.
    Listening { index: usize, mesh: String, edge: String },
    /// It is ready.
    Ready { index: usize },
    /// Its process ended.
    Ended { index: usize, status: ExitStatus },
}

/// A running child.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) pid: u32,
    orders: mpsc::Sender<Order>,
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Terminate,
    Kill,
}

impl Node {
    /// Starts `mesh run` for a node. The process ends when this one does, however it ends.
    pub(super) fn start(
        index: usize,
        files: &NodeFiles,
        set: &[(String, String)],
        events: mpsc::Sender<ChildEvent>,
    ) -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            Failure::from_error(Exit::Failed, &error).while_doing(format!("cannot start {}", files.name))
        };
        let mut command = Command::new(env::current_exe().map_err(failed)?);
        command.arg("run").arg("--config").arg(&files.config).arg("--events").arg("--until-stdin-closes");
        for (name, value) in set {
            command.arg("--set").arg(format!("{name}={value}"));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(files.open_log()?).kill_on_drop(true);
        // Settings that are meant for one node must not reach all of them.
        for name in settings_in_environment() {
            command.env_remove(name);
        }
        // Ctrl-C reaches the whole group of a terminal; the children have one of their own, so
        // that this process decides how they stop.
        command.process_group(0);
        let process = command.spawn().map_err(failed)?;
        let pid = process.id().unwrap_or_default();
        let (orders, received) = mpsc::channel(4);
        tokio::spawn(watch(index, process, received, events));
        Ok(Self { pid, orders })
    }

    /// Asks it to leave its cluster and stop.
    pub(super) fn terminate(&self) {
        // A full queue has the order already; a closed one means that it has ended.
        let _ = self.orders.try_send(Order::Terminate);
    }

    /// Ends it at once.
    pub(super) fn kill(&self) {
        let _ = self.orders.try_send(Order::Kill);
    }
}

/// The variables that would be settings of a node.
pub(super) fn settings_in_environment() -> Vec<String> {
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    names.filter(|name| name.starts_with("MESH_") && name.contains("__")).collect()
}

/// Reports what a child says and how it ends; stops it when told to, or when nobody holds its [`Node`] any more.
async fn watch(
    index: usize,
    mut process: Child,
    mut orders: mpsc::Receiver<Order>,
    events: mpsc::Sender<ChildEvent>,
) {
    // `wait` would close it, and the child stops when it is closed.
    let mut stdin = process.stdin.take();
    let mut lines = process.stdout.take().map(|stdout| BufReader::new(stdout).lines());
    let status = loop {
        tokio::select! {
            status = process.wait() => break status,
            line = next_line(&mut lines) => {
                if let Some(event) = line.and_then(|line| parse(index, &line)) {
                    // Nobody listens any more when the command is about to end.
                    let _ = events.send(event).await;
                }
            }
            order = orders.recv() => match order {
                Some(Order::Terminate) => {
                    if let Some(pid) = process.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
                        // Fails when it has just ended, which `wait` reports.
                        let _ = kill_process(pid, Signal::TERM);
                    }
                }
                Some(Order::Kill) => {
                    let _ = process.start_kill();
                }
                None => {
                    stdin = None;
                    let _ = process.start_kill();
                    break process.wait().await;
                }
            },
        }
    };
    drop(stdin);
    if let Ok(status) = status {
        let _ = events.send(ChildEvent::Ended { index, status }).await;
    }
}

/// The next line of the child; never, once its output has ended.
async fn next_line(lines: &mut Option<Lines<BufReader<ChildStdout>>>) -> Option<String> {
    match lines {
        None => std::future::pending().await,
        Some(open) => match open.next_line().await {
            Ok(Some(line)) => Some(line),
            _ => {
                *lines = None;
                None
            }
        },
    }
}

fn parse(index: usize, line: &str) -> Option<ChildEvent> {
    let facts: Value = serde_json::from_str(line).ok()?;
    let text = |key: &str| facts.get(key).and_then(Value::as_str).map(str::to_owned);
    match text("event")?.as_str() {
        "listening" => Some(ChildEvent::Listening { index, mesh: text("mesh")?, edge: text("edge")? }),
        "ready" => Some(ChildEvent::Ready { index }),
        _ => None,
    }
}
