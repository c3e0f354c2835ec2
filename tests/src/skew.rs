//! Nodes of several versions: what a newer and an older one put on the wire, and whether the fields
//! of the newer ones survive being passed on.
//!
//! Works on bytes alone, as another program would: it knows field numbers, and none of our types.

use bytes::Bytes;
use mesh_core::NodeId;

use crate::{HostId, options::Skew};

/// The version of one run of a node, as seen from ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Generation {
    /// It knows nothing of loads: it neither sends nor reads them.
    Older,
    /// Ours.
    #[default]
    Current,
    /// It has fields of its own in packets, records and changes of metadata.
    Newer {
        /// What it says of itself that we don't know: one field of a descriptor.
        news: Vec<u8>,
    },
}

impl Generation {
    /// The version of a run.
    pub fn of(skew: Skew, host: HostId, runs_before: u32) -> Self {
        let newer = || Self::Newer { news: field(NEWS, format!("{host:?} run {runs_before}").as_bytes()) };
        match (skew, host.0 % 3, runs_before) {
            (Skew::None, ..) | (Skew::Mixed, 1, _) => Self::Current,
            (Skew::Mixed, 0, _) | (Skew::Rolling, _, 0) => Self::Older,
            _ => newer(),
        }
    }

    /// A payload of ours as a node of this version would have sent it.
    pub fn sent(&self, own: &NodeId, payload: Bytes) -> Bytes {
        match self {
            Self::Older => without_loads(&payload),
            Self::Current => payload,
            Self::Newer { news } => {
                let mut bytes = rewritten(&payload, |part| match part.number {
                    UPDATES => Some(updated(part, own, news)),
                    DELTAS if names(part.value, own) => Some(grown(part, &field(NEWS, b"a change"))),
                    RECORDS => {
                        let records = rewritten(part.value, |part| {
                            (part.number == UPDATES_OF_RECORDS).then(|| updated(part, own, news))
                        });
                        Some(field(RECORDS, &records))
                    }
                    _ => None,
                });
                bytes.extend(field(NEWS, b"a packet"));
                bytes.into()
            }
        }
    }

    /// A payload as a node of this version reads it.
    pub fn heard(&self, payload: Bytes) -> Bytes {
        if *self == Self::Older { without_loads(&payload) } else { payload }
    }
}

/// What a payload tells of members in full: node id, instance, and the fields of their descriptor
/// that only newer versions have.
pub fn told(payload: &[u8]) -> Vec<(NodeId, u64, Vec<u8>)> {
    let records = parts(payload).filter(|p| p.number == RECORDS).flat_map(|p| {
        let updates = parts(p.value).filter(|p| p.number == UPDATES_OF_RECORDS);
        updates.collect::<Vec<_>>()
    });
    let updates = parts(payload).filter(|p| p.number == UPDATES);
    updates.chain(records).filter_map(|update| told_of_one(update.value)).collect()
}

fn told_of_one(update: &[u8]) -> Option<(NodeId, u64, Vec<u8>)> {
    let descriptor = parts(update).find(|p| p.number == DESCRIPTOR)?;
    // Without a version it only says that an earlier run ended.
    parts(update).find(|p| p.number == METADATA_VERSION)?;
    let instance = parts(update).find(|p| p.number == INSTANCE)?;
    let news = parts(descriptor.value).filter(|p| p.number >= NEWS).flat_map(|p| p.whole.to_vec()).collect();
    let node_id = parts(update).find(|p| p.number == NODE_ID)?;
    let node_id = std::str::from_utf8(node_id.value).ok()?.parse().ok()?;
    Some((node_id, u64::from_le_bytes(instance.value.try_into().ok()?), news))
}

const UPDATES: u64 = 4;
const DELTAS: u64 = 5;
const RECORDS: u64 = 13;
const LOAD: u64 = 17;
const LOADS: u64 = 18;
const UPDATES_OF_RECORDS: u64 = 1;
/// In updates and in changes of metadata.
const NODE_ID: u64 = 1;
const INSTANCE: u64 = 2;
const METADATA_VERSION: u64 = 5;
const DESCRIPTOR: u64 = 6;
/// Far beyond what we use.
const NEWS: u64 = 90;

fn without_loads(payload: &[u8]) -> Bytes {
    let drop = |part: &Part<'_>| matches!(part.number, LOAD | LOADS).then(Vec::new);
    rewritten(payload, drop).into()
}

/// An update; if it is about `own`, its descriptor says more than it did.
fn updated(part: &Part<'_>, own: &NodeId, news: &[u8]) -> Vec<u8> {
    if !names(part.value, own) {
        return part.whole.to_vec();
    }
    let update = rewritten(part.value, |part| (part.number == DESCRIPTOR).then(|| grown(part, news)));
    field(part.number, &update)
}

fn names(message: &[u8], own: &NodeId) -> bool {
    parts(message).any(|p| p.number == NODE_ID && p.value == own.as_str().as_bytes())
}

fn grown(part: &Part<'_>, more: &[u8]) -> Vec<u8> {
    field(part.number, &[part.value, more].concat())
}

/// One field of a message: with its key, and its value alone (without a length).
struct Part<'a> {
    number: u64,
    whole: &'a [u8],
    value: &'a [u8],
}

fn rewritten(message: &[u8], change: impl Fn(&Part<'_>) -> Option<Vec<u8>>) -> Vec<u8> {
    parts(message).flat_map(|part| change(&part).unwrap_or_else(|| part.whole.to_vec())).collect()
}

/// The fields of a message that our own encoder wrote.
fn parts(mut message: &[u8]) -> impl Iterator<Item = Part<'_>> {
    std::iter::from_fn(move || {
        let start = message;
        let key = take_varint(&mut message)?;
        let length = match key & 7 {
            0 => {
                let mut rest = message;
                take_varint(&mut rest)?;
                message.len() - rest.len()
            }
            1 => 8,
            2 => usize::try_from(take_varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (value, rest) = message.split_at_checked(length)?;
        message = rest;
        Some(Part { number: key >> 3, whole: &start[..start.len() - rest.len()], value })
    })
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn put_varint(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push((number as u8 & 0x7f) | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// A field with a length.
fn field(number: u64, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_varint(number << 3 | 2, &mut bytes);
    put_varint(value.len() as u64, &mut bytes);
    bytes.extend_from_slice(value);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> Bytes {
        let update = |name: &str| {
            let instance = [vec![2 << 3 | 1], 9u64.to_le_bytes().to_vec()].concat();
            let (name, role) = (field(NODE_ID, name.as_bytes()), field(DESCRIPTOR, &field(1, b"worker")));
            let version = vec![5 << 3, 1];
            [name, instance, version, role].concat()
        };
        let mut version = Vec::new();
        put_varint(1 << 3, &mut version);
        put_varint(1, &mut version);
        let records = field(RECORDS, &field(UPDATES_OF_RECORDS, &update("n2")));
        [version, field(UPDATES, &update("n1")), records, field(LOAD, b"")].concat().into()
    }

    #[test]
    fn a_newer_node_says_more_of_itself_alone() {
        let own: NodeId = "n1".parse().expect("valid");
        let news = field(NEWS, b"x");
        let sent = Generation::Newer { news: news.clone() }.sent(&own, packet());
        let told = told(&sent);
        assert_eq!(told[0], (own, 9, news));
        assert_eq!(told[1], ("n2".parse().expect("valid"), 9, Vec::new()));
        assert!(parts(&sent).any(|p| p.number == NEWS));
    }

    #[test]
    fn an_older_node_knows_no_loads() {
        let own: NodeId = "n1".parse().expect("valid");
        for bytes in [Generation::Older.sent(&own, packet()), Generation::Older.heard(packet())] {
            assert!(parts(&bytes).all(|p| p.number != LOAD));
            assert_eq!(parts(&bytes).count() + 1, parts(&packet()).count());
        }
    }
}
