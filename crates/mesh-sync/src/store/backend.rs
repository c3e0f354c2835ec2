//! What a store stands on: an ordered map of bytes.

use std::{ops::ControlFlow, path::Path};

use super::StoreError;

/// A change to one key: its new value, or `None` to remove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key, of at most some 1100 bytes.
    pub key: Vec<u8>,
    /// The new value.
    pub value: Option<Vec<u8>>,
}

impl Write {
    pub(super) fn put(key: Vec<u8>, value: impl Into<Vec<u8>>) -> Self {
        Self { key, value: Some(value.into()) }
    }

    pub(super) const fn remove(key: Vec<u8>) -> Self {
        Self { key, value: None }
    }
}

/// Called with a key and its value; says whether to go on.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StoreError> + 'a;

/// An ordered map of bytes with an atomic, durable commit. Keys are compared byte by byte.
///
/// Methods block. They are called from several threads at once.
pub trait Backend: Send + Sync + 'static {
    /// What errors name.
    fn path(&self) -> &Path;

    /// Whether the disk has room for what is written, and for what the backend writes beside it by and by. Whoever can
    /// wait asks before it writes.
    ///
    /// # Errors
    ///
    /// [`StoreError::Full`] if it has not.
    fn room(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if it can't be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits keys from `from` on and below `below`, in order, until told to stop. All of them as of one moment.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if one can't be read, or what `visit` returned.
    fn scan(&self, from: &[u8], below: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError>;

    /// The last key from `from` on and below `below`.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if it can't be read.
    fn last(&self, from: &[u8], below: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Writes all of it and returns when it is on disk. If one key is there twice, the later one holds. After a
    /// crash all of it is there or none of it, and nothing of what was committed later if it is not.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; all of it may be there, or none.
    fn commit(&self, writes: Vec<Write>) -> Result<(), StoreError>;

    /// Checks its own files, as far as it can.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`].
    fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
