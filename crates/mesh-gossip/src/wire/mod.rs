//! The wire: packets as bytes, and the checks that every packet passes before a core sees it.

// Documented in the .proto; the shape of the code is prost's.
#[allow(missing_docs, unreachable_pub, reason = "generated")]
pub(crate) mod generated;
mod kept;

use bytes::Bytes;
use mesh_core::{
    Incarnation, InstanceId, LoadError, MemberState, NodeId, PAYLOAD_BYTES_MAX, ProtocolVersion, VersionRange,
};
use prost::Message;

/// Relayed messages without the fields that are not known, for making new ones.
pub(crate) use generated as plain;
pub(crate) use generated::*;
pub(crate) use kept::{Kept, Relayed, shared};

// Shadow the generated types of the same name.
pub(crate) type Update = Kept<plain::Update>;
pub(crate) type Descriptor = Kept<plain::Descriptor>;
pub(crate) type MetadataDelta = Kept<plain::MetadataDelta>;
pub(crate) type Broadcast = Kept<plain::Broadcast>;
pub(crate) type Load = Kept<plain::Load>;
pub(crate) type LoadSample = Kept<plain::LoadSample>;

/// The versions of the gossip protocol that this crate speaks.
pub const PROTOCOL: VersionRange = VersionRange::new(1, 1);

/// The number of [`Packet`]'s field `updates`.
const UPDATES_FIELD: u32 = 4;
/// Updates, summaries, wants and deltas in one packet, each. Our own packets stay far below.
const ITEMS_MAX: usize = 8192;
/// Loads of others in one packet. Our own packets have a handful.
const LOADS_MAX: usize = 64;
/// Accusers named in one update.
const ACCUSERS_MAX: usize = 64;
/// Addresses of one member.
pub(crate) const ADDRESSES_MAX: usize = 8;
/// Bytes of one metadata key.
pub(crate) const KEY_BYTES_MAX: usize = 128;

/// Why a payload was refused. The core's state is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// It is longer than any valid one.
    #[error("a payload of {bytes} bytes from {from} is over the limit of {PAYLOAD_BYTES_MAX}")]
    TooLarge {
        /// The sender.
        from: NodeId,
        /// Its size.
        bytes: usize,
    },
    /// It does not decode.
    #[error("a payload from {from} is malformed: {problem}")]
    Malformed {
        /// The sender.
        from: NodeId,
        /// What is wrong.
        problem: String,
    },
    /// It has a protocol version that we do not speak.
    #[error("{from} speaks gossip version {version}, this node {PROTOCOL}; upgrade the older one")]
    Version {
        /// The sender.
        from: NodeId,
        /// Its version.
        version: ProtocolVersion,
    },
    /// The sender is over its message rate.
    #[error("{from} sends more than {limit} messages a second; the rest is dropped")]
    TooManyMessages {
        /// The sender.
        from: NodeId,
        /// `gossip.messages_per_second_max`.
        limit: u32,
    },
    /// There is no link to the sender.
    #[error("a payload from {from}, with whom there is no link")]
    NoLink {
        /// The sender.
        from: NodeId,
    },
    /// A local command was refused.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// Why a local command was refused. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// A metadata key is empty, too long or reserved.
    #[error("metadata key {key:?} must have 1 to {KEY_BYTES_MAX} bytes")]
    Key {
        /// The key, cut to a readable length.
        key: String,
    },
    /// The metadata would grow over its limit.
    #[error(
        "metadata would have {bytes} bytes, the limit is {bytes_max} (gossip.metadata_bytes_max, and 16 MiB over all members)"
    )]
    MetadataTooLarge {
        /// Keys and values together after the change.
        bytes: usize,
        /// The limit in force.
        bytes_max: usize,
    },
    /// A broadcast is over its size limit.
    #[error("a broadcast of {bytes} bytes is over gossip.broadcast_bytes_max ({bytes_max})")]
    BroadcastTooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Too many broadcasts wait.
    #[error("gossip.broadcast_queue_max ({0}) broadcasts wait to be sent; try again later")]
    BroadcastQueueFull(usize),
    /// A load is out of its bounds.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The node is leaving, has left, or stepped aside after a conflict.
    #[error("this node is no longer a member: it left or stepped aside")]
    NotMember,
}

/// Encodes a packet.
pub(crate) fn encode(packet: &Packet) -> Bytes {
    Bytes::from(packet.encode_to_vec())
}

/// An update as a field of a packet: see [`with_updates`].
pub(crate) fn encode_update(update: &Update) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(update.encoded_len() + 4);
    prost::encoding::message::encode(UPDATES_FIELD, update, &mut bytes);
    bytes
}

/// An encoded packet and updates for it. Protobuf lets repeated fields follow in any place.
pub(crate) fn with_updates(packet: &[u8], updates: &[&[u8]]) -> Bytes {
    let bytes = packet.len() + updates.iter().map(|u| u.len()).sum::<usize>();
    let mut whole = Vec::with_capacity(bytes);
    whole.extend_from_slice(packet);
    updates.iter().for_each(|update| whole.extend_from_slice(update));
    Bytes::from(whole)
}

/// Decodes and bounds a packet. What it says may still be nonsense.
pub(crate) fn decode(from: &NodeId, payload: &Bytes) -> Result<Packet, InputError> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(InputError::TooLarge { from: from.clone(), bytes: payload.len() });
    }
    let malformed = |problem: String| InputError::Malformed { from: from.clone(), problem };
    let packet = Packet::decode(payload.clone()).map_err(|e| malformed(e.to_string()))?;
    let version = ProtocolVersion(packet.version);
    if !PROTOCOL.contains(version) {
        return Err(InputError::Version { from: from.clone(), version });
    }
    let records = packet.sync_records.as_ref();
    let lists = [
        packet.updates.len(),
        packet.deltas.len(),
        packet.broadcasts.len(),
        packet.sync_request.as_ref().map_or(0, |r| r.buckets.len()),
        packet.sync_summary.as_ref().map_or(0, |s| s.members.len().max(s.buckets.len())),
        records.map_or(0, |r| r.updates.len().max(r.wants.len())),
    ];
    if packet.loads.len() > LOADS_MAX {
        let count = packet.loads.len();
        return Err(malformed(format!("{count} loads of others, at most {LOADS_MAX} are accepted")));
    }
    if let Some(longest) = lists.iter().max().filter(|n| **n > ITEMS_MAX) {
        return Err(malformed(format!("a list of {longest} items, at most {ITEMS_MAX} are accepted")));
    }
    Ok(packet)
}

/// An [`Update`] whose fields were checked.
#[derive(Clone, Debug)]
pub(crate) struct Word {
    pub(crate) node_id: NodeId,
    pub(crate) instance: InstanceId,
    pub(crate) incarnation: Incarnation,
    pub(crate) state: MemberState,
    pub(crate) metadata_version: u64,
    pub(crate) descriptor: Option<Descriptor>,
    pub(crate) verified: bool,
    pub(crate) accusers: Vec<NodeId>,
    pub(crate) refused_by: Vec<NodeId>,
    pub(crate) age_us: u64,
    pub(crate) challenged: bool,
    /// Fields of the update that are not known here.
    pub(crate) unknown: Bytes,
}

impl Word {
    /// Checks an update; `None` if it makes no sense.
    pub(crate) fn parse(update: Update, metadata_bytes_max: usize) -> Option<Self> {
        if !update.is_bounded() || update.descriptor.as_ref().is_some_and(|d| !d.is_bounded()) {
            return None;
        }
        let Kept { known: update, unknown } = update;
        let state = match State::try_from(update.state).ok()? {
            State::Alive => MemberState::Alive,
            State::Suspect => MemberState::Suspect,
            State::Dead => MemberState::Dead,
            State::Left => MemberState::Left,
        };
        if update.accusers.len() > ACCUSERS_MAX || update.refused_by.len() > ACCUSERS_MAX {
            return None;
        }
        if let Some(d) = &update.descriptor {
            // What is not known here takes its share of the same room.
            let bytes: usize =
                d.unknown.len() + d.entries.iter().map(|e| e.key.len() + e.value.len()).sum::<usize>();
            let keys_fit = d.entries.iter().all(|e| (1..=KEY_BYTES_MAX).contains(&e.key.len()));
            if d.addresses.len() > ADDRESSES_MAX || bytes > metadata_bytes_max || !keys_fit {
                return None;
            }
        }
        let names = |list: Vec<String>| {
            list.into_iter().map(|n| NodeId::try_from(n).ok()).collect::<Option<Vec<_>>>()
        };
        Some(Self {
            node_id: update.node_id.parse().ok()?,
            instance: InstanceId(update.instance),
            incarnation: Incarnation(update.incarnation),
            state,
            metadata_version: update.metadata_version,
            descriptor: update.descriptor,
            verified: update.verified,
            accusers: names(update.accusers)?,
            refused_by: names(update.refused_by)?,
            age_us: update.age_us,
            challenged: update.challenged,
            unknown: shared(&unknown),
        })
    }
}

/// A member state as the wire has it.
pub(crate) fn state_to_wire(state: MemberState) -> i32 {
    let state = match state {
        MemberState::Alive => State::Alive,
        MemberState::Suspect => State::Suspect,
        MemberState::Dead => State::Dead,
        MemberState::Left => State::Left,
    };
    state as i32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer() -> NodeId {
        "peer".parse().expect("valid id")
    }

    #[test]
    fn a_future_version_is_refused_with_both_numbers() {
        let payload = encode(&Packet { version: 9, ..Packet::default() });
        let error = decode(&peer(), &payload).expect_err("unknown version").to_string();
        assert!(error.contains("version 9") && error.contains("1..=1"), "{error}");
    }

    #[test]
    fn updates_that_were_encoded_one_by_one_are_a_packet() {
        let packet = Packet { version: 1, instance: 7, digest: 9, ..Packet::default() };
        let update = |name: &str| Update::from(plain::Update { node_id: name.into(), ..Default::default() });
        let updates = [update("a"), update("b")];
        let encoded: Vec<Vec<u8>> = updates.iter().map(encode_update).collect();
        let parts: Vec<&[u8]> = encoded.iter().map(|e| &e[..]).collect();
        let whole = with_updates(&encode(&packet), &parts);
        let expected = Packet { updates: updates.into(), ..packet };
        assert_eq!(decode(&peer(), &whole).expect("valid"), expected);
    }

    #[test]
    fn a_list_over_the_bound_is_refused() {
        let packet =
            Packet { version: 1, deltas: vec![MetadataDelta::default(); ITEMS_MAX + 1], ..Packet::default() };
        assert!(matches!(decode(&peer(), &encode(&packet)), Err(InputError::Malformed { .. })));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            if let Ok(packet) = decode(&peer(), &Bytes::from(bytes)) {
                for update in packet.updates {
                    let _ = Word::parse(update, 1024);
                }
            }
        }

        #[test]
        fn a_cut_packet_is_refused_or_harmless(at in 0usize..200) {
            let update = plain::Update { node_id: "n".into(), accusers: vec!["a".into(); 5], ..Default::default() };
            let whole = encode(&Packet { version: 1, instance: 7, updates: vec![update.into(); 8], ..Packet::default() });
            let cut = whole.slice(..at.min(whole.len()));
            let _ = decode(&peer(), &cut);
        }
    }
}
