//! Times of one kind, as a histogram that can be joined with others and sent to another process.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::sample::Distribution;
use crate::measure::latencies::histogram;

/// Times in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// `acceptance`, `delivery`, `sign_in`, ...
    pub name: String,
    #[serde(with = "pairs")]
    pub histogram: Histogram<u64>,
}

impl Times {
    pub fn new(name: &str, histogram: Histogram<u64>) -> Self {
        Self { name: name.to_owned(), histogram }
    }

    /// `None` if there are none.
    pub fn distribution(&self) -> Option<Distribution> {
        Distribution::of(&self.name, &self.histogram)
    }

    /// Adds these times to those of the same names.
    pub fn join(all: &mut Vec<Self>, more: impl IntoIterator<Item = Self>) {
        for times in more {
            match all.iter_mut().find(|known| known.name == times.name) {
                Some(known) => known.histogram.add(&times.histogram).expect("same bounds"),
                None => all.push(times),
            }
        }
    }
}

/// A histogram as pairs of a value and its count, which give the same histogram again.
pub mod pairs {
    use serde::{Deserializer, Serializer, de::Error as _};

    use super::{Deserialize as _, Histogram, histogram};

    pub fn serialize<S: Serializer>(times: &Histogram<u64>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(times.iter_recorded().map(|value| (value.value_iterated_to(), value.count_at_value())))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Histogram<u64>, D::Error> {
        let mut times = histogram();
        for (value, count) in Vec::<(u64, u64)>::deserialize(from)? {
            times.record_n(value, count).map_err(|error| D::Error::custom(format!("{value} us: {error}")))?;
        }
        Ok(times)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_histogram_is_read_as_it_was_written(values in proptest::collection::vec(1_u64..3_600_000_000, 0..200)) {
            let mut written = Times::new("acceptance", histogram());
            for value in values {
                written.histogram.record(value).expect("within the bounds");
            }
            let json = serde_json::to_string(&written).expect("written");
            let read: Times = serde_json::from_str(&json).expect("read");
            prop_assert_eq!(&read, &written);
            prop_assert_eq!(read.distribution(), written.distribution());
        }
    }

    #[test]
    fn times_of_the_same_name_are_joined() {
        let times = |name: &str, us: u64| {
            let mut times = Times::new(name, histogram());
            times.histogram.record(us).expect("within the bounds");
            times
        };
        let mut all = vec![times("acceptance", 10)];
        Times::join(&mut all, [times("acceptance", 30), times("back", 5)]);
        let told: Vec<_> =
            all.iter().map(|one| (one.name.as_str(), one.histogram.len(), one.histogram.max())).collect();
        assert_eq!(told, [("acceptance", 2, 30), ("back", 1, 5)]);
    }

    #[test]
    fn a_time_beyond_the_bounds_is_refused() {
        let error = serde_json::from_str::<Times>(r#"{"name": "a", "histogram": [[99999999999, 1]]}"#);
        assert!(error.is_err_and(|error| error.to_string().contains("99999999999 us")));
    }
}
