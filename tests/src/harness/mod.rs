//! Real clusters: the `mesh` binary as child processes, and faults that a machine can do.
//!
//! A [`Cluster`] starts nodes with certificates of their own development CA, data
//! folders of their own, and ports that the system chose. Each node is followed by
//! an operator of ours, through the event stream of its control API; what all of
//! them were told, and what the nodes logged, is on one [`Board`]. A story waits
//! until the board shows something, with a bound; it never sleeps and hopes.
//!
//! Faults: signals ([`Cluster::kill`], [`Cluster::pause`]), networks of namespaces
//! with packet filters ([`Lab`]), small disks ([`SmallDisk`]). What a machine can't
//! do is told as a [`Missing`] prerequisite, and the story is skipped aloud.
//!
//! A story ends with [`Cluster::finish`]. If it does not get there, configurations,
//! logs, data and the board stay in `target/test-artifacts/`.

mod artifacts;
mod binary;
mod board;
mod certificates;
mod cluster;
mod disk;
mod lab;
mod operator;
mod poll;
mod prerequisite;
mod process;
mod steer;
mod stranger;

pub use artifacts::Folder;
pub use binary::{Program, mesh_binary};
pub use board::{Addresses, Board, Boards, Event, LogLine, Observer};
pub use certificates::Authority;
pub use cluster::{CLUSTER, Cluster, Plan, TRUST_DOMAIN};
pub use disk::SmallDisk;
pub use lab::{Lab, Namespace, Port};
pub use operator::{Operator, Page};
pub use poll::poll;
pub use prerequisite::{Missing, Need, check, is_root, postgresql, skip};
pub use steer::{mesh, mesh_ok, target};
pub use stranger::{Knock, knock};
