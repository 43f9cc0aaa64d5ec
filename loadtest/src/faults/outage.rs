//! The length of interruptions of something that should happen all the time.

use std::time::Duration;

/// The longest time within `from..to` in which nothing happened. `times` are in order. Events before `from` do not
/// count, so that a fault is charged only with the time after its beginning.
pub(crate) fn longest_gap(times: &[Duration], from: Duration, to: Duration) -> Duration {
    let within = times.iter().copied().filter(|time| (from..=to).contains(time));
    let mut last = from;
    let mut longest = Duration::ZERO;
    for time in within.chain([to]) {
        longest = longest.max(time.saturating_sub(last));
        last = time;
    }
    longest
}

/// The median and the largest value. Of an even number of values, the upper middle one is taken as the median.
pub(crate) fn middle_and_largest(values: impl IntoIterator<Item = Duration>) -> Option<(Duration, Duration)> {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_unstable();
    Some((values[values.len().checked_sub(1).map(|_| values.len() / 2)?], *values.last()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(values: &[u64]) -> Vec<Duration> {
        values.iter().map(|value| Duration::from_millis(*value)).collect()
    }

    fn gap(times: &[u64], from: u64, to: u64) -> u128 {
        longest_gap(&ms(times), Duration::from_millis(from), Duration::from_millis(to)).as_millis()
    }

    #[test]
    fn the_longest_gap_is_found_wherever_it_is() {
        assert_eq!(gap(&[10, 20, 70, 80], 0, 90), 50);
        assert_eq!(gap(&[60, 70], 0, 80), 60, "at the beginning");
        assert_eq!(gap(&[10, 20], 0, 100), 80, "at the end");
        assert_eq!(gap(&[], 10, 40), 30, "nothing at all");
    }

    #[test]
    fn only_what_is_within_the_time_counts() {
        assert_eq!(gap(&[0, 500, 510, 520], 490, 530), 10, "the gap before is not the fault's");
        assert_eq!(gap(&[10, 400], 0, 100), 90, "and what comes after does not end it");
    }

    #[test]
    fn the_middle_and_the_largest() {
        assert_eq!(middle_and_largest(ms(&[])), None);
        assert_eq!(middle_and_largest(ms(&[5])), Some((Duration::from_millis(5), Duration::from_millis(5))));
        assert_eq!(middle_and_largest(ms(&[9, 1, 5])), Some((Duration::from_millis(5), Duration::from_millis(9))));
    }
}
