//! Reports to the small router, which reads no messages.

use carillon_proto::pb::{
    client::Code,
    link::{Done, Refusal, Report, router_reply::Result as Reply},
};

use super::State;

/// Open reports of a user; further ones are refused.
pub(crate) const OPEN: usize = 3;

impl State {
    pub(super) fn report(&self, report: Report) -> Reply {
        let mut store = self.store.lock();
        if store.reports.iter().any(|known| known.client_id == report.client_id) {
            return Reply::Done(Done {});
        }
        if store.reports.len() == OPEN {
            let reason = "too many are open".to_owned();
            return Reply::Refusal(Refusal { code: Code::RateLimited.into(), reason, ..Refusal::default() });
        }
        store.reports.push(report);
        Reply::Done(Done {})
    }
}
