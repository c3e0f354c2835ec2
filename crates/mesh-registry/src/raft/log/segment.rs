//! Segments: the files that the log is made of, each reserved on the disk before it is written to.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use rustix::fs::{FallocateFlags, fallocate};

use super::frame::{self, Record, Span};
use crate::raft::RaftError;

/// Bytes of one segment.
#[cfg(not(test))]
pub(super) const SEGMENT_BYTES: u64 = 16 << 20;
/// Small ones, so that tests see many.
#[cfg(test)]
pub(super) const SEGMENT_BYTES: u64 = 256 << 10;

/// The segment that is written to next; its name tells that nothing is in it.
const SPARE: &str = "spare";

pub(super) fn io_error(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RaftError {
    let path = path.to_owned();
    move |source| RaftError::Io { verb, path, source }
}

pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn name(number: u64) -> String {
    format!("{number:016}.log")
}

/// The file of a segment.
pub(super) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(name(number))
}

/// The numbers of the segments in a folder, in order.
pub(super) fn list(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".log")).and_then(|n| n.parse().ok());
        numbers.extend::<Option<u64>>(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// One file of the log.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) file: File,
}

impl Segment {
    pub(super) fn open(folder: &Path, number: u64) -> Result<Self, RaftError> {
        let path = folder.join(name(number));
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(io_error("open", &path))?;
        Ok(Self { number, path, file })
    }

    /// The record at `span`, checked.
    pub(super) fn read(&self, span: Span) -> Result<Record, RaftError> {
        let mut buffer = vec![0; span.bytes as usize];
        self.file.read_exact_at(&mut buffer, span.offset).map_err(io_error("read", &self.path))?;
        frame::parse_record(&Bytes::from(buffer))
            .map(|(_, record)| record)
            .map_err(|problem| self.damaged(span.offset, problem))
    }

    pub(super) fn damaged(&self, at: u64, problem: impl Into<String>) -> RaftError {
        RaftError::Damaged { path: self.path.clone(), at, problem: problem.into() }
    }
}

/// Reserves the disk space of one more segment, so that writing to it can't fail for want of it.
///
/// What was left behind by a crash is made anew.
pub(super) fn reserve(folder: &Path) -> io::Result<()> {
    let path = folder.join(SPARE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(&path)?;
    let reserved = match fallocate(&file, FallocateFlags::empty(), 0, SEGMENT_BYTES) {
        Ok(()) => file.sync_all(),
        // Some file systems can't; there zeros are written.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => zeros(&file),
        Err(error) => Err(error.into()),
    };
    if reserved.is_err() {
        // Best effort: a full disk should get its space back.
        let _ = fs::remove_file(&path);
    }
    reserved
}

fn zeros(file: &File) -> io::Result<()> {
    let zeros = vec![0; 1 << 16];
    for offset in (0..SEGMENT_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, offset)?;
    }
    file.sync_all()
}

/// Makes the reserved space the segment `number`.
pub(super) fn take_spare(folder: &Path, number: u64) -> Result<Segment, RaftError> {
    let (spare, path) = (folder.join(SPARE), folder.join(name(number)));
    fs::rename(&spare, &path).map_err(io_error("rename", &spare))?;
    sync_folder(folder).map_err(io_error("sync the folder", folder))?;
    Segment::open(folder, number)
}
