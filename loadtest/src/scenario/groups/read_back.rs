//! Reads the logs of groups back: what was accepted must stand there, once and in order, and only what members have said.

use std::sync::Arc;

use carillon_client::Client;
use carillon_proto::TimelineId;
use futures_util::StreamExt as _;

use super::{Groups, member::said_in};
use crate::{
    checker::{FlowCheck, GroupCheck},
    scenario::{Load, read_back::each_page},
};

/// Logs that are read concurrently.
const AT_ONCE: usize = 8;

impl Groups<'_> {
    pub(super) async fn read_back(&self) {
        self.load.recorder.set_phase("reading back");
        let all = futures_util::stream::iter(0..self.groups.len());
        all.for_each_concurrent(AT_ONCE, |group| self.read(group)).await;
    }

    async fn read(&self, number: usize) {
        let group = &self.groups[number];
        let flows: Vec<_> = self
            .senders_of(number)
            .into_iter()
            .map(|user| self.load.checker.group_flow(&self.load.user("member", user), group))
            .collect();
        let client = self.owner_and_guest(number).0.client();
        read_log(&self.load, group, self.timeline(number), client.as_ref(), &flows).await;
    }
}

/// Reads the log of a group by this client, one of its owner. `flows`: of all who write there.
pub(crate) async fn read_log(
    load: &Load,
    group: &Arc<GroupCheck>,
    timeline: TimelineId,
    client: Option<&Client>,
    flows: &[Arc<FlowCheck>],
) {
    let reader = load.checker.reader(&group.name);
    flows.iter().for_each(|flow| flow.expect(&reader));
    let Some(client) = client else {
        return reader.unread("its owner is not signed in".to_owned());
    };
    let mut log = group.reader();
    let read = each_page(client, timeline, |page| {
        if reader.last_position().is_none() {
            // The log may begin later by now.
            reader.trimmed(page.first.max(1));
        }
        for entry in &page.entries {
            reader.position(entry.seq);
            let Some(envelope) = &entry.envelope else { continue };
            log.reads(entry.seq, envelope);
            if envelope.change.is_some() {
                continue;
            }
            match said_in(load, group, envelope) {
                Ok(payload) => match flows.iter().find(|flow| flow.name.sender == payload.sender) {
                    Some(flow) => _ = flow.delivered(&reader, payload.counter),
                    None => reader.corrupted(format!("message {}: {} sends nothing here", envelope.id, payload.sender)),
                },
                Err(why) => reader.corrupted(why),
            }
        }
    });
    match read.await {
        Ok(()) => log.ends(),
        Err(error) => reader.unread(error.to_string()),
    }
}
