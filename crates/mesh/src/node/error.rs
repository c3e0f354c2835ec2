//! Why a node did not start or stop as it should.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use mesh_core::{
    MemberState, NodeId, SettingError,
    fs::{FileError, LockError},
    store::StoreError,
};
use mesh_gossip::GossipError;
use mesh_registry::raft::RaftError;
use mesh_transport::{
    TransportError, edge::EdgeError, error::IdentityError, rpc::PolicyViolation, transcode::DescriptorError,
};

/// Why a node did not start, or not stop in good order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The registry's files can't be used, or its voter had to stop.
    #[error("the registry can't be used")]
    Registry(#[source] RaftError),
    /// The registry's voter had to stop by itself.
    #[error("the registry has stopped")]
    RegistryEnded(#[source] std::sync::Arc<RaftError>),
    /// The store of the registry, which is not kept by nodes of this cluster, can't be opened.
    #[error("the registry's store can't be opened ({provider}); check registry.{provider}, and that it runs")]
    Store {
        /// The provider.
        provider: &'static str,
        /// The cause.
        #[source]
        source: StoreError,
    },
    /// The files of datasets can't be used.
    #[cfg(feature = "sync")]
    #[error("the files of datasets can't be used; look at the folder `sync` of the data directory")]
    SyncFiles(#[source] mesh_core::BoxError),
    /// Sync could not be started.
    #[cfg(feature = "sync")]
    #[error("sync can't be started")]
    Sync(#[source] mesh_sync::engine::EngineError),
    /// Settings break rules; nothing was started.
    #[error("{}", list(.0))]
    Settings(Vec<SettingError>),
    /// The certificate says something else than the settings; nothing was started.
    #[error(
        "node.{setting} is {configured}, but the certificate says {certificate}; \
         change the setting or leave it out, or use the right certificate"
    )]
    IdentityMismatch {
        /// The setting, without its section.
        setting: &'static str,
        /// Its value.
        configured: String,
        /// What the certificate has.
        certificate: String,
    },
    /// Certificate, key or trust bundle can't be used.
    #[error("the node's identity can't be used")]
    Identity(#[from] IdentityError),
    /// The data directory could not be made or looked at.
    #[error("cannot use the data directory {}; check node.data_dir and who may write there", path.display())]
    DataDirectory {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another process uses the data directory, or it can't be locked.
    #[error("cannot lock the data directory")]
    Lock(#[from] LockError),
    /// A file in the data directory can't be used.
    #[error("a file in the data directory can't be used")]
    File(#[from] FileError),
    /// The port of the mesh could not be opened.
    #[error("cannot open the node's port")]
    Transport(#[from] TransportError),
    /// No address is known at which others reach this node.
    #[error("cannot tell at which address others reach {bind}; set transport.advertise")]
    Advertise {
        /// Where it listens.
        bind: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Membership could not be started, or ended by itself.
    #[error("membership failed")]
    Gossip(#[source] GossipError),
    /// The endpoint `mesh` has no rules; nothing was started.
    #[error("cannot serve gRPC")]
    Policy(#[from] PolicyViolation),
    /// A service that is to be served as JSON is not described; nothing was started.
    #[error("cannot serve gRPC as JSON")]
    Descriptors(#[from] DescriptorError),
    /// Our own certificate has ended, so that every node would refuse this one; nothing was started.
    #[error(
        "the certificate of {id} ended {} ago ({source_of}); every node would refuse it: \
         issue a new one, put it there and start again",
        humantime::format_duration(*ago)
    )]
    Expired {
        /// Whose it is.
        id: String,
        /// How long it has been over.
        ago: Duration,
        /// The file, or where else it came from.
        source_of: String,
    },
    /// The control API's port could not be opened.
    #[error("cannot serve the control API")]
    Edge(#[from] EdgeError),
    /// The goodbye was not acknowledged; the node has stopped nevertheless.
    #[error("the goodbye was not acknowledged")]
    Leave(#[source] GossipError),
}

impl NodeError {
    /// Whether the registry's files are damaged: the error names one, and `mesh registry repair` is next.
    pub fn needs_registry_repair(&self) -> bool {
        match self {
            Self::Registry(error) => error.needs_repair(),
            Self::RegistryEnded(error) => error.needs_repair(),
            _ => false,
        }
    }
}

/// Why there is no channel to a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// Membership does not know the node, or this node is no member itself.
    #[error("{node_id} is not a known member; wait for `Node::ready`, or check the name")]
    Unknown {
        /// Who was asked for.
        node_id: NodeId,
    },
    /// The node is dead or has left.
    #[error("{node_id} is {state}; a channel needs a live member")]
    Gone {
        /// Who was asked for.
        node_id: NodeId,
        /// Its state.
        state: MemberState,
    },
    /// The member is known without an address.
    #[error("no address of {node_id} is known yet; retry later")]
    NoAddress {
        /// Who was asked for.
        node_id: NodeId,
    },
}

fn list(problems: &[SettingError]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("; ")
}
