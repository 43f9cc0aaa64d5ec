//! Metrics that are read when they are scraped. They cost nothing in between, and a series ends with its subject.

use std::{collections::BTreeMap, fmt::Write as _};

use parking_lot::Mutex;

use super::{Kind, Metric};

/// Fills in samples; false if its subject is gone.
type Source = Box<dyn Fn(&mut Samples) -> bool + Send>;

static SOURCES: Mutex<Vec<Source>> = Mutex::new(Vec::new());

/// The values of metrics, by name and labels, for one scrape.
#[derive(Default)]
pub struct Samples(BTreeMap<&'static str, Family>);

struct Family {
    metric: Metric,
    /// By labels.
    series: BTreeMap<String, f64>,
}

/// From now on `read` is asked at each scrape, which waits for it: it must neither block nor compute for long. When it
/// answers false, it is forgotten.
pub fn at_scrape(read: impl Fn(&mut Samples) -> bool + Send + 'static) {
    SOURCES.lock().push(Box::new(read));
}

/// Asks all sources.
pub fn collect() -> Samples {
    let mut samples = Samples::default();
    SOURCES.lock().retain(|read| read(&mut samples));
    samples
}

impl Samples {
    /// A later value for the same labels replaces an earlier one.
    pub fn set(&mut self, metric: &Metric, labels: &[(&str, &str)], value: f64) {
        debug_assert!(metric.kind != Kind::Histogram, "{} has no single value", metric.name);
        let family = self.0.entry(metric.name).or_insert_with(|| Family { metric: *metric, series: BTreeMap::new() });
        family.series.insert(in_braces(labels), value);
    }

    /// In Prometheus's text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for (name, Family { metric, series }) in &self.0 {
            let kind = if metric.kind == Kind::Counter { "counter" } else { "gauge" };
            // Writing to a string does not fail.
            let _ = write!(text, "# HELP {name} {}\n# TYPE {name} {kind}\n", metric.help);
            for (labels, value) in series {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
            text.push('\n');
        }
        text
    }
}

fn in_braces(labels: &[(&str, &str)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let quoted = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", quoted(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Weak};

    use super::*;

    const THINGS: Metric = Metric::gauge("carillon_test_things", "Things");

    #[test]
    fn samples_are_rendered_as_prometheus_reads_them() {
        let mut samples = Samples::default();
        samples.set(&THINGS, &[("shard", "timeline-1"), ("why", "a \"b\"")], 1.5);
        samples.set(&THINGS, &[], 2.0);
        samples.set(&Metric::counter("carillon_test_cpu_seconds_total", "CPU"), &[], 0.25);
        assert_eq!(
            samples.render(),
            "# HELP carillon_test_cpu_seconds_total CPU\n# TYPE carillon_test_cpu_seconds_total counter\n\
             carillon_test_cpu_seconds_total 0.25\n\n\
             # HELP carillon_test_things Things\n# TYPE carillon_test_things gauge\n\
             carillon_test_things 2\ncarillon_test_things{shard=\"timeline-1\",why=\"a \\\"b\\\"\"} 1.5\n\n"
        );
    }

    #[test]
    fn a_source_whose_subject_is_gone_is_forgotten() {
        let subject = Arc::new(());
        let watched: Weak<()> = Arc::downgrade(&subject);
        at_scrape(move |samples| {
            let there = watched.upgrade().is_some();
            if there {
                samples.set(&THINGS, &[("of", "this test")], 1.0);
            }
            there
        });
        assert!(collect().render().contains("carillon_test_things{of=\"this test\"} 1\n"));
        drop(subject);
        assert!(!collect().render().contains("this test"));
    }
}
