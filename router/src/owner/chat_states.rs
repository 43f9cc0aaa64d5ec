//! Chat states: that a user is writing or recording. Nothing of it is stored. See docs/adr/0032-privacy.md.

use carillon_proto::{
    GroupId, TimelineId, UserId,
    pb::{
        link::{self, ChatStateTold, Signaled, TellChatState, signaled::Notice},
        store::{self, BlockedUser, Person, append::Admission, store_request},
    },
};
use tokio::time::Instant;

use super::{Answer, Continuation, Effect, Owner, Waiter, privacy::PrivacyAsked, unexpected};
use crate::{
    accounts::CachedAccount,
    group_messages::GroupContext,
    reply::{Failure, ReplySlot},
    send::RequestContext,
    store::{StoreAnswer, StoreFailure},
};

/// Most members of a group in which chat states are told: each one costs each of the others a frame.
const MEMBERS: u32 = 200;

/// A notice on its way to the followers of a group.
pub(super) struct GroupTelling {
    group: GroupId,
    told: ChatStateTold,
    slot: ReplySlot,
}

/// A notice on its way to a user.
pub(super) struct ChatStateTelling {
    pub(super) user: UserId,
    pub(super) from: Person,
    told: ChatStateTold,
    pub(super) slot: ReplySlot,
    pub(super) deadline: Instant,
}

impl Owner {
    pub(super) fn tell_chat_state(&mut self, tell: TellChatState, parts: RequestContext, now: Instant) {
        let RequestContext { user, slot, deadline, .. } = parts;
        let Some(from) = tell.from else { return self.refuse(slot, &Failure::Invalid("the notice is of nobody")) };
        match UserId::new(&from.user) {
            Ok(sender) if self.topology.domains.allow(sender.domain(), user.domain()) => {}
            Ok(_) => return self.refuse(slot, &Failure::OtherDomain(user.to_string())),
            Err(invalid) => return self.refuse(slot, &invalid.into()),
        }
        // Nearly always: whoever is not there costs nothing.
        if self.register.all_sessions(&user).is_empty() {
            return self.end(slot, Ok(Answer::Done(link::Done {})));
        }
        let told = ChatStateTold { from: from.user.clone(), state: tell.state, group: String::new() };
        let telling = Box::new(ChatStateTelling { user, from, told, slot, deadline });
        match self.accounts.get(&telling.user) {
            Some(account) => self.chat_state_to(telling, &account),
            None => {
                let user = telling.user.clone();
                self.wait(&user, Waiter::ChatState(telling), now);
            }
        }
    }

    /// Tells the state to the user's devices. A user who may not write is not seen writing either.
    pub(super) fn chat_state_to(&mut self, telling: Box<ChatStateTelling>, account: &CachedAccount) {
        let ChatStateTelling { from, user, deadline, .. } = &*telling;
        let admission = match (&account.privacy, UserId::new(&from.user)) {
            (Some(privacy), Ok(sender)) => privacy.admits(&sender, from.incarnation),
            _ => Some(Admission::Unspecified),
        };
        match admission {
            Some(Admission::Unspecified) => self.show_chat_state(*telling, true),
            Some(_) => self.show_chat_state(*telling, false),
            None => {
                let by = BlockedUser { user: from.user.clone(), incarnation: from.incarnation };
                let (user, deadline) = (user.clone(), *deadline);
                self.read_allowed(by, &user, deadline, PrivacyAsked::ChatState(telling));
            }
        }
    }

    /// The answer is the same in any case.
    pub(super) fn show_chat_state(&mut self, telling: ChatStateTelling, is_allowed: bool) {
        let ChatStateTelling { user, told, slot, .. } = telling;
        if is_allowed && let Some(incarnation) = self.register.incarnation(&user) {
            self.signal_to(&user, incarnation, Notice::ChatState(told));
        }
        self.end(slot, Ok(Answer::Done(link::Done {})));
    }

    /// The followers of the group are told, if the store says that the user may write there.
    pub(super) fn tell_group_chat_state(&mut self, tell: TellChatState, parts: GroupContext, time_ms: u64) {
        let GroupContext { group, slot, deadline, .. } = parts;
        let Some(from) = tell.from else { return self.refuse(slot, &Failure::Invalid("the notice is of nobody")) };
        match UserId::new(&from.user) {
            Ok(sender) if self.topology.domains.allow(sender.domain(), group.domain()) => {}
            Ok(_) => return self.refuse(slot, &Failure::OtherDomain(group.to_string())),
            Err(invalid) => return self.refuse(slot, &invalid.into()),
        }
        // Nobody is there.
        if !self.followers.is_followed(&group) {
            return self.end(slot, Ok(Answer::Done(link::Done {})));
        }
        let timeline = TimelineId::Group(group.clone());
        let told = ChatStateTold { from: from.user.clone(), state: tell.state, group: group.as_str().to_owned() };
        let key = Some(timeline.to_key());
        let read = store::ReadGroup { timeline: key, reader: Some(from), writes_at_ms: time_ms };
        let asked = Continuation::GroupChatState(Box::new(GroupTelling { group, told, slot }));
        let shard = self.topology.shards.timeline_of(&timeline);
        self.ask(shard, store_request::Op::ReadGroup(read), String::new(), deadline, asked);
    }

    /// To who is no member, or may not write, the answer is the same as if the others were told.
    pub(super) fn group_chat_state_allowed(
        &mut self,
        telling: GroupTelling,
        answer: Result<StoreAnswer, StoreFailure>,
    ) {
        let GroupTelling { group, told, slot } = telling;
        match answer {
            Ok(StoreAnswer::GroupRead(read)) if read.writes => {
                if read.group.is_some_and(|group| group.members > MEMBERS) {
                    return self.refuse(slot, &Failure::LargeGroup(MEMBERS));
                }
                for gateway in self.followers.of(&group) {
                    let notice = Some(Notice::ChatState(told.clone()));
                    self.effects.push(Effect::Signal(gateway, Signaled { notice, ..Signaled::default() }));
                }
            }
            Ok(StoreAnswer::GroupRead(_)) | Err(StoreFailure::NotFound { .. } | StoreFailure::Forbidden { .. }) => {}
            other => return self.refuse(slot, &unexpected(other)),
        }
        self.end(slot, Ok(Answer::Done(link::Done {})));
    }
}
