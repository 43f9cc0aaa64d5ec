//! Chat states: that a user is writing, is recording, or has stopped. See docs/adr/0032-privacy.md.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use carillon_proto::{
    UserId,
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

/// The same state again within this time is not passed on.
const PAUSE: Duration = Duration::from_secs(1);
/// Conversations whose last state is remembered.
const REMEMBERED: usize = 16;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ChatStateAsk {
    pub(crate) request: u32,
    pub(crate) to: String,
    pub(crate) state: i32,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ChatStateTell {
    Done { request: u32 },
    Told(ChatStateTold),
}

/// The last states of a session, by whom they were for.
pub(super) type LastStates = BTreeMap<String, (i32, Instant)>;

impl Live {
    pub(super) fn set_chat_state(&mut self, rules: &Rules, now: Now, ask: ChatStateAsk, out: &mut Vec<Effect>) {
        let request = ask.request;
        match self.chat_state_op(rules, now, ask) {
            Ok(Some(op)) => {
                self.history.waiting += 1;
                out.push(Effect::Request { tag: Tag::ChatState(request), op, traceparent: String::new() });
            }
            Ok(None) => out.push(tell(ChatStateTell::Done { request })),
            Err(why) => out.push(refused(AskId::Request(request), why)),
        }
    }

    /// `None`: it was told just now.
    fn chat_state_op(&mut self, rules: &Rules, now: Now, ask: ChatStateAsk) -> Result<Option<Op>, Refusal> {
        let ChatStateAsk { to, state, .. } = ask;
        if !rules.has_groups() {
            return Err(refusal(Code::Unsupported, "this service tells no chat states", 0));
        }
        let invalid = |why: &str| refusal(Code::Invalid, why, 0);
        UserId::check(&to).map_err(|error| invalid(&error.to_string()))?;
        if to == self.who.user.as_str() {
            return Err(invalid("a user does not tell itself what it is doing"));
        }
        let Ok(ChatState::Composing | ChatState::Recording | ChatState::Paused | ChatState::Gone) =
            ChatState::try_from(state)
        else {
            return Err(invalid("the chat state is of an unknown kind"));
        };
        self.history.begin(rules, now)?;
        let last = self.last_states.get_or_insert_default();
        last.retain(|_, (_, at)| now.instant < *at + PAUSE);
        if last.get(&to).is_some_and(|(last, _)| *last == state) {
            return Ok(None);
        }
        if last.len() < REMEMBERED {
            last.insert(to.clone(), (state, now.instant));
        }
        let from = Some(Person { user: self.who.user.as_str().to_owned(), incarnation: self.incarnation });
        Ok(Some(Op::TellChatState(TellChatState { user: to, from, state })))
    }

    pub(super) fn chat_state_answered(&mut self, request: u32, result: Result<Reply, Refusal>, out: &mut Vec<Effect>) {
        self.history.waiting = self.history.waiting.saturating_sub(1);
        out.push(match result {
            Ok(Reply::Done(_)) => tell(ChatStateTell::Done { request }),
            Ok(_) => {
                let why = refusal(Code::Internal, "the service gave an answer of the wrong kind", 100);
                refused(AskId::Request(request), why)
            }
            Err(why) => refused(AskId::Request(request), why),
        });
    }

    /// For a client that has asked for its conversations.
    pub(super) fn chat_state_told(&self, signal: &Signaled, out: &mut Vec<Effect>) {
        if let Some(Notice::ChatState(told)) = &signal.notice
            && self.follows_conversations
        {
            out.push(tell(ChatStateTell::Told(told.clone())));
        }
    }
}

fn tell(told: ChatStateTell) -> Effect {
    Effect::Tell(Tell::ChatState(Box::new(told)))
}
