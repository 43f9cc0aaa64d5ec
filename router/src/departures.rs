//! Users whose last session has ended with its gateway, of which nobody tells the store: that is done here, if they do not come back. See
//! docs/adr/0027-contacts.md. Does not wait and has no clock.

use std::{collections::VecDeque, time::Duration};

use carillon_proto::UserId;
use tokio::time::Instant;

use crate::session::Session;

/// How long a user may take to come back: most do.
const GRACE: Duration = Duration::from_secs(5);
/// Between two users: a gateway may have had very many.
const EACH: Duration = Duration::from_millis(2);
const AGAIN: Duration = Duration::from_secs(5);
/// How often it is tried to tell the store of one.
const ATTEMPTS: u32 = 20;

/// The end of a user's last session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Departure {
    pub(crate) user: UserId,
    pub(crate) session: Session,
    pub(crate) at: Instant,
    /// The store was told so often, and has not answered.
    attempts: u32,
}

impl Departure {
    pub(crate) fn new(user: UserId, session: Session, at: Instant) -> Self {
        Self { user, session, at, attempts: 0 }
    }
}

/// Of one partition. Bounded by the sessions that were in its register.
#[derive(Default)]
pub(crate) struct Departures {
    /// By time.
    waiting: VecDeque<(Instant, Departure)>,
}

impl Departures {
    pub(crate) fn add(&mut self, departure: Departure, now: Instant) {
        self.push(now + GRACE, departure);
    }

    /// The store has not answered.
    pub(crate) fn failed(&mut self, mut departure: Departure, now: Instant) {
        departure.attempts += 1;
        if departure.attempts < ATTEMPTS {
            self.push(now + AGAIN, departure);
        }
    }

    /// When `take_due` has something.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.waiting.front().map(|(at, _)| *at)
    }

    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<Departure> {
        let due = self.waiting.partition_point(|(at, _)| *at <= now);
        self.waiting.drain(..due).map(|(_, departure)| departure).collect()
    }

    fn push(&mut self, at: Instant, departure: Departure) {
        let last = self.waiting.back().map(|(last, _)| *last + EACH);
        self.waiting.push_back((last.map_or(at, |last| last.max(at)), departure));
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::store;

    use super::*;

    fn departure(number: u64, at: Instant) -> Departure {
        let session = Session::new(&store::Session { connection: number, ..store::Session::default() }, 1);
        Departure::new(UserId::new("alice").expect("valid"), session, at)
    }

    #[test]
    fn many_at_once_are_due_one_after_the_other() {
        let (mut departures, now) = (Departures::default(), Instant::now());
        (0..1_000).for_each(|number| departures.add(departure(number, now), now));
        assert_eq!(departures.due(), Some(now + GRACE));
        assert!(departures.take_due(now + GRACE - EACH).is_empty());
        assert_eq!(departures.take_due(now + GRACE + EACH * 99).len(), 100);
        assert_eq!(departures.take_due(now + GRACE * 2).len(), 900);
        assert_eq!(departures.due(), None);
    }

    #[test]
    fn what_the_store_does_not_answer_is_told_again_so_often() {
        let (mut departures, mut now, mut told) = (Departures::default(), Instant::now(), 0);
        departures.add(departure(1, now), now);
        while let Some(due) = departures.due() {
            now = due;
            for departure in departures.take_due(now) {
                told += 1;
                departures.failed(departure, now);
            }
        }
        assert_eq!(told, ATTEMPTS);
    }
}
