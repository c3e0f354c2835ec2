//! Looks a node's registry over while the node does not run.

use std::path::{Path, PathBuf};

use mesh_core::{Clock as _, SystemClock, fs::DirectoryLock};
use mesh_registry::{
    raft::repair::{Inspection, Repair},
    state::State,
};

use super::{NodeError, found_cluster, registry::FOLDER, startup};

/// The registry of a node that does not run, for whoever repairs it. No node starts on the data directory
/// until this is dropped.
///
/// ```no_run
/// # fn main() -> Result<(), mesh::NodeError> {
/// let repair = mesh::node::RegistryRepair::open("/var/lib/mesh".as_ref())?;
/// if repair.inspection().is_damaged() {
///     let aside = repair.set_aside()?;
///     println!("moved to {aside:?}; start the node, and it is taken in under a new number");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RegistryRepair {
    data_dir: PathBuf,
    repair: Repair,
    _lock: DirectoryLock,
}

impl RegistryRepair {
    /// Reads every file of the registry in a data directory. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`NodeError::DataDirectory`] if there is none, [`NodeError::Lock`] if a node runs on it.
    pub fn open(data_dir: &Path) -> Result<Self, NodeError> {
        // Locking would make it.
        std::fs::metadata(data_dir)
            .map_err(|source| NodeError::DataDirectory { path: data_dir.to_owned(), source })?;
        let lock = startup::lock(data_dir)?;
        let repair = Repair::open(&data_dir.join(FOLDER)).map_err(NodeError::Registry)?;
        Ok(Self { data_dir: data_dir.to_owned(), repair, _lock: lock })
    }

    /// What was found.
    pub fn inspection(&self) -> &Inspection {
        self.repair.inspection()
    }

    /// Moves the registry aside; nothing is deleted. At its next start the node waits until the group takes it
    /// in under a new number. Where it is now; `None` if there was none.
    ///
    /// # Errors
    ///
    /// [`NodeError::Registry`]; it is where it was.
    pub fn set_aside(&self) -> Result<Option<PathBuf>, NodeError> {
        self.repair.set_aside().map_err(NodeError::Registry)
    }

    /// Moves the registry aside, and lets the node begin a new group with the store `state` at its next start.
    /// For a group whose quorum is lost for good: what was written after the snapshot is lost. One node does
    /// so; the other voters of the old group are set aside, so that the new one takes them in.
    ///
    /// # Errors
    ///
    /// [`NodeError::Registry`] or [`NodeError::DataDirectory`]; no group begins then.
    pub fn begin_from(&self, state: State) -> Result<Option<PathBuf>, NodeError> {
        let aside = self.set_aside()?;
        self.repair.prepare(state, SystemClock.wall()).map_err(NodeError::Registry)?;
        // Last: without it the node waits.
        found_cluster(&self.data_dir)?;
        Ok(aside)
    }
}
