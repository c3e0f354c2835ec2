//! Who is at the other end of a stream, before anything else is said on it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use mesh_core::NodeId;

use super::{EngineEvent, Proof, ServeError, Wire, core::Core, frame::FRAME_BYTES_MAX};
use crate::{
    compress,
    entry::{AuthorId, DatasetId},
    handshake::{
        Claimant, Established, HANDSHAKE_BYTES_MAX, HandshakeError, HandshakeNonce, Initiator, Limits, Offer,
        Refusal, Responder, Terms, Us,
    },
    reconcile,
};

/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A peer that has proved its key, and what is open to both.
pub(super) struct Shaken {
    pub(super) established: Established,
    /// Ascending.
    pub(super) open: Vec<DatasetId>,
}

impl Core {
    fn us(&self) -> Us {
        let reconcile = reconcile::Limits::default();
        let limits = Limits {
            frame_bytes_max: u32::try_from(FRAME_BYTES_MAX).unwrap_or(u32::MAX),
            symbols_max: reconcile.symbols_max,
            entries_max: reconcile.entries_max,
            bytes_per_second_max: u64::MAX,
        };
        let terms = Terms {
            versions: Claimant::VERSIONS,
            cluster: self.cluster.clone(),
            node: self.local.clone(),
            limits,
            features: compress::SUPPORTED,
        };
        Us { key: self.key.clone(), terms }
    }

    fn offer(&self, dataset: &DatasetId) -> Offer {
        let prune_digest = self.find(dataset).map_or([0; 32], |dataset| dataset.prune_digest());
        Offer { dataset: dataset.clone(), prune_digest }
    }

    /// What a node may have. Without a key it is one that we look for, and what it proves is looked at later.
    fn open_to(&self, node: &NodeId, author: Option<&AuthorId>) -> Vec<Offer> {
        let open = self.all().into_iter().filter(|dataset| dataset.is_open_to(node, author));
        open.map(|dataset| self.offer(&dataset.id)).collect()
    }

    /// The side that has opened the stream.
    pub(super) async fn shake_dialled(&self, wire: &mut Wire, peer: &NodeId) -> Result<Shaken, ServeError> {
        let work = self.dialled(wire, peer);
        let shaken = tokio::time::timeout(PATIENCE, work).await;
        self.conclude(wire, Some(peer), shaken.unwrap_or(Err(ServeError::Silent(PATIENCE))))
    }

    async fn dialled(&self, wire: &mut Wire, peer: &NodeId) -> Result<Shaken, ServeError> {
        let offers = self.open_to(peer, None);
        let established = match wire.proof.clone() {
            Proof::Channel { node, exporter } => {
                let mut claimant = Claimant::dialled(self.us(), exporter, node);
                say(wire, claimant.claim(offers)).await?;
                claimant.check(&hear(wire).await?)?
            }
            Proof::Nothing => {
                let (initiator, hello) =
                    Initiator::begin(self.us(), None, offers, HandshakeNonce(self.draw()));
                say(wire, hello).await?;
                let (waiting, proof) = initiator.handle_answer(&hear(wire).await?)?;
                say(wire, proof).await?;
                waiting.handle_verdict(&hear(wire).await?)?
            }
        };
        if established.node != *peer {
            let (claimed, certified) = (established.node, peer.clone());
            return Err(HandshakeError::WrongNode { claimed, certified }.into());
        }
        self.pin(&established, wire)?;
        let open = names(&established.datasets);
        // What is open there, but not here any more now that the key is known, is not used.
        Ok(Shaken { open, established })
    }

    /// The side that has accepted it.
    pub(super) async fn shake_accepted(&self, wire: &mut Wire) -> Result<Shaken, ServeError> {
        let work = self.accepted(wire);
        let shaken = tokio::time::timeout(PATIENCE, work).await;
        self.conclude(wire, None, shaken.unwrap_or(Err(ServeError::Silent(PATIENCE))))
    }

    async fn accepted(&self, wire: &mut Wire) -> Result<Shaken, ServeError> {
        match wire.proof.clone() {
            Proof::Channel { node, exporter } => {
                let mut claimant = Claimant::accepted(self.us(), exporter, node);
                let established = claimant.check(&hear(wire).await?)?;
                self.pin(&established, wire)?;
                let open = self.granted(&established.node, &established.author, &established.datasets);
                say(wire, claimant.claim(open.clone())).await?;
                Ok(Shaken { open: names(&open), established })
            }
            Proof::Nothing => {
                let hello = hear(wire).await?;
                let (responder, answer) =
                    Responder::new(self.us()).handle_hello(&hello, HandshakeNonce(self.draw()))?;
                say(wire, answer).await?;
                let proved = responder.handle_proof(&hear(wire).await?)?;
                let open = self.granted(proved.node(), &proved.author(), proved.asked());
                let (established, verdict) = proved.grant(open.clone());
                self.pin(&established, wire)?;
                say(wire, verdict).await?;
                Ok(Shaken { open: names(&open), established })
            }
        }
    }

    /// Of what is asked for, what the node may have.
    fn granted(&self, node: &NodeId, author: &AuthorId, asked: &[Offer]) -> Vec<Offer> {
        let mut open = self.open_to(node, Some(author));
        open.retain(|open| asked.iter().any(|asked| asked.dataset == open.dataset));
        open
    }

    /// Remembers the key of a peer. Where a certificate tells who the node is, a new key of it is believed, as after a
    /// lost disk; where nothing does, the first key counts.
    fn pin(&self, established: &Established, wire: &Wire) -> Result<(), HandshakeError> {
        let certified = matches!(wire.proof, Proof::Channel { .. });
        for dataset in self.all() {
            if let Err(expected) = dataset.pin(&established.node, established.author, certified) {
                return Err(HandshakeError::WrongPeer { expected, found: established.author });
            }
        }
        Ok(())
    }

    /// Counts and tells a handshake that failed, and tells the peer.
    fn conclude(
        &self,
        wire: &Wire,
        peer: Option<&NodeId>,
        shaken: Result<Shaken, ServeError>,
    ) -> Result<Shaken, ServeError> {
        let outcome = match &shaken {
            Ok(_) => "proved",
            Err(ServeError::Handshake(HandshakeError::Refused(_))) => "refused",
            Err(ServeError::Handshake(_)) => "failed",
            Err(_) => "ended",
        };
        *self.counters.lock().handshakes.entry(outcome).or_default() += 1;
        if let Err(error) = &shaken {
            let refusal: Option<Refusal> = match error {
                ServeError::Handshake(error) => error.refusal(),
                _ => None,
            };
            if let Some(refusal) = refusal {
                // There is room: a handshake has at most two messages on the way.
                let _ = wire.sender.try_send(refusal.encode().into());
            }
            if matches!(error, ServeError::Handshake(_)) {
                let certified = match &wire.proof {
                    Proof::Channel { node, .. } => Some(node.clone()),
                    Proof::Nothing => peer.cloned(),
                };
                self.tell(EngineEvent::Refused { peer: certified, reason: describe(error) });
            }
        }
        shaken
    }
}

/// An error with its causes.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn names(offers: &[Offer]) -> Vec<DatasetId> {
    let mut names: Vec<_> = offers.iter().map(|offer| offer.dataset.clone()).collect();
    names.sort();
    names.dedup();
    names
}

async fn say(wire: &Wire, message: Vec<u8>) -> Result<(), ServeError> {
    wire.sender.send(message.into()).await.map_err(|_| ServeError::Ended("during the handshake".into()))
}

async fn hear(wire: &mut Wire) -> Result<Bytes, ServeError> {
    let message =
        wire.receiver.recv().await.ok_or_else(|| ServeError::Ended("during the handshake".into()))?;
    match message.len() > HANDSHAKE_BYTES_MAX {
        true => Err(ServeError::Malformed(format!("{} bytes as a message of a handshake", message.len()))),
        false => Ok(message),
    }
}

/// Runs a handshake that was accepted, and the stream after it.
pub(super) async fn serve(core: &Arc<Core>, mut wire: Wire) -> Result<(), ServeError> {
    use std::sync::atomic::Ordering;
    if !core.serving.load(Ordering::Relaxed) || core.is_stopping() {
        let _ = wire.sender.try_send(Refusal::Busy.encode().into());
        return Err(ServeError::NotServing);
    }
    let permits = (Arc::clone(&core.streams).try_acquire_owned(), core.handshakes.try_acquire());
    let (Ok(stream), Ok(handshake)) = permits else {
        let _ = wire.sender.try_send(Refusal::Busy.encode().into());
        return Err(ServeError::NotServing);
    };
    let shaken = core.shake_accepted(&mut wire).await?;
    drop(handshake);
    let link = super::link::Link::new(core, shaken.established, shaken.open, false);
    let ended = super::link::run(core, Arc::new(link), wire, None).await;
    drop(stream);
    ended
}
