//! How typed values become bytes that say which version wrote them.

use bytes::Bytes;

/// Why a value could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// A newer program wrote it.
    #[error("it is of version {found}, this program knows up to {ours}; upgrade this node")]
    Newer {
        /// The version that wrote it.
        found: u32,
        /// Ours.
        ours: u32,
    },
    /// It is something else.
    #[error("it can't be read: {0}")]
    Malformed(String),
    /// The value has no such form.
    #[error("the value can't be written: {0}")]
    Unwritable(String),
}

/// Turns values of a type into bytes and back.
pub trait Codec<T>: Send + Sync + 'static {
    /// A value as bytes.
    ///
    /// # Errors
    ///
    /// [`CodecError::Unwritable`] for a value that has no such form.
    fn encode(&self, value: &T) -> Result<Bytes, CodecError>;

    /// A value from bytes.
    ///
    /// # Errors
    ///
    /// [`CodecError::Newer`] for the work of a newer program, [`CodecError::Malformed`] for anything else.
    fn decode(&self, bytes: &Bytes) -> Result<T, CodecError>;
}

fn not_newer(found: u32, ours: u32) -> Result<(), CodecError> {
    if found <= ours { Ok(()) } else { Err(CodecError::Newer { found, ours }) }
}

/// JSON: `{"version":1,"value":…}`. For records that people read.
#[cfg(feature = "serde")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Json {
    /// The version that is written, and the newest that is read.
    pub version: u32,
}

#[cfg(feature = "serde")]
#[derive(serde::Serialize, serde::Deserialize)]
struct Versioned<V> {
    version: u32,
    value: V,
}

#[cfg(feature = "serde")]
impl<T: serde::Serialize + serde::de::DeserializeOwned> Codec<T> for Json {
    fn encode(&self, value: &T) -> Result<Bytes, CodecError> {
        let bytes = serde_json::to_vec(&Versioned { version: self.version, value });
        bytes.map(Into::into).map_err(|error| CodecError::Unwritable(error.to_string()))
    }

    fn decode(&self, bytes: &Bytes) -> Result<T, CodecError> {
        let malformed = |error: serde_json::Error| CodecError::Malformed(error.to_string());
        // The version first: a newer value need not have our form.
        let outer: Versioned<serde_json::Value> = serde_json::from_slice(bytes).map_err(malformed)?;
        not_newer(outer.version, self.version)?;
        serde_json::from_value(outer.value).map_err(malformed)
    }
}

/// Protobuf: the version as a varint, then the message. For records that are many or large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protobuf {
    /// The version that is written, and the newest that is read.
    pub version: u32,
}

impl<T: prost::Message + Default> Codec<T> for Protobuf {
    fn encode(&self, value: &T) -> Result<Bytes, CodecError> {
        let mut bytes = Vec::with_capacity(value.encoded_len() + 5);
        prost::encoding::encode_varint(self.version.into(), &mut bytes);
        value.encode(&mut bytes).map_err(|error| CodecError::Unwritable(error.to_string()))?;
        Ok(bytes.into())
    }

    fn decode(&self, bytes: &Bytes) -> Result<T, CodecError> {
        let malformed = |error: prost::DecodeError| CodecError::Malformed(error.to_string());
        let mut rest = bytes.clone();
        let version = prost::encoding::decode_varint(&mut rest).map_err(malformed)?;
        not_newer(u32::try_from(version).unwrap_or(u32::MAX), self.version)?;
        T::decode(rest).map_err(malformed)
    }
}
