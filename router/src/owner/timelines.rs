//! Acknowledging and reading timelines.

use std::time::Duration;

use carillon_proto::{
    DeviceId, Epoch, Level, TimelineId, UserId, limits,
    pb::{
        client, link,
        store::{
            self, MoveCursors, Person, ReadHead, RenewEpoch, SetCursor, TimelineCommand, move_cursors, store_request,
            timeline_command,
        },
    },
};
use tokio::time::Instant;

use super::{Continuation, MAX_PAGE, Owner, done};
use crate::{
    cursors::{Cursor, Device, Life, Moves},
    metrics,
    reply::{Failure, ReplySlot},
    send::RequestContext,
    store::{StoreAnswer, StoreFailure},
};

/// Least time between two log lines about restored data: it concerns each inbox whose devices notice.
const TELL_RESTORED: Duration = Duration::from_secs(60);

impl Owner {
    pub(super) fn acknowledge(&mut self, acknowledge: link::Acknowledge, parts: RequestContext, now: Instant) {
        let has_groups = Level(self.topology.view.level) >= Level::GROUPS;
        let timeline = followed_by(acknowledge.timeline.as_ref(), &parts.user, has_groups);
        let checked = timeline.and_then(|timeline| {
            let position = acknowledge.position.ok_or(Failure::Invalid("position is missing"))?;
            Ok((timeline, DeviceId::new(&acknowledge.device)?, position))
        });
        match checked {
            Err(failure) => self.refuse(parts.slot, &failure),
            Ok((TimelineId::Group(_), ..)) if acknowledge.beyond => {
                self.refuse(parts.slot, &Failure::Invalid("no member gives a group a new epoch"));
            }
            Ok((.., position)) if acknowledge.beyond => self.renew_epoch(position, parts, now),
            // No timeline has epoch 0: it moves nothing.
            Ok((.., client::Position { epoch: 0, .. })) => {
                self.refuse(parts.slot, &Failure::Invalid("position is of epoch 0"));
            }
            Ok((timeline, id, position)) => {
                if let TimelineId::Inbox(_) = timeline {
                    self.watch_acknowledged(&parts.user, &id, position);
                }
                let RequestContext { user, slot, deadline, .. } = parts;
                let device = Device { user, id, incarnation: acknowledge.incarnation };
                let life = Life { timeline, epoch: Epoch(position.epoch) };
                self.cursors.add((device, life), position.seq, slot, now, deadline);
            }
        }
    }

    /// One command for all timelines of the device, used once all storage nodes can read it.
    pub(super) fn move_cursors(&mut self, moves: Moves<ReplySlot>) {
        let can_read = Level(self.topology.view.level) >= Level::CURSORS;
        let (Some(incarnation), Some(deadline)) = (moves.device.incarnation.filter(|_| can_read), moves.deadline())
        else {
            return self.set_cursors(moves);
        };
        let moved = |(life, cursor): &(Life, Cursor<ReplySlot>)| move_cursors::Moved {
            timeline: Some(life.timeline.to_key()),
            epoch: life.epoch.0,
            seq: cursor.seq,
        };
        let inbox = TimelineId::Inbox(moves.device.user.clone());
        let command = timeline_command::Op::MoveCursors(MoveCursors {
            timeline: Some(inbox.to_key()),
            device: moves.device.id.as_str().to_owned(),
            moved: moves.cursors.iter().map(moved).collect(),
            incarnation,
        });
        let shard = self.topology.shards.timeline_of(&inbox);
        let op = store_request::Op::Timeline(TimelineCommand { op: Some(command) });
        self.ask(shard, op, String::new(), deadline, Continuation::Moved(Box::new(moves)));
    }

    pub(super) fn moved(&mut self, moves: Moves<ReplySlot>, answer: Result<StoreAnswer, StoreFailure>, now: Instant) {
        match answer {
            // A shard's level follows that of the cluster a little later.
            Err(StoreFailure::Level { .. }) => self.set_cursors(moves),
            answer => {
                let answer = done(answer);
                if answer.is_ok() {
                    self.arrived(&moves, now);
                }
                let slots = moves.cursors.into_iter().flat_map(|(_, cursor)| cursor.waiters);
                self.end_all(slots, &answer);
            }
        }
    }

    /// The device has what these cursors say.
    fn arrived(&mut self, moves: &Moves<ReplySlot>, now: Instant) {
        for (life, cursor) in &moves.cursors {
            if let TimelineId::Inbox(user) = &life.timeline {
                self.tell_delivered(user, client::Position { epoch: life.epoch.0, seq: cursor.seq }, now);
            }
        }
    }

    /// One command for each cursor, which all releases can read. Cursors in groups wait until the shard's level has
    /// risen.
    fn set_cursors(&mut self, Moves { device, cursors }: Moves<ReplySlot>) {
        for (Life { timeline, epoch }, cursor) in cursors {
            if let TimelineId::Group(_) = timeline {
                let detail = "the cluster's level is too low for positions in groups".to_owned();
                self.end_all(cursor.waiters, &Err(Failure::Store(StoreFailure::Level { detail })));
                continue;
            }
            let set = SetCursor {
                timeline: Some(timeline.to_key()),
                device: device.id.as_str().to_owned(),
                epoch: epoch.0,
                seq: cursor.seq,
            };
            let op = store_request::Op::Timeline(TimelineCommand { op: Some(timeline_command::Op::SetCursor(set)) });
            let shard = self.topology.shards.timeline_of(&timeline);
            self.ask(shard, op, String::new(), cursor.deadline, Continuation::Cursor(cursor.waiters));
        }
    }

    /// A device has positions beyond the end of its inbox.
    fn renew_epoch(&mut self, position: client::Position, parts: RequestContext, now: Instant) {
        metrics::epoch_renewed();
        // Clients that invent positions must not fill the log.
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
        self.ask(shard, op, String::new(), parts.deadline, Continuation::Done(parts.slot));
    }

    pub(super) fn read_timeline(&mut self, read: link::ReadTimeline, parts: RequestContext) {
        let timeline = match own_inbox(read.timeline.as_ref(), &parts.user) {
            Ok(timeline) => timeline,
            Err(failure) => return self.refuse(parts.slot, &failure),
        };
        self.watch_read(&parts.user, read.from_seq);
        let RequestContext { slot, deadline, .. } = parts;
        self.read_page(&timeline, &read, None, slot, deadline);
    }

    /// `reader`: the member of a group.
    pub(super) fn read_page(
        &mut self,
        timeline: &TimelineId,
        read: &link::ReadTimeline,
        reader: Option<Person>,
        slot: ReplySlot,
        deadline: Instant,
    ) {
        let most = |asked: u32, most: u32| if asked == 0 { most } else { asked.min(most) };
        let op = store_request::Op::ReadTimeline(store::ReadTimeline {
            timeline: Some(timeline.to_key()),
            from_seq: read.from_seq,
            backward: read.backward,
            limit: most(read.limit, MAX_PAGE),
            // The frame that carries a page is bounded by this, too.
            max_bytes: most(read.max_bytes, limits::MAX_FRAME_BYTES as u32),
            incarnation: read.incarnation,
            reader,
            states: read.states,
            edits_of: read.edits_of,
            pinned_with: read.pinned_with.clone(),
            with_recalled: false,
        });
        let shard = self.topology.shards.timeline_of(timeline);
        self.ask(shard, op, String::new(), deadline, Continuation::Read(slot));
    }

    pub(super) fn read_head(
        &mut self,
        user: &UserId,
        incarnation: u64,
        device: String,
        deadline: Instant,
        asked: Continuation,
    ) {
        let timeline = TimelineId::Inbox(user.clone());
        let read = ReadHead { timeline: Some(timeline.to_key()), device, incarnation, unread_of: None };
        let op = store_request::Op::ReadHead(read);
        let shard = self.topology.shards.timeline_of(&timeline);
        self.ask(shard, op, String::new(), deadline, asked);
    }
}

/// A timeline in which a device of the user has a cursor. Whether the user is in the group makes no difference to the cursor.
fn followed_by(timeline: Option<&client::Timeline>, user: &UserId, has_groups: bool) -> Result<TimelineId, Failure> {
    match timeline.map(TimelineId::from_client).transpose()?.flatten() {
        Some(group @ TimelineId::Group(_)) if has_groups => Ok(group),
        _ => own_inbox(timeline, user),
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
