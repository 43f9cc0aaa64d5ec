//! Snapshots of a shard: one file, made at once or not at all, checked before it is used.
//!
//! Layout (numbers little endian):
//!
//! | what | bytes |
//! | --- | --- |
//! | magic and format version | `CRLNSNP` and 2; 1 if the keys are of format 1 (`machine/keys.rs`), which are read, too |
//! | header | length u32, CRC-32 u32, encoded `carillon.raft.v1.SnapshotHeader` with group and meta |
//! | blocks | length u32, raw length u32, CRC-32 u32, LZ4 block of about 1 MiB of records |
//! | a record | length of the key u32, of the value u32, key, value |
//! | end | two u32 of 0, CRC-32 u32 of what follows, number of records u64 |

mod dir;
mod reader;
mod writer;

pub(crate) use dir::{Offer, SnapshotDir};
pub(crate) use reader::{SnapshotFile, read};
pub(crate) use writer::encode;

/// Where a data folder has the snapshots of its shards.
pub(crate) const FOLDER: &str = "snapshots";
const MAGIC: &[u8; 8] = b"CRLNSNP\x02";
const MAGIC_1: &[u8; 8] = b"CRLNSNP\x01";
/// Raw bytes after which a block is closed.
const BLOCK_BYTES: usize = 1 << 20;
/// Longest block of an intact file: the longest record, and the block before it.
const MAX_BLOCK_BYTES: usize = 64 << 20;

fn damaged(what: &str) -> std::io::Error {
    crate::damage::damaged("snapshot file", what)
}
