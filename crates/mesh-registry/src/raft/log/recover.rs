//! What a log holds when it is opened.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;

use super::{
    frame::{ALIGNMENT, Fault, HEAD_BYTES, Head, Record, Span},
    index::{Index, Place},
    segment::{self, SEGMENT_BYTES, Segment, io_error, sync_folder},
};
use crate::raft::{RaftError, codec};

/// A log as it was found.
pub(super) struct Recovered {
    pub(super) index: Index,
    /// Segments in order, each with the highest index of an entry in it.
    pub(super) segments: Vec<(Arc<Segment>, Option<u64>)>,
    /// Where to go on in the last one; `None`: in a new one.
    pub(super) end: Option<u64>,
    /// The sequence number of the next frame.
    pub(super) sequence: u64,
}

/// Reads all segments of a folder.
///
/// A last write that never reached the disk as a whole is dropped: nothing that depended on it was
/// answered. Anything else that does not fit is damage, and an error.
pub(super) fn recover(folder: &Path) -> Result<Recovered, RaftError> {
    fs::create_dir_all(folder).map_err(io_error("make", folder))?;
    read(folder, Torn::Drop)
}

/// As [`recover`], for a log that nobody goes on with: nothing is changed.
pub(super) fn look(folder: &Path) -> Result<Recovered, RaftError> {
    if !folder.is_dir() {
        return Ok(Recovered { index: Index::default(), segments: Vec::new(), end: None, sequence: 1 });
    }
    read(folder, Torn::Keep)
}

/// What becomes of a last write that is not whole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Torn {
    Drop,
    Keep,
}

fn read(folder: &Path, torn: Torn) -> Result<Recovered, RaftError> {
    let numbers = segment::list(folder).map_err(io_error("list", folder))?;
    let mut reader = Reader { index: Index::default(), sequence: None };
    let mut segments = Vec::new();
    let mut end = None;
    for (place, number) in numbers.iter().enumerate() {
        let segment = Arc::new(Segment::open(folder, *number)?);
        if *number != numbers[0] + place as u64 {
            return Err(segment.damaged(0, format!("segment {} before it is missing", number - 1)));
        }
        let is_last = place + 1 == numbers.len();
        let scan = reader.scan(&segment)?;
        if let Some(fault) = scan.fault {
            let proof = scan.proof.or(first_proof(folder, &numbers[place + 1..], reader.next())?);
            if let Some(later) = proof {
                let problem =
                    format!("{fault}; frame {later} after it was written when this one was on disk");
                return Err(segment.damaged(scan.end, problem));
            }
            if !scan.torn {
                return Err(segment.damaged(scan.end, fault));
            }
            if torn == Torn::Drop {
                tracing::warn!(path = %segment.path.display(), at = scan.end, "the last write was torn and is dropped");
                drop_rest(folder, &segment, scan.end, &numbers[place + 1..])?;
            }
            segments.push((segment, scan.highest));
            end = None;
            break;
        }
        end = (is_last && scan.clean && scan.length == SEGMENT_BYTES).then_some(scan.end);
        if is_last && !scan.clean && torn == Torn::Drop {
            drop_rest(folder, &segment, scan.end, &[])?;
        }
        segments.push((segment, scan.highest));
    }
    if let Some((first, _)) = segments.first() {
        reader.index.check().map_err(|problem| first.damaged(0, problem))?;
    }
    // What is read now may be answered soon; it must be on the disk first, not in a cache alone.
    if let Some((last, _)) = segments.last() {
        last.file.sync_all().map_err(io_error("sync", &last.path))?;
    }
    Ok(Recovered { index: reader.index, segments, end, sequence: reader.sequence.map_or(1, |last| last + 1) })
}

struct Reader {
    index: Index,
    /// Of the last frame that was read.
    sequence: Option<u64>,
}

/// What one segment holds.
struct Scan {
    /// Where its last whole frame ends.
    end: u64,
    length: u64,
    highest: Option<u64>,
    /// What follows the end, if it is not zeros as it should be.
    fault: Option<String>,
    /// Whether that may be a write that the disk did not finish.
    torn: bool,
    /// A later frame that says that what is missing was on disk.
    proof: Option<u64>,
    /// Nothing but zeros follows.
    clean: bool,
}

impl Reader {
    fn next(&self) -> u64 {
        self.sequence.map_or(0, |last| last + 1)
    }

    fn scan(&mut self, segment: &Arc<Segment>) -> Result<Scan, RaftError> {
        let bytes = Bytes::from(fs::read(&segment.path).map_err(io_error("read", &segment.path))?);
        let length = bytes.len() as u64;
        let mut highest = None;
        let mut end = 0_u64;
        loop {
            let rest = bytes.slice(usize::try_from(end).unwrap_or(bytes.len()).min(bytes.len())..);
            let parsed = Head::parse(&rest, end).and_then(|head| {
                let body = end + HEAD_BYTES as u64;
                Ok((head, head.records(&rest.slice(HEAD_BYTES..), body)?))
            });
            let (fault, torn) = match parsed {
                Ok((head, _)) if self.sequence.is_some_and(|last| head.sequence != last + 1) => {
                    let (found, due) = (head.sequence, self.next());
                    (format!("frame {found} stands where frame {due} is due"), false)
                }
                Ok((head, records)) => {
                    self.sequence = Some(head.sequence);
                    for (span, record) in records {
                        let entry = self.take(segment, span, record)?;
                        highest = highest.max(entry);
                    }
                    end += head.bytes();
                    continue;
                }
                Err(Fault::Nothing) if rest.iter().all(|byte| *byte == 0) => {
                    let clean = true;
                    return Ok(Scan { end, length, highest, fault: None, torn: false, proof: None, clean });
                }
                Err(Fault::Nothing) => ("a frame is missing before what follows".to_owned(), true),
                Err(Fault::Torn) => ("a frame is not complete".to_owned(), true),
                Err(Fault::Damaged(problem)) => (problem, false),
                Err(Fault::Version(found)) => {
                    let problem = format!("its format has version {found}, this program reads up to 1");
                    return Err(segment.damaged(end, problem));
                }
            };
            let proof = proof_in(&rest, end, self.next());
            return Ok(Scan { end, length, highest, fault: Some(fault), torn, proof, clean: false });
        }
    }

    /// Applies a record to the index; the index of the entry, if it is one.
    fn take(&mut self, segment: &Arc<Segment>, span: Span, record: Record) -> Result<Option<u64>, RaftError> {
        match record {
            Record::Entry(entry) => {
                let entry = codec::entry_from(entry)
                    .map_err(|error| segment.damaged(span.offset, error.to_string()))?;
                let place = Place { segment: Arc::clone(segment), span };
                let index = entry.log_id.index;
                self.index.recover(entry, place).map_err(|problem| segment.damaged(span.offset, problem))?;
                return Ok(Some(index));
            }
            Record::Vote(ballot) => {
                self.index.vote = Some(codec::ballot_from(ballot));
                self.index.promised = self.index.vote;
            }
            Record::Committed(id) => self.index.committed = Some(codec::log_id_from(id)),
            Record::Truncated(through) => self.index.truncate(through.map(codec::log_id_from)),
            Record::Purged(id) => self.index.purge(codec::log_id_from(id)),
        }
        Ok(None)
    }
}

/// A frame in `rest` that was written after frame `missing` was on disk.
fn proof_in(rest: &[u8], offset: u64, missing: u64) -> Option<u64> {
    let step = usize::try_from(ALIGNMENT).unwrap_or(8);
    let starts = (step..rest.len()).step_by(step);
    starts.into_iter().find_map(|at| {
        let head = Head::parse(&rest[at..], offset + at as u64).ok()?;
        (head.synced >= missing && head.sequence > missing).then_some(head.sequence)
    })
}

fn first_proof(folder: &Path, later: &[u64], missing: u64) -> Result<Option<u64>, RaftError> {
    for number in later {
        let segment = Segment::open(folder, *number)?;
        let mut head = [0; HEAD_BYTES];
        let read = segment.file.read_at(&mut head, 0).map_err(io_error("read", &segment.path))?;
        if let Ok(head) = Head::parse(&head[..read], 0)
            && head.synced >= missing
            && head.sequence > missing
        {
            return Ok(Some(head.sequence));
        }
    }
    Ok(None)
}

/// Cuts off what follows `end`, so that it can't be taken for something that was written later.
fn drop_rest(folder: &Path, segment: &Segment, end: u64, later: &[u64]) -> Result<(), RaftError> {
    // From the last: a crash between leaves no segment without the one before it.
    for number in later.iter().rev() {
        let later = Segment::open(folder, *number)?;
        fs::remove_file(&later.path).map_err(io_error("remove", &later.path))?;
        sync_folder(folder).map_err(io_error("sync the folder", folder))?;
    }
    let cut = |file: &File| {
        file.set_len(end)?;
        file.sync_all()
    };
    cut(&segment.file).map_err(io_error("cut", &segment.path))
}

/// The records that begin a segment, so that those before it can go.
pub(super) fn opening(index: &Index) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    records.extend(index.purged.map(|id| Record::Purged(codec::log_id_to(id))));
    records.extend(index.vote.as_ref().map(|vote| Record::Vote(codec::ballot_to(vote))));
    records.extend(index.committed.map(|id: super::LogId| Record::Committed(codec::log_id_to(id))));
    records
}
