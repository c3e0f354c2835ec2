//! Runs the command in a sandbox of its own and waits for what it does.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use mesh::core::{Clock, SystemClock};
use mesh_cli::{args::ConnectionArgs, client::Edge, context::Target};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

/// Far beyond what anything here takes, for machines that are busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A home of its own for the command's contexts, and a folder for clusters.
pub(crate) struct Sandbox {
    folder: tempfile::TempDir,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mesh"));
        command.args(arguments).env("MESH_CONFIG_HOME", self.path("home")).env("NO_COLOR", "1");
        command.env_remove("MESH_CONTEXT").env_remove("MESH_LOG").stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn mesh(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the command starts")
    }

    /// The standard output of a command that must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.mesh(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// The JSON document of a command that must succeed.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(arguments)).expect("a JSON document")
    }

    /// A page of the current context's edge.
    pub(crate) fn page(&self, path: &str) -> String {
        self.page_of(Vec::new(), path)
    }

    /// A page of one node's edge.
    pub(crate) fn page_at(&self, edge: &str, path: &str) -> String {
        self.page_of(vec![edge.to_owned()], path)
    }

    fn page_of(&self, edge: Vec<String>, path: &str) -> String {
        let connection = ConnectionArgs { edge, timeout: PATIENCE, ..ConnectionArgs::default() };
        let target = Target::resolve(&connection, &self.path("home"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (status, body) = runtime.block_on(async {
            let edge = Edge::new(target.expect("a current context")).await.expect("a usable identity");
            edge.page(path).await.expect("an answer")
        });
        assert!(status.is_success(), "{path}: {status}");
        body
    }

    /// Starts a command that goes on running.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Running {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped());
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
        let (sender, events) = mpsc::channel();
        let stdout = child.stdout.take().expect("a pipe");
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let event: Value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        let errors = Arc::new(Mutex::new(String::new()));
        let mut stderr = child.stderr.take().expect("a pipe");
        let collected = Arc::clone(&errors);
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = stderr.read(&mut piece) {
                collected.lock().expect("not poisoned").push_str(&String::from_utf8_lossy(&piece[..length]));
            }
        });
        Running { child, events, errors, pids: BTreeMap::new() }
    }

    /// A cluster that is up.
    pub(crate) fn up(&self, nodes: u16) -> Running {
        self.up_with(nodes, &[])
    }

    /// The same, with further arguments.
    pub(crate) fn up_with(&self, nodes: u16, more: &[&str]) -> Running {
        let (nodes, folder) = (nodes.to_string(), self.path("cluster"));
        let folder = folder.to_str().expect("a path in UTF-8");
        let mut up = self.spawn(&[&["up", "--nodes", &nodes, "--dir", folder, "-o", "json"], more].concat());
        let line = up.event("up");
        for node in line["nodes"].as_array().expect("a list of nodes") {
            let name = node["node_id"].as_str().expect("a name").to_owned();
            up.pids.insert(name, node["pid"].as_u64().expect("a process id"));
        }
        up
    }
}

/// A command that runs; killed when dropped.
pub(crate) struct Running {
    child: Child,
    events: mpsc::Receiver<Value>,
    errors: Arc<Mutex<String>>,
    /// The nodes' process ids by name.
    pub(crate) pids: BTreeMap<String, u64>,
}

impl Running {
    /// The next event of that name; others are skipped.
    pub(crate) fn event(&mut self, name: &str) -> Value {
        self.event_where(name, |_| true)
    }

    /// The next event of that name for which the condition holds.
    pub(crate) fn event_where(&mut self, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
        loop {
            match self.events.recv_timeout(PATIENCE) {
                Ok(event) if event["event"] == name && holds(&event) => return event,
                Ok(_) => {}
                Err(error) => panic!("no event {name}: {error}\n{}", self.errors()),
            }
        }
    }

    /// What it wrote to standard error so far.
    pub(crate) fn errors(&self) -> String {
        self.errors.lock().expect("not poisoned").clone()
    }

    /// Ends its standard input.
    pub(crate) fn close_input(&mut self) {
        self.child.stdin = None;
    }

    pub(crate) fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub(crate) fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    fn signal(&self, signal: Signal) {
        kill_process(pid(self.child.id().into()), signal).expect("the process runs");
    }

    /// Its exit code, once it has ended.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut code = None;
        wait_until("the command ends", || {
            code = self.child.try_wait().expect("it can be waited for").map(|status| status.code());
            code.is_some()
        });
        code.flatten()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The names of the live members in a list.
pub(crate) fn alive(listed: &Value) -> Vec<&str> {
    let peers = listed["peers"].as_array().expect("a list of peers");
    peers.iter().filter(|peer| peer["state"] == "alive").filter_map(|peer| peer["node_id"].as_str()).collect()
}

pub(crate) fn kill(process: u64) {
    kill_process(pid(process), Signal::KILL).expect("the process runs");
}

pub(crate) fn process_exists(process: u64) -> bool {
    test_kill_process(pid(process)).is_ok()
}

fn pid(process: u64) -> Pid {
    i32::try_from(process).ok().and_then(Pid::from_raw).expect("a process id")
}

/// Asks until the condition holds.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = SystemClock.now() + PATIENCE;
    while !holds() {
        assert!(SystemClock.now() < deadline, "waited too long until {what}");
        std::thread::yield_now();
    }
}
