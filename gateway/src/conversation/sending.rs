//! Sends: validity, rate, and outcome.

use std::time::{Duration, Instant};

use bytes::Bytes;
use carillon_proto::{
    ClientId, GroupId, TimelineId, UserId,
    pb::{
        client::{self, Code, recipient::To},
        link::{self, Refusal, SendTo, router_reply::Result as Reply, router_request::Op, send_to},
        store::Header,
    },
    trace,
};
use tracing::Span;

use super::{
    AskId, Effect, Now, Placed, Rules, SendAsk, Tag, Tell, content, expiring,
    live::Live,
    pace::{Admitted, Named, NotNow},
    references,
};
use crate::{feeds::TimelineRef, metrics, outcome::refusal};

/// A send that waits for its answer.
#[derive(Debug)]
pub(crate) struct Sent {
    client_id: String,
    after: Option<Named>,
    admitted: Admitted,
    at: Instant,
    /// Ends with the answer.
    _span: Span,
}

impl Sent {
    pub(super) fn new(client_id: String, after: Option<Named>, admitted: Admitted, at: Instant, span: Span) -> Self {
        Self { client_id, after, admitted, at, _span: span }
    }
}

/// A send that may go on.
struct Checked {
    to: To,
    /// The content as it was received.
    content: Bytes,
    /// The facts of the content that the service has to know.
    header: Option<Box<Header>>,
    admitted: Admitted,
}

/// The retry delay when no better one is known.
const SOON_MS: u32 = 100;

impl Live {
    pub(super) fn send(&mut self, rules: &Rules, now: Now, send: SendAsk, out: &mut Vec<Effect>) {
        metrics::send();
        let SendAsk { client_id, to, content, after, expires_after_ms } = send;
        let checked = self.check(rules, now, &client_id, &after, to, content).and_then(|checked| {
            expiring::check_after(rules, expires_after_ms, checked.header.as_deref())?;
            Ok(checked)
        });
        match checked {
            Err(why) => out.push(refused(AskId::Send(client_id), why)),
            Ok(Checked { to, content, header, admitted }) => {
                self.pending_sends += 1;
                let span = tracing::info_span!("send_message", sender = %self.who.user, client_id);
                let traceparent = trace::traceparent(&span);
                let named = Named::of(&after);
                // In one buffer, because the request is kept to be repeated.
                let (name, is_group) = match &to {
                    To::User(user) => (user, false),
                    To::Group(group) => (group, true),
                };
                if !is_group {
                    self.is_no_request(name);
                }
                let ids = [self.who.user.as_str(), self.who.device.as_str(), name, &client_id, &after];
                let [sender, sender_device, to, client_id_bytes, after] = in_one_buffer(ids);
                let to = if is_group { send_to::To::Group(to) } else { send_to::To::User(to) };
                let op = Op::Send(link::Send {
                    sender,
                    sender_device,
                    to: Some(SendTo { to: Some(to) }),
                    client_id: client_id_bytes,
                    content,
                    connection: self.connection,
                    after,
                    incarnation: self.incarnation,
                    generation: self.generation,
                    time_ms: now.unix_ms,
                    wants_marks: self.follows_conversations,
                    header,
                    expires_after_ms,
                    to_incarnation: None,
                });
                let tag = Tag::Send(Sent::new(client_id, named, admitted, now.instant, span));
                out.push(Effect::Request { tag, op, traceparent });
            }
        }
    }

    /// Refuses an unreadable frame that names its send or request. It costs as much as a readable one.
    pub(super) fn unreadable(&mut self, rules: &Rules, now: Now, what: AskId, reason: &str, out: &mut Vec<Effect>) {
        let allowed = match &what {
            AskId::Send(client_id) => self.admit(now, client_id, "").map(|_| ()),
            AskId::Request(_) | AskId::SignIn => self.history.take(rules, now),
        };
        let why = allowed.err().unwrap_or_else(|| refusal(Code::Invalid, reason, 0));
        out.push(refused(what, why));
    }

    /// `counts`: a client whose next position this is has it now, by the answer.
    pub(super) fn sent(
        &mut self,
        now: Now,
        sent: Sent,
        counts: bool,
        result: Result<Reply, Refusal>,
        out: &mut Vec<Effect>,
    ) {
        self.pending_sends = self.pending_sends.saturating_sub(1);
        let why = match result {
            Ok(Reply::Accepted(accepted)) => {
                metrics::accepted(now.instant.saturating_duration_since(sent.at));
                let link::Accepted { message_id, timeline, position, time_ms, expires_at_ms } = accepted;
                let client_id = sent.client_id;
                let named = timeline.clone();
                let placed = Placed { client_id, message_id, timeline, position, time_ms, expires_at_ms };
                out.push(Effect::Tell(Tell::Accepted(placed)));
                // Entries that were held for this answer follow it.
                if let (Some(timeline), Some(position)) = (named.as_ref().and_then(TimelineRef::of), position)
                    && counts
                {
                    self.own(now, timeline, position.into(), out);
                }
                return;
            }
            Ok(_) => refusal(Code::Internal, "the service gave an answer of the wrong kind", SOON_MS),
            Err(why) => why,
        };
        let why = self.postponed(now, &sent.client_id, sent.after, why, Some(sent.admitted));
        out.push(refused(AskId::Send(sent.client_id), why));
    }

    fn admit(&mut self, now: Now, client_id: &str, after: &str) -> Result<Admitted, Refusal> {
        self.pace.admit(now.instant, client_id, after).map_err(|why| match why {
            NotNow::Rate(wait) => {
                let why = "more sends than the limit of this connection, or of all of its user's, allows";
                refusal(Code::RateLimited, why, whole_ms(wait))
            }
            NotNow::Follows(wait) => {
                let why = "the message that this one follows was refused and has not come again";
                refusal(Code::OutOfOrder, why, whole_ms(wait))
            }
        })
    }

    /// The refusal, with the time at which a place is kept for the repeat.
    fn postponed(
        &mut self,
        now: Now,
        client_id: &str,
        after: Option<Named>,
        why: Refusal,
        admitted: Option<Admitted>,
    ) -> Refusal {
        if !why.retry {
            return why;
        }
        let wait = Duration::from_millis(why.retry_after_ms.into());
        let wait = self.pace.postpone(now.instant, client_id, after, wait, admitted);
        Refusal { retry_after_ms: whole_ms(wait), ..why }
    }

    /// Whether one more may wait for its answer now, by the rate and by all other limits.
    pub(super) fn admit_now(
        &mut self,
        rules: &Rules,
        now: Now,
        client_id: &str,
        after: &str,
    ) -> Result<Admitted, Refusal> {
        let not_yet = if let Some(going) = self.going() {
            Some(refusal(Code::Unavailable, going.why, SOON_MS))
        } else if self.pending_sends >= rules.max_pending_sends {
            Some(refusal(Code::Overloaded, "too many sends of this connection wait for an answer", SOON_MS))
        } else {
            None
        };
        if let Some(why) = not_yet {
            return Err(self.postponed(now, client_id, Named::of(after), why, None));
        }
        self.admit(now, client_id, after)
    }

    fn check(
        &mut self,
        rules: &Rules,
        now: Now,
        client_id: &str,
        after: &str,
        to: Option<client::Recipient>,
        content: Option<Bytes>,
    ) -> Result<Checked, Refusal> {
        let admitted = self.admit_now(rules, now, client_id, after)?;
        let invalid = |why: &dyn ToString| refusal(Code::Invalid, &why.to_string(), 0);
        ClientId::check(client_id).map_err(|error| invalid(&error))?;
        if !after.is_empty() {
            ClientId::check(after).map_err(|error| invalid(&error))?;
        }
        let to = match to.and_then(|to| to.to) {
            Some(To::User(user)) => {
                UserId::check(&user).map_err(|error| invalid(&error))?;
                To::User(user)
            }
            Some(To::Group(_)) if !rules.has_groups() => return Err(refusal(Code::Unsupported, NO_GROUPS, 0)),
            Some(To::Group(group)) => {
                GroupId::check(&group).map_err(|error| invalid(&error))?;
                To::Group(group)
            }
            None => return Err(invalid(&"send has no recipient")),
        };
        let content = content.ok_or_else(|| invalid(&"send has no content"))?;
        let no = |error: content::ContentError| refusal(error.code(), &error.to_string(), 0);
        let decoded = content::check(&content, rules.max_content_bytes(&self.who.user)).map_err(no)?;
        let header = match rules.has_references() {
            true => references::header(&decoded, &self.who.user, &to, rules.edit_window_ms).map_err(no)?,
            false if references::needs_references(&decoded) => {
                return Err(refusal(Code::Unsupported, "this service has no messages about other messages", 0));
            }
            false => None,
        };
        Ok(Checked { to, content, header, admitted })
    }
}

/// The texts as parts of one allocation.
pub(super) fn in_one_buffer<const N: usize>(texts: [&str; N]) -> [Bytes; N] {
    let mut rest = Bytes::from(texts.concat());
    texts.map(|text| rest.split_to(text.len()))
}

/// Milliseconds, rounded up; at least 1.
pub(super) fn whole_ms(wait: Duration) -> u32 {
    u32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u32::MAX).max(1)
}

pub(super) const NO_GROUPS: &str = "this service has no groups";

pub(super) fn refused(asked: AskId, why: Refusal) -> Effect {
    let of = match asked {
        AskId::Send(_) => "send",
        AskId::Request(_) | AskId::SignIn => "request",
    };
    metrics::refusal(of, why.code());
    Effect::Tell(Tell::Refused { asked, why })
}

/// The timeline, if this connection may ask for it. The store says which groups the user may read.
pub(super) fn may_use(live: &Live, rules: &Rules, timeline: Option<&client::Timeline>) -> Result<TimelineId, Refusal> {
    let named = match timeline.map(TimelineId::from_client) {
        Some(Ok(Some(named))) => named,
        Some(Ok(None)) | None => return Err(refusal(Code::Invalid, "no timeline is named", 0)),
        Some(Err(error)) => return Err(refusal(Code::Invalid, &error.to_string(), 0)),
    };
    match &named {
        TimelineId::Inbox(user) if *user == live.who.user => Ok(named),
        TimelineId::Inbox(_) => Err(refusal(Code::Forbidden, "the inbox of another user", 0)),
        TimelineId::Group(_) if rules.has_groups() => Ok(named),
        TimelineId::Group(_) => Err(refusal(Code::Unsupported, NO_GROUPS, 0)),
    }
}
