//! The disk requests of the core, on a blocking thread.

use std::path::PathBuf;

use bytes::Bytes;
use mesh_core::{
    DiskCompletion, DiskFault, DiskOperation, DiskRequest, VersionRange,
    fs::{self, FileError, Format},
};
use tokio::sync::mpsc;

const FORMAT: Format = Format {
    kind: *b"GMEM",
    versions: VersionRange::new(1, 1),
    bytes_max: 1024 * 1024,
    repair: "remove the file: the node finds its way back through its seeds",
};

pub(super) struct Disk {
    folder: Option<PathBuf>,
}

impl Disk {
    pub(super) fn open(folder: Option<PathBuf>) -> Result<Self, FileError> {
        if let Some(path) = &folder {
            std::fs::create_dir_all(path).map_err(|source| FileError::Io {
                verb: "make the folder",
                path: path.clone(),
                source,
            })?;
        }
        Ok(Self { folder })
    }

    pub(super) fn start(&self, request: DiskRequest, completed: mpsc::Sender<DiskCompletion>) {
        let folder = self.folder.clone();
        tokio::task::spawn_blocking(move || {
            let result = match &folder {
                None => Ok(None),
                Some(folder) => perform(&folder.join(request.file.0), request.operation),
            };
            if let Err(fault) = &result {
                tracing::warn!(file = request.file.0, "saved members: {fault}");
            }
            // The loop may have ended.
            let _ = completed.blocking_send(DiskCompletion { id: request.id, result });
        });
    }
}

fn perform(path: &std::path::Path, operation: DiskOperation) -> Result<Option<Bytes>, DiskFault> {
    let done = match operation {
        DiskOperation::Read => fs::read(path, FORMAT).map(|c| c.map(|c| Bytes::from(c.body))),
        DiskOperation::Replace(body) => fs::replace(path, FORMAT, &body).map(|()| None),
    };
    done.map_err(|error| DiskFault::from(&error))
}
