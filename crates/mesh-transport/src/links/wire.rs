//! What two ends of a link say to each other.
//!
//! A link starts with one question and one answer, [`Hello`] and [`Welcome`]: on
//! QUIC over a stream of their own, on HTTP/2 in the header of the request and of
//! its response. Both are a length and a body; a reader skips what it does not
//! know at the end, so that later versions can add fields.
//!
//! After that, a QUIC datagram is a kind and a payload; a unidirectional stream
//! is a length and one payload; HTTP/2 bodies are a sequence of kind, length and
//! payload. Integers are big endian.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mesh_core::{PAYLOAD_BYTES_MAX, VersionRange};

/// Versions of the link protocol that we speak.
pub(crate) const VERSIONS: VersionRange = VersionRange::new(1, 1);

/// Names one link; chosen by the dialer, never zero.
pub(crate) type LinkId = u64;

/// What a dialer asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) versions: VersionRange,
    /// The run of the dialer's process.
    pub(crate) instance: u64,
    /// The link that it wants.
    pub(crate) link: LinkId,
    /// The link to us that it has and wants replaced; zero for none.
    pub(crate) holds: LinkId,
    /// The last link to us that it gave up; zero for none. If we still hold that one, it is dead.
    pub(crate) ended: LinkId,
}

/// Whether the dialer gets its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted,
    /// We have another link already, whose id follows.
    Duplicate(LinkId),
    /// Our limit of links is reached.
    Limit,
    /// No version in common.
    Version,
}

/// What the acceptor answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Welcome {
    pub(crate) versions: VersionRange,
    /// The run of the acceptor's process.
    pub(crate) instance: u64,
    pub(crate) verdict: Verdict,
}

/// The longest hello or welcome that is read, in bytes, without its length.
pub(crate) const GREETING_BYTES_MAX: usize = 1024;

impl Hello {
    pub(crate) fn encode(&self) -> Bytes {
        let mut body = BytesMut::with_capacity(64);
        put_versions(&mut body, self.versions);
        for number in [self.instance, self.link, self.holds, self.ended] {
            body.put_u64(number);
        }
        body.freeze()
    }

    /// `None` if it is cut or malformed.
    pub(crate) fn decode(mut body: &[u8]) -> Option<Self> {
        let versions = take_versions(&mut body)?;
        let [instance, link, holds, ended] = take_numbers(&mut body)?;
        (link != 0).then_some(Self { versions, instance, link, holds, ended })
    }
}

impl Welcome {
    pub(crate) fn encode(&self) -> Bytes {
        let mut body = BytesMut::with_capacity(64);
        put_versions(&mut body, self.versions);
        let (code, current) = match self.verdict {
            Verdict::Accepted => (0, 0),
            Verdict::Duplicate(current) => (1, current),
            Verdict::Limit => (2, 0),
            Verdict::Version => (3, 0),
        };
        body.put_u64(self.instance);
        body.put_u64(code);
        body.put_u64(current);
        body.freeze()
    }

    /// `None` if it is cut, malformed, or has a verdict that we do not know.
    pub(crate) fn decode(mut body: &[u8]) -> Option<Self> {
        let versions = take_versions(&mut body)?;
        let [instance, code, current] = take_numbers(&mut body)?;
        let verdict = match code {
            0 => Verdict::Accepted,
            1 => Verdict::Duplicate(current),
            2 => Verdict::Limit,
            3 => Verdict::Version,
            _ => return None,
        };
        Some(Self { versions, instance, verdict })
    }
}

fn put_versions(body: &mut BytesMut, versions: VersionRange) {
    body.put_u32(versions.min.0);
    body.put_u32(versions.max.0);
}

fn take_versions(body: &mut &[u8]) -> Option<VersionRange> {
    let (min, max) = (body.try_get_u32().ok()?, body.try_get_u32().ok()?);
    (min <= max).then(|| VersionRange::new(min, max))
}

fn take_numbers<const N: usize>(body: &mut &[u8]) -> Option<[u64; N]> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = body.try_get_u64().ok()?;
    }
    Some(numbers)
}

/// Lower-case hexadecimal, for a header.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of a hexadecimal header, or `None` if it is not one or is too long.
pub(crate) fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || text.len() > 2 * GREETING_BYTES_MAX {
        return None;
    }
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    text.chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// What one datagram or frame is. Others are skipped: a later version may add some.
pub(crate) mod kind {
    /// A payload.
    pub(crate) const PAYLOAD: u8 = 0;
    /// Are you there?
    pub(crate) const PING: u8 = 1;
    /// Yes.
    pub(crate) const PONG: u8 = 2;
    /// The link is closed in good order. On HTTP/2 alone: QUIC has a frame of its own for that.
    pub(crate) const BYE: u8 = 3;
}

/// Largest payload that travels as one datagram, in bytes.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 1100;

/// A ping is padded, because a restarted peer answers only packets that are longer than its reset.
pub(crate) const PING_BYTES: usize = 48;

/// One datagram.
pub(crate) fn datagram(kind: u8, payload: &[u8]) -> Bytes {
    let mut datagram = BytesMut::with_capacity(1 + payload.len());
    datagram.put_u8(kind);
    datagram.put_slice(payload);
    datagram.freeze()
}

/// One frame of an HTTP/2 body.
pub(crate) fn frame(kind: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + payload.len());
    frame.put_u8(kind);
    frame.put_u32(u32::try_from(payload.len()).expect("checked against the limit before"));
    frame.put_slice(payload);
    frame.freeze()
}

/// A frame announced more than is ever sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameTooLong(pub(crate) usize);

/// Takes the next whole frame off a buffer.
pub(crate) fn next_frame(buffer: &mut BytesMut) -> Result<Option<(u8, Bytes)>, FrameTooLong> {
    let Some(header) = buffer.get(..5) else { return Ok(None) };
    let kind = header[0];
    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
    if length > PAYLOAD_BYTES_MAX {
        return Err(FrameTooLong(length));
    }
    if buffer.len() < 5 + length {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some((kind, buffer.split_to(length).freeze())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Hello = Hello { versions: VERSIONS, instance: 1, link: 2, holds: 3, ended: 4 };

    #[test]
    fn greetings_survive_the_wire_and_unknown_fields_at_the_end() {
        let mut bytes = HELLO.encode().to_vec();
        bytes.extend_from_slice(b"from the future");
        assert_eq!(Hello::decode(&bytes), Some(HELLO));
        for verdict in [Verdict::Accepted, Verdict::Duplicate(9), Verdict::Limit, Verdict::Version] {
            let welcome = Welcome { versions: VERSIONS, instance: 5, verdict };
            let hex = to_hex(&welcome.encode());
            assert_eq!(Welcome::decode(&from_hex(hex.as_bytes()).expect("hex")), Some(welcome));
        }
    }

    #[test]
    fn cut_greetings_are_refused() {
        let bytes = HELLO.encode();
        for length in 0..bytes.len() {
            assert_eq!(Hello::decode(&bytes[..length]), None, "{length}");
        }
        assert_eq!(from_hex(b"0"), None);
        assert_eq!(from_hex(b"zz"), None);
    }

    #[test]
    fn frames_are_taken_whole_and_too_long_ones_refused() {
        let mut buffer = BytesMut::new();
        let bytes = [frame(kind::PAYLOAD, b"one"), frame(kind::PONG, b"")].concat();
        let mut taken = Vec::new();
        for byte in bytes {
            buffer.put_u8(byte);
            taken.extend(next_frame(&mut buffer).expect("short frames"));
        }
        assert_eq!(taken, [(kind::PAYLOAD, Bytes::from_static(b"one")), (kind::PONG, Bytes::new())]);
        buffer.put_slice(&[0, 0xff, 0, 0, 0]);
        assert_eq!(next_frame(&mut buffer), Err(FrameTooLong(0xff00_0000)));
    }
}
