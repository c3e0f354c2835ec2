//! What goes over a stream after the handshake. Each frame is packed by [`compress`](crate::compress).

use bytes::Bytes;

use crate::{
    blob::{CHUNK_BYTES_MAX, ChunkId},
    bootstrap::AccessState,
    codec::{
        Reader, WireError, cut, put_bytes, put_varint, take_bytes, take_count, take_dataset, take_text,
        take_u32,
    },
    entry::DatasetId,
    replica::MESSAGE_BYTES_MAX,
    state::{ADDRESS_BYTES_MAX, ADDRESSES_MAX},
};

/// The longest frame, packed or not.
pub const FRAME_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 1024;
const TEXT_BYTES_MAX: usize = 500;
const _: () = assert!(CHUNK_BYTES_MAX as usize + 64 < FRAME_BYTES_MAX, "a chunk fits in a frame");

/// One frame.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Frame {
    /// A sign of life.
    Ping,
    /// A message of a replica, of the dataset with this number among those that are open.
    Data { dataset: u32, message: Bytes },
    /// Something is asked for.
    Ask { id: u32, request: Request },
    /// The answer.
    Answer { id: u32, answer: Answer },
    /// The sender ends the stream.
    Bye(String),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Request {
    /// Access to a dataset that is not open.
    Access { dataset: DatasetId, addresses: Vec<String>, note: String },
    /// A piece of a large payload.
    Chunk { dataset: u32, id: ChunkId },
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    Access(AccessState),
    /// `None` if it is not there.
    Chunk(Option<Bytes>),
    /// It won't.
    Refused(String),
}

fn text(out: &mut Vec<u8>, text: &str, max: usize) {
    put_bytes(out, cut(text, max).as_bytes());
}

fn rest(bytes: &Bytes, reader: &mut Reader<'_>) -> Result<Bytes, WireError> {
    let rest = bytes.slice(bytes.len() - reader.remaining()..);
    reader.take(rest.len())?;
    Ok(rest)
}

impl Frame {
    /// The frame as bytes, unpacked.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        match self {
            Self::Ping => out.push(0),
            Self::Data { dataset, message } => {
                out.reserve(message.len());
                out.push(1);
                put_varint(&mut out, (*dataset).into());
                out.extend_from_slice(message);
            }
            Self::Ask { id, request } => {
                out.push(2);
                put_varint(&mut out, (*id).into());
                match request {
                    Request::Access { dataset, addresses, note } => {
                        out.push(0);
                        put_bytes(&mut out, dataset.as_str().as_bytes());
                        let addresses = &addresses[..addresses.len().min(ADDRESSES_MAX)];
                        put_varint(&mut out, addresses.len() as u64);
                        addresses.iter().for_each(|address| text(&mut out, address, ADDRESS_BYTES_MAX));
                        text(&mut out, note, TEXT_BYTES_MAX);
                    }
                    Request::Chunk { dataset, id } => {
                        out.push(1);
                        put_varint(&mut out, (*dataset).into());
                        out.extend_from_slice(&id.0);
                    }
                }
            }
            Self::Answer { id, answer } => {
                out.push(3);
                put_varint(&mut out, (*id).into());
                match answer {
                    Answer::Access(AccessState::Pending) => out.push(0),
                    Answer::Access(AccessState::Granted) => out.push(1),
                    Answer::Access(AccessState::Rejected { reason }) => {
                        out.push(2);
                        text(&mut out, reason, TEXT_BYTES_MAX);
                    }
                    Answer::Chunk(None) => out.push(3),
                    Answer::Chunk(Some(content)) => {
                        out.push(4);
                        out.extend_from_slice(content);
                    }
                    Answer::Refused(why) => {
                        out.push(5);
                        text(&mut out, why, TEXT_BYTES_MAX);
                    }
                }
            }
            Self::Bye(why) => {
                out.push(4);
                text(&mut out, why, TEXT_BYTES_MAX);
            }
        }
        out
    }

    /// The frame that `bytes` hold. No bytes make it panic.
    pub(super) fn decode(bytes: &Bytes) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let frame = match reader.u8()? {
            0 => Self::Ping,
            1 => {
                let dataset = take_u32(&mut reader, "the number of a dataset")?;
                Self::Data { dataset, message: rest(bytes, &mut reader)? }
            }
            2 => {
                let id = take_u32(&mut reader, "the number of a request")?;
                let request = match reader.u8()? {
                    0 => {
                        let dataset = take_dataset(&mut reader)?;
                        let count = take_count(&mut reader, "the number of addresses", ADDRESSES_MAX)?;
                        let address =
                            |_| take_text(&mut reader, "the length or text of an address", ADDRESS_BYTES_MAX);
                        let addresses = (0..count).map(address).collect::<Result<_, _>>()?;
                        let note = take_text(&mut reader, "the length or text of a note", TEXT_BYTES_MAX)?;
                        Request::Access { dataset, addresses, note }
                    }
                    1 => {
                        let dataset = take_u32(&mut reader, "the number of a dataset")?;
                        Request::Chunk { dataset, id: ChunkId(reader.array()?) }
                    }
                    tag => {
                        return Err(WireError::Invalid { what: "the tag of a request", value: tag.into() });
                    }
                };
                Self::Ask { id, request }
            }
            3 => {
                let id = take_u32(&mut reader, "the number of a request")?;
                let answer = match reader.u8()? {
                    0 => Answer::Access(AccessState::Pending),
                    1 => Answer::Access(AccessState::Granted),
                    2 => Answer::Access(AccessState::Rejected { reason: short_text(&mut reader)? }),
                    3 => Answer::Chunk(None),
                    4 => Answer::Chunk(Some(rest(bytes, &mut reader)?)),
                    5 => Answer::Refused(short_text(&mut reader)?),
                    tag => {
                        return Err(WireError::Invalid { what: "the tag of an answer", value: tag.into() });
                    }
                };
                Self::Answer { id, answer }
            }
            4 => Self::Bye(short_text(&mut reader)?),
            tag => return Err(WireError::Invalid { what: "the tag of a frame", value: tag.into() }),
        };
        reader.end()?;
        Ok(frame)
    }
}

fn short_text(reader: &mut Reader<'_>) -> Result<String, WireError> {
    let bytes = take_bytes(reader, "the length of a text", TEXT_BYTES_MAX)?;
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn samples() -> Vec<Frame> {
        let dataset = DatasetId::new("notes").expect("valid");
        let access = Request::Access { dataset, addresses: vec!["a:1".into()], note: "a laptop".into() };
        let answers = [
            Answer::Access(AccessState::Pending),
            Answer::Access(AccessState::Granted),
            Answer::Access(AccessState::Rejected { reason: "no".into() }),
            Answer::Chunk(None),
            Answer::Chunk(Some(Bytes::from_static(b"content"))),
            Answer::Refused("closed".into()),
        ];
        let mut all = vec![
            Frame::Ping,
            Frame::Data { dataset: 300, message: Bytes::from_static(b"message") },
            Frame::Ask { id: 1, request: access },
            Frame::Ask { id: 2, request: Request::Chunk { dataset: 0, id: ChunkId([7; 32]) } },
            Frame::Bye("over".into()),
        ];
        all.extend(answers.map(|answer| Frame::Answer { id: 9, answer }));
        all
    }

    #[test]
    fn every_frame_comes_back() {
        for frame in samples() {
            assert_eq!(Frame::decode(&frame.encode().into()), Ok(frame));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Frame::decode(&bytes.into());
        }
    }
}
