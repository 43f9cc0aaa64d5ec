//! The metrics of a storage node.

use std::{sync::LazyLock, time::Duration};

use carillon_proto::ShardKind;
use metrics::{Counter, Histogram, counter, histogram};

/// Flushes of the log to disk.
const FLUSHES: &str = "carillon_storage_log_flushes_total";
const FLUSH_SECONDS: &str = "carillon_storage_log_flush_seconds";
const FLUSH_ENTRIES: &str = "carillon_storage_log_flush_entries";
pub(crate) const LOG_BYTES: &str = "carillon_storage_log_bytes";
const PROPOSALS: &str = "carillon_storage_proposals_total";
const PROPOSAL_COMMANDS: &str = "carillon_storage_proposal_commands";
const PROPOSAL_SECONDS: &str = "carillon_storage_proposal_seconds";
pub(crate) const REFUSALS: &str = "carillon_storage_refusals_total";
const READS: &str = "carillon_storage_reads_total";
const READ_SECONDS: &str = "carillon_storage_read_seconds";
const APPLIED: &str = "carillon_storage_applied_entries_total";
const APPLY_SECONDS: &str = "carillon_storage_apply_seconds";
pub(crate) const LEADING: &str = "carillon_storage_leading_shards";
pub(crate) const CLUSTER_LEVEL: &str = "carillon_storage_cluster_level";
pub(crate) const PROGRAM_LEVEL: &str = "carillon_storage_program_level";
pub(crate) const SLOW: &str = "carillon_storage_slow";
pub(crate) const DISK_FREE: &str = "carillon_storage_disk_free_bytes";
pub(crate) const DISK_TOTAL: &str = "carillon_storage_disk_total_bytes";
pub(crate) const DISK_FULL: &str = "carillon_storage_disk_full";
pub(crate) const CURSORS_SWEPT: &str = "carillon_storage_cursors_swept_total";
pub(crate) const REDACTED: &str = "carillon_storage_redacted_total";
pub(crate) const TRANSFERS: &str = "carillon_storage_lead_transfers_total";
pub(crate) const SNAPSHOTS: &str = "carillon_storage_snapshots_total";
pub(crate) const SNAPSHOT_SECONDS: &str = "carillon_storage_snapshot_seconds";
pub(crate) const SNAPSHOT_BYTES: &str = "carillon_storage_snapshot_bytes";
const SNAPSHOT_SENT_BYTES: &str = "carillon_storage_snapshot_sent_bytes_total";
const PEER_FRAMES: &str = "carillon_storage_peer_frames_total";
pub(crate) const PEER_DISCONNECTS: &str = "carillon_storage_peer_disconnects_total";
/// Removed rows that nobody needed any more.
pub(crate) const SWEPT: &str = "carillon_storage_swept_total";
pub(crate) const STREAMS: &str = "carillon_storage_router_streams";

const KINDS: [&str; 2] = ["directory", "timeline"];
/// The label of each counter that has one, with all its values.
const LABELS: &[(&str, &str, &[&str])] = &[
    (PROPOSALS, "kind", &KINDS),
    (READS, "kind", &KINDS),
    (APPLIED, "kind", &KINDS),
    (REFUSALS, "why", &["not_leader", "busy", "full", "unknown", "lane_closed", "rejected", "not_here"]),
    (TRANSFERS, "outcome", &["taken", "failed"]),
    (SNAPSHOTS, "what", &["built", "sent", "installed"]),
    (SWEPT, "what", &["timelines", "sessions"]),
];

/// Updated by every entry and every read, so looked up in the recorder once.
static FLUSH: LazyLock<(Counter, Histogram, Histogram)> =
    LazyLock::new(|| (counter!(FLUSHES), histogram!(FLUSH_SECONDS), histogram!(FLUSH_ENTRIES)));
static PROPOSED: LazyLock<[Counter; 2]> = LazyLock::new(|| KINDS.map(|kind| counter!(PROPOSALS, "kind" => kind)));
static PROPOSAL: LazyLock<(Histogram, Histogram)> =
    LazyLock::new(|| (histogram!(PROPOSAL_COMMANDS), histogram!(PROPOSAL_SECONDS)));
static READ: LazyLock<[(Counter, Histogram); 2]> =
    LazyLock::new(|| KINDS.map(|kind| (counter!(READS, "kind" => kind), histogram!(READ_SECONDS, "kind" => kind))));
static APPLY: LazyLock<[(Counter, Histogram); 2]> =
    LazyLock::new(|| KINDS.map(|kind| (counter!(APPLIED, "kind" => kind), histogram!(APPLY_SECONDS, "kind" => kind))));
static FRAMES: LazyLock<Counter> = LazyLock::new(|| counter!(PEER_FRAMES));
static SNAPSHOT_SENT: LazyLock<Counter> = LazyLock::new(|| counter!(SNAPSHOT_SENT_BYTES));

/// The one of `kinds` for this kind of shard.
fn of<T>(kinds: &[T; 2], kind: ShardKind) -> &T {
    match kind {
        ShardKind::Directory => &kinds[0],
        ShardKind::Timeline => &kinds[1],
    }
}

pub(crate) fn flushed(entries: usize, took: Duration) {
    let (flushes, seconds, sizes) = &*FLUSH;
    flushes.increment(1);
    seconds.record(took);
    sizes.record(entries as f64);
}

pub(crate) fn proposed(kind: ShardKind, commands: usize) {
    of(&PROPOSED, kind).increment(1);
    PROPOSAL.0.record(commands as f64);
}

/// Records the outcome of a proposed entry.
pub(crate) fn landed(took: Duration) {
    PROPOSAL.1.record(took);
}

pub(crate) fn applied(kind: ShardKind, entries: usize, took: Duration) {
    let (count, seconds) = of(&APPLY, kind);
    count.increment(entries as u64);
    seconds.record(took);
}

pub(crate) fn reads_begun(kind: ShardKind, reads: usize) {
    of(&READ, kind).0.increment(reads as u64);
}

pub(crate) fn reads_done(kind: ShardKind, took: Duration) {
    of(&READ, kind).1.record(took);
}

pub(crate) fn frames_sent(frames: usize) {
    FRAMES.increment(frames as u64);
}

/// Bytes of a snapshot have gone out to another node.
pub(crate) fn snapshot_sent(bytes: u64) {
    SNAPSHOT_SENT.increment(bytes);
}

/// Describes each metric to the recorder, and starts all counters at 0: an alert on something that has never happened
/// needs the zero. Call it once, after the recorder is installed.
pub fn describe() {
    for (name, help, kind) in ALL {
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, *help),
            Kind::Gauge => metrics::describe_gauge!(*name, *help),
            Kind::Histogram => metrics::describe_histogram!(*name, *help),
        }
        if matches!(kind, Kind::Counter) && !LABELS.iter().any(|(labelled, ..)| labelled == name) {
            drop(metrics::counter!(*name));
        }
    }
    for (name, label, values) in LABELS {
        values.iter().for_each(|value| drop(metrics::counter!(*name, *label => *value)));
    }
}

/// Names of all metrics with their help.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    ALL.iter().map(|(name, help, _)| (*name, *help))
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

const ALL: &[(&str, &str, Kind)] = &[
    (FLUSHES, "Flushes of the Raft log to disk.", Kind::Counter),
    (FLUSH_SECONDS, "Time to write and sync what waited for the Raft log.", Kind::Histogram),
    (FLUSH_ENTRIES, "Entries in one flush of the Raft log.", Kind::Histogram),
    (LOG_BYTES, "Bytes on disk of the Raft log of all shards.", Kind::Gauge),
    (PROPOSALS, "Raft entries proposed; kind is directory or timeline.", Kind::Counter),
    (PROPOSAL_COMMANDS, "Commands in one Raft entry.", Kind::Histogram),
    (PROPOSAL_SECONDS, "Time from proposing a Raft entry to its outcome.", Kind::Histogram),
    (REFUSALS, "Requests that were refused, by why.", Kind::Counter),
    (READS, "Reads answered; kind is directory or timeline.", Kind::Counter),
    (READ_SECONDS, "Time to answer one batch of reads.", Kind::Histogram),
    (APPLIED, "Raft entries applied; kind is directory or timeline.", Kind::Counter),
    (APPLY_SECONDS, "Time to apply one batch of Raft entries.", Kind::Histogram),
    (LEADING, "Shards that this node leads.", Kind::Gauge),
    (CLUSTER_LEVEL, "The level of the cluster, as far as this node has applied it.", Kind::Gauge),
    (PROGRAM_LEVEL, "The highest level that this program can read.", Kind::Gauge),
    (
        SLOW,
        "1 while this node can't keep up: its disk is slow or its tasks are late, and its leads go to others.",
        Kind::Gauge,
    ),
    (DISK_FREE, "Bytes that are free on the disk of the data folder.", Kind::Gauge),
    (DISK_TOTAL, "Size in bytes of the disk of the data folder.", Kind::Gauge),
    (DISK_FULL, "1 while sends are refused because the disk is nearly full.", Kind::Gauge),
    (REDACTED, "Messages of erased users that this node's shards have replaced.", Kind::Counter),
    (CURSORS_SWEPT, "Cursors of devices gone for long that this node's shards have removed.", Kind::Counter),
    (
        TRANSFERS,
        "Leads that were handed to the node that is preferred, or to one that keeps up, by outcome: taken, or failed, which costs the shard its writes until the next election.",
        Kind::Counter,
    ),
    (SNAPSHOTS, "Snapshots, by what was done: built, sent or installed.", Kind::Counter),
    (SNAPSHOT_SECONDS, "Time to build or install a snapshot.", Kind::Histogram),
    (SNAPSHOT_BYTES, "Bytes of a snapshot that was built.", Kind::Histogram),
    (
        SNAPSHOT_SENT_BYTES,
        "Bytes of snapshots sent to other storage nodes, also of those that did not get there whole.",
        Kind::Counter,
    ),
    (PEER_FRAMES, "Raft frames sent to other storage nodes.", Kind::Counter),
    (PEER_DISCONNECTS, "Streams to other storage nodes that broke or could not be opened.", Kind::Counter),
    (
        SWEPT,
        "Commands that removed what nobody needed any more, by what: timelines that ended, sessions of ended gateways.",
        Kind::Counter,
    ),
    (STREAMS, "Streams that routers hold open.", Kind::Gauge),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_explained() {
        let names: BTreeSet<_> = super::all().map(|(name, _)| name).collect();
        assert_eq!(names.len(), super::ALL.len());
        for (name, help) in super::all() {
            assert!(name.starts_with("carillon_storage_") && help.ends_with('.'), "{name}: {help}");
        }
    }
}
