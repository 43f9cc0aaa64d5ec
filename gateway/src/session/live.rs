//! A session that is signed in.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use carillon_proto::{
    pb::{
        client::{self, Code, Pong, Position, TimelinePosition, Trimmed, server_frame},
        link::{
            Acknowledge, Push, ReadHeads, ReadTimeline, Refusal, TimelineHead, router_reply::Result as Reply,
            router_request::Op,
        },
        store::{Head, TimelineRead},
    },
    trace,
};

use super::{
    Effect, Now, Rules, Tag, Who, acknowledge,
    delivery::{Delivery, Heard},
    history::History,
    pace::Pace,
    sending::may_use,
    sign_in::Begin,
};
use crate::{
    codec::{Outgoing, TimelineWords},
    metrics,
    users::Share,
};

/// Pings that wait for the heads together; later ones are answered with what is known.
const MAX_PINGS: usize = 8;
/// Before an acknowledgement is sent again that was refused.
const ACK_AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Live {
    pub(super) who: Who,
    /// Of the account: what is asked in its name is not asked in that of the name's next owner.
    pub(super) incarnation: u64,
    /// Of the session: it is over when its account has another one.
    pub(super) generation: u64,
    pub(super) timeline: Arc<TimelineWords>,
    pub(super) connection: u64,
    pub(super) expires: Option<Instant>,
    pub(super) delivery: Delivery<Bytes>,
    pub(super) pace: Pace,
    pub(super) pending_sends: u32,
    pub(super) history: History,
    /// A new token is being looked at.
    pub(super) renewing: bool,
    /// Something was heard of another epoch: the heads will tell.
    pub(super) doubt: bool,
    pings: Vec<u64>,
    asked_heads: bool,
    ack: Acks,
    drain: Option<Duration>,
    /// The client has said its last word; it waits for answers.
    finishing: Option<LastWord>,
    #[cfg(feature = "planted-bugs")]
    pub(super) planted: super::planted::Renumbered,
    _counted: metrics::Held,
}

pub(super) struct LiveStart {
    pub(super) who: Who,
    pub(super) incarnation: u64,
    pub(super) generation: u64,
    pub(super) timeline: client::Timeline,
    pub(super) expires: Option<Instant>,
    pub(super) begin: Begin,
    pub(super) share: Share,
}

/// How a client says that nothing more will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastWord {
    SignOut,
    /// It has closed its half of the connection.
    HalfClosed,
}

/// The device's acknowledgements: the latest one waits while another is on its way.
struct Acks {
    latest: Option<Position>,
    sent: Option<Position>,
    done: u64,
    not_before: Instant,
}

/// The connection can't go on: why.
pub(super) struct Gone(pub(super) Code, pub(super) &'static str);

const ENDED: Gone = Gone(Code::Unauthenticated, "the account has ended");
pub(super) const RESTORED: Gone = Gone(Code::Unavailable, "the timeline was restored or began anew: sign in again");

impl Live {
    pub(super) fn new(rules: &Rules, now: Now, connection: u64, start: LiveStart) -> Self {
        let LiveStart { who, incarnation, generation, timeline, expires, begin, share } = start;
        Self {
            who,
            incarnation,
            generation,
            timeline: Arc::new(TimelineWords::new(timeline)),
            connection,
            expires,
            delivery: Delivery::new(begin.epoch, begin.from, begin.last, rules.gap_grace, now.instant),
            pace: Pace::new(rules.sends_per_second, rules.send_burst, share, now.instant),
            pending_sends: 0,
            history: History::default(),
            renewing: false,
            doubt: false,
            pings: Vec::new(),
            asked_heads: false,
            ack: Acks { latest: None, sent: None, done: 0, not_before: now.instant },
            drain: None,
            finishing: None,
            #[cfg(feature = "planted-bugs")]
            planted: super::planted::Renumbered::default(),
            _counted: metrics::Held::session(),
        }
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        let ack = (self.ack.latest.is_some() && self.ack.sent.is_none()).then_some(self.ack.not_before);
        [self.expires, self.delivery.wake_at(), ack, self.pace.wake_at()].into_iter().flatten().min()
    }

    pub(super) fn push(&mut self, now: Now, push: &Push, out: &mut Vec<Effect>) {
        let Some(position) = push.position else { return };
        if push.timeline.as_ref() != Some(&self.timeline.client) {
            return;
        }
        let (heard, envelope) = self.delivery.pushed(position, push.envelope.clone(), push.envelope.len(), now.instant);
        self.doubt |= heard == Heard::OtherEpoch;
        if let Some(envelope) = envelope {
            if !push.traceparent.is_empty() {
                let span = tracing::info_span!("deliver", user = %self.who.user, seq = position.seq);
                trace::continue_from(&span, &push.traceparent);
                span.in_scope(|| tracing::trace!("delivered"));
            }
            metrics::delivered_from_push();
            self.deliver(position.seq, envelope, out);
        }
    }

    /// The device has this position, which its timeline does not reach.
    pub(super) fn has_beyond(&self, position: Position) -> Op {
        Op::Acknowledge(Acknowledge { beyond: true, ..acknowledge(&self.who, self.timeline.client.clone(), position) })
    }

    pub(super) fn behind(&mut self, now: Now, position: Position) {
        self.doubt |= self.delivery.reaches(position, now.instant) == Heard::OtherEpoch;
    }

    pub(super) fn heads(&mut self, now: Now, heads: &[TimelineHead]) -> Result<(), Gone> {
        let own = heads.iter().find(|head| head.timeline.as_ref() == Some(&self.timeline.client));
        match own.and_then(|head| head.head) {
            Some(head) => self.head(now, head),
            None => Ok(()),
        }
    }

    fn head(&mut self, now: Now, head: Head) -> Result<(), Gone> {
        self.doubt = false;
        let position = Position { epoch: head.epoch, seq: head.last };
        match self.delivery.reaches(position, now.instant) {
            Heard::OtherEpoch => Err(RESTORED),
            Heard::Next | Heard::Later | Heard::Old => Ok(()),
        }
    }

    pub(super) fn backlog(&mut self, now: Now, over: bool) {
        if over { self.delivery.pause() } else { self.delivery.resume(now.instant) }
    }

    pub(super) fn answer(
        &mut self,
        now: Now,
        tag: Tag,
        result: Result<Reply, Refusal>,
        out: &mut Vec<Effect>,
    ) -> Result<(), Gone> {
        // The router refuses so only what an account that has ended asks for.
        // A new token is another matter: the one before holds on.
        let ended =
            !matches!(tag, Tag::Renew(_)) && result.as_ref().is_err_and(|why| why.code() == Code::Unauthenticated);
        match tag {
            // What came of it is not known: the recipient may have it, and the sender has no inbox any more.
            Tag::Send(_) if ended => self.pending_sends = self.pending_sends.saturating_sub(1),
            Tag::Send(sent) => self.sent(now, sent, result, out),
            Tag::Gap => self.gap_read(now, result, out)?,
            Tag::Fetch(request) => self.fetched(request, result, out),
            Tag::Renew(renewal) => self.renewed(now, renewal, result, out),
            Tag::Heads => self.heads_read(now, result, out)?,
            Tag::Ack => self.acked(now, &result),
            Tag::Account | Tag::Ensure | Tag::Open | Tag::Close => {}
        }
        if ended { Err(ENDED) } else { Ok(()) }
    }

    /// What was missing has been read.
    fn gap_read(&mut self, now: Now, result: Result<Reply, Refusal>, out: &mut Vec<Effect>) -> Result<(), Gone> {
        let Ok(Reply::TimelineRead(TimelineRead { head, entries, .. })) = result else {
            self.delivery.read_done(None, false, now.instant);
            return Ok(());
        };
        let head = head.unwrap_or_default();
        if head.epoch != self.delivery.epoch() {
            return Err(RESTORED);
        }
        let before = self.delivery.next();
        if self.delivery.trimmed(head.first, now.instant) {
            let first = Position { epoch: head.epoch, seq: head.first };
            let trimmed = Trimmed { timeline: Some(self.timeline.client.clone()), first: Some(first) };
            out.push(Effect::Write(server_frame::Body::Trimmed(trimmed).into()));
        }
        for entry in entries {
            if self.delivery.read(entry.seq, now.instant) {
                metrics::delivered_from_read();
                self.deliver(entry.seq, entry.envelope, out);
            }
        }
        let progress = self.delivery.next() > before;
        self.delivery.read_done(Some(head.last), progress, now.instant);
        Ok(())
    }

    fn deliver(&self, seq: u64, envelope: Bytes, out: &mut Vec<Effect>) {
        let position = Position { epoch: self.delivery.epoch(), seq };
        out.push(Effect::Write(Outgoing::Deliver { timeline: Arc::clone(&self.timeline), position, envelope }));
    }

    pub(super) fn ping(&mut self, nonce: u64, out: &mut Vec<Effect>) {
        if self.pings.len() < MAX_PINGS {
            self.pings.push(nonce);
        } else {
            self.pong(nonce, out);
        }
    }

    fn heads_read(&mut self, now: Now, result: Result<Reply, Refusal>, out: &mut Vec<Effect>) -> Result<(), Gone> {
        self.asked_heads = false;
        let told = match result {
            Ok(Reply::Heads(heads)) => self.heads(now, &heads.heads),
            // The heartbeat is answered all the same, with what is known.
            Ok(_) | Err(_) => Ok(()),
        };
        self.doubt = false;
        for nonce in std::mem::take(&mut self.pings) {
            self.pong(nonce, out);
        }
        told
    }

    fn pong(&self, nonce: u64, out: &mut Vec<Effect>) {
        let position = Position { epoch: self.delivery.epoch(), seq: self.delivery.head() };
        let head = TimelinePosition { timeline: Some(self.timeline.client.clone()), position: Some(position) };
        out.push(Effect::Write(server_frame::Body::Pong(Pong { nonce, heads: vec![head] }).into()));
    }

    /// One that makes no sense is ignored: there is no answer that could say so, and it does no harm.
    pub(super) fn ack(&mut self, ack: &client::Ack) {
        let Some(position) = ack.position else { return };
        let known = self.delivery.head().max(self.delivery.next() - 1);
        let newest =
            [self.ack.latest, self.ack.sent].into_iter().flatten().map(|at| at.seq).max().unwrap_or(self.ack.done);
        let makes_sense = position.epoch == self.delivery.epoch() && (newest + 1..=known).contains(&position.seq);
        if makes_sense && may_use(self, ack.timeline.as_ref()).is_ok() {
            self.ack.latest = Some(position);
        }
    }

    fn acked(&mut self, now: Now, result: &Result<Reply, Refusal>) {
        let Some(sent) = self.ack.sent.take() else { return };
        match result {
            Ok(_) => self.ack.done = sent.seq,
            Err(why) => {
                self.ack.not_before = now.instant + ACK_AGAIN;
                if why.retry && self.ack.latest.is_none() {
                    self.ack.latest = Some(sent);
                }
            }
        }
    }

    /// The acknowledgement that nobody has heard of yet, or may have heard of in vain.
    pub(super) fn last_ack(&self) -> Option<Acknowledge> {
        let position = self.ack.latest?;
        Some(acknowledge(&self.who, self.timeline.client.clone(), position))
    }

    pub(super) fn ack_is_on_its_way(&self) -> bool {
        self.ack.sent.is_some()
    }

    pub(super) fn drain(&mut self, come_back: Duration) {
        self.drain = Some(come_back);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    pub(super) fn drained(&self) -> Option<Duration> {
        self.drain.filter(|_| self.pending_sends == 0)
    }

    /// The first last word counts.
    pub(super) fn finish(&mut self, word: LastWord) {
        self.finishing.get_or_insert(word);
    }

    pub(super) fn is_finishing(&self) -> bool {
        self.finishing.is_some()
    }

    /// The client has said its last word, and has all its answers.
    pub(super) fn finished(&self) -> Option<LastWord> {
        let answered = self.pending_sends == 0 && self.history.waiting == 0 && self.pings.is_empty() && !self.renewing;
        self.finishing.filter(|_| answered)
    }

    /// Whatever is possible now.
    pub(super) fn flow(&mut self, rules: &Rules, now: Now, out: &mut Vec<Effect>) {
        self.pace.sweep(now.instant);
        while let Some((seq, envelope)) = self.delivery.take_early(now.instant) {
            metrics::delivered_from_push();
            self.deliver(seq, envelope, out);
        }
        if let Some(from) = self.delivery.begin_read(now.instant) {
            ::metrics::counter!(metrics::GAP_FETCHES).increment(1);
            let op = self.read(from, false, rules.max_page, rules.max_page_bytes);
            out.push(Effect::Request { tag: Tag::Gap, op, traceparent: String::new() });
        }
        if (self.doubt || !self.pings.is_empty()) && !self.asked_heads {
            self.asked_heads = true;
            let user = self.who.user.as_str().to_owned();
            let op = Op::ReadHeads(ReadHeads { user, device: String::new(), incarnation: self.incarnation });
            out.push(Effect::Request { tag: Tag::Heads, op, traceparent: String::new() });
        }
        if self.ack.sent.is_none()
            && now.instant >= self.ack.not_before
            && let Some(position) = self.ack.latest.take()
        {
            self.ack.sent = Some(position);
            self.ack.not_before = now.instant + rules.ack_interval;
            let op = Op::Acknowledge(acknowledge(&self.who, self.timeline.client.clone(), position));
            out.push(Effect::Request { tag: Tag::Ack, op, traceparent: String::new() });
        }
        #[cfg(feature = "planted-bugs")]
        self.planted.drop_push(out);
    }

    pub(super) fn read(&self, from_seq: u64, backward: bool, limit: u32, max_bytes: u32) -> Op {
        Op::Read(ReadTimeline {
            user: self.who.user.as_str().to_owned(),
            timeline: Some(self.timeline.client.clone()),
            from_seq,
            backward,
            limit,
            max_bytes,
            incarnation: self.incarnation,
        })
    }
}
