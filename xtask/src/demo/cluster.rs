//! The demo's cluster: `mesh up`, and the node that the demo starts again itself.

use std::{
    env,
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    interrupt::{Interrupt, TICK},
    process::Lines,
};
use crate::{repo::output, steps::Stopwatch};

/// The cluster's name, and that of the context which `mesh up` writes.
const NAME: &str = "demo";

/// The scope that steers the cluster itself.
const SCOPE: &str = "global-control";

/// The dataset that every node keeps, and the setting that says so.
pub(super) const DATASET: &str = "demo";
const DATASETS: &str = "sync.datasets=[{name = \"demo\", access = \"cluster\"}]";

/// Longest wait for a goodbye when the demo ends early; `mesh up` gives its nodes half a minute.
const LAST_PATIENCE: Duration = Duration::from_secs(40);

/// A node as `mesh up` announced it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) edge: String,
    pub(super) pid: u32,
}

/// Who leads the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leader {
    pub(super) name: String,
    pub(super) token: String,
}

/// A running `mesh up`.
#[derive(Debug)]
pub(super) struct Cluster {
    mesh: PathBuf,
    folder: PathBuf,
    nodes: Vec<Node>,
    /// The node that was killed, in its second life.
    again: Option<Lines>,
    up: Lines,
}

impl Cluster {
    /// Starts `mesh up` and waits until it says that the cluster is up.
    pub(super) fn start(
        mesh: &Path,
        folder: &Path,
        nodes: u16,
        patience: Duration,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let (lines, received) = mpsc::channel();
        let mut command = command(mesh, folder);
        command
            .args([
                "up",
                "--output",
                "json",
                "--until-stdin-closes",
                "--cluster",
                NAME,
                "--nodes",
                &nodes.to_string(),
                "--set",
                DATASETS,
                "--dir",
            ])
            .arg(folder);
        let up = Lines::start(&mut command, move |line| lines.send(line).is_ok())?;
        let (mesh, folder) = (mesh.to_owned(), folder.to_owned());
        let mut cluster = Self { mesh, folder, nodes: Vec::new(), again: None, up };
        let line = first(&received, "up", patience, interrupt).context("`mesh up`")?;
        cluster.nodes = announced(&line)?;
        Ok(cluster)
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The `mesh` command with the operator's identity, towards one node.
    pub(super) fn operator(&self, edge: &str) -> Command {
        let mut command = command(&self.mesh, &self.folder);
        command.args(["--context", NAME, "--edge", edge]);
        command
    }

    /// A log file of the demo itself, to append.
    pub(super) fn log(&self, name: &str) -> Result<File> {
        append(&self.folder.join(name))
    }

    /// What carries gRPC calls to every node, by calling them: `mesh check` does.
    pub(super) fn transport(&self) -> Result<String> {
        let first = self.nodes.first().context("a cluster without nodes")?;
        let check = ["check", "--only", "rpc.http3", "--output", "json"];
        let report = output(self.operator(&first.edge).args(check))?;
        let report: Value = serde_json::from_str(&report).context("`mesh check` printed no JSON")?;
        transport_of(&report)
    }

    /// Who leads the cluster, as one node sees it, with the fencing token.
    pub(super) fn leader(&self, at: &Node) -> Result<Option<Leader>> {
        let status = ["leaders", "status", "--output", "json"];
        let leaders = output(self.operator(&at.edge).args(status))?;
        let leaders: Value = serde_json::from_str(&leaders).context("`mesh leaders` printed no JSON")?;
        Ok(leader_in(&leaders))
    }

    /// Waits until as many nodes vote on the registry as do in a cluster of this size: the death of one is
    /// then no loss.
    pub(super) fn voters(&self, at: &Node, patience: Duration, interrupt: &Interrupt) -> Result<usize> {
        let wanted = if self.nodes.len() < 3 { 1 } else { 3 };
        let watch = Stopwatch::start();
        loop {
            interrupt.check()?;
            let registry = output(self.operator(&at.edge).args(["registry", "status", "--output", "json"]))?;
            let registry: Value =
                serde_json::from_str(&registry).context("`mesh registry` printed no JSON")?;
            let voters = registry["voters"].as_array().map_or(0, Vec::len);
            if voters >= wanted {
                return Ok(voters);
            }
            if watch.elapsed() >= patience {
                bail!("{voters} of {wanted} nodes voted after {patience:?}");
            }
        }
    }

    /// Waits until a node sees a leader that is not `before`.
    pub(super) fn next_leader(
        &self,
        at: &Node,
        before: Option<&Leader>,
        patience: Duration,
        interrupt: &Interrupt,
    ) -> Result<Leader> {
        let watch = Stopwatch::start();
        loop {
            interrupt.check()?;
            if let Some(leader) = self.leader(at)?.filter(|leader| Some(leader) != before) {
                return Ok(leader);
            }
            if watch.elapsed() >= patience {
                bail!("{} saw no new leader of {SCOPE} within {patience:?}", at.name);
            }
        }
    }

    /// Starts a node again, from the configuration that `mesh up` wrote for it, and waits until it listens: its
    /// process and its ports are others from then on.
    pub(super) fn restart(&mut self, node: &Node, patience: Duration, interrupt: &Interrupt) -> Result<()> {
        let folder = self.folder.join(&node.name);
        let mut command = command(&self.mesh, &self.folder);
        command.arg("run").arg("--config").arg(folder.join("mesh.toml")).args([
            "--events",
            "--until-stdin-closes",
            "--set",
            DATASETS,
        ]);
        command.stderr(append(&folder.join("node.log"))?);
        let (lines, received) = mpsc::channel();
        // Nobody reads the later lines, and the process must not wait for that.
        let process = Lines::start(&mut command, move |line| {
            let _ = lines.send(line);
            true
        })?;
        let pid = process.pid();
        self.again = Some(process);
        let line = first(&received, "listening", patience, interrupt)
            .with_context(|| format!("{}, started again", node.name))?;
        let edge = line["edge"].as_str().with_context(|| format!("it told no edge address: {line}"))?;
        for known in self.nodes.iter_mut().filter(|known| known.name == node.name) {
            *known = Node { name: node.name.clone(), edge: edge.to_owned(), pid };
        }
        Ok(())
    }

    /// What to type in another terminal.
    pub(super) fn invitation(&self) -> String {
        format!(
            "MESH_CONFIG_HOME={} {} --context {NAME} peers list --watch",
            config_home(&self.folder).display(),
            self.mesh.display()
        )
    }

    /// Waits until somebody ends the demo or `mesh up`; Ctrl-C reaches both.
    pub(super) fn wait_for_the_end(&mut self, interrupt: &Interrupt) -> Result<()> {
        // There is nothing else to wait for.
        let (_never, tick) = mpsc::channel::<()>();
        while !interrupt.asked() && self.up.is_running()? {
            let _ = tick.recv_timeout(TICK);
        }
        Ok(())
    }

    /// Lets all nodes leave, and makes sure that they did.
    pub(super) fn stop(mut self, patience: Duration) -> Result<()> {
        if let Some(node) = &mut self.again {
            stop(node, patience).context("the node that was started again")?;
        }
        stop(&mut self.up, patience).context("mesh up")
    }
}

/// However the demo ends, its nodes have ended before.
impl Drop for Cluster {
    fn drop(&mut self) {
        // What went wrong before is what people should read, and what does not stop is killed.
        for process in self.again.iter_mut().chain([&mut self.up]) {
            let _ = stop(process, LAST_PATIENCE);
        }
    }
}

/// Waits for the first line of one kind.
fn first(
    lines: &mpsc::Receiver<Value>,
    event: &str,
    patience: Duration,
    interrupt: &Interrupt,
) -> Result<Value> {
    let watch = Stopwatch::start();
    loop {
        interrupt.check()?;
        match lines.recv_timeout(TICK) {
            Ok(line) if line["event"] == event => return Ok(line),
            Err(mpsc::RecvTimeoutError::Timeout) if watch.elapsed() >= patience => {
                bail!("it did not say {event:?} within {patience:?}")
            }
            Ok(_) | Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                interrupt.check()?;
                bail!("it ended before it said {event:?}")
            }
        }
    }
}

/// Asks a process to stop, unless it has, and checks how it ended.
fn stop(process: &mut Lines, patience: Duration) -> Result<()> {
    process.close_input();
    let status = process.wait(patience)?;
    ensure!(status.success(), "it did not end cleanly: {status}");
    Ok(())
}

fn command(mesh: &Path, folder: &Path) -> Command {
    let mut command = Command::new(mesh);
    command.env("MESH_CONFIG_HOME", config_home(folder)).env_remove("MESH_CONTEXT");
    // Settings in the user's environment are meant for other nodes.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("MESH_") && name.contains("__") {
            command.env_remove(&*name);
        }
    }
    command
}

/// The demo leaves the user's own contexts alone.
fn config_home(folder: &Path) -> PathBuf {
    folder.join("contexts")
}

fn append(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

/// The nodes in the line that says the cluster is up.
fn announced(line: &Value) -> Result<Vec<Node>> {
    let nodes = line["nodes"].as_array().with_context(|| format!("`mesh up` announced no nodes: {line}"))?;
    let node = |node: &Value| {
        Some(Node {
            name: node["node_id"].as_str()?.to_owned(),
            edge: node["edge"].as_str()?.to_owned(),
            pid: u32::try_from(node["pid"].as_u64()?).ok()?,
        })
    };
    nodes
        .iter()
        .map(|value| node(value).with_context(|| format!("`mesh up` announced no node: {value}")))
        .collect()
}

/// The leader of the cluster in what `mesh leaders status` says.
fn leader_in(leaders: &Value) -> Option<Leader> {
    let all = leaders["leaders"].as_array()?;
    let scope = all.iter().find(|leader| leader["scope"] == SCOPE)?;
    Some(Leader { name: scope["leader"].as_str()?.to_owned(), token: scope["token"].as_str()?.to_owned() })
}

/// The best transport over which a gRPC call to every node was answered.
fn transport_of(report: &Value) -> Result<String> {
    let check = &report["checks"][0];
    let worked = check["transports"]
        .as_array()
        .with_context(|| format!("`mesh check` called no node: {}", check["detail"]))?;
    let name = |word: &Value| match word.as_str() {
        Some("h3") => Some("http3"),
        Some("h2") => Some("http2"),
        _ => None,
    };
    let best = worked.iter().find_map(name);
    Ok(best.with_context(|| format!("gRPC does not work with every node: {}", check["detail"]))?.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_are_read_from_the_line_that_announces_them() {
        let line = json!({"event": "up", "nodes": [{"node_id": "node-1", "edge": "127.0.0.1:1", "pid": 7}]});
        let node = Node { name: "node-1".to_owned(), edge: "127.0.0.1:1".to_owned(), pid: 7 };
        assert_eq!(announced(&line).expect("reads"), [node]);
        let error = announced(&json!({"nodes": [{"node_id": "node-1"}]})).expect_err("no pid").to_string();
        assert!(error.contains("node-1"), "{error}");
    }

    #[test]
    fn the_leader_is_the_one_of_the_clusters_own_scope() {
        let led = |leader: Value| {
            json!({"leaders": [
                {"scope": "else", "leader": "node-9", "token": "1.1"},
                {"scope": "global-control", "leader": leader, "token": "1.7"},
            ]})
        };
        let leader = Leader { name: "node-2".to_owned(), token: "1.7".to_owned() };
        assert_eq!(leader_in(&led(json!("node-2"))), Some(leader));
        assert_eq!(leader_in(&led(Value::Null)), None);
        assert_eq!(leader_in(&json!({"leaders": []})), None);
    }

    #[test]
    fn the_transport_is_what_carried_calls_to_every_node() {
        let report = |transports: Value| json!({"checks": [{"detail": "b", "transports": transports}]});
        assert_eq!(transport_of(&report(json!(["h3", "h2"]))).expect("known"), "http3");
        assert_eq!(transport_of(&report(json!(["h2"]))).expect("known"), "http2");
        for bad in [report(json!([])), report(Value::Null), json!({})] {
            transport_of(&bad).expect_err("no call was answered");
        }
    }
}
