//! Reads of what users let others see and do.

use std::io;

use carillon_proto::pb::store::{
    Account, Allowed, AllowedRead, BlockedUser, Contact, Privacy, ReadAllowed, ReadPrivacy, Rejected, rejected::Reason,
};

use super::rules::{allowed, asks_for_contacts};
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
                Ok(Allowed { write: true, write_back: true, groups: true, read_marks: true, blocked: false })
            }
            Some(account) => self.allowed(user, account.incarnation, &by),
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

    /// An account that there is.
    fn account(&self, user: &str) -> io::Result<Option<Account>> {
        let account = self.shard.get(&keys::account(user))?;
        let account = account.map(|value| decode::<Account>(&value, "account")).transpose()?;
        Ok(account.filter(|account| !account.deleted))
    }
}
