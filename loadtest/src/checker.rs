//! Compares what was accepted with what each device was shown.
//!
//! A *flow* is the messages of one sending device to one recipient, numbered from 1. For each flow the checker keeps how
//! each send ended, and for each device that watches it how far it is and what it has skipped. Memory: one byte for each
//! message of a flow, and one entry for each message that a device has skipped and not seen since.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
};

/// The messages of one sender to one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    pub sender: String,
    pub recipient: String,
}

/// A device that watches flows: user and device name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Watcher {
    pub user: String,
    pub device: String,
}

/// How a send ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It must be delivered.
    Accepted,
    /// It must not be delivered.
    Refused,
    /// It may be delivered, once.
    Unknown,
}

/// What went wrong. Each is a broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    Lost {
        watcher: Watcher,
        flow: Flow,
        counter: u64,
    },
    Doubled {
        watcher: Watcher,
        flow: Flow,
        counter: u64,
    },
    /// Shown after `after`, which was sent later.
    Reordered {
        watcher: Watcher,
        flow: Flow,
        counter: u64,
        after: u64,
    },
    /// Never sent, or refused.
    Invented {
        watcher: Watcher,
        flow: Flow,
        counter: u64,
    },
    Corrupted {
        watcher: Watcher,
        why: String,
    },
    /// A position that was not the next one.
    Gap {
        watcher: Watcher,
        expected: u64,
        got: u64,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, watcher, flow, counter) = match self {
            Self::Lost { watcher, flow, counter } => ("lost", watcher, flow, counter),
            Self::Doubled { watcher, flow, counter } => ("doubled", watcher, flow, counter),
            Self::Reordered { watcher, flow, counter, after } => {
                let (user, device) = (&watcher.user, &watcher.device);
                let (sender, recipient) = (&flow.sender, &flow.recipient);
                return write!(f, "reordered: {user}/{device}: {sender} -> {recipient} #{counter} after #{after}");
            }
            Self::Invented { watcher, flow, counter } => ("invented", watcher, flow, counter),
            Self::Corrupted { watcher, why } => {
                return write!(f, "corrupted: {}/{}: {why}", watcher.user, watcher.device);
            }
            Self::Gap { watcher, expected, got } => {
                return write!(f, "gap: {}/{}: position {got} after {}", watcher.user, watcher.device, expected - 1);
            }
        };
        write!(f, "{what}: {}/{}: {} -> {} #{counter}", watcher.user, watcher.device, flow.sender, flow.recipient)
    }
}

/// Counts of a finished run.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    pub sent: u64,
    pub accepted: u64,
    pub refused: u64,
    pub unknown: u64,
    pub delivered: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Pending,
    Ended(Outcome),
}

#[derive(Default)]
struct Seen {
    /// The highest counter seen.
    last: u64,
    /// Below `last` and not seen.
    skipped: BTreeSet<u64>,
}

/// See the module.
#[derive(Default)]
pub struct Checker {
    flows: HashMap<Flow, Vec<State>>,
    seen: HashMap<(Watcher, Flow), Seen>,
    positions: HashMap<Watcher, u64>,
    violations: Vec<Violation>,
    delivered: u64,
}

impl Checker {
    /// Notes a new send of the flow and gives its counter.
    pub fn sending(&mut self, flow: &Flow) -> u64 {
        let states = self.flows.entry(flow.clone()).or_default();
        states.push(State::Pending);
        states.len() as u64
    }

    pub fn ended(&mut self, flow: &Flow, counter: u64, outcome: Outcome) {
        if let Some(state) = self.flows.get_mut(flow).and_then(|states| states.get_mut(counter as usize - 1)) {
            *state = State::Ended(outcome);
        }
    }

    /// This device was shown position `seq` (delivered, or its own by `Accepted`).
    pub fn position(&mut self, watcher: &Watcher, seq: u64) {
        let last = self.positions.entry(watcher.clone()).or_insert(seq - 1);
        if seq != *last + 1 {
            self.violations.push(Violation::Gap { watcher: watcher.clone(), expected: *last + 1, got: seq });
        }
        *last = seq;
    }

    /// This device was shown this message.
    pub fn delivered(&mut self, watcher: &Watcher, flow: &Flow, counter: u64) {
        self.delivered += 1;
        let (watcher, flow) = (watcher.clone(), flow.clone());
        let state = counter.checked_sub(1).and_then(|at| self.flows.get(&flow)?.get(at as usize)).copied();
        if matches!(state, None | Some(State::Ended(Outcome::Refused))) {
            self.violations.push(Violation::Invented { watcher, flow, counter });
            return;
        }
        let seen = self.seen.entry((watcher.clone(), flow.clone())).or_default();
        if counter > seen.last {
            seen.skipped.extend(seen.last + 1..counter);
            seen.last = counter;
        } else if seen.skipped.remove(&counter) {
            let after = seen.last;
            self.violations.push(Violation::Reordered { watcher, flow, counter, after });
        } else {
            self.violations.push(Violation::Doubled { watcher, flow, counter });
        }
    }

    pub fn corrupted(&mut self, watcher: &Watcher, why: String) {
        self.violations.push(Violation::Corrupted { watcher: watcher.clone(), why });
    }

    /// Has this device been shown everything that was accepted in the flow so far?
    pub fn complete(&self, watcher: &Watcher, flow: &Flow) -> bool {
        self.missing(watcher, flow).next().is_none()
    }

    fn missing<'a>(&'a self, watcher: &Watcher, flow: &Flow) -> impl Iterator<Item = u64> + 'a {
        let seen = self.seen.get(&(watcher.clone(), flow.clone()));
        let states = self.flows.get(flow).map(Vec::as_slice).unwrap_or_default();
        states.iter().zip(1u64..).filter_map(move |(state, counter)| {
            let shown = seen.is_some_and(|seen| counter <= seen.last && !seen.skipped.contains(&counter));
            (*state == State::Ended(Outcome::Accepted) && !shown).then_some(counter)
        })
    }

    /// What went wrong, after all that was accepted should have come to these devices.
    pub fn finish(&self, watching: &[(Watcher, Flow)]) -> (Summary, Vec<Violation>) {
        let mut violations = self.violations.clone();
        for (watcher, flow) in watching {
            violations.extend(self.missing(watcher, flow).map(|counter| Violation::Lost {
                watcher: watcher.clone(),
                flow: flow.clone(),
                counter,
            }));
        }
        let mut summary = Summary { delivered: self.delivered, ..Summary::default() };
        for state in self.flows.values().flatten() {
            summary.sent += 1;
            match state {
                State::Ended(Outcome::Accepted) => summary.accepted += 1,
                State::Ended(Outcome::Refused) => summary.refused += 1,
                State::Ended(Outcome::Unknown) | State::Pending => summary.unknown += 1,
            }
        }
        (summary, violations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(sent: u64) -> (Checker, Watcher, Flow) {
        let flow = Flow { sender: "alice".into(), recipient: "bob".into() };
        let watcher = Watcher { user: "bob".into(), device: "d".into() };
        let mut checker = Checker::default();
        for _ in 0..sent {
            let counter = checker.sending(&flow);
            checker.ended(&flow, counter, Outcome::Accepted);
        }
        (checker, watcher, flow)
    }

    fn violations(checker: &Checker, watcher: &Watcher, flow: &Flow) -> Vec<Violation> {
        checker.finish(&[(watcher.clone(), flow.clone())]).1
    }

    #[test]
    fn all_in_order_is_clean() {
        let (mut checker, watcher, flow) = setup(3);
        for counter in 1..=3 {
            assert!(!checker.complete(&watcher, &flow));
            checker.delivered(&watcher, &flow, counter);
        }
        assert!(checker.complete(&watcher, &flow));
        assert_eq!(violations(&checker, &watcher, &flow), []);
    }

    #[test]
    fn each_kind_of_violation_is_told_apart() {
        let (mut checker, watcher, flow) = setup(4);
        let unknown = checker.sending(&flow);
        checker.ended(&flow, unknown, Outcome::Unknown);
        let refused = checker.sending(&flow);
        checker.ended(&flow, refused, Outcome::Refused);
        for counter in [2, 1, 2, 4, 9, refused] {
            checker.delivered(&watcher, &flow, counter);
        }
        let (w, f) = (watcher.clone(), flow.clone());
        let with = |counter| (w.clone(), f.clone(), counter);
        let expected = [
            {
                let (watcher, flow, counter) = with(1);
                Violation::Reordered { watcher, flow, counter, after: 2 }
            },
            {
                let (watcher, flow, counter) = with(2);
                Violation::Doubled { watcher, flow, counter }
            },
            {
                let (watcher, flow, counter) = with(9);
                Violation::Invented { watcher, flow, counter }
            },
            {
                let (watcher, flow, counter) = with(refused);
                Violation::Invented { watcher, flow, counter }
            },
            {
                let (watcher, flow, counter) = with(3);
                Violation::Lost { watcher, flow, counter }
            },
        ];
        assert_eq!(violations(&checker, &watcher, &flow), expected);
    }

    #[test]
    fn a_position_that_is_not_the_next_is_a_gap() {
        let (mut checker, watcher, flow) = setup(0);
        for seq in [5, 6, 8] {
            checker.position(&watcher, seq);
        }
        assert_eq!(violations(&checker, &watcher, &flow), [Violation::Gap { watcher, expected: 7, got: 8 }]);
    }
}
