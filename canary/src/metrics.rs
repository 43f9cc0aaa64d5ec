//! The metrics of a canary.

use std::time::Duration;

use carillon_proto::metrics::{Label, Metric};
use metrics::{counter, gauge, histogram};

pub const ROUNDS: &str = "carillon_canary_rounds_total";
pub const ACCEPTANCE_SECONDS: &str = "carillon_canary_acceptance_seconds";
pub const DELIVERY_SECONDS: &str = "carillon_canary_delivery_seconds";
pub const LAST_SUCCESS: &str = "carillon_canary_last_success_timestamp_seconds";
pub const RECONNECTS: &str = "carillon_canary_reconnects_total";
pub const ACCOUNTS_MADE: &str = "carillon_canary_accounts_made_total";

/// The results of a round, as in the label `result`.
const RESULTS: [&str; 5] = ["ok", "not_signed_in", "not_accepted", "not_delivered", "wrong"];

/// All metrics of a canary.
pub const ALL: &[Metric] = &[
    Metric::counter(
        ROUNDS,
        "Messages sent through the whole path, by what became of them; wrong: changed, out of order, or delivered twice",
    )
    .labels(&[Label::known("result", &RESULTS)]),
    Metric::histogram(ACCEPTANCE_SECONDS, "From sending a message to its acceptance, as the client sees it"),
    Metric::histogram(DELIVERY_SECONDS, "From sending a message to its delivery to the other account"),
    Metric::gauge(LAST_SUCCESS, "When the last message went well, since 1970"),
    Metric::counter(RECONNECTS, "Times that one of the two clients has lost its connection"),
    Metric::counter(ACCOUNTS_MADE, "Times that the accounts were made, or made anew because their inboxes were long").for_debugging(),
];

pub(crate) fn round(result: &'static str) {
    counter!(ROUNDS, "result" => result).increment(1);
}

pub(crate) fn accepted(after: Duration) {
    histogram!(ACCEPTANCE_SECONDS).record(after);
}

pub(crate) fn delivered(after: Duration) {
    histogram!(DELIVERY_SECONDS).record(after);
}

pub(crate) fn succeeded(time_ms: u64) {
    gauge!(LAST_SUCCESS).set(time_ms as f64 / 1000.0);
}

pub(crate) fn reconnected() {
    counter!(RECONNECTS).increment(1);
}

pub(crate) fn accounts_made() {
    counter!(ACCOUNTS_MADE).increment(1);
}
