//! The metrics of a gateway.

use std::{sync::LazyLock, time::Duration};

use carillon_proto::{
    metrics::{Label, Metric},
    pb::client::Code,
};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

pub const CONNECTIONS: &str = "carillon_gateway_connections";
pub const CONNECTIONS_LIMIT: &str = "carillon_gateway_connections_limit";
pub const CONNECTIONS_REFUSED: &str = "carillon_gateway_connections_refused_total";
pub const SESSIONS: &str = "carillon_gateway_sessions";
pub const SIGN_INS: &str = "carillon_gateway_sign_ins_total";
pub const FRAMES: &str = "carillon_gateway_frames_total";
pub const SENDS: &str = "carillon_gateway_sends_total";
pub const ACCEPTED: &str = "carillon_gateway_accepted_total";
pub const REFUSALS: &str = "carillon_gateway_refusals_total";
pub const BYES: &str = "carillon_gateway_byes_total";
pub const DELIVERIES: &str = "carillon_gateway_deliveries_total";
pub const RECEIVED: &str = "carillon_gateway_received_bytes_total";
pub const SENT: &str = "carillon_gateway_sent_bytes_total";
pub const RECEIVE_LATENCY: &str = "carillon_gateway_receive_latency_seconds";
pub const SEND_LATENCY: &str = "carillon_gateway_send_latency_seconds";
pub const DELIVERY_LATENCY: &str = "carillon_gateway_delivery_latency_seconds";
pub const ACKNOWLEDGE_LATENCY: &str = "carillon_gateway_acknowledge_latency_seconds";
pub const GAP_FETCHES: &str = "carillon_gateway_gap_fetches_total";
pub const OUT_OF_TURN: &str = "carillon_gateway_pushes_out_of_turn_total";
pub const PUSHES_DROPPED: &str = "carillon_gateway_pushes_dropped_total";
pub const EVICTIONS: &str = "carillon_gateway_evictions_total";
pub const SLOW_CONSUMERS: &str = "carillon_gateway_slow_consumers_total";
pub const LINKS_UP: &str = "carillon_gateway_router_links";
pub const REQUESTS_PENDING: &str = "carillon_gateway_router_requests_pending";
pub const REQUESTS_PENDING_LIMIT: &str = "carillon_gateway_router_requests_pending_limit";
pub const REQUESTS_REPEATED: &str = "carillon_gateway_router_requests_repeated_total";
pub const ANNOUNCEMENTS: &str = "carillon_gateway_announcements_total";
pub const REBALANCED: &str = "carillon_gateway_rebalanced_total";
pub const LEASES: &str = "carillon_gateway_leases_total";
pub const MEDIA_TRANSFERS: &str = "carillon_gateway_media_transfers_total";
pub const PREVIEWS: &str = "carillon_gateway_previews_total";
pub const MEDIA_BYTES: &str = "carillon_gateway_media_bytes_total";

const CODES: &[&str] = &[
    "CODE_INVALID",
    "CODE_TOO_LARGE",
    "CODE_RATE_LIMITED",
    "CODE_UNAUTHENTICATED",
    "CODE_FORBIDDEN",
    "CODE_NOT_FOUND",
    "CODE_UNSUPPORTED",
    "CODE_OVERLOADED",
    "CODE_UNAVAILABLE",
    "CODE_SIGNED_OUT",
    "CODE_REPLACED",
    "CODE_SHUTTING_DOWN",
    "CODE_TOO_SLOW",
    "CODE_TIMED_OUT",
    "CODE_EXPIRED",
    "CODE_INTERNAL",
    "CODE_OUT_OF_ORDER",
    "CODE_EXISTS",
    "CODE_TOO_LATE",
];
const DIRECTIONS: [&str; 2] = ["upload", "download"];
const PROTOCOLS: [&str; 4] = ["tcp", "websocket", "grpc", "xmpp"];

/// All metrics of a gateway.
pub const ALL: &[Metric] = &[
    Metric::gauge(CONNECTIONS, "Open client connections").labels(&[Label::known("protocol", &PROTOCOLS)]),
    Metric::gauge(CONNECTIONS_LIMIT, "Client connections that may be open at once, of all listeners together"),
    Metric::counter(
        CONNECTIONS_REFUSED,
        "Connections for which there was no place, because all were taken or all that one address may have; health \
         checks that were answered are among them",
    )
    .labels(&[Label::known("why", &["full", "address"])]),
    Metric::gauge(SESSIONS, "Connections that are signed in"),
    Metric::counter(
        SIGN_INS,
        "Sign-ins; the way is any if the time was over before it was known; stale is a resume ticket that is not taken any more, \
         after which the client gives its credential",
    )
    .labels(&[
        Label::known("way", &["password", "token", "ticket", "any"]),
        Label::known(
            "result",
            &["ok", "crowded", "overloaded", "unauthenticated", "throttled", "stale", "failed", "timed_out"],
        ),
    ]),
    Metric::counter(FRAMES, "Frames of clients that were read, and frames that were given to their connections")
        .labels(&[Label::known("direction", &["received", "sent"])]),
    Metric::counter(SENDS, "Sends that clients asked for"),
    Metric::counter(ACCEPTED, "Sends answered with Accepted"),
    Metric::counter(REFUSALS, "Sends and other requests that were refused")
        .labels(&[Label::known("of", &["send", "request"]), Label::known("code", CODES)]),
    Metric::counter(BYES, "Connections ended by the gateway").labels(&[Label::known("code", CODES)]),
    Metric::counter(DELIVERIES, "Envelopes written to clients, as they were pushed or after they were read")
        .labels(&[Label::known("from", &["push", "read"])]),
    Metric::counter(RECEIVED, "Bytes of frames read from clients"),
    Metric::counter(SENT, "Bytes of frames written to clients"),
    Metric::histogram(
        RECEIVE_LATENCY,
        "From reading the last bytes of a Send to giving it to the link of its recipient's router; it waits behind what was \
         read with it, and for a router",
    ),
    Metric::histogram(SEND_LATENCY, "From reading a Send to writing its Accepted"),
    Metric::histogram(
        DELIVERY_LATENCY,
        "From the time that the sender's gateway gave a message to handing it to a connection that follows the \
         timeline live; the clocks of two machines may be involved",
    ),
    Metric::histogram(
        ACKNOWLEDGE_LATENCY,
        "From writing an envelope to its device's acknowledgement, for one envelope of a device at a time",
    ),
    Metric::counter(GAP_FETCHES, "Reads from the store of what was not pushed"),
    Metric::counter(OUT_OF_TURN, "Pushes that did not have the next position: stale ones are dropped, early ones wait")
        .labels(&[Label::known("why", &["stale", "early"])]),
    Metric::counter(PUSHES_DROPPED, "Pushes dropped because a connection's mailbox was full; it reads them"),
    Metric::counter(EVICTIONS, "Sessions replaced by a newer one of the same device"),
    Metric::counter(SLOW_CONSUMERS, "Connections closed because the client did not read"),
    Metric::gauge(LINKS_UP, "Routers to which a link is open"),
    Metric::gauge(REQUESTS_PENDING, "Requests to routers without an answer"),
    Metric::gauge(REQUESTS_PENDING_LIMIT, "Requests to routers that may wait for an answer; further ones are refused"),
    Metric::counter(REQUESTS_REPEATED, "Requests sent again because a link was lost or the owner changed"),
    Metric::counter(ANNOUNCEMENTS, "Sessions announced to a new or restarted router"),
    Metric::counter(
        REBALANCED,
        "Clients asked to move to another gateway because this one had many more than the others",
    ),
    Metric::counter(LEASES, "Leases taken; more than one in a process's life means that one was lost"),
    Metric::counter(
        MEDIA_TRANSFERS,
        "Uploads and downloads of files that have ended; refused: there were as many as may be at once. A client that goes away is in \
         neither",
    )
    .labels(&[Label::known("direction", &DIRECTIONS), Label::known("outcome", &["ok", "failed", "refused"])]),
    Metric::counter(
        PREVIEWS,
        "Pictures that were looked at; failed: damaged, or with more pixels than the process may have; busy: others came first. Those have no \
         preview",
    )
    .labels(&[Label::known("outcome", &["made", "failed", "late", "busy"])]),
    Metric::counter(MEDIA_BYTES, "Bytes of files that were taken from clients and given to them")
        .labels(&[Label::known("direction", &DIRECTIONS)]),
];

/// Updated by every message, so looked up in the recorder once.
static SEND: LazyLock<Counter> = LazyLock::new(|| counter!(SENDS));
static ACCEPT: LazyLock<(Counter, Histogram)> = LazyLock::new(|| (counter!(ACCEPTED), histogram!(SEND_LATENCY)));
static TAKEN: LazyLock<Histogram> = LazyLock::new(|| histogram!(RECEIVE_LATENCY));
static PUSHED: LazyLock<Counter> = LazyLock::new(|| counter!(DELIVERIES, "from" => "push"));
static READ: LazyLock<Counter> = LazyLock::new(|| counter!(DELIVERIES, "from" => "read"));
static BYTES: LazyLock<(Counter, Counter)> = LazyLock::new(|| (counter!(RECEIVED), counter!(SENT)));
static FRAME: LazyLock<(Counter, Counter)> =
    LazyLock::new(|| (counter!(FRAMES, "direction" => "received"), counter!(FRAMES, "direction" => "sent")));
static DELIVERED: LazyLock<Histogram> = LazyLock::new(|| histogram!(DELIVERY_LATENCY));
static ACKNOWLEDGED: LazyLock<Histogram> = LazyLock::new(|| histogram!(ACKNOWLEDGE_LATENCY));

/// Handles of the metrics of all connections, looked up in the recorder once: each look-up makes a handle of its own.
static SESSION: LazyLock<Gauge> = LazyLock::new(|| gauge!(SESSIONS));
static CARRIERS: LazyLock<[(&str, Gauge); 4]> =
    LazyLock::new(|| PROTOCOLS.map(|protocol| (protocol, gauge!(CONNECTIONS, "protocol" => protocol))));

/// Handles of the metrics that each tick of the links sets, looked up in the recorder once.
static LINKED: LazyLock<(Gauge, Gauge, Counter)> =
    LazyLock::new(|| (gauge!(LINKS_UP), gauge!(REQUESTS_PENDING), counter!(REQUESTS_REPEATED)));

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

/// `of`: what was asked for, a send or another request.
pub(crate) fn refusal(of: &'static str, code: Code) {
    counter!(REFUSALS, "of" => of, "code" => code.as_str_name()).increment(1);
}

pub(crate) fn media_transfer(direction: &'static str, outcome: &'static str) {
    counter!(MEDIA_TRANSFERS, "direction" => direction, "outcome" => outcome).increment(1);
}

pub(crate) fn preview(outcome: &'static str) {
    counter!(PREVIEWS, "outcome" => outcome).increment(1);
}

pub(crate) fn media_bytes(direction: &'static str, bytes: u64) {
    counter!(MEDIA_BYTES, "direction" => direction).increment(bytes);
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

pub(crate) fn received(latency: Duration) {
    TAKEN.record(latency);
}

pub(crate) fn accepted(latency: Duration) {
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

/// Bytes and frames, received and sent.
pub(crate) fn traffic(bytes: (u64, u64), frames: (u64, u64)) {
    for ((received, sent), (all_received, all_sent)) in [(bytes, &*BYTES), (frames, &*FRAME)] {
        all_received.increment(received);
        all_sent.increment(sent);
    }
}

pub(crate) fn delivered(latency_ms: u64) {
    DELIVERED.record(Duration::from_millis(latency_ms));
}

pub(crate) fn acknowledged(latency: Duration) {
    ACKNOWLEDGED.record(latency);
}

pub(crate) fn out_of_turn(why: &'static str) {
    counter!(OUT_OF_TURN, "why" => why).increment(1);
}

/// Tells how many connections, and requests to routers, the configuration allows.
pub(crate) fn limits(connections: usize, requests: usize) {
    gauge!(CONNECTIONS_LIMIT).set(connections as f64);
    gauge!(REQUESTS_PENDING_LIMIT).set(requests as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Highest number of a code that is looked for; there may be gaps below it.
    const MAX_CODE: i32 = 64;

    #[test]
    fn all_codes_are_values_of_the_label() {
        let codes = (1..=MAX_CODE).filter_map(|number| Code::try_from(number).ok());
        assert_eq!(codes.map(|code| code.as_str_name()).collect::<Vec<_>>(), CODES);
    }
}
