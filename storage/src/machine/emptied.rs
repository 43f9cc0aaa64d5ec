//! Messages that have lost what they said, by the numbers by which they count as unread. See docs/adr/0028-marks.md.

use carillon_proto::pb::store::{Emptied, RecordHeader};

/// Most runs of such messages that are known, of a conversation or a group. Replicas with different numbers would diverge: a change needs a
/// new level.
const RUNS: usize = 256;

/// The number by which a message counts as unread; `None`: it does not.
pub(super) fn number_of(header: &RecordHeader) -> Option<u64> {
    let is_countable = header.message.as_ref().is_none_or(|message| message.countable);
    (is_countable && !header.uncounted && header.counted > 0).then_some(header.counted)
}

/// False if the message with this number is known already. The lowest run is forgotten if there are too many.
pub(super) fn insert(emptied: &mut Emptied, number: u64) -> bool {
    let mut runs = runs(emptied);
    let at = runs.partition_point(|(_, last)| last.saturating_add(1) < number);
    let next = runs.get(at + 1).map(|(first, _)| *first);
    match runs.get_mut(at) {
        Some((first, last)) if (*first..=*last).contains(&number) => return false,
        Some((_, last)) if last.saturating_add(1) == number => {
            *last = number;
            if let Some((_, end)) = next.filter(|next| number.saturating_add(1) == *next).map(|_| runs.remove(at + 1)) {
                runs[at].1 = end;
            }
        }
        Some((first, _)) if number.saturating_add(1) == *first => *first = number,
        _ => runs.insert(at, (number, number)),
    }
    if runs.len() > RUNS {
        runs.remove(0);
    }
    put(emptied, &runs);
    true
}

/// Forgets the messages up to this number.
pub(super) fn forget(emptied: &mut Emptied, upto: u64) {
    let mut runs = runs(emptied);
    runs.retain(|(_, last)| *last > upto);
    if let Some((first, _)) = runs.first_mut() {
        *first = (*first).max(upto.saturating_add(1));
    }
    put(emptied, &runs);
}

/// The number of messages that are known above this number.
pub(super) fn count_above(emptied: &Emptied, number: u64) -> u64 {
    let above = runs(emptied).into_iter().filter(|(_, last)| *last > number);
    above.map(|(first, last)| last - first.max(number + 1) + 1).sum()
}

fn runs(emptied: &Emptied) -> Vec<(u64, u64)> {
    emptied.runs.as_chunks().0.iter().map(|[first, last]| (*first, *last)).collect()
}

fn put(emptied: &mut Emptied, runs: &[(u64, u64)]) {
    emptied.runs = runs.iter().flat_map(|(first, last)| [*first, *last]).collect();
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn runs_have_the_numbers_that_came(numbers in proptest::collection::vec(1..60u64, 0..80), upto in 0..60u64) {
            let (mut emptied, mut known) = (Emptied::default(), BTreeSet::new());
            for number in numbers {
                prop_assert_eq!(insert(&mut emptied, number), known.insert(number));
                let runs = runs(&emptied);
                let apart = runs.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0);
                prop_assert!(apart && runs.iter().all(|(first, last)| first <= last), "{:?}", runs);
                for above in [0, upto] {
                    prop_assert_eq!(count_above(&emptied, above), known.range(above + 1..).count() as u64);
                }
            }
            forget(&mut emptied, upto);
            prop_assert_eq!(count_above(&emptied, 0), known.range(upto + 1..).count() as u64);
        }
    }

    #[test]
    fn of_too_many_runs_the_lowest_is_forgotten() {
        let mut emptied = Emptied::default();
        for number in 0..300 {
            assert!(insert(&mut emptied, 2 * number + 1));
        }
        assert_eq!((emptied.runs.len(), emptied.runs[0]), (2 * RUNS, 89));
        assert_eq!(count_above(&emptied, 0), RUNS as u64);
    }

    #[test]
    fn what_never_counted_has_no_number() {
        let header = |counted, uncounted, countable| {
            let message = Some(Box::new(carillon_proto::pb::store::Header { countable, ..Default::default() }));
            RecordHeader { counted, uncounted, message, ..RecordHeader::default() }
        };
        assert_eq!(number_of(&header(7, false, true)), Some(7));
        assert_eq!(number_of(&RecordHeader { counted: 7, ..RecordHeader::default() }), Some(7), "a plain message");
        for uncounted in [header(7, true, true), header(7, false, false), header(0, false, true)] {
            assert_eq!(number_of(&uncounted), None);
        }
    }
}
