//! Reading users, and going on with whatever waited for that.

use std::sync::Arc;

use carillon_proto::{LeaseId, UserId, pb::store::Session};
use tokio::time::Instant;

use super::{Answer, Asked, Owner, READ_USER, UNATTENDED, Waiter, unexpected};
use crate::{
    config::UnknownRecipient,
    directory::{Loaded, Wait},
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

    pub(super) fn user_read(&mut self, user: UserId, answer: Result<StoreAnswer, StoreFailure>, now: Instant) {
        let (sessions, failure) = match answer {
            Ok(StoreAnswer::User(found)) => {
                if found.account.is_none() && self.unknown_recipient == UnknownRecipient::Refuse {
                    (None, Some(Failure::NoUser(user.as_str().to_owned())))
                } else {
                    (Some(self.without_ended(&user, found.sessions, now)), None)
                }
            }
            other => (None, Some(unexpected(other))),
        };
        match self.directory.loaded(&user, sessions, now) {
            Loaded::ReadAgain => self.read_user(&user, now + READ_USER, Asked::User(user.clone())),
            Loaded::Serve(waiters) => {
                for waiter in waiters {
                    match &failure {
                        Some(failure) => self.drop_waiter(waiter, failure),
                        None => self.go_on(waiter, &user, now),
                    }
                }
            }
        }
    }

    pub(super) fn go_on(&mut self, waiter: Waiter, user: &UserId, now: Instant) {
        match waiter {
            Waiter::Send(sending) => self.append_first(sending, now),
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
            Waiter::Announce(announced) => self.refuse(announced.1, failure),
        }
    }

    /// Rows that their gateway could not delete any more are deleted when they are met.
    pub(super) fn without_ended(&mut self, user: &UserId, sessions: Vec<Session>, now: Instant) -> Vec<Session> {
        let topology = Arc::clone(&self.topology);
        let (ended, live): (Vec<_>, Vec<_>) =
            sessions.into_iter().partition(|session| topology.has_ended(LeaseId(session.lease)));
        for session in ended {
            self.delete_session(user, &session, now + UNATTENDED, Asked::Nothing);
        }
        live
    }

    pub(super) fn account_read(&mut self, user: &UserId, slot: ReplySlot, answer: Result<StoreAnswer, StoreFailure>) {
        let account = match answer {
            Ok(StoreAnswer::User(found)) => match found.account {
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
