//! Figures of gateways about sends: the number of refused ones, and the time that accepted ones took.

use std::{collections::BTreeMap, time::Duration};

use super::admin::{self, AdminError};
use crate::report::figure::Figure;

/// Gateways by their admin address.
#[derive(Default)]
pub struct Gateways(Vec<String>);

/// The sums over all gateways since they started.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sends {
    read: f64,
    /// Refused sends by code.
    refused: BTreeMap<String, f64>,
    /// The time from reading a send to writing its `Accepted`: upper bounds in seconds, and how many sends took at most
    /// that long.
    accepted_within: Vec<(f64, f64)>,
}

impl Gateways {
    pub fn new(urls: &[String]) -> Result<Self, AdminError> {
        Ok(Self(urls.iter().map(|url| admin::authority(url)).collect::<Result<_, _>>()?))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `None` if there are no gateways, or one does not answer.
    pub async fn read(&self) -> Option<Sends> {
        let mut sends = Sends::default();
        for authority in &self.0 {
            sends.add(&admin::metrics(authority).await.ok()?);
        }
        (!self.0.is_empty()).then_some(sends)
    }
}

impl Sends {
    fn add(&mut self, metrics: &str) {
        for line in metrics.lines().filter(|line| line.starts_with("carillon_gateway_")) {
            let Some((series, Ok(value))) = line.rsplit_once(' ').map(|(name, value)| (name, value.parse::<f64>()))
            else {
                continue;
            };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            match name {
                "carillon_gateway_sends_total" => self.read += value,
                // A release without this label counts sends and requests together.
                "carillon_gateway_refusals_total" if label(labels, "of") != "request" => {
                    *self.refused.entry(label(labels, "code").to_owned()).or_default() += value;
                }
                "carillon_gateway_send_latency_seconds_bucket" => {
                    let bound = label(labels, "le").parse().unwrap_or(f64::INFINITY);
                    match self.accepted_within.iter_mut().find(|(known, _)| *known == bound) {
                        Some((_, count)) => *count += value,
                        None => self.accepted_within.push((bound, value)),
                    }
                }
                _ => {}
            }
        }
    }

    /// The difference from `self` to `later`.
    pub fn figures(&self, later: &Self, took: Duration) -> Vec<Figure> {
        let a_second = |from: f64, to: f64| (to - from) / took.as_secs_f64();
        let mut figures = vec![Figure::neutral("sends read by gateways", "1/s", a_second(self.read, later.read))];
        for (code, count) in &later.refused {
            let before = self.refused.get(code).copied().unwrap_or_default();
            if *count > before {
                figures.push(Figure::neutral(&format!("refused, {code}"), "1/s", a_second(before, *count)));
            }
        }
        for (name, part) in [("let in: answered, p50", 0.5), ("let in: answered, p99", 0.99)] {
            figures.extend(self.within(later, part).map(|seconds| Figure::lower(name, "ms", seconds * 1e3)));
        }
        figures
    }

    /// How many sends were refused from `self` to `later`.
    pub fn refusals_until(&self, later: &Self) -> u64 {
        let all = |sends: &Self| sends.refused.values().sum::<f64>();
        (all(later) - all(self)).max(0.0) as u64
    }

    /// The time in seconds within which this part of the sends was accepted, interpolated linearly within a bucket.
    fn within(&self, later: &Self, part: f64) -> Option<f64> {
        let before = |at: usize| self.accepted_within.get(at).map_or(0.0, |(_, count)| *count);
        let counts: Vec<(f64, f64)> =
            later.accepted_within.iter().enumerate().map(|(at, (bound, count))| (*bound, count - before(at))).collect();
        let wanted = counts.last().filter(|(_, all)| *all > 0.0)?.1 * part;
        let (mut least, mut below) = (0.0, 0.0);
        for (bound, count) in counts {
            if count >= wanted {
                let inside = (wanted - below) / (count - below).max(1.0);
                return Some(if bound.is_finite() { least + (bound - least) * inside } else { least });
            }
            (least, below) = (bound, count);
        }
        None
    }
}

fn label<'a>(labels: &'a str, name: &str) -> &'a str {
    let value = labels.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix("=\""));
    value.and_then(|value| value.split('"').next()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sends(metrics: &str) -> Sends {
        let mut sends = Sends::default();
        sends.add(metrics);
        sends
    }

    #[test]
    fn refusals_and_the_time_of_what_was_let_in_are_read() {
        let bucket = |le: &str, count| format!("carillon_gateway_send_latency_seconds_bucket{{le=\"{le}\"}} {count}\n");
        let before = sends(&[bucket("0.1", 5), bucket("0.5", 5), bucket("+Inf", 5)].concat());
        let after = [
            "carillon_gateway_sends_total 300\n",
            "carillon_gateway_refusals_total{of=\"send\",code=\"CODE_OVERLOADED\"} 100\n",
            "carillon_gateway_refusals_total{of=\"request\",code=\"CODE_OVERLOADED\"} 70\n",
            &bucket("0.1", 105),
            &bucket("0.5", 205),
            &bucket("+Inf", 205),
        ];
        let figures = before.figures(&sends(&after.concat()), Duration::from_secs(10));
        let told: Vec<_> = figures.iter().map(|figure| (figure.name.as_str(), figure.value.round())).collect();
        let wanted = [
            ("sends read by gateways", 30.0),
            ("refused, CODE_OVERLOADED", 10.0),
            ("let in: answered, p50", 100.0),
            ("let in: answered, p99", 492.0),
        ];
        assert_eq!(told, wanted);
        assert_eq!(before.refusals_until(&sends(&after.concat())), 100, "requests that were refused are no sends");
        let older = "carillon_gateway_refusals_total{code=\"CODE_OVERLOADED\"} 5\n";
        assert_eq!(Sends::default().refusals_until(&sends(older)), 5);
    }

    #[test]
    fn several_gateways_are_added() {
        let bucket = "carillon_gateway_send_latency_seconds_bucket{le=\"1\"} 2\ncarillon_gateway_sends_total 2\n";
        let mut both = sends(bucket);
        both.add(bucket);
        assert_eq!((both.read, both.accepted_within), (4.0, vec![(1.0, 4.0)]));
    }
}
