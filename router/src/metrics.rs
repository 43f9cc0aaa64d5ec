//! The metrics of a router.

use std::{sync::LazyLock, time::Duration};

use metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

pub const REQUESTS: &str = "carillon_router_requests_total";
pub const REQUEST_SECONDS: &str = "carillon_router_request_duration_seconds";
pub const APPEND_SECONDS: &str = "carillon_router_append_duration_seconds";
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
pub const LEASE_HELD: &str = "carillon_router_lease_held";

/// Name, kind and help of each metric.
pub const ALL: [(&str, Kind, &str); 21] = [
    (REQUESTS, Kind::Counter, "Requests of gateways by operation and outcome"),
    (REQUEST_SECONDS, Kind::Seconds, "From reading a request to its answer, by operation"),
    (APPEND_SECONDS, Kind::Seconds, "From handing an append to the store client to the store's answer"),
    (PUSHES, Kind::Counter, "Deliveries given to gateways, one for each gateway"),
    (PUSHES_DROPPED, Kind::Counter, "Deliveries dropped because the gateway's queue was full or its link was gone"),
    (BEHIND, Kind::Counter, "Times that a gateway was told how far pushes reached that it did not get"),
    (SIGNALS, Kind::Counter, "Signals given to gateways, one for each gateway"),
    (SIGNALS_DROPPED, Kind::Counter, "Signals dropped because a queue was full or a link was gone"),
    (HEADS_CHECKED, Kind::Counter, "Inboxes of signed-in users that were compared with what was pushed"),
    (HEADS_NEWS, Kind::Counter, "Such comparisons that found something nobody had told"),
    (HINTS, Kind::Counter, "Deliveries given to other routers"),
    (HINTS_DROPPED, Kind::Counter, "Deliveries dropped on the way to their owner because a queue was full"),
    (LANES_REOPENED, Kind::Counter, "Times that the writes of a shard began again after a refusal or a loss"),
    (
        EPOCHS_RENEWED,
        Kind::Counter,
        "Inboxes of which a device had more than the store, which was put back from a copy",
    ),
    (ACCOUNTS, Kind::Gauge, "Accounts in memory, by partition"),
    (SESSIONS, Kind::Gauge, "Live sessions of the users that this router owns, by partition"),
    (
        GATEWAYS_MISSING,
        Kind::Gauge,
        "Gateways that run and have not announced all of their sessions since the ring changed last, by partition",
    ),
    (ACCOUNT_LOOKUPS, Kind::Counter, "Looks for the account of a recipient, by whether it was in memory"),
    (LINKS, Kind::Gauge, "Open links of gateways and routers, by kind"),
    (RING_VERSION, Kind::Gauge, "Version of the ring by which this router acts"),
    (LEASE_HELD, Kind::Gauge, "1 while this router holds its lease"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Seconds,
}

/// Updated by every message, so looked up in the recorder once.
static APPEND: LazyLock<Histogram> = LazyLock::new(|| histogram!(APPEND_SECONDS));
static PUSH: LazyLock<Counter> = LazyLock::new(|| counter!(PUSHES));
static LOOKUP_HIT: LazyLock<Counter> = LazyLock::new(|| lookup("hit"));
static SENT: LazyLock<(Counter, Histogram)> = LazyLock::new(|| handled("send", "ok"));
static ACKNOWLEDGED: LazyLock<(Counter, Histogram)> = LazyLock::new(|| handled("acknowledge", "ok"));

/// All values of the labels of `REQUESTS`; see `reply.rs`.
const OPS: [&str; 10] = [
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
];
const OUTCOMES: [&str; 5] = ["ok", "refused", "overloaded", "unavailable", "not_owner"];

/// Describes each metric to the recorder, and starts all counters at 0: an alert on something that has never happened
/// needs the zero.
pub fn describe() {
    for (name, kind, help) in ALL {
        match kind {
            Kind::Counter => describe_counter!(name, help),
            Kind::Gauge => describe_gauge!(name, help),
            Kind::Seconds => describe_histogram!(name, Unit::Seconds, help),
        }
        if kind == Kind::Counter && ![REQUESTS, ACCOUNT_LOOKUPS].contains(&name) {
            drop(counter!(name));
        }
    }
    for (op, outcome) in OPS.into_iter().flat_map(|op| OUTCOMES.map(|outcome| (op, outcome))) {
        drop(counter!(REQUESTS, "op" => op, "outcome" => outcome));
    }
    drop((lookup("hit"), lookup("miss")));
}

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

pub(crate) fn ring_version(version: u64) {
    gauge!(RING_VERSION).set(version as f64);
}

pub(crate) fn lease_held(held: bool) {
    gauge!(LEASE_HELD).set(if held { 1.0 } else { 0.0 });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule_and_have_help() {
        for (name, kind, help) in ALL {
            assert!(name.starts_with("carillon_router_") && !help.is_empty(), "{name}");
            assert_eq!(kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert_eq!(kind == Kind::Seconds, name.ends_with("_seconds"), "{name}");
            assert_eq!(ALL.iter().filter(|other| other.0 == name).count(), 1, "{name}");
        }
    }
}
