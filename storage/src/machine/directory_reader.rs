//! Reads of a directory shard.

use std::io;

use carillon_proto::{
    Level,
    pb::store::{
        Account, AccountCount, AccountList, BlockedUser, CountAccounts, DeleteSession, Erasure, ListAccounts,
        ListSessions, ScramCredentials, Session, SessionList, User,
    },
};
use tokio::sync::watch;

use super::{RegistryState, ShardLevel, directory::decode, keys};
use crate::engine::sled::DirectoryShard;

/// Most rows that one read returns, and most that it looks at.
pub(crate) const LISTED: u32 = 1000;
const LOOKED_AT: usize = 4096;

/// Reads the applied state, from any thread.
#[derive(Clone)]
pub(crate) struct DirectoryReader {
    pub(super) shard: DirectoryShard,
    published: watch::Receiver<RegistryState>,
    level: ShardLevel,
}

impl DirectoryReader {
    pub(crate) fn new(shard: DirectoryShard, published: watch::Receiver<RegistryState>, level: ShardLevel) -> Self {
        Self { shard, published, level }
    }

    pub(crate) fn level(&self) -> Level {
        self.level.get()
    }

    pub(crate) fn user(&self, user: &str) -> io::Result<User> {
        self.user_for(user, None)
    }

    /// `by`: what this one may do to the user is read instead of all that the user has set.
    pub(crate) fn user_for(&self, user: &str, by: Option<&BlockedUser>) -> io::Result<User> {
        // Account and sessions are read from one state.
        let _held = self.shard.hold();
        let account = self.shard.get(&keys::account(user))?;
        let account: Option<Account> = account.map(|value| decode(&value, "account")).transpose()?;
        let sessions = self.shard.with_prefix(&keys::sessions(user));
        let sessions = sessions.map(|record| decode(&record?.1, "session")).collect::<io::Result<_>>()?;
        let erasure = self.shard.get(&keys::erasure(user))?.map(|value| keys::Erasure::decode(&value)).transpose()?;
        let erasure = erasure.map(|keys::Erasure { incarnation, ordered_ms, done }| Erasure {
            user: user.to_owned(),
            incarnation,
            ordered_ms,
            done,
        });
        let contacts_end = self.contacts_end(user)?;
        let incarnation = account.as_ref().map_or(0, |account| account.incarnation);
        let (privacy, allowed) = match by {
            None => (self.privacy(user, incarnation)?, None),
            Some(by) => (None, Some(self.allowed(user, incarnation, by)?)),
        };
        Ok(User { account, sessions, erasure, contacts_end, privacy, allowed })
    }

    pub(crate) fn accounts(&self, op: &ListAccounts) -> io::Result<AccountList> {
        let _held = self.shard.hold();
        let (prefix, after) = if !op.domain.is_empty() {
            (keys::domain_users(&op.domain), keys::domain_user(&op.domain, &op.after_user))
        } else if op.ending {
            (keys::endings(), keys::ending(&op.after_user))
        } else {
            (keys::accounts(), keys::account(&op.after_user))
        };
        let limit = op.limit.clamp(1, LISTED) as usize;
        let mut list = AccountList::default();
        for record in self.shard.after(&prefix, &after) {
            if list.accounts.len() == limit {
                list.next_user = list.accounts.last().map(|account| account.user.clone()).unwrap_or_default();
                break;
            }
            let key = record?.0;
            let user = if op.domain.is_empty() { keys::user_of(&key)? } else { keys::domain_user_of(&key)? };
            if let Some(value) = self.shard.get(&keys::account(&user))? {
                list.accounts.push(without_keys(decode(&value, "account")?));
            }
        }
        Ok(list)
    }

    pub(crate) fn count_accounts(&self, op: &CountAccounts) -> io::Result<AccountCount> {
        let count = self.shard.get(&keys::domain_accounts(&op.domain))?;
        let accounts = count.map_or(Ok(0), |value| keys::number_of(&value))?;
        Ok(AccountCount { accounts })
    }

    pub(crate) fn sessions(&self, op: &ListSessions) -> io::Result<SessionList> {
        let after = if op.after_user.is_empty() {
            keys::all_sessions()
        } else {
            keys::session(&op.after_user, &op.after_device)
        };
        let limit = op.limit.clamp(1, LISTED) as usize;
        let is_it =
            |session: &Session| op.lease == 0 || (session.lease, session.connection) == (op.lease, op.connection);
        let mut list = SessionList::default();
        for (looked_at, record) in self.shard.after(&keys::all_sessions(), &after).enumerate() {
            let session: Session = decode(&record?.1, "session")?;
            let last = list.sessions.len() + 1 == limit || looked_at + 1 == LOOKED_AT;
            if last {
                (list.next_user, list.next_device) = (session.user.clone(), session.device.clone());
            }
            if is_it(&session) {
                list.sessions.push(session);
            }
            if last {
                break;
            }
        }
        Ok(list)
    }

    /// Up to `limit` session rows after the key `after` whose leases have ended, and the key to continue after; empty
    /// at the end.
    pub(crate) fn of_ended(
        &self,
        after: &[u8],
        has_ended: impl Fn(u64) -> bool,
        limit: usize,
    ) -> io::Result<(Vec<DeleteSession>, Vec<u8>)> {
        let mut found = Vec::new();
        let begin = keys::all_sessions();
        let after = if after.is_empty() { &begin } else { after };
        for (looked_at, record) in self.shard.after(&begin, after).enumerate() {
            let (key, value) = record?;
            let Session { user, device, lease, connection, .. } = decode(&value, "session")?;
            if has_ended(lease) {
                found.push(DeleteSession { user, device, lease, connection, ..DeleteSession::default() });
            }
            if found.len() == limit || looked_at + 1 == LOOKED_AT {
                return Ok((found, key.to_vec()));
            }
        }
        Ok((found, Vec::new()))
    }

    /// The registry, now and whenever it changes. Empty in all shards but the first.
    pub(crate) fn registry(&self) -> watch::Receiver<RegistryState> {
        self.published.clone()
    }
}

/// Lists are for the operator: they say whether there is a password, and contain nothing with which to guess one.
pub(super) fn without_keys(account: Account) -> Account {
    let scram = account.scram.map(|scram| ScramCredentials { iterations: scram.iterations, ..Default::default() });
    Account { scram, ..account }
}
