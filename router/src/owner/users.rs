//! Reading users, and going on with whatever waited for that.

use std::sync::Arc;

use carillon_proto::{
    LeaseId, UserId,
    pb::store::{Account, PutAccount, Session, User, directory_command, put_account},
    sessions,
};
use tokio::time::Instant;

use super::{Answer, Asked, Effect, Owner, READ_USER, UNATTENDED, Waiter, unexpected};
use crate::{
    config::UnknownRecipient,
    directory::{Known, Loaded, Wait},
    metrics,
    reply::{Failure, ReplySlot},
    send::Parts,
    store::{StoreAnswer, StoreFailure},
};

impl Owner {
    /// `waiter` goes on when the user has been read.
    pub(super) fn wait(&mut self, user: &UserId, waiter: Waiter, now: Instant) {
        match self.directory.wait(user, waiter) {
            Wait::Read => self.read_user(user, now + READ_USER, Asked::User(user.clone())),
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
        let (known, failure) = match answer {
            Ok(StoreAnswer::User(User { account: None, .. })) if self.unknown_recipient == UnknownRecipient::Accept => {
                return self.reserve(user, now, time_ms);
            }
            Ok(StoreAnswer::User(User { account: Some(account), sessions })) => {
                let sessions = self.without_ended(&user, &account, sessions, now);
                if account.deleted {
                    (None, Some(Failure::NoUser(user.as_str().to_owned())))
                } else {
                    (Some(Known { incarnation: account.incarnation, remade: account.remade, sessions }), None)
                }
            }
            Ok(StoreAnswer::User(User { account: None, .. })) => {
                (None, Some(Failure::NoUser(user.as_str().to_owned())))
            }
            other => (None, Some(unexpected(other))),
        };
        let whose = known.as_ref().map(|known| (known.incarnation, known.remade)).unwrap_or_default();
        match self.directory.loaded(&user, known, now) {
            Loaded::ReadAgain => self.read_user(&user, now + READ_USER, Asked::User(user.clone())),
            Loaded::Serve(waiters) => {
                for waiter in waiters {
                    match &failure {
                        Some(failure) => self.drop_waiter(waiter, failure),
                        None => self.go_on(waiter, &user, whose, now),
                    }
                }
            }
        }
    }

    /// A message is for a name that nobody has had yet: it gets an inbox whose first owner finds the message.
    fn reserve(&mut self, user: UserId, now: Instant, time_ms: u64) {
        let account =
            Account { user: user.as_str().to_owned(), created_ms: time_ms, reserved: true, ..Account::default() };
        let mode = put_account::Mode::Ensure.into();
        let put = PutAccount { account: Some(account), mode, numbered: true, revive: false };
        let asked = Asked::Reserved(user.clone());
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
            Ok(StoreAnswer::Done(_)) => self.read_user(&user, now + READ_USER, Asked::User(user.clone())),
            other => self.user_read(user, other, now, time_ms),
        }
    }

    /// The account or sessions of this user have changed elsewhere: whoever is to be put out hears of it from here, too.
    pub(crate) fn changed(&mut self, user: &UserId, now: Instant) {
        self.directory.forget(user);
        self.wait(user, Waiter::Nobody, now);
    }

    /// The user has been read. Of the account: its incarnation, and whether the name had another owner before.
    fn go_on(&mut self, waiter: Waiter, user: &UserId, whose: (u64, bool), now: Instant) {
        match waiter {
            Waiter::Send(sending) => self.begin(sending, whose.0, whose.1, now),
            Waiter::Nobody => {}
            Waiter::Deliver(delivery) => self.deliver(delivery, now),
            Waiter::Announce(announced) => {
                let (session, slot, deadline) = *announced;
                let parts = Parts { user: user.clone(), lease: session.lease, deadline, span: None, slot };
                self.announce(session, parts, now);
            }
        }
    }

    pub(super) fn drop_waiter(&mut self, waiter: Waiter, failure: &Failure) {
        match waiter {
            Waiter::Send(sending) => self.refuse(sending.slot, failure),
            Waiter::Deliver(_) => metrics::push(false),
            Waiter::Nobody => {}
            Waiter::Announce(announced) => self.refuse(announced.1, failure),
        }
    }

    /// Rows that their gateway could not delete any more are deleted when they are met; sessions that are over, but that
    /// their gateway has not closed yet, are put out once more.
    pub(super) fn without_ended(
        &mut self,
        user: &UserId,
        account: &Account,
        sessions: Vec<Session>,
        now: Instant,
    ) -> Vec<Session> {
        let topology = Arc::clone(&self.topology);
        let (ended, live): (Vec<_>, Vec<_>) =
            sessions.into_iter().partition(|session| topology.has_ended(LeaseId(session.lease)));
        for session in ended {
            self.delete_session(user, &session, now + UNATTENDED, Asked::Nothing);
        }
        let mut going_on = Vec::with_capacity(live.len());
        for session in live {
            match sessions::over(account, &session) {
                None => going_on.push(session),
                Some(why) => {
                    let (gateway, connection) = (LeaseId(session.lease), session.connection);
                    self.effects.push(Effect::Evict { gateway, connection, why });
                }
            }
        }
        going_on
    }

    pub(super) fn account_read(&mut self, user: &UserId, slot: ReplySlot, answer: Result<StoreAnswer, StoreFailure>) {
        let account = match answer {
            Ok(StoreAnswer::User(found)) => match found.account.filter(|account| !account.deleted) {
                Some(account) => Ok(Answer::Account(account)),
                None => {
                    self.directory.forget(user);
                    Err(Failure::NoUser(user.as_str().to_owned()))
                }
            },
            other => Err(unexpected(other)),
        };
        self.end(slot, account);
    }
}
