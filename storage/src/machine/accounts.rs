//! The account commands of a directory shard. See docs/adr/0007-incarnations.md.

use std::{collections::BTreeMap, io};

use carillon_proto::{
    Level,
    limits::ENTRY_COMMANDS,
    pb::store::{
        Account, AccountChanged, AccountErased, DeleteAccount, EndSessions, EraseAccount, InboxEnded, PutAccount,
        RevokeTokens, RevokedToken, Session, put_account::Mode, rejected::Reason,
    },
    sessions,
};
use prost::Message as _;

use super::{
    Outcome, broken,
    directory::{Batch, decode, done, not_found, rejected},
    keys::{self, Erasure},
};

/// Most sessions named in one answer.
const OVER: usize = 256;
/// Most revoked single tokens of one user.
const REVOKED: usize = 64;

impl Batch<'_> {
    /// `at` names the command; it grows from command to command.
    pub(super) fn put_account(&mut self, at: u64, op: PutAccount) -> io::Result<Outcome> {
        // An unknown mode must not be taken for a known one.
        let mode = Mode::try_from(op.mode).map_err(|_| broken("mode of PutAccount"))?;
        let PutAccount { account, numbered, revive, most_accounts, .. } = op;
        let account = account.ok_or_else(|| broken("PutAccount"))?;
        let at = if numbered { at } else { 0 };
        let is_new = self.reading.level >= Level::CLUSTER;
        let new_owner = |before| new_owner(at, account.clone(), before, is_new);
        let existing = self.get::<Account>(&keys::account(&account.user), "account")?;
        if self.erasure(&account.user)?.is_some_and(|erasure| !erasure.done) {
            let why = format!("user {:?} is being erased: the name can be used when that is done", account.user);
            return Ok(rejected(Reason::Gone, why));
        }
        let was_counted = existing.as_ref().is_some_and(is_counted);
        let is_known = existing.is_some();
        let next = match (mode, existing) {
            (_, None) => new_owner(None),
            (Mode::Ensure, Some(old)) if old.deleted && !revive => return Ok(was_deleted(&old)),
            // The holder of the token is the owner, whenever the token was issued.
            (Mode::Ensure, Some(old)) if old.deleted => {
                let tokens_from_ms = old.tokens_from_ms;
                Account { tokens_from_ms, ..new_owner(Some(old)) }
            }
            (Mode::Create | Mode::Replace, Some(old)) if old.deleted => new_owner(Some(old)),
            (Mode::Ensure, Some(old)) if old.reserved && !account.reserved => Account { reserved: false, ..old },
            (Mode::Ensure, Some(_)) => return Ok(done()),
            (Mode::Create, Some(old)) if old.reserved => {
                Account { reserved: false, scram: account.scram, created_ms: account.created_ms, ..old }
            }
            // A repeat of the command whose first answer was lost: salt and creation time identify it.
            (Mode::Create, Some(old)) if (&old.scram, old.created_ms) == (&account.scram, account.created_ms) => old,
            (Mode::Create, Some(old)) => {
                return Ok(rejected(Reason::Exists, format!("user {:?} exists", old.user)));
            }
            // A repeat, identified by its salt. From level 1 on, the absence of a password identifies nothing.
            (Mode::Replace, Some(old)) if old.scram == account.scram && (old.scram.is_some() || !is_new) => {
                Account { reserved: false, ..old }
            }
            (Mode::Replace, Some(old)) => {
                let generation = if numbered { at } else { old.generation };
                Account { reserved: false, scram: account.scram, generation, ..old }
            }
        };
        if !was_counted
            && is_counted(&next)
            && let Some(full) = self.has_no_room(&next.user, most_accounts)?
        {
            return Ok(full);
        }
        self.count_account(&next.user, was_counted, is_counted(&next))?;
        if !is_known && let Some(domain) = domain_of(&next.user).filter(|_| self.reading.level >= Level::GROUPS) {
            self.changes.put(keys::domain_user(domain, &next.user), keys::RowBytes::default());
        }
        self.put(&next);
        if mode == Mode::Ensure { Ok(done()) } else { self.changed(next) }
    }

    pub(super) fn delete_account(&mut self, at: u64, op: &DeleteAccount) -> io::Result<Outcome> {
        let Some(old) = self.get::<Account>(&keys::account(&op.user), "account")? else {
            return Ok(if op.time_ms == 0 { done() } else { no_user(&op.user) });
        };
        if op.time_ms == 0 {
            self.count_account(&op.user, is_counted(&old), false)?;
            return self.remove_account(&op.user);
        }
        if old.deleted {
            // A repeat of the command whose first answer was lost.
            return if old.deleted_ms == op.time_ms { self.changed(old) } else { Ok(was_deleted(&old)) };
        }
        self.end_contacts(&op.user, old.incarnation)?;
        self.end_privacy(&op.user, old.incarnation);
        self.count_account(&op.user, is_counted(&old), false)?;
        let deleted = deleted(at, old, op.time_ms);
        self.put(&deleted);
        self.changes.put(keys::ending(&op.user), keys::number_value(at));
        self.changed(deleted)
    }

    pub(super) fn erase_account(&mut self, at: u64, op: &EraseAccount) -> io::Result<Outcome> {
        let Some(old) = self.get::<Account>(&keys::account(&op.user), "account")? else { return Ok(no_user(&op.user)) };
        if self.erasure(&op.user)?.is_some_and(|erasure| erasure.incarnation == old.incarnation) {
            return self.changed(old);
        }
        let account = if old.deleted {
            old
        } else {
            self.end_contacts(&op.user, old.incarnation)?;
            self.end_privacy(&op.user, old.incarnation);
            self.count_account(&op.user, is_counted(&old), false)?;
            deleted(at, old, op.time_ms)
        };
        self.put(&account);
        // What was deleted long ago is ended once more, which does no harm.
        self.changes.put(keys::ending(&op.user), keys::number_value(account.incarnation));
        let erasure = Erasure { incarnation: account.incarnation, ordered_ms: op.time_ms, done: false };
        self.changes.put(keys::erasure(&op.user), erasure.encode());
        self.changed(account)
    }

    pub(super) fn account_erased(&mut self, at: u64, op: &AccountErased) -> io::Result<Outcome> {
        match self.erasure(&op.user)? {
            Some(erasure)
                if erasure.incarnation == op.incarnation && !erasure.done && !self.contacts_end(&op.user)? =>
            {
                let erasure = Erasure { done: true, ..erasure };
                self.changes.put(keys::erasure(&op.user), erasure.encode());
                self.changes.put(keys::ERASED, keys::number_value(at / ENTRY_COMMANDS as u64));
                self.changes.delete(keys::ending(&op.user));
            }
            Some(_) | None => {}
        }
        Ok(done())
    }

    /// The last erasure of a user of this name.
    fn erasure(&self, user: &str) -> io::Result<Option<Erasure>> {
        let key = keys::erasure(user);
        match self.changes.get(&key) {
            Some(value) => value.map(Erasure::decode).transpose(),
            None => self.shard.get(&key)?.map(|value| Erasure::decode(&value)).transpose(),
        }
    }

    /// As versions without incarnations did it: the log may still hold such a command.
    fn remove_account(&mut self, user: &str) -> io::Result<Outcome> {
        for device in self.sessions_of(user)?.into_keys() {
            self.changes.delete(keys::session(user, &device));
        }
        self.changes.delete(keys::account(user));
        if let Some(domain) = domain_of(user) {
            self.changes.delete(keys::domain_user(domain, user));
        }
        Ok(done())
    }

    pub(super) fn revoke_tokens(&mut self, op: RevokeTokens) -> io::Result<Outcome> {
        let RevokeTokens { user, before_ms, id, expires_ms, time_ms } = op;
        let mut account = match self.account(&user)? {
            Ok(account) => account,
            Err(why) => return Ok(why),
        };
        account.tokens_from_ms = account.tokens_from_ms.max(before_ms);
        account.revoked.retain(|token| token.expires_ms > time_ms && token.id != id);
        if !id.is_empty() {
            if account.revoked.len() >= REVOKED {
                let why = format!("{REVOKED} single tokens of {user:?} are revoked already: revoke all before a time");
                return Ok(rejected(Reason::Full, why));
            }
            account.revoked.push(RevokedToken { id, expires_ms });
        }
        self.put(&account);
        self.changed(account)
    }

    pub(super) fn end_sessions(&mut self, at: u64, op: &EndSessions) -> io::Result<Outcome> {
        let mut account = match self.account(&op.user)? {
            Ok(account) => account,
            Err(why) => return Ok(why),
        };
        if op.lease == 0 {
            account.generation = at;
            self.put(&account);
            return self.changed(account);
        }
        let mut sessions = self.sessions_of(&op.user)?.into_values();
        match sessions.find(|session| (session.lease, session.connection) == (op.lease, op.connection)) {
            None => Ok(not_found(format!("user {:?} has no such session", op.user))),
            Some(session) => {
                let ended = Session { ended: true, ..session };
                self.changes.put(keys::session(&ended.user, &ended.device), ended.encode_to_vec());
                self.changed(account)
            }
        }
    }

    pub(super) fn inbox_ended(&mut self, op: &InboxEnded) -> io::Result<Outcome> {
        if self.erasure(&op.user)?.is_some_and(|erasure| !erasure.done) {
            return Ok(done());
        }
        let key = keys::ending(&op.user);
        let incarnation = match self.changes.get(&key) {
            Some(value) => value.map(keys::number_of).transpose()?,
            None => self.shard.get(&key)?.map(|value| keys::number_of(&value)).transpose()?,
        };
        // The name may have another owner by now, whose inbox began after the end of this one.
        if incarnation.is_some_and(|ending| ending <= op.incarnation) {
            self.changes.delete(key);
        }
        Ok(done())
    }

    /// The number of this domain's accounts in the shard.
    fn accounts_of(&self, domain: &str) -> io::Result<u64> {
        let key = keys::domain_accounts(domain);
        let count = match self.changes.get(&key) {
            Some(value) => value.map(keys::number_of).transpose()?,
            None => self.shard.get(&key)?.map(|value| keys::number_of(&value)).transpose()?,
        };
        Ok(count.unwrap_or(0))
    }

    /// The refusal of one more account, if there are so many of its domain.
    fn has_no_room(&self, user: &str, most: Option<u64>) -> io::Result<Option<Outcome>> {
        let (Some(most), domain) = (most, domain_of(user)) else { return Ok(None) };
        let accounts = domain.map_or(Ok(0), |domain| self.accounts_of(domain))?;
        let full = || {
            let of = domain.map_or("the default domain".to_owned(), |domain| format!("domain {domain}"));
            let what = if most == 0 { "takes no new users" } else { "has as many users as it may have" };
            rejected(Reason::Full, format!("{of} {what}"))
        };
        Ok((accounts >= most).then(full))
    }

    /// Counts an account of a domain that comes or goes.
    fn count_account(&mut self, user: &str, before: bool, after: bool) -> io::Result<()> {
        let Some(domain) = domain_of(user).filter(|_| before != after && self.reading.level >= Level::GROUPS) else {
            return Ok(());
        };
        let accounts = self.accounts_of(domain)?;
        let accounts = if after { accounts + 1 } else { accounts.saturating_sub(1) };
        let key = keys::domain_accounts(domain);
        match accounts {
            0 => self.changes.delete(key),
            accounts => self.changes.put(key, keys::number_value(accounts)),
        }
        Ok(())
    }

    fn put(&mut self, account: &Account) {
        self.changes.put(keys::account(&account.user), account.encode_to_vec());
    }

    /// The existing account, or the answer that there is none.
    fn account(&self, user: &str) -> io::Result<Result<Account, Outcome>> {
        Ok(match self.get::<Account>(&keys::account(user), "account")? {
            None => Err(no_user(user)),
            Some(account) if account.deleted => Err(was_deleted(&account)),
            Some(account) => Ok(account),
        })
    }

    fn changed(&self, account: Account) -> io::Result<Outcome> {
        let sessions = self.sessions_of(&account.user)?.into_values();
        let over = sessions.filter(|session| sessions::over(&account, session).is_some()).take(OVER).collect();
        Ok(Outcome::AccountChanged(AccountChanged { account: Some(account), over }))
    }

    /// The user's sessions, by device.
    pub(super) fn sessions_of(&self, user: &str) -> io::Result<BTreeMap<String, Session>> {
        let prefix = keys::sessions(user);
        let mut found = BTreeMap::new();
        for record in self.shard.with_prefix(&prefix) {
            let (key, value) = record?;
            if self.changes.get(&key).is_none() {
                let session: Session = decode(&value, "session")?;
                found.insert(session.device.clone(), session);
            }
        }
        for (_, value) in self.changes.with_prefix(&prefix) {
            if let Some(value) = value {
                let session: Session = decode(value, "session")?;
                found.insert(session.device.clone(), session);
            }
        }
        Ok(found)
    }
}

/// True for an account with an owner.
fn is_counted(account: &Account) -> bool {
    !account.deleted && !account.reserved
}

/// `None`: the default domain.
fn domain_of(user: &str) -> Option<&str> {
    user.split_once('@').map(|(_, domain)| domain)
}

/// The account of a name for its new owner. Tokens of a previous owner do not belong to the new one: only tokens count
/// that were issued after the second in which the account was made. Tokens give their times in whole seconds, so one of
/// that second may belong to either owner. The gateway has already allowed for clock differences (see
/// `Session.token_issued_ms`).
///
/// Below level 1 (`is_new` is false) tokens of that second count, and the account does not record that the name had a
/// previous owner.
fn new_owner(at: u64, account: Account, before: Option<Account>, is_new: bool) -> Account {
    let Account { user, scram, created_ms, reserved, .. } = account;
    let before = before.unwrap_or_default();
    let second = created_ms / 1000;
    let of_new_owner = match (before.deleted, is_new) {
        (false, _) => 0,
        (true, false) => second * 1000,
        (true, true) => second.saturating_add(1).saturating_mul(1000),
    };
    Account {
        user,
        scram,
        created_ms,
        reserved,
        incarnation: at,
        generation: at,
        tokens_from_ms: before.tokens_from_ms.max(of_new_owner),
        revoked: before.revoked,
        remade: before.deleted && is_new,
        ..Account::default()
    }
}

/// The row that a deleted account leaves.
fn deleted(at: u64, account: Account, time_ms: u64) -> Account {
    let Account { user, created_ms, tokens_from_ms, revoked, .. } = account;
    Account {
        user,
        created_ms,
        incarnation: at,
        generation: at,
        deleted: true,
        deleted_ms: time_ms,
        tokens_from_ms,
        revoked,
        ..Account::default()
    }
}

fn no_user(user: &str) -> Outcome {
    not_found(format!("there is no user {user:?}"))
}

/// A request for the account itself is told that it does not exist; this answer is for its former owner.
fn was_deleted(account: &Account) -> Outcome {
    rejected(Reason::Gone, format!("user {:?} was deleted", account.user))
}
