//! The people whom a user knows, in the directory shard of the user. See docs/adr/0027-contacts.md.

pub(crate) mod reader;
mod rules;

use std::io;

use carillon_proto::pb::store::{
    Account, ChangeContact, Contact, ContactChanged, ContactList, change_contact::Change, contact_list::Forgotten,
    rejected::Reason,
};
use prost::Message as _;

pub(crate) use self::rules::UNTOLD;
use self::rules::{Changing, Crowded, is_empty, visible};
use super::{
    Outcome, broken,
    directory::{Batch, decode, done, not_found, rejected},
    keys::{self, ContactsEnd},
};

/// Most contacts on a user's list, and most others: requests, and contacts who have still to be told something.
const LISTED: u32 = 10_000;
const OTHERS: u32 = 1_000;
/// Rows that were removed and are remembered.
const FORGOTTEN: usize = 32;
/// Rows of one sweep.
const SWEPT: usize = 64;

impl Batch<'_> {
    pub(super) fn change_contact(&mut self, op: ChangeContact) -> io::Result<Outcome> {
        let ChangeContact { user, incarnation, contact, change } = op;
        let change = change.ok_or_else(|| broken("ChangeContact"))?;
        if let Change::Sweep(_) = change {
            return self.sweep_contacts(&user, incarnation);
        }
        // That a word was told is noted also for an account that has ended.
        if !matches!(change, Change::Told(_))
            && let Some(why) = self.is_not_owner(&user, incarnation)?
        {
            return Ok(why);
        }
        let change = match change {
            Change::Heard(heard) => Change::Heard(self.heard_by(&user, incarnation, &contact, heard)?),
            change => change,
        };
        let key = keys::contact(&user, incarnation, &contact);
        let mut list: ContactList = self.get(&keys::contact_list(&user, incarnation), "contacts")?.unwrap_or_default();
        let before = self.get::<Contact>(&key, "contact")?;
        if before.is_none() && !makes_a_row(&change) {
            return Ok(changed(None, (list.shown, list.shown), false, incarnation));
        }
        let mut after = before.clone().unwrap_or_else(|| remembered(&mut list, &contact));
        if let Err(Crowded) = carry_out(&change, &mut after, &mut list.version) {
            return Ok(rejected(Reason::Full, format!("{contact:?} has still to be told {UNTOLD} things")));
        }
        if let Some(why) = no_room(&list, before.as_ref(), &after) {
            return Ok(rejected(Reason::Full, why.to_owned()));
        }
        let is_seen = before.as_ref().map(visible).unwrap_or_default() != visible(&after);
        self.keep(&user, incarnation, &contact, list, before, after, is_seen)
    }

    /// The answer, if the name has no owner or another one than is meant.
    pub(super) fn is_not_owner(&self, user: &str, incarnation: u64) -> io::Result<Option<Outcome>> {
        Ok(match self.get::<Account>(&keys::account(user), "account")? {
            // A reserved name has no owner yet.
            None | Some(Account { deleted: true, .. } | Account { reserved: true, .. }) => {
                Some(not_found(format!("there is no user {user:?}")))
            }
            Some(account) if account.incarnation == incarnation => None,
            Some(_) => Some(rejected(Reason::Gone, format!("user {user:?} has another owner by now"))),
        })
    }

    #[expect(clippy::too_many_arguments, reason = "the row before and after, and whose it is")]
    pub(super) fn keep(
        &mut self,
        user: &str,
        incarnation: u64,
        contact: &str,
        mut list: ContactList,
        before: Option<Contact>,
        mut after: Contact,
        is_seen: bool,
    ) -> io::Result<Outcome> {
        if before.as_ref() == Some(&after) {
            return Ok(changed(before, (list.shown, list.shown), false, incarnation));
        }
        let shown_before = list.shown;
        if is_seen {
            list.version += 1;
            list.shown = list.version;
            after.version = list.version;
        }
        let was_untold = before.as_ref().is_some_and(|before| !before.untold.is_empty());
        count(&mut list, before.as_ref(), -1);
        let (key, untold) = (keys::contact(user, incarnation, contact), keys::untold(user, incarnation, contact));
        let is_gone = is_empty(&after);
        if is_gone {
            forget(&mut list, contact, &after);
            self.changes.delete(key);
        } else {
            count(&mut list, Some(&after), 1);
            self.changes.put(key, after.encode_to_vec());
        }
        match after.untold.is_empty() {
            true if was_untold => self.changes.delete(untold),
            false if !was_untold => self.changes.put(untold, Vec::new()),
            _ => {}
        }
        let versions = (shown_before, list.shown);
        self.changes.put(keys::contact_list(user, incarnation), list.encode_to_vec());
        if is_gone {
            self.ended_if_empty(user, incarnation)?;
        }
        Ok(changed((!is_gone).then_some(after), versions, is_seen, incarnation))
    }

    /// The account of this incarnation ends: those whom it knows will be told.
    pub(super) fn end_contacts(&mut self, user: &str, incarnation: u64) -> io::Result<()> {
        if self.get::<ContactList>(&keys::contact_list(user, incarnation), "contacts")?.is_some() {
            self.changes.put(keys::contacts_end(user, incarnation), ContactsEnd::After(String::new()).encode());
        }
        Ok(())
    }

    /// True if an earlier owner of the name has contacts who do not know yet that it has ended.
    pub(super) fn contacts_end(&self, user: &str) -> io::Result<bool> {
        let prefix = keys::contacts_ends(user);
        let touched = |key: &[u8]| self.changes.get(key).is_some();
        if self.changes.with_prefix(&prefix).any(|(_, value)| value.is_some()) {
            return Ok(true);
        }
        for row in self.shard.with_prefix(&prefix) {
            if !touched(&row?.0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn sweep_contacts(&mut self, user: &str, incarnation: u64) -> io::Result<Outcome> {
        let key = keys::contacts_end(user, incarnation);
        let Some(ContactsEnd::After(after)) = self.contacts_end_row(&key)? else { return Ok(done()) };
        let found = self.contacts_after(user, incarnation, &after, SWEPT)?;
        let next = match found.last() {
            Some((last, _)) if found.len() == SWEPT => ContactsEnd::After(last.clone()),
            _ => ContactsEnd::Swept,
        };
        self.changes.put(key, next.encode());
        for (contact, row) in found {
            let mut list: ContactList =
                self.get(&keys::contact_list(user, incarnation), "contacts")?.unwrap_or_default();
            let mut ended = row.clone();
            Changing { row: &mut ended, version: &mut list.version }.end();
            self.keep(user, incarnation, &contact, list, Some(row), ended, false)?;
        }
        self.ended_if_empty(user, incarnation)?;
        Ok(done())
    }

    fn contacts_end_row(&self, key: &[u8]) -> io::Result<Option<ContactsEnd>> {
        match self.changes.get(key) {
            Some(value) => value.map(ContactsEnd::decode).transpose(),
            None => self.shard.get(key)?.map(|value| ContactsEnd::decode(&value)).transpose(),
        }
    }

    /// When the last contact of an ended account has been told, nothing of it remains.
    fn ended_if_empty(&mut self, user: &str, incarnation: u64) -> io::Result<()> {
        let key = keys::contacts_end(user, incarnation);
        if self.contacts_end_row(&key)? == Some(ContactsEnd::Swept)
            && self.contacts_after(user, incarnation, "", 1)?.is_empty()
        {
            self.changes.delete(keys::contact_list(user, incarnation));
            self.changes.delete(key);
        }
        Ok(())
    }

    /// Rows of the user behind this contact, in order.
    fn contacts_after(
        &self,
        user: &str,
        incarnation: u64,
        after: &str,
        limit: usize,
    ) -> io::Result<Vec<(String, Contact)>> {
        let prefix = keys::contacts_of(user, incarnation);
        let after = keys::contact(user, incarnation, after);
        let mut found = std::collections::BTreeMap::new();
        for row in self.shard.after(&prefix, &after) {
            let (key, value) = row?;
            if self.changes.get(&key).is_none() {
                found.insert(keys::contact_of(&key)?.2.to_owned(), decode(&value, "contact")?);
            }
            if found.len() == limit {
                break;
            }
        }
        for (key, value) in self.changes.with_prefix(&prefix) {
            if let Some(value) = value.filter(|_| key > &*after) {
                found.insert(keys::contact_of(key)?.2.to_owned(), decode(value, "contact")?);
            }
        }
        Ok(found.into_iter().take(limit).collect())
    }
}

/// True if this may make a row of a contact of whom there is none.
fn makes_a_row(change: &Change) -> bool {
    match change {
        Change::Set(_) | Change::Say(_) | Change::Heard(_) => true,
        Change::Remove(_) | Change::Told(_) | Change::Sweep(_) => false,
    }
}

fn carry_out(change: &Change, row: &mut Contact, version: &mut u64) -> Result<(), Crowded> {
    let mut changing = Changing { row, version };
    match change {
        Change::Set(set) => changing.set(set),
        Change::Remove(_) => changing.remove()?,
        Change::Say(said) => changing.say(said)?,
        Change::Heard(heard) => changing.hear(heard)?,
        Change::Told(told) => changing.told(told),
        Change::Sweep(_) => {}
    }
    Ok(())
}

/// The beginning of a row: of one that was removed it is known what was heard.
fn remembered(list: &mut ContactList, contact: &str) -> Contact {
    match list.forgotten.iter().position(|row| row.contact == contact) {
        Some(at) => {
            let Forgotten { peer, heard, met, .. } = list.forgotten.remove(at);
            Contact { peer, heard, met, ..Contact::default() }
        }
        None => Contact::default(),
    }
}

fn forget(list: &mut ContactList, contact: &str, row: &Contact) {
    if !row.met {
        return;
    }
    if list.forgotten.len() >= FORGOTTEN {
        list.forgotten.remove(0);
    }
    list.forgotten.push(Forgotten { contact: contact.to_owned(), peer: row.peer, heard: row.heard, met: row.met });
}

fn count(list: &mut ContactList, row: Option<&Contact>, by: i32) {
    let Some(row) = row else { return };
    let rows = if row.listed { &mut list.listed } else { &mut list.others };
    *rows = rows.saturating_add_signed(by);
}

/// Why the row can't be kept, if it can't.
fn no_room(list: &ContactList, before: Option<&Contact>, after: &Contact) -> Option<&'static str> {
    let was_listed = before.is_some_and(|before| before.listed);
    if after.listed && !was_listed && list.listed >= LISTED {
        return Some("the list has 10000 contacts already");
    }
    // What has been on the list may be taken off it.
    if before.is_none() && !after.listed && !is_empty(after) && list.others >= OTHERS {
        return Some("1000 others ask, or have still to be told something");
    }
    let all = list.listed + list.others;
    (before.is_none() && all >= LISTED + OTHERS).then_some("too many contacts have still to be told something")
}

fn changed(contact: Option<Contact>, (before, version): (u64, u64), is_seen: bool, incarnation: u64) -> Outcome {
    Outcome::ContactChanged(ContactChanged { contact, version, before, changed: is_seen, incarnation })
}
