//! The results of a drill, as text and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use super::{size::Size, traffic::Stretch};
use crate::{
    checker::{Findings, Summary},
    faults::{Outcome, load::Verdict},
    report::sample::Quantiles,
};

#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) began_unix_ms: u64,
    /// Version of the program under test.
    pub(super) program: String,
    pub(super) fill: Option<Filled>,
    /// The load with nothing else going on, after the store was filled.
    pub(super) steady: Option<Stretch>,
    pub(super) changes: Vec<Changed>,
    pub(super) backups: Vec<BackedUp>,
    pub(super) exports: Vec<Exported>,
    pub(super) erasure: Option<Erased>,
    pub(super) restore: Option<Restored>,
    /// Counts of the messages of all phases.
    pub(super) sent: Summary,
    /// Broken promises.
    pub(super) violations: Vec<String>,
    /// Why the service, or a command, did not do what it has to.
    pub(super) problems: Vec<String>,
    /// Steps that did not take place as planned, so that they prove nothing.
    pub(super) missed: Vec<String>,
    /// Remarks for an operator.
    pub(super) notes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Filled {
    pub(super) seconds: f64,
    pub(super) messages: u64,
    pub(super) users: usize,
    /// Of one storage node, on its disk.
    pub(super) timelines: Size,
    pub(super) log: Size,
    pub(super) snapshots: Size,
}

#[derive(Debug, Serialize)]
pub(super) struct Changed {
    pub(super) what: String,
    /// From the command until the cluster was settled.
    pub(super) seconds: f64,
    /// Replicas that are on a node now, and were not before.
    pub(super) replicas: usize,
    /// Sent in snapshots by all nodes.
    pub(super) snapshots: Size,
    pub(super) during: Stretch,
}

#[derive(Debug, Serialize)]
pub(super) struct BackedUp {
    pub(super) name: String,
    /// The nodes that were killed while the backup was made.
    pub(super) faults: Vec<String>,
    pub(super) create_seconds: f64,
    pub(super) bytes: Size,
    pub(super) records: u64,
    /// The bound that was given to the command, in bytes a second.
    pub(super) rate_bytes: Option<u64>,
    pub(super) verify_seconds: f64,
    pub(super) during: Stretch,
}

#[derive(Debug, Serialize)]
pub(super) struct Exported {
    pub(super) user: String,
    pub(super) seconds: f64,
    pub(super) messages: u64,
    pub(super) bytes: Size,
}

#[derive(Debug, Serialize)]
pub(super) struct Erased {
    /// From the order until the text was off all disks, except for what a start of the nodes removes.
    pub(super) seconds: f64,
    pub(super) restarted: Vec<String>,
    /// From the order until nothing was on any disk.
    pub(super) done_seconds: f64,
    /// Storage nodes on whose disk the text could be found before, in so many files.
    pub(super) files_before: Vec<usize>,
    pub(super) during: Stretch,
}

#[derive(Debug, Serialize)]
pub(super) struct Restored {
    pub(super) backup: String,
    pub(super) bytes: Size,
    pub(super) restore_seconds: f64,
    /// From the start of the new cluster until all its nodes were ready.
    pub(super) ready_seconds: f64,
    /// Messages of which the backup had the copy of one inbox only.
    pub(super) mended: u64,
    /// Messages that were accepted before the backup began.
    pub(super) accepted_before: u64,
    /// Found in the restored inboxes, in two of them each.
    pub(super) read_back: u64,
    pub(super) read_seconds: f64,
}

impl Report {
    pub(super) fn outcome(&self) -> Outcome {
        if !self.violations.is_empty() {
            Outcome::Broken
        } else if !self.missed.is_empty() {
            Outcome::Invalid
        } else if !self.problems.is_empty() {
            Outcome::NotBack
        } else {
            Outcome::Passed
        }
    }

    /// Notes what the checker found in a phase.
    pub(super) fn take(&mut self, phase: &str, verdict: &Verdict) {
        self.sent += verdict.summary;
        self.violations.extend(verdict.violations.iter().map(|violation| format!("{phase}: {violation}")));
        self.problems.extend(verdict.unread.iter().map(|unread| format!("{phase}: {unread}")));
    }

    /// Notes what was found when timelines were read.
    pub(super) fn take_findings(&mut self, when: &str, findings: Findings) {
        self.violations.extend(findings.violations.iter().map(|violation| format!("{when}: {violation}")));
        self.problems.extend(findings.unread.iter().map(|unread| format!("{when}: {unread}")));
    }

    /// Tables in Markdown, and a line for each finding.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        self.phases(&mut text);
        self.under_load(&mut text);
        let Summary { sent, accepted, refused, unknown, delivered, .. } = self.sent;
        let _ = writeln!(
            text,
            "\nunder load: sent {sent}, accepted {accepted}, refused {refused}, unknown {unknown}, deliveries {delivered}"
        );
        self.notes.iter().for_each(|note| _ = writeln!(text, "note: {note}"));
        self.missed.iter().for_each(|missed| _ = writeln!(text, "MISSED: {missed}"));
        self.problems.iter().for_each(|problem| _ = writeln!(text, "PROBLEM: {problem}"));
        let broken = self.violations.len();
        self.violations.iter().take(20).for_each(|it| _ = writeln!(text, "BROKEN ({broken} in all): {it}"));
        text.push_str(match self.outcome() {
            Outcome::Passed => "all well: nothing lost, doubled, reordered, invented or corrupted",
            Outcome::NotBack => "something was not done",
            Outcome::Invalid => "not carried out",
            Outcome::Broken => "a promise was broken",
        });
        text
    }

    fn phases(&self, text: &mut String) {
        line(text, &["step", "time", "size", "speed", "more"].map(str::to_owned));
        line(text, &["---"; 5].map(str::to_owned));
        let mut row = |what: &str, seconds: f64, bytes: Option<Size>, more: String| {
            let size = bytes.map(|bytes| bytes.to_string()).unwrap_or_default();
            let speed = bytes.map(|bytes| speed(bytes, seconds)).unwrap_or_default();
            line(text, &[what.to_owned(), format!("{seconds:.1} s"), size, speed, more]);
        };
        if let Some(Filled { seconds, messages, users, timelines, log, snapshots }) = &self.fill {
            let a_second = *messages as f64 / seconds;
            let more = format!(
                "{messages} messages of {users} users, {a_second:.0}/s; on one node also log {log}, snapshots {snapshots}"
            );
            row("fill", *seconds, Some(*timelines), more);
        }
        for Changed { what, seconds, replicas, snapshots, .. } in &self.changes {
            row(what, *seconds, Some(*snapshots), format!("{replicas} replicas"));
        }
        for backup in &self.backups {
            let more = format!("{} records; {}", backup.records, list(&backup.faults));
            row(&format!("backup {}", backup.name), backup.create_seconds, Some(backup.bytes), more);
            row(&format!("verify {}", backup.name), backup.verify_seconds, Some(backup.bytes), String::new());
        }
        for Exported { user, seconds, messages, bytes } in &self.exports {
            row(&format!("export of {user}"), *seconds, Some(*bytes), format!("{messages} messages"));
        }
        if let Some(Erased { seconds, restarted, done_seconds, files_before, .. }) = &self.erasure {
            let more = format!("before, the text stood in so many files of each node: {files_before:?}");
            row("erase: off all disks but for restarts", *seconds, None, more);
            row("erase: done", *done_seconds, None, format!("started again: {}", list(restarted)));
        }
        if let Some(restore) = &self.restore {
            let more = format!("{} messages had one copy, and have both now", restore.mended);
            row(&format!("restore of {}", restore.backup), restore.restore_seconds, Some(restore.bytes), more);
            row("restored: ready", restore.ready_seconds, None, String::new());
            let more =
                format!("{} accepted before the backup, {} copies read", restore.accepted_before, restore.read_back);
            row("restored: read back", restore.read_seconds, None, more);
        }
    }

    fn under_load(&self, text: &mut String) {
        let steady = self.steady.iter().map(|stretch| ("nothing".to_owned(), stretch));
        let changes = self.changes.iter().map(|change| (change.what.clone(), &change.during));
        let backups = self.backups.iter().map(|backup| (format!("backup {}", backup.name), &backup.during));
        let erasure = self.erasure.iter().map(|erasure| ("erase".to_owned(), &erasure.during));
        text.push('\n');
        line(text, &COLUMNS.map(str::to_owned));
        line(text, &["---"; COLUMNS.len()].map(str::to_owned));
        for (what, stretch) in steady.chain(changes).chain(backups).chain(erasure) {
            line(text, &cells(what, stretch));
        }
    }
}

const COLUMNS: [&str; 8] = [
    "meanwhile",
    "seconds",
    "accepted",
    "acceptance p50 / p99 / max",
    "delivery p50 / p99 / max",
    "sends away",
    "deliveries away",
    "slowest flush beside it",
];

fn cells(what: String, stretch: &Stretch) -> [String; COLUMNS.len()] {
    let ms = |us: u64| us as f64 / 1000.0;
    let latency = |quantiles: &Option<Quantiles>| match quantiles {
        Some(q) => format!("{:.1} / {:.1} / {:.0} ms", ms(q.p50_us), ms(q.p99_us), ms(q.max_us)),
        None => "-".to_owned(),
    };
    [
        what,
        format!("{:.1}", stretch.seconds),
        stretch.accepted.to_string(),
        latency(&stretch.acceptance),
        latency(&stretch.delivery),
        format!("{:.2} s", stretch.sends_away_ms as f64 / 1000.0),
        format!("{:.2} s", stretch.deliveries_away_ms as f64 / 1000.0),
        format!("{:.2} s", stretch.slowest_flush_ms as f64 / 1000.0),
    ]
}

fn line(text: &mut String, cells: &[String]) {
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

fn speed(bytes: Size, seconds: f64) -> String {
    format!("{:.1} MB/s", bytes.0 as f64 / 1e6 / seconds.max(0.001))
}

fn list(words: &[String]) -> String {
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides() {
        let some = || vec!["it".to_owned()];
        let well = Report::default();
        assert_eq!(well.outcome(), Outcome::Passed);
        let problem = Report { problems: some(), ..Report::default() };
        assert_eq!(problem.outcome(), Outcome::NotBack);
        let missed = Report { missed: some(), ..problem };
        assert_eq!(missed.outcome(), Outcome::Invalid, "nothing was found out");
        let broken = Report { violations: some(), ..missed };
        assert_eq!(broken.outcome(), Outcome::Broken);
        assert!(broken.text().ends_with("a promise was broken"), "{}", broken.text());
    }

    #[test]
    fn each_step_and_each_stretch_has_a_row() {
        let quantiles =
            Quantiles { count: 9, mean_us: 0.0, p50_us: 1500, p90_us: 0, p99_us: 20_000, p999_us: 0, max_us: 99_000 };
        let during = Stretch { seconds: 2.0, accepted: 9, acceptance: Some(quantiles), ..Stretch::default() };
        let (snapshots, what) = (Size(5_000_000), "move".to_owned());
        let report = Report {
            steady: Some(during.clone()),
            changes: vec![Changed { what, seconds: 2.5, replicas: 1, snapshots, during }],
            ..Report::default()
        };
        let text = report.text();
        assert!(text.contains("| move | 2.5 s | 5.0 MB | 2.0 MB/s | 1 replicas |"), "{text}");
        for what in ["nothing", "move"] {
            let row = format!("| {what} | 2.0 | 9 | 1.5 / 20.0 / 99 ms | - | 0.00 s | 0.00 s | 0.00 s |");
            assert!(text.contains(&row), "{text}");
        }
    }
}
