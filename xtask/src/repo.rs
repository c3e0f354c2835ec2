//! The checkout: its files, its cargo metadata, and how commands run in it.

use std::{
    ffi::OsStr,
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The root of the checkout.
#[derive(Clone, Debug)]
pub(crate) struct Repo {
    root: PathBuf,
}

/// A text file under version control (or about to be).
#[derive(Clone, Debug)]
pub(crate) struct TextFile {
    /// From the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Repo {
    /// The checkout that this program was compiled from.
    pub(crate) fn here() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.parent().context("xtask has no parent folder")?;
        Ok(Self { root: root.to_owned() })
    }

    /// A path below the root.
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// A command that runs in the root.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        command
    }

    /// Cargo, with these arguments.
    pub(crate) fn cargo<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments);
        // Set for us by `cargo run`; a nested cargo must not mistake them for its own.
        command.env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_PKG_NAME");
        command
    }

    /// What `cargo metadata` says. With `resolve`, about every package of the lockfile.
    pub(crate) fn metadata(&self, resolve: bool) -> Result<Value> {
        let mut command = self.cargo(["metadata", "--format-version", "1", "--locked", "--all-features"]);
        if !resolve {
            command.arg("--no-deps");
        }
        let text = output(&mut command)?;
        serde_json::from_str(&text).context("cargo metadata printed something that is not JSON")
    }

    /// Where cargo puts what it builds.
    pub(crate) fn target_folder(&self) -> Result<PathBuf> {
        let metadata = self.metadata(false)?;
        Ok(metadata["target_directory"].as_str().context("cargo metadata has no target directory")?.into())
    }

    /// Every text file that git tracks or would track, in order of path.
    pub(crate) fn text_files(&self) -> Result<Vec<TextFile>> {
        let mut command = self.command("git");
        command.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let mut files = Vec::new();
        // The inputs of fuzzers are bytes, whatever they look like.
        let is_text = |path: &&str| !path.is_empty() && !path.starts_with("fuzz/corpus/");
        for path in output(&mut command)?.split('\0').filter(is_text) {
            // Git lists what was deleted from disk until that is committed; binary files have no text.
            let Ok(bytes) = fs::read(self.root.join(path)) else { continue };
            let Ok(text) = String::from_utf8(bytes) else { continue };
            files.push(TextFile { path: path.to_owned(), text });
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        Ok(files)
    }
}

/// Runs a command whose output people see.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// Runs a command for its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    if !done.status.success() {
        bail!("{} ended with {}", shown(command), done.status);
    }
    String::from_utf8(done.stdout)
        .with_context(|| format!("{} printed bytes that are not UTF-8", shown(command)))
}

/// Whether a program with this name is on the search path.
pub(crate) fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps administration tools out of a plain user's path.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}

fn shown(command: &Command) -> impl fmt::Display {
    let mut words = vec![command.get_program()];
    words.extend(command.get_args());
    let words: Vec<_> = words.into_iter().map(OsStr::to_string_lossy).collect();
    format!("`{}`", words.join(" "))
}
