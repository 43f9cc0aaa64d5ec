//! The delivery of a live session's timelines, from its feeds and from pages that fill gaps.

use std::sync::Arc;

use carillon_proto::{
    Epoch, Position, TimelineId,
    pb::link::{Refusal, TimelineHead, router_reply::Result as Reply, router_request::Op},
    trace,
};

use super::{
    Effect, Now, Rules, Tag, Tell, expiring,
    following::{Timeline, Which},
    live::{CloseReason, ENDED, Live, RESTORED},
};
use crate::{
    feeds::{
        Came, Ending, Entry, FeedAsk, FeedId, Follower, JoinedFeed, Next, OtherEpoch, Own, ReadFailed, ReadPage,
        TimelineName, TimelineRef,
    },
    metrics,
};

impl Live {
    pub(super) fn entry(&mut self, now: Now, entry: Arc<Entry>, out: &mut Vec<Effect>) -> Result<(), CloseReason> {
        let (me, name) = (self.follower(), Arc::clone(&entry.timeline));
        let Some(which) = self.which((&name.id).into()) else { return Ok(()) };
        let does_not_read =
            matches!(which, Which::Group(_)) && self.timelines.groups().is_some_and(|groups| groups.is_paused);
        let falls = self.with(which, now, out, |Timeline { followed, ack }, mut tell| {
            ack.measured.get_or_insert((entry.position.seq, now.instant));
            if !followed.is_of(entry.feed) {
                return false;
            }
            if does_not_read {
                return followed.fall_live(now.instant);
            }
            followed.entry(entry, me, now.instant, &mut tell)
        });
        if falls == Some(true) {
            out.push(Effect::Feed(FeedAsk::Fall(name.id.clone())));
        }
        Ok(())
    }

    pub(super) fn fallen(&mut self, now: Now, feed: FeedId, timeline: &TimelineName, out: &mut Vec<Effect>) {
        if let Some(which) = self.which((&timeline.id).into()) {
            self.with(which, now, out, |timeline, _| {
                if timeline.followed.is_of(feed) {
                    timeline.followed.fallen(now.instant);
                }
            });
        }
    }

    pub(super) fn left(
        &mut self,
        now: Now,
        feed: FeedId,
        timeline: &TimelineName,
        why: Ending,
        out: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        let Some(which) = self.which((&timeline.id).into()) else { return Ok(()) };
        let is_of = self.timelines.get_mut(which).is_some_and(|timeline| timeline.followed.is_of(feed));
        self.timelines.settle(which);
        if !is_of {
            return Ok(());
        }
        self.ended(now, which, why, out)
    }

    /// The timeline's feed has ended.
    fn ended(&mut self, now: Now, which: Which<'_>, why: Ending, out: &mut Vec<Effect>) -> Result<(), CloseReason> {
        match which {
            Which::Inbox => Err(gone(why)),
            Which::Group(group) => {
                self.lost(now, group, out);
                Ok(())
            }
        }
    }

    pub(super) fn joined(
        &mut self,
        now: Now,
        rules: &Rules,
        joined: JoinedFeed,
        out: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        let name = Arc::clone(&joined.timeline);
        let Some(which) = self.which((&name.id).into()) else { return Ok(()) };
        match self.with(which, now, out, |timeline, mut tell| timeline.followed.joined(joined, &mut tell)) {
            Some(Ok(Some(from))) => {
                ::metrics::counter!(metrics::GAP_FETCHES).increment(1);
                let op = Op::Read(self.read(&name.id, from, false, rules.max_page, rules.max_page_bytes));
                out.push(Effect::Request { tag: Tag::Gap(name.id.clone()), op, traceparent: String::new() });
                if let (Which::Group(_), Some(groups)) = (which, self.timelines.groups_mut()) {
                    groups.begins_read();
                }
                Ok(())
            }
            Some(Err(why)) => self.ended(now, which, why, out),
            Some(Ok(None)) | None => Ok(()),
        }
    }

    pub(super) fn heads(&mut self, heads: &[TimelineHead], out: &mut Vec<Effect>) -> Result<(), CloseReason> {
        for TimelineHead { timeline, head } in heads {
            let (Some(timeline), Some(head)) = (timeline.as_ref().and_then(TimelineRef::of), head) else { continue };
            // The head was read before the timeline existed.
            if head.epoch == 0 {
                continue;
            }
            let position = Position { epoch: Epoch(head.epoch), seq: head.last };
            let which = self.which(timeline);
            let reached = which.and_then(|which| self.timelines.get_mut(which)).map(|Timeline { followed, .. }| {
                followed.reaches(position)?;
                Ok(followed.lacks().then(|| followed.timeline.id.clone()))
            });
            which.into_iter().for_each(|which| self.timelines.settle(which));
            match reached {
                Some(Ok(None)) => {}
                Some(Ok(Some(timeline))) => {
                    let incarnation = self.incarnation_of(&timeline);
                    out.push(Effect::Feed(FeedAsk::Reaches { timeline, incarnation, position }));
                }
                Some(Err(OtherEpoch)) => return Err(RESTORED),
                None => {
                    if let Some(awaited) = &mut self.awaited {
                        awaited.heard(timeline, head)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The number by which feeds know the life of a timeline. Groups have none: their epochs tell.
    fn incarnation_of(&self, timeline: &TimelineId) -> u64 {
        match timeline {
            TimelineId::Inbox(_) => self.incarnation,
            TimelineId::Group(_) => 0,
        }
    }

    /// The client learned from its answer that its own message has this position.
    pub(super) fn own(&mut self, now: Now, timeline: TimelineRef<'_>, position: Position, out: &mut Vec<Effect>) {
        let me = self.follower();
        let Some(which) = self.which(timeline) else { return };
        let accepted = self.with(which, now, out, |Timeline { followed, .. }, mut tell| {
            // In another epoch: the feed asks the store.
            let counted = followed.accepted(position, me, now.instant, &mut tell).unwrap_or(false);
            (followed.timeline.id.clone(), counted)
        });
        let Some((timeline, counted)) = accepted else { return };
        let incarnation = self.incarnation_of(&timeline);
        out.push(Effect::Feed(FeedAsk::Own(timeline, Own { incarnation, position, counted })));
    }

    pub(super) fn backlog(&mut self, now: Now, full: bool, out: &mut Vec<Effect>) {
        if let Some(groups) = self.timelines.groups_mut() {
            groups.is_paused = full;
        }
        let Some(Timeline { followed, .. }) = &mut self.timelines.inbox else { return };
        if !full {
            followed.resume();
        } else if followed.pause(now.instant) {
            out.push(Effect::Feed(FeedAsk::Fall(followed.timeline.id.clone())));
        }
    }

    /// A page that fills a gap has been read.
    pub(super) fn gap_read(
        &mut self,
        now: Now,
        timeline: &TimelineId,
        result: Result<Reply, Refusal>,
        out: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        let Some(which) = self.which(timeline.into()) else { return Ok(()) };
        if let (Which::Group(_), Some(groups)) = (which, self.timelines.groups_mut()) {
            groups.has_read();
        }
        let page = match (ReadPage::of(result), which) {
            (Err(ReadFailed::Gone), Which::Group(group)) => {
                self.lost(now, group, out);
                return Ok(());
            }
            (page, _) => page.ok(),
        };
        let read =
            self.with(which, now, out, |timeline, mut tell| timeline.followed.read(page, now.instant, &mut tell));
        match (read, which) {
            (Some(Err(OtherEpoch)), Which::Inbox) => Err(RESTORED),
            (Some(Err(OtherEpoch)), Which::Group(group)) => {
                self.lost(now, group, out);
                Ok(())
            }
            (Some(Ok(())) | None, _) => Ok(()),
        }
    }

    /// Does what is due for this timeline.
    pub(super) fn step(&mut self, which: Which<'_>, now: Now, out: &mut Vec<Effect>) {
        let me = self.follower();
        let joins = self.with(which, now, out, |Timeline { followed, .. }, mut tell| {
            let joins = followed.step(me, now.instant, &mut tell);
            joins.then(|| Arc::clone(&followed.timeline))
        });
        let Some(Some(name)) = joins else { return };
        let incarnation = self.incarnation_of(&name.id);
        if let Some(Timeline { followed, .. }) = self.timelines.get_mut(which) {
            out.push(Effect::Feed(FeedAsk::Join(name.id.clone(), followed.ask(incarnation))));
        }
    }

    fn follower(&self) -> Follower {
        Follower(self.connection)
    }
}

fn gone(why: Ending) -> CloseReason {
    match why {
        Ending::Restored => RESTORED,
        Ending::AccountEnded | Ending::GroupEnded => ENDED,
    }
}

/// Writes the next item of a timeline.
pub(super) fn tell(next: Next, now: Now, out: &mut Vec<Effect>) {
    match next {
        Next::Entry(entry) => {
            match entry.came {
                Came::Push => metrics::delivered_from_push(),
                Came::Read => metrics::delivered_from_read(),
            }
            if !entry.traceparent.is_empty() {
                let span = tracing::info_span!("deliver", owner = entry.timeline.id.owner(), seq = entry.position.seq);
                trace::continue_from(&span, &entry.traceparent);
                span.in_scope(|| tracing::trace!("delivered"));
            }
            out.push(Effect::Tell(Tell::Entry(expiring::shown(entry, now))));
        }
        Next::Trimmed(timeline, first) => out.push(Effect::Tell(Tell::Trimmed { timeline, first })),
    }
}
