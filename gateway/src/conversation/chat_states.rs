//! Chat states: that a user is writing, is recording, or has stopped. See docs/adr/0032-privacy.md.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use carillon_proto::{
    GroupId, UserId,
    pb::{
        client::{ChatState, Code},
        link::{
            ChatStateTold, Refusal, Signaled, TellChatState, router_reply::Result as Reply, router_request::Op,
            signaled::Notice,
        },
        store::Person,
    },
};

use super::{AskId, Effect, Now, Rules, Tag, Tell, live::Live, sending::refused};
use crate::outcome::refusal;

/// Within this time a state that is told again is not passed on.
const PAUSE: Duration = Duration::from_secs(1);
/// Conversations whose last state is remembered.
const REMEMBERED: usize = 16;
/// How long nothing is asked of a group that was too large: the client has heard it.
const LARGE_PAUSE: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ChatStateAsk {
    pub(crate) request: u32,
    /// A user, or a group; the other one is empty.
    pub(crate) to: String,
    pub(crate) group: String,
    pub(crate) state: i32,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ChatStateTell {
    Done { request: u32 },
    Told(ChatStateTold),
}

/// The last states of a session, by the user or the group whom they were for; in each conversation the next one may be passed on at that time.
pub(super) type LastStates = BTreeMap<Conversation, (i32, Instant)>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Conversation {
    With(String),
    In(String),
}

impl Live {
    pub(super) fn set_chat_state(&mut self, rules: &Rules, now: Now, ask: ChatStateAsk, out: &mut Vec<Effect>) {
        let (request, group) = (ask.request, ask.group.clone());
        match self.chat_state_op(rules, now, ask) {
            Ok(Some(op)) => {
                self.history.waiting += 1;
                out.push(Effect::Request { tag: Tag::ChatState(request, group), op, traceparent: String::new() });
            }
            Ok(None) => out.push(tell(ChatStateTell::Done { request })),
            Err(why) => out.push(refused(AskId::Request(request), why)),
        }
    }

    /// `None`: it was told just now.
    fn chat_state_op(&mut self, rules: &Rules, now: Now, ask: ChatStateAsk) -> Result<Option<Op>, Refusal> {
        let ChatStateAsk { to, group, state, .. } = ask;
        if !rules.has_groups() {
            return Err(refusal(Code::Unsupported, "this service tells no chat states", 0));
        }
        let invalid = |why: &str| refusal(Code::Invalid, why, 0);
        if group.is_empty() {
            UserId::check(&to).map_err(|error| invalid(&error.to_string()))?;
        } else {
            GroupId::check(&group).map_err(|error| invalid(&error.to_string()))?;
            if !to.is_empty() {
                return Err(invalid("a chat state is for a user or for a group"));
            }
        }
        if to == self.who.user.as_str() {
            return Err(invalid("a user does not tell itself what it is doing"));
        }
        let Ok(ChatState::Composing | ChatState::Recording | ChatState::Paused | ChatState::Gone) =
            ChatState::try_from(state)
        else {
            return Err(invalid("the chat state is of an unknown kind"));
        };
        self.history.begin(rules, now)?;
        if self.requests.as_ref().is_some_and(|requests| requests.contains(&to)) {
            return Ok(None);
        }
        let last = self.last_states.get_or_insert_default();
        last.retain(|_, (_, again_at)| now.instant < *again_at);
        let conversation =
            if group.is_empty() { Conversation::With(to.clone()) } else { Conversation::In(group.clone()) };
        // A state in a group is told to many: a group hears one state a second, whichever it is.
        let is_in_group = !group.is_empty();
        if last.get(&conversation).is_some_and(|(last, _)| is_in_group || *last == state) {
            return Ok(None);
        }
        if last.len() < REMEMBERED {
            last.insert(conversation, (state, now.instant + PAUSE));
        } else if is_in_group {
            return Ok(None);
        }
        let from = Some(Person { user: self.who.user.as_str().to_owned(), incarnation: self.incarnation });
        Ok(Some(Op::TellChatState(TellChatState { user: to, from, state, group })))
    }

    pub(super) fn chat_state_answered(
        &mut self,
        now: Now,
        (request, group): (u32, String),
        result: Result<Reply, Refusal>,
        out: &mut Vec<Effect>,
    ) {
        self.history.waiting = self.history.waiting.saturating_sub(1);
        out.push(match result {
            Ok(Reply::Done(_)) => tell(ChatStateTell::Done { request }),
            Ok(_) => {
                let why = refusal(Code::Internal, "the service gave an answer of the wrong kind", 100);
                refused(AskId::Request(request), why)
            }
            Err(why) => {
                // The client has heard it; nobody is asked again for a while.
                if why.code() == Code::Unsupported
                    && !group.is_empty()
                    && let Some(last) = &mut self.last_states
                {
                    last.insert(Conversation::In(group), (0, now.instant + LARGE_PAUSE));
                }
                refused(AskId::Request(request), why)
            }
        });
    }

    /// For a client that has asked for its conversations.
    pub(super) fn chat_state_told(&self, signal: &Signaled, out: &mut Vec<Effect>) {
        let Some(Notice::ChatState(told)) = &signal.notice else { return };
        // The other devices of who is writing need not know it.
        let is_own = !told.group.is_empty() && told.from == self.who.user.as_str();
        let in_other_domain = !told.group.is_empty() && !self.domains.allow(self.who.user.as_str(), &told.group);
        if self.follows_conversations && !is_own && !in_other_domain {
            out.push(tell(ChatStateTell::Told(told.clone())));
        }
    }
}

fn tell(told: ChatStateTell) -> Effect {
    Effect::Tell(Tell::ChatState(Box::new(told)))
}
