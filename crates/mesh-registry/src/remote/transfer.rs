//! Snapshots from the leader, and restores through it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use mesh_core::{
    Revision,
    store::{Applied, ByteStream, Restored, StoreError},
};
use mesh_transport::rpc::{Channel, Lane};

use super::{Call, Shared, StoreClient, Whom};
use crate::{
    service::assemble,
    wire::{
        SnapshotPart, SnapshotRequest,
        failures::{self, Failure},
        snapshot_part::Part,
    },
};

/// Most bytes in one part of an upload.
const PART_BYTES_MAX: usize = 256 * 1024;
/// A restore is given so much longer than other requests.
const RESTORE_FACTOR: u32 = 60;

pub(super) async fn snapshot(shared: &Shared) -> Result<ByteStream, StoreError> {
    let lane = Lane::Bulk;
    let call = &Call {
        lane,
        hedge: false,
        streams: true,
        ..Call::read("take a snapshot", Whom::Leader, shared.timeout())
    };
    let send = |mut client: StoreClient<Channel>, left| {
        let request = call.request(SnapshotRequest {}, left);
        async move { client.snapshot(request).await }
    };
    let parts = shared.run(call, send).await?.reply;
    let timeout = shared.timeout();
    let broken = move |status| {
        StoreError::from(failures::from_status(status, "take a snapshot", timeout).without_effect())
    };
    Ok(assemble(parts.map(move |part| part.map_err(broken)).boxed()))
}

/// Sends a snapshot to the leader. It can't be sent twice, so the leader is looked for first.
pub(super) async fn restore(shared: &Shared, snapshot: ByteStream) -> Result<Restored, StoreError> {
    // A read that only the leader answers.
    shared.fetch(&super::watch::nowhere()?, Whom::Leader).await?;
    let timeout = shared.timeout() * RESTORE_FACTOR;
    let call = &Call {
        lane: Lane::Bulk,
        hedge: false,
        repeat: false,
        streams: true,
        ..Call::change("restore a snapshot", timeout)
    };
    let source = Arc::new(Source { snapshot: Mutex::new(Some(snapshot)), failed: Mutex::default() });
    let send = |mut client: StoreClient<Channel>, _left: Duration| {
        let source = Arc::clone(&source);
        async move { client.restore(upload(source)).await }
    };
    let restored = shared.run(call, send).await;
    // Why we stopped sending says more than how the other end took it.
    if let Some(error) = source.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error);
    }
    let restored = restored.map_err(|failure| match failure {
        Failure::Store(StoreError::Unavailable { operation, reason, source: Some(source), .. })
            if source.is::<crate::LedBy>() =>
        {
            StoreError::Unavailable { operation, reason, applied: Applied::No, source: Some(source) }
        }
        failure => failure.into(),
    })?;
    Ok(Restored { revision: Revision(restored.reply.revision), generation: restored.reply.generation })
}

struct Source {
    /// Taken by the first attempt.
    snapshot: Mutex<Option<ByteStream>>,
    /// Why the bytes ended early.
    failed: Mutex<Option<StoreError>>,
}

fn upload(source: Arc<Source>) -> impl futures_core::Stream<Item = SnapshotPart> + Send + 'static {
    let snapshot = source.snapshot.lock().unwrap_or_else(PoisonError::into_inner).take();
    let sending = snapshot.map(|snapshot| (source, snapshot, bytes::Bytes::new(), 0_u64));
    stream::unfold(sending, |sending| async {
        let (source, mut snapshot, mut rest, mut sent) = sending?;
        while rest.is_empty() {
            match snapshot.next().await {
                Some(Ok(piece)) => rest = piece,
                Some(Err(error)) => {
                    // Without its last part the upload counts for nothing.
                    *source.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return None;
                }
                None => return Some((SnapshotPart { part: Some(Part::End(sent)) }, None)),
            }
        }
        let data = rest.split_to(rest.len().min(PART_BYTES_MAX));
        sent += data.len() as u64;
        Some((SnapshotPart { part: Some(Part::Data(data)) }, Some((source, snapshot, rest, sent))))
    })
}
