//! The settings of a storage node.

use std::{net::SocketAddr, path::PathBuf};

use carillon_proto::address::check_reachable;
use serde::{Deserialize, Serialize};

use crate::{engine::Caches, machine::MAX_ZONE_BYTES};

/// Settings of a storage node. The defaults make a cluster of one node on loopback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageConfig {
    /// Where the internal gRPC listener binds.
    pub listen: SocketAddr,
    /// host:port at which other nodes reach this one. Empty: the address that `listen` was bound to. It may change at
    /// each start.
    pub advertise: String,
    pub data_dir: PathBuf,
    /// Addresses of storage nodes: the ones of which `carillon cluster init` makes the cluster, and which this node
    /// contacts at its start. Later addresses are in the registry.
    pub members: Vec<String>,
    /// The failure domain of this node: its rack, its availability zone. Replicas of a shard are in different zones where there
    /// are enough. Empty: unknown.
    pub zone: String,
    /// Fixed when the cluster is made.
    pub directory_shards: u16,
    /// Fixed when the cluster is made.
    pub timeline_shards: u16,
    pub heartbeat_ms: u64,
    /// A follower that hears nothing from its leader for the length of the lease, and then for a random time between
    /// these two, starts an election. The shorter one is also the time in which a vote has to be on disk and answered.
    pub election_min_ms: u64,
    /// Also the length of a leader's lease.
    pub election_max_ms: u64,
    pub retention: RetentionConfig,
    /// Below this much free space on the disk of the data folder, or below a fifth of a smaller disk, sends are
    /// refused; history stays readable.
    pub disk_reserve_bytes: u64,
    /// Memory for sled's cache of the directory shards.
    pub directory_cache_bytes: u64,
    /// Memory for fjall's cache of the timelines.
    pub timeline_cache_bytes: u64,
    /// Files of the timelines' tables that are kept open; the others are opened for each read.
    pub timeline_open_files: usize,
    /// Memory for writes to timelines that are not in their tables yet, of all shards together. A start replays at most
    /// 256 MiB of them.
    pub timeline_memtables_bytes: u64,
    /// Memory for the newest entries of the logs of all shards together.
    pub log_cache_bytes: u64,
    /// Size of the log of all shards on disk; each shard has an equal part. A shard makes a snapshot after a quarter of
    /// its part, or after as many bytes as its last snapshot has if that is more. A quarter stays behind the snapshot
    /// for nodes that were away. The other half is room for files that can't be deleted yet.
    pub log_bytes: u64,
    /// How fast this node sends snapshots to others, all together; 0: as fast as it goes.
    pub snapshot_bytes_per_second: u64,
}

/// Retention of timelines. Time is counted by a clock of each shard, which runs while the shard has a leader,
/// independently of wall clocks. Nothing younger than `duplicate_window_ms` is ever removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// Envelopes older than this are removed; 0: never.
    pub max_age_ms: u64,
    /// Only this many newest envelopes of a timeline are kept; 0: all.
    pub max_count: u64,
    /// A message that is sent again within this time is recognised as a duplicate.
    pub duplicate_window_ms: u64,
    /// The cursor of a device is removed if envelopes have waited for the device for this long, and in any case if it
    /// has not moved for twice this long; 0: never. The device then starts with the first envelope kept, unless it
    /// knows its own position.
    pub cursor_age_ms: u64,
    /// A report to the moderators, with its messages, is removed after this time, resolved or not; 0: never.
    pub report_age_ms: u64,
    /// A file to which nothing refers any more, or never has, is removed after this time; 0: it is kept until its owner is erased. Who wants
    /// to send a file, or to forward a message with one, has this time for it.
    pub unreferenced_media_ms: u64,
}

/// An invalid setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("storage.{key} {why}")]
pub struct InvalidConfig {
    pub key: &'static str,
    pub why: String,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7401)),
            advertise: String::new(),
            data_dir: PathBuf::from("data/storage"),
            members: Vec::new(),
            zone: String::new(),
            directory_shards: 8,
            timeline_shards: 32,
            heartbeat_ms: 250,
            election_min_ms: 750,
            election_max_ms: 950,
            retention: RetentionConfig::default(),
            disk_reserve_bytes: 1 << 30,
            directory_cache_bytes: 64 << 20,
            timeline_cache_bytes: 128 << 20,
            timeline_open_files: 900,
            timeline_memtables_bytes: 256 << 20,
            log_cache_bytes: 64 << 20,
            log_bytes: 1 << 30,
            snapshot_bytes_per_second: 64 << 20,
        }
    }
}

impl Default for RetentionConfig {
    fn default() -> Self {
        const DAY_MS: u64 = 24 * 60 * 60 * 1000;
        Self {
            max_age_ms: 0,
            max_count: 0,
            duplicate_window_ms: DAY_MS,
            cursor_age_ms: 180 * DAY_MS,
            report_age_ms: 90 * DAY_MS,
            unreferenced_media_ms: 7 * DAY_MS,
        }
    }
}

impl StorageConfig {
    pub(crate) fn caches(&self) -> Caches {
        Caches {
            directory_bytes: self.directory_cache_bytes,
            timeline_bytes: self.timeline_cache_bytes,
            timeline_files: self.timeline_open_files,
            memtables_bytes: self.timeline_memtables_bytes,
        }
    }

    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let wrong = |key, why: String| Err(InvalidConfig { key, why });
        if self.data_dir.as_os_str().is_empty() {
            return wrong("data_dir", "is empty: name a folder for this node's data".into());
        }
        for (key, shards) in [("directory_shards", self.directory_shards), ("timeline_shards", self.timeline_shards)] {
            if !(1..=1024).contains(&shards) {
                return wrong(key, format!("is {shards}: it must be 1 to 1024"));
            }
        }
        if self.zone.len() > MAX_ZONE_BYTES || self.zone.chars().any(char::is_control) {
            return wrong("zone", format!("has more than {MAX_ZONE_BYTES} bytes, or control characters"));
        }
        if !(10..=60_000).contains(&self.heartbeat_ms) {
            return wrong("heartbeat_ms", format!("is {}: it must be 10 to 60000", self.heartbeat_ms));
        }
        if self.election_min_ms < 2 * self.heartbeat_ms {
            return wrong(
                "election_min_ms",
                format!("is {}: it must be twice heartbeat_ms or more", self.election_min_ms),
            );
        }
        if self.election_max_ms <= self.election_min_ms {
            return wrong(
                "election_max_ms",
                format!("is {}: it must be more than election_min_ms", self.election_max_ms),
            );
        }
        let advertised = (!self.advertise.is_empty()).then_some(("advertise", &self.advertise));
        for (key, address) in self.members.iter().map(|member| ("members", member)).chain(advertised) {
            check_reachable(address).map_err(|error| InvalidConfig { key, why: error.to_string() })?;
        }
        if self.advertise.is_empty() && self.listen.ip().is_unspecified() {
            let why = format!(
                "is empty, but must be host:port of this node where listen is {}: it is what others reach it by, and \
                 what it is known by",
                self.listen
            );
            return wrong("advertise", why);
        }
        let mut sorted = self.members.clone();
        sorted.sort();
        if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
            return wrong("members", "names an address twice".into());
        }
        if !(16..=1_000_000).contains(&self.timeline_open_files) {
            return wrong("timeline_open_files", format!("is {}: it must be 16 to 1000000", self.timeline_open_files));
        }
        let least = u64::from(self.timeline_shards) << 20;
        if self.timeline_memtables_bytes < least {
            return wrong(
                "timeline_memtables_bytes",
                format!("is {}: it must be {least} or more, 1 MiB for each shard", self.timeline_memtables_bytes),
            );
        }
        if self.log_bytes < 1 << 16 {
            return wrong("log_bytes", format!("is {}: it must be 65536 or more", self.log_bytes));
        }
        Ok(())
    }

    /// The address at which other nodes know this one.
    pub(crate) fn advertised_or(&self, bound: SocketAddr) -> String {
        if self.advertise.is_empty() { bound.to_string() } else { self.advertise.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        StorageConfig::default().validate().expect("valid");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |change: fn(&mut StorageConfig)| {
            let mut config = StorageConfig::default();
            change(&mut config);
            config.validate().expect_err("refused").key
        };
        assert_eq!(wrong(|config| config.timeline_shards = 0), "timeline_shards");
        assert_eq!(wrong(|config| config.election_max_ms = 450), "election_max_ms");
        assert_eq!(wrong(|config| config.members = vec!["nonsense".into()]), "members");
        assert_eq!(wrong(|config| config.members = vec!["a:1".into(), "a:1".into()]), "members");
        assert_eq!(wrong(|config| config.log_bytes = 1), "log_bytes");
    }
}
