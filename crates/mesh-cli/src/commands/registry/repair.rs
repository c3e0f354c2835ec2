//! `mesh registry repair`

use std::process::ExitCode;

use mesh::{NodeError, node::RegistryRepair};
use serde_json::{Value, json};

use super::file;
use crate::{
    args::RepairArgs,
    failure::{Exit, Failure},
    output::{self, Column, Listing, text_at},
};

const COLUMNS: &[Column] = &[
    Column { title: "FILE", wide: false, cell: |file| text_at(file, "path") },
    Column { title: "BYTES", wide: false, cell: |file| text_at(file, "bytes") },
    Column { title: "STATE", wide: false, cell: |file| text_at(file, "state") },
    Column { title: "PROBLEM", wide: false, cell: |file| text_at(file, "problem") },
];

/// The exit code of a report that something has to be done.
const CHANGES_PRESENT: u8 = 10;

pub(super) fn run(args: RepairArgs) -> Result<ExitCode, Failure> {
    let snapshot = match (&args.from, args.new_group) {
        (Some(path), true) => Some((path, file::check(path)?)),
        (None, false) => None,
        _ => {
            return Err(Failure::new(
                Exit::Usage,
                "--from and --new-group go together: a new group needs a store",
            )
            .next("mesh registry repair --config mesh.toml --from FILE --new-group"));
        }
    };
    let loaded = super::super::load(&args.source)?;
    let data_dir = &loaded.config.node.data_dir;
    let failed = |error: NodeError| {
        let next = match &error {
            NodeError::Lock(_) => "stop the node first: mesh leave NODE, or its service",
            _ => "check node.data_dir, and who may read and write there",
        };
        Failure::from_error(Exit::Failed, &error)
            .while_doing(format!("cannot repair the registry in {}", data_dir.display()))
            .next(next)
    };
    let repair = RegistryRepair::open(data_dir).map_err(failed)?;
    let inspection = repair.inspection();
    let files: Vec<Value> = inspection
        .files
        .iter()
        .map(|file| {
            json!({
                "path": file.path.display().to_string(),
                "bytes": file.bytes,
                "state": if file.problem.is_some() { "damaged" } else { "sound" },
                "problem": file.problem,
            })
        })
        .collect();
    let listing = Listing { kind: "files", name_key: "path", columns: COLUMNS, items: &files };
    output::print(&listing.render(args.output.format))?;
    let whose = match (&inspection.node_id, inspection.seat) {
        (Some(node), Some((group, id))) => format!("{node}, number {id} of the group {group}"),
        (Some(node), None) => format!("{node}, which no group has taken in"),
        (None, _) => "an unknown node".to_owned(),
    };
    let directory = inspection.directory.display();
    let damaged = inspection.is_damaged();
    if files.is_empty() {
        output::message(format_args!("{directory} holds no registry"));
    } else {
        let state = if damaged { "damaged" } else { "sound" };
        output::message(format_args!("{directory} is {state}; it belongs to {whose}"));
    }

    if !damaged && snapshot.is_none() && !args.even_if_sound {
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes {
        let plan = match &snapshot {
            Some((path, checked)) => format!(
                "with --yes it is moved aside, and at its next start the node begins a new group with the {} records of {} \
                 (revision {}); do so on one node alone, and only if the old group has lost its quorum for good",
                checked.state.records_len(),
                path.display(),
                checked.state.revision(),
            ),
            None => "with --yes it is moved aside, nothing is deleted; at its next start the node waits until the group \
                     takes it in under a new number and sends it the store"
                .to_owned(),
        };
        output::message(plan);
        return Ok(ExitCode::from(CHANGES_PRESENT));
    }
    let begins = snapshot.is_some();
    let aside = match snapshot {
        Some((_, checked)) => repair.begin_from(checked.state),
        None => repair.set_aside(),
    };
    if let Some(aside) = aside.map_err(failed)? {
        output::message(format_args!("{directory} is now {}; keep it until all is well", aside.display()));
    }
    output::message(if begins {
        "start the node: it begins a new group. On the other voters of the old group run \
         mesh registry repair --even-if-sound --yes before you start them"
    } else {
        "start the node: it is taken in under a new number and gets the store; look with mesh registry members"
    });
    Ok(ExitCode::SUCCESS)
}
