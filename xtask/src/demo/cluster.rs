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

use super::process::{Lines, signal};
use crate::repo::output;

/// The cluster's name, and that of the context which `mesh up` writes.
const NAME: &str = "demo";

/// A node as `mesh up` announced it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) edge: String,
    pub(super) pid: u32,
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
    pub(super) fn start(mesh: &Path, folder: &Path, nodes: u16, patience: Duration) -> Result<Self> {
        let (lines, received) = mpsc::channel();
        let mut command = command(mesh, folder);
        command
            .args(["up", "--output", "json", "--cluster", NAME, "--nodes", &nodes.to_string(), "--dir"])
            .arg(folder);
        let up = Lines::start(&mut command, move |line| lines.send(line).is_ok())?;
        let line = loop {
            match received.recv_timeout(patience) {
                Ok(line) if line["event"] == "up" => break line,
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Timeout) => bail!("`mesh up` was not up within {patience:?}"),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    bail!("`mesh up` ended before the cluster was up")
                }
            }
        };
        let nodes = announced(&line)?;
        Ok(Self { mesh: mesh.to_owned(), folder: folder.to_owned(), nodes, again: None, up })
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

    /// What the nodes talk over, in the words of the first one.
    pub(super) fn transport(&self) -> Result<String> {
        let first = self.nodes.first().context("a cluster without nodes")?;
        let listed = output(self.operator(&first.edge).args(["peers", "list", "--output", "json"]))?;
        let listed: Value = serde_json::from_str(&listed).context("`mesh peers list` printed no JSON")?;
        transport_of(&listed)
    }

    /// Starts a node again, from the configuration that `mesh up` wrote for it.
    pub(super) fn restart(&mut self, node: &Node) -> Result<()> {
        let folder = self.folder.join(&node.name);
        let mut command = command(&self.mesh, &self.folder);
        command
            .arg("run")
            .arg("--config")
            .arg(folder.join("mesh.toml"))
            .args(["--events", "--until-stdin-closes"]);
        command.stderr(append(&folder.join("node.log"))?);
        self.again = Some(Lines::start(&mut command, |_| true)?);
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

    /// Waits until somebody ends `mesh up`, with Ctrl-C.
    pub(super) fn wait_for_the_end(&mut self) -> Result<()> {
        self.up.wait(None)?;
        Ok(())
    }

    /// Lets all nodes leave, and makes sure that they did.
    pub(super) fn stop(mut self, patience: Duration) -> Result<()> {
        if let Some(mut node) = self.again.take() {
            stop(&mut node, "TERM", patience).context("the node that was started again")?;
        }
        stop(&mut self.up, "INT", patience).context("mesh up")
    }
}

/// Asks a process to stop, unless it has, and checks how it ended.
fn stop(process: &mut Lines, name: &str, patience: Duration) -> Result<()> {
    if process.is_running()? {
        signal(name, process.pid())?;
    }
    let status = process.wait(Some(patience))?;
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

/// Over what the members are reached: a member that answers over HTTP/2 only is listed as degraded.
fn transport_of(listed: &Value) -> Result<String> {
    let members = listed["peers"].as_array().or_else(|| listed["items"].as_array());
    let members = members.with_context(|| format!("`mesh peers list` printed no list: {listed}"))?;
    ensure!(!members.is_empty(), "`mesh peers list` printed an empty list");
    let mut transport = "http3";
    for member in members {
        match member["health"].as_str() {
            Some("healthy") => {}
            Some("degraded") => transport = "http2",
            _ => bail!("a member is listed without its health: {member}"),
        }
    }
    Ok(transport.to_owned())
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
    fn one_degraded_member_shows() {
        let listed = |health: &[&str]| {
            let members: Vec<Value> = health.iter().map(|health| json!({"health": health})).collect();
            json!({"peers": members})
        };
        assert_eq!(transport_of(&listed(&["healthy", "healthy"])).expect("known"), "http3");
        assert_eq!(transport_of(&listed(&["healthy", "degraded"])).expect("known"), "http2");
        transport_of(&listed(&[])).expect_err("nobody");
        transport_of(&json!({"peers": [{}]})).expect_err("no health");
    }
}
