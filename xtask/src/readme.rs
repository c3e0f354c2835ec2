//! The commands in the documentation as they are written: each is one that exists, and
//! the README's demo runs.

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use crate::{
    cli::Cli,
    repo::{Repo, output},
};

/// Checks every `cargo xtask …` in a shell block of any Markdown file, and runs the demo to its end.
pub(crate) fn check(repo: &Repo) -> Result<()> {
    let mut shown_first = Vec::new();
    for file in repo.text_files()?.iter().filter(|file| file.path.ends_with(".md")) {
        let commands = commands(&file.text);
        for command in &commands {
            known(command).with_context(|| format!("in {}", file.path))?;
        }
        if file.path == "README.md" {
            shown_first = commands;
        }
    }
    let starts = ["cargo xtask demo", "cargo xtask test"];
    ensure!(
        shown_first.iter().take(2).eq(starts),
        "README.md must begin with {starts:?}, it has {shown_first:?}"
    );
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
    Cli::try_parse_from(words).with_context(|| format!("`{command}` does not exist"))?;
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
