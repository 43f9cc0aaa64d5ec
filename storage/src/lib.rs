//! The replicated store: directory and timeline shards, each a Raft group, on this node's disk; and the gRPC services
//! `Store` and `Registry` over them. See docs/architecture.md.
//!
//! ```text
//! storage.rs   the node as a whole: open, run, drain
//! identity.rs, bootstrap.rs   who this node is, and how a cluster is made
//! addresses.rs, members.rs    where the nodes are, and what this one tells of itself
//! hosting.rs, reconcile.rs    replicas are opened, closed and made members as the registry says
//! levels.rs    which level the logs have, and how it rises
//! maintenance.rs, sweep.rs    what is removed
//! erasing.rs, cleansing.rs    what users have sent who are erased: replaced, and off the disk
//! shard_clock.rs    how time passes for a shard
//! log_upkeep.rs     snapshots, purges, files given back
//! cluster.rs, placement.rs    the shards of this node, and who leads them
//! health.rs, node_load.rs, leads.rs    whether nodes keep up, and what leading costs them
//! carrier.rs   commands of storage nodes for the registry
//! service.rs, registry.rs, lease_clock.rs   what routers and gateways ask
//! ring_slots.rs    which share of the users a router gets
//! space.rs     how full the disk is
//! watched.rs   metrics that are read when they are scraped
//! look.rs      what a data folder tells of itself while a node may run on it
//! damage.rs, repair.rs    how the node hears that its disk fails it, and how its data is made whole
//! put_back.rs  a data folder that was put back from a copy
//! user_data.rs what the operator reads of a user
//! backup/      what backups read, and data folders that are made of them
//! shard/       queues of writes and reads of one shard
//! raft/        openraft: groups, network, state machine
//! log/         raft-engine: log and votes of all shards
//! snapshot/    snapshot files
//! machine/     what commands do to records
//! engine/      sled and fjall
//! ```
//!
//! On disk, in the data folder: `identity`, `lock`, `ballast`, `log/`, `snapshots/`, `directory/`, `timeline/`.

mod addresses;
pub mod backup;
mod bootstrap;
mod carrier;
mod cleansing;
mod cluster;
mod cluster_admin;
mod config;
mod damage;
mod engine;
mod erasing;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod hosting;
mod identity;
mod leads;
mod lease_clock;
mod levels;
mod log;
mod log_upkeep;
mod look;
mod machine;
mod maintenance;
mod members;
pub mod metrics;
mod node_load;
mod placement;
mod planner;
mod put_back;
mod raft;
mod reconcile;
mod registry;
mod repair;
mod ring_slots;
mod rounds;
mod service;
mod shard;
mod shard_clock;
#[doc(hidden)]
pub mod simulation;
mod snapshot;
mod space;
mod storage;
mod sweep;
mod user_data;
mod watched;

pub use bootstrap::FoundError;
pub use config::{InvalidConfig, RetentionConfig, StorageConfig};
pub use look::{DiskSpace, Folder, Membership, disk_space, look};
pub use put_back::mark_put_back;
pub use repair::{Remedy, Repair, repair};
pub use storage::{OpenError, Storage};

/// What the crates below may log, by the name of their modules.
pub const LOG_LEVELS: [&str; 2] = [raft::LOG_LEVELS, log::LOG_LEVELS];
