//! Writes a snapshot file.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
};

use carillon_proto::pb::raft::{SnapshotHeader, SnapshotMeta};
use prost::Message as _;

use super::{BLOCK_BYTES, MAGIC};
use crate::machine::Record;

/// Writes all records and syncs the file.
pub(super) fn write(
    file: File,
    group: u64,
    meta: SnapshotMeta,
    records: &mut dyn Iterator<Item = Record>,
) -> io::Result<u64> {
    let mut out = BufWriter::with_capacity(BLOCK_BYTES, file);
    encode(&mut out, group, meta, records)?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

/// Writes a snapshot in the layout of a file. Returns the number of records.
pub(crate) fn encode(
    out: &mut impl Write,
    group: u64,
    meta: SnapshotMeta,
    records: &mut dyn Iterator<Item = Record>,
) -> io::Result<u64> {
    out.write_all(MAGIC)?;
    let header = SnapshotHeader { group, meta: Some(meta), ..SnapshotHeader::default() }.encode_to_vec();
    out.write_all(&(header.len() as u32).to_le_bytes())?;
    out.write_all(&crc32fast::hash(&header).to_le_bytes())?;
    out.write_all(&header)?;

    let mut block = Vec::with_capacity(BLOCK_BYTES + 4096);
    let mut count = 0u64;
    for record in records {
        let (key, value) = record?;
        block.extend_from_slice(&(key.len() as u32).to_le_bytes());
        block.extend_from_slice(&(value.len() as u32).to_le_bytes());
        block.extend_from_slice(&key);
        block.extend_from_slice(&value);
        count += 1;
        if block.len() >= BLOCK_BYTES {
            write_block(out, &block)?;
            block.clear();
        }
    }
    if !block.is_empty() {
        write_block(out, &block)?;
    }
    let encoded = count.to_le_bytes();
    out.write_all(&[0; 8])?;
    out.write_all(&crc32fast::hash(&encoded).to_le_bytes())?;
    out.write_all(&encoded)?;
    out.flush()?;
    Ok(count)
}

fn write_block(out: &mut impl Write, raw: &[u8]) -> io::Result<()> {
    let packed = lz4_flex::block::compress(raw);
    out.write_all(&(packed.len() as u32).to_le_bytes())?;
    out.write_all(&(raw.len() as u32).to_le_bytes())?;
    out.write_all(&crc32fast::hash(&packed).to_le_bytes())?;
    out.write_all(&packed)
}
