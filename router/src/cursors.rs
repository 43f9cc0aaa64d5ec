//! Acknowledgements, gathered: of many from one device within a short time, the last one is stored.

use std::time::Duration;

use carillon_proto::{DeviceId, Epoch, KeyedMap, UserId};
use tokio::time::Instant;

/// Cursors that are gathered at once; above it all are stored at once.
const MAX: usize = 4096;

/// Those of one partition. `W` waits until its acknowledgement is stored.
pub(crate) struct Cursors<W> {
    waiting: KeyedMap<CursorKey, Cursor<W>>,
    /// When the oldest must be stored.
    due: Option<Instant>,
    pause: Duration,
}

/// Another epoch is another timeline: which one counts is for the store to say.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct CursorKey {
    /// Whose inbox.
    pub(crate) user: UserId,
    pub(crate) device: DeviceId,
    pub(crate) epoch: Epoch,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cursor<W> {
    pub(crate) seq: u64,
    /// Those that this write answers, and the last of their deadlines.
    pub(crate) waiters: Vec<W>,
    pub(crate) deadline: Instant,
}

impl<W> Cursors<W> {
    pub(crate) fn new(pause: Duration) -> Self {
        Self { waiting: KeyedMap::default(), due: None, pause }
    }

    pub(crate) fn add(&mut self, key: CursorKey, seq: u64, waiter: W, now: Instant, deadline: Instant) {
        let cursor = self.waiting.entry(key).or_insert_with(|| Cursor { seq, waiters: Vec::new(), deadline });
        cursor.seq = cursor.seq.max(seq);
        cursor.deadline = cursor.deadline.max(deadline);
        cursor.waiters.push(waiter);
        if self.waiting.len() >= MAX {
            self.due = Some(now);
        }
        self.due.get_or_insert(now + self.pause);
    }

    /// Whoever signs in next must find what was gathered.
    pub(crate) fn hurry(&mut self, now: Instant) {
        if self.due.is_some() {
            self.due = Some(now);
        }
    }

    /// When to call `take`.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// All that is to be stored now, in the order of users and devices.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (CursorKey, Cursor<W>)> + use<W> {
        self.due = None;
        let mut taken: Vec<_> = std::mem::take(&mut self.waiting).into_iter().collect();
        taken.sort_unstable_by(|(a, _), (b, _)| (&a.user, &a.device, a.epoch.0).cmp(&(&b.user, &b.device, b.epoch.0)));
        taken.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(epoch: u64) -> CursorKey {
        CursorKey {
            user: UserId::new("alice").expect("valid"),
            device: DeviceId::new("phone").expect("valid"),
            epoch: Epoch(epoch),
        }
    }

    #[test]
    fn many_acknowledgements_become_one_write_of_the_highest() {
        let now = Instant::now();
        let pause = Duration::from_millis(100);
        let mut cursors = Cursors::new(pause);
        assert_eq!(cursors.due(), None);
        for (waiter, seq) in [(1, 5), (2, 9), (3, 7)] {
            cursors.add(key(1), seq, waiter, now, now + pause * waiter);
        }
        assert_eq!(cursors.due(), Some(now + pause), "counted from the first");
        let taken: Vec<_> = cursors.take().collect();
        assert_eq!(taken, [(key(1), Cursor { seq: 9, waiters: vec![1, 2, 3], deadline: now + pause * 3 })]);
        assert_eq!(cursors.due(), None);
    }

    #[test]
    fn what_is_gathered_can_be_hurried() {
        let now = Instant::now();
        let mut cursors = Cursors::new(Duration::from_millis(100));
        cursors.hurry(now);
        assert_eq!(cursors.due(), None);
        cursors.add(key(1), 5, (), now, now);
        cursors.hurry(now);
        assert_eq!(cursors.due(), Some(now));
    }

    #[test]
    fn epochs_are_kept_apart() {
        let now = Instant::now();
        let mut cursors = Cursors::new(Duration::from_millis(100));
        cursors.add(key(1), 5, (), now, now);
        cursors.add(key(2), 3, (), now, now);
        assert_eq!(cursors.take().count(), 2);
    }

    #[test]
    fn a_full_map_is_due_at_once() {
        let now = Instant::now();
        let mut cursors = Cursors::new(Duration::from_secs(100));
        for epoch in 0..MAX as u64 {
            cursors.add(key(epoch), 1, (), now, now);
        }
        assert_eq!(cursors.due(), Some(now));
    }
}
