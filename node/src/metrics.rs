//! The recorder of all metrics, and those about the process itself.

#[cfg(feature = "count-allocations")]
mod allocations;

use std::{sync::OnceLock, time::Duration};

use carillon_proto::tasks::Tasks;
use metrics::{Unit, describe_gauge, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::Role;

pub(crate) const BUILD_INFO: &str = "carillon_node_build_info";
pub(crate) const RESIDENT_MEMORY_BYTES: &str = "carillon_node_resident_memory_bytes";
pub(crate) const CPU_SECONDS: &str = "carillon_node_cpu_seconds";
/// Label `used_for`: clients, nodes, or nodes-ca.
pub(crate) const CERTIFICATE_ENDS_SECONDS: &str = "carillon_node_certificate_ends_seconds";
pub(crate) const OPEN_FILES: &str = "carillon_node_open_files";

/// Bounds from 100 microseconds to 30 seconds.
const SECONDS: [f64; 17] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const BYTES: [f64; 9] = [64.0, 256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 8_388_608.0];
/// Bounds for the sizes of batches and queues.
const ITEMS: [f64; 12] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0, 4096.0, 16_384.0];

/// One recorder for the process, however many nodes run in it.
static RECORDER: OnceLock<Result<PrometheusHandle, String>> = OnceLock::new();

pub(crate) fn install() -> Result<PrometheusHandle, String> {
    RECORDER.get_or_init(|| recorder().map_err(|error| error.to_string())).clone()
}

fn recorder() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets(&ITEMS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES)?
        .install_recorder()?;
    describe();
    Ok(handle)
}

pub(crate) fn describe() {
    describe_gauge!(BUILD_INFO, "1; the labels tell the version and the roles of the process");
    describe_gauge!(RESIDENT_MEMORY_BYTES, Unit::Bytes, "Memory of the process that is in RAM");
    describe_gauge!(CPU_SECONDS, Unit::Seconds, "Time that the process has computed, user and system");
    describe_gauge!(
        CERTIFICATE_ENDS_SECONDS,
        Unit::Seconds,
        "When the first certificate of the file ends, since 1970, by what it is used for"
    );
    describe_gauge!(OPEN_FILES, Unit::Count, "Open file descriptors of the process, sockets included");
    #[cfg(feature = "count-allocations")]
    allocations::describe();
}

/// Keeps histograms small and the gauges of the process up to date.
pub(crate) fn run(handle: PrometheusHandle, roles: &[Role], tasks: &Tasks) {
    for role in roles {
        match role {
            Role::Storage => carillon_storage::metrics::describe(),
            Role::Router => carillon_router::metrics::describe(),
            Role::Gateway => carillon_gateway::metrics::describe(),
        }
    }
    let roles = roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join("+");
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "roles" => roles).set(1.0);
    #[cfg(feature = "count-allocations")]
    allocations::run(tasks);
    tasks.spawn("metrics", async move {
        let mut tick = tokio::time::interval(Duration::from_secs(5));
        loop {
            tick.tick().await;
            handle.run_upkeep();
            measure_process();
        }
    });
}

/// Sets the gauges of the process from /proc. On other systems they stay unset.
fn measure_process() {
    if let Ok(status) = std::fs::read_to_string("/proc/self/status")
        && let Some(kilobytes) = resident_kilobytes(&status)
    {
        gauge!(RESIDENT_MEMORY_BYTES).set(kilobytes * 1024.0);
    }
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat")
        && let Some(ticks) = cpu_ticks(&stat)
    {
        // USER_HZ is 100 on every architecture of today's Linux.
        gauge!(CPU_SECONDS).set(ticks / 100.0);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        gauge!(OPEN_FILES).set(files.count() as f64);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_counters_are_there_before_anything_is_counted() {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            carillon_gateway::metrics::describe();
            carillon_router::metrics::describe();
            carillon_storage::metrics::describe();
        });
        let text = recorder.handle().render();
        let router = carillon_router::metrics::ALL.into_iter().map(|(name, _, help)| (name, help));
        let all = carillon_gateway::metrics::names().chain(router).chain(carillon_storage::metrics::all());
        for (name, _) in all.filter(|(name, _)| name.ends_with("_total")) {
            assert!(text.contains(&format!("\n{name} 0\n")) || text.contains(&format!("\n{name}{{")), "{name}");
        }
        for line in [
            "carillon_gateway_connections_refused_total{why=\"full\"} 0",
            "carillon_gateway_sign_ins_total{way=\"any\",result=\"timed_out\"} 0",
            "carillon_gateway_byes_total{code=\"CODE_OUT_OF_ORDER\"} 0",
            "carillon_router_requests_total{op=\"send\",outcome=\"overloaded\"} 0",
            "carillon_router_epochs_renewed_total 0",
            "carillon_storage_refusals_total{why=\"full\"} 0",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn process_gauges_are_read_from_proc() {
        assert_eq!(resident_kilobytes("VmPeak:\t 9 kB\nVmRSS:\t  1234 kB\n"), Some(1234.0));
        let stat = "1 (a b) c) S 1 1 1 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_ticks(stat), Some(300.0));
    }
}
