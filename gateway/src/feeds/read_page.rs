//! A page of a timeline read from the store, for feeds and sessions.

use bytes::Bytes;
use carillon_proto::{
    Epoch,
    pb::{
        client::Code,
        link::{Refusal, router_reply::Result as Reply},
        store::TimelineRead,
    },
};

/// Envelopes that were read from the store.
pub(crate) struct ReadPage {
    pub(crate) epoch: Epoch,
    /// The first position that is kept.
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// In order.
    pub(crate) entries: Vec<(u64, Bytes)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadFailed {
    /// The read may be retried.
    ForNow,
    /// The account that owns the inbox has ended.
    AccountEnded,
    /// The timeline is gone, or is not for this reader.
    Gone,
}

impl ReadPage {
    /// Turns the router's answer to a read into a page.
    pub(crate) fn of(result: Result<Reply, Refusal>) -> Result<Self, ReadFailed> {
        match result {
            Ok(Reply::TimelineRead(TimelineRead { head, entries, .. })) => {
                let head = head.unwrap_or_default();
                let entries = entries.into_iter().map(|entry| (entry.seq, entry.envelope)).collect();
                Ok(Self { epoch: Epoch(head.epoch), first: head.first, last: head.last, entries })
            }
            // The router gives this refusal only for accounts that have ended.
            Err(why) if why.code() == Code::Unauthenticated => Err(ReadFailed::AccountEnded),
            Err(why) if matches!(why.code(), Code::NotFound | Code::Forbidden) => Err(ReadFailed::Gone),
            Ok(_) | Err(_) => Err(ReadFailed::ForNow),
        }
    }
}
