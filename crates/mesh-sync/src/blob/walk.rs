//! Goes through the chunks of a manifest.

use std::{collections::BTreeSet, io::Write};

use super::{BlobError, ChunkKind, ChunkStore, Manifest, Wanted, manifest::Place};

/// Where a search for missing chunks goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingFrom(u64);

impl MissingFrom {
    /// From the start.
    pub const START: Self = Self(0);
}

/// Chunks that are not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What to fetch. A list is among them before the chunks that it names can be.
    pub wanted: Vec<Wanted>,
    /// Where to go on after these; `None` at the end. Nothing missing and no next means that the payload is whole.
    pub next: Option<MissingFrom>,
}

/// At most `limit` chunks of a manifest that `chunks` does not have, of those that can be named by now.
///
/// Once all of a search was fetched, search again from the start if there were lists in it.
///
/// # Errors
///
/// [`BlobError::Store`].
pub fn missing(
    manifest: &Manifest,
    chunks: &dyn ChunkStore,
    from: MissingFrom,
    limit: usize,
) -> Result<Missing, BlobError> {
    let mut found = Missing { wanted: Vec::new(), next: None };
    let mut listed = BTreeSet::new();
    let mut seen = 0;
    let mut stack: Vec<Place> = reversed(manifest.roots());
    while let Some(place) = stack.pop() {
        let held = match place.wanted.kind {
            ChunkKind::Data if seen < from.0 => true,
            ChunkKind::Data => has(chunks, &place.wanted)?,
            ChunkKind::List => match read(chunks, &place.wanted)? {
                Some(content) => {
                    stack.extend(reversed(manifest.children(place, &content)));
                    continue;
                }
                None => false,
            },
        };
        let number = seen;
        seen += 1;
        if held || number < from.0 {
            continue;
        }
        if found.wanted.len() == limit.max(1) {
            found.next = Some(MissingFrom(number));
            break;
        }
        // A payload may have one chunk many times.
        if listed.insert(place.wanted.id) {
            found.wanted.push(place.wanted);
        }
    }
    Ok(found)
}

fn reversed(places: impl Iterator<Item = Place>) -> Vec<Place> {
    let mut places: Vec<_> = places.collect();
    places.reverse();
    places
}

fn has(chunks: &dyn ChunkStore, wanted: &Wanted) -> Result<bool, BlobError> {
    let id = wanted.id;
    chunks.has(id, wanted.bytes).map_err(|source| BlobError::Store { verb: "look for", id, source })
}

/// A chunk as it should be; `None` if it is not there, or something else is.
fn read(chunks: &dyn ChunkStore, wanted: &Wanted) -> Result<Option<Vec<u8>>, BlobError> {
    let id = wanted.id;
    let content = chunks.get(id).map_err(|source| BlobError::Store { verb: "read", id, source })?;
    Ok(content.filter(|content| wanted.check(content).is_ok()))
}

/// Calls `visit` with all chunks of a manifest that can be named, in the order of the payload, lists before what they
/// name; and with whether a list is there as it should be. Data is not looked at.
pub(super) fn visit(
    manifest: &Manifest,
    chunks: &dyn ChunkStore,
    visit: &mut dyn FnMut(&Wanted, bool) -> Result<(), BlobError>,
) -> Result<(), BlobError> {
    let mut stack = reversed(manifest.roots());
    while let Some(place) = stack.pop() {
        let list = match place.wanted.kind {
            ChunkKind::List => read(chunks, &place.wanted)?,
            ChunkKind::Data => None,
        };
        visit(&place.wanted, list.is_some())?;
        stack.extend(reversed(list.iter().flat_map(|content| manifest.children(place, content))));
    }
    Ok(())
}

/// Writes a payload out. Every chunk is checked before it is written; one chunk and a list per level are in memory.
///
/// # Errors
///
/// [`BlobError::Missing`] names the first chunk that is not there. What comes before it was written.
pub fn assemble(manifest: &Manifest, chunks: &dyn ChunkStore, sink: &mut dyn Write) -> Result<(), BlobError> {
    visit(manifest, chunks, &mut |wanted, is_there| {
        if is_there {
            return Ok(());
        }
        let content = match wanted.kind {
            ChunkKind::List => None,
            ChunkKind::Data => read(chunks, wanted)?,
        };
        let content = content.ok_or(BlobError::Missing(*wanted))?;
        sink.write_all(&content).map_err(|source| BlobError::Io { verb: "write", source })
    })
}
