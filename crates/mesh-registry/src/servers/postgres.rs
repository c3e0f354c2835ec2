//! A PostgreSQL server that listens on a Unix socket, and on a port for tests of TLS.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use mesh_core::{Settings, Validated};
use tempfile::TempDir;

use super::{Server, free_port, in_path, program};
use crate::postgres::{ConnectionUrl, PostgresConfig, PostgresStore};

/// More than a fresh server needs to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running PostgreSQL.
pub(crate) struct Postgres {
    programs: PathBuf,
    folder: TempDir,
    port: u16,
    settings: Vec<String>,
    server: Server,
}

impl Postgres {
    /// Starts one; `None` if it is not installed.
    pub(crate) async fn start(test: &str) -> Option<Self> {
        Self::with_settings(test, |_| Vec::new()).await
    }

    /// The same with `-c` settings, which may need files in the server's folder.
    pub(crate) async fn with_settings(test: &str, settings: impl Fn(&Path) -> Vec<String>) -> Option<Self> {
        let initdb = program(test, "postgresql", &candidates())?;
        let programs = initdb.parent().expect("a folder of programs").to_owned();
        loop {
            let folder = tempfile::tempdir().expect("a folder");
            let settings = settings(folder.path());
            give_away(folder.path());
            let server = Server { child: None };
            let port = free_port();
            let mut postgres = Self { programs: programs.clone(), folder, port, settings, server };
            postgres.create();
            postgres.run();
            if postgres.is_up().await {
                return Some(postgres);
            }
        }
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    /// Makes the data directory: a copy of one that an earlier test left, as making one takes a second.
    fn create(&self) {
        let version = self.programs.parent().and_then(Path::file_name).unwrap_or_default();
        let kept = super::artifacts().map(|folder| folder.join("postgres").join(version));
        if let Some(kept) = kept.as_deref().filter(|kept| kept.is_dir()) {
            copy(kept, self.data().as_ref());
            return;
        }
        let mut command = as_owner();
        command.push(self.programs.join("initdb").display().to_string());
        command.extend(["-D".to_owned(), self.data()]);
        let options = ["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username=postgres"];
        command.extend(options.map(str::to_owned));
        run(&command);
        if let Some(kept) = kept {
            let parent = kept.parent().expect("it is in a folder");
            fs::create_dir_all(parent).expect("makes a folder");
            let fresh = tempfile::tempdir_in(parent).expect("a folder");
            copy(self.data().as_ref(), &fresh.path().join("data"));
            // Another test may have been faster; its copy is as good.
            let _ = fs::rename(fresh.path().join("data"), &kept);
        }
    }

    fn run(&mut self) {
        let mut command = as_owner();
        command.push(self.programs.join("postgres").display().to_string());
        command.extend(["-D".to_owned(), self.data(), "-p".to_owned(), self.port.to_string()]);
        let mut settings = vec![
            "listen_addresses=127.0.0.1".to_owned(),
            format!("unix_socket_directories={}", self.folder.path().display()),
            "shared_buffers=16MB".to_owned(),
        ];
        settings.extend(self.settings.iter().cloned());
        command.extend(settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]));
        self.server = Server::start(&command, &self.log());
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Whether it comes up; it does not if somebody else took its port.
    async fn is_up(&mut self) -> bool {
        let mut interval = tokio::time::interval(Duration::from_millis(20));
        while !self.server.has_ended() {
            if self.try_run_sql("SELECT 1").await.is_ok() {
                return true;
            }
            interval.tick().await;
        }
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        assert!(
            log.contains("Address already in use") || log.contains("still in use"),
            "PostgreSQL does not start: {log}"
        );
        false
    }

    async fn try_run_sql(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        let target: tokio_postgres::Config = self.url().parse().expect("a target");
        let (client, connection) = target.connect(tokio_postgres::NoTls).await?;
        let driver = tokio::spawn(connection);
        let done = client.batch_execute(sql).await;
        drop(client);
        // It ends by itself now, well or not.
        let _ = driver.await;
        done
    }

    /// Runs statements as the superuser.
    pub(crate) async fn run_sql(&self, sql: &str) {
        self.try_run_sql(sql).await.expect("statements run");
    }

    fn url(&self) -> String {
        format!("host={} port={} user=postgres dbname=postgres", self.folder.path().display(), self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Settings for a store in the schema `mesh`.
    pub(crate) fn config(&self) -> PostgresConfig {
        PostgresConfig {
            url: ConnectionUrl::new(self.url()),
            request_timeout: PATIENCE,
            watch_resume_for: PATIENCE,
            observe_interval: Duration::from_millis(50),
            ..PostgresConfig::default()
        }
    }

    pub(crate) async fn store(&self, schema: &str) -> PostgresStore {
        let config = PostgresConfig { schema: schema.to_owned(), ..self.config() };
        PostgresStore::open(valid(config)).await.expect("opens")
    }

    /// `kill -9` of the server; its workers end when they notice.
    pub(crate) fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it again on the same port and data, once the workers of the last one are gone.
    pub(crate) async fn restart(&mut self) {
        loop {
            // A lock file names a process that may by now be another; the data is ours alone.
            let _ = fs::remove_file(self.folder.path().join("data/postmaster.pid"));
            self.run();
            if self.is_up().await {
                return;
            }
        }
    }
}

pub(crate) fn valid(config: PostgresConfig) -> Validated<PostgresConfig> {
    config.validate().expect("valid settings")
}

fn run(command: &[String]) {
    let done = Command::new(&command[0]).args(&command[1..]).stdin(Stdio::null()).output();
    let done = done.expect("the program starts");
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// With owners and permissions.
fn copy(from: &Path, to: &Path) {
    let [from, to] = [from, to].map(|path| path.display().to_string());
    run(&["cp".to_owned(), "-a".to_owned(), from, to]);
}

/// Debian keeps server programs out of the path, a folder for each version.
pub(crate) fn candidates() -> Vec<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|version| version.path().join("bin/initdb")).collect();
    found.sort();
    found.reverse();
    found.extend(in_path("initdb"));
    found
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// PostgreSQL refuses to run as root.
fn as_owner() -> Vec<String> {
    let mut command = vec!["setpriv".to_owned()];
    if is_root() {
        command.extend(["--reuid=postgres", "--regid=postgres", "--clear-groups"].map(str::to_owned));
    }
    // The signal is set again here, since a change of user clears it.
    command.extend(["--pdeathsig", "KILL"].map(str::to_owned));
    command
}

/// Makes the folder, and what is in it, one that the server may use.
fn give_away(folder: &Path) {
    let open =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permits");
    open(folder, 0o755);
    if !is_root() {
        return;
    }
    let users = fs::read_to_string("/etc/passwd").expect("the list of users");
    let of = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == "postgres")
            .then(|| (fields.nth(1)?.parse().ok()).zip(fields.next()?.parse().ok()))?
    });
    let (uid, gid) = of.expect("the user postgres, which the package makes");
    chown(folder, Some(uid), Some(gid)).expect("gives the folder away");
    for entry in fs::read_dir(folder).expect("lists").flatten() {
        chown(entry.path(), Some(uid), Some(gid)).expect("gives the file away");
        open(&entry.path(), 0o600);
    }
}
