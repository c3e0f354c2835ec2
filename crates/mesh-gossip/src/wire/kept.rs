//! Messages of newer versions that are passed on whole: fields that this version does not know are
//! kept as the bytes they are.

use std::ops::{Deref, DerefMut};

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, encode_key, skip_field},
};

/// Bytes of unknown fields in one message that is kept. One with more is refused.
pub(crate) const UNKNOWN_BYTES_MAX: usize = 4096;

/// A message that is passed on; implemented by the generated code.
pub(crate) trait Relayed: Message + Default {
    /// The numbers of its fields.
    const FIELDS: &'static [u32];
}

/// A message and what it held besides.
///
/// The unknown fields are written after the known ones, in the order in which they
/// came. Numbers only grow from version to version, so the bytes are those that the
/// newer node wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Kept<M> {
    pub(crate) known: M,
    /// Keys and values, as on the wire.
    pub(crate) unknown: Vec<u8>,
}

impl<M> Kept<M> {
    /// A message with the unknown fields of an earlier one.
    pub(crate) fn with_unknown(known: M, unknown: &[u8]) -> Self {
        Self { known, unknown: unknown.to_vec() }
    }

    /// Whether the unknown fields are few enough to be kept.
    pub(crate) fn is_bounded(&self) -> bool {
        self.unknown.len() <= UNKNOWN_BYTES_MAX
    }
}

impl<M> From<M> for Kept<M> {
    fn from(known: M) -> Self {
        Self { known, unknown: Vec::new() }
    }
}

impl<M> Deref for Kept<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.known
    }
}

impl<M> DerefMut for Kept<M> {
    fn deref_mut(&mut self) -> &mut M {
        &mut self.known
    }
}

impl<M: Relayed> Message for Kept<M> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        self.known.encode_raw(buf);
        buf.put_slice(&self.unknown);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        if M::FIELDS.contains(&tag) {
            return self.known.merge_field(tag, wire_type, buf, ctx);
        }
        encode_key(tag, wire_type, &mut self.unknown);
        // Prost knows how long the value is; what it skips is noted down.
        skip_field(wire_type, tag, &mut Noting { buf, noted: &mut self.unknown }, ctx)
    }

    fn encoded_len(&self) -> usize {
        self.known.encoded_len() + self.unknown.len()
    }

    fn clear(&mut self) {
        self.known.clear();
        self.unknown.clear();
    }
}

/// Notes everything that is read.
struct Noting<'a, B> {
    buf: &'a mut B,
    noted: &'a mut Vec<u8>,
}

impl<B: Buf> Buf for Noting<'_, B> {
    fn remaining(&self) -> usize {
        self.buf.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.buf.chunk()
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let chunk = self.buf.chunk();
            let part = chunk.len().min(count);
            self.noted.extend_from_slice(&chunk[..part]);
            self.buf.advance(part);
            count -= part;
        }
    }
}

/// The unknown fields that a record holds on to, shared by the copies of the table.
pub(crate) fn shared(unknown: &[u8]) -> Bytes {
    // Most records have none, and an empty one takes no memory.
    if unknown.is_empty() { Bytes::new() } else { Bytes::copy_from_slice(unknown) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::encoding;

    use super::{
        super::{Update, plain},
        *,
    };

    /// What a version to come might write: numbers, text, fixed sizes, a group.
    fn future() -> Vec<u8> {
        let mut bytes = Vec::new();
        encoding::uint64::encode(20, &300, &mut bytes);
        encoding::string::encode(21, &"new".to_owned(), &mut bytes);
        encoding::fixed32::encode(22, &7, &mut bytes);
        encoding::fixed64::encode(1000, &8, &mut bytes);
        encode_key(30, WireType::StartGroup, &mut bytes);
        encoding::uint64::encode(1, &5, &mut bytes);
        encode_key(30, WireType::EndGroup, &mut bytes);
        bytes
    }

    fn update() -> plain::Update {
        let mut descriptor =
            Kept::from(plain::Descriptor { role: "worker".into(), ..plain::Descriptor::default() });
        descriptor.unknown = future();
        plain::Update {
            node_id: "n".into(),
            incarnation: 3,
            descriptor: Some(descriptor),
            ..plain::Update::default()
        }
    }

    #[test]
    fn a_future_record_is_passed_on_byte_for_byte() {
        let mut bytes = update().encode_to_vec();
        bytes.extend(future());
        let taken = Update::decode(&*bytes).expect("unknown fields are no error");
        assert_eq!(taken.known, update(), "what is known is read");
        assert_eq!(taken.unknown, future());
        assert_eq!(taken.encoded_len(), bytes.len());
        assert_eq!(taken.encode_to_vec(), bytes);
    }

    #[test]
    fn an_unknown_field_that_is_cut_is_refused() {
        let whole = future();
        let read = |length: usize| Update::decode(&whole[..length]);
        let between_fields: Vec<usize> = (0..whole.len()).filter(|length| read(*length).is_ok()).collect();
        assert_eq!(between_fields.len(), 5, "{between_fields:?}");
        for length in between_fields {
            assert_eq!(read(length).expect("as before").unknown, whole[..length]);
        }
    }

    proptest! {
        /// However fields are mixed, each is either known or kept, none is lost and none is made up.
        #[test]
        fn what_is_decoded_and_encoded_decodes_to_the_same(
            fields in proptest::collection::vec((1u32..40, any::<u64>(), 0usize..3), 0..30),
        ) {
            let mut bytes = Vec::new();
            for (tag, value, kind) in fields {
                match kind {
                    0 => encoding::uint64::encode(tag, &value, &mut bytes),
                    1 => encoding::fixed64::encode(tag, &value, &mut bytes),
                    _ => encoding::bytes::encode(tag, &value.to_le_bytes().to_vec(), &mut bytes),
                }
            }
            // A known field of another type is an error, as it is in any reader.
            if let Ok(taken) = Update::decode(&*bytes) {
                let again = Update::decode(&*taken.encode_to_vec()).expect("our own bytes");
                prop_assert_eq!(&again, &taken);
                prop_assert!(taken.unknown.len() <= bytes.len());
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Update::decode(&*bytes);
        }
    }
}
