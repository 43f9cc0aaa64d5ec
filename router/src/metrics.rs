//! The metrics of a router.

use std::{sync::LazyLock, time::Duration};

use carillon_proto::{
    metrics::{Label, Metric},
    pb::store::ReportReason,
};
use metrics::{Counter, Histogram, counter, gauge, histogram};

pub const REQUESTS: &str = "carillon_router_requests_total";
pub const REQUEST_SECONDS: &str = "carillon_router_request_duration_seconds";
pub const APPEND_SECONDS: &str = "carillon_router_append_duration_seconds";
pub const REPEATS: &str = "carillon_router_repeats_total";
pub const PUSHES: &str = "carillon_router_pushes_total";
pub const PUSHES_DROPPED: &str = "carillon_router_pushes_dropped_total";
pub const HINTS: &str = "carillon_router_hints_total";
pub const HINTS_DROPPED: &str = "carillon_router_hints_dropped_total";
pub const BEHIND: &str = "carillon_router_behind_total";
pub const SIGNALS: &str = "carillon_router_signals_total";
pub const SIGNALS_DROPPED: &str = "carillon_router_signals_dropped_total";
pub const HEADS_CHECKED: &str = "carillon_router_heads_checked_total";
pub const HEADS_NEWS: &str = "carillon_router_heads_news_total";
pub const LANES_REOPENED: &str = "carillon_router_lanes_reopened_total";
pub const EPOCHS_RENEWED: &str = "carillon_router_epochs_renewed_total";
pub const ACCOUNTS: &str = "carillon_router_accounts";
pub const ACCOUNT_LOOKUPS: &str = "carillon_router_account_lookups_total";
pub const SESSIONS: &str = "carillon_router_sessions";
pub const GATEWAYS_MISSING: &str = "carillon_router_gateways_missing";
pub const LINKS: &str = "carillon_router_links";
pub const RING_VERSION: &str = "carillon_router_ring_version";
pub const RING_ROUTERS: &str = "carillon_router_ring_routers";
pub const OUTBOX_ROWS: &str = "carillon_router_outbox_rows_total";
pub const SCHEDULED: &str = "carillon_router_scheduled_messages_total";
pub const REPORTS: &str = "carillon_router_reports_total";
pub const OPEN_REPORTS: &str = "carillon_router_open_reports";
pub const OLDEST_REPORT: &str = "carillon_router_oldest_report_seconds";
pub const MEDIA_CHECKED: &str = "carillon_router_media_checked_total";
pub const OUTBOX_LAG: &str = "carillon_router_outbox_lag_seconds";
pub const DEAD_LETTERS: &str = "carillon_router_outbox_dead_letters";
pub const LEASE_HELD: &str = "carillon_router_lease_held";

const OPERATION: Label = Label::known("op", &OPS);
const PARTITION: &[Label] = &[Label::open("partition", "numbers of the parts into which a router divides its users")];

/// All metrics of a router.
pub const ALL: &[Metric] = &[
    Metric::counter(REQUESTS, "Requests of gateways").labels(&[OPERATION, Label::known("outcome", &OUTCOMES)]),
    Metric::histogram(REQUEST_SECONDS, "From reading a request to its answer").labels(&[OPERATION]),
    Metric::histogram(APPEND_SECONDS, "From handing an append to the store client to the store's answer"),
    Metric::counter(REPEATS, "Appends that the store knew already: repeats after a failure, of a gateway or a client"),
    Metric::counter(PUSHES, "Deliveries given to gateways, one for each gateway"),
    Metric::counter(PUSHES_DROPPED, "Deliveries dropped because the gateway's queue was full or its link was gone"),
    Metric::counter(BEHIND, "Times that a gateway was told how far pushes reached that it did not get"),
    Metric::counter(SIGNALS, "Signals given to gateways, one for each gateway").for_debugging(),
    Metric::counter(SIGNALS_DROPPED, "Signals dropped because a queue was full or a link was gone").for_debugging(),
    Metric::counter(HEADS_CHECKED, "Inboxes of signed-in users that were compared with what was pushed"),
    Metric::counter(HEADS_NEWS, "Such comparisons that found something nobody had told"),
    Metric::counter(HINTS, "Deliveries given to other routers"),
    Metric::counter(HINTS_DROPPED, "Deliveries dropped on the way to their owner because a queue was full"),
    Metric::counter(LANES_REOPENED, "Times that the writes of a shard began again after a refusal or a loss"),
    Metric::counter(
        EPOCHS_RENEWED,
        "Inboxes of which a device had more than the store, which was put back from a copy",
    ),
    Metric::gauge(ACCOUNTS, "Accounts in memory").labels(PARTITION),
    Metric::gauge(SESSIONS, "Live sessions of the users that this router owns").labels(PARTITION),
    Metric::gauge(
        GATEWAYS_MISSING,
        "Gateways that run and have not announced all of their sessions since the ring changed last",
    )
    .labels(PARTITION),
    Metric::counter(ACCOUNT_LOOKUPS, "Looks for the account of a recipient, which was in memory or not")
        .labels(&[Label::known("result", &["hit", "miss"])]),
    Metric::gauge(LINKS, "Open links of gateways and routers").labels(&[Label::known("kind", &["gateway", "router"])]),
    Metric::gauge(RING_VERSION, "Version of the ring by which this router acts"),
    Metric::gauge(RING_ROUTERS, "Routers in that ring"),
    Metric::counter(OUTBOX_ROWS, "Rows of outboxes that a worker has carried out, or that the store has refused")
        .labels(&[Label::known("outcome", &["done", "refused"])]),
    Metric::counter(SCHEDULED, "Scheduled messages whose time has come, by what became of them")
        .labels(&[Label::known("outcome", &["sent", "failed"])]),
    Metric::counter(REPORTS, "Reports of users to the moderators that were stored, by their reasons")
        .labels(&[Label::known("reason", &REASONS)]),
    Metric::gauge(OPEN_REPORTS, "Reports that moderators have not resolved, in the shards whose workers run here"),
    Metric::gauge(OLDEST_REPORT, "Age of the oldest such report"),
    Metric::counter(
        MEDIA_CHECKED,
        "Files of which all shards were asked whether something refers to them; collected: nothing does, and they were removed",
    )
    .labels(&[Label::known("outcome", &["held", "collected"])])
    .for_debugging(),
    Metric::gauge(OUTBOX_LAG, "Age of the oldest row in the outboxes whose workers run here"),
    Metric::gauge(DEAD_LETTERS, "Rows of the outboxes whose workers run here that were given up"),
    Metric::gauge(LEASE_HELD, "1 while this router holds its lease"),
];

/// Updated by every message, so looked up in the recorder once.
static APPEND: LazyLock<Histogram> = LazyLock::new(|| histogram!(APPEND_SECONDS));
static PUSH: LazyLock<Counter> = LazyLock::new(|| counter!(PUSHES));
static LOOKUP_HIT: LazyLock<Counter> = LazyLock::new(|| lookup("hit"));
static SENT: LazyLock<(Counter, Histogram)> = LazyLock::new(|| handled("send", "ok"));
static ACKNOWLEDGED: LazyLock<(Counter, Histogram)> = LazyLock::new(|| handled("acknowledge", "ok"));

/// All values of the labels of `REQUESTS`; see `reply.rs`.
const OPS: [&str; 24] = [
    "look_up_account",
    "ensure_account",
    "open_session",
    "announce",
    "close_session",
    "acknowledge",
    "read",
    "read_heads",
    "send",
    "direct",
    "change_group",
    "follow",
    "read_group",
    "read_members",
    "read_memberships",
    "move_marks",
    "set_conversation",
    "read_conversations",
    "read_marks",
    "schedule",
    "change_scheduled",
    "read_scheduled",
    "send_scheduled",
    "report",
];
const REASONS: [&str; 4] = ["spam", "abuse", "illegal", "other"];
const OUTCOMES: [&str; 5] = ["ok", "refused", "overloaded", "unavailable", "not_owner"];

pub(crate) fn request(op: &'static str, outcome: &'static str, took: Duration) {
    let count = |(requests, seconds): &(Counter, Histogram)| {
        requests.increment(1);
        seconds.record(took);
    };
    match (op, outcome) {
        ("send", "ok") => count(&SENT),
        ("acknowledge", "ok") => count(&ACKNOWLEDGED),
        _ => count(&handled(op, outcome)),
    }
}

fn handled(op: &'static str, outcome: &'static str) -> (Counter, Histogram) {
    (counter!(REQUESTS, "op" => op, "outcome" => outcome), histogram!(REQUEST_SECONDS, "op" => op))
}

pub(crate) fn append(took: Duration) {
    APPEND.record(took);
}

pub(crate) fn repeat() {
    counter!(REPEATS).increment(1);
}

pub(crate) fn push(given: bool) {
    if given { PUSH.increment(1) } else { counter!(PUSHES_DROPPED).increment(1) }
}

pub(crate) fn behind() {
    counter!(BEHIND).increment(1);
}

pub(crate) fn signal(given: bool) {
    counter!(if given { SIGNALS } else { SIGNALS_DROPPED }).increment(1);
}

pub(crate) fn heads_checked(users: usize) {
    counter!(HEADS_CHECKED).increment(users as u64);
}

pub(crate) fn head_was_news() {
    counter!(HEADS_NEWS).increment(1);
}

pub(crate) fn hint(given: bool) {
    counter!(if given { HINTS } else { HINTS_DROPPED }).increment(1);
}

pub(crate) fn lanes_reopened(count: u64) {
    counter!(LANES_REOPENED).increment(count);
}

pub(crate) fn epoch_renewed() {
    counter!(EPOCHS_RENEWED).increment(1);
}

pub(crate) fn account_lookup(hit: bool) {
    if hit { LOOKUP_HIT.increment(1) } else { lookup("miss").increment(1) }
}

fn lookup(result: &'static str) -> Counter {
    counter!(ACCOUNT_LOOKUPS, "result" => result)
}

pub(crate) fn sizes(partition: usize, (accounts, sessions, gateways_missing): (usize, usize, usize)) {
    let sizes = [(ACCOUNTS, accounts), (SESSIONS, sessions), (GATEWAYS_MISSING, gateways_missing)];
    for (name, size) in sizes {
        gauge!(name, "partition" => partition.to_string()).set(size as f64);
    }
}

pub(crate) fn link(kind: &'static str, change: f64) {
    gauge!(LINKS, "kind" => kind).increment(change);
}

pub(crate) fn ring(version: u64, routers: usize) {
    gauge!(RING_VERSION).set(version as f64);
    gauge!(RING_ROUTERS).set(routers as f64);
}

pub(crate) fn outbox_row(outcome: &'static str) {
    counter!(OUTBOX_ROWS, "outcome" => outcome).increment(1);
}

pub(crate) fn scheduled(sent: bool) {
    counter!(SCHEDULED, "outcome" => if sent { "sent" } else { "failed" }).increment(1);
}

pub(crate) fn report(reason: ReportReason) {
    let reason = match reason {
        ReportReason::Spam => "spam",
        ReportReason::Abuse => "abuse",
        ReportReason::Illegal => "illegal",
        ReportReason::Other | ReportReason::Unspecified => "other",
    };
    counter!(REPORTS, "reason" => reason).increment(1);
}

pub(crate) fn open_reports(count: u64, oldest_ms: u64) {
    gauge!(OPEN_REPORTS).set(count as f64);
    gauge!(OLDEST_REPORT).set(oldest_ms as f64 / 1000.0);
}

pub(crate) fn media_checked(held: usize, collected: usize) {
    counter!(MEDIA_CHECKED, "outcome" => "held").increment(held as u64);
    counter!(MEDIA_CHECKED, "outcome" => "collected").increment(collected as u64);
}

pub(crate) fn outboxes(lag_ms: u64, dead_letters: u64) {
    gauge!(OUTBOX_LAG).set(lag_ms as f64 / 1000.0);
    gauge!(DEAD_LETTERS).set(dead_letters as f64);
}

pub(crate) fn lease_held(held: bool) {
    gauge!(LEASE_HELD).set(if held { 1.0 } else { 0.0 });
}
