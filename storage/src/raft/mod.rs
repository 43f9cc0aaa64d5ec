//! Raft: the only folder that names openraft.
//!
//! ```text
//! group.rs    one Raft group: proposing, reading, leading
//! status.rs   what a group knows about itself
//! store.rs    openraft's log storage on `crate::log`
//! machine.rs  openraft's state machine on `crate::machine`, with snapshots
//! offline.rs  a replica of a stopped node, without its group
//! applied.rs  how far a shard is applied, as its machine keeps it
//! link.rs     the stream to one other node, for all groups
//! network.rs  openraft's network on the links
//! server.rs   the gRPC service `Raft`
//! throttle.rs how fast snapshots are sent
//! pulse.rs    heartbeats of all groups, and who watches over their leaders
//! runtime.rs, newest.rs  openraft's runtime, with its own channel for the newest value of something
//! types.rs, convert.rs   openraft's types, and their form on the wire and on disk
//! ```

/// Log levels for openraft. It warns about each heartbeat of each shard that a stopped node does not take, which is
/// logged here once; and it logs an error when another node calls a shard that has stopped (a shard that stops by
/// itself ends the process).
pub(crate) const LOG_LEVELS: &str = "openraft=error,openraft::raft::raft_inner=off";

mod applied;
pub(crate) mod convert;
mod group;
mod link;
mod machine;
mod network;
mod newest;
mod offline;
mod pace;
mod pulse;
mod runtime;
mod server;
mod status;
mod store;
#[cfg(test)]
mod suite_test;
mod throttle;
mod types;

pub(crate) use group::{Group, GroupOptions, LeaderTerm, ProposeError, ReadError, StartError, lease};
pub(crate) use link::{LinkError, RaftLinks, Route};
pub(crate) use machine::NodeShare;
pub(crate) use offline::catch_up;
pub(crate) use pace::ApplyPace;
pub(crate) use pulse::beat;
pub(crate) use server::{RaftService, UNKNOWN_FRAME};
pub(crate) use status::GroupStatus;
pub(crate) use throttle::Throttle;
pub(crate) use types::{Host, LogId};
