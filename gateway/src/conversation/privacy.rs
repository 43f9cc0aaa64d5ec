//! Privacy settings and blocked users: requests of clients, and news for them. See docs/adr/0032-privacy.md.

use carillon_proto::{
    UserId,
    pb::{
        client::Code,
        link::{
            ChangePrivacy, PrivacyNews, ReadPrivacy, Refusal, Signaled, router_reply::Result as Reply,
            router_request::Op, signaled::Notice,
        },
        store::{Audience, Privacy, SetPrivacy},
    },
};

use super::{AskId, Effect, Now, Rules, Tag, Tell, live::Live, sending::refused};
use crate::outcome::refusal;

pub(crate) use carillon_proto::pb::link::change_privacy::Change as PrivacyChange;

/// A request of a client, with its number.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PrivacyAsk {
    pub(crate) request: u32,
    pub(crate) what: PrivacyQuery,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PrivacyQuery {
    Read,
    Change(Option<PrivacyChange>),
}

/// An answer or news for a client.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PrivacyTell {
    Done { request: u32 },
    Privacy { request: u32, privacy: Privacy },
    News(PrivacyNews),
}

/// The purpose of a request to the routers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PrivacyTag {
    Read(u32),
    Change(u32),
}

impl Live {
    pub(super) fn ask_privacy(&mut self, rules: &Rules, now: Now, ask: PrivacyAsk, out: &mut Vec<Effect>) {
        let PrivacyAsk { request, what } = ask;
        match self.privacy_op(rules, now, request, what) {
            Ok((tag, op)) => {
                self.history.waiting += 1;
                out.push(Effect::Request { tag: Tag::Privacy(tag), op, traceparent: String::new() });
            }
            Err(why) => out.push(refused(AskId::Request(request), why)),
        }
    }

    fn privacy_op(
        &mut self,
        rules: &Rules,
        now: Now,
        request: u32,
        what: PrivacyQuery,
    ) -> Result<(PrivacyTag, Op), Refusal> {
        // Privacy settings have come with the same level as groups.
        if !rules.has_groups() {
            return Err(refusal(Code::Unsupported, "this service keeps no settings of privacy", 0));
        }
        let (user, incarnation) = (self.who.user.as_str().to_owned(), self.incarnation);
        let read = matches!(what, PrivacyQuery::Read);
        let (tag, op) = match what {
            PrivacyQuery::Read => (PrivacyTag::Read(request), Op::ReadPrivacy(ReadPrivacy { user, incarnation })),
            PrivacyQuery::Change(change) => {
                let change = change.ok_or_else(|| invalid(&"the request has no change"))?;
                self.check_privacy(&change)?;
                let op = ChangePrivacy { user, incarnation, change: Some(change) };
                (PrivacyTag::Change(request), Op::ChangePrivacy(op))
            }
        };
        self.history.begin(rules, now)?;
        self.follows_privacy |= read;
        Ok((tag, op))
    }

    fn check_privacy(&self, change: &PrivacyChange) -> Result<(), Refusal> {
        match change {
            PrivacyChange::Set(SetPrivacy { write, groups, read_marks, presence, last_seen }) => {
                for audience in [write, groups, read_marks, presence, last_seen].into_iter().flatten() {
                    Audience::try_from(*audience).map_err(|_| invalid(&"the audience is of an unknown kind"))?;
                }
                let requests = Some(i32::from(Audience::Requests));
                if [groups, read_marks, presence, last_seen].into_iter().any(|audience| *audience == requests) {
                    return Err(invalid(&"requests are for who may write"));
                }
                if [presence, last_seen].into_iter().flatten().any(|shown| *shown == i32::from(Audience::Everyone)) {
                    let why = "presence, and when the user was last there, are shown to contacts or to nobody";
                    return Err(invalid(&why));
                }
                Ok(())
            }
            PrivacyChange::Block(user) | PrivacyChange::Unblock(user) => {
                UserId::check(user).map_err(|error| invalid(&error))?;
                if *user == self.who.user.as_str() {
                    return Err(invalid(&"a user can't be blocked by itself"));
                }
                Ok(())
            }
        }
    }

    pub(super) fn privacy_answered(&mut self, tag: PrivacyTag, result: Result<Reply, Refusal>, out: &mut Vec<Effect>) {
        self.history.waiting = self.history.waiting.saturating_sub(1);
        let (PrivacyTag::Read(request) | PrivacyTag::Change(request)) = tag;
        out.push(match (tag, result) {
            (PrivacyTag::Read(_), Ok(Reply::Privacy(privacy))) => tell(PrivacyTell::Privacy { request, privacy }),
            (PrivacyTag::Change(_), Ok(Reply::Done(_))) => tell(PrivacyTell::Done { request }),
            (_, Ok(_)) => {
                let why = refusal(Code::Internal, "the service gave an answer of the wrong kind", 100);
                refused(AskId::Request(request), why)
            }
            (_, Err(why)) => refused(AskId::Request(request), why),
        });
    }

    /// A change, for a client that has read what there was.
    pub(super) fn privacy_news(&self, signal: &Signaled, out: &mut Vec<Effect>) {
        if let Some(Notice::PrivacyNews(news)) = &signal.notice
            && self.follows_privacy
        {
            out.push(tell(PrivacyTell::News((**news).clone())));
        }
    }
}

fn tell(told: PrivacyTell) -> Effect {
    Effect::Tell(Tell::Privacy(Box::new(told)))
}

fn invalid(why: &dyn ToString) -> Refusal {
    refusal(Code::Invalid, &why.to_string(), 0)
}
