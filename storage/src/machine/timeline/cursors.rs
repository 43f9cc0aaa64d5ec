//! How far each device has taken the timelines that it follows: its user's inbox, which is in this shard, and groups.

use std::io;

use carillon_proto::{
    Level,
    pb::store::{MoveCursors, SetCursor, SweepCursors, move_cursors::Moved, rejected::Reason},
};

use super::{Batch, CachedTimeline, Outcome, TimelineState, done, rejected, timeline_key};
use crate::machine::{
    broken,
    keys::{self, Cursor, GroupCursor},
};

/// Most groups in which a device has a cursor. Replicas with different numbers would diverge: a change needs a new
/// level.
pub(in crate::machine) const GROUP_CURSORS: u64 = 4096;

impl Batch<'_> {
    pub(super) fn set_cursor(&mut self, op: &SetCursor) -> io::Result<Outcome> {
        let key = timeline_key(op.timeline.as_ref())?;
        if let Some(CachedTimeline { state, .. }) = self.held(&key)? {
            self.move_in_timeline(&state, &op.device, op.epoch, op.seq)?;
        }
        Ok(done())
    }

    pub(super) fn move_cursors(&mut self, op: &MoveCursors) -> io::Result<Outcome> {
        let key = timeline_key(op.timeline.as_ref())?;
        let state = match self.held(&key)? {
            Some(CachedTimeline { state, .. }) if op.incarnation < state.incarnation => {
                return Ok(rejected(Reason::Gone, "the inbox of this user has ended"));
            }
            Some(CachedTimeline { state, .. }) if state.number != 0 && state.incarnation == op.incarnation => state,
            Some(_) | None => return Ok(rejected(Reason::NotFound, "the user has no inbox yet")),
        };
        // Known when the first new cursor comes.
        let mut count = None;
        let mut left_out = 0;
        for moved in &op.moved {
            if timeline_key(moved.timeline.as_ref())? == key {
                self.move_in_timeline(&state, &op.device, moved.epoch, moved.seq)?;
            } else if !self.move_in_group(state.number, &op.device, moved, &mut count)? {
                left_out += 1;
            }
        }
        if let Some(count) = count.filter(|_| self.reading.level >= Level::GROUPS) {
            self.changes.put(keys::group_cursor_count(state.number, &op.device), keys::number_value(count));
        }
        if left_out == 0 {
            return Ok(done());
        }
        let detail = format!(
            "{left_out} of {} cursors were left out: the device has cursors of {GROUP_CURSORS} groups, which is the most",
            op.moved.len()
        );
        Ok(rejected(Reason::Full, &detail))
    }

    fn move_in_timeline(&mut self, state: &TimelineState, device: &str, epoch: u64, seq: u64) -> io::Result<()> {
        if state.number != 0 && state.epoch == epoch && seq <= state.last {
            let key = keys::cursor(state.number, device);
            if self.get(&key, Cursor::decode)?.is_none_or(|cursor| cursor.seq < seq) {
                self.changes.put(key, Cursor { seq, moved_ms: self.clock_ms }.encode());
            }
        }
        Ok(())
    }

    /// False if the device has as many group cursors as it may have, and none for this group.
    fn move_in_group(&mut self, number: u64, device: &str, moved: &Moved, count: &mut Option<u64>) -> io::Result<bool> {
        let group = moved.timeline.as_ref().ok_or_else(|| broken("timeline of a cursor"))?;
        let key = keys::group_cursor(number, device, group);
        match self.get(&key, GroupCursor::decode)? {
            Some(before) if before.epoch == moved.epoch && before.seq >= moved.seq => return Ok(true),
            Some(_) => {}
            None => {
                let before = match *count {
                    Some(count) => count,
                    None => self.group_cursors(number, device)?,
                };
                if before >= GROUP_CURSORS {
                    *count = Some(before);
                    return Ok(false);
                }
                *count = Some(before + 1);
            }
        }
        let cursor = GroupCursor { epoch: moved.epoch, seq: moved.seq, moved_ms: self.clock_ms };
        self.changes.put(key, cursor.encode());
        Ok(true)
    }

    /// The number of the device's cursors in groups. There is a row that says it when one has come since the shard is at the level of groups;
    /// otherwise they are counted.
    fn group_cursors(&self, number: u64, device: &str) -> io::Result<u64> {
        if let Some(count) = self.get(&keys::group_cursor_count(number, device), keys::number_of)? {
            return Ok(count);
        }
        let rows = keys::group_cursors_of(number, device);
        let mut count = self.changes.with_prefix(rows.start()).filter(|(_, value)| value.is_some()).count() as u64;
        for row in self.shard.view().range(rows) {
            count += u64::from(self.changes.get(&row?.0).is_none());
        }
        Ok(count)
    }

    /// A cursor of the device in a group has gone. Without any, no row says so.
    fn count_down(&mut self, number: u64, device: &str) -> io::Result<()> {
        let key = keys::group_cursor_count(number, device);
        match self.get(&key, keys::number_of)? {
            None => {}
            Some(0 | 1) => self.changes.delete(key),
            Some(count) => self.changes.put(key, keys::number_value(count - 1)),
        }
        Ok(())
    }

    pub(super) fn sweep_cursors(&mut self, op: &SweepCursors) -> io::Result<Outcome> {
        for seen in &op.cursors {
            let (key, stands) = match &seen.group {
                None => {
                    let key = keys::cursor(seen.number, &seen.device);
                    let stands = self.get(&key, Cursor::decode)?.is_some_and(|cursor| cursor.seq == seen.seq);
                    (key, stands)
                }
                Some(group) => {
                    let key = keys::group_cursor(seen.number, &seen.device, group);
                    let cursor = self.get(&key, GroupCursor::decode)?;
                    let stands = cursor.is_some_and(|cursor| (cursor.epoch, cursor.seq) == (seen.epoch, seen.seq));
                    (key, stands)
                }
            };
            if stands {
                self.changes.delete(key);
                if seen.group.is_some() {
                    self.count_down(seen.number, &seen.device)?;
                }
            }
        }
        Ok(done())
    }
}
