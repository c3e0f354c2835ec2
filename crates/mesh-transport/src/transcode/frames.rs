//! The length-prefixed messages of gRPC.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost_reflect::{DynamicMessage, prost::Message as _};
use tonic::Status;

const PREFIX_BYTES: usize = 5;

/// One message as gRPC sends it.
pub(super) fn framed(message: &DynamicMessage) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
    frame.put_u8(0);
    // Callers check the length against a limit that fits.
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(&mut frame);
    frame.freeze()
}

/// Takes the messages out of what a handler sends.
#[derive(Debug)]
pub(super) struct Frames {
    bytes: BytesMut,
    message_bytes_max: usize,
}

impl Frames {
    pub(super) fn new(message_bytes_max: usize) -> Self {
        Self { bytes: BytesMut::new(), message_bytes_max }
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
    }

    /// The next message that is here as a whole.
    ///
    /// # Errors
    ///
    /// It is too long or compressed. There is no going on then.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let Some((&[compressed, a, b, c, d], rest)) = self.bytes.split_first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if compressed != 0 {
            return Err(Status::internal(
                "the handler compressed a message that nobody asked it to compress",
            ));
        }
        if length > self.message_bytes_max {
            return Err(Status::resource_exhausted(format!(
                "an answer of {length} bytes is longer than the limit of {}",
                self.message_bytes_max
            )));
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.bytes.advance(PREFIX_BYTES);
        Ok(Some(self.bytes.split_to(length).freeze()))
    }

    /// Whether a message has begun and not ended.
    pub(super) fn is_inside_message(&self) -> bool {
        !self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let whole = [&b"\0\0\0\0\x03abc"[..], b"\0\0\0\0\0", b"\0\0\0\0\x01z"].concat();
        for cut in 1..whole.len() {
            let mut frames = Frames::new(3);
            let mut found = Vec::new();
            for part in whole.chunks(cut) {
                frames.push(part);
                while let Some(message) = frames.next().expect("well-formed") {
                    found.push(message);
                }
            }
            assert_eq!(found, ["abc", "", "z"], "cut {cut}");
            assert!(!frames.is_inside_message());
        }
    }

    #[test]
    fn long_and_compressed_messages_are_refused_before_they_are_here() {
        let mut frames = Frames::new(3);
        frames.push(b"\0\0\0\0\x04");
        assert_eq!(frames.next().expect_err("too long").code(), tonic::Code::ResourceExhausted);
        let mut frames = Frames::new(3);
        frames.push(b"\x01\0\0\0\x01");
        assert_eq!(frames.next().expect_err("compressed").code(), tonic::Code::Internal);
    }
}
