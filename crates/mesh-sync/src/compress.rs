//! What is sent gets smaller, if both sides agreed to that.
//!
//! ```text
//! 1  0: as it is, 1: zstd
//! n  with zstd: the length that it has uncompressed
//! n  the content
//! ```
//!
//! Compress nothing together that comes from different sources and includes secrets: the length tells about the
//! content.

use crate::codec::{Reader, WireError};

/// From this length on compression is worth its time, in bytes.
pub const COMPRESS_FROM_BYTES: usize = 1024;

/// How a side packs what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    zstd: bool,
    from_bytes: usize,
}

/// Why something was not unpacked. Nothing larger than the limit was reserved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// It has another form.
    #[error("packed message can't be read")]
    Malformed(#[from] WireError),
    /// It is longer than may be, or says that it will be.
    #[error("message has {found} bytes unpacked, at most {max} are allowed")]
    TooLong {
        /// How long.
        found: u64,
        /// The limit.
        max: usize,
    },
    /// The content can't be unpacked, or is longer or shorter than it says.
    #[error("packed message is damaged, or not as long as it says")]
    Damaged,
    /// It is packed in a way that this program was built without. The peer was told so.
    #[error("message is packed with zstd, which this program can't unpack")]
    NotAgreed,
}

const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

impl Packing {
    /// Nothing is compressed.
    pub const PLAIN: Self = Self { zstd: false, from_bytes: 0 };

    /// What both agreed to in the handshake; compressed is what has at least `from_bytes`, best
    /// [`COMPRESS_FROM_BYTES`].
    ///
    /// ```
    /// use mesh_sync::compress::{COMPRESS_FROM_BYTES, Packing, SUPPORTED, unpack};
    ///
    /// let packing = Packing::agreed(SUPPORTED, COMPRESS_FROM_BYTES);
    /// let message = vec![7; 100_000];
    /// let packed = packing.pack(&message);
    /// assert_eq!(unpack(&packed, 1 << 20)?, message);
    /// assert!(unpack(&packed, 50_000).is_err());
    /// # Ok::<(), mesh_sync::compress::UnpackError>(())
    /// ```
    pub const fn agreed(features: crate::handshake::Features, from_bytes: usize) -> Self {
        let zstd = cfg!(feature = "zstd") && features.has(crate::handshake::Features::ZSTD);
        Self { zstd, from_bytes }
    }

    /// Packs a message. One that does not get at least an eighth smaller stays as it is.
    pub fn pack(self, message: &[u8]) -> Vec<u8> {
        if self.zstd
            && message.len() >= self.from_bytes
            && let Some(packed) = compressed(message)
        {
            return packed;
        }
        [&[PLAIN], message].concat()
    }
}

/// What this program can unpack: state it in the handshake.
pub const SUPPORTED: crate::handshake::Features =
    if cfg!(feature = "zstd") { crate::handshake::Features::ZSTD } else { crate::handshake::Features(0) };

#[cfg(feature = "zstd")]
fn compressed(message: &[u8]) -> Option<Vec<u8>> {
    // Level 1: on a fast network a higher one costs more time than it saves.
    let content = zstd::bulk::compress(message, 1).ok()?;
    let mut packed = vec![ZSTD];
    crate::codec::put_varint(&mut packed, message.len() as u64);
    packed.extend_from_slice(&content);
    (packed.len() <= message.len() - message.len() / 8).then_some(packed)
}

#[cfg(not(feature = "zstd"))]
const fn compressed(_: &[u8]) -> Option<Vec<u8>> {
    None
}

/// Unpacks a message of at most `bytes_max`. What is packed to become larger than it says or than that is refused
/// before it does.
///
/// # Errors
///
/// [`UnpackError`].
pub fn unpack(packed: &[u8], bytes_max: usize) -> Result<Vec<u8>, UnpackError> {
    let mut reader = Reader::new(packed);
    match reader.u8()? {
        PLAIN => {
            let content = reader.take(reader.remaining())?;
            check_length(content.len() as u64, bytes_max)?;
            Ok(content.to_vec())
        }
        ZSTD => {
            let length = check_length(reader.varint()?, bytes_max)?;
            let content = reader.take(reader.remaining())?;
            decompressed(content, length)
        }
        tag => Err(WireError::Invalid { what: "the tag of a packed message", value: tag.into() }.into()),
    }
}

fn check_length(found: u64, max: usize) -> Result<usize, UnpackError> {
    usize::try_from(found).ok().filter(|found| *found <= max).ok_or(UnpackError::TooLong { found, max })
}

#[cfg(feature = "zstd")]
fn decompressed(content: &[u8], length: usize) -> Result<Vec<u8>, UnpackError> {
    // The output has room for `length` bytes and no more, so a bomb ends as an error.
    let message = zstd::bulk::decompress(content, length).map_err(|_| UnpackError::Damaged)?;
    if message.len() == length { Ok(message) } else { Err(UnpackError::Damaged) }
}

#[cfg(not(feature = "zstd"))]
const fn decompressed(_: &[u8], _: usize) -> Result<Vec<u8>, UnpackError> {
    Err(UnpackError::NotAgreed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::handshake::Features;

    #[test]
    fn only_what_gets_smaller_and_was_agreed_is_compressed() {
        let zeros = vec![0; 4096];
        let mut noise = vec![0; 4096];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let packing = Packing::agreed(SUPPORTED, 1024);
        assert_eq!(packing.pack(&zeros).len() < 100, cfg!(feature = "zstd"));
        for plain in [packing.pack(&noise), packing.pack(&zeros[..1023]), Packing::PLAIN.pack(&zeros)] {
            assert_eq!(plain[0], PLAIN);
        }
        assert_eq!(Packing::agreed(Features::default(), 0).pack(&zeros)[0], PLAIN);
    }

    #[cfg(feature = "zstd")]
    #[test]
    fn a_bomb_is_refused_whatever_it_says_of_its_length() {
        let packing = Packing::agreed(SUPPORTED, 0);
        let bomb = packing.pack(&vec![0; 64 << 20]);
        assert!(bomb.len() < 10_000);
        assert_eq!(unpack(&bomb, 1 << 20), Err(UnpackError::TooLong { found: 64 << 20, max: 1 << 20 }));
        // The length is a varint of four bytes behind the tag; this one lies.
        for says in [0, 1000, 1 << 20] {
            let mut lying = vec![ZSTD];
            crate::codec::put_varint(&mut lying, says);
            lying.extend_from_slice(&bomb[5..]);
            assert_eq!(unpack(&lying, 1 << 20), Err(UnpackError::Damaged), "{says}");
        }
        let mut more = vec![ZSTD];
        crate::codec::put_varint(&mut more, 100);
        more.extend_from_slice(&packing.pack(&[0; 90])[2..]);
        assert_eq!(unpack(&more, 1 << 20), Err(UnpackError::Damaged), "shorter than it says");
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(part in prop::collection::vec(any::<u8>(), 0..50), times in 0_usize..200) {
            let message = part.repeat(times);
            let packed = Packing::agreed(SUPPORTED, 64).pack(&message);
            prop_assert!(packed.len() <= message.len() + 1);
            prop_assert_eq!(unpack(&packed, message.len()), Ok(message));
        }

        #[test]
        fn no_bytes_make_unpacking_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), tag in 0_u8..3) {
            let _ = unpack(&[&[tag][..], &bytes].concat(), 10_000);
        }
    }
}
