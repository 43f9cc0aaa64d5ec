//! The bytes of a shard in a backup, checked while they are read.

use std::io::{self, Read};

use axum::body::Bytes;
use carillon_proto::ShardId;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;

use super::{
    BackupError,
    manifest::{Manifest, ShardFile, hex},
    target::Target,
};

/// Reads piece by piece; each is checked before any of its bytes is used. Blocking: `runtime` runs elsewhere. `InvalidData`
/// is damage, all other errors are of the storage.
pub(super) struct ShardReader {
    runtime: Handle,
    target: Target,
    name: String,
    attempt: String,
    file: ShardFile,
    next: usize,
    piece: Bytes,
    whole: Sha256,
    bytes: u64,
}

impl ShardReader {
    pub(super) fn new(runtime: Handle, target: Target, manifest: &Manifest, file: ShardFile) -> Self {
        let (name, attempt) = (manifest.name.clone(), manifest.attempt.clone());
        let piece = Bytes::new();
        Self { runtime, target, name, attempt, file, next: 0, piece, whole: Sha256::new(), bytes: 0 }
    }

    fn next_piece(&mut self) -> io::Result<Bytes> {
        let path = self.target.piece(&self.name, &self.attempt, &self.file.folder, self.next);
        let expected = &self.file.pieces[self.next];
        let read = self.runtime.block_on(self.target.get(&path));
        let read = read.map_err(|error| io::Error::other(format!("{error:#}")))?;
        let bytes = read.ok_or_else(|| damaged(format!("{path} is missing")))?;
        if bytes.len() as u64 != expected.bytes {
            return Err(damaged(format!("{path} has {} bytes instead of {}", bytes.len(), expected.bytes)));
        }
        if hex(&Sha256::digest(&bytes)) != expected.sha256 {
            return Err(damaged(format!("{path} has a wrong checksum")));
        }
        self.whole.update(&bytes);
        self.bytes += bytes.len() as u64;
        self.next += 1;
        Ok(bytes)
    }
}

impl Read for ShardReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            if self.next < self.file.pieces.len() {
                self.piece = self.next_piece()?;
                continue;
            }
            if self.bytes != self.file.bytes || hex(&self.whole.clone().finalize()) != self.file.sha256 {
                return Err(damaged("its pieces do not make what was read from the cluster".to_owned()));
            }
            return Ok(0);
        }
        let taken = self.piece.split_to(into.len().min(self.piece.len()));
        into[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}

fn damaged(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// All shards of the cluster with their files.
pub(super) fn shards(manifest: &Manifest) -> Result<Vec<(ShardId, ShardFile)>, BackupError> {
    let file = |shard: ShardId| {
        let mut files = manifest.shards.iter().filter(|file| file.shard == shard.to_string());
        match (files.next(), files.next()) {
            (Some(file), None) => Ok((shard, file.clone())),
            _ => Err(BackupError::Damaged(format!("its manifest does not have {shard} once"))),
        }
    };
    manifest.map().all().map(file).collect()
}
