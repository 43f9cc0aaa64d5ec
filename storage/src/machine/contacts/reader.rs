//! Reads of contacts.

use std::io;

use carillon_proto::pb::store::{
    Account, Audience, BlockedUser, ChangeContact, Contact, ContactList, ContactsRead, Privacy, ReadContacts,
    ReadUntold, Rejected, SweepContacts, UntoldRead, change_contact::Change, contacts_read, rejected::Reason,
    untold_read,
};

use crate::machine::{
    DirectoryReader, Unread,
    directory::decode,
    keys::{self, ContactsEnd},
    privacy::{hides_last_seen, is_blocked},
};

/// Most rows of one read, and most bytes of their texts.
const PAGE: u32 = 1024;
const PAGE_BYTES: usize = 256 * 1024;
const UNTOLD_PAGE: u32 = 256;

impl DirectoryReader {
    pub(crate) fn contacts(&self, op: &ReadContacts) -> Result<ContactsRead, Unread> {
        let _held = self.shard.hold();
        let account = self.shard.get(&keys::account(&op.user))?;
        let account = account.map(|value| decode::<Account>(&value, "account")).transpose()?;
        if account.is_none_or(|account| account.deleted || account.incarnation != op.incarnation) {
            return Err(Unread::Rejected(Rejected {
                reason: Reason::Gone.into(),
                detail: format!("user {:?} has another owner by now", op.user),
                ..Rejected::default()
            }));
        }
        let list = self.shard.get(&keys::contact_list(&op.user, op.incarnation))?;
        let list: ContactList = list.map(|value| decode(&value, "contacts")).transpose()?.unwrap_or_default();
        let mut read = ContactsRead { version: list.shown, complete: true, ..ContactsRead::default() };
        let is_known = op.known != 0 && op.known == list.shown;
        if op.subscribed {
            self.subscribed(op, is_known, &mut read)?;
            return Ok(read);
        }
        if is_known {
            return Ok(ContactsRead { unchanged: true, ..read });
        }
        let prefix = keys::contacts_of(&op.user, op.incarnation);
        let after = keys::contact(&op.user, op.incarnation, &op.after);
        let limit = if op.limit == 0 { PAGE } else { op.limit.min(PAGE) } as usize;
        let mut bytes = 0;
        for row in self.shard.after(&prefix, &after) {
            let (key, value) = row?;
            let row: Contact = decode(&value, "contact")?;
            let contact = keys::contact_of(&key)?.2.to_owned();
            if row.listed || row.asks {
                if read.contacts.len() == limit || bytes > PAGE_BYTES {
                    read.complete = false;
                    break;
                }
                bytes += value.len();
                read.contacts.push(contacts_read::Row { contact, row: Some(row) });
            }
        }
        Ok(read)
    }

    /// Contacts who see the user or are seen, and are not blocked. `is_known`: the list is of the version that the reader knows. Every
    /// change of a subscription is a change that devices see, and gives the list another version.
    fn subscribed(&self, op: &ReadContacts, is_known: bool, read: &mut ContactsRead) -> io::Result<()> {
        let Privacy { settings, blocked, version } = self.privacy(&op.user, op.incarnation)?.unwrap_or_default();
        read.privacy_version = version;
        if is_known && op.known_privacy == version {
            read.unchanged = true;
            return Ok(());
        }
        read.hidden = settings.is_some_and(|settings| settings.presence() == Audience::Nobody);
        read.last_seen_hidden = settings.is_some_and(|settings| hides_last_seen(&settings));
        for row in self.shard.with_prefix(&keys::contacts_of(&op.user, op.incarnation)) {
            let (key, value) = row?;
            let Contact { to, from, peer, .. } = decode(&value, "contact")?;
            let contact = keys::contact_of(&key)?.2.to_owned();
            let by = BlockedUser { user: contact, incarnation: peer };
            if (to || from) && !is_blocked(&blocked, &by) {
                let row = Some(Contact { to, from, peer, ..Contact::default() });
                read.contacts.push(contacts_read::Row { contact: by.user, row });
            }
        }
        read.blocked = blocked.into_iter().map(|blocked| blocked.user).collect();
        Ok(())
    }

    /// Contacts who have to be told something, of all users of the shard.
    pub(crate) fn untold(&self, op: &ReadUntold) -> io::Result<UntoldRead> {
        let _held = self.shard.hold();
        let limit = if op.limit == 0 { UNTOLD_PAGE } else { op.limit.min(UNTOLD_PAGE) } as usize;
        let prefix = keys::all_untold();
        let after = if op.after.is_empty() { &*prefix } else { &*op.after };
        let mut read = UntoldRead::default();
        for row in self.shard.after(&prefix, after) {
            let (key, _) = row?;
            let (user, incarnation, contact) = keys::contact_of(&key)?;
            let (user, contact) = (user.to_owned(), contact.to_owned());
            if let Some(value) = self.shard.get(&keys::contact(&user, incarnation, &contact))? {
                let row = Some(decode(&value, "contact")?);
                read.rows.push(untold_read::Row { user, incarnation, contact, row });
            }
            if read.rows.len() == limit {
                read.next = key.to_vec().into();
                break;
            }
        }
        Ok(read)
    }

    /// Sweeps of ended accounts whose contacts do not all know it yet; at most `limit`.
    pub(crate) fn ended_contacts(&self, limit: usize) -> io::Result<Vec<ChangeContact>> {
        let mut found = Vec::new();
        for row in self.shard.with_prefix(&keys::all_contacts_ends()) {
            let (key, value) = row?;
            if ContactsEnd::decode(&value)? != ContactsEnd::Swept {
                let (user, incarnation, _) = keys::contact_of(&key)?;
                let (user, contact) = (user.to_owned(), String::new());
                let change = Some(Change::Sweep(SweepContacts {}));
                found.push(ChangeContact { user, incarnation, contact, change });
            }
            if found.len() == limit {
                break;
            }
        }
        Ok(found)
    }

    /// True if an earlier owner of the name has contacts who do not know yet that it has ended.
    pub(crate) fn contacts_end(&self, user: &str) -> io::Result<bool> {
        Ok(self.shard.with_prefix(&keys::contacts_ends(user)).next().transpose()?.is_some())
    }
}
