//! Reads users, and continues the requests that waited for them.

use std::sync::Arc;

use carillon_proto::{
    LeaseId, UserId,
    pb::store::{Account, PutAccount, Session, User, directory_command, put_account},
    sessions,
};
use tokio::time::Instant;

use super::{Answer, Continuation, Effect, Owner, READ_USER, Waiter, unexpected};
use crate::{
    accounts::{CachedAccount, Loaded, Read, Wait},
    config::UnknownRecipient,
    privacy::Privacy,
    reply::{Failure, ReplySlot},
    store::{StoreAnswer, StoreFailure},
};

impl Owner {
    /// `waiter` continues when the user has been read.
    pub(super) fn wait(&mut self, user: &UserId, waiter: Waiter, now: Instant) {
        match self.accounts.wait(user, waiter) {
            Wait::Read => self.read_user(user, now + READ_USER, Continuation::User(user.clone())),
            Wait::Queued => {}
            Wait::Full(waiter) => self.drop_waiter(waiter, &Failure::Crowded),
        }
    }

    pub(super) fn user_read(
        &mut self,
        user: UserId,
        answer: Result<StoreAnswer, StoreFailure>,
        now: Instant,
        time_ms: u64,
    ) {
        let no_user = || Failure::NoUser(user.as_str().to_owned());
        let (read, rows, failure) = match answer {
            Ok(StoreAnswer::User(User { account: None, .. })) if self.unknown_recipient == UnknownRecipient::Accept => {
                return self.reserve(user, now, time_ms);
            }
            Ok(StoreAnswer::User(User { account: Some(account), sessions, privacy, .. })) => {
                let going_on = self.put_out(&user, &account, sessions);
                if account.deleted {
                    (Read::NoUser, Vec::new(), no_user())
                } else {
                    let Account { incarnation, remade, .. } = account;
                    let privacy = privacy.as_ref().and_then(Privacy::of).map(Arc::new);
                    let account = CachedAccount { incarnation, remade, privacy };
                    (Read::Account(account), going_on, Failure::Changing)
                }
            }
            Ok(StoreAnswer::User(User { account: None, .. })) => (Read::NoUser, Vec::new(), no_user()),
            other => (Read::Failed, Vec::new(), unexpected(other)),
        };
        match self.accounts.loaded(&user, read.clone()) {
            Loaded::ReadAgain => self.read_user(&user, now + READ_USER, Continuation::User(user.clone())),
            Loaded::Serve(waiters) => {
                for waiter in waiters {
                    match &read {
                        Read::Account(account) => self.go_on(waiter, &user, account.clone(), &rows, now),
                        Read::NoUser => self.without_user(waiter, &failure, now),
                        Read::Failed => self.drop_waiter(waiter, &failure),
                    }
                }
            }
        }
    }

    /// The recipient's name never had an owner: it gets an inbox, in which its first owner will find the message.
    fn reserve(&mut self, user: UserId, now: Instant, time_ms: u64) {
        let account =
            Account { user: user.as_str().to_owned(), created_ms: time_ms, reserved: true, ..Account::default() };
        let mode = put_account::Mode::Ensure.into();
        let put = PutAccount { account: Some(account), mode, numbered: true, ..PutAccount::default() };
        let asked = Continuation::Reserved(user.clone());
        self.directory_write(&user, directory_command::Op::PutAccount(put), now + READ_USER, asked);
    }

    pub(super) fn reserved(
        &mut self,
        user: UserId,
        answer: Result<StoreAnswer, StoreFailure>,
        now: Instant,
        time_ms: u64,
    ) {
        match answer {
            Ok(StoreAnswer::Done(_)) => self.read_user(&user, now + READ_USER, Continuation::User(user.clone())),
            other => self.user_read(user, other, now, time_ms),
        }
    }

    /// The account or sessions of this user were changed elsewhere: sessions that are over are evicted from here, too.
    pub(crate) fn changed(&mut self, user: &UserId, now: Instant) {
        self.accounts.forget(user);
        self.wait(user, Waiter::Nobody, now);
    }

    /// Continues after the user was read, with its account and session rows.
    fn go_on(&mut self, waiter: Waiter, user: &UserId, account: CachedAccount, rows: &[Session], now: Instant) {
        match waiter {
            Waiter::Send(sending) => self.begin(sending, account, now),
            Waiter::ChatState(telling) => self.chat_state_to(telling, &account),
            Waiter::Mark(marked) => self.mark_by(user, &account, *marked, now),
            Waiter::Marks(moves) => self.move_marks_of(*moves, &account),
            Waiter::Nobody => {}
            Waiter::Announce(announced) => self.announced(user, account.incarnation, rows, *announced),
        }
    }

    /// Ends what has waited for a user who does not exist, or no longer.
    fn without_user(&mut self, waiter: Waiter, failure: &Failure, now: Instant) {
        match waiter {
            Waiter::Send(sending) if sending.takes_back() && !sending.is_to_oneself() => {
                self.take_back_own(sending, now);
            }
            waiter => self.drop_waiter(waiter, failure),
        }
    }

    pub(super) fn drop_waiter(&mut self, waiter: Waiter, failure: &Failure) {
        match waiter {
            Waiter::Send(sending) => self.refuse_send(*sending, failure),
            // The notice may be lost: the settings are read later.
            Waiter::Nobody | Waiter::Mark(_) => {}
            Waiter::ChatState(telling) => self.refuse(telling.slot, failure),
            Waiter::Marks(moves) => self.end_all(moves.waiters, &Err(failure.clone())),
            Waiter::Announce(announced) => {
                let session = announced.session;
                if let Ok(user) = UserId::new(&session.user) {
                    self.watch_not_signed_in(&user, &session.device, failure);
                }
                self.refuse(announced.slot, failure);
            }
        }
    }

    /// Evicts once more the sessions that are over and that their gateway has not closed yet. Returns the others.
    fn put_out(&mut self, user: &UserId, account: &Account, sessions: Vec<Session>) -> Vec<Session> {
        let mut going_on = Vec::with_capacity(sessions.len());
        for session in sessions {
            let gateway = LeaseId(session.lease);
            match sessions::over(account, &session) {
                // Its gateway has ended, and the session with it: the store sweeps its row.
                _ if self.topology.has_ended(gateway) => {}
                None => going_on.push(session),
                Some(why) => {
                    let connection = session.connection;
                    self.watch_signed_out(user, &session, sessions::told(why));
                    self.register.remove(user, gateway, connection);
                    self.effects.push(Effect::Evict { gateway, connection, why });
                }
            }
        }
        going_on
    }

    pub(super) fn account_read(&mut self, user: &UserId, slot: ReplySlot, answer: Result<StoreAnswer, StoreFailure>) {
        let account = match answer {
            Ok(StoreAnswer::User(found)) => match found.account.filter(|account| !account.deleted) {
                Some(account) => Ok(Answer::Account(Box::new(account))),
                None => {
                    self.accounts.forget(user);
                    Err(Failure::NoUser(user.as_str().to_owned()))
                }
            },
            other => Err(unexpected(other)),
        };
        self.end(slot, account);
    }
}
