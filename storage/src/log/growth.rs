//! Counts the bytes between entries of a shard's log, exact to some KiB.

use std::collections::VecDeque;

/// Bytes between two marks; positions between them are not known.
const GRAIN: u64 = 4 * 1024;
/// A purge of less than this fraction of the log is not worth its cost.
const WORTH: u64 = 8;

/// Takes 16 bytes of memory for each 4 KiB of log.
#[derive(Debug, Default)]
pub(super) struct Growth {
    /// Bytes of all entries that this process has seen.
    total: u64,
    /// Bytes of these that were purged.
    purged: u64,
    /// Indexes of entries, each with the number of bytes up to its end.
    marks: VecDeque<(u64, u64)>,
}

impl Growth {
    pub(super) fn append(&mut self, index: u64, bytes: usize) {
        self.total += bytes as u64;
        let last = self.marks.back().map_or(self.purged, |(_, upto)| *upto);
        if self.total - last >= GRAIN {
            self.marks.push_back((index, self.total));
        }
    }

    /// Records that the entries from `next` on are removed.
    pub(super) fn truncate(&mut self, next: u64) {
        while self.marks.back().is_some_and(|(index, _)| *index >= next) {
            self.marks.pop_back();
        }
        self.total = self.marks.back().map_or(self.purged, |(_, upto)| *upto);
    }

    pub(super) fn purge(&mut self, upto: u64) {
        while let Some((_, bytes)) = self.marks.front().copied().filter(|(index, _)| *index <= upto) {
            self.purged = bytes;
            self.marks.pop_front();
        }
    }

    /// Bytes of the entries present.
    pub(super) fn kept(&self) -> u64 {
        self.total - self.purged
    }

    /// Bytes of the entries behind this one.
    pub(super) fn since(&self, index: u64) -> u64 {
        self.total - self.upto(index)
    }

    /// The last entry that may be purged if `keep` bytes up to the entry `end` are to stay; `None` if the purge is not
    /// worth its cost.
    pub(super) fn may_go(&self, end: u64, keep: u64) -> Option<u64> {
        let most = self.upto(end).checked_sub(keep)?;
        let passed = self.marks.partition_point(|(_, upto)| *upto <= most);
        let (index, upto) = self.marks.get(passed.checked_sub(1)?)?;
        (upto - self.purged > keep / WORTH).then_some(*index)
    }

    fn upto(&self, index: u64) -> u64 {
        let passed = self.marks.partition_point(|(marked, _)| *marked <= index);
        passed.checked_sub(1).and_then(|last| self.marks.get(last)).map_or(self.purged, |(_, upto)| *upto)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Append(usize),
        Truncate(u64),
        Purge(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            20 => (1..20_000usize).prop_map(Step::Append),
            1 => (0..10u64).prop_map(Step::Truncate),
            2 => (0..60u64).prop_map(Step::Purge),
        ]
    }

    proptest! {
        #[test]
        fn bytes_are_known_to_a_grain_and_one_entry(steps in prop::collection::vec(step(), 1..200), keep in 0..200_000u64) {
            let mut growth = Growth::default();
            // Bytes of each entry; the first has index 1.
            let (mut entries, mut first): (Vec<u64>, u64) = (Vec::new(), 1);
            for step in steps {
                match step {
                    Step::Append(bytes) => {
                        entries.push(bytes as u64);
                        growth.append(entries.len() as u64, bytes);
                    }
                    Step::Truncate(back) => {
                        let next = (entries.len() as u64 + 1).saturating_sub(back).max(first);
                        entries.truncate(next as usize - 1);
                        growth.truncate(next);
                    }
                    Step::Purge(more) => {
                        let upto = (first + more).min(entries.len() as u64);
                        growth.purge(upto);
                        first = first.max(upto + 1);
                    }
                }
                let off = GRAIN + 20_000;
                let sum = |from: u64, to: u64| -> u64 {
                    entries.iter().zip(1..).filter(|(_, index)| (from..=to).contains(index)).map(|(bytes, _)| *bytes).sum()
                };
                let last = entries.len() as u64;
                prop_assert!(growth.kept().abs_diff(sum(first, last)) <= off, "{} of {}", growth.kept(), sum(first, last));
                for index in first..=last {
                    prop_assert!(growth.since(index).abs_diff(sum(index + 1, last)) <= off);
                    if let Some(upto) = growth.may_go(index, keep) {
                        prop_assert!(upto <= index && sum(upto + 1, index) + off >= keep);
                    }
                }
            }
        }
    }

    #[test]
    fn what_goes_is_worth_a_purge() {
        let mut growth = Growth::default();
        (1..=100).for_each(|index| growth.append(index, 10_000));
        assert_eq!(growth.may_go(100, 1_000_001), None);
        assert_eq!(growth.may_go(100, 950_000), None, "too little");
        assert_eq!(growth.may_go(100, 500_000), Some(50));
        assert_eq!(growth.may_go(60, 500_000), Some(10), "no more than what a snapshot has");
        growth.purge(50);
        assert_eq!((growth.may_go(100, 500_000), growth.kept(), growth.since(90)), (None, 500_000, 100_000));
    }
}
