//! A signed-in session.

use std::time::{Duration, Instant};

use carillon_proto::{
    Epoch, Position, TimelineId,
    pb::{
        client::{self, Code},
        link::{
            Acknowledge, ReadTimeline, Refusal, TimelineProgress, router_reply::Result as Reply, router_request::Op,
        },
    },
};

use super::{
    Effect, Identity, Now, Rules, Tag, Tell, acknowledge,
    acks::NotBefore,
    chat_states::LastStates,
    contacts::Contacts,
    conversations::Strangers,
    following::{Timeline, Timelines, Which},
    history::History,
    pace::SendRate,
    positions::{Awaited, DeliveryStart},
};
use crate::{
    cluster_domains::ClusterDomains,
    feeds::{Followed, TimelineRef},
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
    /// Entries of the inbox up to here tell older facts of groups than reading the groups does.
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
    /// `None`: the client has asked nothing about contacts.
    pub(super) contacts: Option<Box<Contacts>>,
    /// The client has read what others may see and do, and is told of changes.
    pub(super) follows_privacy: bool,
    /// `None`: the client has told nobody what the user is doing.
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
    /// The client has closed its half of the connection.
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

    /// The device claims this position, which is beyond the end of its timeline.
    pub(super) fn has_beyond(&self, timeline: &TimelineId, position: client::Position) -> Op {
        Op::Acknowledge(Acknowledge {
            beyond: true,
            ..acknowledge(&self.who, self.incarnation, timeline, position.into())
        })
    }

    /// The timeline, if the session could follow it.
    pub(super) fn which<'a>(&self, timeline: TimelineRef<'a>) -> Option<Which<'a>> {
        match timeline {
            TimelineRef::Inbox(user) => (user == self.who.user.as_str()).then_some(Which::Inbox),
            TimelineRef::Group(group) => Some(Which::Group(group)),
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
