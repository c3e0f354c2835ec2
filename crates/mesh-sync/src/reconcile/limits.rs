//! What each side accepts, and how a session ends when that is passed.

use super::wire::{Reader, WireError, put_varint};

/// What a side accepts in one session. Both state theirs at the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Longest message. Default: 64 KiB; at least 4 KiB.
    pub frame_bytes_max: u32,
    /// Most cells of a sketch. Default: 16,384.
    pub symbols_max: u32,
    /// Most range parts and listed ids together. What doesn't fit is left to the next session. Default: 1,048,576;
    /// at least 4,096.
    pub entries_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { frame_bytes_max: 65_536, symbols_max: 16_384, entries_max: 1_048_576 }
    }
}

impl Limits {
    /// Shortest `frame_bytes_max` with which a session can be held.
    pub const FRAME_BYTES_MIN: u32 = 4_096;

    /// Lowest `entries_max` with which every session gets further.
    pub const ENTRIES_MIN: u32 = 4_096;

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        if *self == Self::default() {
            // Most do, and no frame limit is 0.
            return out.push(0);
        }
        put_varint(out, self.frame_bytes_max.into());
        put_varint(out, self.symbols_max.into());
        put_varint(out, self.entries_max.into());
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut number = |what| {
            let value = reader.varint()?;
            u32::try_from(value).map_err(|_| WireError::Invalid { what, value })
        };
        let frame_bytes_max = number("a frame limit")?;
        if frame_bytes_max == 0 {
            return Ok(Self::default());
        }
        let limits = Self {
            frame_bytes_max,
            symbols_max: number("a symbol limit")?,
            entries_max: number("an entry limit")?,
        };
        if limits.frame_bytes_max < Self::FRAME_BYTES_MIN {
            return Err(WireError::Invalid { what: "a frame limit", value: limits.frame_bytes_max.into() });
        }
        if limits.entries_max < Self::ENTRIES_MIN {
            return Err(WireError::Invalid { what: "an entry limit", value: limits.entries_max.into() });
        }
        Ok(limits)
    }
}

/// What a peer is told when a session is given up. A closed set, so that it can be counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// A message that is none.
    Malformed,
    /// A message that doesn't belong here.
    Unexpected,
    /// A limit was passed.
    Limit,
}

impl Refusal {
    pub(super) fn code(self) -> u8 {
        match self {
            Refusal::Malformed => 0,
            Refusal::Unexpected => 1,
            Refusal::Limit => 2,
        }
    }

    pub(super) fn from_code(code: u8) -> Result<Self, WireError> {
        match code {
            0 => Ok(Refusal::Malformed),
            1 => Ok(Refusal::Unexpected),
            2 => Ok(Refusal::Limit),
            code => Err(WireError::Invalid { what: "a refusal", value: code.into() }),
        }
    }
}

/// Why a session ended without a result. Nothing was changed; another session may be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The peer sent bytes that are no message.
    #[error("message can't be read")]
    Malformed(#[from] WireError),
    /// The peer sent a message that nothing asked for.
    #[error("{message} came while {state}")]
    Unexpected {
        /// What came.
        message: &'static str,
        /// What we waited for.
        state: &'static str,
    },
    /// The peer passed a limit that we stated.
    #[error("peer passed the limit of {limit} {what}")]
    Limit {
        /// What there was too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The peer answered for a range that it wasn't asked about, or out of order.
    #[error("peer answered outside of the range that it was asked about")]
    OutsideRange,
    /// The peer gave up.
    #[error("peer ended the session: {0:?}")]
    Refused(Refusal),
    /// The session was over already.
    #[error("the session is over")]
    Over,
}

impl SessionError {
    /// What the peer is told, if anything.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        match self {
            SessionError::Malformed(_) => Some(Refusal::Malformed),
            SessionError::Unexpected { .. } | SessionError::OutsideRange => Some(Refusal::Unexpected),
            SessionError::Limit { .. } => Some(Refusal::Limit),
            SessionError::Refused(_) | SessionError::Over => None,
        }
    }
}
