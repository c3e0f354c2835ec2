//! Streams in memory: many engines in one process, with nothing between them. For tests and demonstrations.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use mesh_core::NodeId;
use tokio::sync::mpsc;

use crate::engine::{Carrier, CarrierError, Dial, Proof, STREAM_FRAMES_MAX, SyncHandler, Wire};

/// A network in memory. Clones are the same one. Streams prove nothing, so engines prove their keys to each other.
#[derive(Clone, Debug, Default)]
pub struct MemoryNetwork(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    handlers: BTreeMap<NodeId, SyncHandler>,
    cut: BTreeSet<(NodeId, NodeId)>,
    streams: Vec<(NodeId, NodeId, tokio::task::AbortHandle)>,
}

fn pair(a: &NodeId, b: &NodeId) -> (NodeId, NodeId) {
    if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) }
}

impl MemoryNetwork {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way of `local` to others.
    pub fn carrier(&self, local: &NodeId) -> MemoryCarrier {
        MemoryCarrier { network: self.clone(), local: local.clone() }
    }

    /// Makes a node reachable.
    pub fn serve(&self, node: &NodeId, handler: SyncHandler) {
        self.state().handlers.insert(node.clone(), handler);
    }

    /// Makes it unreachable, and ends its streams.
    pub fn remove(&self, node: &NodeId) {
        let mut state = self.state();
        state.handlers.remove(node);
        state.end(|a, b| a == node || b == node);
    }

    /// Cuts two nodes off from each other, and ends their streams.
    pub fn cut(&self, a: &NodeId, b: &NodeId) {
        let mut state = self.state();
        let cut = pair(a, b);
        state.end(|x, y| pair(x, y) == cut);
        state.cut.insert(cut);
    }

    /// Ends a cut.
    pub fn heal(&self, a: &NodeId, b: &NodeId) {
        self.state().cut.remove(&pair(a, b));
    }
}

impl State {
    fn end(&mut self, which: impl Fn(&NodeId, &NodeId) -> bool) {
        self.streams.retain(|(a, b, task)| {
            let over = which(a, b);
            if over {
                task.abort();
            }
            !over && !task.is_finished()
        });
    }
}

/// One node's way to others in a [`MemoryNetwork`]. Addresses don't matter.
#[derive(Clone, Debug)]
pub struct MemoryCarrier {
    network: MemoryNetwork,
    local: NodeId,
}

/// Both ends of a stream in memory that proves nothing.
pub fn stream() -> (Wire, Wire) {
    let (to_b, at_b) = mpsc::channel(STREAM_FRAMES_MAX);
    let (to_a, at_a) = mpsc::channel(STREAM_FRAMES_MAX);
    let a = Wire { proof: Proof::Nothing, sender: to_b, receiver: at_a, keep: None };
    let b = Wire { proof: Proof::Nothing, sender: to_a, receiver: at_b, keep: None };
    (a, b)
}

#[async_trait]
impl Carrier for MemoryCarrier {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn open(&self, dial: &Dial) -> Result<Wire, CarrierError> {
        let mut state = self.network.state();
        let reachable = !state.cut.contains(&pair(&self.local, &dial.peer));
        let handler = state.handlers.get(&dial.peer).filter(|_| reachable).cloned();
        let Some(handler) = handler else {
            let source = Arc::new("nobody is there, or the way is cut".into());
            return Err(CarrierError::Unreachable { peer: dial.peer.clone(), source });
        };
        let (ours, theirs) = stream();
        let task = tokio::spawn(async move { drop(handler.serve(theirs).await) });
        state.streams.retain(|(.., task)| !task.is_finished());
        state.streams.push((self.local.clone(), dial.peer.clone(), task.abort_handle()));
        Ok(ours)
    }
}
