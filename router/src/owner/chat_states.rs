//! Chat states: that a user is writing or recording. Nothing of it is stored. See docs/adr/0032-privacy.md.

use carillon_proto::{
    UserId,
    pb::{
        link::{self, ChatStateTold, TellChatState, signaled::Notice},
        store::{BlockedUser, Person, append::Admission},
    },
};
use tokio::time::Instant;

use super::{Answer, Owner, Waiter, privacy::PrivacyAsked};
use crate::{
    accounts::CachedAccount,
    reply::{Failure, ReplySlot},
    send::RequestContext,
};

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
            Ok(sender) if self.crossings.allow(sender.domain(), user.domain()) => {}
            Ok(_) => return self.refuse(slot, &Failure::OtherDomain(user.to_string())),
            Err(invalid) => return self.refuse(slot, &invalid.into()),
        }
        // Nearly always: whoever is not there costs nothing.
        if self.register.all_sessions(&user).is_empty() {
            return self.end(slot, Ok(Answer::Done(link::Done {})));
        }
        let told = ChatStateTold { from: from.user.clone(), state: tell.state };
        let telling = Box::new(ChatStateTelling { user, from, told, slot, deadline });
        match self.accounts.get(&telling.user) {
            Some(account) => self.chat_state_to(telling, &account),
            None => {
                let user = telling.user.clone();
                self.wait(&user, Waiter::ChatState(telling), now);
            }
        }
    }

    /// Who may not write is not seen writing either.
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
}
