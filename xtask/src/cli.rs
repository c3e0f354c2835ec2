//! The verbs and their flags.

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Chores of the Mesh workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a local cluster with mutual TLS, kill a node, watch the others notice, bring it back.
    Demo(DemoOptions),
    /// Run every test, or those whose name contains FILTER.
    Test {
        /// Part of a test's name.
        filter: Option<String>,
    },
    /// Check everything but the tests: format, lints, tidy, docs, features, simulator, licences.
    Ci {
        /// Only the steps whose name contains one of these.
        steps: Vec<String>,
    },
    /// Check the rules that no compiler knows: dependency arrows, file headers, banned calls.
    Tidy,
    /// Print how many lines of the sans-io cores their unit tests reach; needs cargo-llvm-cov.
    Coverage,
    /// Run the simulator: --seeds N, or --seed S to replay one; [--until T] [--trace FILE] [--nightly].
    Sim {
        /// Handed to mesh-sim as they are.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure: gossip or transport [--nodes N] [-o json] [--peers DIR].
    Bench {
        /// Handed to mesh-bench as they are.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Break real clusters and judge what clients saw: [--rounds N] [--fault NAME] [--seed S] [-o json].
    Chaos {
        /// Handed to mesh-chaos as they are.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Throw bytes at every decoder, a minute each, or at some of them.
    Fuzz(FuzzOptions),
    /// Write the generated files: protobuf code, the settings reference, JSON Schemas of settings and members.
    Codegen {
        /// Change nothing; fail if a generated file is not up to date.
        #[arg(long)]
        check: bool,
    },
}

#[derive(Args, Debug)]
pub(crate) struct FuzzOptions {
    /// The decoders, by the folders in fuzz/corpus; all without this.
    #[arg(long)]
    pub(crate) target: Vec<String>,
    /// How long each is fuzzed.
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u32,
    /// Run this input once instead: one that failed.
    #[arg(long, value_name = "FILE", requires = "target")]
    pub(crate) input: Option<std::path::PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct DemoOptions {
    /// Finish on its own after the recovery, for scripts: no waiting for Ctrl-C.
    #[arg(long)]
    pub(crate) script: bool,
    /// How to print the result; the story itself goes to stderr with `json`.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
    /// Nodes to start.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(2..=20))]
    pub(crate) nodes: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// One line of JSON at the end.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_other_programs_pass_through() {
        let cli = Cli::try_parse_from(["xtask", "sim", "--seeds", "20", "--until", "30s"]).expect("parses");
        let Verb::Sim { arguments } = cli.verb else { panic!("not sim: {cli:?}") };
        assert_eq!(arguments, ["--seeds", "20", "--until", "30s"]);
    }
}
