//! Puts what the workers have found into one.

use crate::{
    measure::window::Window,
    report::{
        Integrity,
        figure::{Better, Figure, RATE, cost},
        times::Times,
    },
    scenario::Found,
};

/// `window` is what the coordinator has measured meanwhile, with its servers. `lost` says which worker is missing, and why.
pub(super) fn together(parts: Vec<(String, Found)>, mut window: Window, lost: Option<String>) -> Found {
    window.own_cpu_us = parts.iter().map(|(_, found)| found.window.own_cpu_us).sum();
    window.machine_busy = parts.iter().map(|(_, found)| found.window.machine_busy).fold(0.0, f64::max);
    let mut invalid = lost;
    let (mut integrity, mut times, mut figures) = (Integrity::default(), Vec::new(), Vec::<Figure>::new());
    for (name, found) in parts {
        integrity.add(&found.integrity);
        Times::join(&mut times, found.times);
        for figure in found.figures {
            match figures.iter_mut().find(|known| known.name == figure.name) {
                Some(known) => known.value = both(known, &figure),
                None => figures.push(figure),
            }
        }
        invalid = invalid.or_else(|| found.invalid.map(|why| format!("{name}: {why}")));
    }
    figures.retain(|figure| figure.name != "generator CPU");
    let thing = if figures.iter().any(|figure| figure.name == RATE) { "message" } else { "change" };
    figures.extend(cost(&window, window.counts.accepted, thing));
    Found { integrity, times, figures, window, invalid }
}

/// Rates and counts add up; of times and costs, the worst one counts.
fn both(a: &Figure, b: &Figure) -> f64 {
    if matches!(a.unit.as_str(), "1/s" | "" | "messages") {
        return a.value + b.value;
    }
    if a.better == Better::Higher { a.value.min(b.value) } else { a.value.max(b.value) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{checker::Summary, measure::latencies::histogram, report::recorded::Counts};

    fn window(own_cpu_us: u64, accepted: u64) -> Window {
        let counts = Counts { accepted, ..Counts::default() };
        Window { took: Duration::from_secs(10), counts, servers: Vec::new(), own_cpu_us, machine_busy: 0.5 }
    }

    fn found(lost: u64, us: u64) -> Found {
        let mut times = histogram();
        times.saturating_record(us);
        let mut integrity =
            Integrity { summary: Summary { accepted: 5, ..Summary::default() }, ..Integrity::default() };
        if lost > 0 {
            integrity.violations.insert("lost".to_owned(), lost);
        }
        let figures = vec![
            Figure::higher("accepted", "1/s", 10.0),
            Figure::lower("longest time away", "ms", us as f64),
            Figure::neutral("generator CPU", "us/message", 3.0),
        ];
        Found {
            integrity,
            times: vec![Times::new("acceptance", times)],
            figures,
            window: window(1000, 5),
            invalid: None,
        }
    }

    #[test]
    fn what_the_workers_have_found_is_one() {
        let parts = vec![("worker-1".to_owned(), found(0, 10)), ("worker-2".to_owned(), found(2, 30))];
        let whole = together(parts, window(7, 10), None);
        assert_eq!((whole.integrity.summary.accepted, whole.integrity.violations["lost"]), (10, 2));
        assert_eq!((whole.times[0].histogram.len(), whole.times[0].histogram.max()), (2, 30));
        let values: Vec<_> = whole.figures.iter().map(|figure| (figure.name.as_str(), figure.value)).collect();
        assert_eq!(values, [("accepted", 20.0), ("longest time away", 30.0), ("generator CPU", 200.0)]);
        assert_eq!((whole.window.own_cpu_us, whole.invalid), (2000, None));
    }

    #[test]
    fn without_one_of_the_workers_it_is_no_result() {
        let lost = Some("worker-2 is lost".to_owned());
        let whole = together(vec![("worker-1".to_owned(), found(0, 10))], window(7, 10), lost.clone());
        assert_eq!(whole.invalid, lost);
        let invalid = Found { invalid: Some("the generator was the limit".to_owned()), ..found(0, 10) };
        let whole = together(vec![("worker-1".to_owned(), invalid)], window(7, 10), None);
        assert_eq!(whole.invalid.as_deref(), Some("worker-1: the generator was the limit"));
    }
}
