//! A page of a timeline that was read from the store, as feeds and sessions take it.

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
    /// The read is tried again.
    ForNow,
    /// The account whose inbox it is has ended.
    AccountEnded,
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
            // The router refuses so only what an account that has ended asks for.
            Err(why) if why.code() == Code::Unauthenticated => Err(ReadFailed::AccountEnded),
            Ok(_) | Err(_) => Err(ReadFailed::ForNow),
        }
    }
}
