//! The manifest of a backup: it is written last, and a backup without it is none.
//!
//! Layout: one line of JSON, then the line `sha256 HEX` over the first line without its end.

use carillon_proto::ShardMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::BackupError;

/// The version of the layout of a whole backup.
const FORMAT: u32 = 1;
const SUM: &str = "sha256 ";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) format: u32,
    pub(super) name: String,
    /// The folder of the attempt that succeeded.
    pub(super) attempt: String,
    /// The id of the cluster.
    pub(super) cluster: String,
    /// The level of its logs.
    pub(super) level: u32,
    pub(super) directory_shards: u16,
    pub(super) timeline_shards: u16,
    /// In milliseconds since 1970, by the clock of the machine that made the backup. Everything that was accepted
    /// before is in it.
    pub(super) began_ms: u64,
    pub(super) ended_ms: u64,
    /// The release that made it.
    pub(super) release: String,
    pub(super) shards: Vec<ShardFile>,
}

/// One shard: the pieces `ATTEMPT/FOLDER/NUMBER`, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ShardFile {
    /// For example `timeline-3`.
    pub(super) shard: String,
    pub(super) folder: String,
    /// When it was asked for, in milliseconds after the beginning.
    pub(super) after_ms: u64,
    /// The last entry of the shard's log that is in it.
    pub(super) term: u64,
    pub(super) index: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) sha256: String,
    pub(super) pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Piece {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

impl Manifest {
    pub(super) const FORMAT: u32 = FORMAT;

    pub(super) fn encode(&self) -> anyhow::Result<Vec<u8>> {
        let mut text = serde_json::to_string(self)?;
        let sum = hex(&Sha256::digest(text.as_bytes()));
        text.push_str(&format!("\n{SUM}{sum}\n"));
        Ok(text.into_bytes())
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BackupError> {
        let damaged = |why: &str| BackupError::Damaged(format!("its manifest {why}"));
        let text = str::from_utf8(bytes).map_err(|_| damaged("is no text"))?;
        let (json, sum) = text.split_once('\n').ok_or_else(|| damaged("is cut off"))?;
        let sum = sum.strip_prefix(SUM).and_then(|sum| sum.strip_suffix('\n')).ok_or_else(|| damaged("is cut off"))?;
        if hex(&Sha256::digest(json.as_bytes())) != sum {
            return Err(damaged("has a wrong checksum"));
        }
        let value: serde_json::Value = serde_json::from_str(json).map_err(|_| damaged("is no JSON"))?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format > u64::from(FORMAT) => Err(BackupError::Refused(format!(
                "the backup has format {format}, but this release reads formats up to {FORMAT}: use the release that made it"
            ))),
            Some(_) => serde_json::from_value(value).map_err(|error| damaged(&format!("can't be read: {error}"))),
            None => Err(damaged("has no format")),
        }
    }

    pub(super) fn map(&self) -> ShardMap {
        ShardMap { directory: self.directory_shards, timeline: self.timeline_shards }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes).sum()
    }

    pub(super) fn records(&self) -> u64 {
        self.shards.iter().map(|shard| shard.records).sum()
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let piece = Piece { bytes: 7, sha256: hex(&[7; 32]) };
        let shard = ShardFile {
            shard: "timeline-0".to_owned(),
            folder: "timeline-0.1".to_owned(),
            after_ms: 12,
            term: 3,
            index: 700,
            records: 9,
            bytes: 7,
            sha256: hex(&[8; 32]),
            pieces: vec![piece],
        };
        Manifest {
            format: FORMAT,
            name: "nightly".to_owned(),
            attempt: "a1".to_owned(),
            cluster: "c".to_owned(),
            level: 3,
            directory_shards: 1,
            timeline_shards: 1,
            began_ms: 1,
            ended_ms: 2,
            release: "0.1.0".to_owned(),
            shards: vec![shard],
        }
    }

    #[test]
    fn it_is_read_as_it_was_written_and_each_changed_byte_is_found() {
        let bytes = manifest().encode().expect("encodes");
        assert_eq!(Manifest::decode(&bytes).expect("sound"), manifest());
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert!(matches!(Manifest::decode(&bytes), Err(BackupError::Damaged(_))), "byte {at}");
            assert!(Manifest::decode(&bytes[..at]).is_err(), "length {at}");
        }
    }

    #[test]
    fn a_later_format_is_refused_and_not_taken_for_damage() {
        let later = Manifest { format: FORMAT + 1, ..manifest() }.encode().expect("encodes");
        let refused = Manifest::decode(&later).expect_err("refused");
        assert!(matches!(&refused, BackupError::Refused(why) if why.contains("format 2")), "{refused}");
    }
}
