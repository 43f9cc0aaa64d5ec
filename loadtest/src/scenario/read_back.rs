//! Reads timelines back: accepted messages must stand in both inboxes, once and in order.

use std::{sync::Arc, time::Duration};

use carillon_client::{Client, FetchError};
use carillon_proto::{
    TimelineId, UserId,
    pb::client::{Direction, Page},
};
use futures_util::StreamExt as _;

use super::{Load, device};
use crate::checker::FlowCheck;

/// Inboxes that are read concurrently.
const AT_ONCE: usize = 8;
/// How often the reading of an inbox may be refused with "try again".
const TRIES: u32 = 50;

/// An inbox to read: its user, a client for it, and the flows that must stand in it.
pub(crate) struct Inbox {
    pub(crate) user: String,
    pub(crate) client: Client,
    pub(crate) flows: Vec<Arc<FlowCheck>>,
}

pub(crate) async fn read_back(load: &Arc<Load>, inboxes: Vec<Inbox>) {
    load.recorder.set_phase("reading back");
    futures_util::stream::iter(inboxes).for_each_concurrent(AT_ONCE, |inbox| read(load, inbox)).await;
}

async fn read(load: &Load, inbox: Inbox) {
    let reader = load.checker.reader(&inbox.user);
    for flow in &inbox.flows {
        flow.expect(&reader);
    }
    let read = each_page(&inbox.client, inbox_of(&inbox.user), |page| {
        if reader.last_position().is_none() {
            // The timeline may begin later by now.
            reader.trimmed(page.first.max(1));
        }
        for entry in &page.entries {
            reader.position(entry.seq);
            if let Some(envelope) = &entry.envelope {
                device::check(load, &reader, &inbox.flows, envelope);
            }
        }
    });
    if let Err(error) = read.await {
        reader.unread(error.to_string());
    }
}

/// Reads a timeline from its beginning to its end.
pub(crate) async fn each_page(
    client: &Client,
    timeline: TimelineId,
    mut read: impl FnMut(&Page),
) -> Result<(), FetchError> {
    let mut from = 1;
    let mut failures = 0;
    loop {
        let page = match client.fetch(&timeline, Direction::Forward, from, 0).await {
            Ok(page) => {
                failures = 0;
                page
            }
            // A service under load, or one that has just lost a node, refuses the read and says when to try again.
            Err(FetchError::Refused(refusal)) if refusal.retry && failures < TRIES => {
                failures += 1;
                tokio::time::sleep(refusal.retry_after.max(Duration::from_millis(100))).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        read(&page);
        from = page.entries.last().map_or(from, |entry| entry.seq + 1);
        if page.complete || page.entries.is_empty() {
            return Ok(());
        }
    }
}

/// The inbox of a user whom this program has named.
pub(crate) fn inbox_of(user: &str) -> TimelineId {
    TimelineId::Inbox(UserId::new(user).expect("a name that this program has made"))
}
