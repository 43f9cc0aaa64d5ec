//! Remembers how far dropped deliveries reached, and reports it when there is room again.

use std::{
    collections::BTreeMap,
    task::{Context, Poll, Waker},
};

use carillon_proto::pb::{client::Position, link::Behind};
use parking_lot::Mutex;

use crate::delivery::Delivery;

/// Most users whose drops are remembered, some 100 bytes each. Beyond it all are forgotten, and the receiver learns
/// that any user may have missed something.
const USERS: usize = 65_536;

/// Remembers, for each key `K` (a user), the latest of the dropped values.
pub(crate) struct Missed<K, T> {
    state: Mutex<State<K, T>>,
}

struct State<K, T> {
    missed: BTreeMap<K, T>,
    overflowed: bool,
    waker: Option<Waker>,
}

/// A value that can stand for several.
pub(crate) trait Merges {
    fn merge(&mut self, newer: Self);
}

/// What to report now.
pub(crate) enum Taken<T> {
    Some(Vec<T>),
    /// There were more drops than can be remembered.
    Anybody,
}

impl<K, T> Default for Missed<K, T> {
    fn default() -> Self {
        Self { state: Mutex::new(State { missed: BTreeMap::new(), overflowed: false, waker: None }) }
    }
}

impl<K: Ord, T: Merges> Missed<K, T> {
    pub(crate) fn note(&self, key: K, missed: T) {
        let mut state = self.state.lock();
        if state.overflowed {
            return;
        }
        if let Some(known) = state.missed.get_mut(&key) {
            known.merge(missed);
        } else if state.missed.len() < USERS {
            state.missed.insert(key, missed);
        } else {
            state.missed = BTreeMap::new();
            state.overflowed = true;
        }
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Takes at most `limit` values.
    pub(crate) fn poll_take(&self, context: &mut Context<'_>, limit: usize) -> Poll<Taken<T>> {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.overflowed) {
            return Poll::Ready(Taken::Anybody);
        }
        if state.missed.is_empty() {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        if state.missed.len() <= limit {
            let all = std::mem::take(&mut state.missed);
            return Poll::Ready(Taken::Some(all.into_values().collect()));
        }
        let now = std::iter::from_fn(|| state.missed.pop_first()).take(limit);
        Poll::Ready(Taken::Some(now.map(|(_, missed)| missed).collect()))
    }
}

impl Merges for Behind {
    fn merge(&mut self, newer: Self) {
        // Another incarnation belongs to another account: the name has a new owner.
        if newer.incarnation > self.incarnation {
            *self = newer;
        } else if newer.incarnation == self.incarnation {
            self.position = later(self.position, newer.position);
        }
    }
}

impl Merges for Delivery {
    fn merge(&mut self, newer: Self) {
        if newer.incarnation > self.incarnation {
            *self = newer;
        } else if newer.incarnation == self.incarnation {
            self.position = later(Some(self.position), Some(newer.position)).unwrap_or_default();
            self.except = self.except.filter(|except| newer.except.as_ref() == Some(except));
            self.passed_on |= newer.passed_on;
        }
    }
}

/// The later of two positions; if the epochs differ, that of `newer`.
fn later(known: Option<Position>, newer: Option<Position>) -> Option<Position> {
    match (known, newer) {
        (Some(known), Some(newer)) if known.epoch == newer.epoch && known.seq > newer.seq => Some(known),
        (known, newer) => newer.or(known),
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use bytes::Bytes;
    use carillon_proto::{TimelineId, UserId};

    use super::*;

    fn behind(incarnation: u64, seq: u64) -> Behind {
        Behind { position: Some(Position { epoch: 1, seq }), incarnation, ..Behind::default() }
    }

    fn take(missed: &Missed<u64, Behind>, limit: usize) -> Option<Vec<Behind>> {
        match missed.poll_take(&mut Context::from_waker(Waker::noop()), limit) {
            Poll::Ready(Taken::Some(taken)) => Some(taken),
            Poll::Ready(Taken::Anybody) => None,
            Poll::Pending => Some(Vec::new()),
        }
    }

    #[test]
    fn many_drops_of_one_timeline_are_told_as_one() {
        let missed = Missed::default();
        for seq in [5, 9, 7] {
            missed.note(0, behind(1, seq));
        }
        assert_eq!(take(&missed, 10), Some(vec![behind(1, 9)]));
        assert_eq!(take(&missed, 10), Some(vec![]));
    }

    #[test]
    fn of_two_owners_of_a_name_the_newer_one_is_told_of_its_own_inbox() {
        for (first, second) in [((1, 9), (2, 3)), ((2, 3), (1, 9))] {
            let missed = Missed::default();
            for (incarnation, seq) in [first, second] {
                missed.note(0, behind(incarnation, seq));
            }
            assert_eq!(take(&missed, 10), Some(vec![behind(2, 3)]));
        }
    }

    #[test]
    fn a_delivery_that_another_router_passed_on_stays_one_when_it_is_merged() {
        let delivery = |seq, passed_on| Delivery {
            timeline: TimelineId::Inbox(UserId::new("bob").expect("valid")),
            incarnation: 1,
            position: Position { epoch: 1, seq },
            envelope: Bytes::new(),
            traceparent: String::new(),
            except: None,
            passed_on,
        };
        let mut merged = delivery(1, true);
        merged.merge(delivery(2, false));
        assert_eq!(merged, delivery(2, true));
        merged = delivery(1, false);
        merged.merge(delivery(2, true));
        assert_eq!(Delivery::of_hint(merged.into_hint()), Some(delivery(2, true)));
    }

    #[test]
    fn no_more_is_told_at_once_than_there_is_room_for() {
        let missed = Missed::default();
        (0..100).for_each(|user| missed.note(user, behind(1, user)));
        let mut told = Vec::new();
        loop {
            let some = take(&missed, 30).expect("few");
            assert_eq!(some.len(), 30.min(100 - told.len()));
            if some.is_empty() {
                break;
            }
            told.extend(some.into_iter().filter_map(|behind| behind.position).map(|position| position.seq));
        }
        told.sort_unstable();
        assert_eq!(told, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_too_much_to_remember_is_told_as_that() {
        let missed = Missed::default();
        (0..=USERS as u64).for_each(|user| missed.note(user, behind(1, 1)));
        assert_eq!(take(&missed, 10), None);
        assert_eq!(take(&missed, 10), Some(vec![]));
    }
}
