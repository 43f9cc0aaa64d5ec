//! What was dropped because a queue was full: how far it reached is remembered, and told when there is room again.

use std::{
    collections::HashMap,
    hash::Hash,
    task::{Context, Poll, Waker},
};

use carillon_proto::pb::{client::Position, link::Behind};
use parking_lot::Mutex;

use crate::delivery::Delivery;

/// Users whose drops are remembered, some 100 bytes each. When there are more, all are forgotten, and whoever takes them
/// hears that anybody may have missed something.
const USERS: usize = 65_536;

/// By `K`, which is whom it concerns.
pub(crate) struct Missed<K, T> {
    state: Mutex<State<K, T>>,
}

struct State<K, T> {
    missed: HashMap<K, T>,
    overflowed: bool,
    waker: Option<Waker>,
}

/// Something that takes the place of several of its kind.
pub(crate) trait Merges {
    fn merge(&mut self, newer: Self);
}

/// What is to be told now.
pub(crate) enum Taken<T> {
    Some(Vec<T>),
    /// There was more than can be remembered.
    Anybody,
}

impl<K, T> Default for Missed<K, T> {
    fn default() -> Self {
        Self { state: Mutex::new(State { missed: HashMap::new(), overflowed: false, waker: None }) }
    }
}

impl<K: Hash + Eq, T: Merges> Missed<K, T> {
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
            state.missed = HashMap::new();
            state.overflowed = true;
        }
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// At most `limit` of them.
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
        let mut left = limit;
        let now = state.missed.extract_if(|_, _| {
            left = left.saturating_sub(1);
            left > 0
        });
        Poll::Ready(Taken::Some(now.map(|(_, missed)| missed).collect()))
    }
}

impl Merges for Behind {
    fn merge(&mut self, newer: Self) {
        let known = &mut self.connections;
        for connection in newer.connections {
            if !known.contains(&connection) {
                known.push(connection);
            }
        }
        // Of another account: the name has another owner.
        self.position = match newer.incarnation > self.incarnation {
            true => newer.position,
            false => later(self.position, newer.position),
        };
        self.incarnation = self.incarnation.max(newer.incarnation);
    }
}

impl Merges for Delivery {
    fn merge(&mut self, newer: Self) {
        if newer.incarnation > self.incarnation {
            *self = newer;
        } else if newer.incarnation == self.incarnation {
            self.position = later(Some(self.position), Some(newer.position)).unwrap_or_default();
            self.except = self.except.filter(|except| newer.except.as_ref() == Some(except));
        }
    }
}

/// Of two lives of a timeline, the one that was heard of last.
fn later(known: Option<Position>, newer: Option<Position>) -> Option<Position> {
    match (known, newer) {
        (Some(known), Some(newer)) if known.epoch == newer.epoch && known.seq > newer.seq => Some(known),
        (known, newer) => newer.or(known),
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn behind(connections: &[u64], seq: u64) -> Behind {
        let position = Some(Position { epoch: 1, seq });
        Behind { connections: connections.to_vec(), position, ..Behind::default() }
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
        for (connections, seq) in [(&[1][..], 5), (&[1, 2], 9), (&[3], 7)] {
            missed.note(0, behind(connections, seq));
        }
        assert_eq!(take(&missed, 10), Some(vec![behind(&[1, 2, 3], 9)]));
        assert_eq!(take(&missed, 10), Some(vec![]));
    }

    #[test]
    fn no_more_is_told_at_once_than_there_is_room_for() {
        let missed = Missed::default();
        (0..100).for_each(|user| missed.note(user, behind(&[user], 1)));
        let mut told = Vec::new();
        loop {
            let some = take(&missed, 30).expect("few");
            assert!(some.len() <= 30);
            if some.is_empty() {
                break;
            }
            told.extend(some.into_iter().flat_map(|behind| behind.connections));
        }
        told.sort_unstable();
        assert_eq!(told, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_too_much_to_remember_is_told_as_that() {
        let missed = Missed::default();
        (0..=USERS as u64).for_each(|user| missed.note(user, behind(&[user], 1)));
        assert_eq!(take(&missed, 10), None);
        assert_eq!(take(&missed, 10), Some(vec![]));
    }
}
