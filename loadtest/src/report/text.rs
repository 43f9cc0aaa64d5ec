//! A report for a terminal.

use std::fmt::Write as _;

use super::{Report, Verdict, capacity::CapacityOutcome, figure::Figure, sample::Quantiles};

pub fn text(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut text, report);
    text
}

fn write(to: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(to, "{} for {:.1} s, run {}", report.scenario, report.measured_s, report.run)?;
    for figure in &report.figures {
        writeln!(to, "  {:<28} {}", figure.name, value(figure))?;
    }
    for distribution in &report.distributions {
        writeln!(to, "  {:<28} {}", format!("{} in ms", distribution.name), quantiles(&distribution.quantiles))?;
    }
    for server in &report.servers {
        let (before, after) = (mebibytes(server.rss_before_bytes), mebibytes(server.rss_after_bytes));
        let cores = server.cpu_us as f64 / 1e6 / report.measured_s.max(1e-9);
        writeln!(
            to,
            "  {:<28} {cores:.2} cores, memory {before:.1} to {after:.1} MiB",
            format!("server {}", server.name)
        )?;
    }
    let generator = &report.generator;
    let busy = 100.0 * generator.machine_busy;
    writeln!(
        to,
        "  {:<28} {:.2} cores on {} threads; machine {busy:.0} % busy",
        "generator", generator.cores, generator.workers
    )?;
    if generator.scheduled > 0 {
        writeln!(to, "  {:<28} {} of {} sends", "sent more than 5 ms late", generator.late, generator.scheduled)?;
    }
    if let Some(limits) = &report.limits {
        let (relay, flush) = (&limits.relay, &limits.flush);
        writeln!(
            to,
            "  {:<28} {:.2} us of CPU a message alone, {:.2} us in batches of {}",
            "limit: bare relay", relay.alone_cpu_us, relay.batched_cpu_us, relay.batch
        )?;
        writeln!(to, "  {:<28} {:.0} a second, ms: {}", "limit: fdatasync", flush.per_s, quantiles(&flush.latency))?;
    }
    for worker in &report.workers {
        let cores = worker.cpu_us as f64 / 1e6 / report.measured_s.max(1e-9);
        let lost = worker.lost.as_ref().map_or(String::new(), |why| format!(": LOST: {why}"));
        writeln!(to, "  {:<28} {} users, {cores:.2} cores, at {}{lost}", worker.name, worker.users, worker.address)?;
    }
    faults(to, report)?;
    capacity(to, report)?;
    integrity(to, report)?;
    for level in &report.levels {
        let verdict = if level.met { "met" } else { "MISSED" };
        let got = level.got.map_or("no figure".to_owned(), |got| format!("{got:.1}"));
        writeln!(to, "level {}: wanted {}, got {got}: {verdict}", level.name, level.wanted)?;
    }
    if let Some(ms) = report.interrupted_ms {
        writeln!(to, "INTERRUPTED after {:.1} s: this is what was seen until then", ms as f64 / 1000.0)?;
    }
    if let Some(why) = &generator.invalid {
        writeln!(to, "INVALID: {why}")?;
    }
    writeln!(to, "verdict: {}", verdict(report.verdict))
}

fn faults(to: &mut String, report: &Report) -> std::fmt::Result {
    for fault in &report.faults {
        let (at, took) = (fault.at_ms / 1000, fault.took_ms as f64 / 1000.0);
        let failed = fault.failed.as_ref().map_or(String::new(), |why| format!(": FAILED: {why}"));
        writeln!(to, "  fault at {at:>4} s, {took:>6.1} s      {}: {}{failed}", fault.what, fault.hit.join(", "))?;
    }
    Ok(())
}

/// A line for each rate that was tried, and what was found.
pub(super) fn capacity(to: &mut String, report: &Report) -> std::fmt::Result {
    let Some(capacity) = &report.capacity else { return Ok(()) };
    let delivery = capacity.delivery_p99_ms.map_or(String::new(), |ms| format!(", delivery p99 <= {ms} ms"));
    writeln!(to, "rates tried, for acceptance p99 <= {} ms{delivery}, nothing refused:", capacity.acceptance_p99_ms)?;
    writeln!(
        to,
        "  {:<8} {:>10} {:>12} {:>15} {:>13}",
        "", "rate 1/s", "accepted 1/s", "acceptance p99", "delivery p99"
    )?;
    for step in &capacity.steps {
        let ms = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.1} ms"));
        let (acceptance, delivery) = (step.p99_ms(|window| window.acceptance), step.p99_ms(|window| window.delivery));
        let (purpose, rate, accepted) = (step.purpose.as_str(), step.rate, step.accepted_per_s());
        let (acceptance, delivery) = (ms(acceptance), ms(delivery));
        let (judgement, why) = (step.judgement.as_str(), &step.why);
        let line =
            format!("  {purpose:<8} {rate:>10.0} {accepted:>12.0} {acceptance:>15} {delivery:>13}  {judgement} {why}");
        writeln!(to, "{}", line.trim_end())?;
    }
    let rate = capacity.rate.map_or("no rate".to_owned(), |rate| format!("{rate:.0} messages a second"));
    let found = match capacity.outcome {
        CapacityOutcome::Found => format!("capacity: {rate}"),
        CapacityOutcome::AtLeast => format!("at least {rate}"),
        CapacityOutcome::None | CapacityOutcome::NotConfirmed => "no capacity found".to_owned(),
    };
    writeln!(to, "{found} ({})", capacity.why)
}

fn integrity(to: &mut String, report: &Report) -> std::fmt::Result {
    let integrity = &report.integrity;
    if integrity.summary.sent == 0 && integrity.violations.is_empty() && integrity.unread == 0 {
        return Ok(());
    }
    writeln!(
        to,
        "sent {}, accepted {}, refused {}, unknown {}, deliveries {}, read back {}",
        integrity.summary.sent,
        integrity.summary.accepted,
        integrity.summary.refused,
        integrity.summary.unknown,
        integrity.summary.delivered,
        integrity.summary.read_back
    )?;
    match integrity.not_provable() {
        Some(why) => writeln!(to, "integrity NOT PROVEN: {why}")?,
        None if integrity.violations.is_empty() => {
            return writeln!(to, "integrity: nothing lost, doubled, reordered, invented or corrupted");
        }
        None => {}
    }
    if !integrity.violations.is_empty() {
        let counts: Vec<_> = integrity.violations.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        writeln!(to, "integrity BROKEN: {}", counts.join(", "))?;
    }
    integrity.examples.iter().try_for_each(|example| writeln!(to, "  {example}"))
}

pub(super) fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::IntegrityBroken => "integrity broken",
        Verdict::Interrupted => "interrupted",
        Verdict::Invalid => "invalid",
        Verdict::LevelMissed => "level missed",
        Verdict::Pass => "pass",
    }
}

pub(super) fn value(figure: &Figure) -> String {
    format!("{} {}", number(figure.value), figure.unit).trim_end().to_owned()
}

/// A number with three or four significant digits.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1000.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn quantiles(q: &Quantiles) -> String {
    let ms = |us: u64| us as f64 / 1000.0;
    let (p50, p90, p99, p999, max) = (ms(q.p50_us), ms(q.p90_us), ms(q.p99_us), ms(q.p999_us), ms(q.max_us));
    format!("p50 {p50:.2}, p90 {p90:.2}, p99 {p99:.2}, p99.9 {p999:.2}, max {max:.2}")
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}
