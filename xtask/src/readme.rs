//! The README's commands as they are written: each is one that exists, and the demo runs.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use crate::{
    cli::Cli,
    repo::{Repo, output},
};

/// Checks every `cargo xtask …` in the README's shell blocks and runs the demo to its end.
pub(crate) fn check(repo: &Repo) -> Result<()> {
    let text = fs::read_to_string(repo.root().join("README.md")).context("cannot read README.md")?;
    let commands = commands(&text);
    ensure!(
        commands.iter().any(|c| c == "cargo xtask demo") && commands.iter().any(|c| c == "cargo xtask test"),
        "README.md must show `cargo xtask demo` and `cargo xtask test`"
    );
    for command in &commands {
        known(command)?;
    }
    demo(repo)
}

/// The lines of the blocks that are marked as `sh`, comments cut off.
fn commands(markdown: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in markdown.lines() {
        if let Some(mark) = line.strip_prefix("```") {
            inside = !inside && mark == "sh";
        } else if inside {
            let command = line.split(" #").next().unwrap_or_default().trim();
            if !command.is_empty() && !command.starts_with('#') {
                found.push(command.to_owned());
            }
        }
    }
    found
}

/// Whether an xtask command in the README is one that this program takes.
fn known(command: &str) -> Result<()> {
    let Some(arguments) = command.strip_prefix("cargo xtask") else { return Ok(()) };
    let words = std::iter::once("xtask").chain(arguments.split_whitespace());
    Cli::try_parse_from(words)
        .with_context(|| format!("README.md shows `{command}`, which does not exist"))?;
    Ok(())
}

/// The first command of a newcomer, with its ending checked.
fn demo(repo: &Repo) -> Result<()> {
    let printed = output(&mut repo.cargo(["xtask", "demo", "--script", "-o", "json"]))?;
    let Some(line) = printed.lines().last() else { bail!("the demo printed nothing") };
    let result: serde_json::Value = serde_json::from_str(line).context("the demo's last line is not JSON")?;
    ensure!(result["exit"] == "clean", "the demo did not end cleanly: {line}");
    println!("{line}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_from_shell_blocks_alone() {
        let text = "a\n```sh\ncargo xtask demo   # three nodes\n\n# later\ncargo xtask test\n```\n```rust\nlet x;\n```\n";
        assert_eq!(commands(text), ["cargo xtask demo", "cargo xtask test"]);
    }

    #[test]
    fn a_command_that_does_not_exist_is_found() {
        known("cargo xtask test suspect").expect("exists");
        known("cargo build").expect("not ours");
        let error = known("cargo xtask tset").expect_err("misspelt").to_string();
        assert!(error.contains("cargo xtask tset"), "{error}");
    }
}
