//! Changes and reads of the list of contacts.

use carillon_proto::{
    Level, UserId,
    pb::{
        link::{self, ContactNews, change_contact::Change as Asked},
        store::{
            ChangeContact, ContactChanged, Person, ReadContacts, SayToContact, User, Word, change_contact::Change,
            directory_command, store_request,
        },
    },
};
use tokio::time::Instant;

use super::{Answer, Continuation, Effect, Owner, unexpected};
use crate::{
    reply::{Failure, ReplySlot},
    said::Said,
    send::RequestContext,
    store::{StoreAnswer, StoreFailure},
    teller::Telling,
};

/// A change under way.
pub(super) struct ContactChanging {
    user: UserId,
    incarnation: u64,
    contact: UserId,
    change: Change,
    slot: ReplySlot,
    deadline: Instant,
}

impl ContactChanging {
    fn makes_a_contact(&self) -> bool {
        matches!(self.change, Change::Set(_)) || self.is_for_the_contact()
    }

    fn is_for_the_contact(&self) -> bool {
        let words = [Word::Subscribe, Word::Subscribed];
        matches!(&self.change, Change::Say(said) if words.contains(&said.word()))
    }
}

impl Owner {
    pub(super) fn change_contact(&mut self, asked: link::ChangeContact, parts: RequestContext) {
        if Level(self.topology.view.level) < Level::GROUPS {
            return self.refuse(parts.slot, &Failure::Contacts);
        }
        let link::ChangeContact { user: _, incarnation, contact, change } = asked;
        let change = match change {
            Some(Asked::Set(set)) => Change::Set(set),
            Some(Asked::Remove(remove)) => Change::Remove(remove),
            Some(Asked::Say(said)) => Change::Say(SayToContact { peer: None, ..said }),
            None => return self.refuse(parts.slot, &Failure::Invalid("the change of a contact says nothing")),
        };
        let contact = match UserId::new(&contact) {
            Ok(contact) => contact,
            Err(invalid) => return self.refuse(parts.slot, &invalid.into()),
        };
        let RequestContext { user, slot, deadline, .. } = parts;
        let is_beyond = !self.topology.domains.allow(user.domain(), contact.domain());
        let changing = Box::new(ContactChanging { user, incarnation, contact, change, slot, deadline });
        if changing.is_for_the_contact() {
            // Users whose domains no longer talk to each other may only end what is between them.
            if is_beyond {
                return self.refuse(changing.slot, &Failure::OtherDomain(changing.contact.to_string()));
            }
            // The word is for this owner of the name, and for no later one.
            let contact = changing.contact.clone();
            return self.read_user(&contact, deadline, Continuation::ContactRead(changing));
        }
        self.write_change(changing);
    }

    pub(super) fn contact_read(
        &mut self,
        mut changing: Box<ContactChanging>,
        answer: Result<StoreAnswer, StoreFailure>,
    ) {
        let peer = match answer {
            Ok(StoreAnswer::User(User { account: Some(account), .. })) if !account.deleted && !account.reserved => {
                account.incarnation
            }
            Ok(StoreAnswer::User(_)) => {
                let failure = Failure::NoUser(changing.contact.as_str().to_owned());
                return self.refuse(changing.slot, &failure);
            }
            other => return self.refuse(changing.slot, &unexpected(other)),
        };
        if let Change::Say(said) = &mut changing.change {
            said.peer = Some(peer);
        }
        self.write_change(changing);
    }

    fn write_change(&mut self, changing: Box<ContactChanging>) {
        let change = ChangeContact {
            user: changing.user.as_str().to_owned(),
            incarnation: changing.incarnation,
            contact: changing.contact.as_str().to_owned(),
            change: Some(changing.change.clone()),
        };
        let (user, deadline) = (changing.user.clone(), changing.deadline);
        let op = directory_command::Op::ChangeContact(change);
        self.directory_write(&user, op, deadline, Continuation::ContactChanged(changing));
    }

    pub(super) fn contact_changed(
        &mut self,
        changing: ContactChanging,
        answer: Result<StoreAnswer, StoreFailure>,
        now: Instant,
        time_ms: u64,
    ) {
        let is_wanted = changing.makes_a_contact();
        let ContactChanging { user, incarnation, contact, slot, deadline, .. } = changing;
        let changed = match answer {
            Ok(StoreAnswer::ContactChanged(changed)) => changed,
            Err(StoreFailure::NoRoom { detail }) => return self.refuse(slot, &Failure::NoRoom(detail)),
            other => return self.refuse(slot, &unexpected(other)),
        };
        self.contact_news_of(&user, incarnation, contact.as_str(), changed.clone(), (now, time_ms));
        if is_wanted && changed.changed {
            self.accept_contact(&user, incarnation, &contact, deadline);
        }
        match changed.contact.filter(|row| !row.untold.is_empty()) {
            Some(row) => {
                self.effects.push(Effect::Tell(Telling { user, incarnation, contact, row, slot: Some(slot) }));
            }
            None => self.end(slot, Ok(Answer::Done(link::Done {}))),
        }
    }

    /// Tells the user's sessions, if there is something new for them. What was changed by an earlier attempt counts for the contact all the same.
    pub(super) fn contact_news_of(
        &mut self,
        user: &UserId,
        incarnation: u64,
        contact: &str,
        changed: ContactChanged,
        (now, time_ms): (Instant, u64),
    ) {
        let ContactChanged { contact: row, version, before, changed, .. } = changed;
        if changed || row.is_some() {
            let before = if changed { before } else { version };
            let person = Some(Person { user: user.as_str().to_owned(), incarnation });
            let news = ContactNews { user: person, contact: contact.to_owned(), row, before, version };
            // Another router may own the user since the request came.
            if self.topology.owns(user.as_str()) {
                self.contact_news(news, now, time_ms);
            } else {
                self.effects.push(Effect::Say(Said::News(Box::new(news))));
            }
        }
    }

    pub(super) fn read_contacts(&mut self, read: link::ReadContacts, parts: RequestContext) {
        if Level(self.topology.view.level) < Level::GROUPS {
            return self.refuse(parts.slot, &Failure::Contacts);
        }
        let link::ReadContacts { user: _, incarnation, after, limit, known } = read;
        let RequestContext { user, slot, deadline, .. } = parts;
        self.read_contacts_of(
            &user,
            ReadContacts {
                user: user.as_str().to_owned(),
                incarnation,
                after,
                limit,
                known,
                ..ReadContacts::default()
            },
            slot,
            deadline,
        );
    }

    fn read_contacts_of(&mut self, user: &UserId, read: ReadContacts, slot: ReplySlot, deadline: Instant) {
        let shard = self.topology.shards.directory_of(user);
        self.ask(shard, store_request::Op::ReadContacts(read), String::new(), deadline, Continuation::Read(slot));
    }
}
