//! Messages of which their senders want to hear when a device of the recipient has them. Soft: what is forgotten here is read from the
//! recipient's inbox by whoever asks.

use std::collections::VecDeque;

use carillon_proto::{KeyedMap, UserId, pb::client::Position};

/// Most messages that are remembered. Further ones are not.
const MAX: usize = 65_536;
/// Most of them in one inbox. The oldest ones are forgotten.
const OF_ONE: usize = 256;

#[derive(Default)]
pub(crate) struct Undelivered {
    inboxes: KeyedMap<UserId, VecDeque<Undelivering>>,
    count: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Undelivering {
    /// In the recipient's inbox.
    pub(crate) position: Position,
    pub(crate) sender: UserId,
    /// Of the sender's account.
    pub(crate) incarnation: u64,
    pub(crate) message_id: String,
}

impl Undelivered {
    pub(crate) fn add(&mut self, recipient: &UserId, message: Undelivering) {
        if self.count >= MAX {
            return;
        }
        let inbox = self.inboxes.entry(recipient.clone()).or_default();
        if inbox.len() == OF_ONE {
            inbox.pop_front();
            self.count -= 1;
        }
        inbox.push_back(message);
        self.count += 1;
    }

    /// Of each sender the last message that a device has which has everything up to there.
    pub(crate) fn take(&mut self, recipient: &UserId, upto: Position) -> Vec<Undelivering> {
        let Some(inbox) = self.inboxes.get_mut(recipient) else { return Vec::new() };
        let mut last: Vec<Undelivering> = Vec::new();
        let before = inbox.len();
        inbox.retain(|message| {
            // A message of another epoch is not delivered any more.
            if message.position.epoch == upto.epoch && message.position.seq > upto.seq {
                return true;
            }
            if message.position.epoch == upto.epoch {
                last.retain(|of| (&of.sender, of.incarnation) != (&message.sender, message.incarnation));
                last.push(message.clone());
            }
            false
        });
        self.count -= before - inbox.len();
        if inbox.is_empty() {
            self.inboxes.remove(recipient);
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).expect("valid")
    }

    fn message(sender: &str, epoch: u64, seq: u64) -> Undelivering {
        let position = Position { epoch, seq };
        Undelivering { position, sender: user(sender), incarnation: 1, message_id: format!("{sender}{seq}") }
    }

    #[test]
    fn each_sender_hears_of_the_last_message_that_has_arrived_and_once() {
        let mut undelivered = Undelivered::default();
        for of in [("alice", 1), ("carol", 2), ("alice", 3), ("carol", 4)] {
            undelivered.add(&user("bob"), message(of.0, 1, of.1));
        }
        let at = |seq| Position { epoch: 1, seq };
        assert_eq!(undelivered.take(&user("carol"), at(9)), []);
        assert_eq!(undelivered.take(&user("bob"), at(3)), [message("carol", 1, 2), message("alice", 1, 3)]);
        assert_eq!(undelivered.take(&user("bob"), at(3)), []);
        assert_eq!(undelivered.take(&user("bob"), at(9)), [message("carol", 1, 4)]);
        assert_eq!((undelivered.count, undelivered.inboxes.len()), (0, 0));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_ends_with_its_epoch() {
        let mut undelivered = Undelivered::default();
        (0..2 * OF_ONE as u64).for_each(|seq| undelivered.add(&user("bob"), message("alice", 1, seq)));
        assert_eq!(undelivered.count, OF_ONE);
        assert_eq!(undelivered.take(&user("bob"), Position { epoch: 2, seq: 1 }), []);
        assert_eq!(undelivered.count, 0);
        for n in 0..=MAX {
            undelivered.add(&user(&format!("user{n}")), message("alice", 1, 1));
        }
        assert_eq!(undelivered.count, MAX);
    }
}
