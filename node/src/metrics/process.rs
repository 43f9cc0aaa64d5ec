//! The metrics of the process itself, which are read when they are scraped.

use std::{fs, sync::LazyLock};

use carillon_proto::{
    metrics::{Label, Metric, Samples},
    now_ms,
};

use crate::{admin::Health, memory};

const RESIDENT_MEMORY: Metric =
    Metric::gauge("carillon_node_resident_memory_bytes", "Memory of the process that is in RAM");
/// Absent without a limit.
const MEMORY_LIMIT: Metric = Metric::gauge(
    "carillon_node_memory_limit_bytes",
    "Memory that the process's control group may take; none without a limit",
)
.for_debugging();
const CPU: Metric =
    Metric::counter("carillon_node_cpu_seconds_total", "Time that the process has computed, user and system");
const OPEN_FILES: Metric =
    Metric::gauge("carillon_node_open_files", "Open file descriptors of the process, sockets included");
const OPEN_FILES_LIMIT: Metric =
    Metric::gauge("carillon_node_open_files_limit", "File descriptors that the process may have open");
const START: Metric = Metric::gauge("carillon_node_start_timestamp_seconds", "When the process started, since 1970");
const READY: Metric = Metric::gauge("carillon_node_ready", "1 while the role is ready")
    .labels(&[Label::known("role", &["storage", "router", "gateway"])]);
const DRAINING: Metric = Metric::gauge(
    "carillon_node_draining",
    "1 while the process stops in order, with carillon_gateway_connections to go",
);

#[cfg(test)]
pub(super) const ALL: [Metric; 8] =
    [RESIDENT_MEMORY, MEMORY_LIMIT, CPU, OPEN_FILES, OPEN_FILES_LIMIT, START, READY, DRAINING];

static STARTED_S: LazyLock<f64> = LazyLock::new(|| now_ms() as f64 / 1e3);

/// From /proc, which other systems do not have: there these metrics are missing.
pub(super) fn read(health: &Health, samples: &mut Samples) {
    let file = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let files = fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as f64);
    let of_process = [
        (&RESIDENT_MEMORY, resident_kilobytes(&file("status")).map(|kilobytes| kilobytes * 1024.0)),
        // Kubernetes can change it while the process runs.
        (&MEMORY_LIMIT, memory::limit().map(|limit| limit as f64)),
        // USER_HZ is 100 on every architecture of today's Linux.
        (&CPU, cpu_ticks(&file("stat")).map(|ticks| ticks / 100.0)),
        (&OPEN_FILES, files),
        (&OPEN_FILES_LIMIT, open_files_limit(&file("limits"))),
        (&START, Some(*STARTED_S)),
        (&DRAINING, Some(f64::from(health.is_draining()))),
    ];
    for (metric, value) in of_process {
        if let Some(value) = value {
            samples.set(metric, &[], value);
        }
    }
    for (role, ready) in health.ready_roles() {
        samples.set(&READY, &[("role", role.as_str())], f64::from(ready));
    }
}

/// Called at the start.
pub(super) fn started() {
    LazyLock::force(&STARTED_S);
}

fn resident_kilobytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The sum of fields 14 and 15 of proc(5). The second field, in brackets, may contain spaces.
fn cpu_ticks(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

/// The soft limit.
fn open_files_limit(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Role;

    #[test]
    fn figures_of_the_process_are_read_from_proc() {
        assert_eq!(resident_kilobytes("VmPeak:\t 9 kB\nVmRSS:\t  1234 kB\n"), Some(1234.0));
        let stat = "1 (a b) c) S 1 1 1 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_ticks(stat), Some(300.0));
        let limits =
            "Limit   Soft Limit  Hard Limit  Units\nMax open files            1024                 4096   files\n";
        assert_eq!(open_files_limit(limits), Some(1024.0));
    }

    #[test]
    fn a_scrape_has_the_process_and_its_roles() {
        let mut samples = Samples::default();
        read(&Health::new(&[Role::Router]), &mut samples);
        let text = samples.render();
        for line in ["carillon_node_ready{role=\"router\"} 0", "carillon_node_draining 0"] {
            assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
        }
        for metric in ALL.into_iter().filter(|metric| *metric != MEMORY_LIMIT) {
            assert!(text.contains(metric.name), "{} is not in\n{text}", metric.name);
        }
    }
}
