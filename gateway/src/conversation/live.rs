//! A signed-in session.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::{
    Epoch, Position, TimelineId,
    pb::{
        client::{self, Code},
        link::{
            Acknowledge, ReadTimeline, Refusal, TimelineHead, TimelineProgress, router_reply::Result as Reply,
            router_request::Op,
        },
    },
    trace,
};

use super::{
    Effect, Identity, Now, Rules, Tag, Tell, acknowledge,
    history::History,
    pace::SendRate,
    positions::{Awaited, DeliveryStart},
};
use crate::{
    feeds::{
        Came, Ending, Entry, FeedAsk, FeedId, Followed, Follower, JoinedFeed, Next, OtherEpoch, Own, ReadPage,
        TimelineRef,
    },
    metrics,
    users::Share,
};

/// Pause before a refused acknowledgement is sent again.
const ACK_AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Live {
    pub(super) who: Identity,
    /// The account's incarnation, sent with every request: the next owner of the name has another one.
    pub(super) incarnation: u64,
    /// The session's generation. The session is over when its account has a higher one.
    pub(super) generation: u64,
    pub(super) connection: u64,
    pub(super) expires: Option<Instant>,
    /// The timelines that the session follows; today the inbox alone.
    timelines: Vec<Timeline>,
    /// `Some` until the client has given all positions that it announced at its sign-in.
    pub(super) awaited: Option<Box<Awaited>>,
    pub(super) pace: SendRate,
    pub(super) pending_sends: u32,
    pub(super) history: History,
    /// The directory is checking a new token.
    pub(super) renewing: bool,
    /// Earliest time of the next acknowledgement.
    ack_not_before: Instant,
    going: Option<Going>,
    /// The client has finished; the session waits for its answers.
    finishing: Option<LastWord>,
    #[cfg(feature = "planted-bugs")]
    pub(super) planted: super::planted::Renumbered,
    _counted: metrics::Counted,
}

pub(super) struct LiveStart {
    pub(super) who: Identity,
    pub(super) incarnation: u64,
    pub(super) generation: u64,
    pub(super) expires: Option<Instant>,
    pub(super) share: Share,
    pub(super) awaited: Option<Box<Awaited>>,
}

/// The client has to go to another gateway, once its pending sends are answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Going {
    pub(super) reconnect_after: Duration,
    pub(super) why: &'static str,
}

/// How a client says that it will send nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastWord {
    SignOut,
    /// It has closed its half of the connection.
    HalfClosed,
}

/// One timeline that the session follows.
struct Timeline {
    followed: Followed,
    ack: Acks,
}

/// The device's acknowledgements, as positions; 0: none. The latest one waits while another is in flight.
#[derive(Default)]
struct Acks {
    latest: u64,
    sent: u64,
    done: u64,
    /// A position whose acknowledgement is measured, and when its entry came.
    measured: Option<(u64, Instant)>,
}

/// Why the connection has to close.
pub(super) struct CloseReason(pub(super) Code, pub(super) &'static str);

pub(super) const ENDED: CloseReason = CloseReason(Code::Unauthenticated, "this session is over");
pub(super) const RESTORED: CloseReason =
    CloseReason(Code::Unavailable, "the timeline was restored or began anew: sign in again");

impl Live {
    pub(super) fn new(rules: &Rules, now: Now, connection: u64, start: LiveStart) -> Self {
        let LiveStart { who, incarnation, generation, expires, share, awaited } = start;
        Self {
            who,
            incarnation,
            generation,
            connection,
            expires,
            timelines: Vec::new(),
            awaited,
            pace: SendRate::new(rules.sends_per_second, rules.send_burst, share, now.instant),
            pending_sends: 0,
            history: History::default(),
            renewing: false,
            ack_not_before: now.instant,
            going: None,
            finishing: None,
            #[cfg(feature = "planted-bugs")]
            planted: super::planted::Renumbered::default(),
            _counted: metrics::Counted::session(),
        }
    }

    /// From now on the timeline is delivered.
    pub(super) fn follow(&mut self, timeline: TimelineId, begin: &DeliveryStart, now: Now) {
        let followed = Followed::new(timeline, Epoch(begin.epoch), begin.from, begin.last, now.instant);
        // Nearly all follow one, for which the usual room for four is too much.
        self.timelines.reserve_exact(1);
        self.timelines.push(Timeline { followed, ack: Acks::default() });
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        let ack = self.timelines.iter().any(|timeline| timeline.ack.is_due()).then_some(self.ack_not_before);
        let feeds = self.timelines.iter().filter_map(|timeline| timeline.followed.wake_at()).min();
        let awaited = self.awaited.as_ref().map(|awaited| awaited.until);
        [self.expires, feeds, ack, self.pace.wake_at(), awaited].into_iter().flatten().min()
    }

    pub(super) fn entry(&mut self, now: Now, entry: Arc<Entry>, out: &mut Vec<Effect>) -> Result<(), CloseReason> {
        let me = self.follower();
        let Some(Timeline { followed, ack }) = of(&mut self.timelines, (&entry.timeline.id).into()) else {
            return Ok(());
        };
        ack.measured.get_or_insert((entry.position.seq, now.instant));
        if followed.is_of(entry.feed) && followed.entry(entry, me, now.instant, &mut |next| tell(next, out)) {
            out.push(Effect::Feed(FeedAsk::Fall(followed.timeline.id.clone())));
        }
        Ok(())
    }

    pub(super) fn fallen(&mut self, now: Now, feed: FeedId) -> Result<(), CloseReason> {
        self.timelines
            .iter_mut()
            .filter(|timeline| timeline.followed.is_of(feed))
            .for_each(|timeline| timeline.followed.fallen(now.instant));
        Ok(())
    }

    pub(super) fn left(&mut self, feed: FeedId, why: Ending) -> Result<(), CloseReason> {
        let follows = self.timelines.iter().any(|timeline| timeline.followed.is_of(feed));
        if follows { Err(gone(why)) } else { Ok(()) }
    }

    pub(super) fn joined(
        &mut self,
        rules: &Rules,
        joined: JoinedFeed,
        out: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        let id = joined.timeline.id.clone();
        let Some(Timeline { followed, .. }) = of(&mut self.timelines, (&id).into()) else { return Ok(()) };
        if let Some(from) = followed.joined(joined, &mut |next| tell(next, out)).map_err(gone)? {
            ::metrics::counter!(metrics::GAP_FETCHES).increment(1);
            let op = self.read(&id, from, false, rules.max_page, rules.max_page_bytes);
            out.push(Effect::Request { tag: Tag::Gap(id), op, traceparent: String::new() });
        }
        Ok(())
    }

    /// The device claims this position, which is beyond the end of its timeline.
    pub(super) fn has_beyond(&self, timeline: &TimelineId, position: client::Position) -> Op {
        Op::Acknowledge(Acknowledge {
            beyond: true,
            ..acknowledge(&self.who, self.incarnation, timeline, position.into())
        })
    }

    pub(super) fn heads(&mut self, heads: &[TimelineHead], out: &mut Vec<Effect>) -> Result<(), CloseReason> {
        for TimelineHead { timeline, head } in heads {
            let (Some(timeline), Some(head)) = (timeline.as_ref().and_then(TimelineRef::of), head) else { continue };
            // It was read before the timeline existed.
            if head.epoch == 0 {
                continue;
            }
            let Some(Timeline { followed, .. }) = of(&mut self.timelines, timeline) else {
                if let Some(awaited) = &mut self.awaited {
                    awaited.heard(timeline, head)?;
                }
                continue;
            };
            let position = Position { epoch: Epoch(head.epoch), seq: head.last };
            followed.reaches(position).map_err(|OtherEpoch| RESTORED)?;
            if followed.lacks() {
                let timeline = followed.timeline.id.clone();
                out.push(Effect::Feed(FeedAsk::Reaches { timeline, incarnation: self.incarnation, position }));
            }
        }
        Ok(())
    }

    /// The index of the timeline among those that the session follows.
    pub(super) fn place_of(&self, id: TimelineRef<'_>) -> Option<usize> {
        self.timelines.iter().position(|timeline| TimelineRef::from(&timeline.followed.timeline.id) == id)
    }

    /// The client learned from its answer that its own message has this position.
    pub(super) fn own(&mut self, now: Now, place: usize, position: Position, out: &mut Vec<Effect>) {
        let (me, incarnation) = (self.follower(), self.incarnation);
        let Some(Timeline { followed, .. }) = self.timelines.get_mut(place) else { return };
        let accepted = followed.accepted(position, me, now.instant, &mut |next| tell(next, out));
        // In another epoch: the feed asks the store.
        let counted = accepted.unwrap_or(false);
        let timeline = followed.timeline.id.clone();
        out.push(Effect::Feed(FeedAsk::Own(timeline, Own { incarnation, position, counted })));
    }

    pub(super) fn backlog(&mut self, now: Now, full: bool, out: &mut Vec<Effect>) {
        for Timeline { followed, .. } in &mut self.timelines {
            if !full {
                followed.resume();
            } else if followed.pause(now.instant) {
                out.push(Effect::Feed(FeedAsk::Fall(followed.timeline.id.clone())));
            }
        }
    }

    pub(super) fn answer(
        &mut self,
        now: Now,
        tag: Tag,
        result: Result<Reply, Refusal>,
        out: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        // The router gives this refusal only to requests of an account that has ended. A new token is different: the
        // old one stays valid.
        let ended =
            !matches!(tag, Tag::Renew(_)) && result.as_ref().is_err_and(|why| why.code() == Code::Unauthenticated);
        match tag {
            // The outcome of the send is unknown, so it is not refused: the recipient may have the message.
            Tag::Send(_) if ended => self.pending_sends = self.pending_sends.saturating_sub(1),
            Tag::Send(sent) => self.sent(now, sent, result, out),
            Tag::Gap(timeline) => self.gap_read(now, &timeline, result, out)?,
            Tag::Fetch(request, timeline) => self.fetched(request, &timeline, result, out),
            Tag::Renew(renewal) => self.renewed(now, renewal, result, out)?,
            Tag::Ack(timeline) => self.acked(now, &timeline, &result),
            Tag::Account | Tag::Ensure | Tag::Open | Tag::Close | Tag::Feed(..) => {}
        }
        if ended { Err(ENDED) } else { Ok(()) }
    }

    /// A page that fills a gap has been read.
    fn gap_read(
        &mut self,
        now: Now,
        timeline: &TimelineId,
        result: Result<Reply, Refusal>,
        out: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        let Some(Timeline { followed, .. }) = of(&mut self.timelines, timeline.into()) else { return Ok(()) };
        let read = followed.read(ReadPage::of(result).ok(), now.instant, &mut |next| tell(next, out));
        read.map_err(|OtherEpoch| RESTORED)
    }

    pub(super) fn progress(&self) -> impl Iterator<Item = TimelineProgress> {
        self.timelines.iter().map(|Timeline { followed, ack }| TimelineProgress {
            timeline: Some(followed.timeline.id.to_client()),
            epoch: followed.epoch().0,
            pushed: followed.given(),
            head: followed.head(),
            acknowledged: ack.newest(),
        })
    }

    /// Answers with the heads known here. Routers report on their own what was missed.
    pub(super) fn pong(&self, nonce: u64, out: &mut Vec<Effect>) {
        let head = |Timeline { followed, .. }: &Timeline| {
            (followed.timeline.id.clone(), Position { epoch: followed.epoch(), seq: followed.head() })
        };
        let heads = self.timelines.iter().map(head).collect();
        out.push(Effect::Tell(Tell::Heads { nonce, heads }));
    }

    /// Takes an acknowledgement. An invalid one is ignored: no frame could refuse it, and it does no harm.
    pub(super) fn ack(&mut self, now: Now, timeline: Option<&client::Timeline>, position: Option<client::Position>) {
        let (Some(position), Some(timeline)) = (position, timeline.and_then(TimelineRef::of)) else { return };
        let Some(Timeline { followed, ack }) = of(&mut self.timelines, timeline) else { return };
        if position.epoch == followed.epoch().0 && (ack.newest() + 1..=followed.head()).contains(&position.seq) {
            ack.latest = position.seq;
            if let Some((_, came)) = ack.measured.take_if(|(seq, _)| *seq <= position.seq) {
                metrics::acknowledged(now.instant.saturating_duration_since(came));
            }
        }
    }

    fn acked(&mut self, now: Now, timeline: &TimelineId, result: &Result<Reply, Refusal>) {
        let Some(Timeline { ack, .. }) = of(&mut self.timelines, timeline.into()) else { return };
        let sent = std::mem::take(&mut ack.sent);
        match result {
            Ok(_) => ack.done = ack.done.max(sent),
            Err(why) => {
                self.ack_not_before = now.instant + ACK_AGAIN;
                if why.retry && ack.latest == 0 {
                    ack.latest = sent;
                }
            }
        }
    }

    /// The acknowledgements that were not sent, or were sent without a confirmed write.
    pub(super) fn last_acks(&self) -> impl Iterator<Item = (TimelineId, Acknowledge)> {
        let waiting = self.timelines.iter().filter(|timeline| timeline.ack.latest != 0);
        waiting.map(|timeline| {
            let id = timeline.followed.timeline.id.clone();
            let ack = acknowledge(&self.who, self.incarnation, &id, timeline.latest());
            (id, ack)
        })
    }

    pub(super) fn acks_on_their_way(&self) -> usize {
        self.timelines.iter().filter(|timeline| timeline.ack.sent != 0).count()
    }

    pub(super) fn go(&mut self, going: Going) {
        self.going = Some(going);
    }

    pub(super) fn going(&self) -> Option<Going> {
        self.going
    }

    pub(super) fn may_go(&self) -> Option<Going> {
        self.going.filter(|_| self.pending_sends == 0)
    }

    /// Only the first of these words counts.
    pub(super) fn finish(&mut self, word: LastWord) {
        self.finishing.get_or_insert(word);
    }

    pub(super) fn is_finishing(&self) -> bool {
        self.finishing.is_some()
    }

    /// The client has finished, and has all its answers.
    pub(super) fn finished(&self) -> Option<LastWord> {
        let answered = self.pending_sends == 0 && self.history.waiting == 0 && !self.renewing;
        self.finishing.filter(|_| answered)
    }

    /// Does everything that is due: joins, acknowledgements, expired places.
    pub(super) fn flow(&mut self, rules: &Rules, now: Now, out: &mut Vec<Effect>) {
        self.pace.sweep(now.instant);
        let me = self.follower();
        for Timeline { followed, .. } in &mut self.timelines {
            if followed.step(me, now.instant, &mut |next| tell(next, out)) {
                let ask = followed.ask(self.incarnation);
                out.push(Effect::Feed(FeedAsk::Join(followed.timeline.id.clone(), ask)));
            }
        }
        if now.instant >= self.ack_not_before {
            for timeline in self.timelines.iter_mut().filter(|timeline| timeline.ack.is_due()) {
                let (id, position) = (timeline.followed.timeline.id.clone(), timeline.latest());
                timeline.ack.sent = std::mem::take(&mut timeline.ack.latest);
                self.ack_not_before = now.instant + rules.ack_interval;
                let op = Op::Acknowledge(acknowledge(&self.who, self.incarnation, &id, position));
                out.push(Effect::Request { tag: Tag::Ack(id), op, traceparent: String::new() });
            }
        }
        #[cfg(feature = "planted-bugs")]
        self.planted.drop_push(out);
    }

    fn follower(&self) -> Follower {
        Follower(self.connection)
    }

    pub(super) fn read(&self, timeline: &TimelineId, from_seq: u64, backward: bool, limit: u32, max_bytes: u32) -> Op {
        Op::Read(ReadTimeline {
            user: self.who.user.as_str().to_owned(),
            timeline: Some(timeline.to_client()),
            from_seq,
            backward,
            limit,
            max_bytes,
            incarnation: self.incarnation,
        })
    }
}

impl Timeline {
    /// The latest acknowledgement, if it was not sent yet.
    fn latest(&self) -> Position {
        Position { epoch: self.followed.epoch(), seq: self.ack.latest }
    }
}

impl Acks {
    fn newest(&self) -> u64 {
        self.latest.max(self.sent).max(self.done)
    }

    fn is_due(&self) -> bool {
        self.latest != 0 && self.sent == 0
    }
}

fn of<'a>(timelines: &'a mut [Timeline], id: TimelineRef<'_>) -> Option<&'a mut Timeline> {
    timelines.iter_mut().find(|timeline| TimelineRef::from(&timeline.followed.timeline.id) == id)
}

fn gone(why: Ending) -> CloseReason {
    match why {
        Ending::Restored => RESTORED,
        Ending::AccountEnded => ENDED,
    }
}

/// Writes the next item of a timeline.
fn tell(next: Next, out: &mut Vec<Effect>) {
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
            out.push(Effect::Tell(Tell::Entry(entry)));
        }
        Next::Trimmed(timeline, first) => out.push(Effect::Tell(Tell::Trimmed { timeline, first })),
    }
}
