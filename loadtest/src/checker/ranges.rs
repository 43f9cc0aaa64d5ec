//! A set of numbers, kept as runs of successive numbers, so that a dense set takes little memory.

use std::collections::BTreeMap;

/// Takes one entry for each run.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// First to last of each run, both inclusive. Runs neither overlap nor touch.
    runs: BTreeMap<u64, u64>,
    len: u64,
}

impl Ranges {
    /// Adds `first..=last`, none of which may be in the set. Adds nothing if `last` is before `first`.
    pub(crate) fn insert(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        debug_assert!(!self.contains(first) && !self.contains(last));
        self.len += last - first + 1;
        let mut run = (first, last);
        if let Some(end) = self.runs.remove(&(last + 1)) {
            run.1 = end;
        }
        match self.runs.range_mut(..first).next_back() {
            Some((_, end)) if *end + 1 == first => *end = run.1,
            _ => _ = self.runs.insert(run.0, run.1),
        }
    }

    /// Removes a number; true if the set had it.
    pub(crate) fn remove(&mut self, number: u64) -> bool {
        let Some((first, last)) = self.run_of(number) else { return false };
        self.len -= 1;
        self.runs.remove(&first);
        if first < number {
            self.runs.insert(first, number - 1);
        }
        if number < last {
            self.runs.insert(number + 1, last);
        }
        true
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        self.run_of(number).is_some()
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.runs.iter().map(|(first, last)| (*first, *last))
    }

    fn run_of(&self, number: u64) -> Option<(u64, u64)> {
        let (first, last) = self.runs.range(..=number).next_back()?;
        (number <= *last).then_some((*first, *last))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn neighbours_become_one_run() {
        let mut ranges = Ranges::default();
        for number in [1, 2, 5, 4, 3, 9] {
            ranges.insert(number, number);
        }
        assert_eq!(ranges.runs().collect::<Vec<_>>(), [(1, 5), (9, 9)]);
        assert!(ranges.remove(3));
        assert!(!ranges.remove(3));
        assert_eq!(ranges.runs().collect::<Vec<_>>(), [(1, 2), (4, 5), (9, 9)]);
        ranges.insert(6, 8);
        assert_eq!(ranges.runs().collect::<Vec<_>>(), [(1, 2), (4, 9)]);
        assert_eq!(ranges.len(), 8);
    }

    proptest::proptest! {
        #[test]
        fn it_is_a_set(steps in proptest::collection::vec((0u64..40, proptest::bool::ANY), 0..200)) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (number, add) in steps {
                if add {
                    if set.insert(number) {
                        ranges.insert(number, number);
                    }
                } else {
                    assert_eq!(ranges.remove(number), set.remove(&number));
                }
                assert_eq!(ranges.len(), set.len() as u64);
            }
            let all: Vec<u64> = ranges.runs().flat_map(|(first, last)| first..=last).collect();
            assert_eq!(all, set.into_iter().collect::<Vec<_>>());
            let runs: Vec<_> = ranges.runs().collect();
            assert!(runs.windows(2).all(|two| two[0].1 + 1 < two[1].0), "runs touch: {runs:?}");
        }
    }
}
