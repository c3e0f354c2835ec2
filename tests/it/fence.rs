//! The fence for SQL databases, on real ones.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use mesh_core::FencingToken;
use mesh_leader::{
    Scope,
    fence::sql::{Placeholders, SqlFence, SqlFenceError, SqlTransaction},
};
use mesh_sim::harness::{Need, check, is_root, postgresql, skip};
use tokio_postgres::{Client, NoTls, Transaction};

/// More than a fresh server needs to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A PostgreSQL that listens on a Unix socket in its folder. Killed when dropped.
struct Postgres {
    folder: tempfile::TempDir,
    server: Child,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A command that ends with us. PostgreSQL refuses to run as root.
fn server_program(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.args(["--pdeathsig", "KILL"]).arg(program).stdin(Stdio::null());
    command
}

impl Postgres {
    async fn start() -> Self {
        let programs = postgresql().expect("it was looked for");
        let folder = tempfile::tempdir().expect("a folder");
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(folder.path(), open).expect("another user may use the folder");
        let data = folder.path().join("data");
        let made = server_program(&programs.join("initdb"))
            .args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username=postgres", "-D"])
            .arg(&data)
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let log = File::create(folder.path().join("log")).expect("a log");
        let server = server_program(&programs.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=", "-c", "shared_buffers=16MB", "-k"])
            .arg(folder.path())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("postgres starts");
        let postgres = Self { folder, server };
        let up = async {
            let mut interval = tokio::time::interval(Duration::from_millis(20));
            while postgres.connect().await.is_err() {
                interval.tick().await;
            }
        };
        tokio::time::timeout(PATIENCE, up).await.expect("it comes up");
        postgres
    }

    async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        let target = format!("host={} user=postgres dbname=postgres", self.folder.path().display());
        let (client, connection) = tokio_postgres::connect(&target, NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

/// As a user of the fence writes it.
struct Open<'t>(Transaction<'t>);

impl SqlTransaction for Open<'_> {
    type Error = tokio_postgres::Error;

    async fn execute(
        &mut self,
        statement: &str,
        scope: &str,
        generation: i64,
        counter: i64,
    ) -> Result<u64, Self::Error> {
        self.0.execute(statement, &[&scope, &generation, &counter]).await
    }
}

fn token(generation: u64, counter: u64) -> FencingToken {
    FencingToken { generation, counter }
}

/// A guarded write in a transaction of its own: whether it was admitted.
async fn write(client: &mut Client, scope: &str, token: FencingToken) -> bool {
    let fence = SqlFence::new(Placeholders::Dollar);
    let mut open = Open(client.transaction().await.expect("begins"));
    let scope = Scope::new(scope).expect("a scope");
    let admitted = fence.admit(&mut open, &scope, token).await;
    let effect = "INSERT INTO written VALUES ($1, $2)";
    let (name, text) = (scope.as_str(), token.to_string());
    match admitted {
        Ok(()) => {
            open.0.execute(effect, &[&name, &text]).await.expect("writes");
            open.0.commit().await.expect("commits");
            true
        }
        Err(SqlFenceError::Stale { stated, .. }) => {
            assert_eq!(stated, token);
            open.0.rollback().await.expect("rolls back");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn postgresql_admits_newer_tokens_and_refuses_stale_ones() {
    const STORY: &str = "postgresql_admits_newer_tokens_and_refuses_stale_ones";
    if let Err(missing) = check(&[Need::Postgresql]) {
        return skip(STORY, &missing);
    }
    let postgres = Postgres::start().await;
    let (mut old, mut new) =
        (postgres.connect().await.expect("connects"), postgres.connect().await.expect("connects"));
    for _ in 0..2 {
        old.batch_execute(SqlFence::CREATE_TABLE).await.expect("a table, or it is there already");
    }
    old.batch_execute("CREATE TABLE written (scope text, token text)").await.expect("a table");

    assert!(write(&mut old, "s", token(1, 5)).await, "the first token");
    assert!(write(&mut old, "s", token(1, 5)).await, "the same leader goes on");
    assert!(write(&mut new, "s", token(1, 9)).await, "a newer leader");
    assert!(!write(&mut old, "s", token(1, 5)).await, "the old one is fenced");
    assert!(write(&mut old, "other", token(1, 5)).await, "another scope has a mark of its own");
    assert!(write(&mut new, "s", token(2, 1)).await, "the generation counts first");
    assert!(!write(&mut new, "s", token(1, 1000)).await);
    let rows = new.query("SELECT token FROM written WHERE scope = 's'", &[]).await.expect("reads");
    let written: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(written, ["1.5", "1.5", "1.9", "2.1"], "nothing of a fenced write is left");

    // A newer leader has raised the mark and not committed yet: the old one has to wait for what comes of it.
    let scope = Scope::new("s").expect("a scope");
    let fence = SqlFence::new(Placeholders::Dollar);
    for commits in [false, true] {
        let mut open = Open(new.transaction().await.expect("begins"));
        fence.admit(&mut open, &scope, token(3, 7)).await.expect("is newer");
        let watched = postgres.connect().await.expect("connects");
        let decide = async {
            let mut interval = tokio::time::interval(Duration::from_millis(5));
            let waits = "SELECT 1 FROM pg_locks WHERE NOT granted";
            while watched.query(waits, &[]).await.expect("reads").is_empty() {
                interval.tick().await;
            }
            if commits { open.0.commit().await } else { open.0.rollback().await }
        };
        let late =
            tokio::time::timeout(PATIENCE, async { tokio::join!(write(&mut old, "s", token(3, 2)), decide) });
        let (admitted, decided) = late.await.expect("the lock is given back");
        decided.expect("ends");
        assert_eq!(admitted, !commits);
    }
}

#[test]
fn sqlite_admits_newer_tokens_and_refuses_stale_ones() {
    const STORY: &str = "sqlite_admits_newer_tokens_and_refuses_stale_ones";
    if let Err(missing) = check(&[Need::Sqlite]) {
        return skip(STORY, &missing);
    }
    let statement = SqlFence::new(Placeholders::Question).statement();
    let mut script = format!("{};\n.parameter init\n.parameter set ?1 s\n", SqlFence::CREATE_TABLE);
    let stated = [token(1, 5), token(1, 5), token(1, 9), token(1, 5), token(2, 1), token(1, 1000)];
    for token in stated {
        let (generation, counter) = SqlFence::parameters(token).expect("fits");
        script += &format!(".parameter set ?2 {generation}\n.parameter set ?3 {counter}\n");
        // As a user does it: the count of changed rows is that of the fence alone.
        script += &format!("BEGIN IMMEDIATE;\n{statement};\nSELECT changes();\nCOMMIT;\n");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("script");
    fs::write(&path, script).expect("a script");
    let done = Command::new("sqlite3")
        .args(["-batch", "-bail"])
        .arg(folder.path().join("database"))
        .stdin(File::open(&path).expect("the script"))
        .output()
        .expect("sqlite3 runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let changed = String::from_utf8_lossy(&done.stdout);
    assert_eq!(changed.split_whitespace().collect::<Vec<_>>(), ["1", "1", "1", "0", "1", "0"]);
}
