//! Reading and writing bytes with bounds.

/// Why bytes are no message. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// They end early.
    #[error("message ends after {length} bytes, in the middle of a value")]
    Truncated {
        /// How many there are.
        length: usize,
    },
    /// They go on after the end.
    #[error("message is followed by {bytes} bytes that belong to nothing")]
    Trailing {
        /// How many do.
        bytes: usize,
    },
    /// A tag or number that no version of ours writes.
    #[error("{what} can't be {value}")]
    Invalid {
        /// What it stands for.
        what: &'static str,
        /// What was found.
        value: u64,
    },
    /// A checkpoint whose checksum does not match, so it was torn or has decayed.
    #[error("checksum of the checkpoint doesn't match its content")]
    Checksum,
}

/// Reads from a slice; every read is checked.
pub(crate) struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Reader<'b> {
    pub(crate) fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'b [u8], WireError> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..length).ok_or(WireError::Truncated { length: self.bytes.len() })?;
        self.at += length;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn u128(&mut self) -> Result<u128, WireError> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    pub(crate) fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(WireError::Invalid { what: "the last byte of a number", value: bits });
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::Invalid { what: "the length of a number", value: 11 })
    }

    /// A count of things that take at least `each` bytes, so that nothing is reserved for what can't be there.
    pub(crate) fn count(&mut self, each: usize) -> Result<usize, WireError> {
        let count = self.varint()?;
        let fits = self.remaining() / each.max(1);
        match usize::try_from(count) {
            Ok(count) if count <= fits => Ok(count),
            _ => Err(WireError::Truncated { length: self.bytes.len() }),
        }
    }

    pub(crate) fn end(&self) -> Result<(), WireError> {
        match self.remaining() {
            0 => Ok(()),
            bytes => Err(WireError::Trailing { bytes }),
        }
    }
}

/// Appends a number of one to ten bytes.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
