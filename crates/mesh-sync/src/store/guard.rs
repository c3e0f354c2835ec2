//! Storage engines assert what damaged files break. That is an error here, not the end of the thread.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use super::StoreError;

/// Does `work`, and tells a panic in it as damage. With `panic = "abort"` the process ends.
pub(super) fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let problem = format!("the storage engine gave up on it ({})", text.unwrap_or("without a message"));
        Err(StoreError::Damaged { path: path.to_owned(), problem })
    })
}

/// Whether the disk that `path` is on has more than so many bytes left. If nobody can tell, it has.
pub(super) fn room(path: &Path, reserve_bytes: u64) -> Result<(), StoreError> {
    let Ok(disk) = rustix::fs::statvfs(path) else { return Ok(()) };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free > reserve_bytes {
        return Ok(());
    }
    let problem = format!("{free} bytes are free, and {reserve_bytes} are kept for what it writes by itself");
    let source = io::Error::new(io::ErrorKind::StorageFull, problem);
    Err(StoreError::Full { verb: "write", path: path.to_owned(), source })
}

/// What an error of the operating system means to a store.
pub(super) fn io_error(verb: &'static str, path: PathBuf, source: io::Error) -> StoreError {
    use io::ErrorKind::{InvalidData, NotFound, QuotaExceeded, StorageFull, UnexpectedEof};
    match source.kind() {
        StorageFull | QuotaExceeded => StoreError::Full { verb, path, source },
        UnexpectedEof => StoreError::Damaged { path, problem: "a file in it ends too early".to_owned() },
        InvalidData => StoreError::Damaged { path, problem: format!("a file in it can't be read: {source}") },
        NotFound => StoreError::Damaged { path, problem: "a file in it is missing".to_owned() },
        _ => StoreError::Io { verb, path, source },
    }
}
