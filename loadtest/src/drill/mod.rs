//! A store of some size on a local cluster: its growth, backup, restore and an erasure, under load and with the checker.
//!
//! ```text
//! command.rs   the command line
//! run.rs       the phases, one after the other, on one cluster
//! fill.rs      messages as fast as the cluster takes them, until the store has its size
//! changes.rs   storage nodes come, move, are replaced and go
//! backup.rs    backups, quiet and while nodes are killed
//! erase.rs     a user is exported and erased
//! restore.rs   a new cluster out of a backup
//! letters.rs   two users whose messages are known one by one
//! traffic.rs   a steady load, and what a stretch of it was like
//! sent.rs      the bytes of snapshots between storage nodes
//! search.rs    looks for a text in raw files
//! size.rs      numbers of bytes
//! report.rs    the results
//! ```

mod backup;
mod changes;
mod command;
mod erase;
mod fill;
mod letters;
mod report;
mod restore;
mod run;
mod search;
mod sent;
mod size;
mod traffic;

pub use command::DrillCommand;
