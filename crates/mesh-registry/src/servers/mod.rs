//! Real engines for tests: started on the spot in a folder of their own, killed by their handle.
//!
//! A test that needs one which is not installed says *skipped* with the package's name, and leaves that
//! line in `test-artifacts/skipped` for `cargo xtask test` to print.

#[cfg(feature = "testing")]
mod conformance;
#[cfg(feature = "etcd")]
pub(crate) mod etcd;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
pub(crate) mod stories;

use std::{
    fs::{self, File},
    io::{self, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A program of a Debian package; says *skipped* for `test` and returns `None` if it is not there.
fn program(test: &str, package: &str, candidates: &[PathBuf]) -> Option<PathBuf> {
    let found = candidates.iter().find(|path| path.is_file()).cloned();
    if found.is_none() {
        let line = format!("{test}: skipped: install {package}\n");
        // Nothing helps if standard error is closed; the file has the line all the same.
        let _ = io::stderr().write_all(line.as_bytes());
        if let Some(folder) = artifacts()
            && fs::create_dir_all(&folder).is_ok()
            && let Ok(mut file) = File::options().create(true).append(true).open(folder.join("skipped"))
        {
            let _ = file.write_all(line.as_bytes());
        }
    }
    found
}

/// `test-artifacts` in the target directory that this test was built into.
fn artifacts() -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    let target = exe.ancestors().find(|path| path.ends_with("deps"))?.parent()?.parent()?;
    Some(target.join("test-artifacts"))
}

/// Where programs usually are.
fn in_path(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).collect()
}

/// A port that was free a moment ago. Whoever listens on it tries again if it no longer is.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

/// A server process; killed when dropped, and by the system should the test die first.
#[derive(Debug)]
struct Server {
    child: Option<Child>,
}

impl Server {
    /// Starts `command` (with its arguments) with its output in `log`.
    fn start(command: &[String], log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).expect("a log");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .args(command)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("setpriv of util-linux starts");
        Self { child: Some(child) }
    }

    fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|status| status.is_some()))
    }

    /// `kill -9`.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kills");
            child.wait().expect("reaps");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
