//! What fuzzers call: every decoder of this crate, and a core that takes what they accept.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use mesh_core::{
    CertificateInfo, DatagramEvent, Direction, Instant, LinkPath, Machine, NodeId, PeerIdentity, Settings,
    fuzz::Target,
};
use prost::Message;

use crate::{
    Effect, Gossip, GossipConfig, Input, LocalNode,
    gossip::parse_saved,
    wire::{self, Packet, Word, plain},
};

/// The targets of this crate.
pub const TARGETS: &[Target] = &[
    ("gossip_packet", packet),
    ("gossip_core", core),
    ("gossip_members", members),
    #[cfg(feature = "insecure-udp")]
    ("gossip_udp", crate::udp::fuzz),
];

fn peer(name: &str) -> Arc<PeerIdentity> {
    let id = format!("spiffe://t/mesh/c/worker/{name}").parse().expect("valid");
    let certificate = CertificateInfo { serial: "1".into(), not_before_s: 1, not_after_s: u64::MAX };
    Arc::new(PeerIdentity { id, certificate })
}

/// Packets: what is accepted encodes to something that decodes to the same.
pub fn packet(data: &[u8]) {
    let from: NodeId = "peer".parse().expect("valid");
    let payload = Bytes::copy_from_slice(data);
    let packet = match wire::decode(&from, &payload) {
        Ok(packet) => packet,
        Err(error) => return assert!(error.to_string().contains("peer"), "the sender is named"),
    };
    let again = wire::encode(&packet);
    assert!(Packet::decode(again).is_ok_and(|again| again == packet), "{packet:?}");
    let records = packet.sync_records.into_iter().flat_map(|r| r.updates);
    for update in packet.updates.into_iter().chain(records) {
        let unknown = update.unknown.clone();
        if let Some(word) = Word::parse(update, 4096) {
            assert_eq!(word.unknown, unknown);
        }
    }
}

/// A core with three links, fed with packets from its peers: it must stay within its bounds.
///
/// The bytes are pieces of a length, two bytes, and a payload each. Every other piece is
/// completed to a packet that passes the first checks, so that more is reached.
pub fn core(data: &[u8]) {
    let peers = [peer("a"), peer("b"), peer("c")];
    let config = GossipConfig { members_max: 8, ..GossipConfig::lan() };
    let config = config.validate().expect("valid settings");
    let local = LocalNode {
        identity: peer("me"),
        addresses: vec![([127, 0, 0, 1], 1).into()],
        metadata: BTreeMap::new(),
    };
    let mut now = Instant::from_nanos(1_000_000_000);
    let mut core = Gossip::new(config, local, 7, now);
    for (at, peer) in peers.iter().enumerate() {
        let port = u16::try_from(at).unwrap_or(0) + 2;
        let (remote, direction) = (([127, 0, 0, 1], port).into(), Direction::Inbound);
        let up = DatagramEvent::LinkUp { peer: peer.clone(), remote, path: LinkPath::Memory, direction };
        step(&mut core, now, Some(Input::Link(up)));
    }
    let mut rest = data;
    for at in 0..64 {
        let Some((length, after)) = rest.split_first_chunk::<2>() else { break };
        let length = usize::from(u16::from_le_bytes(*length)).min(after.len());
        let (piece, after) = after.split_at(length);
        rest = after;
        let payload = if at % 2 == 0 { Bytes::copy_from_slice(piece) } else { completed(piece) };
        let from = peers[at % peers.len()].clone();
        let received = DatagramEvent::Received { from, payload, path: LinkPath::Memory };
        step(&mut core, now, Some(Input::Link(received)));
        now += Duration::from_millis(u64::from(piece.first().copied().unwrap_or(1)) * 7);
        if core.poll_timeout().is_some_and(|due| due <= now) {
            step(&mut core, now, None);
        }
    }
    assert!(core.members().count() <= 8, "the table is bounded");
    assert!(core.local().node_id.as_str() == "me");
}

fn step(core: &mut Gossip, now: Instant, input: Option<Input>) {
    match input {
        // What a peer sends may be refused.
        Some(input) => drop(core.handle(now, input)),
        None => core.handle_timeout(now),
    }
    let mut effects = 0;
    while let Some(effect) = core.poll_effect() {
        effects += 1;
        assert!(effects < 10_000, "work is bounded");
        if let Effect::Transmit { payload, .. } = effect {
            assert!(payload.len() <= mesh_core::PAYLOAD_BYTES_MAX, "messages are bounded");
        }
    }
    assert!(core.queue_length() < 10_000, "queues are bounded");
}

/// A packet of the right version with one update, most of which the piece decides.
fn completed(piece: &[u8]) -> Bytes {
    let mut packet = Packet::decode(piece).unwrap_or_default();
    packet.version = 1;
    if let Ok(update) = plain::Update::decode(piece) {
        packet.updates.push(update.into());
    }
    for update in &mut packet.updates {
        let names = ["a", "b", "c", "me", "x"];
        if update.node_id.parse::<NodeId>().is_err() {
            update.node_id = names[piece.len() % names.len()].to_owned();
        }
    }
    wire::encode(&packet)
}

/// Saved members: what is understood is understood again.
pub fn members(data: &[u8]) {
    let saved = parse_saved(data);
    let text: String = saved.iter().map(|(node_id, address)| format!("{node_id} {address}\n")).collect();
    assert_eq!(parse_saved(text.as_bytes()), saved);
}

#[cfg(test)]
mod tests {
    #[test]
    fn decoders_hold_over_their_corpus() {
        mesh_core::fuzz::exercise(super::TARGETS);
    }
}
