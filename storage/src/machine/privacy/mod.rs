//! Privacy settings and blocked users, in the directory shard of the user. See
//! docs/adr/0032-privacy.md.

mod reader;
mod rules;

use std::io;

use carillon_proto::pb::store::{
    BlockedUser, ChangePrivacy, Contact, ContactChanged, ContactList, HeardFromContact, Privacy, PrivacyChanged, Word,
    change_privacy::Change, rejected::Reason,
};
use prost::Message as _;

use self::rules::{block, set, unblock};
pub(super) use self::rules::{hides_last_seen, is_blocked};
use super::{
    Outcome, broken,
    directory::{Batch, rejected},
    keys,
};

impl Batch<'_> {
    pub(super) fn change_privacy(&mut self, op: ChangePrivacy) -> io::Result<Outcome> {
        let ChangePrivacy { user, incarnation, change } = op;
        let change = change.ok_or_else(|| broken("ChangePrivacy"))?;
        if let Some(why) = self.is_not_owner(&user, incarnation)? {
            return Ok(why);
        }
        let before = self.privacy(&user, incarnation)?;
        let mut after = before.clone();
        let (settings, contact) = match change {
            Change::Set(changes) => {
                let mut settings = after.settings.unwrap_or_default();
                set(&mut settings, changes);
                after.settings = Some(settings).filter(|settings| *settings != Default::default());
                (Some(settings), None)
            }
            Change::Block(who) => {
                let name = who.user.clone();
                if let Err(full) = block(&mut after.blocked, who) {
                    return Ok(rejected(Reason::Full, full.to_string()));
                }
                (None, Some(self.forget_request(&user, incarnation, &name)?))
            }
            Change::Unblock(who) => {
                unblock(&mut after.blocked, &who.user);
                (None, Some(self.contact_as_it_is(&user, incarnation, &who.user)?))
            }
        };
        if after != before {
            after.version += 1;
            self.changes.put(keys::privacy(&user, incarnation), after.encode_to_vec());
        }
        let (before, version) = (before.version, after.version);
        Ok(Outcome::PrivacyChanged(PrivacyChanged { before, version, settings, contact }))
    }

    /// The words of the contact, without requests that the user does not want to see.
    pub(super) fn heard_by(
        &self,
        user: &str,
        incarnation: u64,
        contact: &str,
        mut heard: HeardFromContact,
    ) -> io::Result<HeardFromContact> {
        let by = BlockedUser { user: contact.to_owned(), incarnation: heard.peer };
        if is_blocked(&self.privacy(user, incarnation)?.blocked, &by) {
            for said in heard.said.iter_mut().filter(|said| said.word() == Word::Subscribe) {
                // The number of the request is noted as heard.
                said.word = Word::Unspecified.into();
            }
        }
        Ok(heard)
    }

    /// The account of this incarnation ends.
    pub(super) fn end_privacy(&mut self, user: &str, incarnation: u64) {
        self.changes.delete(keys::privacy(user, incarnation));
    }

    fn privacy(&self, user: &str, incarnation: u64) -> io::Result<Privacy> {
        Ok(self.get(&keys::privacy(user, incarnation), "privacy")?.unwrap_or_default())
    }

    fn contact_as_it_is(&self, user: &str, incarnation: u64, contact: &str) -> io::Result<ContactChanged> {
        let list: ContactList = self.get(&keys::contact_list(user, incarnation), "contacts")?.unwrap_or_default();
        let contact = self.get::<Contact>(&keys::contact(user, incarnation, contact), "contact")?;
        Ok(ContactChanged { contact, version: list.shown, before: list.shown, changed: false, incarnation })
    }

    /// Nobody is told that it was refused.
    fn forget_request(&mut self, user: &str, incarnation: u64, contact: &str) -> io::Result<ContactChanged> {
        let as_it_is = self.contact_as_it_is(user, incarnation, contact)?;
        let Some(before) = as_it_is.contact.clone().filter(|row| row.asks) else { return Ok(as_it_is) };
        let list: ContactList = self.get(&keys::contact_list(user, incarnation), "contacts")?.unwrap_or_default();
        let after = Contact { asks: false, text: String::new(), ..before.clone() };
        match self.keep(user, incarnation, contact, list, Some(before), after, true)? {
            Outcome::ContactChanged(changed) => Ok(changed),
            _ => Err(broken("change of a contact")),
        }
    }
}
