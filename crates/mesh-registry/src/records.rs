//! Records with a Rust type: read, listed, written, and updated until no other writer is in the way.
//!
//! A [`Records`] is a type, a codec and the beginning of the keys it lives under. What is stored says
//! which version of the type wrote it; a version that is newer than this program's is refused rather than
//! overwritten.

mod codec;

use std::{marker::PhantomData, sync::Arc, time::Duration};

use mesh_core::{
    FencingToken, NodeId, Revision,
    store::{
        AuditNote, Compare, IdempotencyKey, Key, KeyError, Operation, Prefix, Record, Scan, StoreError, Txn,
        TxnError, VersionedStore,
    },
};

#[cfg(feature = "serde")]
pub use codec::Json;
pub use codec::{Codec, CodecError, Protobuf};

/// How often an update is tried against other writers.
pub const UPDATE_TRIES_MAX: u32 = 10;
/// First pause between two tries; doubles with each.
const UPDATE_PAUSE: Duration = Duration::from_millis(1);

/// Why typed records could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The name does not make a key.
    #[error(transparent)]
    Name(#[from] KeyError),
    /// What is stored can't be read, or the value can't be written.
    #[error("record {key}: {error}")]
    Codec {
        /// The record.
        key: Key,
        /// What is wrong with it.
        error: CodecError,
    },
    /// Other writers were faster each time.
    #[error("record {key} was changed by others {tries} times while it was updated; retry later")]
    Contended {
        /// The record.
        key: Key,
        /// How often it was tried.
        tries: u32,
    },
    /// The store refused the change, or did not answer.
    #[error(transparent)]
    Txn(#[from] TxnError),
}

impl From<StoreError> for RecordError {
    fn from(error: StoreError) -> Self {
        Self::Txn(error.into())
    }
}

/// What goes with a change.
#[derive(Clone, Debug, Default)]
pub struct With {
    /// Leaves an audit record.
    pub audit: Option<AuditNote>,
    /// Makes a retry by the caller safe. Not for [`Records::update`], each of whose tries is another change.
    pub once: Option<IdempotencyKey>,
    /// Grants that must be held with these tokens.
    pub fences: Vec<(Key, FencingToken)>,
}

impl With {
    /// An audit record and nothing else.
    pub fn audit(note: AuditNote) -> Self {
        Self { audit: Some(note), ..Self::default() }
    }
}

/// A value as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typed<T> {
    /// The value.
    pub value: T,
    /// The transaction that last wrote it.
    pub revision: Revision,
    /// The transaction that made it.
    pub created_revision: Revision,
    /// Who last wrote it.
    pub last_writer: NodeId,
}

/// Some values in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypedPage<T> {
    /// Names and values.
    pub items: Vec<(String, Typed<T>)>,
    /// The name after which the next page begins; `None` if nothing follows.
    pub next: Option<String>,
    /// The store's revision at the moment of the read: a watch from here misses nothing.
    pub revision: Revision,
}

/// What an update makes of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// Writes this.
    Write(T),
    /// Deletes it.
    Delete,
    /// Leaves it as it is.
    Keep,
}

/// Records of one type under one prefix.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use mesh_registry::{MemoryStore, records::{Protobuf, Records, Step, With}};
/// // Any prost message will do; a `u64` is one.
/// let counters: Records<u64, Protobuf> =
///     Records::new(Arc::new(MemoryStore::new()), "counters/", "n1".parse()?, Protobuf { version: 1 })?;
/// let add = |present: Option<u64>| Step::Write(present.unwrap_or(0) + 1);
/// counters.update("visits", add, With::default()).await?;
/// let visits = counters.update("visits", add, With::default()).await?;
/// assert_eq!(visits.map(|typed| typed.value), Some(2));
/// # Ok(())
/// # }
/// ```
pub struct Records<T, C> {
    store: Arc<dyn VersionedStore>,
    prefix: Prefix,
    writer: NodeId,
    codec: C,
    of: PhantomData<fn() -> T>,
}

impl<T, C: std::fmt::Debug> std::fmt::Debug for Records<T, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records")
            .field("prefix", &self.prefix)
            .field("codec", &self.codec)
            .finish_non_exhaustive()
    }
}

impl<T, C: Codec<T>> Records<T, C> {
    /// Records under `prefix`, written by `writer`.
    ///
    /// # Errors
    ///
    /// [`KeyError`] for a prefix that no key can begin with.
    pub fn new(
        store: Arc<dyn VersionedStore>,
        prefix: impl AsRef<str>,
        writer: NodeId,
        codec: C,
    ) -> Result<Self, KeyError> {
        Ok(Self { store, prefix: Prefix::new(prefix)?, writer, codec, of: PhantomData })
    }

    /// The key of a name.
    ///
    /// # Errors
    ///
    /// [`KeyError`] for a name that makes no key.
    pub fn key(&self, name: &str) -> Result<Key, KeyError> {
        Key::new(format!("{}{name}", self.prefix.as_str()))
    }

    fn decode(&self, record: &Record) -> Result<Typed<T>, RecordError> {
        let value = self.codec.decode(&record.value);
        let value = value.map_err(|error| RecordError::Codec { key: record.key.clone(), error })?;
        Ok(Typed {
            value,
            revision: record.revision,
            created_revision: record.created_revision,
            last_writer: record.last_writer.clone(),
        })
    }

    fn put(&self, key: &Key, value: &T) -> Result<Operation, RecordError> {
        let encoded = self.codec.encode(value);
        let value = encoded.map_err(|error| RecordError::Codec { key: key.clone(), error })?;
        Ok(Operation::Put { key: key.clone(), value, session: None })
    }

    async fn change(
        &self,
        compare: Option<Compare>,
        operation: Operation,
        with: With,
    ) -> Result<Revision, TxnError> {
        let mut txn = Txn::new(self.writer.clone()).then(operation);
        txn.compares = with.fences.into_iter().map(|(key, token)| Compare::Fence { key, token }).collect();
        txn.compares.extend(compare);
        (txn.audit, txn.idempotency) = (with.audit, with.once);
        Ok(self.store.transact(txn).await?.revision)
    }

    /// The value at a name now.
    ///
    /// # Errors
    ///
    /// [`RecordError::Codec`] if it can't be read.
    pub async fn get(&self, name: &str) -> Result<Option<Typed<T>>, RecordError> {
        let found = self.store.get(&self.key(name)?).await?.value;
        found.map(|record| self.decode(&record)).transpose()
    }

    /// Values in the order of their names, after `after`, at most `limit`.
    ///
    /// # Errors
    ///
    /// [`RecordError::Codec`] if one of them can't be read.
    pub async fn list(&self, after: Option<&str>, limit: usize) -> Result<TypedPage<T>, RecordError> {
        let after = after.map(|name| self.key(name)).transpose()?;
        let found = self.store.scan(&Scan { prefix: self.prefix.clone(), after, limit }).await?;
        let name = |record: &Record| record.key.as_str()[self.prefix.as_str().len()..].to_owned();
        let next = found.value.records.last().filter(|_| found.value.more).map(name);
        let items = found.value.records.iter().map(|record| Ok((name(record), self.decode(record)?)));
        let items = items.collect::<Result<_, RecordError>>()?;
        Ok(TypedPage { items, next, revision: found.revision })
    }

    /// Writes a value, whatever was there before.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn set(&self, name: &str, value: &T, with: With) -> Result<Revision, RecordError> {
        let key = self.key(name)?;
        Ok(self.change(None, self.put(&key, value)?, with).await?)
    }

    /// Writes a value where there is none.
    ///
    /// # Errors
    ///
    /// [`TxnError::Conflict`] if there is one.
    pub async fn create(&self, name: &str, value: &T, with: With) -> Result<Revision, RecordError> {
        let key = self.key(name)?;
        let put = self.put(&key, value)?;
        Ok(self.change(Some(Compare::Absent { key }), put, with).await?)
    }

    /// Writes a value in place of the one that was written at `revision`.
    ///
    /// # Errors
    ///
    /// [`TxnError::Conflict`] if another is there by now.
    pub async fn replace(
        &self,
        name: &str,
        revision: Revision,
        value: &T,
        with: With,
    ) -> Result<Revision, RecordError> {
        let key = self.key(name)?;
        let put = self.put(&key, value)?;
        Ok(self.change(Some(Compare::Revision { key, revision }), put, with).await?)
    }

    /// Deletes the value; the one that was written at `revision`, if that is given.
    ///
    /// # Errors
    ///
    /// [`TxnError::Conflict`] if another is there by now.
    pub async fn delete(
        &self,
        name: &str,
        revision: Option<Revision>,
        with: With,
    ) -> Result<Revision, RecordError> {
        let key = self.key(name)?;
        let compare = revision.map(|revision| Compare::Revision { key: key.clone(), revision });
        Ok(self.change(compare, Operation::Delete { key }, with).await?)
    }

    /// Lets `step` decide what becomes of the value, again for each other writer that was faster, at most
    /// [`UPDATE_TRIES_MAX`] times. Returns what is there afterwards.
    ///
    /// # Errors
    ///
    /// [`RecordError::Contended`] after the last try. If the store did not answer, the change may have been
    /// made ([`TxnError::applied`]); it is not tried again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may still make the change.
    pub async fn update(
        &self,
        name: &str,
        mut step: impl FnMut(Option<T>) -> Step<T>,
        with: With,
    ) -> Result<Option<Typed<T>>, RecordError>
    where
        T: Clone,
    {
        if with.once.is_some() {
            let problem = "With::once names one change, and each try of an update is another; leave it out";
            return Err(StoreError::Invalid { what: "update", problem: problem.to_owned() }.into());
        }
        let key = self.key(name)?;
        let mut pause = UPDATE_PAUSE;
        for _ in 0..UPDATE_TRIES_MAX {
            let found = self.store.get(&key).await?.value;
            let present = found.as_ref().map(|record| self.decode(record)).transpose()?;
            let compare = match &present {
                Some(typed) => Compare::Revision { key: key.clone(), revision: typed.revision },
                None => Compare::Absent { key: key.clone() },
            };
            let (operation, value) = match step(present.as_ref().map(|typed| typed.value.clone())) {
                Step::Keep => return Ok(present),
                Step::Delete if present.is_none() => return Ok(None),
                Step::Delete => (Operation::Delete { key: key.clone() }, None),
                Step::Write(value) => (self.put(&key, &value)?, Some(value)),
            };
            match self.change(Some(compare), operation, with.clone()).await {
                Ok(revision) => {
                    let created = present.map_or(revision, |typed| typed.created_revision);
                    return Ok(value.map(|value| Typed {
                        value,
                        revision,
                        created_revision: created,
                        last_writer: self.writer.clone(),
                    }));
                }
                Err(TxnError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause *= 2;
        }
        Err(RecordError::Contended { key, tries: UPDATE_TRIES_MAX })
    }
}

#[cfg(test)]
mod tests;
