//! The conversations of the user: what is unread in them, how far they are read, and what is wanted of them.

use std::collections::BTreeSet;

use carillon_proto::{
    GroupId, UserId, limits,
    pb::{
        client::Code,
        link::{self, Refusal, Signaled, router_reply::Result as Reply, router_request::Op, signaled::Notice},
        store::{
            self, ConversationRow, MessageRequest, RequestAnswer, SetConversation, TimelineKey,
            conversation_settings::Notify, move_marks::Mark, timeline_key::Kind,
        },
    },
};

use super::{AskId, ConversationAsk, ConversationQuery, Effect, Now, Rules, Tag, Tell, live::Live, sending::refused};
use crate::outcome::refusal;

/// Names of users whose messages are requests.
pub(super) type Strangers = BTreeSet<String>;

/// Most strangers that are remembered: those that are open, and the last that were declined.
const REQUESTS: usize = 1024;

impl Live {
    pub(super) fn ask_conversations(&mut self, rules: &Rules, now: Now, ask: ConversationAsk, out: &mut Vec<Effect>) {
        let ConversationAsk { request, query } = ask;
        match self.conversations_op(rules, now, query) {
            Ok((asked, op)) => {
                self.history.waiting += 1;
                let tag = Tag::Conversations { request, asked };
                out.push(Effect::Request { tag, op, traceparent: String::new() });
            }
            Err(why) => out.push(refused(AskId::Request(request), why)),
        }
    }

    fn conversations_op(
        &mut self,
        rules: &Rules,
        now: Now,
        query: ConversationQuery,
    ) -> Result<(AskedMarks, Op), Refusal> {
        if !rules.has_groups() {
            return Err(refusal(Code::Unsupported, "this service keeps no conversations", 0));
        }
        let (user, incarnation) = (self.who.user.as_str().to_owned(), self.incarnation);
        let nothing = AskedMarks::default();
        let asked = match query {
            ConversationQuery::Read(read) => {
                if let Some(after) = &read.after {
                    check_name(Some(after))?;
                }
                let read = store::ReadConversations { incarnation, ..read };
                (nothing, Op::ReadConversations(link::ReadConversations { user, read: Some(read) }))
            }
            ConversationQuery::Move(marks) => {
                if !(1..=limits::MARKS).contains(&marks.len()) {
                    return Err(invalid(&"the request moves no marks, or more than 256"));
                }
                marks.iter().try_for_each(check_mark)?;
                (nothing, Op::MoveMarks(link::MoveMarks { user, incarnation, marks }))
            }
            ConversationQuery::Set(set) => {
                check_name(set.conversation.as_ref())?;
                check_settings(&set)?;
                let set = store::SetConversation { incarnation, ..set };
                (nothing, Op::SetConversation(link::SetConversation { user, set: Some(set) }))
            }
            ConversationQuery::Marks { group, users } => {
                if !(1..=limits::MARKS).contains(&users.len()) {
                    return Err(invalid(&"the request names no users, or more than 256"));
                }
                users.iter().try_for_each(|user| UserId::check(user)).map_err(|error| invalid(&error))?;
                if !group.is_empty() {
                    GroupId::check(&group).map_err(|error| invalid(&error))?;
                }
                let asked = AskedMarks { group: group.clone(), users: users.clone() };
                (asked, Op::ReadMarks(link::ReadMarks { user, incarnation, group, users }))
            }
        };
        self.history.begin(rules, now)?;
        // From now on it is told of changes: what it lacks it asks for.
        self.follows_conversations |= matches!(asked.1, Op::ReadConversations(_));
        Ok(asked)
    }

    pub(super) fn conversations_answered(
        &mut self,
        request: u32,
        asked: AskedMarks,
        result: Result<Reply, Refusal>,
        out: &mut Vec<Effect>,
    ) {
        self.history.waiting = self.history.waiting.saturating_sub(1);
        match &result {
            Ok(Reply::ConversationsRead(read)) => self.note_requests(&read.rows),
            Ok(Reply::ConversationsMoved(moved)) => self.note_requests(&moved.rows),
            _ => {}
        }
        out.push(match result {
            Ok(Reply::ConversationsRead(read)) => Effect::Tell(Tell::Conversations { request, read }),
            Ok(Reply::ConversationsMoved(moved)) => {
                Effect::Tell(Tell::ConversationsMoved { request, moved: Box::new(moved) })
            }
            Ok(Reply::MarksRead(read)) => {
                let AskedMarks { group, users } = asked;
                Effect::Tell(Tell::Marks { request, group, users, read })
            }
            Ok(_) => {
                let why = refusal(Code::Internal, "the service gave an answer of the wrong kind", 100);
                refused(AskId::Request(request), why)
            }
            Err(why) => refused(AskId::Request(request), why),
        });
    }

    /// Strangers whose messages the user has not accepted hear nothing of what it is doing.
    fn note_requests(&mut self, rows: &[ConversationRow]) {
        for ConversationRow { conversation, row, .. } in rows {
            let (Some(with), Some(row)) = (conversation, row) else { continue };
            let Ok(user) = with.owner_str() else { continue };
            if with.kind() != Kind::Inbox {
                continue;
            }
            if row.request() == MessageRequest::Unspecified {
                self.is_no_request(user);
            } else {
                let requests = self.requests.get_or_insert_default();
                if requests.len() < REQUESTS {
                    requests.insert(user.to_owned());
                }
            }
        }
    }

    /// The user has accepted it, or writes to it.
    pub(super) fn is_no_request(&mut self, user: &str) {
        if let Some(requests) = &mut self.requests {
            requests.remove(user);
        }
    }

    /// News of conversations, for a client that has asked for them.
    pub(super) fn noticed(&mut self, signal: &Signaled, out: &mut Vec<Effect>) {
        if !self.follows_conversations {
            return;
        }
        match &signal.notice {
            Some(Notice::Conversations(moved)) => {
                self.note_requests(&moved.rows);
                out.push(Effect::Tell(Tell::ConversationsMoved { request: 0, moved: Box::new(moved.clone()) }));
            }
            Some(Notice::Marked(marked)) => out.push(Effect::Tell(Tell::Marked(Box::new(marked.clone())))),
            Some(
                Notice::Presences(_)
                | Notice::ContactNews(_)
                | Notice::PrivacyNews(_)
                | Notice::ChatState(_)
                | Notice::ScheduledNews(_),
            )
            | None => {}
        }
    }
}

/// The users whose marks were asked for.
#[derive(Debug, Default)]
pub(crate) struct AskedMarks {
    group: String,
    users: Vec<String>,
}

fn check_name(with: Option<&TimelineKey>) -> Result<(), Refusal> {
    let nobody = || invalid(&"a conversation is with a user or in a group");
    let named = with.ok_or_else(nobody)?.check().map_err(|error| invalid(&error))?;
    named.map(drop).ok_or_else(nobody)
}

fn check_mark(mark: &Mark) -> Result<(), Refusal> {
    check_name(mark.conversation.as_ref())?;
    if mark.epoch == 0 { Err(invalid(&"a mark has no position")) } else { Ok(()) }
}

fn check_settings(set: &SetConversation) -> Result<(), Refusal> {
    let SetConversation { pinned, archived, muted_until_ms, notify, draft, unread, answer, .. } = set;
    let Ok(answer) = RequestAnswer::try_from(*answer) else {
        return Err(invalid(&"answer is of a kind that this service does not know"));
    };
    let of_group = set.conversation.as_ref().is_some_and(|with| with.kind() == Kind::Group);
    if of_group && answer != RequestAnswer::Unspecified {
        return Err(invalid(&"a conversation in a group is no request"));
    }
    let sets = (pinned, archived, muted_until_ms, notify, draft, unread) != (&None, &None, &None, &None, &None, &None);
    if !sets && answer == RequestAnswer::Unspecified {
        return Err(invalid(&"the request sets nothing"));
    }
    if let Some(bytes) = draft.as_ref().map(String::len).filter(|bytes| *bytes > limits::MAX_DRAFT_BYTES) {
        let why = format!("draft is {bytes} bytes but must be at most {}", limits::MAX_DRAFT_BYTES);
        return Err(refusal(Code::TooLarge, &why, 0));
    }
    if notify.is_some_and(|notify| Notify::try_from(notify).is_err()) {
        return Err(invalid(&"notify is of a kind that this service does not know"));
    }
    Ok(())
}

fn invalid(why: &dyn ToString) -> Refusal {
    refusal(Code::Invalid, &why.to_string(), 0)
}
