//! Reads a snapshot file.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use carillon_proto::pb::raft::{SnapshotHeader, SnapshotMeta};
use prost::Message as _;

use super::{MAGIC, MAGIC_1, MAX_BLOCK_BYTES, damaged};
use crate::machine::Record;

/// A format from here on is not that of a newer release but damage.
const FORMATS: u8 = 32;

/// An open snapshot file. It stays readable when a newer one takes its place.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotFile {
    path: PathBuf,
    file: Arc<File>,
    len: u64,
}

impl SnapshotFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file: Arc::new(file), len })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Up to `max` raw bytes from `offset` on, to be sent.
    pub(crate) fn piece(&self, offset: u64, max: usize) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; max.min(usize::try_from(self.len.saturating_sub(offset)).unwrap_or(max))];
        self.file.read_exact_at(&mut piece, offset)?;
        Ok(piece)
    }

    /// The group and the meta in its header.
    pub(crate) fn header(&self) -> io::Result<(u64, SnapshotMeta)> {
        read_header(&mut self.reader())
    }

    /// Reads the whole file and checks every block.
    pub(crate) fn verify(&self) -> io::Result<Verified> {
        let mut crc32 = crc32fast::Hasher::new();
        let (group, meta, records) = read(Summed { inner: self.reader(), crc32: &mut crc32 })?;
        for record in records {
            record?;
        }
        Ok(Verified { group, meta, crc32: crc32.finalize() })
    }

    pub(crate) fn records(&self) -> io::Result<Records<impl Read + use<>>> {
        Ok(read(self.reader())?.2)
    }

    fn reader(&self) -> BufReader<ReadAt> {
        BufReader::with_capacity(256 * 1024, ReadAt { file: Arc::clone(&self.file), offset: 0 })
    }
}

/// A file whose blocks are all sound.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verified {
    pub(crate) group: u64,
    pub(crate) meta: SnapshotMeta,
    /// Of the whole file.
    pub(crate) crc32: u32,
}

struct Summed<'a, R> {
    inner: R,
    crc32: &'a mut crc32fast::Hasher,
}

impl<R: Read> Read for Summed<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.crc32.update(&buf[..read]);
        Ok(read)
    }
}

/// Reads a snapshot in the layout of a file: the group and the meta in its header, and its records.
pub(crate) fn read<R: Read>(mut reader: R) -> io::Result<(u64, SnapshotMeta, Records<R>)> {
    let (group, meta) = read_header(&mut reader)?;
    Ok((group, meta, Records { reader, block: Vec::new(), at: 0, count: 0, done: false }))
}

/// The records of a file; each block is checked before use. Ends after the first error.
pub(crate) struct Records<R> {
    reader: R,
    block: Vec<u8>,
    at: usize,
    count: u64,
    done: bool,
}

impl<R: Read> Iterator for Records<R> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        if self.done {
            return None;
        }
        let result = self.read();
        self.done = !matches!(result, Ok(Some(_)));
        result.transpose()
    }
}

impl<R: Read> Records<R> {
    fn read(&mut self) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        if self.at == self.block.len() && !self.next_block()? {
            return Ok(None);
        }
        let key = self.take_u32()?;
        let value = self.take_u32()?;
        let record = (self.take(key)?.to_vec(), self.take(value)?.to_vec());
        self.count += 1;
        Ok(Some(record))
    }

    fn next_block(&mut self) -> io::Result<bool> {
        let packed = read_u32(&mut self.reader)? as usize;
        let raw = read_u32(&mut self.reader)? as usize;
        let crc = read_u32(&mut self.reader)?;
        if packed == 0 {
            let mut count = [0; 8];
            read_exact(&mut self.reader, &mut count)?;
            if raw != 0 || crc32fast::hash(&count) != crc || u64::from_le_bytes(count) != self.count {
                return Err(damaged("the number of records is wrong"));
            }
            if self.reader.read(&mut [0])? != 0 {
                return Err(damaged("it goes on behind its end"));
            }
            return Ok(false);
        }
        if packed > MAX_BLOCK_BYTES || raw > MAX_BLOCK_BYTES {
            return Err(damaged("a block is too long"));
        }
        let mut bytes = vec![0; packed];
        read_exact(&mut self.reader, &mut bytes)?;
        if crc32fast::hash(&bytes) != crc {
            return Err(damaged("a block's checksum is wrong"));
        }
        self.block = lz4_flex::block::decompress(&bytes, raw).map_err(|_| damaged("a block can't be unpacked"))?;
        if self.block.len() != raw || raw == 0 {
            return Err(damaged("a block's length is wrong"));
        }
        self.at = 0;
        Ok(true)
    }

    fn take_u32(&mut self) -> io::Result<usize> {
        let bytes = self.take(4)?.try_into().map_err(|_| damaged("a record is cut off"))?;
        Ok(u32::from_le_bytes(bytes) as usize)
    }

    fn take(&mut self, len: usize) -> io::Result<&[u8]> {
        let bytes = self.block.get(self.at..self.at + len).ok_or_else(|| damaged("a record is cut off"))?;
        self.at += len;
        Ok(bytes)
    }
}

fn read_header(reader: &mut impl Read) -> io::Result<(u64, SnapshotMeta)> {
    let mut magic = [0; 8];
    read_exact(reader, &mut magic)?;
    if ![MAGIC, MAGIC_1].contains(&&magic) {
        if magic[..7] == MAGIC[..7] && magic[7] > MAGIC[7] && magic[7] < FORMATS {
            let why = format!("snapshot file has format {}, which is newer than what this release reads", magic[7]);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        return Err(damaged("it does not begin as a snapshot"));
    }
    let len = read_u32(reader)? as usize;
    let crc = read_u32(reader)?;
    if len > MAX_BLOCK_BYTES {
        return Err(damaged("its header is too long"));
    }
    let mut header = vec![0; len];
    read_exact(reader, &mut header)?;
    if crc32fast::hash(&header) != crc {
        return Err(damaged("its header's checksum is wrong"));
    }
    let header = SnapshotHeader::decode(&*header).map_err(|_| damaged("its header can't be read"))?;
    Ok((header.group, header.meta.ok_or_else(|| damaged("its header has no meta"))?))
}

fn read_exact(reader: &mut impl Read, bytes: &mut [u8]) -> io::Result<()> {
    reader.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it is cut off"),
        _ => error,
    })
}

fn read_u32(reader: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    read_exact(reader, &mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

/// Reads at its own offset, so that many readers can share one file.
struct ReadAt {
    file: Arc<File>,
    offset: u64,
}

impl Read for ReadAt {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buf, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}
