//! Backups: what a storage node gives to `carillon backup create`, and the data folder that `carillon backup restore`
//! makes of it. See docs/adr/0019-backup.md.
//!
//! ```text
//! service.rs   the gRPC service `Backup`
//! restore.rs   a data folder of one node
//! remains.rs   the same out of what stopped nodes have left
//! cut.rs       messages of which only one copy is in the backup
//! ```

mod cut;
mod remains;
mod restore;
mod service;
#[cfg(test)]
mod tests;

use std::io::{self, Read};

use carillon_proto::ShardId;

pub(crate) use self::service::BackupService;
pub use self::{
    cut::Mended,
    remains::{Recovered, Taken, recover},
    restore::{Restore, RestoreError, Restored},
};
use crate::{machine::keys, snapshot};

/// What was found in the bytes of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckedShard {
    pub records: u64,
    /// The last entry of the shard's log that is in them.
    pub index: u64,
}

/// Reads a shard's bytes to their end, and decodes each record. `InvalidData` or `UnexpectedEof`: they are damaged.
/// `Unsupported`: a newer release wrote them. Blocking.
pub fn check_shard(shard: ShardId, bytes: impl Read) -> io::Result<CheckedShard> {
    let (group, meta, records) = snapshot::read(bytes)?;
    let index = index_of(shard, group, meta.last_log_id)?;
    let mut count = 0;
    for record in records {
        let (key, value) = record?;
        keys::check(shard.kind, &key, &value)?;
        count += 1;
    }
    Ok(CheckedShard { records: count, index })
}

/// Checks the header of a shard's bytes.
fn index_of(shard: ShardId, group: u64, last: Option<carillon_proto::pb::raft::LogId>) -> io::Result<u64> {
    if group != shard.group() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("these are not the bytes of {shard}")));
    }
    let last = last.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{shard} has no log id")))?;
    Ok(last.index)
}
