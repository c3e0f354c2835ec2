//! `mesh registry snapshot`

use std::process::ExitCode;

use mesh::{core::fs::Replacement, registry::state::SnapshotReader};
use serde_json::Value;

use super::{PATH, file};
use crate::{
    args::SnapshotArgs,
    client::Edge,
    commands::listing,
    failure::{Exit, Failure, chain},
    output::{self, render_one},
};

pub(super) async fn run(edge: &Edge, args: SnapshotArgs) -> Result<ExitCode, Failure> {
    let path = &args.to;
    let unwritable = |error: mesh::core::fs::FileError| {
        Failure::from_error(Exit::Failed, &error)
            .while_doing(format!("cannot save {}", path.display()))
            .next("choose a place with room that you may write to")
    };
    // Before anything is asked for: a copy that can't be kept need not be made.
    let mut copy = Replacement::begin(path).map_err(unwritable)?;
    let mut download = edge.download(&format!("{PATH}/snapshot")).await?;
    let mut reader = SnapshotReader::default();
    let mut bytes = 0_u64;
    let broken = |error: &(dyn std::error::Error + 'static), from: &str| {
        let problem =
            format!("what {from} sent is not whole: {}; {} is as it was", chain(error), path.display());
        Failure::new(Exit::Failed, problem).next("try again, or ask another node with --edge")
    };
    while let Some(piece) = download.next().await? {
        bytes += piece.len() as u64;
        reader.push(&piece).map_err(|error| broken(&error, download.address()))?;
        copy.write(&piece).map_err(unwritable)?;
    }
    let state = reader.finish().map_err(|error| broken(&error, download.address()))?;
    copy.commit().map_err(unwritable)?;
    let mut saved = file::contents(&state);
    saved["file"] = Value::from(path.display().to_string());
    saved["bytes"] = Value::from(bytes);
    output::print(&render_one(&saved, args.output.format, "file", || listing::describe(&saved)))?;
    Ok(ExitCode::SUCCESS)
}
