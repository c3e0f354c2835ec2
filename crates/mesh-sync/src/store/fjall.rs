//! The default backend: a log-structured tree.

use std::path::{Path, PathBuf};

use fjall::{Database, Error, Keyspace, KeyspaceCreateOptions, LsmError, PersistMode, Readable};

use super::{
    Backend, Store, StoreError, Visit, Write,
    guard::{guarded, io_error, room},
};

/// Opening replays the journal, so this bounds how long that takes: well under a second for each 128 MiB.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;

/// A store in a folder.
///
/// ```
/// use mesh_sync::{entry::DatasetId, store::{Creation, Datasets, FjallOptions, FjallStore, StoreIncarnation}};
///
/// # let folder = tempfile::tempdir()?;
/// let notes = DatasetId::new("notes")?;
/// let store = FjallStore::in_folder(folder.path(), FjallOptions::default())?;
/// let dataset = store.open(&notes, Creation::new(&notes, StoreIncarnation(4711)))?;
/// assert_eq!(dataset.incarnation(), StoreIncarnation(4711));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type FjallStore = Store<FjallBackend>;

impl FjallStore {
    /// Opens the store in `folder`, or makes one.
    ///
    /// What a crash left half written at the end of the journal is dropped; it was never acknowledged.
    ///
    /// # Errors
    ///
    /// [`StoreError::InUse`] if it is open already, [`StoreError::Damaged`] if it can't be read.
    pub fn in_folder(folder: impl AsRef<Path>, options: FjallOptions) -> Result<Self, StoreError> {
        Self::new(FjallBackend::open(folder.as_ref(), options)?)
    }
}

/// Settings of a [`FjallStore`].
#[derive(Clone, Copy, Debug)]
pub struct FjallOptions {
    /// Memory for blocks that were read, in bytes. Default: 32 MiB.
    pub cache_bytes: u64,
    /// How much is in memory until it is flushed, in bytes. Default: 32 MiB. Takes hold when the store is made.
    pub memtable_bytes: u64,
    /// Threads that flush and compact. Default: 2.
    pub worker_threads: usize,
    /// Bytes of the disk that are left free: below them, [`room`](Backend::room) says no. Flushing and compacting need
    /// them. Default: 64 MiB.
    pub reserve_bytes: u64,
}

impl Default for FjallOptions {
    fn default() -> Self {
        Self { cache_bytes: 32 << 20, memtable_bytes: 32 << 20, worker_threads: 2, reserve_bytes: 64 << 20 }
    }
}

/// A log-structured tree in a folder.
///
/// Everything is in one keyspace. So a flush takes whole commits, and a journal that has lost its end can't leave
/// one part of a commit in a tree and another nowhere.
pub struct FjallBackend {
    path: PathBuf,
    database: Database,
    keyspace: Keyspace,
    reserve_bytes: u64,
}

impl std::fmt::Debug for FjallBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FjallBackend").field("path", &self.path).finish_non_exhaustive()
    }
}

impl FjallBackend {
    /// Opens the tree in `folder`, or makes one.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if it can't be opened.
    pub fn open(folder: &Path, options: FjallOptions) -> Result<Self, StoreError> {
        let explain = |error| store_error("open", folder, error);
        guarded(folder, || {
            let builder = Database::builder(folder)
                .cache_size(options.cache_bytes)
                .max_journaling_size(JOURNAL_BYTES_MAX)
                .worker_threads(options.worker_threads.max(1));
            let database = builder.open().map_err(explain)?;
            let settings = || KeyspaceCreateOptions::default().max_memtable_size(options.memtable_bytes);
            let keyspace = database.keyspace("entries", settings).map_err(explain)?;
            Ok(Self { path: folder.to_owned(), database, keyspace, reserve_bytes: options.reserve_bytes })
        })
    }

    fn read<T>(&self, work: impl FnOnce() -> Result<T, Error>) -> Result<T, StoreError> {
        guarded(&self.path, || work().map_err(|error| store_error("read", &self.path, error)))
    }
}

impl Backend for FjallBackend {
    fn path(&self) -> &Path {
        &self.path
    }

    fn room(&self) -> Result<(), StoreError> {
        room(&self.path, self.reserve_bytes)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|| Ok(self.database.snapshot().get(&self.keyspace, key)?.map(|value| value.to_vec())))
    }

    fn scan(&self, from: &[u8], below: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if from >= below {
            return Ok(());
        }
        guarded(&self.path, || {
            for pair in self.database.snapshot().range(&self.keyspace, from..below) {
                let (key, value) =
                    pair.into_inner().map_err(|error| store_error("read", &self.path, error))?;
                if visit(&key, &value)?.is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn last(&self, from: &[u8], below: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if from >= below {
            return Ok(None);
        }
        self.read(|| {
            let last = self.database.snapshot().range(&self.keyspace, from..below).next_back();
            last.map(|pair| Ok(pair.key()?.to_vec())).transpose()
        })
    }

    fn commit(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        guarded(&self.path, || {
            let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
            for Write { key, value } in writes {
                match value {
                    Some(value) => batch.insert(&self.keyspace, key, value),
                    None => batch.remove(&self.keyspace, key),
                }
            }
            batch.commit().map_err(|error| store_error("write", &self.path, error))
        })
    }
}

fn store_error(verb: &'static str, folder: &Path, error: Error) -> StoreError {
    let path = folder.to_owned();
    let damaged = |path, problem: String| StoreError::Damaged { path, problem };
    match error {
        Error::Io(source) | Error::Storage(LsmError::Io(source)) => io_error(verb, path, source),
        Error::Locked => StoreError::InUse { path },
        Error::Poisoned => StoreError::Stopped { path },
        Error::JournalRecovery(problem) => damaged(last_journal(folder), problem.to_string()),
        Error::Storage(problem) => damaged(path, problem.to_string()),
        Error::InvalidVersion(found) => damaged(path.join("version"), format!("its version is {found:?}")),
        Error::InvalidTag(_) | Error::InvalidTrailer | Error::Decompress(_) | Error::Unrecoverable => {
            damaged(path, error.to_string())
        }
        other => StoreError::Backend { verb, path, source: Box::new(other) },
    }
}

/// The file that errors of the journal are about: the newest, since the others were closed whole.
fn last_journal(folder: &Path) -> PathBuf {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
    let journals = files.filter(|path| path.extension().is_some_and(|extension| extension == "jnl"));
    let number = |path: &PathBuf| path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
    journals.max_by_key(number).unwrap_or_else(|| folder.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_disk_that_has_less_than_the_reserve_is_full() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = FjallOptions { reserve_bytes: u64::MAX, ..FjallOptions::default() };
        let backend = FjallBackend::open(folder.path(), options).expect("opens");
        let full = backend.room().expect_err("nobody has so much");
        assert!(matches!(&full, StoreError::Full { path, .. } if path == folder.path()), "{full}");
        drop(backend);
        let options = FjallOptions { reserve_bytes: 0, ..FjallOptions::default() };
        FjallBackend::open(folder.path(), options).expect("opens").room().expect("there is a byte");
    }

    #[test]
    fn an_error_says_what_to_do_and_where() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = |error| store_error("write", folder.path(), error).to_string();
        let shown = folder.path().display();
        let full = Error::Io(io::ErrorKind::StorageFull.into());
        assert_eq!(text(full), format!("the disk is full: cannot write {shown}"));
        let poisoned = format!("{shown} takes no more since an earlier write failed; open it again");
        assert_eq!(text(Error::Poisoned), poisoned);
        for name in ["9.jnl", "10.jnl", "version"] {
            std::fs::write(folder.path().join(name), "").expect("written");
        }
        let torn = Error::JournalRecovery(fjall::JournalRecoveryError::ChecksumMismatch);
        assert!(text(torn).starts_with(&format!("{shown}/10.jnl is damaged: ")));
    }
}
