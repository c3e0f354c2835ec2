//! An etcd of one member.

use std::{fs, path::PathBuf, time::Duration};

use mesh_core::{Settings, Validated};
use tempfile::TempDir;

use super::{Server, free_port, in_path, program};
use crate::etcd::{EtcdConfig, EtcdStore};

/// More than a fresh etcd needs to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running etcd.
pub(crate) struct Etcd {
    program: PathBuf,
    folder: TempDir,
    port: u16,
    peer_port: u16,
    flags: Vec<String>,
    server: Server,
}

impl Etcd {
    /// Starts one with limits that suit any transaction; `None` if it is not installed.
    pub(crate) async fn start(test: &str) -> Option<Self> {
        Self::with_flags(test, &["--max-txn-ops=4200", "--max-request-bytes=4194304"]).await
    }

    pub(crate) async fn with_flags(test: &str, flags: &[&str]) -> Option<Self> {
        let program = program(test, "etcd-server", &in_path("etcd"))?;
        loop {
            let folder = tempfile::tempdir().expect("a folder");
            let flags = flags.iter().map(ToString::to_string).collect();
            let server = Server { child: None };
            let (port, peer_port) = (free_port(), free_port());
            let mut etcd = Self { program: program.clone(), folder, port, peer_port, flags, server };
            etcd.run();
            if etcd.is_up().await {
                return Some(etcd);
            }
        }
    }

    fn run(&mut self) {
        let client = self.url();
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let mut command = vec![self.program.to_string_lossy().into_owned()];
        command.extend([
            format!("--data-dir={}", self.folder.path().join("data").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--heartbeat-interval=50".to_owned(),
            "--election-timeout=250".to_owned(),
        ]);
        command.extend(self.flags.iter().cloned());
        self.server = Server::start(&command, &self.folder.path().join("log"));
    }

    /// Whether it comes up; it does not if somebody else took its port.
    async fn is_up(&mut self) -> bool {
        let mut interval = tokio::time::interval(Duration::from_millis(20));
        while !self.server.has_ended() {
            let config = EtcdConfig {
                request_timeout: Duration::from_millis(500),
                root: "probe".to_owned(),
                ..self.config()
            };
            if EtcdStore::open(config.validate().expect("valid")).await.is_ok() {
                return true;
            }
            interval.tick().await;
        }
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        assert!(log.contains("address already in use"), "etcd does not start: {log}");
        false
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Settings for a store of its own.
    pub(crate) fn config(&self) -> EtcdConfig {
        EtcdConfig {
            endpoints: vec![self.url()],
            request_timeout: PATIENCE,
            watch_resume_for: PATIENCE,
            ..EtcdConfig::default()
        }
    }

    pub(crate) async fn store(&self, root: &str) -> EtcdStore {
        let config = EtcdConfig { root: root.to_owned(), ..self.config() };
        EtcdStore::open(valid(config)).await.expect("opens")
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it again on the same port and data.
    pub(crate) async fn restart(&mut self) {
        loop {
            self.run();
            if self.is_up().await {
                return;
            }
        }
    }
}

pub(crate) fn valid(config: EtcdConfig) -> Validated<EtcdConfig> {
    config.validate().expect("valid settings")
}
