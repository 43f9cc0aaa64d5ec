//! The in-memory state of one shard's log: where it begins and ends, and its newest entries.

use std::{collections::VecDeque, ops::Range};

use carillon_proto::pb::raft::{Entry, LogId, Vote, entry::Payload};

use super::{disk_entry::index, growth::Growth};

/// Bounds of the log and its tail. Does no I/O.
pub(super) struct State {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    /// `committed` is newer than the value on disk.
    committed_waits: bool,
    pub(super) purged: Option<LogId>,
    /// Log id of the last entry, or `purged`.
    pub(super) last: Option<LogId>,
    /// The indexes that the log holds.
    present: Range<u64>,
    /// Entries behind the end were truncated, but not yet overwritten on disk.
    cut: bool,
    /// The newest entries, up to `present.end`; each with the number of the write that brought it.
    tail: VecDeque<(Entry, u64)>,
    tail_bytes: usize,
    writes: u64,
    pub(super) growth: Growth,
}

/// Where to read a range of entries.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) disk: Range<u64>,
    /// The following entries, from memory.
    pub(super) memory: Vec<Entry>,
}

/// How to write an append.
pub(super) struct Appended {
    pub(super) write: u64,
    pub(super) compact_to: Option<u64>,
    pub(super) clear_cut: bool,
    pub(super) committed: Option<LogId>,
}

impl State {
    pub(super) fn new(
        vote: Option<Vote>,
        committed: Option<LogId>,
        purged: Option<LogId>,
        last: Option<LogId>,
        present: Range<u64>,
        cut: bool,
        growth: Growth,
    ) -> Self {
        let last = last.or(purged);
        Self {
            vote,
            committed,
            committed_waits: false,
            purged,
            last,
            present,
            cut,
            tail: VecDeque::new(),
            tail_bytes: 0,
            writes: 0,
            growth,
        }
    }

    /// Written together with the next append.
    pub(super) fn set_committed(&mut self, committed: LogId) {
        self.committed = Some(committed);
        self.committed_waits = true;
    }

    /// Appends entries, which follow the last one without a gap.
    pub(super) fn append(&mut self, entries: &[Entry]) -> Option<Appended> {
        let (first, last) = (index(entries.first()?), entries.last()?);
        // An append to an empty log may be at any index: the disk may still hold the truncated entries.
        let compact_to = (self.present.is_empty() && self.cut).then_some(first);
        if self.present.is_empty() {
            self.present = first..first;
        }
        self.writes += 1;
        for entry in entries {
            self.tail_bytes += size(entry);
            self.growth.append(index(entry), size(entry));
            self.tail.push_back((entry.clone(), self.writes));
        }
        self.present.end = index(last) + 1;
        self.last = last.log_id;
        let clear_cut = std::mem::take(&mut self.cut);
        let committed = self.committed.filter(|_| std::mem::take(&mut self.committed_waits));
        Some(Appended { write: self.writes, compact_to, clear_cut, committed })
    }

    /// Keeps the entries that are not on disk yet, and the newest `bytes` of the others.
    pub(super) fn evict(&mut self, written: u64, bytes: usize) {
        while self.tail_bytes > bytes
            && let Some((entry, write)) = self.tail.front()
            && *write <= written
        {
            self.tail_bytes -= size(entry);
            self.tail.pop_front();
        }
    }

    /// Drops all entries from `next` on. `last` is the log id before it.
    pub(super) fn truncate(&mut self, next: u64, last: Option<LogId>) -> bool {
        if next >= self.present.end {
            return false;
        }
        while let Some((entry, _)) = self.tail.back()
            && index(entry) >= next
        {
            self.tail_bytes -= size(entry);
            self.tail.pop_back();
        }
        self.growth.truncate(next);
        self.present.end = next.max(self.present.start);
        self.last = last.or(self.purged);
        self.cut = true;
        true
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        let next = upto.index + 1;
        self.growth.purge(upto.index);
        while let Some((entry, _)) = self.tail.front()
            && index(entry) < next
        {
            self.tail_bytes -= size(entry);
            self.tail.pop_front();
        }
        self.present.start = self.present.start.max(next);
        if self.present.end < next {
            self.present.end = next;
        }
        if self.present.is_empty() {
            self.last = Some(upto);
        }
        self.purged = Some(upto);
    }

    /// The part of `wanted` that the log holds.
    pub(super) fn clamp(&self, wanted: Range<u64>) -> Range<u64> {
        let start = wanted.start.max(self.present.start);
        start..wanted.end.min(self.present.end).max(start)
    }

    /// Plans to read a range that the log holds. Takes about `bytes` from memory at most, but at least one entry.
    pub(super) fn plan(&self, wanted: Range<u64>, bytes: usize) -> Plan {
        let in_memory = self.present.end - self.tail.len() as u64;
        let disk = wanted.start..wanted.end.min(in_memory).max(wanted.start);
        let skip = (disk.end.max(in_memory) - in_memory) as usize;
        let mut room = bytes;
        let memory = self.tail.range(skip.min(self.tail.len())..).take((wanted.end - disk.end) as usize);
        let memory = memory
            .enumerate()
            .take_while(|(nth, (entry, _))| {
                let fits = *nth == 0 || size(entry) <= room;
                room = room.saturating_sub(size(entry));
                fits
            })
            .map(|(_, (entry, _))| entry.clone())
            .collect();
        Plan { disk, memory }
    }
}

/// Approximate memory of an entry, in bytes.
pub(super) fn size(entry: &Entry) -> usize {
    let payload = match &entry.payload {
        Some(Payload::Commands(commands)) => commands.len(),
        Some(Payload::Membership(_)) => 256,
        Some(Payload::Blank(_)) | None => 0,
    };
    payload + 96
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::raft::Blank;

    use super::*;

    fn log_id(index: u64) -> LogId {
        LogId { term: 1, node: 1, index }
    }

    fn entries(range: Range<u64>) -> Vec<Entry> {
        range.map(|i| Entry { log_id: Some(log_id(i)), payload: Some(Payload::Blank(Blank {})) }).collect()
    }

    fn empty() -> State {
        State::new(None, None, None, None, 0..0, false, Growth::default())
    }

    fn indexes(state: &State, range: Range<u64>) -> (Range<u64>, Vec<u64>) {
        let plan = state.plan(state.clamp(range), usize::MAX);
        (plan.disk, plan.memory.iter().map(index).collect())
    }

    #[test]
    fn only_written_entries_leave_memory() {
        let mut state = empty();
        assert_eq!(state.append(&entries(1..4)).expect("some").write, 1);
        assert_eq!(state.append(&entries(4..6)).expect("some").write, 2);
        state.evict(1, 0);
        assert_eq!(indexes(&state, 0..9), (1..4, vec![4, 5]));
        assert_eq!(indexes(&state, 2..5), (2..4, vec![4]));
        assert_eq!(indexes(&state, 5..6), (5..5, vec![5]));
        state.evict(2, 0);
        assert_eq!(indexes(&state, 3..9), (3..6, vec![]));
    }

    #[test]
    fn what_was_truncated_is_gone_and_the_next_append_clears_the_cut() {
        let mut state = empty();
        state.append(&entries(1..6));
        assert!(state.truncate(3, Some(log_id(2))));
        assert_eq!(indexes(&state, 0..9), (1..1, vec![1, 2]));
        assert_eq!(state.last, Some(log_id(2)));
        let appended = state.append(&entries(3..4)).expect("some");
        assert!(appended.clear_cut && appended.compact_to.is_none());
        assert!(!state.append(&entries(4..5)).expect("some").clear_cut);
        assert!(!state.truncate(5, Some(log_id(4))));
    }

    #[test]
    fn a_log_that_was_purged_past_its_end_goes_on_behind() {
        let mut state = empty();
        state.append(&entries(1..6));
        state.truncate(4, Some(log_id(3)));
        state.purge(log_id(9));
        assert_eq!(state.last, Some(log_id(9)));
        assert_eq!(indexes(&state, 0..20), (10..10, vec![]));
        let appended = state.append(&entries(10..12)).expect("some");
        assert_eq!((appended.compact_to, appended.clear_cut), (Some(10), true));
        assert_eq!(indexes(&state, 0..20), (10..10, vec![10, 11]));
    }

    #[test]
    fn a_plan_is_bounded_by_bytes_but_gives_one_entry() {
        let mut state = empty();
        state.append(&entries(1..6));
        assert_eq!(state.plan(1..6, 1).memory.len(), 1);
        assert_eq!(state.plan(1..6, 96 * 3).memory.len(), 3);
    }
}
