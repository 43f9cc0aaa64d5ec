//! Unanswered fetches. Pure; time is a parameter.

use std::{collections::BTreeMap, time::Instant};

use carillon_proto::pb::client::Fetch;

/// Reads may be repeated freely, so all of them are repeated after a reconnect.
pub(crate) struct Fetches<T> {
    next: u32,
    pending: BTreeMap<u32, Pending<T>>,
}

struct Pending<T> {
    fetch: Fetch,
    deadline: Instant,
    answer: T,
    sent: bool,
}

impl<T> Fetches<T> {
    pub(crate) fn new() -> Self {
        Self { next: 1, pending: BTreeMap::new() }
    }

    pub(crate) fn push(&mut self, fetch: Fetch, deadline: Instant, answer: T) {
        let request = self.next;
        // 0 is no fetch's number.
        self.next = self.next.checked_add(1).unwrap_or(1);
        let fetch = Fetch { request, ..fetch };
        self.pending.insert(request, Pending { fetch, deadline, answer, sent: false });
    }

    pub(crate) fn disconnected(&mut self) {
        for pending in self.pending.values_mut() {
            pending.sent = false;
        }
    }

    pub(crate) fn take_ready(&mut self, mut out: impl FnMut(Fetch)) {
        for pending in self.pending.values_mut().filter(|pending| !pending.sent) {
            pending.sent = true;
            out(pending.fetch.clone());
        }
    }

    pub(crate) fn answered(&mut self, request: u32) -> Option<T> {
        self.pending.remove(&request).map(|pending| pending.answer)
    }

    pub(crate) fn expire(&mut self, now: Instant, mut expired: impl FnMut(T)) {
        let late = self.pending.iter().filter(|(_, pending)| pending.deadline <= now);
        let late: Vec<u32> = late.map(|(request, _)| *request).collect();
        late.iter().filter_map(|request| self.answered(*request)).for_each(&mut expired);
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> {
        std::mem::take(&mut self.pending).into_values().map(|pending| pending.answer)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}
