//! Acknowledgements of a device on their way to its user's owner.

use std::time::{Duration, Instant};

use carillon_proto::{
    Position, TimelineId,
    pb::{
        client,
        link::{Acknowledge, Refusal, router_reply::Result as Reply, router_request::Op},
    },
};

use super::{
    Effect, Now, Rules, Tag, acknowledge,
    following::{Timeline, Which},
    live::Live,
};
use crate::{feeds::TimelineRef, metrics};

/// Pause before a refused acknowledgement is sent again.
const ACK_AGAIN: Duration = Duration::from_secs(1);

/// Earliest times of the next acknowledgements.
pub(super) struct NotBefore {
    inbox: Instant,
    groups: Instant,
}

impl NotBefore {
    pub(super) fn new(now: Instant) -> Self {
        Self { inbox: now, groups: now }
    }

    fn wait_for(&mut self, which: Which<'_>, at: Instant) {
        match which {
            Which::Inbox => self.inbox = at,
            Which::Group(_) => self.groups = at,
        }
    }
}

impl Live {
    /// Takes an acknowledgement. An invalid one is ignored: no frame could refuse it, and it does no harm.
    pub(super) fn ack(&mut self, now: Now, timeline: Option<&client::Timeline>, position: Option<client::Position>) {
        let (Some(position), Some(timeline)) = (position, timeline.and_then(TimelineRef::of)) else { return };
        let Some(which) = self.which(timeline) else { return };
        let Some(Timeline { followed, ack }) = self.timelines.get_mut(which) else { return };
        if position.epoch == followed.epoch().0 && (ack.newest() + 1..=followed.head()).contains(&position.seq) {
            ack.latest = position.seq;
            if let Some((_, came)) = ack.measured.take_if(|(seq, _)| *seq <= position.seq) {
                metrics::acknowledged(now.instant.saturating_duration_since(came));
            }
        }
        self.timelines.settle(which);
    }

    pub(super) fn acked(&mut self, now: Now, timeline: &TimelineId, result: &Result<Reply, Refusal>) {
        let Some(which) = self.which(timeline.into()) else { return };
        let Some(Timeline { ack, .. }) = self.timelines.get_mut(which) else { return };
        let sent = std::mem::take(&mut ack.sent);
        match result {
            Ok(_) => ack.done = ack.done.max(sent),
            Err(why) => {
                if why.retry && ack.latest == 0 {
                    ack.latest = sent;
                }
                self.acks_not_before.wait_for(which, now.instant + ACK_AGAIN);
            }
        }
        self.timelines.settle(which);
    }

    /// The acknowledgements that were not sent, or were sent without a confirmed write.
    pub(super) fn last_acks(&self) -> impl Iterator<Item = (TimelineId, Acknowledge)> {
        let waiting = self.timelines.not_quiet().filter(|timeline| timeline.ack.latest != 0);
        waiting.map(|timeline| {
            let id = timeline.followed.timeline.id.clone();
            let ack = acknowledge(&self.who, self.incarnation, &id, timeline.latest());
            (id, ack)
        })
    }

    pub(super) fn acks_on_their_way(&self) -> usize {
        self.timelines.not_quiet().filter(|timeline| timeline.ack.sent != 0).count()
    }

    /// Sends those that are due.
    pub(super) fn send_acks(&mut self, rules: &Rules, now: Now, out: &mut Vec<Effect>) {
        if now.instant >= self.acks_not_before.inbox && self.timelines.has_inbox_ack() {
            self.send_ack(Which::Inbox, out);
            self.acks_not_before.inbox = now.instant + rules.ack_interval;
        }
        if now.instant >= self.acks_not_before.groups && self.timelines.has_group_acks() {
            let groups = self.timelines.groups_mut().map(|groups| groups.take_acks()).unwrap_or_default();
            for group in groups {
                self.send_ack(Which::Group(group.as_str()), out);
            }
            // More than are sent at once go with the next.
            if !self.timelines.has_group_acks() {
                self.acks_not_before.groups = now.instant + rules.group_ack_interval;
            }
        }
    }

    /// When the next acknowledgement is to be sent, if one waits.
    pub(super) fn acks_at(&self) -> Option<Instant> {
        let inbox = self.timelines.has_inbox_ack().then_some(self.acks_not_before.inbox);
        let groups = self.timelines.has_group_acks().then_some(self.acks_not_before.groups);
        inbox.into_iter().chain(groups).min()
    }

    fn send_ack(&mut self, which: Which<'_>, out: &mut Vec<Effect>) {
        let Some(timeline) = self.timelines.get_mut(which).filter(|timeline| timeline.ack.is_due()) else { return };
        let (id, position) = (timeline.followed.timeline.id.clone(), timeline.latest());
        timeline.ack.sent = std::mem::take(&mut timeline.ack.latest);
        let op = Op::Acknowledge(acknowledge(&self.who, self.incarnation, &id, position));
        out.push(Effect::Request { tag: Tag::Ack(id), op, traceparent: String::new() });
    }
}

impl Timeline {
    /// The latest acknowledgement, if it was not sent yet.
    pub(super) fn latest(&self) -> Position {
        Position { epoch: self.followed.epoch(), seq: self.ack.latest }
    }
}
