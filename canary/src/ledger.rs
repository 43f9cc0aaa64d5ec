//! A ledger of one account's messages to the other: sent, accepted, arrived. It has no clock and waits for nothing, so rounds can be played in
//! tests.

use std::collections::BTreeMap;

/// The number of messages that are remembered, the newest ones. A delivery of an older one may be its first or its second: nobody knows.
const REMEMBERED: u64 = 1000;

pub(crate) struct Ledger {
    /// Tells the messages of this process from those of others, and one direction from the other.
    prefix: String,
    next: u64,
    highest: Option<u64>,
    sent: BTreeMap<u64, Sent>,
}

#[derive(Default)]
struct Sent {
    accepted: bool,
    arrived: bool,
}

/// A delivery, compared with what was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Of another canary, or of somebody else.
    Foreign,
    /// As it was sent, for the first time and in its turn.
    Right(u64),
    /// As it was sent, but after the deadline of its round.
    Late(u64),
    Wrong(Wrong),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    #[error("message {0} was delivered twice")]
    Doubled(u64),
    #[error("message {0}, which was accepted before message {1} was sent, was delivered after it")]
    Reordered(u64, u64),
    #[error("a message was delivered that was not sent so")]
    Changed,
}

impl Ledger {
    pub(crate) fn new(run: u64, direction: usize) -> Self {
        Self {
            prefix: format!("carillon canary {run:016x} {direction} "),
            next: 1,
            highest: None,
            sent: BTreeMap::new(),
        }
    }

    /// The number and the text of the next message.
    pub(crate) fn next(&mut self) -> (u64, String) {
        let number = self.next;
        self.next += 1;
        self.sent.insert(number, Sent::default());
        while self.sent.len() as u64 > REMEMBERED {
            self.sent.pop_first();
        }
        (number, self.text(number))
    }

    pub(crate) fn accepted(&mut self, number: u64) {
        if let Some(sent) = self.sent.get_mut(&number) {
            sent.accepted = true;
        }
    }

    pub(crate) fn arrived(&mut self, text: &str) -> Arrival {
        let Some(rest) = text.strip_prefix(&self.prefix) else { return Arrival::Foreign };
        let number = rest.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        if number == 0 || number >= self.next || text != self.text(number) {
            return Arrival::Wrong(Wrong::Changed);
        }
        let Some(sent) = self.sent.get_mut(&number) else { return Arrival::Late(number) };
        if std::mem::replace(&mut sent.arrived, true) {
            return Arrival::Wrong(Wrong::Doubled(number));
        }
        match self.highest {
            // A message whose outcome was unknown may have been stored later than the next ones.
            Some(highest) if highest > number && sent.accepted => Arrival::Wrong(Wrong::Reordered(number, highest)),
            Some(highest) if highest > number => Arrival::Late(number),
            _ => {
                self.highest = Some(number);
                if number + 1 == self.next { Arrival::Right(number) } else { Arrival::Late(number) }
            }
        }
    }

    fn text(&self, number: u64) -> String {
        // Something of its own behind the number, so that a part of another message is noticed.
        format!("{}{number} {:016x}", self.prefix, number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(ledger: &mut Ledger, accepted: bool) -> (u64, String) {
        let (number, text) = ledger.next();
        if accepted {
            ledger.accepted(number);
        }
        (number, text)
    }

    #[test]
    fn what_comes_once_and_in_order_is_right_or_late() {
        let mut ledger = Ledger::new(1, 0);
        let (_, first) = sent(&mut ledger, true);
        assert_eq!(ledger.arrived(&first), Arrival::Right(1));
        let ((_, second), (_, third)) = (sent(&mut ledger, true), sent(&mut ledger, true));
        assert_eq!(ledger.arrived(&second), Arrival::Late(2));
        assert_eq!(ledger.arrived(&third), Arrival::Right(3));
    }

    #[test]
    fn what_comes_twice_changed_or_behind_later_ones_is_wrong() {
        let mut ledger = Ledger::new(1, 0);
        let ((_, first), (_, unknown), (_, third)) =
            (sent(&mut ledger, true), sent(&mut ledger, false), sent(&mut ledger, true));
        assert_eq!(ledger.arrived(&third), Arrival::Right(3));
        assert_eq!(ledger.arrived(&third), Arrival::Wrong(Wrong::Doubled(3)));
        assert_eq!(ledger.arrived(&first), Arrival::Wrong(Wrong::Reordered(1, 3)));
        assert_eq!(ledger.arrived(&unknown), Arrival::Late(2), "nobody promised anything of it");
        let (_, fourth) = ledger.next();
        for changed in [format!("{fourth}x"), fourth[..fourth.len() - 1].to_owned(), fourth.replace(" 4 ", " 5 ")] {
            assert_eq!(ledger.arrived(&changed), Arrival::Wrong(Wrong::Changed), "{changed}");
        }
    }

    #[test]
    fn what_others_say_is_nothing() {
        let (mut ledger, mut other) = (Ledger::new(1, 0), Ledger::new(1, 1));
        let (_, text) = other.next();
        assert_eq!(ledger.arrived(&text), Arrival::Foreign);
        assert_eq!(ledger.arrived("hello"), Arrival::Foreign);
    }

    #[test]
    fn little_is_remembered() {
        let mut ledger = Ledger::new(1, 0);
        let (_, first) = sent(&mut ledger, true);
        for _ in 0..2 * REMEMBERED {
            sent(&mut ledger, true);
        }
        assert_eq!(ledger.sent.len() as u64, REMEMBERED);
        assert_eq!(ledger.arrived(&first), Arrival::Late(1));
    }
}
