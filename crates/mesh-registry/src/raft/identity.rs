//! What a data directory belongs to.
//!
//! A raft id belongs to one data directory for ever: its votes and entries are what the others count on.
//! A directory that was wiped has another number, and so is seen to be another voter.

use std::{fmt, path::Path};

use mesh_core::{
    NodeId, VersionRange,
    fs::{self, FileError, Format},
};
use prost::Message;

use super::{RaftError, error::REPAIR};
use crate::wire;

const FORMAT: Format =
    Format { kind: *b"RGID", versions: VersionRange::new(1, 1), bytes_max: 4096, repair: REPAIR };
/// The file.
pub(super) const NAME: &str = "identity";

/// Names a group of voters: random, made when it began.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId([u8; 16]);

impl GroupId {
    /// A new one.
    pub(super) fn random(rng: &mut fastrand::Rng) -> Self {
        Self(rng.u128(1..).to_le_bytes())
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(super) fn to_bytes(self) -> bytes::Bytes {
        bytes::Bytes::copy_from_slice(&self.0)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A place in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) group: GroupId,
    pub(super) id: u64,
}

/// The contents of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) node: NodeId,
    pub(super) directory: u64,
    /// `None` until a group takes the directory in.
    pub(super) seat: Option<Seat>,
}

impl Identity {
    /// Reads it, or makes one for `node` where there is none.
    pub(super) fn open(folder: &Path, node: &NodeId, rng: &mut fastrand::Rng) -> Result<Self, RaftError> {
        let Some(identity) = Self::read(folder)? else {
            let identity = Self { node: node.clone(), directory: rng.u64(1..), seat: None };
            identity.save(folder)?;
            return Ok(identity);
        };
        if identity.node != *node {
            let (path, found) = (folder.to_owned(), identity.node);
            return Err(RaftError::OtherNode { path, found, ours: node.clone() });
        }
        Ok(identity)
    }

    /// Reads it, if there is one.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, RaftError> {
        let path = folder.join(NAME);
        let Some(contents) = fs::read(&path, FORMAT)? else { return Ok(None) };
        let damaged = |problem: String| {
            RaftError::from(FileError::Damaged { path: path.clone(), problem, repair: FORMAT.repair })
        };
        let message =
            wire::RaftIdentity::decode(&*contents.body).map_err(|error| damaged(error.to_string()))?;
        let node: NodeId =
            message.node.parse().map_err(|error: mesh_core::IdError| damaged(error.to_string()))?;
        let seat = match &message.group[..] {
            [] => None,
            bytes => {
                let group = GroupId::from_bytes(bytes)
                    .ok_or_else(|| damaged(format!("a group has {} bytes, 16 are due", bytes.len())))?;
                Some(Seat { group, id: message.id })
            }
        };
        Ok(Some(Self { node, directory: message.directory, seat }))
    }

    /// Writes it durably.
    pub(super) fn save(&self, folder: &Path) -> Result<(), RaftError> {
        let message = wire::RaftIdentity {
            node: self.node.as_str().to_owned(),
            directory: self.directory,
            group: self.seat.map(|seat| seat.group.to_bytes()).unwrap_or_default(),
            id: self.seat.map_or(0, |seat| seat.id),
        };
        Ok(fs::replace(&folder.join(NAME), FORMAT, &message.encode_to_vec())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_number_and_is_refused_to_another_node() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut rng = fastrand::Rng::with_seed(1);
        let node = |id: &str| id.parse::<NodeId>().expect("a node id");
        let mut identity = Identity::open(folder.path(), &node("n1"), &mut rng).expect("made");
        identity.seat = Some(Seat { group: GroupId::random(&mut rng), id: 7 });
        identity.save(folder.path()).expect("saved");
        assert_eq!(Identity::open(folder.path(), &node("n1"), &mut rng).expect("read"), identity);
        let error = Identity::open(folder.path(), &node("n2"), &mut rng).expect_err("another").to_string();
        assert!(error.contains("belongs to node n1, this is n2"), "{error}");
    }
}
