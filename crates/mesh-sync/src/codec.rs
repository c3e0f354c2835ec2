//! What records and messages of this crate share: bounded texts and lists on top of the checked reader.
//!
//! Everything that is kept or sent begins with a version. Lengths come before what they count and are compared with
//! a limit and with what is left before anything is reserved.

use mesh_core::{NodeId, WallTime};

use crate::entry::DatasetId;
pub(crate) use crate::reconcile::wire::{Reader, WireError, put_varint};

/// Appends bytes behind their length.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Bytes behind their length, at most `max`.
pub(crate) fn take_bytes<'b>(
    reader: &mut Reader<'b>,
    what: &'static str,
    max: usize,
) -> Result<&'b [u8], WireError> {
    let length = take_count(reader, what, max)?;
    reader.take(length)
}

/// A number of at most `max`.
pub(crate) fn take_count(
    reader: &mut Reader<'_>,
    what: &'static str,
    max: usize,
) -> Result<usize, WireError> {
    let value = reader.varint()?;
    usize::try_from(value).ok().filter(|count| *count <= max).ok_or(WireError::Invalid { what, value })
}

/// A text behind its length, at most `max` bytes.
pub(crate) fn take_text(
    reader: &mut Reader<'_>,
    what: &'static str,
    max: usize,
) -> Result<String, WireError> {
    let bytes = take_bytes(reader, what, max)?;
    let text = std::str::from_utf8(bytes);
    text.map(str::to_owned).map_err(|error| WireError::Invalid { what, value: error.valid_up_to() as u64 })
}

pub(crate) fn take_node(reader: &mut Reader<'_>) -> Result<NodeId, WireError> {
    const WHAT: &str = "the length or text of a node id";
    let text = take_text(reader, WHAT, NodeId::BYTES_MAX)?;
    NodeId::new(&text).map_err(|_| WireError::Invalid { what: WHAT, value: text.len() as u64 })
}

pub(crate) fn take_dataset(reader: &mut Reader<'_>) -> Result<DatasetId, WireError> {
    const WHAT: &str = "the length or text of a dataset";
    let bytes = take_bytes(reader, WHAT, crate::entry::DATASET_BYTES_MAX)?;
    DatasetId::from_bytes(bytes).map_err(|_| WireError::Invalid { what: WHAT, value: bytes.len() as u64 })
}

pub(crate) fn take_u32(reader: &mut Reader<'_>, what: &'static str) -> Result<u32, WireError> {
    let value = reader.varint()?;
    u32::try_from(value).map_err(|_| WireError::Invalid { what, value })
}

pub(crate) fn take_wall(reader: &mut Reader<'_>) -> Result<WallTime, WireError> {
    reader.varint().map(WallTime)
}

/// The one version of a record that there is so far.
pub(crate) fn take_version(
    reader: &mut Reader<'_>,
    what: &'static str,
    readable: u8,
) -> Result<(), WireError> {
    match reader.u8()? {
        version if version == readable => Ok(()),
        version => Err(WireError::Invalid { what, value: version.into() }),
    }
}

/// Cuts a text to at most `max` bytes, at the end of a character.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_above_its_limit_is_refused_before_anything_is_read() {
        let mut out = Vec::new();
        put_bytes(&mut out, b"four");
        assert_eq!(take_bytes(&mut Reader::new(&out), "a note", 4).expect("fits"), b"four");
        let error = take_bytes(&mut Reader::new(&out), "a note", 3).expect_err("too long");
        assert_eq!(error, WireError::Invalid { what: "a note", value: 4 });
        assert!(take_bytes(&mut Reader::new(&out[..3]), "a note", 4).is_err());
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("aä", 2), "a");
        assert_eq!(cut("aä", 9), "aä");
    }
}
