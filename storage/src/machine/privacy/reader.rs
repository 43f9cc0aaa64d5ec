//! Reads of what users let others see and do.

use std::io;

use carillon_proto::pb::store::{
    Account, Allowed, AllowedRead, BlockedUser, Contact, Privacy, ReadAllowed, ReadPrivacy, Rejected, rejected::Reason,
};

use super::rules::{allowed, asks_for_contacts, is_contact, shows_last_seen};
use crate::machine::{DirectoryReader, Unread, directory::decode, keys};

impl DirectoryReader {
    pub(crate) fn read_privacy(&self, op: &ReadPrivacy) -> Result<Privacy, Unread> {
        let _held = self.shard.hold();
        match self.account(&op.user)? {
            Some(account) if account.incarnation == op.incarnation => {
                Ok(self.privacy(&op.user, op.incarnation)?.unwrap_or_default())
            }
            _ => Err(Unread::Rejected(Rejected {
                reason: Reason::Gone.into(),
                detail: format!("user {:?} has another owner by now", op.user),
                ..Rejected::default()
            })),
        }
    }

    pub(crate) fn read_allowed(&self, op: &ReadAllowed) -> io::Result<AllowedRead> {
        let _held = self.shard.hold();
        let by = op.by.clone().unwrap_or_default();
        let allowed = op.users.iter().map(|user| match self.account(user)? {
            Some(_) if by.user == *user => {
                Ok(Allowed { write: true, write_back: true, groups: true, read_marks: true, ..Allowed::default() })
            }
            Some(account) => {
                let allowed = self.allowed(user, account.incarnation, &by)?;
                let last_seen_ms = match op.last_seen && !allowed.blocked {
                    true => self.last_seen(&account, &by)?,
                    false => 0,
                };
                let contact = op.contact && !allowed.blocked && self.lists(&account, &by)?;
                Ok(Allowed { last_seen_ms, contact, ..allowed })
            }
            None => Ok(Allowed::default()),
        });
        Ok(AllowedRead { allowed: allowed.collect::<io::Result<_>>()? })
    }

    /// Of the account of this incarnation.
    pub(in crate::machine) fn privacy(&self, user: &str, incarnation: u64) -> io::Result<Option<Privacy>> {
        self.shard.get(&keys::privacy(user, incarnation))?.map(|value| decode(&value, "privacy")).transpose()
    }

    pub(in crate::machine) fn allowed(&self, user: &str, incarnation: u64, by: &BlockedUser) -> io::Result<Allowed> {
        let privacy = self.privacy(user, incarnation)?.unwrap_or_default();
        let contact: Option<Contact> = match privacy.settings.as_ref().is_some_and(asks_for_contacts) {
            true => {
                let row = self.shard.get(&keys::contact(user, incarnation, &by.user))?;
                row.map(|value| decode(&value, "contact")).transpose()?
            }
            false => None,
        };
        Ok(allowed(&privacy, by, contact.as_ref()))
    }

    /// True if this one is a contact of the user.
    fn lists(&self, account: &Account, by: &BlockedUser) -> io::Result<bool> {
        let row = self.shard.get(&keys::contact(&account.user, account.incarnation, &by.user))?;
        let row = row.map(|value| decode::<Contact>(&value, "contact")).transpose()?;
        Ok(row.is_some_and(|row| is_contact(&row, by)))
    }

    /// When the user was last there; 0 if this one may not know it.
    fn last_seen(&self, account: &Account, by: &BlockedUser) -> io::Result<u64> {
        let settings = self.privacy(&account.user, account.incarnation)?.unwrap_or_default().settings;
        let row = self.shard.get(&keys::contact(&account.user, account.incarnation, &by.user))?;
        let row = row.map(|value| decode::<Contact>(&value, "contact")).transpose()?;
        let shows = row.is_some_and(|row| shows_last_seen(&settings.unwrap_or_default(), by, &row));
        Ok(if shows { account.last_seen_ms } else { 0 })
    }

    /// An account that there is.
    fn account(&self, user: &str) -> io::Result<Option<Account>> {
        let account = self.shard.get(&keys::account(user))?;
        let account = account.map(|value| decode::<Account>(&value, "account")).transpose()?;
        Ok(account.filter(|account| !account.deleted))
    }
}
