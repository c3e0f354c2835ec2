//! Where changes and linearizable reads are to go: told by a provider of which one node leads, used by
//! whoever serves it to others and by whoever calls them.

use mesh_core::NodeId;

/// Who takes changes and linearizable reads now, as one node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// This node.
    Here,
    /// Another one.
    There(NodeId),
    /// Nobody, or nobody that this node has heard of.
    Unknown,
}

/// A provider that knows who leads.
///
/// ```
/// use mesh_registry::{LeaderHint, Leadership};
/// struct Alone;
/// impl LeaderHint for Alone {
///     fn leadership(&self) -> Leadership {
///         Leadership::Here
///     }
/// }
/// assert_eq!(Alone.leadership(), Leadership::Here);
/// ```
pub trait LeaderHint: Send + Sync + 'static {
    /// Who leads. Asked before each request: answer from memory.
    fn leadership(&self) -> Leadership;
}

/// The source of a [`StoreError::Unavailable`](mesh_core::store::StoreError::Unavailable) of a node that has the answer,
/// and no room for it in this reply. It travels with the error to whoever called.
#[cfg(feature = "rpc")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the same node answers if it is asked again")]
pub(crate) struct AskAgain;

/// The source of a [`StoreError::Unavailable`](mesh_core::store::StoreError::Unavailable) of a node that
/// does not lead and knows who does. It travels with the error to whoever called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{leader} leads")]
pub struct LedBy {
    /// Who leads.
    pub leader: NodeId,
}
