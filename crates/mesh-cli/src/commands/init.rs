//! `mesh init`

use std::process::ExitCode;

use crate::{
    args::ConfigSource,
    failure::{Exit, Failure},
    output,
};

pub(super) fn run(source: &ConfigSource) -> Result<ExitCode, Failure> {
    let loaded = super::load(source)?;
    let data_dir = &loaded.config.node.data_dir;
    mesh::node::found_cluster(data_dir).map_err(|error| {
        Failure::from_error(Exit::Failed, &error)
            .while_doing("cannot prepare the node")
            .next("check node.data_dir and who may write there")
    })?;
    output::message(format_args!(
        "the node of {} begins a cluster's registry at its next start; start one such node only, with the role control",
        data_dir.display()
    ));
    Ok(ExitCode::SUCCESS)
}
