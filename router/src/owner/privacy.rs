//! Privacy settings of users: changes of them, and whom they let in. See docs/adr/0032-privacy.md.

use carillon_proto::{
    Level, UserId,
    pb::{
        client::{Presence, Show},
        link::{
            self, Marked, Presences, PrivacyNews, change_privacy::Change as Asked, privacy_news::What, signaled::Notice,
        },
        store::{
            Allowed, AllowedRead, Audience, BlockedUser, ChangePrivacy, Contact, ContactChanged, Person,
            PrivacyChanged, ReadAllowed, ReadPrivacy, User, change_privacy::Change, directory_command, store_request,
        },
    },
};
use tokio::time::Instant;

use super::{Answer, Continuation, Effect, Owner, READ_USER, Waiter, chat_states::ChatStateTelling, unexpected};
use crate::{
    accounts::CachedAccount,
    privacy::{Opens, Privacy, admission},
    reply::{Failure, ReplySlot},
    send::{RequestContext, Sending},
    store::{StoreAnswer, StoreFailure},
};

/// The work that continues when the store has answered.
pub(super) enum PrivacyAsked {
    /// The user who is to be blocked.
    Who(PrivacyChanging, String),
    Changed(PrivacyChanging),
    /// Whether the sender is a contact of the recipient.
    Sender(Box<Sending>),
    /// Whether a contact is told how far was read.
    Mark(Marked),
    /// Whether the user sees what somebody is doing.
    ChatState(Box<ChatStateTelling>),
}

/// A change under way.
pub(super) struct PrivacyChanging {
    user: UserId,
    incarnation: u64,
    /// The news for the user's devices.
    what: Option<What>,
    slot: ReplySlot,
    deadline: Instant,
}

impl Owner {
    pub(super) fn change_privacy(&mut self, asked: link::ChangePrivacy, parts: RequestContext) {
        let RequestContext { user, slot, deadline, .. } = parts;
        if Level(self.topology.view.level) < Level::GROUPS {
            return self.refuse(slot, &Failure::Privacy);
        }
        let link::ChangePrivacy { incarnation, change, .. } = asked;
        let mut changing = PrivacyChanging { user, incarnation, what: None, slot, deadline };
        match change {
            Some(Asked::Set(set)) => self.write_privacy(changing, Change::Set(set)),
            Some(Asked::Block(who)) => match UserId::new(&who) {
                Ok(who) => {
                    // This owner of the name is meant, and no later one.
                    let asked = PrivacyAsked::Who(changing, who.as_str().to_owned());
                    self.read_user(&who, deadline, Continuation::Privacy(Box::new(asked)));
                }
                Err(invalid) => self.refuse(changing.slot, &invalid.into()),
            },
            Some(Asked::Unblock(user)) => {
                changing.what = Some(What::Unblocked(user.clone()));
                self.write_privacy(changing, Change::Unblock(BlockedUser { user, incarnation: 0 }));
            }
            None => self.refuse(changing.slot, &Failure::Invalid("the change of privacy says nothing")),
        }
    }

    pub(super) fn read_privacy(&mut self, read: &link::ReadPrivacy, parts: RequestContext) {
        let RequestContext { user, slot, deadline, .. } = parts;
        if Level(self.topology.view.level) < Level::GROUPS {
            return self.refuse(slot, &Failure::Privacy);
        }
        let shard = self.topology.shards.directory_of(&user);
        let read = ReadPrivacy { user: user.as_str().to_owned(), incarnation: read.incarnation };
        let op = store_request::Op::ReadPrivacy(read);
        self.ask(shard, op, String::new(), deadline, Continuation::Read(slot));
    }

    pub(super) fn privacy_answered(
        &mut self,
        asked: PrivacyAsked,
        answer: Result<StoreAnswer, StoreFailure>,
        now: Instant,
        time_ms: u64,
    ) {
        match asked {
            PrivacyAsked::Who(changing, who) => self.blocked_read(changing, who, answer),
            PrivacyAsked::Changed(changing) => self.privacy_changed(changing, answer, now, time_ms),
            PrivacyAsked::Sender(sending) => self.sender_read(sending, answer, now),
            PrivacyAsked::ChatState(telling) => {
                let is_allowed = only(answer).is_ok_and(|allowed| allowed.write);
                self.show_chat_state(*telling, is_allowed);
            }
            PrivacyAsked::Mark(marked) => {
                if only(answer).is_ok_and(|allowed| allowed.read_marks) {
                    self.effects.push(Effect::Marked(marked));
                }
            }
        }
    }

    fn blocked_read(&mut self, mut changing: PrivacyChanging, who: String, answer: Result<StoreAnswer, StoreFailure>) {
        match answer {
            Ok(StoreAnswer::User(User { account: Some(account), .. })) if !account.deleted && !account.reserved => {
                changing.what = Some(What::Blocked(who.clone()));
                let who = BlockedUser { user: who, incarnation: account.incarnation };
                self.write_privacy(changing, Change::Block(who));
            }
            // Whether there is such a user beyond the border of the domain is not told.
            Ok(StoreAnswer::User(_)) if !self.topology.domains.allow_ids(changing.user.as_str(), &who) => {
                changing.what = Some(What::Blocked(who.clone()));
                self.write_privacy(changing, Change::Block(BlockedUser { user: who, incarnation: 0 }));
            }
            Ok(StoreAnswer::User(_)) => self.refuse(changing.slot, &Failure::NoUser(who)),
            other => self.refuse(changing.slot, &unexpected(other)),
        }
    }

    fn write_privacy(&mut self, changing: PrivacyChanging, change: Change) {
        let PrivacyChanging { user, incarnation, deadline, .. } = &changing;
        let (user, deadline) = (user.clone(), *deadline);
        let change = ChangePrivacy { user: user.as_str().to_owned(), incarnation: *incarnation, change: Some(change) };
        let asked = Continuation::Privacy(Box::new(PrivacyAsked::Changed(changing)));
        self.directory_write(&user, directory_command::Op::ChangePrivacy(change), deadline, asked);
    }

    fn privacy_changed(
        &mut self,
        changing: PrivacyChanging,
        answer: Result<StoreAnswer, StoreFailure>,
        now: Instant,
        time_ms: u64,
    ) {
        let PrivacyChanging { user, incarnation, what, slot, .. } = changing;
        // Also a failure may have changed it.
        self.accounts.forget(&user);
        self.presences.asks_again(&user, now);
        let PrivacyChanged { before, version, settings, contact } = match answer {
            Ok(StoreAnswer::PrivacyChanged(changed)) => changed,
            Err(StoreFailure::NoRoom { detail }) => return self.refuse(slot, &Failure::NoRoom(detail)),
            other => return self.refuse(slot, &unexpected(other)),
        };
        if !self.topology.owns(user.as_str()) {
            // The user's present owner has to know the change before the answer confirms it: the gateway asks there once more.
            let ring_version = self.topology.ring.version();
            return self.end(slot, Ok(Answer::NotOwner(link::NotOwner { ring_version })));
        }
        let what = what.or(settings.map(What::Settings));
        if let (Some(What::Blocked(name) | What::Unblocked(name)), Some(contact)) = (&what, contact) {
            let is_blocked = matches!(what, Some(What::Blocked(_)));
            self.block_presence(&user, incarnation, name, is_blocked, &contact, time_ms);
            self.contact_news_of(&user, incarnation, name, contact, (now, time_ms));
        }
        if let Some(What::Settings(settings)) = &what {
            self.presences.set_hides_last_seen(&user, settings.last_seen() == Audience::Nobody);
            if settings.presence() == Audience::Nobody {
                self.presences.hide(&user, version);
            }
        }
        if version != before {
            let news = PrivacyNews { before, version, what };
            self.signal_to(&user, incarnation, Notice::PrivacyNews(Box::new(news)));
        }
        self.end(slot, Ok(Answer::Done(link::Done {})));
    }

    /// Each is offline for the other at once.
    fn block_presence(
        &mut self,
        user: &UserId,
        incarnation: u64,
        name: &str,
        is_blocked: bool,
        contact: &ContactChanged,
        time_ms: u64,
    ) {
        if !is_blocked {
            return self.presences.set_blocked(user, name, false);
        }
        let Some(Contact { peer, to, .. }) = contact.contact else {
            return self.presences.set_blocked(user, name, true);
        };
        let person = Person { user: name.to_owned(), incarnation: peer };
        if self.presences.set_watcher(user, incarnation, &person, false) {
            self.tell_presence(user, None, vec![person], time_ms);
        }
        if to {
            let era = self.topology.ring.version();
            let gone = Presence { show: Show::Unspecified.into(), ..self.presences.presence(name, None, era, time_ms) };
            let me = Person { user: user.as_str().to_owned(), incarnation };
            self.presences_told(Presences { presences: vec![gone], to: vec![me], asked: false });
        }
        self.presences.set_blocked(user, name, true);
    }

    /// The recipient is not open to everybody.
    pub(super) fn admit(&mut self, mut sending: Box<Sending>, privacy: &Privacy, now: Instant) {
        match privacy.admits(&sending.sender, sending.incarnation) {
            Some(admission) => {
                sending.admission = admission;
                self.admitted(sending, now);
            }
            None => {
                let by = BlockedUser { user: sending.sender.as_str().to_owned(), incarnation: sending.incarnation };
                let (recipient, deadline) = (sending.recipient.clone(), sending.deadline);
                self.read_allowed(by, &recipient, deadline, PrivacyAsked::Sender(sending));
            }
        }
    }

    fn sender_read(&mut self, mut sending: Box<Sending>, answer: Result<StoreAnswer, StoreFailure>, now: Instant) {
        match only(answer) {
            Ok(allowed) => {
                sending.admission = admission(&allowed);
                self.admitted(sending, now);
            }
            Err(failure) => self.refuse_send(*sending, &failure),
        }
    }

    pub(super) fn read_allowed(&mut self, by: BlockedUser, user: &UserId, deadline: Instant, asked: PrivacyAsked) {
        let read = ReadAllowed { by: Some(by), users: vec![user.as_str().to_owned()], ..ReadAllowed::default() };
        let shard = self.topology.shards.directory_of(user);
        let op = store_request::Op::ReadAllowed(read);
        self.ask(shard, op, String::new(), deadline, Continuation::Privacy(Box::new(asked)));
    }

    /// The other side of a conversation hears how far this user is, if the user allows it.
    pub(super) fn mark(&mut self, by: &UserId, marked: Marked, now: Instant) {
        if !self.topology.domains.allow_ids(by.as_str(), &marked.user) {
            return;
        }
        match self.accounts.get(by) {
            Some(account) => self.mark_by(by, &account, marked, now),
            None => self.wait(by, Waiter::Mark(Box::new(marked)), now),
        }
    }

    pub(super) fn mark_by(&mut self, by: &UserId, account: &CachedAccount, mut marked: Marked, now: Instant) {
        let Some(privacy) = &account.privacy else { return self.effects.push(Effect::Marked(marked)) };
        if privacy.blocks(&marked.user, marked.incarnation) {
            return;
        }
        match privacy.read_marks() {
            Opens::Yes => {}
            _ if marked.read_id.is_empty() => {}
            Opens::ToContacts => {
                let other = BlockedUser { user: marked.user.clone(), incarnation: marked.incarnation };
                return self.read_allowed(other, by, now + READ_USER, PrivacyAsked::Mark(marked));
            }
            Opens::No => marked.read_id.clear(),
        }
        if !(marked.read_id.is_empty() && marked.delivered_id.is_empty()) {
            self.effects.push(Effect::Marked(marked));
        }
    }
}

/// The answer about one user.
fn only(answer: Result<StoreAnswer, StoreFailure>) -> Result<Allowed, Failure> {
    match answer {
        Ok(StoreAnswer::AllowedRead(AllowedRead { allowed })) if allowed.len() == 1 => Ok(allowed[0]),
        other => Err(unexpected(other)),
    }
}
