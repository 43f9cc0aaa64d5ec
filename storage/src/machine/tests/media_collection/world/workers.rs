//! Sweeps, and workers who carry out rows of the outbox late, twice, or not at all.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use carillon_proto::{
    MediaId,
    pb::store::{
        CheckMedia, CollectMedia, FindMediaHolders, ForgetReleasedMedia, NoteReleasedMedia, OutboxRow, ReadHeldMedia,
        ReadOutbox, RemoveMedia, SettleOutbox, SettleScheduled,
        outbox_row::Task,
        settle_outbox::{Settled, Verdict},
        timeline_command::Op,
    },
};

use super::{CHECK_MS, Planned, World, home, retention};
use crate::machine::{
    DueMedia, Outcome,
    tests::media_collection::acts::{SHARDS, USERS},
};

/// A worker that finds out who holds files.
pub(super) struct Asking {
    home: usize,
    place: (u64, u32),
    check: u64,
    unheld: BTreeSet<Bytes>,
    held: Vec<Bytes>,
    asked: usize,
    began_ms: u64,
}

impl World {
    pub(super) fn sweep(&mut self, shard: usize, limit: usize) {
        let reader = &self.shards[shard].reader;
        let (due, _) = reader.due_media(&[], &retention(), limit).expect("reads");
        let released = reader.released_media(&retention(), limit).expect("reads");
        let (mut files, mut ids) = (Vec::new(), Vec::new());
        for due in due {
            match due {
                DueMedia::Removed(seen) => files.push(seen),
                DueMedia::Checked(id) => ids.push(id),
            }
        }
        if !files.is_empty() {
            self.apply(shard, Op::RemoveMedia(RemoveMedia { files }));
        }
        if !ids.is_empty() {
            self.apply(shard, Op::CheckMedia(CheckMedia { ids }));
        }
        if !released.is_empty() {
            self.apply(shard, Op::ForgetReleasedMedia(ForgetReleasedMedia { files: released }));
        }
    }

    pub(super) fn outbox(&self, shard: usize) -> Vec<((u64, u32), OutboxRow)> {
        let rows = self.shards[shard].reader.outbox(&ReadOutbox::default()).expect("reads").rows;
        rows.into_iter().map(|row| ((row.index, row.number), row.row.expect("has one"))).collect()
    }

    fn settle(&mut self, shard: usize, (index, number): (u64, u32)) {
        let done = Settled { index, number, verdict: Verdict::Done.into(), why: String::new() };
        self.apply(shard, Op::SettleOutbox(SettleOutbox { rows: vec![done] }));
    }

    pub(super) fn work(&mut self, shard: usize, place: (u64, u32), row: OutboxRow, again: bool, dies: bool) {
        match row.task.expect("a task") {
            Task::RemoveObjects(remove) => {
                self.removed.extend(remove.ids.iter().filter_map(|id| MediaId::from_bytes(id)));
            }
            Task::MediaReleased(released) => {
                let mut of_shard: BTreeMap<usize, Vec<Bytes>> = BTreeMap::new();
                for id in released.ids {
                    of_shard.entry(home(&MediaId::from_bytes(&id).expect("an id"))).or_default().push(id);
                }
                for (home, ids) in of_shard {
                    let op = Op::NoteReleasedMedia(NoteReleasedMedia { ids });
                    self.apply(home, op.clone());
                    if again {
                        self.late.push((home, op, u64::MAX));
                    }
                }
            }
            Task::FindMediaHolders(FindMediaHolders { ids, check }) => {
                let unheld = ids.into_iter().collect();
                let (held, began_ms) = (Vec::new(), self.now_ms);
                self.asking.push(Asking { home: shard, place, check, unheld, held, asked: 0, began_ms });
                return;
            }
            Task::SendScheduled(send) => {
                let settle = SettleScheduled { number: send.number, id: send.id, failed: String::new() };
                let user = send.sender.expect("a user").user;
                let outcome = self.apply(shard, Op::SettleScheduled(settle));
                if matches!(outcome, Outcome::ScheduledChanged(changed) if changed.changed) {
                    let is_sent = |planned: &Planned| {
                        planned.shard == shard
                            && USERS[planned.user] == user
                            && planned.id == send.id
                            && planned.is_sending
                    };
                    let gone = self.planned.iter().filter(|planned| is_sent(planned));
                    let gone = gone.flat_map(|planned| planned.media.clone()).collect();
                    self.planned.retain(|planned| !is_sent(planned));
                    self.released(gone);
                }
            }
            other => panic!("unexpected: {other:?}"),
        }
        if !dies {
            self.settle(shard, place);
        }
    }

    pub(super) fn ask(&mut self, at: usize, again: bool) {
        // The calls of a worker have deadlines.
        if self.now_ms > self.asking[at].began_ms + CHECK_MS {
            self.asking.remove(at);
            return;
        }
        let asking = &mut self.asking[at];
        let shard = (asking.home + asking.asked) % SHARDS;
        let read = ReadHeldMedia { ids: asking.unheld.iter().cloned().collect() };
        let held = self.shards[shard].reader.held_media(&read).expect("reads").ids;
        asking.held.extend(held.into_iter().filter(|id| asking.unheld.remove(id)));
        asking.asked += 1;
        if asking.asked < SHARDS && !asking.unheld.is_empty() {
            return;
        }
        let Asking { home, place, check, unheld, held, began_ms, .. } = self.asking.remove(at);
        let op = Op::CollectMedia(CollectMedia { check, held, unheld: unheld.into_iter().collect() });
        if again {
            self.late.push((home, op.clone(), began_ms + CHECK_MS));
        }
        assert!(matches!(self.apply(home, op), Outcome::Done(_)));
        self.settle(home, place);
    }
}
