//! The metrics of a gateway.

use std::sync::LazyLock;

use carillon_proto::pb::client::Code;
use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

pub const CONNECTIONS: &str = "carillon_gateway_connections";
pub const CONNECTIONS_REFUSED: &str = "carillon_gateway_connections_refused_total";
pub const SESSIONS: &str = "carillon_gateway_sessions";
pub const SIGN_INS: &str = "carillon_gateway_sign_ins_total";
pub const SENDS: &str = "carillon_gateway_sends_total";
pub const ACCEPTED: &str = "carillon_gateway_accepted_total";
pub const REFUSALS: &str = "carillon_gateway_refusals_total";
pub const BYES: &str = "carillon_gateway_byes_total";
pub const DELIVERIES: &str = "carillon_gateway_deliveries_total";
pub const RECEIVED: &str = "carillon_gateway_received_bytes_total";
pub const SENT: &str = "carillon_gateway_sent_bytes_total";
pub const SEND_LATENCY: &str = "carillon_gateway_send_latency_seconds";
pub const GAP_FETCHES: &str = "carillon_gateway_gap_fetches_total";
pub const PUSHES_DROPPED: &str = "carillon_gateway_pushes_dropped_total";
pub const EVICTIONS: &str = "carillon_gateway_evictions_total";
pub const SLOW_CONSUMERS: &str = "carillon_gateway_slow_consumers_total";
pub const LINKS_UP: &str = "carillon_gateway_router_links";
pub const REQUESTS_PENDING: &str = "carillon_gateway_router_requests_pending";
pub const REQUESTS_REPEATED: &str = "carillon_gateway_router_requests_repeated_total";
pub const ANNOUNCEMENTS: &str = "carillon_gateway_announcements_total";
pub const LEASES: &str = "carillon_gateway_leases_total";

enum Kind {
    Counter,
    /// A counter with labels.
    Labelled,
    Gauge,
    Histogram,
}

const ALL: &[(&str, Kind, Unit, &str)] = &[
    (CONNECTIONS, Kind::Gauge, Unit::Count, "Open client connections, by protocol"),
    (
        CONNECTIONS_REFUSED,
        Kind::Labelled,
        Unit::Count,
        "Connections for which there was no place, by why: full, address; health checks that were answered are among them",
    ),
    (SESSIONS, Kind::Gauge, Unit::Count, "Connections that are signed in"),
    (SIGN_INS, Kind::Labelled, Unit::Count, "Sign-ins, by way and result"),
    (SENDS, Kind::Counter, Unit::Count, "Sends that clients asked for"),
    (ACCEPTED, Kind::Counter, Unit::Count, "Sends answered with Accepted"),
    (REFUSALS, Kind::Labelled, Unit::Count, "Sends and fetches refused, by code"),
    (BYES, Kind::Labelled, Unit::Count, "Connections ended by the gateway, by code"),
    (DELIVERIES, Kind::Labelled, Unit::Count, "Envelopes written to clients, by where they came from: push or read"),
    (RECEIVED, Kind::Counter, Unit::Bytes, "Bytes of frames read from clients"),
    (SENT, Kind::Counter, Unit::Bytes, "Bytes of frames written to clients"),
    (SEND_LATENCY, Kind::Histogram, Unit::Seconds, "From reading a Send to writing its Accepted"),
    (GAP_FETCHES, Kind::Counter, Unit::Count, "Reads from the store of what was not pushed"),
    (
        PUSHES_DROPPED,
        Kind::Counter,
        Unit::Count,
        "Pushes dropped because a connection's mailbox was full; it reads them",
    ),
    (EVICTIONS, Kind::Counter, Unit::Count, "Sessions replaced by a newer one of the same device"),
    (SLOW_CONSUMERS, Kind::Counter, Unit::Count, "Connections closed because the client did not read"),
    (LINKS_UP, Kind::Gauge, Unit::Count, "Routers to which a link is open"),
    (REQUESTS_PENDING, Kind::Gauge, Unit::Count, "Requests to routers without an answer"),
    (REQUESTS_REPEATED, Kind::Counter, Unit::Count, "Requests sent again because a link was lost or the owner changed"),
    (ANNOUNCEMENTS, Kind::Counter, Unit::Count, "Sessions announced to a new or restarted router"),
    (LEASES, Kind::Counter, Unit::Count, "Leases taken; more than one in a process's life means that one was lost"),
];

/// Counters with one label, and all its values. They start at 0, because an alert needs the zero of an event that has
/// never happened.
const LABELS: &[(&str, &str, &[&str])] =
    &[(CONNECTIONS_REFUSED, "why", &["full", "address"]), (DELIVERIES, "from", &["push", "read"])];
const WAYS: &[&str] = &["password", "token"];
const SIGN_IN_RESULTS: &[&str] = &["ok", "crowded", "unauthenticated", "throttled", "failed"];
/// Way and result of a sign-in that ended before its way was known.
const NO_WAY: (&str, &str) = ("any", "timed_out");
/// Highest number of a code that is looked for; there may be gaps below it.
const MAX_CODE: i32 = 64;

/// Updated by every message, so looked up in the recorder once.
static SEND: LazyLock<Counter> = LazyLock::new(|| counter!(SENDS));
static ACCEPT: LazyLock<(Counter, Histogram)> = LazyLock::new(|| (counter!(ACCEPTED), histogram!(SEND_LATENCY)));
static PUSHED: LazyLock<Counter> = LazyLock::new(|| counter!(DELIVERIES, "from" => "push"));
static READ: LazyLock<Counter> = LazyLock::new(|| counter!(DELIVERIES, "from" => "read"));
static BYTES: LazyLock<(Counter, Counter)> = LazyLock::new(|| (counter!(RECEIVED), counter!(SENT)));

/// Handles of the metrics of all connections, looked up in the recorder once: each look-up makes a handle of its own.
static SESSION: LazyLock<Gauge> = LazyLock::new(|| gauge!(SESSIONS));
static CARRIERS: LazyLock<[(&str, Gauge); 3]> = LazyLock::new(|| {
    ["tcp", "websocket", "grpc"].map(|protocol| (protocol, gauge!(CONNECTIONS, "protocol" => protocol)))
});

/// Handles of the metrics that each tick of the links sets, looked up in the recorder once.
static LINKED: LazyLock<(Gauge, Gauge, Counter)> =
    LazyLock::new(|| (gauge!(LINKS_UP), gauge!(REQUESTS_PENDING), counter!(REQUESTS_REPEATED)));

/// Describes each metric to the recorder, and starts all counters at 0.
pub fn describe() {
    for (name, kind, unit, help) in ALL {
        match kind {
            Kind::Counter | Kind::Labelled => describe_counter!(*name, *unit, *help),
            Kind::Gauge => describe_gauge!(*name, *unit, *help),
            Kind::Histogram => describe_histogram!(*name, *unit, *help),
        }
    }
    begin();
}

fn begin() {
    for (name, label, values) in LABELS {
        values.iter().for_each(|value| drop(counter!(*name, *label => *value)));
    }
    let sign_ins = WAYS.iter().flat_map(|way| SIGN_IN_RESULTS.iter().map(move |result| (*way, *result)));
    for (way, result) in sign_ins.chain([NO_WAY]) {
        drop(counter!(SIGN_INS, "way" => way, "result" => result));
    }
    for code in (1..=MAX_CODE).filter_map(|number| Code::try_from(number).ok()) {
        drop(counter!(REFUSALS, "code" => code.as_str_name()));
        drop(counter!(BYES, "code" => code.as_str_name()));
    }
    for (name, kind, _, _) in ALL {
        if matches!(kind, Kind::Counter) {
            drop(counter!(*name));
        }
    }
}

/// All names with their help, for tests.
pub fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    ALL.iter().map(|(name, _, _, help)| (*name, *help))
}

/// Counts up while it lives.
pub(crate) struct Counted(Gauge);

impl Counted {
    pub(crate) fn connection(protocol: &'static str) -> Self {
        let known = CARRIERS.iter().find(|(name, _)| *name == protocol).map(|(_, gauge)| gauge.clone());
        Self::up(known.unwrap_or_else(|| gauge!(CONNECTIONS, "protocol" => protocol)))
    }

    pub(crate) fn session() -> Self {
        Self::up(SESSION.clone())
    }

    fn up(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

pub(crate) fn connection_refused(why: &'static str) {
    counter!(CONNECTIONS_REFUSED, "why" => why).increment(1);
}

pub(crate) fn sign_in(way: &'static str, result: &'static str) {
    counter!(SIGN_INS, "way" => way, "result" => result).increment(1);
}

pub(crate) fn refusal(code: Code) {
    counter!(REFUSALS, "code" => code.as_str_name()).increment(1);
}

pub(crate) fn bye(code: Code) {
    counter!(BYES, "code" => code.as_str_name()).increment(1);
}

pub(crate) fn delivered_from_push() {
    PUSHED.increment(1);
}

pub(crate) fn delivered_from_read() {
    READ.increment(1);
}

pub(crate) fn send() {
    SEND.increment(1);
}

pub(crate) fn accepted(latency: std::time::Duration) {
    let (accepted, seconds) = &*ACCEPT;
    accepted.increment(1);
    seconds.record(latency.as_secs_f64());
}

/// `repeated`: since it was told last.
pub(crate) fn links(up: usize, pending: usize, repeated: u64) {
    let (all_up, all_pending, all_repeated) = &*LINKED;
    all_up.set(up as f64);
    all_pending.set(pending as f64);
    all_repeated.increment(repeated);
}

pub(crate) fn bytes(received: u64, sent: u64) {
    let (all_received, all_sent) = &*BYTES;
    all_received.increment(received);
    all_sent.increment(sent);
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_follow_the_rule_and_have_help() {
        let mut seen = std::collections::HashSet::new();
        for (name, help) in super::names() {
            assert!(name.starts_with("carillon_gateway_"), "{name}");
            assert!(!help.is_empty() && seen.insert(name), "{name}");
        }
    }
}
