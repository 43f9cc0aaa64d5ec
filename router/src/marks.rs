//! Collects how far users have read: what the devices of one user move within a short time is stored by one command.

use std::time::Duration;

use bytes::Bytes;
use carillon_proto::{
    KeyedMap, UserId,
    limits::MARKS,
    pb::store::{TimelineKey, move_marks::Mark},
};
use tokio::time::Instant;

/// Most marks that are collected; at this number all are stored at once.
const MAX: usize = 4096;

/// The marks of one partition. `W` waits until its marks are stored.
pub(crate) struct Marks<W> {
    waiting: KeyedMap<Reader, Vec<Gathered<W>>>,
    /// The number of all marks that wait.
    count: usize,
    /// When the oldest must be stored.
    due: Option<Instant>,
    pause: Duration,
}

/// One owner of a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Reader {
    pub(crate) user: UserId,
    pub(crate) incarnation: u64,
}

struct Gathered<W> {
    /// By kind and owner of the conversation: the place among the marks.
    places: KeyedMap<(i32, Bytes), usize>,
    moves: MarkMoves<W>,
}

/// The marks that one command moves: at most `MARKS`, each conversation once.
#[derive(Debug, PartialEq)]
pub(crate) struct MarkMoves<W> {
    pub(crate) reader: Reader,
    pub(crate) marks: Vec<Mark>,
    /// The requests that this write answers, and the latest of their deadlines.
    pub(crate) waiters: Vec<W>,
    pub(crate) deadline: Instant,
}

impl<W> Marks<W> {
    pub(crate) fn new(pause: Duration) -> Self {
        Self { waiting: KeyedMap::default(), count: 0, due: None, pause }
    }

    /// `marks`: at most `MARKS`, so that one command has room for them.
    pub(crate) fn add(&mut self, reader: Reader, marks: Vec<Mark>, waiter: W, now: Instant, deadline: Instant) {
        let all = self.waiting.entry(reader.clone()).or_default();
        if all.last().is_none_or(|last| last.moves.marks.len() + marks.len() > MARKS) {
            let moves = MarkMoves { reader, marks: Vec::new(), waiters: Vec::new(), deadline };
            all.push(Gathered { places: KeyedMap::default(), moves });
        }
        if let Some(gathered) = all.last_mut() {
            let before = gathered.moves.marks.len();
            marks.into_iter().for_each(|mark| gathered.add(mark));
            gathered.moves.waiters.push(waiter);
            gathered.moves.deadline = gathered.moves.deadline.max(deadline);
            self.count += gathered.moves.marks.len() - before;
        }
        if self.count >= MAX {
            self.due = Some(now);
        }
        self.due.get_or_insert(now + self.pause);
    }

    /// When to call `take`.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Everything that has to be stored now, ordered by user.
    pub(crate) fn take(&mut self) -> Vec<MarkMoves<W>> {
        (self.due, self.count) = (None, 0);
        let mut taken: Vec<_> = std::mem::take(&mut self.waiting).into_iter().collect();
        taken.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        taken.into_iter().flat_map(|(_, all)| all).map(|gathered| gathered.moves).collect()
    }
}

impl<W> Gathered<W> {
    /// Of two marks of one conversation the higher one is stored, or the later one if they are of different epochs.
    fn add(&mut self, mark: Mark) {
        let TimelineKey { kind, owner } = mark.conversation.clone().unwrap_or_default();
        match self.places.get(&(kind, owner.clone())) {
            Some(place) => {
                let known = &mut self.moves.marks[*place];
                if known.epoch != mark.epoch || known.seq < mark.seq {
                    *known = mark;
                }
            }
            None => {
                self.places.insert((kind, owner), self.moves.marks.len());
                self.moves.marks.push(mark);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::store::timeline_key::Kind;

    use super::*;

    const PAUSE: Duration = Duration::from_millis(100);

    fn reader(user: &str) -> Reader {
        Reader { user: UserId::new(user).expect("valid"), incarnation: 3 }
    }

    fn mark(with: &str, epoch: u64, seq: u64) -> Mark {
        let conversation = Some(TimelineKey { kind: Kind::Inbox.into(), owner: with.to_owned().into() });
        Mark { conversation, epoch, seq }
    }

    #[test]
    fn marks_of_all_devices_become_one_write_of_the_highest() {
        let now = Instant::now();
        let mut marks = Marks::new(PAUSE);
        assert_eq!(marks.due(), None);
        marks.add(reader("alice"), vec![mark("bob", 1, 5), mark("carol", 1, 6)], 1, now, now + PAUSE);
        marks.add(reader("alice"), vec![mark("bob", 1, 4), mark("carol", 1, 9)], 2, now, now);
        marks.add(reader("bob"), vec![mark("alice", 1, 1)], 3, now, now);
        assert_eq!(marks.due(), Some(now + PAUSE), "counted from the first");
        let moves = |user, marks, waiters, deadline| MarkMoves { reader: reader(user), marks, waiters, deadline };
        let expected = [
            moves("alice", vec![mark("bob", 1, 5), mark("carol", 1, 9)], vec![1, 2], now + PAUSE),
            moves("bob", vec![mark("alice", 1, 1)], vec![3], now),
        ];
        assert_eq!(marks.take(), expected);
        assert_eq!((marks.due(), marks.take()), (None, vec![]));
    }

    #[test]
    fn of_two_epochs_the_one_that_came_last_is_stored() {
        let now = Instant::now();
        let mut marks = Marks::new(PAUSE);
        marks.add(reader("alice"), vec![mark("bob", 1, 5)], (), now, now);
        marks.add(reader("alice"), vec![mark("bob", 2, 3)], (), now, now);
        assert_eq!(marks.take()[0].marks, [mark("bob", 2, 3)]);
    }

    #[test]
    fn more_than_one_command_may_have_go_in_several_and_very_many_go_at_once() {
        let now = Instant::now();
        let mut marks = Marks::new(PAUSE);
        for chunk in 0..MAX / MARKS {
            assert_ne!(marks.due(), Some(now));
            let of = |n| mark(&format!("user{n}"), 1, 1);
            let chunk: Vec<_> = (chunk * MARKS..(chunk + 1) * MARKS).map(of).collect();
            marks.add(reader("alice"), chunk, (), now, now);
        }
        assert_eq!(marks.due(), Some(now));
        assert!(marks.take().iter().all(|moves| moves.marks.len() == MARKS));
    }
}
