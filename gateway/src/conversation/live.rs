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
    acks::NotBefore,
    chat_states::LastStates,
    contacts::Contacts,
    conversations::Strangers,
    expiring,
    following::{Timeline, Timelines, Which},
    history::History,
    pace::SendRate,
    positions::{Awaited, DeliveryStart},
};
use crate::{
    cluster_domains::ClusterDomains,
    feeds::{
        Came, Ending, Entry, FeedAsk, FeedId, Followed, Follower, JoinedFeed, Next, OtherEpoch, Own, ReadFailed,
        ReadPage, TimelineName, TimelineRef,
    },
    metrics,
    users::Share,
};

/// Most groups in the answer to a question how far timelines reach.
const MAX_HEADS: usize = 256;

pub(super) struct Live {
    pub(super) who: Identity,
    /// The account's incarnation, sent with every request: the next owner of the name has another one.
    pub(super) incarnation: u64,
    /// The session's generation. The session is over when its account has a higher one.
    pub(super) generation: u64,
    pub(super) connection: u64,
    pub(super) domains: ClusterDomains,
    pub(super) expires: Option<Instant>,
    pub(super) timelines: Timelines,
    /// What the inbox says of groups up to here is older than what is read of them.
    pub(super) inbox_known: u64,
    /// `Some` until the client has given all positions that it announced at its sign-in.
    pub(super) awaited: Option<Box<Awaited>>,
    pub(super) pace: SendRate,
    pub(super) pending_sends: u32,
    pub(super) history: History,
    /// The client has read its conversations, and is told of changes.
    pub(super) follows_conversations: bool,
    /// The client has read its scheduled messages, and is told of changes.
    pub(super) follows_scheduled: bool,
    /// `None`: it has asked nothing about contacts.
    pub(super) contacts: Option<Box<Contacts>>,
    /// The client has read what others may see and do, and is told of changes.
    pub(super) follows_privacy: bool,
    /// `None`: it has told nobody what the user is doing.
    pub(super) last_states: Option<Box<LastStates>>,
    /// Users whose messages are requests, as the client was told; `None`, nearly always: nobody's.
    pub(super) requests: Option<Box<Strangers>>,
    /// The directory is checking a new token.
    pub(super) renewing: bool,
    pub(super) acks_not_before: NotBefore,
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
    /// How far the inbox reached.
    pub(super) inbox_known: u64,
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

/// Why the connection has to close.
pub(super) struct CloseReason(pub(super) Code, pub(super) &'static str);

pub(super) const ENDED: CloseReason = CloseReason(Code::Unauthenticated, "this session is over");
pub(super) const RESTORED: CloseReason =
    CloseReason(Code::Unavailable, "the timeline was restored or began anew: sign in again");

impl Live {
    pub(super) fn new(rules: &Rules, now: Now, connection: u64, start: LiveStart) -> Self {
        let LiveStart { who, incarnation, generation, expires, share, awaited, inbox_known } = start;
        Self {
            who,
            incarnation,
            generation,
            connection,
            domains: rules.domains.clone(),
            expires,
            timelines: Timelines::default(),
            inbox_known,
            awaited,
            pace: SendRate::new(rules.sends_per_second, rules.send_burst, share, now.instant),
            pending_sends: 0,
            history: History::default(),
            follows_conversations: false,
            follows_scheduled: false,
            contacts: None,
            follows_privacy: false,
            last_states: None,
            requests: None,
            renewing: false,
            acks_not_before: NotBefore::new(now.instant),
            going: None,
            finishing: None,
            #[cfg(feature = "planted-bugs")]
            planted: super::planted::Renumbered::default(),
            _counted: metrics::Counted::session(),
        }
    }

    /// From now on the inbox is delivered.
    pub(super) fn follow(&mut self, inbox: TimelineId, begin: &DeliveryStart, now: Now) {
        let followed = Followed::new(inbox, Epoch(begin.epoch), begin.from, begin.last, now.instant);
        self.timelines.inbox = Some(Timeline { followed, ack: Default::default() });
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        let feeds = self.timelines.wake_at();
        let awaited = self.awaited.as_ref().map(|awaited| awaited.until);
        [self.expires, feeds, self.acks_at(), self.pace.wake_at(), awaited, self.contacts_due()]
            .into_iter()
            .flatten()
            .min()
    }

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

    /// The timeline, if the session could follow it.
    pub(super) fn which<'a>(&self, timeline: TimelineRef<'a>) -> Option<Which<'a>> {
        match timeline {
            TimelineRef::Inbox(user) => (user == self.who.user.as_str()).then_some(Which::Inbox),
            TimelineRef::Group(group) => Some(Which::Group(group)),
        }
    }

    /// As feeds know the life of a timeline. Groups have none: their epochs tell.
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

    pub(super) fn answer(
        &mut self,
        rules: &Rules,
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
            Tag::Send(_) | Tag::Group(_) if ended => self.pending_sends = self.pending_sends.saturating_sub(1),
            Tag::Send(sent) => self.sent(now, sent, true, result, out),
            // The change is delivered in its turn.
            Tag::Group(sent) => self.sent(now, sent, false, result, out),
            Tag::GroupRead { request, group } => self.group_was_read(request, group, result, out),
            Tag::Conversations { request, asked } => self.conversations_answered(request, asked, result, out),
            Tag::Contact(tag) => self.contacts_answered(tag, result, out),
            Tag::Privacy(tag) => self.privacy_answered(tag, result, out),
            Tag::ChatState(request, group) => self.chat_state_answered(now, (request, group), result, out),
            Tag::Scheduled(request) => self.scheduled_answered(request, result, out),
            Tag::Report(request) => self.reported(request, result, out),
            Tag::MediaSlot(asked) => self.media_created(rules, now, asked, result, out),
            Tag::MediaMessage(asked) => self.media_message_read(now, asked, result, out),
            Tag::MediaRow(asked) => self.media_row_read(rules, now, &asked, result, out),
            Tag::Memberships => self.memberships_read(now, result, out),
            Tag::Membership(group) => self.checked(now, group, result, out),
            Tag::Gap(timeline) => self.gap_read(now, &timeline, result, out)?,
            Tag::Fetch { request, timeline, pinned } => self.fetched(now, (request, &timeline, pinned), result, out),
            Tag::Renew(renewal) => self.renewed(now, renewal, result, out)?,
            Tag::Ack(timeline) => self.acked(now, &timeline, &result),
            Tag::Account | Tag::Ensure | Tag::Open | Tag::Close | Tag::Feed(..) | Tag::MediaComplete => {}
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

    pub(super) fn progress(&self) -> impl Iterator<Item = TimelineProgress> {
        self.timelines.progress()
    }

    /// Answers with the heads known here. Routers report on their own what was missed.
    pub(super) fn pong(&self, nonce: u64, out: &mut Vec<Effect>) {
        let head = |Timeline { followed, .. }: &Timeline| {
            (followed.timeline.id.clone(), Position { epoch: followed.epoch(), seq: followed.head() })
        };
        let is_told = |timeline: &&Timeline| match timeline.followed.timeline.id {
            TimelineId::Inbox(_) => true,
            TimelineId::Group(_) => timeline.followed.lacks(),
        };
        let heads = self.timelines.not_quiet().filter(is_told).take(1 + MAX_HEADS).map(head).collect();
        out.push(Effect::Tell(Tell::Heads { nonce, heads }));
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
        self.step(Which::Inbox, now, out);
        self.flow_groups(rules, now, out);
        self.flow_contacts(now, out);
        self.send_acks(rules, now, out);
        #[cfg(feature = "planted-bugs")]
        self.planted.drop_push(out);
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

    pub(super) fn read(
        &self,
        timeline: &TimelineId,
        from_seq: u64,
        backward: bool,
        limit: u32,
        max_bytes: u32,
    ) -> ReadTimeline {
        ReadTimeline {
            user: self.who.user.as_str().to_owned(),
            timeline: Some(timeline.to_client()),
            from_seq,
            backward,
            limit,
            max_bytes,
            incarnation: self.incarnation,
            ..ReadTimeline::default()
        }
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
