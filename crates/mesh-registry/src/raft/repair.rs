//! Looks a voter's data directory over while no node runs on it, and puts it out of the way.
//!
//! Nothing is ever deleted, and nothing is mended in place: votes and entries that were lost can't be made up.
//! A directory that is moved aside leaves its node without one, so that the group takes it in again under a
//! new number and sends it the store.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use mesh_core::{
    NodeId, WallTime,
    fs::{DirectoryLock, Replacement},
};

use super::{
    GroupId, RaftError,
    error::io_error,
    group::log_folder,
    identity::Identity,
    log::{self, chain},
    snapshot::SnapshotFile,
};
use crate::state::{SnapshotWriter, State};

/// The file of a data directory from which [`Begin::FromSnapshot`](super::Begin::FromSnapshot) begins a group.
pub const BEGIN_FROM: &str = "begin-from.snapshot";
/// Directories that were moved aside, of one node.
const ASIDE_MAX: u32 = 10_000;

/// A file that was looked over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// Where it is.
    pub path: PathBuf,
    /// Its length; `None` if it is not there.
    pub bytes: Option<u64>,
    /// What is wrong with it; `None` if it is as it was written.
    pub problem: Option<String>,
}

/// What a data directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The directory.
    pub directory: PathBuf,
    /// Whose it is, if that can be read.
    pub node_id: Option<NodeId>,
    /// The group that it belongs to, and its number there.
    pub seat: Option<(GroupId, u64)>,
    /// The generation of tokens in its snapshot.
    pub generation: Option<u64>,
    /// Its files.
    pub files: Vec<FileReport>,
}

impl Inspection {
    /// Whether anything is wrong.
    pub fn is_damaged(&self) -> bool {
        self.files.iter().any(|file| file.problem.is_some())
    }
}

/// A data directory that nobody else uses until this is dropped.
#[derive(Debug)]
pub struct Repair {
    inspection: Inspection,
    /// `None` where there is no directory.
    _lock: Option<DirectoryLock>,
}

impl Repair {
    /// Reads every file of a voter's `directory`. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`RaftError::Lock`] if a node runs on it; damage is no error here.
    pub fn open(directory: &Path) -> Result<Self, RaftError> {
        let mut inspection = Inspection {
            directory: directory.to_owned(),
            node_id: None,
            seat: None,
            generation: None,
            files: Vec::new(),
        };
        if !directory.is_dir() {
            return Ok(Self { inspection, _lock: None });
        }
        let lock = DirectoryLock::acquire(directory)?;
        let identity = look_at_identity(&mut inspection);
        let covered = look_at_snapshot(&mut inspection);
        // A directory that no group has taken in has no log, or what is left of one that was never of use.
        let has_log = match identity {
            Some(identity) => identity.seat.is_some(),
            None => log_folder(directory).exists(),
        };
        if has_log {
            look_at_log(&mut inspection, covered);
        }
        Ok(Self { inspection, _lock: Some(lock) })
    }

    /// What was found.
    pub fn inspection(&self) -> &Inspection {
        &self.inspection
    }

    /// Renames the directory, so that its node starts without one. The new name; `None` if there was nothing
    /// to move.
    ///
    /// # Errors
    ///
    /// [`RaftError::Io`]; it is where it was then.
    pub fn set_aside(&self) -> Result<Option<PathBuf>, RaftError> {
        let directory = &self.inspection.directory;
        if !directory.is_dir() {
            return Ok(None);
        }
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let free = (1..=ASIDE_MAX)
            .map(|number| directory.with_file_name(format!("{name}.aside-{number}")))
            .find(|path| !path.exists());
        let Some(aside) = free else {
            let source = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(RaftError::Io { verb: "move aside", path: directory.clone(), source });
        };
        fs::rename(directory, &aside).map_err(io_error("move aside", directory))?;
        let parent = directory.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::File::open(parent)
            .and_then(|folder| folder.sync_all())
            .map_err(io_error("sync the folder", parent))?;
        Ok(Some(aside))
    }

    /// Makes a new directory in which [`Begin::FromSnapshot`](super::Begin::FromSnapshot) begins a group with
    /// the store `state`, whose tokens will be higher than any of the old group: than those of the snapshot and of the
    /// snapshot in the directory which was moved aside; and, since a later restore may be known to a damaged log
    /// alone, their generation begins at the seconds of `now`, where no count of restores gets to.
    ///
    /// Revisions and ids of sessions go on far ahead of all that the old group can have given out after the
    /// snapshot: at the microseconds of `now`, which no store keeps up with, so that a snapshot may be begun from
    /// more than once. Whoever resumes a watch of the old group is told of a gap then.
    ///
    /// # Errors
    ///
    /// [`RaftError::File`] or [`RaftError::Io`]; no group begins then.
    pub fn prepare(&self, mut state: State, now: WallTime) -> Result<(), RaftError> {
        let directory = &self.inspection.directory;
        state.raise_generation(self.inspection.generation.unwrap_or(0).max(now.0 / 1000));
        state.leap(now.0.saturating_mul(1000));
        fs::create_dir_all(directory).map_err(io_error("make", directory))?;
        let mut file = Replacement::begin(&directory.join(BEGIN_FROM))?;
        for piece in SnapshotWriter::new(state) {
            file.write(&piece)?;
        }
        Ok(file.commit()?)
    }
}

fn report(inspection: &mut Inspection, path: PathBuf, problem: Option<String>) {
    let bytes = fs::metadata(&path).ok().map(|file| file.len());
    inspection.files.push(FileReport { path, bytes, problem });
}

fn look_at_identity(inspection: &mut Inspection) -> Option<Identity> {
    let path = inspection.directory.join(super::identity::NAME);
    let found = Identity::read(&inspection.directory);
    let others =
        log_folder(&inspection.directory).exists() || SnapshotFile::path(&inspection.directory).exists();
    let (identity, problem) = match found {
        Ok(Some(identity)) => (Some(identity), None),
        Ok(None) if others => (None, Some("it is missing: nothing says whose log this is".to_owned())),
        Ok(None) => return None,
        Err(error) => (None, Some(chain(&error))),
    };
    if let Some(identity) = &identity {
        inspection.node_id = Some(identity.node.clone());
        inspection.seat = identity.seat.map(|seat| (seat.group, seat.id));
    }
    report(inspection, path, problem);
    identity
}

/// One after the index of the last entry that the snapshot has.
fn look_at_snapshot(inspection: &mut Inspection) -> u64 {
    let path = SnapshotFile::path(&inspection.directory);
    let found = SnapshotFile::look(&inspection.directory)
        .and_then(|snapshot| snapshot.map(|snapshot| Ok((snapshot.covers(), snapshot.load()?))).transpose());
    let (covered, problem) = match found {
        Ok(None) => return 0,
        Ok(Some((covered, state))) => {
            inspection.generation = Some(state.generation());
            (covered, None)
        }
        // Whatever it covered, it does not count as a hole of the log.
        Err(error) => (u64::MAX, Some(chain(&error))),
    };
    report(inspection, path, problem);
    covered
}

fn look_at_log(inspection: &mut Inspection, covered: u64) {
    let folder = log_folder(&inspection.directory);
    let looked = log::look(&folder);
    let segments = log::segments(&folder);
    let damage = match &looked {
        Err(error @ RaftError::Damaged { path, .. }) => Some((path.clone(), chain(error))),
        Err(error) => Some((folder.clone(), chain(error))),
        Ok(_) if segments.is_empty() => {
            Some((folder.clone(), "the log that belongs to it is missing".to_owned()))
        }
        Ok(purged) if *purged > covered => {
            let problem =
                format!("it is missing: the log begins with entry {purged}, which a snapshot came before");
            Some((SnapshotFile::path(&inspection.directory), problem))
        }
        Ok(_) => None,
    };
    let mut past_damage = false;
    for path in segments {
        let problem =
            damage.as_ref().filter(|(damaged, _)| *damaged == path).map(|(_, problem)| problem.clone());
        let unread = past_damage.then(|| "not read: the one before it is damaged".to_owned());
        past_damage |= problem.is_some();
        report(inspection, path, problem.or(unread));
    }
    if let Some((path, problem)) = damage
        && inspection.files.iter().all(|file| file.path != path)
    {
        report(inspection, path, Some(problem));
    }
}
