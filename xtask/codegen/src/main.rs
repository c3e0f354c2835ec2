//! Writes the generated files of this workspace: protobuf code, the settings
//! reference, and the JSON Schemas of settings and of a member. `cargo xtask codegen` runs it.
//!
//! It is a package of its own, which nothing depends on, so that neither users nor
//! `xtask` compile its dependencies.

mod member;
mod protobuf;
mod relayed;
mod settings;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::Parser;

/// Writes the generated files of this workspace.
#[derive(Debug, Parser)]
struct Options {
    /// Change nothing; fail if a file is not up to date.
    #[arg(long)]
    check: bool,
}

/// A file and what belongs into it.
#[derive(Debug)]
struct Generated {
    path: PathBuf,
    text: String,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let root = root()?;
    let mut files = protobuf::generate(&root)?;
    files.extend(settings::generate(&root)?);
    files.extend(member::generate(&root)?);
    if options.check { check(&root, &files) } else { write(&root, &files) }
}

fn root() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest
        .parent()
        .and_then(Path::parent)
        .context("this package is not two folders below the root")?
        .to_owned())
}

fn check(root: &Path, files: &[Generated]) -> Result<()> {
    let stale: Vec<String> =
        files.iter().filter(|file| !is_current(file)).map(|file| shown(root, &file.path)).collect();
    if !stale.is_empty() {
        bail!("not up to date: {}; run `cargo xtask codegen`", stale.join(", "));
    }
    println!("{} generated files are up to date", files.len());
    Ok(())
}

fn write(root: &Path, files: &[Generated]) -> Result<()> {
    for file in files.iter().filter(|file| !is_current(file)) {
        if let Some(folder) = file.path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        fs::write(&file.path, &file.text).with_context(|| format!("cannot write {}", file.path.display()))?;
        println!("wrote {}", shown(root, &file.path));
    }
    Ok(())
}

fn is_current(file: &Generated) -> bool {
    fs::read_to_string(&file.path).is_ok_and(|text| text == file.text)
}

fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_file_is_named_and_writing_mends_it() {
        let folder = tempfile::tempdir().expect("folder");
        let files = [Generated { path: folder.path().join("docs/a.md"), text: "new\n".to_owned() }];
        let error = check(folder.path(), &files).expect_err("missing").to_string();
        assert!(error.contains("docs/a.md"), "{error}");
        write(folder.path(), &files).expect("write");
        check(folder.path(), &files).expect("current");
        fs::write(&files[0].path, "old\n").expect("damage");
        check(folder.path(), &files).expect_err("stale");
    }
}
