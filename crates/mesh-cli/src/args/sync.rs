//! The command lines of `mesh sync` and `mesh data`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};

use super::OutputArgs;
use crate::output::Format;

/// `mesh sync …`
#[derive(Debug, Subcommand)]
pub enum SyncCommand {
    /// Show how far this node and its peers are apart
    Status(SyncStatusArgs),
    /// Compare with the peers now, without waiting for the next check
    Now(SyncNowArgs),
    /// List the peers of datasets: who lags, what waits for whom
    #[command(visible_alias = "ls")]
    Peers(SyncListArgs),
    /// List what was given up, with the reasons
    DeadLetters(DeadLettersArgs),
    /// Print a ticket: what another node needs to join a dataset
    Ticket(TicketArgs),
    /// Ask the peers of a ticket to let this node into their dataset
    Join(JoinArgs),
    /// List nodes that ask to be let into datasets
    Requests(SyncListArgs),
    /// Let a node into a dataset
    Approve(AnswerArgs),
    /// Refuse a node that asks to be let into a dataset
    Reject(AnswerArgs),
    /// Stop waiting for a peer that is gone for good, so that old history can be pruned
    Retire(RetireArgs),
    /// Remove what was overwritten, or deleted long ago, on all nodes, as far as all of them have it
    Prune(PruneArgs),
}

/// Arguments of `mesh sync status`.
#[derive(Debug, Args)]
pub struct SyncStatusArgs {
    /// Print again whenever something changed, until Ctrl-C
    #[arg(short, long)]
    pub watch: bool,
    /// How to print
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `mesh sync now`.
#[derive(Debug, Args)]
pub struct SyncNowArgs {
    /// One dataset; without it, all of them
    #[arg(value_name = "DATASET")]
    pub dataset: Option<String>,
    /// Only this peer
    #[arg(long, value_name = "NODE")]
    pub peer: Option<String>,
    /// Longest wait until both sides are equal; at most 25s
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = super::duration)]
    pub wait: Duration,
    /// How to print
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `mesh sync dead-letters`.
#[derive(Debug, Args)]
pub struct DeadLettersArgs {
    /// Which, and how to print.
    #[command(flatten)]
    pub list: SyncListArgs,
    /// Queue them again, instead of listing them
    #[arg(long, conflicts_with = "drop")]
    pub retry: bool,
    /// Drop them, instead of listing them; their peers get the entries all the same if they ever come back
    #[arg(long)]
    pub drop: bool,
}

/// Arguments of the lists of `mesh sync`.
#[derive(Debug, Args)]
pub struct SyncListArgs {
    /// One dataset; without it, all of them
    #[arg(value_name = "DATASET")]
    pub dataset: Option<String>,
    /// How to print
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `mesh sync ticket`.
#[derive(Debug, Args)]
pub struct TicketArgs {
    /// The dataset
    #[arg(value_name = "DATASET")]
    pub dataset: String,
}

/// Arguments of `mesh sync join`.
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// The ticket, as `mesh sync ticket` prints it
    #[arg(value_name = "TICKET")]
    pub ticket: String,
    /// What the operator there is to read
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub note: String,
}

/// Which node, and which dataset.
#[derive(Debug, Args)]
pub struct DecideArgs {
    /// The dataset
    #[arg(value_name = "DATASET")]
    pub dataset: String,
    /// The node
    #[arg(value_name = "NODE")]
    pub node: String,
    /// Why; it goes to the node's log
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// Arguments of `mesh sync approve` and `mesh sync reject`.
#[derive(Debug, Args)]
pub struct AnswerArgs {
    /// Which node, and which dataset.
    #[command(flatten)]
    pub target: DecideArgs,
    /// The public key that is meant, if the node has asked with several
    #[arg(long, value_name = "KEY")]
    pub author: Option<String>,
}

/// Arguments of `mesh sync retire`.
#[derive(Debug, Args)]
pub struct RetireArgs {
    /// Which node, and which dataset.
    #[command(flatten)]
    pub target: DecideArgs,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// Arguments of `mesh sync prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// One dataset; without it, all of them
    #[arg(value_name = "DATASET")]
    pub dataset: Option<String>,
    /// Only show what would go, and who holds it up
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long, conflicts_with = "dry_run")]
    pub yes: bool,
    /// How to print
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `mesh data …`
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Set the value of a document
    Put(PutArgs),
    /// Show a document
    Get(GetArgs),
    /// Delete a document
    #[command(visible_alias = "rm")]
    Delete(DocumentArgs),
    /// List the documents of a dataset
    #[command(visible_alias = "ls")]
    List(DataListArgs),
    /// Print every change of a dataset as it happens, until Ctrl-C
    Watch(DataListArgs),
}

/// Which document.
#[derive(Debug, Args)]
pub struct DocumentArgs {
    /// The dataset
    #[arg(value_name = "DATASET")]
    pub dataset: String,
    /// The collection in it
    #[arg(value_name = "COLLECTION")]
    pub collection: String,
    // The connection has an argument `key` of its own, for every command.
    /// The key in that
    #[arg(id = "document_key", value_name = "KEY")]
    pub key: String,
}

/// Arguments of `mesh data put`.
#[derive(Debug, Args)]
pub struct PutArgs {
    /// Which document.
    #[command(flatten)]
    pub document: DocumentArgs,
    /// The value; without it and --file, standard input is read
    #[arg(value_name = "VALUE")]
    pub value: Option<String>,
    /// Take the value from this file; - is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "value")]
    pub file: Option<PathBuf>,
}

/// Arguments of `mesh data get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// Which document.
    #[command(flatten)]
    pub document: DocumentArgs,
    /// How to print; raw is the value alone, byte for byte
    #[arg(short = 'o', long = "output", value_enum, default_value_t, value_name = "FORMAT")]
    pub format: GetFormat,
}

/// How `mesh data get` prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum GetFormat {
    /// A line for each field
    #[default]
    Table,
    /// One JSON document
    Json,
    /// One YAML document
    Yaml,
    /// The value alone, byte for byte
    Raw,
}

impl GetFormat {
    /// The same among those that every command knows; `None` for the value alone.
    pub fn document(self) -> Option<Format> {
        match self {
            Self::Table => Some(Format::Table),
            Self::Json => Some(Format::Json),
            Self::Yaml => Some(Format::Yaml),
            Self::Raw => None,
        }
    }
}

/// Arguments of `mesh data list` and `mesh data watch`.
#[derive(Debug, Args)]
pub struct DataListArgs {
    /// The dataset
    #[arg(value_name = "DATASET")]
    pub dataset: String,
    /// Only documents of this collection
    #[arg(value_name = "COLLECTION")]
    pub collection: Option<String>,
    /// Only documents whose key begins with this
    #[arg(long, value_name = "TEXT")]
    pub prefix: Option<String>,
    /// How to print
    #[command(flatten)]
    pub output: OutputArgs,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn a_value_comes_from_one_place() {
        let words =
            |more: &[&'static str]| [&["mesh", "data", "put", "notes", "list", "milk"], more].concat();
        let parsed = Cli::try_parse_from(words(&["1 l"])).expect("a value");
        let Command::Data(DataCommand::Put(put)) = parsed.command else { panic!("another command") };
        assert_eq!((put.document.key.as_str(), put.value.as_deref()), ("milk", Some("1 l")));
        Cli::try_parse_from(words(&[])).expect("standard input");
        let error = Cli::try_parse_from(words(&["1 l", "--file", "x"])).expect_err("two values");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn raw_is_for_one_document_alone() {
        let get = ["mesh", "data", "get", "notes", "list", "milk", "-o", "raw"];
        let Command::Data(DataCommand::Get(get)) = Cli::try_parse_from(get).expect("known").command else {
            panic!("another command")
        };
        assert_eq!(get.format.document(), None);
        Cli::try_parse_from(["mesh", "data", "list", "notes", "-o", "raw"]).expect_err("no list is raw");
    }
}
