//! Snapshots and restores as streams of parts.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use mesh_core::store::{Applied, ByteStream, StoreError};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Status, Streaming};

use super::Replies;
use crate::wire::{SnapshotPart, failures, snapshot_part::Part};

/// Most bytes in one part.
const PART_BYTES_MAX: usize = 256 * 1024;

/// Cuts pieces into parts of a bounded size, and says at the end how much there was.
pub(super) fn parts(snapshot: ByteStream, place: OwnedSemaphorePermit) -> Replies<SnapshotPart> {
    struct Sending {
        snapshot: ByteStream,
        rest: Bytes,
        sent: u64,
        over: bool,
        _place: OwnedSemaphorePermit,
    }
    let sending = Sending { snapshot, rest: Bytes::new(), sent: 0, over: false, _place: place };
    Box::pin(stream::unfold(sending, |mut sending| async {
        if sending.over {
            return None;
        }
        while sending.rest.is_empty() {
            match sending.snapshot.next().await {
                Some(Ok(piece)) => sending.rest = piece,
                Some(Err(error)) => {
                    sending.over = true;
                    return Some((Err(failures::of_store(&error)), sending));
                }
                None => {
                    sending.over = true;
                    let part = SnapshotPart { part: Some(Part::End(sending.sent)) };
                    return Some((Ok(part), sending));
                }
            }
        }
        let data = sending.rest.split_to(sending.rest.len().min(PART_BYTES_MAX));
        sending.sent += data.len() as u64;
        Some((Ok(SnapshotPart { part: Some(Part::Data(data)) }), sending))
    }))
}

/// The bytes in an upload. It ends with an error unless the part that closes it came and agrees.
pub(super) fn pieces(upload: Streaming<SnapshotPart>) -> ByteStream {
    let next = |upload: Option<Streaming<SnapshotPart>>| async {
        let mut upload = upload?;
        Some(match upload.message().await {
            Ok(Some(part)) => (Ok(part), Some(upload)),
            Ok(None) => return None,
            Err(status) => (Err(broken(&status)), None),
        })
    };
    assemble(stream::unfold(Some(upload), next).boxed())
}

fn broken(status: &Status) -> StoreError {
    StoreError::Unavailable {
        operation: "transfer a snapshot",
        reason: format!("the transfer broke: {}", status.message()),
        applied: Applied::No,
        source: None,
    }
}

/// The bytes in parts that come from elsewhere, up to the part that closes them.
pub(crate) fn assemble(parts: stream::BoxStream<'static, Result<SnapshotPart, StoreError>>) -> ByteStream {
    let cut =
        |problem: String| Err(StoreError::Damaged { what: "the snapshot's transfer".to_owned(), problem });
    Box::pin(stream::unfold(Some((parts, 0_u64)), move |receiving| async move {
        let (mut parts, received) = receiving?;
        Some(match parts.next().await {
            Some(Ok(SnapshotPart { part: Some(Part::Data(data)) })) => {
                let received = received + data.len() as u64;
                (Ok(data), Some((parts, received)))
            }
            Some(Ok(SnapshotPart { part: Some(Part::End(total)) })) if total == received => return None,
            Some(Ok(SnapshotPart { part: Some(Part::End(total)) })) => {
                (cut(format!("{received} bytes came of {total}; take it again")), None)
            }
            Some(Ok(SnapshotPart { part: None })) => {
                (cut("a part of an unknown kind; is the other node newer?".to_owned()), None)
            }
            Some(Err(error)) => (Err(error), None),
            None => (cut(format!("it ended after {received} bytes without its last part")), None),
        })
    }))
}
