//! Messages that the service is to send later. See docs/adr/0033-scheduled.md.

use bytes::Bytes;
use carillon_proto::{
    ClientId, GroupId, UserId, date,
    pb::{
        client::{Code, Recipient, recipient::To},
        link::{
            self, Refusal, ScheduledNews, Signaled, router_reply::Result as Reply, router_request::Op, signaled::Notice,
        },
        store::{
            self, CancelScheduled, Header, ScheduledChanged, ScheduledRead, SendScheduledNow, SetScheduled,
            TimelineKey, change_scheduled::Change, timeline_key::Kind,
        },
    },
};

use super::{AskId, Effect, Now, Rules, Tag, Tell, content, expiring, live::Live, references, sending::refused};
use crate::outcome::refusal;

/// How far ahead a message may be scheduled.
const AHEAD_MS: u64 = 366 * 24 * 3_600_000;
/// How long its time may be past: the client's clock may be wrong, and the request may have been on its way.
const PAST_MS: u64 = 60_000;

/// A request of a client about scheduled messages, with its number.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ScheduledAsk {
    pub(crate) request: u32,
    pub(crate) query: ScheduledQuery,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ScheduledQuery {
    Schedule {
        client_id: String,
        to: Option<Recipient>,
        /// An encoded carillon.client.v1.Content, as the client wrote it.
        content: Option<Bytes>,
        at_ms: u64,
        /// For how long it is shown; 0: without end.
        expires_after_ms: u64,
    },
    Change {
        id: u64,
        change: Option<ScheduledChange>,
    },
    /// The list, from the message behind this one on.
    Read {
        after: u64,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ScheduledChange {
    /// Another content, another time, or both; an absent one stays.
    Set {
        content: Option<Bytes>,
        at_ms: Option<u64>,
    },
    Cancel,
    Now,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ScheduledTell {
    Changed { request: u32, changed: ScheduledChanged },
    Messages { request: u32, read: ScheduledRead },
    News(ScheduledNews),
}

impl Live {
    pub(super) fn ask_scheduled(&mut self, rules: &Rules, now: Now, ask: ScheduledAsk, out: &mut Vec<Effect>) {
        let ScheduledAsk { request, query } = ask;
        match self.scheduled_op(rules, now, query) {
            Ok(op) => {
                self.history.waiting += 1;
                out.push(Effect::Request { tag: Tag::Scheduled(request), op, traceparent: String::new() });
            }
            Err(why) => out.push(refused(AskId::Request(request), why)),
        }
    }

    fn scheduled_op(&mut self, rules: &Rules, now: Now, query: ScheduledQuery) -> Result<Op, Refusal> {
        // Groups have come with the same level.
        if !rules.has_groups() {
            return Err(refusal(Code::Unsupported, "this service sends no messages later", 0));
        }
        let (user, incarnation) = (self.who.user.as_str().to_owned(), self.incarnation);
        let op = match query {
            ScheduledQuery::Schedule { client_id, to, content, at_ms, expires_after_ms } => {
                ClientId::check(&client_id).map_err(|error| invalid(&error))?;
                let to = Some(check_recipient(to)?);
                check_time(at_ms, now)?;
                let content = content.ok_or_else(|| invalid(&"the scheduled message has no content"))?;
                let header = check_content(&content, rules, &self.who.user)?;
                expiring::check_after(rules, expires_after_ms, header.as_deref())?;
                let schedule = Some(store::Schedule {
                    incarnation,
                    sender_generation: self.generation,
                    device: self.who.device.as_str().to_owned(),
                    client_id,
                    to,
                    content,
                    header,
                    at_ms,
                    expires_after_ms,
                    ..store::Schedule::default()
                });
                Op::Schedule(Box::new(link::Schedule { user, schedule }))
            }
            ScheduledQuery::Change { id, change } => {
                let change = change.ok_or_else(|| invalid(&"the request has no change"))?;
                let change = Some(check_change(change, rules, &self.who.user, now)?);
                let change = Some(store::ChangeScheduled { timeline: None, incarnation, id, change });
                Op::ChangeScheduled(link::ChangeScheduled { user, change })
            }
            ScheduledQuery::Read { after } => {
                let read = Some(store::ReadScheduled { timeline: None, incarnation, after });
                Op::ReadScheduled(link::ReadScheduled { user, read })
            }
        };
        self.history.begin(rules, now)?;
        self.follows_scheduled |= matches!(op, Op::ReadScheduled(_));
        Ok(op)
    }

    pub(super) fn scheduled_answered(&mut self, request: u32, result: Result<Reply, Refusal>, out: &mut Vec<Effect>) {
        self.history.waiting = self.history.waiting.saturating_sub(1);
        out.push(match result {
            Ok(Reply::ScheduledChanged(changed)) => tell(ScheduledTell::Changed { request, changed }),
            Ok(Reply::ScheduledRead(read)) => tell(ScheduledTell::Messages { request, read }),
            Ok(_) => {
                let why = refusal(Code::Internal, "the service gave an answer of the wrong kind", 100);
                refused(AskId::Request(request), why)
            }
            Err(why) => refused(AskId::Request(request), why),
        });
    }

    /// News of scheduled messages, for a client that has read them.
    pub(super) fn scheduled_news(&mut self, signal: &Signaled, out: &mut Vec<Effect>) {
        if let Some(Notice::ScheduledNews(news)) = &signal.notice
            && self.follows_scheduled
        {
            out.push(tell(ScheduledTell::News(news.clone())));
        }
    }
}

fn tell(told: ScheduledTell) -> Effect {
    Effect::Tell(Tell::Scheduled(Box::new(told)))
}

fn check_change(change: ScheduledChange, rules: &Rules, user: &UserId, now: Now) -> Result<Change, Refusal> {
    Ok(match change {
        ScheduledChange::Set { content: None, at_ms: None } => return Err(invalid(&"the request sets nothing")),
        ScheduledChange::Set { content, at_ms } => {
            let header = content.as_ref().map_or(Ok(None), |content| check_content(content, rules, user))?;
            at_ms.map_or(Ok(()), |at_ms| check_time(at_ms, now))?;
            Change::Set(SetScheduled { content, at_ms, header })
        }
        ScheduledChange::Cancel => Change::Cancel(CancelScheduled {}),
        ScheduledChange::Now => Change::Now(SendScheduledNow { time_ms: now.unix_ms }),
    })
}

pub(super) fn check_recipient(to: Option<Recipient>) -> Result<TimelineKey, Refusal> {
    let (kind, owner) = match to.and_then(|to| to.to) {
        Some(To::User(user)) => {
            UserId::check(&user).map_err(|error| invalid(&error))?;
            (Kind::Inbox, user)
        }
        Some(To::Group(group)) => {
            GroupId::check(&group).map_err(|error| invalid(&error))?;
            (Kind::Group, group)
        }
        None => return Err(invalid(&"neither a user nor a group is named")),
    };
    Ok(TimelineKey { kind: kind.into(), owner: owner.into() })
}

/// Checks the content, and makes the header of the message.
fn check_content(content: &[u8], rules: &Rules, user: &UserId) -> Result<Option<Box<Header>>, Refusal> {
    let checked = content::check(content, rules.max_content_bytes(user));
    let header = checked.and_then(|content| references::header_of_message(&content));
    header.map_err(|error| refusal(error.code(), &error.to_string(), 0))
}

fn check_time(at_ms: u64, now: Now) -> Result<(), Refusal> {
    let (first, last) = (now.unix_ms.saturating_sub(PAST_MS), now.unix_ms.saturating_add(AHEAD_MS));
    if (first..=last).contains(&at_ms) {
        return Ok(());
    }
    let [at, first, last] = [at_ms, first, last].map(date::format);
    Err(invalid(&format!(
        "the message would be sent at {at}, which must be from {first} to {last}: now, or within a year"
    )))
}

fn invalid(why: &dyn ToString) -> Refusal {
    refusal(Code::Invalid, &why.to_string(), 0)
}
