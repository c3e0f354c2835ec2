//! The verbs and their flags.

use clap::{Parser, Subcommand};

/// Chores of the Mesh workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
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
    /// Write the generated files: protobuf code, the settings reference and its JSON Schema.
    Codegen {
        /// Change nothing; fail if a generated file is not up to date.
        #[arg(long)]
        check: bool,
    },
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
