//! Acknowledging and reading timelines.

use std::time::Duration;

use carillon_proto::{
    DeviceId, Epoch, TimelineId, UserId, limits,
    pb::{
        client, link,
        store::{self, ReadHead, RenewEpoch, TimelineCommand, store_request, timeline_command},
    },
};
use tokio::time::Instant;

use super::{Asked, MAX_PAGE, Owner};
use crate::{cursors::CursorKey, metrics, reply::Failure, send::Parts};

/// Between two lines in the log about data that was put back from a copy: each inbox whose devices notice has its own.
const TELL_RESTORED: Duration = Duration::from_secs(60);

impl Owner {
    pub(super) fn acknowledge(&mut self, acknowledge: link::Acknowledge, parts: Parts, now: Instant) {
        let checked = own_inbox(acknowledge.timeline.as_ref(), &parts.user).and_then(|_| {
            let position = acknowledge.position.ok_or(Failure::Invalid("position is missing"))?;
            Ok((DeviceId::new(&acknowledge.device)?, position))
        });
        match checked {
            Err(failure) => self.refuse(parts.slot, &failure),
            Ok((_, position)) if acknowledge.beyond => self.renew_epoch(position, parts, now),
            Ok((device, position)) => {
                let key = CursorKey { user: parts.user, device, epoch: Epoch(position.epoch) };
                self.cursors.add(key, position.seq, parts.slot, now, parts.deadline);
            }
        }
    }

    /// A device has more of its inbox than there is.
    fn renew_epoch(&mut self, position: client::Position, parts: Parts, now: Instant) {
        metrics::epoch_renewed();
        // Whoever makes positions up should not fill the log.
        if self.restored_told.is_none_or(|told| now > told + TELL_RESTORED) {
            self.restored_told = Some(now);
            tracing::error!(
                user = %parts.user, epoch = position.epoch, seq = position.seq,
                "a device has more of its inbox than the store: the store's data was put back from a copy. The inbox gets a new epoch; see docs/operations.md"
            );
        }
        let timeline = TimelineId::Inbox(parts.user);
        let renew = RenewEpoch {
            timeline: Some(timeline.to_key()),
            epoch: position.epoch,
            seq: position.seq,
            new_epoch: Epoch::random().0,
        };
        let op = store_request::Op::Timeline(TimelineCommand { op: Some(timeline_command::Op::RenewEpoch(renew)) });
        let shard = self.topology.shards.timeline_of(&timeline);
        self.ask(shard, op, String::new(), parts.deadline, Asked::Done(parts.slot));
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
            incarnation: read.incarnation,
        });
        let shard = self.topology.shards.timeline_of(&timeline);
        self.ask(shard, op, String::new(), parts.deadline, Asked::Timeline(parts.slot));
    }

    pub(super) fn read_head(
        &mut self,
        user: &UserId,
        incarnation: u64,
        device: String,
        deadline: Instant,
        asked: Asked,
    ) {
        let timeline = TimelineId::Inbox(user.clone());
        let op = store_request::Op::ReadHead(ReadHead { timeline: Some(timeline.to_key()), device, incarnation });
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
