//! What fuzzers call: everything that is decoded from a peer or from a person.

use bytes::Bytes;
use mesh_core::fuzz::Target;

use crate::{blob::Manifest, entry::Entry, reconcile, replica, ticket::Ticket};

/// The targets of this crate.
pub const TARGETS: &[Target] = &[
    ("sync_entry", entry),
    ("sync_manifest", manifest),
    ("sync_reconcile", reconcile_message),
    ("sync_replica", replica_message),
    ("sync_ticket", ticket),
];

/// Entries: one encoding, and a name that covers it.
fn entry(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    match Entry::decode(bytes.clone()) {
        Ok(entry) => {
            assert_eq!(entry.encoded(), &bytes, "what came in is what is kept");
            assert_eq!(Entry::decode(entry.encoded().clone()).map(|again| again.id()), Ok(entry.id()));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Manifests of large payloads.
fn manifest(data: &[u8]) {
    if let Err(error) = Manifest::decode(data) {
        assert!(!error.to_string().is_empty());
    }
}

/// Frames of a session.
fn reconcile_message(data: &[u8]) {
    if let Ok(message) = reconcile::Message::decode(data) {
        let again = reconcile::Message::decode(&message.encode()).expect("what was encoded is decoded");
        assert_eq!(again.encode(), message.encode());
    }
}

/// Messages between replicas.
fn replica_message(data: &[u8]) {
    if let Ok(message) = replica::Message::decode(&Bytes::copy_from_slice(data)) {
        let bytes = message.encode();
        let again = replica::Message::decode(&bytes).expect("what was encoded is decoded");
        assert_eq!(again.encode(), bytes);
    }
}

/// Tickets as text.
fn ticket(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match text.parse::<Ticket>() {
        Ok(ticket) => assert_eq!(ticket.to_string().parse::<Ticket>().ok(), Some(ticket)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn decoders_hold_over_their_corpus() {
        mesh_core::fuzz::exercise(super::TARGETS);
    }
}
