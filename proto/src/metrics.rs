//! How metrics are described: once, in the code that has them. `# HELP`, `# TYPE` and `docs/metrics.md` are made of it.

mod samples;

pub use samples::{Samples, at_scrape, collect};

/// A metric. Its unit stands in its name, as Prometheus wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    /// Plain text, without a full stop.
    pub help: &'static str,
    pub labels: &'static [Label],
    /// No panel and no alert needs it.
    pub for_debugging: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A label, whose values are a bounded set: never users, devices or messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    pub name: &'static str,
    pub values: Values,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// All of them. Counters and histograms begin at 0 with each, because an alert needs the zero of an event that has
    /// never happened.
    Known(&'static [&'static str]),
    /// Not known in advance; the text says what the values are.
    Are(&'static str),
}

impl Metric {
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Counter, help)
    }

    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Gauge, help)
    }

    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Histogram, help)
    }

    const fn new(name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self { name, kind, help, labels: &[], for_debugging: false }
    }

    #[must_use]
    pub const fn labels(self, labels: &'static [Label]) -> Self {
        Self { labels, ..self }
    }

    #[must_use]
    pub const fn for_debugging(self) -> Self {
        Self { for_debugging: true, ..self }
    }

    /// The unit that the name tells; `None` for numbers of things.
    pub fn unit(&self) -> Option<&'static str> {
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        ["seconds", "bytes", "ratio"].into_iter().find(|unit| name.ends_with(&format!("_{unit}")))
    }

    /// All combinations of the labels' values; none if not all values are known.
    pub fn series(&self) -> Vec<Vec<(&'static str, &'static str)>> {
        let mut all = vec![Vec::new()];
        for Label { name, values } in self.labels {
            let Values::Known(values) = values else { return Vec::new() };
            let with = |series: Vec<_>| values.iter().map(move |value| [&series[..], &[(*name, *value)]].concat());
            all = all.into_iter().flat_map(with).collect();
        }
        all
    }

    /// A convention that the description breaks, if any. `prefix`: the one for the names of its role.
    pub fn fault(&self, prefix: &str) -> Option<&'static str> {
        let plain = self.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        let faults = [
            (!self.name.starts_with(prefix) || !plain, "the name does not begin as those of its role, or is not plain"),
            (
                (self.kind == Kind::Counter) != self.name.ends_with("_total"),
                "_total is for counters, and for all of them",
            ),
            (self.help.is_empty() || self.help.ends_with('.'), "the help is missing, or ends with a full stop"),
            (self.help.contains(['\n', '|', '\\']), "the help breaks the text format or the page"),
        ];
        faults.into_iter().find_map(|(wrong, why)| wrong.then_some(why))
    }
}

impl Label {
    pub const fn known(name: &'static str, values: &'static [&'static str]) -> Self {
        Self { name, values: Values::Known(values) }
    }

    /// `are`: what the values are.
    pub const fn open(name: &'static str, are: &'static str) -> Self {
        Self { name, values: Values::Are(are) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: &[Label] = &[Label::known("kind", &["a", "b"]), Label::known("result", &["ok", "failed"])];

    #[test]
    fn a_metric_begins_with_all_combinations_of_its_labels() {
        let metric = Metric::counter("carillon_node_things_total", "Things").labels(LABELS);
        assert_eq!(metric.series().len(), 4);
        assert_eq!(metric.series()[1], [("kind", "a"), ("result", "failed")]);
        assert_eq!(Metric::counter("x_total", "X").series(), [vec![]]);
        const OPEN: Metric = Metric::gauge("x", "X").labels(&[Label::open("shard", "shards")]);
        assert!(OPEN.series().is_empty());
    }

    #[test]
    fn a_description_that_breaks_a_convention_is_found() {
        let fault = |metric: Metric| metric.fault("carillon_node_").is_some();
        assert!(!fault(Metric::counter("carillon_node_things_total", "Things")));
        assert!(fault(Metric::counter("carillon_node_things", "Things")));
        assert!(fault(Metric::gauge("carillon_node_things_total", "Things")));
        assert!(fault(Metric::gauge("carillon_gateway_things", "Things")));
        assert!(fault(Metric::gauge("carillon_node_things", "Things.")));
        assert!(fault(Metric::gauge("carillon_node_things", "")));
        assert_eq!(Metric::counter("carillon_node_cpu_seconds_total", "CPU").unit(), Some("seconds"));
        assert_eq!(Metric::counter("carillon_node_things_total", "Things").unit(), None);
    }
}
