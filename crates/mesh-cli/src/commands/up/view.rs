//! What `mesh up` shows: lines, or a table that is drawn again on a terminal.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
    path::Path,
};

use serde_json::{Value, json};

use super::cluster::{Ended, UpMember};
use crate::{
    args::UpFormat,
    failure::Failure,
    output::{self, API_VERSION, Column, table, text_at},
};

const COLUMNS: &[Column] = &[
    Column { title: "NODE", wide: false, cell: |item| text_at(item, "node_id") },
    Column { title: "STATE", wide: false, cell: |item| text_at(item, "state") },
    Column { title: "PID", wide: false, cell: |item| text_at(item, "pid") },
    Column { title: "MESH", wide: false, cell: |item| text_at(item, "mesh") },
    Column { title: "EDGE", wide: false, cell: |item| text_at(item, "edge") },
];

pub(super) struct View {
    format: UpFormat,
    cluster: String,
    members: Vec<UpMember>,
    /// The last known state of each member.
    states: BTreeMap<String, String>,
    /// Whether the table is drawn again in place.
    live: bool,
    /// Lines that the last table took.
    drawn: usize,
}

impl View {
    pub(super) fn new(format: UpFormat, cluster: &str, members: Vec<UpMember>) -> Self {
        let states = members.iter().map(|member| (member.name.clone(), "alive".to_owned())).collect();
        let live = format == UpFormat::Text && io::stdout().is_terminal();
        Self { format, cluster: cluster.to_owned(), members, states, live, drawn: 0 }
    }

    /// The cluster is up.
    pub(super) fn up(&mut self, contexts: &Path) -> Result<(), Failure> {
        match self.format {
            UpFormat::Json => self.json(json!({
                "event": "up",
                "cluster": self.cluster,
                "context": self.cluster,
                "contexts_file": contexts,
                "nodes": self.rows(),
            })),
            UpFormat::Text => {
                let edge = self.members.first().map(|member| member.edge.clone()).unwrap_or_default();
                let count = self.members.len();
                let cluster = &self.cluster;
                output::print(&format!(
                    "mesh: cluster {cluster} is up, {count} nodes\n\
                     \x20     control API  https://{edge}/control/v1/peers (client certificate needed)\n\
                     \x20     context      {cluster}, in {}; try: mesh peers list\n\
                     \x20     Ctrl-C stops all nodes\n\n",
                    contexts.display()
                ))?;
                self.draw()
            }
        }
    }

    /// A member as some node sees it; nothing is shown if its state is known.
    pub(super) fn member(&mut self, member: &Value) -> Result<(), Failure> {
        let (name, state) = (text_at(member, "node_id"), text_at(member, "state"));
        if name.is_empty() || state.is_empty() {
            return Ok(());
        }
        let before = self.states.insert(name.clone(), state.clone());
        if before.as_deref() == Some(state.as_str()) {
            return Ok(());
        }
        let before = before.unwrap_or_else(|| "unknown".to_owned());
        match self.format {
            UpFormat::Json => {
                self.json(json!({ "event": "member", "node_id": name, "state": state, "before": before }))
            }
            UpFormat::Text => self.line(&format!("{name} is {state} (was {before})")),
        }
    }

    /// A process ended by itself.
    pub(super) fn ended(&mut self, ended: &Ended) -> Result<(), Failure> {
        match self.format {
            UpFormat::Json => self.json(json!({
                "event": "ended",
                "node_id": ended.name,
                "pid": ended.pid,
                "status": ended.status.to_string(),
                "log": ended.log,
            })),
            UpFormat::Text => self.line(&format!("{ended}; the others go on; its log: {}", ended.log)),
        }
    }

    pub(super) fn stopping(&mut self, running: usize) -> Result<(), Failure> {
        match self.format {
            UpFormat::Json => self.json(json!({ "event": "stopping", "running": running })),
            UpFormat::Text => {
                self.live = false;
                output::print(&format!("mesh: stopping {running} nodes; Ctrl-C again kills them\n"))
            }
        }
    }

    /// A process ended because it was told to.
    pub(super) fn stopped(&mut self, ended: &Ended) -> Result<(), Failure> {
        match self.format {
            UpFormat::Json => self.json(json!({
                "event": "stopped",
                "node_id": ended.name,
                "pid": ended.pid,
                "status": ended.status.to_string(),
            })),
            UpFormat::Text => output::print(&format!("mesh: {ended}\n")),
        }
    }

    pub(super) fn end(&mut self, clean: bool) -> Result<(), Failure> {
        match self.format {
            UpFormat::Json => self.json(json!({ "event": "down", "clean": clean })),
            UpFormat::Text if clean => output::print("mesh: all nodes left and stopped\n"),
            UpFormat::Text => Ok(()),
        }
    }

    fn rows(&self) -> Vec<Value> {
        let row = |member: &UpMember| {
            json!({
                "node_id": member.name,
                "state": self.states.get(&member.name),
                "pid": member.pid,
                "mesh": member.mesh,
                "edge": member.edge,
                "log": member.log,
            })
        };
        self.members.iter().map(row).collect()
    }

    fn json(&self, mut line: Value) -> Result<(), Failure> {
        line["api_version"] = Value::from(API_VERSION);
        output::print(&format!("{line}\n"))
    }

    /// A line above the table.
    fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.erase()?;
        output::print(&format!("mesh: {text}\n"))?;
        if self.live { self.draw() } else { Ok(()) }
    }

    fn draw(&mut self) -> Result<(), Failure> {
        let text = table(COLUMNS, &self.rows(), false);
        self.drawn = text.lines().count();
        output::print(&text)
    }

    fn erase(&mut self) -> Result<(), Failure> {
        match std::mem::take(&mut self.drawn) {
            lines @ 1.. if self.live => output::print(&format!("\x1b[{lines}A\x1b[J")),
            _ => Ok(()),
        }
    }
}
