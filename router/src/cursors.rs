//! Collects acknowledgements: of many that a device sends within a short time, only the last one of each timeline is
//! stored, together with those of its other timelines.

use std::time::Duration;

use carillon_proto::{DeviceId, Epoch, KeyedMap, TimelineId, UserId, limits::MOVED_CURSORS};
use tokio::time::Instant;

/// Most cursors that are collected; at this number all are stored at once.
const MAX: usize = 4096;

/// The cursors of one partition. `W` waits until its acknowledgement is stored.
pub(crate) struct Cursors<W> {
    waiting: KeyedMap<(Device, Life), Gathered<W>>,
    /// When the oldest must be stored.
    due: Option<Instant>,
    pause: Duration,
    /// Number of acknowledgements so far.
    came: u64,
}

/// The device whose cursors one command moves.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Device {
    pub(crate) user: UserId,
    pub(crate) id: DeviceId,
    /// The incarnation of the account; `None` if the device's gateway is of a release that does not send it.
    pub(crate) incarnation: Option<u64>,
}

/// One epoch of a timeline. The store decides which epoch is current.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Life {
    pub(crate) timeline: TimelineId,
    pub(crate) epoch: Epoch,
}

struct Gathered<W> {
    cursor: Cursor<W>,
    /// The number of the last acknowledgement of it.
    last_came: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cursor<W> {
    pub(crate) seq: u64,
    /// The requests that this write answers, and the latest of their deadlines.
    pub(crate) waiters: Vec<W>,
    pub(crate) deadline: Instant,
}

/// The cursors that one command moves: at most `MOVED_CURSORS`, in the order of the acknowledgements.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Moves<W> {
    pub(crate) device: Device,
    pub(crate) cursors: Vec<(Life, Cursor<W>)>,
}

impl<W> Cursors<W> {
    pub(crate) fn new(pause: Duration) -> Self {
        Self { waiting: KeyedMap::default(), due: None, pause, came: 0 }
    }

    pub(crate) fn add(&mut self, (device, life): (Device, Life), seq: u64, waiter: W, now: Instant, deadline: Instant) {
        self.came += 1;
        let gathered = self
            .waiting
            .entry((device, life))
            .or_insert_with(|| Gathered { cursor: Cursor { seq, waiters: Vec::new(), deadline }, last_came: 0 });
        gathered.last_came = self.came;
        let cursor = &mut gathered.cursor;
        cursor.seq = cursor.seq.max(seq);
        cursor.deadline = cursor.deadline.max(deadline);
        cursor.waiters.push(waiter);
        if self.waiting.len() >= MAX {
            self.due = Some(now);
        }
        self.due.get_or_insert(now + self.pause);
    }

    /// The next sign-in must find the collected cursors in the store.
    pub(crate) fn flush_soon(&mut self, now: Instant) {
        if self.due.is_some() {
            self.due = Some(now);
        }
    }

    /// When to call `take`.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Everything that has to be stored now, ordered by user and device.
    pub(crate) fn take(&mut self) -> Vec<Moves<W>> {
        self.due = None;
        let mut taken: Vec<_> = std::mem::take(&mut self.waiting).into_iter().collect();
        taken.sort_unstable_by(|((a, _), of_a), ((b, _), of_b)| {
            a.cmp(b).then_with(|| of_a.last_came.cmp(&of_b.last_came))
        });
        let mut all: Vec<Moves<W>> = Vec::new();
        for ((device, life), Gathered { cursor, .. }) in taken {
            match all.last_mut() {
                Some(moves) if moves.device == device && moves.cursors.len() < MOVED_CURSORS => {
                    moves.cursors.push((life, cursor));
                }
                Some(_) | None => all.push(Moves { device, cursors: vec![(life, cursor)] }),
            }
        }
        all
    }
}

impl<W> Moves<W> {
    /// The last of the deadlines.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.cursors.iter().map(|(_, cursor)| cursor.deadline).max()
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::GroupId;

    use super::*;

    const PAUSE: Duration = Duration::from_millis(100);

    fn alices(device: &str) -> Device {
        Device {
            user: UserId::new("alice").expect("valid"),
            id: DeviceId::new(device).expect("valid"),
            incarnation: Some(0),
        }
    }

    fn inbox(epoch: u64) -> Life {
        Life { timeline: TimelineId::Inbox(alices("phone").user), epoch: Epoch(epoch) }
    }

    fn group(number: usize) -> Life {
        let group = GroupId::new(&format!("group{number}")).expect("valid");
        Life { timeline: TimelineId::Group(group), epoch: Epoch(1) }
    }

    /// Of each command: the device, and which positions of which timelines.
    fn taken(cursors: &mut Cursors<u32>) -> Vec<(Device, Vec<(Life, u64)>)> {
        let of = |moves: Moves<u32>| {
            let lives = moves.cursors.into_iter().map(|(life, cursor)| (life, cursor.seq));
            (moves.device, lives.collect())
        };
        cursors.take().into_iter().map(of).collect()
    }

    #[test]
    fn many_acknowledgements_become_one_write_of_the_highest() {
        let now = Instant::now();
        let mut cursors = Cursors::new(PAUSE);
        assert_eq!(cursors.due(), None);
        for (waiter, seq) in [(1, 5), (2, 9), (3, 7)] {
            cursors.add((alices("phone"), inbox(1)), seq, waiter, now, now + PAUSE * waiter);
        }
        assert_eq!(cursors.due(), Some(now + PAUSE), "counted from the first");
        let taken = cursors.take();
        let cursor = Cursor { seq: 9, waiters: vec![1, 2, 3], deadline: now + PAUSE * 3 };
        assert_eq!(taken, [Moves { device: alices("phone"), cursors: vec![(inbox(1), cursor)] }]);
        assert_eq!(taken[0].deadline(), Some(now + PAUSE * 3));
        assert_eq!(cursors.due(), None);
    }

    #[test]
    fn what_is_gathered_can_be_hurried() {
        let now = Instant::now();
        let mut cursors = Cursors::new(PAUSE);
        cursors.flush_soon(now);
        assert_eq!(cursors.due(), None);
        cursors.add((alices("phone"), inbox(1)), 5, (), now, now);
        cursors.flush_soon(now);
        assert_eq!(cursors.due(), Some(now));
    }

    #[test]
    fn all_timelines_of_a_device_go_together_and_devices_apart() {
        let now = Instant::now();
        let mut cursors = Cursors::new(PAUSE);
        for (device, life) in [("web", group(1)), ("phone", group(2)), ("web", inbox(1)), ("phone", group(1))] {
            cursors.add((alices(device), life), 5, 0, now, now);
        }
        let of_another_owner = Device { incarnation: Some(64), ..alices("web") };
        cursors.add((of_another_owner.clone(), group(1)), 1, 0, now, now);
        let expected = [
            (alices("phone"), vec![(group(2), 5), (group(1), 5)]),
            (alices("web"), vec![(group(1), 5), (inbox(1), 5)]),
            (of_another_owner, vec![(group(1), 1)]),
        ];
        assert_eq!(taken(&mut cursors), expected);
    }

    #[test]
    fn epochs_are_kept_apart_and_the_last_one_that_was_acknowledged_comes_last() {
        let now = Instant::now();
        let mut cursors = Cursors::new(PAUSE);
        for (epoch, seq) in [(1, 5), (2, 3), (1, 6)] {
            cursors.add((alices("phone"), inbox(epoch)), seq, 0, now, now);
        }
        assert_eq!(taken(&mut cursors), [(alices("phone"), vec![(inbox(2), 3), (inbox(1), 6)])]);
    }

    #[test]
    fn more_than_one_command_may_have_go_in_several() {
        let now = Instant::now();
        let mut cursors = Cursors::new(PAUSE);
        for number in 0..2 * MOVED_CURSORS + 1 {
            cursors.add((alices("phone"), group(number)), 1, 0, now, now);
        }
        let counts: Vec<_> = taken(&mut cursors).into_iter().map(|(_, lives)| lives.len()).collect();
        assert_eq!(counts, [MOVED_CURSORS, MOVED_CURSORS, 1]);
    }

    #[test]
    fn a_full_map_is_due_at_once() {
        let now = Instant::now();
        let mut cursors = Cursors::new(Duration::from_secs(100));
        for number in 0..MAX {
            cursors.add((alices("phone"), group(number)), 1, (), now, now);
        }
        assert_eq!(cursors.due(), Some(now));
    }
}
