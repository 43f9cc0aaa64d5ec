//! The metrics of a storage node.

use std::{sync::LazyLock, time::Duration};

use carillon_proto::{
    ShardKind,
    metrics::{Label, Metric},
};
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
pub(crate) const STORE_BYTES: &str = "carillon_storage_store_bytes";
pub(crate) const DISK_FULL: &str = "carillon_storage_disk_full";
pub(crate) const CURSORS_SWEPT: &str = "carillon_storage_cursors_swept_total";
pub(crate) const MEDIA_REMOVED: &str = "carillon_storage_media_removed_total";
pub(crate) const MESSAGES_EXPIRED: &str = "carillon_storage_messages_expired_total";
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
const KIND: Label = Label::known("kind", &KINDS);
const SHARD: &[Label] = &[Label::open("shard", "shards of which this node has a replica")];
/// Folders of the data folder.
pub(crate) const PARTS: [&str; 4] = ["directory", "timeline", "snapshots", "log"];

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

/// All metrics of a storage node.
pub const ALL: &[Metric] = &[
    Metric::counter(FLUSHES, "Flushes of the Raft log to disk"),
    Metric::histogram(FLUSH_SECONDS, "Time to write and sync what waited for the Raft log"),
    Metric::histogram(FLUSH_ENTRIES, "Entries in one flush of the Raft log"),
    Metric::gauge(LOG_BYTES, "Bytes on disk of the Raft log of all shards"),
    Metric::counter(PROPOSALS, "Raft entries proposed").labels(&[KIND]),
    Metric::histogram(PROPOSAL_COMMANDS, "Commands in one Raft entry"),
    Metric::histogram(
        PROPOSAL_SECONDS,
        "Time from proposing a Raft entry to its outcome: it is on disk on a majority, and applied here",
    ),
    Metric::counter(REFUSALS, "Requests that were refused").labels(&[Label::known(
        "why",
        &["not_leader", "busy", "full", "unknown", "lane_closed", "rejected", "not_here"],
    )]),
    Metric::counter(READS, "Reads answered").labels(&[KIND]),
    Metric::histogram(READ_SECONDS, "Time to answer one batch of reads").labels(&[KIND]),
    Metric::counter(APPLIED, "Raft entries applied").labels(&[KIND]),
    Metric::histogram(APPLY_SECONDS, "Time to apply one batch of Raft entries").labels(&[KIND]),
    Metric::gauge(LEADING, "Shards that this node leads"),
    Metric::gauge(CLUSTER_LEVEL, "The level of the cluster, as far as this node has applied it"),
    Metric::gauge(PROGRAM_LEVEL, "The highest level that this program can read"),
    Metric::gauge(
        SLOW,
        "1 while this node can't keep up: its disk is slow or its tasks are late, and its leads go to others",
    ),
    Metric::gauge(DISK_FREE, "Bytes that are free on the disk of the data folder"),
    Metric::gauge(DISK_TOTAL, "Size of the disk of the data folder"),
    Metric::gauge(DISK_FULL, "1 while sends are refused because the disk is nearly full"),
    Metric::gauge(STORE_BYTES, "Size of the files in a part of the data folder; measured every half minute")
        .labels(&[Label::known("part", &PARTS)]),
    Metric::counter(REDACTED, "Messages of erased users that this node's shards have replaced").for_debugging(),
    Metric::counter(MEDIA_REMOVED, "Files that nobody needs, which this node's shards have removed").for_debugging(),
    Metric::counter(
        MESSAGES_EXPIRED,
        "Messages whose time was over, and whose contents this node's shards have removed",
    )
    .for_debugging(),
    Metric::counter(CURSORS_SWEPT, "Cursors of devices gone for long that this node's shards have removed")
        .for_debugging(),
    Metric::counter(
        TRANSFERS,
        "Leads that were handed to the node that is preferred, or to one that keeps up; a failed one costs the shard \
         its writes until the next election",
    )
    .labels(&[Label::known("outcome", &["taken", "failed"])]),
    Metric::counter(SNAPSHOTS, "Snapshots").labels(&[Label::known("what", &["built", "sent", "installed"])]),
    Metric::histogram(SNAPSHOT_SECONDS, "Time to build or install a snapshot")
        .labels(&[Label::known("what", &["built", "installed"])]),
    Metric::histogram(SNAPSHOT_BYTES, "Size of a snapshot that was built"),
    Metric::counter(
        SNAPSHOT_SENT_BYTES,
        "Bytes of snapshots sent to other storage nodes, also of those that did not get there whole",
    ),
    Metric::counter(PEER_FRAMES, "Raft frames sent to other storage nodes"),
    Metric::counter(PEER_DISCONNECTS, "Streams to other storage nodes that broke or could not be opened"),
    Metric::counter(
        SWEPT,
        "Commands that removed what nobody needed any more: timelines that ended, sessions of ended gateways",
    )
    .labels(&[Label::known("what", &["timelines", "sessions"])])
    .for_debugging(),
    Metric::gauge(STREAMS, "Streams that routers hold open"),
    SHARD_LEADS,
    SHARD_LEADER_KNOWN,
    SHARD_TERM,
    SHARD_LAST,
    SHARD_COMMITTED,
    SHARD_APPLIED,
    SHARD_APPLY_LAG,
    SHARD_FOLLOWER_LAG,
    SHARD_SILENT,
    SHARD_SNAPSHOT,
    SHARD_LOG_BYTES,
    NODES,
    REPLICAS,
];

// Read when they are scraped: see `watched.rs`.
pub(crate) const SHARD_LEADS: Metric =
    Metric::gauge("carillon_storage_shard_leads", "1 if this node's replica leads the shard").labels(SHARD);
pub(crate) const SHARD_LEADER_KNOWN: Metric =
    Metric::gauge("carillon_storage_shard_leader_known", "1 if this node's replica knows who leads the shard")
        .labels(SHARD);
pub(crate) const SHARD_TERM: Metric =
    Metric::gauge("carillon_storage_shard_term", "Raft term of the shard: it rises with each election").labels(SHARD);
pub(crate) const SHARD_LAST: Metric =
    Metric::gauge("carillon_storage_shard_last_index", "Last entry in this replica's log")
        .labels(SHARD)
        .for_debugging();
pub(crate) const SHARD_COMMITTED: Metric =
    Metric::gauge("carillon_storage_shard_committed_index", "Last entry that this replica knows to be committed")
        .labels(SHARD);
pub(crate) const SHARD_APPLIED: Metric =
    Metric::gauge("carillon_storage_shard_applied_index", "Last entry that this replica has applied").labels(SHARD);
pub(crate) const SHARD_APPLY_LAG: Metric = Metric::gauge(
    "carillon_storage_shard_apply_lag_entries",
    "Entries that this replica knows to be committed and has not applied",
)
.labels(SHARD);
pub(crate) const SHARD_FOLLOWER_LAG: Metric = Metric::gauge(
    "carillon_storage_shard_follower_lag_entries",
    "Entries of the leader that the replica farthest behind lacks; only the leader has it",
)
.labels(SHARD);
pub(crate) const SHARD_SILENT: Metric = Metric::gauge(
    "carillon_storage_shard_silent_replicas",
    "Replicas that have not answered for longer than an election takes; only the leader has it",
)
.labels(SHARD);
pub(crate) const SHARD_SNAPSHOT: Metric =
    Metric::gauge("carillon_storage_shard_snapshot_index", "Last entry that this replica's snapshot covers")
        .labels(SHARD)
        .for_debugging();
pub(crate) const SHARD_LOG_BYTES: Metric =
    Metric::gauge("carillon_storage_shard_log_bytes", "Size of this replica's entries in the Raft log").labels(SHARD);
pub(crate) const NODES: Metric = Metric::gauge("carillon_storage_cluster_nodes", "Storage nodes of the cluster")
    .labels(&[Label::known("state", &["active", "leaving", "lost"])]);
pub(crate) const REPLICAS: Metric = Metric::gauge(
    "carillon_storage_cluster_replicas",
    "Replicas of all shards of the cluster; those that join or leave are on the move",
)
.labels(&[Label::known("state", &["settled", "joining", "leaving"])]);
