//! What a machine must offer, and how a story is skipped where it does not.

use std::{
    fmt, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use super::artifacts;

/// Something that not every machine offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Network namespaces, and virtual cables between them.
    Namespaces,
    /// Packet filters.
    Nftables,
    /// A file system of a chosen size.
    SmallDisk,
    /// The programs of a PostgreSQL server.
    Postgresql,
    /// The command of SQLite.
    Sqlite,
}

/// Why a story can't be told here, and what would help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing(String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Tries each need, in order.
///
/// # Errors
///
/// The first that is not met.
pub fn check(needs: &[Need]) -> Result<(), Missing> {
    let missing = |text: &str| Err(Missing(text.to_owned()));
    for need in needs {
        match need {
            Need::Namespaces if !installed("ip") => return missing("install iproute2"),
            Need::Namespaces if !is_root() => return missing("needs root for network namespaces"),
            Need::Namespaces => namespaces_work()?,
            Need::Nftables if !installed("nft") => return missing("install nftables"),
            Need::Nftables => {}
            Need::SmallDisk if !is_root() => return missing("needs root to mount a small tmpfs"),
            Need::SmallDisk => {}
            Need::Postgresql if postgresql().is_none() => return missing("install postgresql"),
            Need::Postgresql => {}
            Need::Sqlite if !installed("sqlite3") => return missing("install sqlite3"),
            Need::Sqlite => {}
        }
    }
    Ok(())
}

/// Says that a story is skipped, past the test runner's capture, and in `test-artifacts/skipped`.
pub fn skip(story: &str, missing: &Missing) {
    let line = format!("{story}: skipped: {missing}\n");
    // Nothing helps if standard error is closed; the file has the line all the same.
    let _ = io::stderr().write_all(line.as_bytes());
    if let Ok(folder) = artifacts::root()
        && fs::create_dir_all(&folder).is_ok()
        && let Ok(mut file) = fs::OpenOptions::new().create(true).append(true).open(folder.join("skipped"))
    {
        let _ = file.write_all(line.as_bytes());
    }
}

/// Whether this process may do everything.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps administration tools out of a plain user's path.
    std::env::split_paths(&path)
        .chain([Path::new("/usr/sbin").to_owned(), Path::new("/sbin").to_owned()])
        .any(|folder| folder.join(program).is_file())
}

/// Where the programs of PostgreSQL's server are. Debian keeps them out of the path, a folder for each version.
pub fn postgresql() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    folders.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = folders.into_iter().rev().chain(std::env::split_paths(&path));
    all.into_iter().find(|folder| folder.join("initdb").is_file())
}

/// Root in a container may still lack the rights.
fn namespaces_work() -> Result<(), Missing> {
    static PROBES: AtomicU32 = AtomicU32::new(0);
    let probe = PROBES.fetch_add(1, Ordering::Relaxed);
    let name = format!("mesh-test-{}-probe{probe}", std::process::id());
    let ip = |arguments: &[&str]| {
        let done = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
        done.is_ok_and(|done| done.status.success())
    };
    let works = ip(&["netns", "add", &name]) && ip(&["-n", &name, "link", "add", "br0", "type", "bridge"]);
    ip(&["netns", "del", &name]);
    if works {
        Ok(())
    } else {
        Err(Missing("needs the right to make network namespaces and bridges".to_owned()))
    }
}
