//! The outcome of a request to a router: an answer or a refusal.

use carillon_proto::pb::{
    client::Code,
    link::{Refusal, router_reply},
};

#[derive(Debug, PartialEq)]
pub(crate) struct RequestOutcome {
    pub(crate) result: Result<router_reply::Result, Refusal>,
    /// OpenSession: the lease under which the session was opened.
    pub(crate) lease: u64,
}

/// A refusal that invites to try again, unless `retry_after_ms` is 0.
pub(crate) fn refusal(code: Code, reason: &str, retry_after_ms: u32) -> Refusal {
    Refusal { code: code.into(), reason: reason.to_owned(), retry: retry_after_ms > 0, retry_after_ms }
}
