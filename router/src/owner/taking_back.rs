//! Recalls of messages whose recipient can't be written to: the account has ended, its domain no longer talks to the sender's, or the message is not
//! in its inbox any more. The sender's own copy goes in any case. See docs/adr/0029-references.md.

use carillon_proto::pb::store::{User, append::Admission};
use tokio::time::Instant;

use super::{Continuation, Owner, unexpected};
use crate::{
    reply::Failure,
    send::Sending,
    store::{StoreAnswer, StoreFailure},
};

impl Owner {
    /// Takes back what was sent while the domains talked to each other. No account is made for the recipient.
    pub(super) fn take_back_beyond(&mut self, sending: Box<Sending>) {
        self.watch_send(&sending);
        let (recipient, deadline) = (sending.recipient.clone(), sending.deadline);
        self.read_user(&recipient, deadline, Continuation::TakingBack(sending));
    }

    /// Goes on when the recipient was read. Its inbox takes the recall if the message is there, and nothing else of the sender.
    pub(super) fn read_beyond(
        &mut self,
        mut sending: Box<Sending>,
        answer: Result<StoreAnswer, StoreFailure>,
        now: Instant,
    ) {
        match answer {
            Ok(StoreAnswer::User(User { account: Some(account), .. })) if !account.deleted => {
                sending.recipient_incarnation = account.incarnation;
                sending.admission = Admission::Refused;
                // An ordinary message would read the recipient a second time.
                sending.read_again = true;
                self.append_first(sending, now);
            }
            Ok(StoreAnswer::User(_)) => self.take_back_own(sending, now),
            other => self.refuse_send(*sending, &unexpected(other)),
        }
    }

    /// Takes the message back in the sender's own inbox alone, which decides whether it may be.
    pub(super) fn take_back_own(&mut self, mut sending: Box<Sending>, now: Instant) {
        sending.withheld = true;
        self.append_second(sending, now);
    }
}

/// True for a recall that the recipient's inbox refuses: it does not have the message, or takes nothing of the sender.
pub(super) fn is_for_own_inbox_alone(sending: &Sending, failure: &Failure) -> bool {
    let is_recall = sending.takes_back() && !sending.is_to_oneself();
    is_recall && matches!(failure, Failure::Store(StoreFailure::NotFound { .. } | StoreFailure::Forbidden { .. }))
}
