//! The command line.

mod sync;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use sync::{
    AnswerArgs, DataCommand, DataListArgs, DeadLettersArgs, DecideArgs, DocumentArgs, GetArgs, GetFormat,
    JoinArgs, PruneArgs, PutArgs, RetireArgs, SyncCommand, SyncListArgs, SyncNowArgs, SyncStatusArgs,
    TicketArgs,
};

use crate::output::Format;

const AFTER_HELP: &str = "\
Exit codes: 0 ok, 1 failed, 2 usage, 3 timeout or partial, 4 refused by a guardrail,
5 conflict, 6 unreachable or unauthorised, 10 changes present.";

/// Runs Mesh nodes, and shows and steers a cluster of them.
#[derive(Debug, Parser)]
#[command(name = "mesh", version, about, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// Which cluster to talk to, and as whom.
    #[command(flatten)]
    pub connection: ConnectionArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Which cluster to talk to, and as whom.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Connection")]
pub struct ConnectionArgs {
    /// Context of the file ~/.config/mesh/config.toml to use
    #[arg(long, global = true, env = "MESH_CONTEXT", hide_env_values = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Address of a node's edge port, instead of the context's; may be repeated
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub edge: Vec<String>,
    /// Operator certificate (PEM), instead of the context's
    #[arg(long, global = true, value_name = "FILE")]
    pub certificate: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, global = true, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Certificates of the authorities that nodes must be signed by (PEM)
    #[arg(long, global = true, value_name = "FILE")]
    pub trust_bundle: Option<PathBuf>,
    /// Longest time to wait for an answer
    #[arg(long, global = true, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub timeout: Duration,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a local, secure cluster of child processes; Ctrl-C stops it
    Up(UpArgs),
    /// Run one node in this process
    Run(RunArgs),
    /// Let a node begin a new cluster's registry at its next start
    Init(ConfigSource),
    /// See who leads what, and change it
    #[command(subcommand)]
    Leaders(LeadersCommand),
    /// Make a node say goodbye to its cluster and stop
    Leave(LeaveArgs),
    /// See the members of the cluster
    #[command(subcommand)]
    Peers(PeersCommand),
    /// See how the store of control state stands
    #[command(subcommand)]
    Registry(RegistryCommand),
    /// See how datasets converge, and who takes part in them
    #[command(subcommand)]
    Sync(SyncCommand),
    /// Read and write the documents of a dataset
    #[command(subcommand)]
    Data(DataCommand),
    /// See and check a node's configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Find out what is wrong with a node or a cluster
    Check(CheckArgs),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
}

/// Arguments of `mesh up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Nodes to start
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub nodes: u16,
    /// Folder for the cluster's data, keys and logs
    #[arg(long, default_value = "mesh-data", value_name = "FOLDER")]
    pub dir: PathBuf,
    /// Name of the cluster and of the context that is written
    #[arg(long, default_value = "dev", value_name = "NAME")]
    pub cluster: String,
    /// Longest time to wait until all nodes see each other
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub ready_timeout: Duration,
    /// With json: one line with all addresses once the cluster is up, then one for each change
    #[arg(short, long, value_enum, default_value_t = UpFormat::Text, value_name = "FORMAT")]
    pub output: UpFormat,
    /// Stop the cluster when standard input ends, so that it does not outlive who started it
    #[arg(long)]
    pub until_stdin_closes: bool,
    /// A setting for all nodes, as gossip.probe_interval=2s; may be repeated
    #[arg(long = "set", value_name = "SETTING=VALUE", value_parser = setting)]
    pub set: Vec<(String, String)>,
}

/// How `mesh up` reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UpFormat {
    /// Lines for people
    Text,
    /// JSON, a document on each line
    Json,
}

/// Where a node's settings come from.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigSource {
    /// The node's configuration file (TOML); the environment (MESH_SECTION__KEY) overrides it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A setting, as gossip.probe_interval=2s; overrides file and environment; may be repeated
    #[arg(long = "set", value_name = "SETTING=VALUE", value_parser = setting)]
    pub set: Vec<(String, String)>,
}

/// Arguments of `mesh run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Where the settings come from.
    #[command(flatten)]
    pub source: ConfigSource,
    /// Write this file with the node's addresses as JSON once it is ready
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Print a JSON line when the node listens and when it is ready
    #[arg(long)]
    pub events: bool,
    /// Stop when standard input ends, so that the node does not outlive who started it
    #[arg(long)]
    pub until_stdin_closes: bool,
    /// How log lines look
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    Text,
    /// JSON, a document on each line
    Json,
}

/// Arguments of `mesh leave`.
#[derive(Debug, Args)]
pub struct LeaveArgs {
    /// The node that must leave; without it, whichever answers at the edge address
    #[arg(value_name = "NODE")]
    pub node: Option<String>,
    /// Why; it goes to the node's log
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// `mesh peers …`
#[derive(Debug, Subcommand)]
pub enum PeersCommand {
    /// List the members
    #[command(visible_alias = "ls")]
    List(PeersListArgs),
    /// Show one member
    Show(PeersShowArgs),
}

/// Arguments of `mesh peers list`.
#[derive(Debug, Args)]
pub struct PeersListArgs {
    /// Only members in this state; may be repeated
    #[arg(long, value_name = "STATE", value_parser = ["alive", "suspect", "dead", "left"])]
    pub state: Vec<String>,
    /// Only members with this role; may be repeated
    #[arg(long, value_name = "ROLE")]
    pub role: Vec<String>,
    /// Only members in this region; may be repeated
    #[arg(long, value_name = "REGION")]
    pub region: Vec<String>,
    /// Only members in this zone; may be repeated
    #[arg(long, value_name = "ZONE")]
    pub zone: Vec<String>,
    /// Only members with this label; may be repeated
    #[arg(short = 'l', long = "label", value_name = "NAME=VALUE", value_parser = setting)]
    pub labels: Vec<(String, String)>,
    /// Only members whose name or metadata has this text
    #[arg(long, value_name = "TEXT")]
    pub search: Option<String>,
    /// Print every change as it happens, until Ctrl-C
    #[arg(short, long)]
    pub watch: bool,
    /// How to print
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `mesh peers show`.
#[derive(Debug, Args)]
pub struct PeersShowArgs {
    /// The member
    #[arg(value_name = "NODE")]
    pub node: String,
    /// How to print
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `mesh registry …`
#[derive(Debug, Subcommand)]
pub enum RegistryCommand {
    /// Show who votes, who takes writes, and how far the store is
    Status(OutputArgs),
    /// List voters and learners: who leads, who answers, who lacks how much
    Members(OutputArgs),
    /// Save the whole store, at one revision, to a file
    Snapshot(SnapshotArgs),
    /// Put the store of a snapshot in the place of the present one
    Restore(RestoreArgs),
    /// Look a stopped voter's files over, and put a damaged registry out of the way; nothing is deleted
    Repair(RepairArgs),
}

/// Arguments of `mesh registry repair`.
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// Where the node's settings come from.
    #[command(flatten)]
    pub source: ConfigSource,
    /// Move the registry aside if it is damaged; without it, only report
    #[arg(long)]
    pub yes: bool,
    /// Move it aside even if it is sound: its group was replaced by a new one
    #[arg(long)]
    pub even_if_sound: bool,
    /// A snapshot to begin a new group with; with --new-group
    #[arg(long, value_name = "SNAPSHOT")]
    pub from: Option<PathBuf>,
    /// Begin a new group at the next start, since the old one has lost its quorum for good
    #[arg(long)]
    pub new_group: bool,
    /// How to print
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `mesh registry snapshot`.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    /// The file; it appears once it is whole
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// How to print
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `mesh registry restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The file, as `mesh registry snapshot` made it
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    /// Why; it is kept in the audit
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// How to print
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `mesh leaders …`
#[derive(Debug, Subcommand)]
pub enum LeadersCommand {
    /// Show who leads
    #[command(visible_alias = "ls")]
    Status(LeadersStatusArgs),
    /// Make a leader hand over to the best other candidate
    StepDown(SteerArgs),
    /// Make a leader hand over to a certain node
    Transfer(TransferArgs),
}

/// Arguments of `mesh leaders status`.
#[derive(Debug, Args)]
pub struct LeadersStatusArgs {
    /// One scope; without it, all of them
    #[arg(value_name = "SCOPE")]
    pub scope: Option<String>,
    /// Print every transition as it happens, until Ctrl-C
    #[arg(short, long)]
    pub watch: bool,
    /// How to print
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Which leader is to hand over, and why.
#[derive(Debug, Args)]
pub struct SteerArgs {
    /// The scope
    #[arg(value_name = "SCOPE")]
    pub scope: String,
    /// Why; it is kept in the audit
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Only if this is still the leader's token
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
}

/// Arguments of `mesh leaders transfer`.
#[derive(Debug, Args)]
pub struct TransferArgs {
    /// Which, and why.
    #[command(flatten)]
    pub steer: SteerArgs,
    /// The node that shall lead
    #[arg(long, value_name = "NODE")]
    pub to: String,
}

/// `mesh config …`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a configuration; every problem is named with its line
    Validate(ConfigSource),
    /// Show every setting, its value and where that came from
    Show(ConfigShowArgs),
}

/// Arguments of `mesh config show`.
#[derive(Debug, Args)]
pub struct ConfigShowArgs {
    /// Where the settings come from.
    #[command(flatten)]
    pub source: ConfigSource,
    /// Only what is not the default
    #[arg(long)]
    pub changed: bool,
    /// How to print
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `mesh check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Where the settings of the local node come from; without a file, the cluster alone is checked
    #[command(flatten)]
    pub source: ConfigSource,
    /// Only the checks with these codes
    #[arg(long, value_delimiter = ',', value_name = "CODE")]
    pub only: Vec<String>,
    /// Not the checks with these codes
    #[arg(long, value_delimiter = ',', value_name = "CODE")]
    pub skip: Vec<String>,
    /// Repeat until all is well, for at most this long
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub wait: Option<Duration>,
    /// How to print
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `mesh completion`.
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// How to print.
#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArgs {
    /// How to print
    #[arg(short = 'o', long = "output", value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 500ms, 10s or 2m"))
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it has no '='; write it as NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn help(path: &[&str]) -> String {
        let mut command = Cli::command().term_width(100);
        command.build();
        let mut here = &mut command;
        for name in path {
            here = here.find_subcommand_mut(name).expect("a command of that name");
        }
        here.render_help().to_string()
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_lists_the_commands() {
        insta::assert_snapshot!(help(&[]), @"
        The mesh command: a secure cluster in one command, and everything an operator needs to see and steer
        it

        Usage: mesh [OPTIONS] <COMMAND>

        Commands:
          up          Start a local, secure cluster of child processes; Ctrl-C stops it
          run         Run one node in this process
          init        Let a node begin a new cluster's registry at its next start
          leaders     See who leads what, and change it
          leave       Make a node say goodbye to its cluster and stop
          peers       See the members of the cluster
          registry    See how the store of control state stands
          sync        See how datasets converge, and who takes part in them
          data        Read and write the documents of a dataset
          config      See and check a node's configuration
          check       Find out what is wrong with a node or a cluster
          completion  Print a completion script for a shell
          help        Print this message or the help of the given subcommand(s)

        Options:
          -h, --help     Print help
          -V, --version  Print version

        Connection:
              --context <NAME>       Context of the file ~/.config/mesh/config.toml to use [env:
                                     MESH_CONTEXT]
              --edge <HOST:PORT>     Address of a node's edge port, instead of the context's; may be
                                     repeated
              --certificate <FILE>   Operator certificate (PEM), instead of the context's
              --key <FILE>           Private key of the certificate (PEM)
              --trust-bundle <FILE>  Certificates of the authorities that nodes must be signed by (PEM)
              --timeout <DURATION>   Longest time to wait for an answer [default: 10s]

        Exit codes: 0 ok, 1 failed, 2 usage, 3 timeout or partial, 4 refused by a guardrail,
        5 conflict, 6 unreachable or unauthorised, 10 changes present.
        ");
    }

    #[test]
    fn help_of_peers_list_names_the_filters() {
        insta::assert_snapshot!(help(&["peers", "list"]), @"
        List the members

        Usage: mesh peers list [OPTIONS]

        Options:
              --state <STATE>       Only members in this state; may be repeated [possible values: alive,
                                    suspect, dead, left]
              --role <ROLE>         Only members with this role; may be repeated
              --region <REGION>     Only members in this region; may be repeated
              --zone <ZONE>         Only members in this zone; may be repeated
          -l, --label <NAME=VALUE>  Only members with this label; may be repeated
              --search <TEXT>       Only members whose name or metadata has this text
          -w, --watch               Print every change as it happens, until Ctrl-C
          -o, --output <FORMAT>     How to print [default: table] [possible values: table, wide, json, yaml,
                                    jsonl, name]
          -h, --help                Print help (see more with '--help')

        Connection:
              --context <NAME>       Context of the file ~/.config/mesh/config.toml to use [env:
                                     MESH_CONTEXT]
              --edge <HOST:PORT>     Address of a node's edge port, instead of the context's; may be
                                     repeated
              --certificate <FILE>   Operator certificate (PEM), instead of the context's
              --key <FILE>           Private key of the certificate (PEM)
              --trust-bundle <FILE>  Certificates of the authorities that nodes must be signed by (PEM)
              --timeout <DURATION>   Longest time to wait for an answer [default: 10s]
        ");
    }

    #[test]
    fn help_of_up_names_the_defaults() {
        insta::assert_snapshot!(help(&["up"]), @"
        Start a local, secure cluster of child processes; Ctrl-C stops it

        Usage: mesh up [OPTIONS]

        Options:
              --nodes <N>                 Nodes to start [default: 3]
              --dir <FOLDER>              Folder for the cluster's data, keys and logs [default: mesh-data]
              --cluster <NAME>            Name of the cluster and of the context that is written [default:
                                          dev]
              --ready-timeout <DURATION>  Longest time to wait until all nodes see each other [default: 60s]
          -o, --output <FORMAT>           With json: one line with all addresses once the cluster is up,
                                          then one for each change [default: text] [possible values: text,
                                          json]
              --until-stdin-closes        Stop the cluster when standard input ends, so that it does not
                                          outlive who started it
              --set <SETTING=VALUE>       A setting for all nodes, as gossip.probe_interval=2s; may be
                                          repeated
          -h, --help                      Print help (see more with '--help')

        Connection:
              --context <NAME>       Context of the file ~/.config/mesh/config.toml to use [env:
                                     MESH_CONTEXT]
              --edge <HOST:PORT>     Address of a node's edge port, instead of the context's; may be
                                     repeated
              --certificate <FILE>   Operator certificate (PEM), instead of the context's
              --key <FILE>           Private key of the certificate (PEM)
              --trust-bundle <FILE>  Certificates of the authorities that nodes must be signed by (PEM)
              --timeout <DURATION>   Longest time to wait for an answer [default: 10s]
        ");
    }

    #[test]
    fn a_setting_without_a_value_is_refused() {
        let error = Cli::try_parse_from(["mesh", "run", "--set", "gossip.rings"]).expect_err("no value");
        assert!(error.to_string().contains("NAME=VALUE"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
