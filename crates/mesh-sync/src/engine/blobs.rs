//! Large payloads: kept in pieces, and fetched from peers piece by piece.

use std::{
    collections::{BTreeMap, VecDeque},
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
    dataset::{Ask, Dataset},
    frame::{Answer, Request},
    link::Link,
};
use crate::{
    EntryId,
    blob::{self, BlobError, CHUNK_BYTES, ChunkId, Manifest, MissingFrom, Wanted},
    documents::{DocumentKey, Version},
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
/// Rounds in a row without a piece after which others have their turn; at least as many as there are peers, so that each
/// was asked for each piece.
const IN_VAIN_MIN: usize = 4;

/// Payloads of a dataset whose pieces are not all here.
#[derive(Default)]
pub(super) struct Blobs {
    missing: BTreeMap<EntryId, (DocumentKey, Manifest)>,
    /// Those that are not being fetched, in turn.
    waiting: VecDeque<EntryId>,
}

/// How an attempt to fetch a payload ended.
enum Fetched {
    Whole,
    /// Nobody has given a piece for a while.
    Nothing,
    /// Pieces can't be kept here.
    Failed,
}

impl Actor {
    /// A large payload is named by the last write to a document.
    pub(super) fn want_blob(&mut self, document: DocumentKey, id: EntryId, payload: &Bytes) {
        // One that can't be read has no pieces; its entry is kept as it is.
        let Ok(manifest) = Manifest::decode(payload) else { return };
        if self.blobs.missing.len() < WAITING_MAX && !self.blobs.missing.contains_key(&id) {
            self.blobs.missing.insert(id, (document, manifest));
            self.blobs.waiting.push_back(id);
            self.fetch_next();
        }
    }

    /// After the view was read: what is missing of the last writes.
    pub(super) fn look_for_blobs(&mut self) {
        let (core, dataset) = (Arc::clone(&self.core), Arc::clone(&self.dataset));
        self.core.spawn(async move {
            let (reading, chunks) = (Arc::clone(&dataset), Arc::clone(&core.chunks));
            let found = tokio::task::spawn_blocking(move || {
                let blobs: Vec<(DocumentKey, EntryId)> = {
                    let documents = reading.view.read();
                    let blobs = documents.versions().filter(|(_, version)| version.kind == Kind::Blob);
                    blobs.map(|(key, version)| (key.clone(), version.item.id)).take(WAITING_MAX).collect()
                };
                let mut missing = Vec::new();
                for (document, id) in blobs {
                    let Ok(found) = reading.store.get(&[id]) else { continue };
                    let Some(stored) = found.into_iter().flatten().next() else { continue };
                    let payload = stored.entry.payload();
                    let Ok(manifest) = Manifest::decode(&payload) else { continue };
                    let looked = blob::missing(&manifest, &*chunks, MissingFrom::START, 1);
                    if looked.map_or(true, |looked| !looked.wanted.is_empty()) {
                        missing.push((document, id, payload));
                    }
                }
                missing
            });
            for (document, id, payload) in found.await.unwrap_or_default() {
                let want: Ask = Box::new(move |actor| actor.want_blob(document, id, &payload));
                let _ = dataset.asks.send(want).await;
            }
        });
    }

    fn fetch_next(&mut self) {
        while self.blobs.missing.len() - self.blobs.waiting.len() < FETCHES_MAX {
            let Some(id) = self.blobs.waiting.pop_front() else { break };
            let Some((document, manifest)) = self.blobs.missing.get(&id) else { continue };
            let is_last = |last: &Version| last.item.id == id;
            if !self.dataset.view.read().last_write(document).is_some_and(is_last) {
                // It was overwritten or deleted meanwhile, and perhaps nobody has the pieces any more.
                self.blobs.missing.remove(&id);
                continue;
            }
            let (core, dataset) = (Arc::clone(&self.core), Arc::clone(&self.dataset));
            let manifest = manifest.clone();
            self.core.spawn(async move {
                let mut stop = core.stop.subscribe();
                let fetched = tokio::select! {
                    fetched = fetch(&core, &dataset, &manifest) => fetched,
                    () = stopped(&mut stop) => return,
                };
                let _ = dataset.asks.send(Box::new(move |actor| actor.on_blob(id, fetched))).await;
            });
        }
        lock(&self.dataset.board).blobs_missing = self.blobs.missing.len();
    }

    fn on_blob(&mut self, id: EntryId, fetched: Fetched) {
        match fetched {
            Fetched::Whole => {
                self.blobs.missing.remove(&id);
                self.core.tell(EngineEvent::BlobComplete { dataset: self.dataset.id.clone(), id });
            }
            // It is tried again after all others.
            Fetched::Nothing => self.blobs.waiting.push_back(id),
            Fetched::Failed => drop(self.blobs.missing.remove(&id)),
        }
        self.fetch_next();
    }
}

/// Fetches what is missing of a payload until it is whole.
async fn fetch(core: &Arc<Core>, dataset: &Arc<Dataset>, manifest: &Manifest) -> Fetched {
    let (mut turn, mut in_vain) = (0, 0_usize);
    loop {
        let (chunks, looked_for) = (Arc::clone(&core.chunks), manifest.clone());
        let looked = tokio::task::spawn_blocking(move || {
            blob::missing(&looked_for, &*chunks, MissingFrom::START, LOOK_MAX)
        });
        let missing = match looked.await {
            Ok(Ok(missing)) => missing,
            Ok(Err(error)) => {
                tracing::warn!(dataset = %dataset.id, %error, "pieces of a payload can't be looked for");
                return Fetched::Failed;
            }
            Err(_) => return Fetched::Failed,
        };
        if missing.wanted.is_empty() && missing.next.is_none() {
            return Fetched::Whole;
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
        in_vain = if got == 0 { in_vain + 1 } else { 0 };
        if got == 0 {
            tokio::time::sleep(PAUSE).await;
        }
        if in_vain >= IN_VAIN_MIN.max(links.len()) {
            return Fetched::Nothing;
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
                let named = DocumentKey { collection: document.collection, key: document.key };
                let _ = front.asks.try_send(Box::new(move |actor| actor.want_blob(named, id, &payload)));
                Err(SyncError::Incomplete { dataset: dataset.clone(), missing })
            }
        }
    }
}
