//! A cluster of processes on this machine whose nodes, network, disks and clocks can be made to fail.

pub(crate) mod admin;
mod clock;
#[allow(clippy::module_inception, reason = "the type that the module is named after")]
mod cluster;
mod disk;
mod error;
mod growth;
mod network;
mod node;
mod operator;
mod plan;
pub(crate) mod tool;
mod wire;

pub use cluster::{Cluster, ClusterConfig};
pub use disk::Disk;
pub use error::ClusterError;
pub use network::{Filter, Network};
pub use node::Node;
pub use operator::{Member, Members, PlacedReplica, PlacedShard};
pub use plan::{Counts, Keeping, Layout, Role};
