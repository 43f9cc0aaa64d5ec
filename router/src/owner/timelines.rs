//! Acknowledging and reading timelines.

use carillon_proto::{
    DeviceId, Epoch, TimelineId, UserId, limits,
    pb::{
        client, link,
        store::{self, ReadHead, store_request},
    },
};
use tokio::time::Instant;

use super::{Asked, MAX_PAGE, Owner};
use crate::{cursors::CursorKey, reply::Failure, send::Parts};

impl Owner {
    pub(super) fn acknowledge(&mut self, acknowledge: link::Acknowledge, parts: Parts, now: Instant) {
        let checked = own_inbox(acknowledge.timeline.as_ref(), &parts.user).and_then(|_| {
            let position = acknowledge.position.ok_or(Failure::Invalid("position is missing"))?;
            Ok((DeviceId::new(&acknowledge.device)?, position))
        });
        match checked {
            Err(failure) => self.refuse(parts.slot, &failure),
            Ok((device, position)) => {
                let key = CursorKey { user: parts.user, device, epoch: Epoch(position.epoch) };
                self.cursors.add(key, position.seq, parts.slot, now, parts.deadline);
            }
        }
    }

    pub(super) fn read_timeline(&mut self, read: link::ReadTimeline, parts: Parts) {
        let timeline = match own_inbox(read.timeline.as_ref(), &parts.user) {
            Ok(timeline) => timeline,
            Err(failure) => return self.refuse(parts.slot, &failure),
        };
        let most = |asked: u32, most: u32| if asked == 0 { most } else { asked.min(most) };
        let op = store_request::Op::ReadTimeline(store::ReadTimeline {
            timeline: Some(timeline.to_key()),
            from_seq: read.from_seq,
            backward: read.backward,
            limit: most(read.limit, MAX_PAGE),
            // The frame that carries a page is at most this large, too.
            max_bytes: most(read.max_bytes, limits::MAX_FRAME_BYTES as u32),
        });
        let shard = self.topology.shards.timeline_of(&timeline);
        self.ask(shard, op, String::new(), parts.deadline, Asked::Timeline(parts.slot));
    }

    pub(super) fn read_head(&mut self, user: &UserId, device: String, deadline: Instant, asked: Asked) {
        let timeline = TimelineId::Inbox(user.clone());
        let op = store_request::Op::ReadHead(ReadHead { timeline: Some(timeline.to_key()), device });
        let shard = self.topology.shards.timeline_of(&timeline);
        self.ask(shard, op, String::new(), deadline, asked);
    }
}

fn own_inbox(timeline: Option<&client::Timeline>, user: &UserId) -> Result<TimelineId, Failure> {
    let timeline = timeline.ok_or(Failure::Invalid("timeline is missing"))?;
    match TimelineId::from_client(timeline)? {
        Some(TimelineId::Inbox(owner)) if owner == *user => Ok(TimelineId::Inbox(owner)),
        Some(TimelineId::Inbox(_)) => Err(Failure::Forbidden),
        Some(TimelineId::Group(_)) => Err(Failure::Groups),
        None => Err(Failure::Invalid("timeline is missing")),
    }
}
