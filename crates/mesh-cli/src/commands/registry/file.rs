//! Snapshots as files: checked from the first byte to the last.

use std::{fs::File, io::Read, path::Path};

use mesh::registry::state::{RESTORE_BYTES_MAX, SnapshotReader, State};
use serde_json::{Value, json};

use crate::failure::{Exit, Failure, chain};

/// Bytes that are read in one go.
const READ_BYTES: usize = 256 << 10;

/// What a snapshot holds, as it is printed.
pub(super) fn contents(state: &State) -> Value {
    json!({
        "records": state.records_len(),
        "sessions": state.sessions().len(),
        "revision": state.revision().0,
        "generation": state.generation(),
    })
}

/// A snapshot that was found to be whole.
pub(super) struct Checked {
    pub(super) bytes: u64,
    pub(super) state: State,
}

/// Reads all of a file.
pub(super) fn check(path: &Path) -> Result<Checked, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::from_error(Exit::Usage, &error)
            .while_doing(format!("cannot read {}", path.display()))
            .next("name a file that `mesh registry snapshot --to FILE` made")
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let bytes = file.metadata().map_err(unreadable)?.len();
    if bytes > RESTORE_BYTES_MAX {
        let problem = format!(
            "{} has {bytes} bytes, the limit RESTORE_BYTES_MAX is {RESTORE_BYTES_MAX}; nothing was changed",
            path.display()
        );
        return Err(Failure::new(Exit::Usage, problem).next("name a smaller snapshot"));
    }
    let unsound = |error: &(dyn std::error::Error + 'static)| {
        let problem = format!(
            "{} is no snapshot that can be used: {}; nothing was changed",
            path.display(),
            chain(error)
        );
        Failure::new(Exit::Failed, problem).next("name another snapshot")
    };
    let mut reader = SnapshotReader::default();
    let mut buffer = vec![0; READ_BYTES];
    let mut read_bytes = 0;
    loop {
        let read = file.read(&mut buffer).map_err(unreadable)?;
        if read == 0 {
            break;
        }
        read_bytes += read as u64;
        reader.push(&buffer[..read]).map_err(|error| unsound(&error))?;
    }
    let state = reader.finish().map_err(|error| unsound(&error))?;
    Ok(Checked { bytes: read_bytes, state })
}
