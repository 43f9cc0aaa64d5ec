//! Contacts and presence: what a client asks, and what it is told. See docs/adr/0027-contacts.md.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::{
    UserId,
    pb::{
        client::{Code, Show},
        link::{
            ChangeContact, ContactNews, ReadContacts, Refusal, SessionPresence, SetPresence, Signaled,
            change_contact::Change, router_reply::Result as Reply, router_request::Op, signaled::Notice,
        },
        store::{ContactsRead, SayToContact, SetContact, Word},
    },
};

use super::{AskId, Effect, Now, Rules, Tag, Tell, live::Live, sending::refused};
use crate::{outcome::refusal, presences::PresenceNews};

const MAX_NAME_BYTES: usize = 256;
const MAX_LABELS: usize = 32;
const MAX_LABEL_BYTES: usize = 128;
const MAX_TEXT_BYTES: usize = 1024;
const PRIORITIES: std::ops::RangeInclusive<i32> = -128..=127;
/// Presences that are told in one piece, and bytes of them.
const PRESENCES: usize = 128;
const PRESENCE_BYTES: usize = 16 * 1024;
/// Before a session that has missed something asks again.
const AGAIN: Duration = Duration::from_secs(5);

/// A client's request about contacts and presence.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ContactAsk {
    pub(crate) request: u32,
    pub(crate) what: ContactQuery,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ContactQuery {
    Change { contact: String, change: Option<ContactChange> },
    Read { after: String, limit: u32, version: u64 },
    Show(SessionPresence),
}

pub(crate) use carillon_proto::pb::link::change_contact::Change as ContactChange;

/// News of contacts and presence for a client.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ContactTell {
    Done { request: u32 },
    Contacts { request: u32, read: ContactsRead },
    News(ContactNews),
    Presences(Vec<Arc<PresenceNews>>),
}

/// The purpose of a request to the routers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContactTag {
    Change(u32),
    Read(u32),
    Show(u32),
    /// The session asks by itself.
    Again,
}

/// The presence that a session shows, and the news that it wants.
#[derive(Default)]
pub(super) struct Contacts {
    /// The client has read the list.
    reads: bool,
    presence: Option<Box<SessionPresence>>,
    /// Something was missed: when it is asked for.
    pub(super) again_at: Option<Instant>,
}

impl Live {
    pub(super) fn ask_contacts(&mut self, rules: &Rules, now: Now, ask: ContactAsk, out: &mut Vec<Effect>) {
        let ContactAsk { request, what } = ask;
        match self.contacts_op(rules, now, request, what) {
            Ok((tag, op)) => {
                self.history.waiting += 1;
                out.push(Effect::Request { tag: Tag::Contact(tag), op, traceparent: String::new() });
            }
            Err(why) => out.push(refused(AskId::Request(request), why)),
        }
    }

    fn contacts_op(
        &mut self,
        rules: &Rules,
        now: Now,
        request: u32,
        what: ContactQuery,
    ) -> Result<(ContactTag, Op), Refusal> {
        // Contacts and groups have come with the same level.
        if !rules.has_groups() {
            return Err(refusal(Code::Unsupported, "this service has no contacts", 0));
        }
        let (user, incarnation) = (self.who.user.as_str().to_owned(), self.incarnation);
        Ok(match what {
            ContactQuery::Change { contact, change } => {
                UserId::check(&contact).map_err(|error| invalid(&error))?;
                if contact == user {
                    return Err(invalid(&"a user is no contact of its own"));
                }
                let change = change.ok_or_else(|| invalid(&"the request has no change"))?;
                check(&change)?;
                self.history.begin(rules, now)?;
                let op = ChangeContact { user, incarnation, contact, change: Some(change) };
                (ContactTag::Change(request), Op::ChangeContact(Box::new(op)))
            }
            ContactQuery::Read { after, limit, version } => {
                if !after.is_empty() {
                    UserId::check(&after).map_err(|error| invalid(&error))?;
                }
                self.history.begin(rules, now)?;
                self.contacts_mut().reads = true;
                let op = ReadContacts { user, incarnation, after, limit, known: version };
                (ContactTag::Read(request), Op::ReadContacts(op))
            }
            ContactQuery::Show(presence) => {
                let Ok(known) = Show::try_from(presence.show) else {
                    return Err(invalid(&"show is of an unknown kind"));
                };
                at_most("status", &presence.status, MAX_TEXT_BYTES)?;
                if !PRIORITIES.contains(&presence.priority) {
                    return Err(invalid(&"priority is not from -128 to 127"));
                }
                self.history.begin(rules, now)?;
                let is_silent = known == Show::Unspecified;
                // A session that shows nothing says nothing either.
                let presence = match is_silent && presence.hears {
                    true => SessionPresence { hears: true, ..SessionPresence::default() },
                    false => SessionPresence { hears: false, ..presence },
                };
                self.contacts_mut().presence = (!is_silent || presence.hears).then(|| Box::new(presence));
                (ContactTag::Show(request), self.shows(false))
            }
        })
    }

    /// `again`: the contacts' presence is told again.
    fn shows(&self, again: bool) -> Op {
        let presence = self.contacts.as_ref().and_then(|contacts| contacts.presence.as_deref().cloned());
        let user = self.who.user.as_str().to_owned();
        Op::SetPresence(SetPresence { user, connection: self.connection, presence, again })
    }

    pub(super) fn contacts_answered(&mut self, tag: ContactTag, result: Result<Reply, Refusal>, out: &mut Vec<Effect>) {
        let request = match tag {
            ContactTag::Change(request) | ContactTag::Read(request) | ContactTag::Show(request) => request,
            ContactTag::Again => return,
        };
        self.history.waiting = self.history.waiting.saturating_sub(1);
        out.push(match (tag, result) {
            (ContactTag::Read(_), Ok(Reply::ContactsRead(read))) => tell(ContactTell::Contacts { request, read }),
            (ContactTag::Change(_) | ContactTag::Show(_), Ok(Reply::Done(_))) => tell(ContactTell::Done { request }),
            (_, Ok(_)) => {
                let why = refusal(Code::Internal, "the service gave an answer of the wrong kind", 100);
                refused(AskId::Request(request), why)
            }
            (_, Err(why)) => refused(AskId::Request(request), why),
        });
    }

    /// The router has something to tell that not every session wants to know.
    pub(super) fn signaled(&mut self, signal: &Signaled, out: &mut Vec<Effect>) {
        let Some(contacts) = self.contacts.as_deref() else { return };
        if let Some(Notice::ContactNews(news)) = &signal.notice
            && contacts.reads
        {
            out.push(tell(ContactTell::News((**news).clone())));
        }
    }

    /// Presence of contacts, for a session that wants to know it.
    pub(super) fn presences(&mut self, mut news: Vec<Arc<PresenceNews>>, out: &mut Vec<Effect>) {
        if self.contacts.as_deref().is_none_or(|contacts| contacts.presence.is_none()) {
            return;
        }
        while !news.is_empty() {
            let mut bytes = 0;
            let fits = |news: &&Arc<PresenceNews>| {
                bytes += news.size();
                bytes <= PRESENCE_BYTES
            };
            let count = news.iter().take(PRESENCES).take_while(fits).count().max(1);
            let rest = news.split_off(count);
            out.push(tell(ContactTell::Presences(std::mem::replace(&mut news, rest))));
        }
    }

    /// Signals were dropped, since there was no room: asks for all presences again a little later.
    pub(super) fn signals_missed(&mut self, now: Now) {
        if let Some(contacts) = self.contacts.as_mut().filter(|contacts| contacts.presence.is_some()) {
            contacts.again_at.get_or_insert(now.instant + AGAIN);
        }
    }

    /// When `flow_contacts` has something to do.
    pub(super) fn contacts_due(&self) -> Option<Instant> {
        self.contacts.as_ref().and_then(|contacts| contacts.again_at)
    }

    pub(super) fn flow_contacts(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.contacts_due().is_some_and(|at| at <= now.instant) {
            self.contacts_mut().again_at = None;
            let tag = Tag::Contact(ContactTag::Again);
            out.push(Effect::Request { tag, op: self.shows(true), traceparent: String::new() });
        }
    }

    /// Made at the first request: most connections never ask.
    fn contacts_mut(&mut self) -> &mut Contacts {
        self.contacts.get_or_insert_default()
    }
}

fn check(change: &Change) -> Result<(), Refusal> {
    match change {
        Change::Set(SetContact { name, labels }) => {
            at_most("name", name, MAX_NAME_BYTES)?;
            if labels.len() > MAX_LABELS {
                return Err(invalid(&"a contact has at most 32 labels"));
            }
            for (at, label) in labels.iter().enumerate() {
                at_most("label", label, MAX_LABEL_BYTES)?;
                if label.is_empty() || labels[..at].contains(label) {
                    return Err(invalid(&"a label is empty, or there twice"));
                }
            }
            Ok(())
        }
        Change::Remove(_) => Ok(()),
        Change::Say(SayToContact { word, text, .. }) => {
            let Ok(word @ (Word::Subscribe | Word::Subscribed | Word::Unsubscribe | Word::Unsubscribed)) =
                Word::try_from(*word)
            else {
                return Err(invalid(&"the word is of an unknown kind"));
            };
            at_most("text", text, MAX_TEXT_BYTES)?;
            if !text.is_empty() && word != Word::Subscribe {
                return Err(invalid(&"text belongs to WORD_SUBSCRIBE"));
            }
            Ok(())
        }
    }
}

fn tell(told: ContactTell) -> Effect {
    Effect::Tell(Tell::Contact(Box::new(told)))
}

fn at_most(what: &str, text: &str, max: usize) -> Result<(), Refusal> {
    match text.len() {
        bytes if bytes > max => Err(invalid(&format!("{what} is {bytes} bytes but must be at most {max}"))),
        _ => Ok(()),
    }
}

fn invalid(why: &dyn ToString) -> Refusal {
    refusal(Code::Invalid, &why.to_string(), 0)
}
