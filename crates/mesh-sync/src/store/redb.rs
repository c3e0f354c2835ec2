//! A store in one file: a copy-on-write B-tree.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use redb::{Database, Error, ReadableDatabase, TableDefinition};

use super::{
    Backend, Store, StoreError, Visit, Write,
    guard::{guarded, io_error, room},
};

/// Bytes of the disk that are left free: the file grows by large steps.
const RESERVE_BYTES: u64 = 64 << 20;

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("entries");
/// Memory for pages that were read, in bytes.
const CACHE_BYTES: usize = 32 << 20;

/// A store in one file.
///
/// ```
/// use mesh_sync::{entry::DatasetId, store::{Creation, Datasets, RedbStore, StoreIncarnation}};
///
/// # let folder = tempfile::tempdir()?;
/// let notes = DatasetId::new("notes")?;
/// let store = RedbStore::in_file(folder.path().join("notes.redb"))?;
/// let dataset = store.open(&notes, Creation::new(&notes, StoreIncarnation(4711)))?;
/// assert_eq!(dataset.incarnation(), StoreIncarnation(4711));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type RedbStore = Store<RedbBackend>;

impl RedbStore {
    /// Opens the store in `file`, or makes one. After a crash all of the file is read and checked first.
    ///
    /// # Errors
    ///
    /// [`StoreError::InUse`] if it is open already, [`StoreError::Damaged`] if it can't be read, or is empty.
    pub fn in_file(file: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::new(RedbBackend::open(file.as_ref())?)
    }
}

/// A B-tree in a file.
#[derive(Debug)]
pub struct RedbBackend {
    path: PathBuf,
    /// Written to for a check, which wants it alone.
    database: RwLock<Database>,
}

impl RedbBackend {
    /// Opens the tree in `file`, or makes one.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if it can't be opened.
    pub fn open(file: &Path) -> Result<Self, StoreError> {
        let explain = |error| store_error("open", file, error);
        guarded(file, || {
            match fs::metadata(file) {
                Ok(there) if there.len() == 0 => {
                    // redb would take it for a new one.
                    let problem = "it is empty, which it never was".to_owned();
                    return Err(StoreError::Damaged { path: file.to_owned(), problem });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => make(file)?,
                Err(error) => return Err(io_error("open", file.to_owned(), error)),
            }
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE_BYTES);
            let database = builder.open(file).map_err(|error| explain(error.into()))?;
            Ok(Self { path: file.to_owned(), database: RwLock::new(database) })
        })
    }

    fn read<T>(
        &self,
        work: impl FnOnce(&redb::ReadOnlyTable<&'static [u8], &'static [u8]>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        guarded(&self.path, || {
            let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
            let transaction = database.begin_read().map_err(|error| self.unreadable(error))?;
            work(&transaction.open_table(TABLE).map_err(|error| self.unreadable(error))?)
        })
    }

    fn unreadable(&self, error: impl Into<Error>) -> StoreError {
        store_error("read", &self.path, error.into())
    }

    fn write(&self, writes: Vec<Write>) -> Result<(), Error> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for Write { key, value } in writes {
                match value {
                    Some(value) => table.insert(key.as_slice(), value.as_slice())?,
                    None => table.remove(key.as_slice())?,
                };
            }
        }
        Ok(transaction.commit()?)
    }
}

impl Backend for RedbBackend {
    fn path(&self) -> &Path {
        &self.path
    }

    fn room(&self) -> Result<(), StoreError> {
        room(&self.path, RESERVE_BYTES)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|table| {
            let value = table.get(key).map_err(|error| self.unreadable(error))?;
            Ok(value.map(|value| value.value().to_vec()))
        })
    }

    fn scan(&self, from: &[u8], below: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if from >= below {
            return Ok(());
        }
        self.read(|table| {
            for pair in table.range(from..below).map_err(|error| self.unreadable(error))? {
                let (key, value) = pair.map_err(|error| self.unreadable(error))?;
                if visit(key.value(), value.value())?.is_break() {
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
        self.read(|table| {
            let mut range = table.range(from..below).map_err(|error| self.unreadable(error))?;
            let last = range.next_back().transpose().map_err(|error| self.unreadable(error))?;
            Ok(last.map(|(key, _)| key.value().to_vec()))
        })
    }

    fn commit(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        guarded(&self.path, || self.write(writes).map_err(|error| store_error("write", &self.path, error)))
    }

    fn check(&self) -> Result<(), StoreError> {
        guarded(&self.path, || {
            let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
            match database.check_integrity() {
                Ok(true) => Ok(()),
                Ok(false) => Err(StoreError::Damaged {
                    path: self.path.clone(),
                    problem: "pages did not match their checksums, and an older state was taken".to_owned(),
                }),
                Err(error) => Err(store_error("check", &self.path, error.into())),
            }
        })
    }
}

/// Makes an empty tree under another name and moves it here, so that a file that is there has a tree in it.
fn make(file: &Path) -> Result<(), StoreError> {
    let failed = |error| io_error("make", file.to_owned(), error);
    let mut unfinished = file.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let explain = |error| store_error("make", file, error);
    let database = Database::create(&unfinished).map_err(|error| explain(error.into()))?;
    let write = database.begin_write().map_err(|error| explain(error.into()))?;
    write.open_table(TABLE).map_err(|error| explain(error.into()))?;
    write.commit().map_err(|error| explain(error.into()))?;
    drop(database);
    fs::rename(&unfinished, file).map_err(failed)?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn store_error(verb: &'static str, file: &Path, error: Error) -> StoreError {
    let path = file.to_owned();
    match error {
        Error::Io(source) => io_error(verb, path, source),
        Error::DatabaseAlreadyOpen => StoreError::InUse { path },
        Error::PreviousIo | Error::DatabaseClosed | Error::LockPoisoned(_) => StoreError::Stopped { path },
        Error::Corrupted(problem) => StoreError::Damaged { path, problem },
        Error::RepairAborted => StoreError::Damaged { path, problem: "it can't be repaired".to_owned() },
        Error::UpgradeRequired(version) => {
            StoreError::Damaged { path, problem: format!("it is in the old file format {version}") }
        }
        Error::TableTypeMismatch { .. } | Error::TableDoesNotExist(_) => {
            StoreError::Damaged { path, problem: "its table is not there".to_owned() }
        }
        other => StoreError::Backend { verb, path, source: Box::new(other) },
    }
}
