//! Snapshots as files: the state in pieces, then what it covers.
//!
//! ```text
//! pieces   as `SnapshotWriter` makes them
//! meta     a RaftSnapshotMeta, with the pieces' length and hash
//! end      meta's length 4, version 4, meta's xxh3 8, magic 8
//! ```
//!
//! A snapshot is written beside the old one, synced, and renamed over it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{RaftError, codec, types::SnapshotMeta};
use crate::{
    state::{SnapshotReader, SnapshotWriter, State},
    wire,
};

const MAGIC: [u8; 8] = *b"MESHSNAP";
const VERSION: u32 = 1;
const END_BYTES: u64 = 24;
/// The largest meta that is read.
const META_BYTES_MAX: u32 = 1 << 20;
/// Bytes that are read from the file in one go.
const READ_BYTES: usize = 256 << 10;

const NAME: &str = "snapshot";
const BUILDING: &str = "snapshot.building";
/// Followed by a number.
const INCOMING: &str = "snapshot.incoming.";

fn io_error(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RaftError {
    let path = path.to_owned();
    move |source| RaftError::Io { verb, path, source }
}

/// A complete snapshot. The file stays readable while anybody holds this, even once a newer one is in place.
#[derive(Debug)]
pub(super) struct SnapshotFile {
    file: File,
    path: PathBuf,
    /// Whether it is to be removed when nobody holds it any more.
    temporary: AtomicBool,
    /// What it covers.
    pub(super) meta: SnapshotMeta,
    /// Bytes of its pieces.
    pub(super) bytes: u64,
    /// Their hash.
    pub(super) xxh3: u64,
}

impl SnapshotFile {
    /// The snapshot in a folder, if there is one. What half-written ones left behind is removed.
    pub(super) fn open(folder: &Path) -> Result<Option<Self>, RaftError> {
        for entry in fs::read_dir(folder).map_err(io_error("list", folder))? {
            let entry = entry.map_err(io_error("list", folder))?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name == BUILDING || name.starts_with(INCOMING)) {
                fs::remove_file(entry.path()).map_err(io_error("remove", &entry.path()))?;
            }
        }
        Self::look(folder)
    }

    /// Where the snapshot of a folder is.
    pub(super) fn path(folder: &Path) -> PathBuf {
        folder.join(NAME)
    }

    /// The snapshot in a folder, if there is one. Changes nothing.
    pub(super) fn look(folder: &Path) -> Result<Option<Self>, RaftError> {
        let path = Self::path(folder);
        match File::open(&path) {
            Ok(file) => Self::parse(file, path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("open", &path)(error)),
        }
    }

    fn parse(file: File, path: PathBuf) -> Result<Self, RaftError> {
        let damaged = |at: u64, problem: String| RaftError::Damaged { path: path.clone(), at, problem };
        let length = file.metadata().map_err(io_error("read", &path))?.len();
        let Some(end_at) = length.checked_sub(END_BYTES) else {
            return Err(damaged(0, format!("it has {length} bytes, less than its end")));
        };
        let mut end = [0; END_BYTES as usize];
        file.read_exact_at(&mut end, end_at).map_err(io_error("read", &path))?;
        let half = |at: usize| u32::from_le_bytes(end[at..at + 4].try_into().expect("four bytes of an end"));
        let sum = u64::from_le_bytes(end[8..16].try_into().expect("eight bytes of an end"));
        if end[16..] != MAGIC {
            return Err(damaged(end_at, "it does not end as a snapshot".to_owned()));
        }
        let (meta_bytes, version) = (half(0), half(4));
        if version != VERSION {
            return Err(damaged(
                end_at,
                format!("its format has version {version}, this program reads {VERSION}"),
            ));
        }
        let meta_at = end_at.checked_sub(u64::from(meta_bytes)).filter(|_| meta_bytes <= META_BYTES_MAX);
        let Some(meta_at) = meta_at else {
            return Err(damaged(end_at, format!("its end announces {meta_bytes} bytes")));
        };
        let mut meta = vec![0; meta_bytes as usize];
        file.read_exact_at(&mut meta, meta_at).map_err(io_error("read", &path))?;
        if xxh3_64(&meta) != sum {
            return Err(damaged(meta_at, "its head does not fit its checksum".to_owned()));
        }
        let message = wire::RaftSnapshotMeta::decode(&*meta);
        let message = message.map_err(|error| damaged(meta_at, error.to_string()))?;
        if message.bytes != meta_at {
            return Err(damaged(meta_at, format!("it has {meta_at} bytes, {} are due", message.bytes)));
        }
        let meta =
            codec::snapshot_meta_from(&message).map_err(|error| damaged(meta_at, error.to_string()))?;
        let temporary = AtomicBool::new(false);
        Ok(Self { file, path, temporary, meta, bytes: message.bytes, xxh3: message.xxh3 })
    }

    /// One after the index of the last entry that it has.
    pub(super) fn covers(&self) -> u64 {
        self.meta.last_log_id.map_or(0, |id| id.index + 1)
    }

    /// What it is, for a peer.
    pub(super) fn describe(&self) -> wire::RaftSnapshotMeta {
        codec::snapshot_meta_to(&self.meta, self.bytes, self.xxh3)
    }

    /// At most so many of its bytes from `offset` on.
    pub(super) fn read(&self, offset: u64, bytes_max: usize) -> Result<Bytes, RaftError> {
        let left = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut buffer = vec![0; left.min(bytes_max)];
        self.file.read_exact_at(&mut buffer, offset).map_err(io_error("read", &self.path))?;
        Ok(buffer.into())
    }

    /// The state that it holds.
    pub(super) fn load(&self) -> Result<State, RaftError> {
        let damaged = |at, problem: String| RaftError::Damaged { path: self.path.clone(), at, problem };
        let mut reader = SnapshotReader::default();
        let mut hash = Xxh3::new();
        let mut at = 0;
        while at < self.bytes {
            let piece = self.read(at, READ_BYTES)?;
            hash.update(&piece);
            reader.push(&piece).map_err(|error| damaged(at, super::log::chain(&error)))?;
            at += piece.len() as u64;
        }
        if hash.digest() != self.xxh3 {
            return Err(damaged(0, "it does not fit its checksum".to_owned()));
        }
        reader.finish().map_err(|error| damaged(at, super::log::chain(&error)))
    }

    /// Puts it in the place of the present one, if it is not there already.
    pub(super) fn put_in_place(&self, folder: &Path) -> Result<(), RaftError> {
        if !self.temporary.load(Ordering::Relaxed) {
            return Ok(());
        }
        let to = folder.join(NAME);
        fs::rename(&self.path, &to).map_err(io_error("replace", &to))?;
        self.temporary.store(false, Ordering::Relaxed);
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("sync the folder", folder))
    }
}

impl Drop for SnapshotFile {
    fn drop(&mut self) {
        if self.temporary.load(Ordering::Relaxed) {
            // Best effort: the next start removes what is left.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// A snapshot while it is written.
struct Draft {
    file: io::BufWriter<File>,
    path: PathBuf,
    hash: Xxh3,
    bytes: u64,
}

impl Draft {
    fn new(path: PathBuf) -> Result<Self, RaftError> {
        let file = create(&path).map_err(io_error("make", &path))?;
        Ok(Self { file: io::BufWriter::with_capacity(READ_BYTES, file), path, hash: Xxh3::new(), bytes: 0 })
    }

    fn push(&mut self, piece: &[u8]) -> Result<(), RaftError> {
        self.file.write_all(piece).map_err(io_error("write", &self.path))?;
        self.hash.update(piece);
        self.bytes += piece.len() as u64;
        Ok(())
    }

    fn finish(mut self, meta: SnapshotMeta) -> Result<SnapshotFile, RaftError> {
        let xxh3 = self.hash.digest();
        let encoded = codec::snapshot_meta_to(&meta, self.bytes, xxh3).encode_to_vec();
        let length = u32::try_from(encoded.len()).unwrap_or(u32::MAX);
        let sum = xxh3_64(&encoded);
        let parts = [&encoded[..], &length.to_le_bytes(), &VERSION.to_le_bytes(), &sum.to_le_bytes(), &MAGIC];
        let mut write = || {
            for part in parts {
                self.file.write_all(part)?;
            }
            self.file.flush()?;
            self.file.get_ref().sync_all()
        };
        write().map_err(io_error("write", &self.path))?;
        let file =
            self.file.into_inner().map_err(|error| io_error("write", &self.path)(error.into_error()))?;
        let temporary = AtomicBool::new(true);
        Ok(SnapshotFile { file, path: self.path, temporary, meta, bytes: self.bytes, xxh3 })
    }
}

/// Writes a snapshot of `state`, beside the present one.
pub(super) fn build(folder: &Path, state: State, meta: SnapshotMeta) -> Result<SnapshotFile, RaftError> {
    let path = folder.join(BUILDING);
    let write = || {
        let mut draft = Draft::new(path.clone())?;
        for piece in SnapshotWriter::new(state) {
            draft.push(&piece)?;
        }
        draft.finish(meta)
    };
    let written = write();
    if written.is_err() {
        // Best effort: a full disk should get its space back.
        let _ = fs::remove_file(&path);
    }
    written
}

/// A snapshot that comes from a peer, piece by piece. Goes on where it stopped as long as the peer has the
/// same snapshot.
pub(super) struct Incoming {
    folder: PathBuf,
    under_way: Option<(wire::RaftSnapshotMeta, Draft)>,
    /// Tells files apart: one may be about to be installed while the next comes in.
    number: u64,
}

impl Incoming {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, under_way: None, number: 0 }
    }

    /// How many bytes of that snapshot are here.
    pub(super) fn offset(&self, meta: &wire::RaftSnapshotMeta) -> u64 {
        self.under_way.as_ref().filter(|(known, _)| known == meta).map_or(0, |(_, draft)| draft.bytes)
    }

    /// Takes a piece that begins at `offset`; one that does not fit what is here is ignored. The snapshot,
    /// once it is complete.
    ///
    /// # Errors
    ///
    /// If it can't be written, or does not fit its hash. It begins anew then.
    pub(super) fn push(
        &mut self,
        meta: &wire::RaftSnapshotMeta,
        offset: u64,
        piece: &[u8],
    ) -> Result<Option<Arc<SnapshotFile>>, RaftError> {
        if self.under_way.as_ref().is_none_or(|(known, _)| known != meta) {
            self.drop_file();
            self.number += 1;
            let draft = Draft::new(self.folder.join(format!("{INCOMING}{}", self.number)))?;
            self.under_way = Some((meta.clone(), draft));
        }
        let Some((_, draft)) = &mut self.under_way else { return Ok(None) };
        if draft.bytes == offset
            && let Err(error) = draft.push(piece)
        {
            self.drop_file();
            return Err(error);
        }
        if draft.bytes < meta.bytes {
            return Ok(None);
        }
        let Some((meta, draft)) = self.under_way.take() else { return Ok(None) };
        let path = draft.path.clone();
        let complete = complete(&meta, draft);
        if complete.is_err() {
            // Best effort: each try has a file of its own, and a full disk should get its space back.
            let _ = fs::remove_file(&path);
        }
        complete.map(|snapshot| Some(Arc::new(snapshot)))
    }

    fn drop_file(&mut self) {
        if let Some((_, draft)) = self.under_way.take() {
            // Best effort: a full disk should get its space back.
            let _ = fs::remove_file(&draft.path);
        }
    }
}

/// Makes a snapshot of all that came, if it is what was to come.
fn complete(meta: &wire::RaftSnapshotMeta, draft: Draft) -> Result<SnapshotFile, RaftError> {
    let damaged = |problem: String| RaftError::Damaged { path: draft.path.clone(), at: 0, problem };
    if draft.bytes != meta.bytes || draft.hash.digest() != meta.xxh3 {
        return Err(damaged("it is not what the leader has".to_owned()));
    }
    let covered = codec::snapshot_meta_from(meta).map_err(|error| damaged(error.to_string()))?;
    draft.finish(covered)
}

/// Removes the snapshot of a folder.
pub(super) fn clear(folder: &Path) -> Result<(), RaftError> {
    let path = folder.join(NAME);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_that_is_refused_leaves_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let built = build(folder.path(), State::default(), SnapshotMeta::default()).expect("built");
        let pieces = built.read(0, usize::MAX).expect("read");
        let good = built.describe();
        drop(built);
        let left = || fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(left(), 0);
        let other_hash = wire::RaftSnapshotMeta { xxh3: good.xxh3 ^ 1, ..good.clone() };
        let no_membership = wire::RaftSnapshotMeta { membership: None, ..good.clone() };
        let mut incoming = Incoming::new(folder.path().to_owned());
        for meta in [other_hash, no_membership] {
            incoming.push(&meta, 0, &pieces).expect_err("not what was to come");
            assert_eq!((left(), incoming.offset(&meta)), (0, 0), "it begins anew, and nothing is left");
        }
        let (first, second) = pieces.split_at(pieces.len() / 2);
        assert!(incoming.push(&good, 0, first).expect("taken").is_none());
        let whole = incoming.push(&good, first.len() as u64, second).expect("taken").expect("complete");
        assert_eq!(left(), 1);
        whole.load().expect("whole");
    }
}
