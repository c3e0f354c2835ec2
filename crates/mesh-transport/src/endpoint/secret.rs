//! The node's transport secret: what makes a restarted process recognisable.
//!
//! A process that was restarted knows nothing of its old connections. To say so
//! at once (a stateless reset, RFC 9000 section 10.3) it needs the key of its
//! predecessor's reset tokens, and it must recognise its predecessor's connection
//! ids, or it drops the packet before it comes to that. Both keys are derived
//! from this secret.

use std::{fmt, path::Path, sync::Arc};

use aws_lc_rs::hmac;
use mesh_core::{
    VersionRange,
    fs::{FileError, Format, read, replace},
};
use quinn_proto::HashedConnectionIdGenerator;

/// Thirty-two secret bytes that outlive the process.
#[derive(Clone)]
pub struct NodeSecret([u8; 32]);

impl fmt::Debug for NodeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeSecret")
    }
}

const FORMAT: Format = Format {
    kind: *b"TSEC",
    versions: VersionRange::new(1, 1),
    bytes_max: 32,
    repair: "remove the file; peers then notice the next restart a little later",
};

impl NodeSecret {
    /// A secret made of these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A secret that nobody has had before.
    pub(crate) fn random() -> Self {
        let mut bytes = [0; 32];
        aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
        Self(bytes)
    }

    /// Reads the secret from `transport.secret` in a folder, or makes one there. The folder must exist.
    ///
    /// # Errors
    ///
    /// [`FileError`] names the file, and the repair if it is damaged.
    pub fn load_or_create(folder: &Path) -> Result<Self, FileError> {
        let path = folder.join("transport.secret");
        if let Some(contents) = read(&path, FORMAT)? {
            return contents.body.try_into().map(Self).map_err(|body: Vec<u8>| FileError::Damaged {
                path,
                problem: format!("it holds {} bytes, expected 32", body.len()),
                repair: FORMAT.repair,
            });
        }
        let new = Self::random();
        replace(&path, FORMAT, &new.0)?;
        Ok(new)
    }

    #[cfg(test)]
    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.0 == other.0
    }

    fn derive(&self, purpose: &[u8]) -> [u8; 32] {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.0), purpose);
        tag.as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes")
    }

    fn id_key(&self) -> u64 {
        let id_key = self.derive(b"mesh connection id 1");
        u64::from_le_bytes(id_key[..8].try_into().expect("eight of 32 bytes"))
    }

    /// Makes and recognises connection ids, also those of an earlier process.
    pub(crate) fn connection_ids(&self) -> HashedConnectionIdGenerator {
        HashedConnectionIdGenerator::from_key(self.id_key())
    }

    /// QUIC settings with both keys.
    pub(crate) fn endpoint_config(&self) -> quinn::EndpointConfig {
        let reset_key = hmac::Key::new(hmac::HMAC_SHA256, &self.derive(b"mesh stateless reset 1"));
        let id_key = self.id_key();
        let mut config = quinn::EndpointConfig::new(Arc::new(reset_key));
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
        // After a restart each of many peers needs a reset of its own; keyed ids keep garbage from causing any.
        config.min_reset_interval(std::time::Duration::from_micros(200));
        config
    }
}
