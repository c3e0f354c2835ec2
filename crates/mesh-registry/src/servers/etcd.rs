//! etcd, of one member or of several.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use mesh_core::{Settings, Validated};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Server, free_port, in_path, program};
use crate::etcd::{EtcdConfig, EtcdStore};

/// More than a fresh etcd needs to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// What suits any transaction.
const FLAGS: [&str; 2] = ["--max-txn-ops=4200", "--max-request-bytes=4194304"];

/// A running etcd.
pub(crate) struct Etcd {
    program: PathBuf,
    folder: TempDir,
    members: Vec<Member>,
    flags: Vec<String>,
    scheme: &'static str,
}

struct Member {
    port: u16,
    peer_port: u16,
    server: Server,
}

impl Etcd {
    /// Starts one with limits that suit any transaction; `None` if it is not installed.
    pub(crate) async fn start(test: &str) -> Option<Self> {
        Self::of_members(test, 1, "http", |_| FLAGS.map(str::to_owned).to_vec()).await
    }

    pub(crate) async fn with_flags(test: &str, flags: &[&str]) -> Option<Self> {
        Self::of_members(test, 1, "http", |_| flags.iter().map(ToString::to_string).collect()).await
    }

    /// Flags may need files in the folder.
    pub(crate) async fn of_members(
        test: &str,
        members: usize,
        scheme: &'static str,
        flags: impl Fn(&Path) -> Vec<String>,
    ) -> Option<Self> {
        let program = program(test, "etcd-server", &candidates())?;
        loop {
            let folder = tempfile::tempdir().expect("a folder");
            let flags = flags(folder.path());
            let member =
                |_| Member { port: free_port(), peer_port: free_port(), server: Server { child: None } };
            let members = (0..members).map(member).collect();
            let mut etcd = Self { program: program.clone(), folder, members, flags, scheme };
            (0..etcd.members.len()).for_each(|member| etcd.run(member));
            if etcd.is_up().await {
                return Some(etcd);
            }
        }
    }

    /// So many members, with limits that suit any transaction.
    #[cfg(feature = "testing")]
    pub(crate) async fn of_members_for_any_transaction(test: &str, members: usize) -> Option<Self> {
        Self::of_members(test, members, "http", |_| FLAGS.map(str::to_owned).to_vec()).await
    }

    #[cfg(feature = "testing")]
    pub(crate) fn kill_all(&mut self) {
        self.members.iter_mut().for_each(|member| member.server.kill());
    }

    fn run(&mut self, index: usize) {
        let name = |index: usize| format!("m{index}");
        let peers = self.members.iter().enumerate();
        let peers = peers.map(|(i, m)| format!("{}=http://127.0.0.1:{}", name(i), m.peer_port));
        let peers = peers.collect::<Vec<_>>().join(",");
        let client = self.url(index);
        let peer = format!("http://127.0.0.1:{}", self.members[index].peer_port);
        let mut command = vec![self.program.to_string_lossy().into_owned()];
        command.extend([
            format!("--name={}", name(index)),
            format!("--data-dir={}", self.folder.path().join(name(index)).display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={peers}"),
            "--heartbeat-interval=50".to_owned(),
            "--election-timeout=250".to_owned(),
        ]);
        command.extend(self.flags.iter().cloned());
        self.members[index].server = Server::start(&command, &self.log(index));
    }

    fn log(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("log{index}"))
    }

    /// Whether it comes up; it does not if somebody else took one of its ports.
    async fn is_up(&mut self) -> bool {
        let mut interval = tokio::time::interval(Duration::from_millis(20));
        for index in 0..self.members.len() {
            while !self.answers(index).await {
                if self.members[index].server.has_ended() {
                    let log = fs::read_to_string(self.log(index)).unwrap_or_default();
                    assert!(log.contains("address already in use"), "etcd does not start: {log}");
                    return false;
                }
                interval.tick().await;
            }
        }
        true
    }

    /// Whether this member listens, and can write.
    async fn answers(&self, index: usize) -> bool {
        if self.scheme == "https" {
            return TcpStream::connect(("127.0.0.1", self.members[index].port)).await.is_ok();
        }
        let config = EtcdConfig {
            endpoints: vec![self.url(index)],
            request_timeout: Duration::from_millis(500),
            root: "probe".to_owned(),
            ..self.config()
        };
        EtcdStore::open(valid(config)).await.is_ok()
    }

    pub(crate) fn url(&self, index: usize) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.members[index].port)
    }

    /// Settings for a store of its own.
    pub(crate) fn config(&self) -> EtcdConfig {
        EtcdConfig {
            endpoints: (0..self.members.len()).map(|index| self.url(index)).collect(),
            request_timeout: PATIENCE,
            watch_resume_for: PATIENCE,
            ..EtcdConfig::default()
        }
    }

    pub(crate) async fn store(&self, root: &str) -> EtcdStore {
        let config = EtcdConfig { root: root.to_owned(), ..self.config() };
        EtcdStore::open(valid(config)).await.expect("opens")
    }

    /// `kill -9` of one member.
    pub(crate) fn kill(&mut self, index: usize) {
        self.members[index].server.kill();
    }

    /// Starts all that were killed again, on the same ports and data.
    pub(crate) async fn restart(&mut self) {
        loop {
            for index in 0..self.members.len() {
                if self.members[index].server.has_ended() {
                    self.run(index);
                }
            }
            if self.is_up().await {
                return;
            }
        }
    }

    /// Calls etcd's JSON interface, for what the provider itself never does. Returns the answer's body.
    pub(crate) async fn post(&self, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.members[0].port)).await.expect("connects");
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.expect("sends");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answers");
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        answer
    }
}

pub(crate) fn candidates() -> Vec<PathBuf> {
    in_path("etcd")
}

pub(crate) fn valid(config: EtcdConfig) -> Validated<EtcdConfig> {
    config.validate().expect("valid settings")
}
