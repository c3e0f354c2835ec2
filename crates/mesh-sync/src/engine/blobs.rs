//! Large payloads: kept in pieces, and fetched from peers piece by piece.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::{
    EngineEvent, SyncError, Written,
    actor::Actor,
    commands::documents::writable,
    core::{Core, lock, stopped},
    dataset::Dataset,
    frame::{Answer, Request},
    link::Link,
};
use crate::{
    EntryId,
    blob::{self, BlobError, CHUNK_BYTES, ChunkId, Manifest, MissingFrom, Wanted},
    entry::{Collection, DatasetId, Draft, Kind},
};

/// Payloads of one dataset that are fetched at once; others wait for their turn.
const FETCHES_MAX: usize = 2;
/// Payloads that wait; what is beyond is found again at the next start, or when it is read.
const WAITING_MAX: usize = 4096;
/// Pieces of one payload that are asked for at once.
const PIECES_MAX: usize = 4;
/// Pieces that are looked for at once.
const LOOK_MAX: usize = 64;
/// Pause when nobody has what is missing.
const PAUSE: Duration = Duration::from_millis(500);

/// Payloads of a dataset whose pieces are not all here.
#[derive(Default)]
pub(super) struct Blobs {
    missing: BTreeMap<EntryId, (Manifest, bool)>,
}

impl Actor {
    /// A large payload is named by a last write.
    pub(super) fn want_blob(&mut self, id: EntryId, payload: &Bytes) {
        // One that can't be read has no pieces; its entry is kept as it is.
        let Ok(manifest) = Manifest::decode(payload) else { return };
        if self.blobs.missing.len() < WAITING_MAX {
            self.blobs.missing.entry(id).or_insert((manifest, false));
            self.fetch_next();
        }
    }

    /// After the view was read: what is missing of the last writes.
    pub(super) fn look_for_blobs(&mut self) {
        let (core, dataset) = (Arc::clone(&self.core), Arc::clone(&self.dataset));
        self.core.spawn(async move {
            let (reading, chunks) = (Arc::clone(&dataset), Arc::clone(&core.chunks));
            let found = tokio::task::spawn_blocking(move || {
                let blobs: Vec<EntryId> = {
                    let documents = reading.view.read();
                    let blobs = documents.versions().filter(|(_, version)| version.kind == Kind::Blob);
                    blobs.map(|(_, version)| version.item.id).take(WAITING_MAX).collect()
                };
                let mut missing = Vec::new();
                for id in blobs {
                    let Ok(found) = reading.store.get(&[id]) else { continue };
                    let Some(stored) = found.into_iter().flatten().next() else { continue };
                    let payload = stored.entry.payload();
                    let Ok(manifest) = Manifest::decode(&payload) else { continue };
                    let looked = blob::missing(&manifest, &*chunks, MissingFrom::START, 1);
                    if looked.map_or(true, |looked| !looked.wanted.is_empty()) {
                        missing.push((id, payload));
                    }
                }
                missing
            });
            for (id, payload) in found.await.unwrap_or_default() {
                let _ = dataset.asks.send(Box::new(move |actor| actor.want_blob(id, &payload))).await;
            }
        });
    }

    fn fetch_next(&mut self) {
        let running = self.blobs.missing.values().filter(|(_, running)| *running).count();
        let next = self.blobs.missing.iter_mut().find(|(_, (_, running))| !*running);
        if let Some((id, (manifest, is_running))) = next.filter(|_| running < FETCHES_MAX) {
            *is_running = true;
            let (core, dataset) = (Arc::clone(&self.core), Arc::clone(&self.dataset));
            let (id, manifest) = (*id, manifest.clone());
            self.core.spawn(async move {
                let mut stop = core.stop.subscribe();
                let is_done = tokio::select! {
                    is_done = fetch(&core, &dataset, &manifest) => is_done,
                    () = stopped(&mut stop) => return,
                };
                let _ = dataset.asks.send(Box::new(move |actor| actor.on_blob(id, is_done))).await;
            });
        }
        lock(&self.dataset.board).blobs_missing = self.blobs.missing.len();
    }

    fn on_blob(&mut self, id: EntryId, is_done: bool) {
        self.blobs.missing.remove(&id);
        if is_done {
            self.core.tell(EngineEvent::BlobComplete { dataset: self.dataset.id.clone(), id });
        }
        self.fetch_next();
    }
}

/// Fetches what is missing of a payload until it is whole. `false` if the chunks can't be kept here.
async fn fetch(core: &Arc<Core>, dataset: &Arc<Dataset>, manifest: &Manifest) -> bool {
    let mut turn = 0;
    loop {
        let (chunks, looked_for) = (Arc::clone(&core.chunks), manifest.clone());
        let looked = tokio::task::spawn_blocking(move || {
            blob::missing(&looked_for, &*chunks, MissingFrom::START, LOOK_MAX)
        });
        let missing = match looked.await {
            Ok(Ok(missing)) => missing,
            Ok(Err(error)) => {
                tracing::warn!(dataset = %dataset.id, %error, "pieces of a payload can't be looked for");
                return false;
            }
            Err(_) => return false,
        };
        if missing.wanted.is_empty() && missing.next.is_none() {
            return true;
        }
        let links: Vec<Arc<Link>> = core
            .links()
            .into_iter()
            .filter(|link| link.is_open() && link.number_of(&dataset.id).is_some())
            .collect();
        let mut got = 0;
        if !links.is_empty() {
            let pieces = missing.wanted.into_iter().enumerate().map(|(at, wanted)| {
                // Peers take turns, and whoever lacks a piece is passed over the next time.
                let link = Arc::clone(&links[(turn + at) % links.len()]);
                fetch_piece(core, dataset, link, wanted)
            });
            let fetched: Vec<bool> =
                futures_util::stream::iter(pieces).buffer_unordered(PIECES_MAX).collect().await;
            got = fetched.into_iter().filter(|got| *got).count();
        }
        turn += 1;
        if got == 0 {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn fetch_piece(core: &Arc<Core>, dataset: &Arc<Dataset>, link: Arc<Link>, wanted: Wanted) -> bool {
    let Some(number) = link.number_of(&dataset.id) else { return false };
    let answer = link.ask(&dataset.id, Request::Chunk { dataset: number, id: wanted.id }).await;
    let Some(Answer::Chunk(Some(content))) = answer else { return false };
    let chunks = Arc::clone(&core.chunks);
    let kept = tokio::task::spawn_blocking(move || match wanted.check(&content) {
        Ok(()) => chunks.put(wanted.id, &content).is_ok(),
        Err(_) => false,
    });
    let kept = kept.await.unwrap_or(false);
    if !kept {
        core.counters.lock().malformed += 1;
    }
    kept
}

impl Core {
    pub(super) async fn read_chunk(&self, id: ChunkId) -> Answer {
        let chunks = Arc::clone(&self.chunks);
        match tokio::task::spawn_blocking(move || chunks.get(id)).await {
            Ok(Ok(content)) => Answer::Chunk(content.map(Bytes::from)),
            _ => Answer::Refused("the pieces can't be read".into()),
        }
    }

    pub(super) async fn put_blob(
        &self,
        dataset: &DatasetId,
        collection: &Collection,
        key: Bytes,
        mut source: Box<dyn Read + Send>,
    ) -> Result<Written, SyncError> {
        self.dataset(dataset)?;
        writable(collection)?;
        let chunks = Arc::clone(&self.chunks);
        let split = tokio::task::spawn_blocking(move || blob::split(&mut *source, CHUNK_BYTES, &*chunks));
        let manifest = split.await.map_err(|error| SyncError::Interrupted(error.into()))??;
        self.write(dataset, Draft::blob(collection, key, manifest.encode())).await
    }

    pub(super) async fn read_blob<W: Write + Send + 'static>(
        &self,
        dataset: &DatasetId,
        collection: &Collection,
        key: &[u8],
        mut sink: W,
    ) -> Result<Option<(W, u64)>, SyncError> {
        let Some(document) = self.get(dataset, collection, key).await? else { return Ok(None) };
        let (chunks, kind, payload) =
            (Arc::clone(&self.chunks), document.version.kind, document.payload.clone());
        let written = tokio::task::spawn_blocking(move || {
            if kind != Kind::Blob {
                let written = sink.write_all(&payload);
                return written
                    .map(|()| (sink, payload.len() as u64))
                    .map_err(|source| Err(BlobError::Io { verb: "write", source }));
            }
            let read = Manifest::decode(&payload).map_err(BlobError::from);
            let manifest = read.map_err(Err)?;
            let missing = blob::missing(&manifest, &*chunks, MissingFrom::START, LOOK_MAX).map_err(Err)?;
            if !missing.wanted.is_empty() {
                return Err(Ok(missing.wanted.len()));
            }
            blob::assemble(&manifest, &*chunks, &mut sink).map_err(Err)?;
            Ok((sink, manifest.bytes()))
        });
        match written.await.map_err(|error| SyncError::Interrupted(error.into()))? {
            Ok(written) => Ok(Some(written)),
            Err(Err(error)) => Err(error.into()),
            Err(Ok(missing)) => {
                let (id, payload) = (document.version.item.id, document.payload);
                let front = self.dataset(dataset)?;
                // Where there is no room it is asked for with the next read.
                let _ = front.asks.try_send(Box::new(move |actor| actor.want_blob(id, &payload)));
                Err(SyncError::Incomplete { dataset: dataset.clone(), missing })
            }
        }
    }
}
