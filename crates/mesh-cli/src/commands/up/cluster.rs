//! The nodes of `mesh up`, from start to stop.

use std::{fmt, fs, process::ExitStatus, time::Duration};

use tokio::sync::mpsc;

use super::{
    StopSignals,
    child::{ChildEvent, Node},
    files::ClusterFiles,
};
use crate::{
    client::Edge,
    commands::peers,
    context::Context,
    failure::{Exit, Failure},
};

/// Events of children that wait to be handled; a child waits when it is full.
const EVENTS_MAX: usize = 64;
/// Time for all goodbyes; after it, what still runs is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Time between two looks at who sees whom, while the cluster forms.
const JOIN_POLL: Duration = Duration::from_millis(50);
/// Lines of a log that are shown when its node did not start.
const LOG_LINES_SHOWN: usize = 5;

/// The child processes and their files.
pub(super) struct Cluster {
    files: ClusterFiles,
    nodes: Vec<Option<Running>>,
    sender: mpsc::Sender<ChildEvent>,
    events: mpsc::Receiver<ChildEvent>,
}

struct Running {
    node: Node,
    mesh: Option<String>,
    edge: Option<String>,
    ready: bool,
    leaving: bool,
}

/// A node as it is shown to people.
#[derive(Clone, Debug)]
pub(super) struct UpMember {
    pub(super) name: String,
    pub(super) pid: u32,
    pub(super) mesh: String,
    pub(super) edge: String,
    pub(super) log: String,
}

/// A process that ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) name: String,
    pub(super) pid: u32,
    pub(super) status: ExitStatus,
    pub(super) log: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {}) ended: {}", self.name, self.pid, self.status)
    }
}

impl Cluster {
    pub(super) fn new(files: ClusterFiles) -> Self {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let nodes = files.nodes.iter().map(|_| None).collect();
        Self { files, nodes, sender, events }
    }

    /// Starts the first node, then all others with its address as their seed.
    pub(super) async fn start_all(&mut self, set: &[(String, String)]) -> Result<(), Failure> {
        self.start(0, &[], set)?;
        self.wait_until_listening().await?;
        let seeds: Vec<String> = self.first().and_then(|first| first.mesh.clone()).into_iter().collect();
        for index in 1..self.nodes.len() {
            self.start(index, &seeds, set)?;
        }
        self.wait_until_listening().await?;
        self.name_all_as_seeds()
    }

    /// Each node that is started again by itself finds the others, whichever of them are left.
    fn name_all_as_seeds(&self) -> Result<(), Failure> {
        let address = |running: &Option<Running>| running.as_ref().and_then(|running| running.mesh.clone());
        let all: Vec<Option<String>> = self.nodes.iter().map(address).collect();
        for (index, files) in self.files.nodes.iter().enumerate() {
            let others = all.iter().enumerate().filter(|(other, _)| *other != index);
            let seeds: Vec<String> = others.filter_map(|(_, mesh)| mesh.clone()).collect();
            files.write_config(&seeds)?;
        }
        Ok(())
    }

    fn first(&self) -> Option<&Running> {
        self.nodes.first()?.as_ref()
    }

    fn start(&mut self, index: usize, seeds: &[String], set: &[(String, String)]) -> Result<(), Failure> {
        let files = &self.files.nodes[index];
        files.write_config(seeds)?;
        let node = Node::start(index, files, set, self.sender.clone())?;
        self.nodes[index] = Some(Running { node, mesh: None, edge: None, ready: false, leaving: false });
        Ok(())
    }

    async fn wait_until_listening(&mut self) -> Result<(), Failure> {
        while self.nodes.iter().flatten().any(|running| running.mesh.is_none()) {
            self.next_while_starting().await?;
        }
        Ok(())
    }

    /// Waits until each node says that it is ready and lists all as alive.
    pub(super) async fn wait_until_joined(&mut self, edge: &Edge) -> Result<(), Failure> {
        while self.nodes.iter().flatten().any(|running| !running.ready) {
            self.next_while_starting().await?;
        }
        let alive = [("state".to_owned(), "alive".to_owned())];
        for address in edge.addresses() {
            while peers::all(&edge.at(address), &alive).await?.len() < self.nodes.len() {
                tokio::select! {
                    result = self.next_while_starting() => result?,
                    () = tokio::time::sleep(JOIN_POLL) => {}
                }
            }
        }
        Ok(())
    }

    async fn next_while_starting(&mut self) -> Result<(), Failure> {
        match self.next().await {
            None => Ok(()),
            Some(ended) => {
                let text = fs::read_to_string(&ended.log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let last = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n       ");
                Err(Failure::new(Exit::Failed, format!("{ended} before the cluster was up\n       {last}"))
                    .next(format!("look at {}", ended.log)))
            }
        }
    }

    /// Handles the next event; the end of a process is handed on.
    async fn next(&mut self) -> Option<Ended> {
        // The sender in `self` keeps the channel open.
        match self.events.recv().await? {
            ChildEvent::Listening { index, mesh, edge } => {
                if let Some(running) = self.nodes.get_mut(index)?.as_mut() {
                    running.mesh = Some(mesh);
                    running.edge = Some(edge);
                }
                None
            }
            ChildEvent::Ready { index } => {
                if let Some(running) = self.nodes.get_mut(index)?.as_mut() {
                    running.ready = true;
                }
                None
            }
            ChildEvent::Ended { index, status } => {
                let running = self.nodes.get_mut(index)?.take()?;
                let files = &self.files.nodes[index];
                Some(Ended {
                    name: files.name.clone(),
                    pid: running.node.pid,
                    status,
                    log: files.log.display().to_string(),
                })
            }
        }
    }

    /// The next process that ends.
    pub(super) async fn ended(&mut self) -> Ended {
        loop {
            if let Some(ended) = self.next().await {
                return ended;
            }
        }
    }

    /// Processes that run.
    pub(super) fn running(&self) -> usize {
        self.nodes.iter().flatten().count()
    }

    /// Which nodes are not there yet, for an error.
    pub(super) fn missing(&self) -> String {
        let states = self.nodes.iter().zip(&self.files.nodes).map(|(running, files)| {
            let state = match running {
                None => "not started",
                Some(Running { mesh: None, .. }) => "not listening",
                Some(Running { ready: false, .. }) => "not ready",
                Some(_) => "ready",
            };
            format!("{} is {state}", files.name)
        });
        states.collect::<Vec<_>>().join(", ")
    }

    /// The operator's context with the edges of all nodes.
    pub(super) fn context(&self) -> Context {
        self.files.context(self.nodes.iter().flatten().filter_map(|running| running.edge.clone()).collect())
    }

    /// The nodes that run, for people.
    pub(super) fn members(&self) -> Vec<UpMember> {
        let members = self.nodes.iter().zip(&self.files.nodes).filter_map(|(running, files)| {
            let running = running.as_ref()?;
            Some(UpMember {
                name: files.name.clone(),
                pid: running.node.pid,
                mesh: running.mesh.clone()?,
                edge: running.edge.clone()?,
                log: files.log.display().to_string(),
            })
        });
        members.collect()
    }

    /// Lets all nodes leave and waits for them; whether all ended well.
    ///
    /// A second Ctrl-C, or the end of the time for it, kills what still runs.
    pub(super) async fn stop(
        &mut self,
        signals: &mut StopSignals,
        mut report: impl FnMut(&Ended) -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        let mut clean = true;
        let mut killed = false;
        let deadline = tokio::time::Instant::now() + STOP_TIMEOUT;
        while self.running() > 0 {
            self.terminate_some();
            let ended = tokio::select! {
                ended = self.ended() => ended,
                () = signals.recv(), if !killed => {
                    (clean, killed) = (false, true);
                    self.kill_all();
                    continue;
                }
                () = tokio::time::sleep_until(deadline), if !killed => {
                    (clean, killed) = (false, true);
                    self.kill_all();
                    continue;
                }
            };
            clean &= ended.status.success();
            report(&ended)?;
        }
        Ok(clean)
    }

    /// Keeps a quarter of the nodes leaving, the last started first: a goodbye has to be heard by
    /// nodes that stay.
    fn terminate_some(&mut self) {
        let at_once = (self.running() / 4).max(1);
        let leaving = self.nodes.iter().flatten().filter(|running| running.leaving).count();
        let staying = self.nodes.iter_mut().rev().flatten().filter(|running| !running.leaving);
        for running in staying.take(at_once.saturating_sub(leaving)) {
            running.leaving = true;
            running.node.terminate();
        }
    }

    fn kill_all(&self) {
        for running in self.nodes.iter().flatten() {
            running.node.kill();
        }
    }
}
