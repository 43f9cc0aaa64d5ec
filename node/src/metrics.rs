//! The recorder of all metrics, and those about the process itself.

#[cfg(feature = "count-allocations")]
mod allocations;

#[cfg(test)]
mod page;
mod process;

use std::{sync::OnceLock, time::Duration};

use carillon_proto::{
    metrics::{Kind, Label, Metric, at_scrape},
    tasks::Tasks,
};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::{Role, admin::Health};

pub(crate) const BUILD_INFO: &str = "carillon_node_build_info";
pub(crate) const CERTIFICATE_ENDS: &str = "carillon_node_certificate_ends_timestamp_seconds";
pub(crate) const LOG_EVENTS: &str = "carillon_node_log_events_total";

/// All metrics of a process that the recorder has.
const RECORDED: &[Metric] = &[
    Metric::gauge(BUILD_INFO, "1; the labels tell the release, and what the process is")
        .labels(&[Label::open("version", "releases"), Label::open("roles", "roles of the process, joined by +")]),
    Metric::gauge(CERTIFICATE_ENDS, "When the first certificate of the file ends, since 1970")
        .labels(&[Label::open("used_for", "clients, nodes, nodes-ca")]),
    Metric::counter(LOG_EVENTS, "Warnings and errors that were logged")
        .labels(&[Label::known("level", &["warn", "error"])]),
];

/// Bounds from 100 microseconds to 30 seconds. The service levels of `deploy/prometheus` need 50 and 250 ms.
const SECONDS: [f64; 18] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
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
    Ok(handle)
}

/// The metrics that the recorder has of a process with these roles.
fn recorded(roles: &[Role]) -> impl Iterator<Item = &'static Metric> {
    let of_roles = roles.iter().flat_map(|role| match role {
        Role::Storage => carillon_storage::metrics::ALL,
        Role::Router => carillon_router::metrics::ALL,
        Role::Gateway => carillon_gateway::metrics::ALL,
        Role::Canary => carillon_canary::metrics::ALL,
    });
    RECORDED.iter().chain(of_roles)
}

/// Describes the metrics to the recorder, and begins counters and histograms at 0.
fn describe(metrics: impl Iterator<Item = &'static Metric>) {
    for metric in metrics {
        let (name, help) = (metric.name, metric.help);
        match metric.kind {
            Kind::Counter => describe_counter!(name, help),
            Kind::Gauge => describe_gauge!(name, help),
            Kind::Histogram => describe_histogram!(name, help),
        }
        for labels in metric.series() {
            match metric.kind {
                Kind::Counter => drop(counter!(name, &labels)),
                Kind::Histogram => drop(histogram!(name, &labels)),
                // The 0 of a gauge would say something.
                Kind::Gauge => {}
            }
        }
    }
}

/// Keeps histograms small, and lets scrapes read the process.
pub(crate) fn run(handle: PrometheusHandle, roles: &[Role], health: &Health, tasks: &Tasks) {
    process::started();
    describe(recorded(roles));
    let told = roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join("+");
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "roles" => told).set(1.0);
    let health = health.clone();
    at_scrape(move |samples| {
        process::read(&health, samples);
        true
    });
    #[cfg(feature = "count-allocations")]
    allocations::run(tasks);
    tasks.spawn("metrics", async move {
        let mut tick = tokio::time::interval(Duration::from_secs(5));
        loop {
            tick.tick().await;
            handle.run_upkeep();
        }
    });
}

#[cfg(test)]
mod tests {
    use carillon_proto::queues;

    use super::*;

    /// Each group of metrics, with the beginning of its names.
    pub(super) fn groups() -> [(&'static str, Vec<Metric>); 5] {
        let of_process = RECORDED.iter().chain(&process::ALL).chain(&queues::ALL).copied().collect();
        [
            ("carillon_gateway_", carillon_gateway::metrics::ALL.to_vec()),
            ("carillon_router_", carillon_router::metrics::ALL.to_vec()),
            ("carillon_storage_", carillon_storage::metrics::ALL.to_vec()),
            ("carillon_canary_", carillon_canary::metrics::ALL.to_vec()),
            ("carillon_node_", of_process),
        ]
    }

    #[test]
    fn descriptions_keep_to_the_conventions() {
        let mut names = std::collections::BTreeSet::new();
        for (prefix, metrics) in groups() {
            for metric in metrics {
                assert_eq!(metric.fault(prefix), None, "{}", metric.name);
                assert!(names.insert(metric.name), "{} is described twice", metric.name);
            }
        }
    }

    #[test]
    fn counters_and_histograms_are_there_before_anything_happens() {
        let recorder = PrometheusBuilder::new().set_buckets(&ITEMS).expect("buckets").build_recorder();
        metrics::with_local_recorder(&recorder, || describe(recorded(Role::ALL)));
        let text = recorder.handle().render();
        for metric in recorded(Role::ALL).filter(|metric| metric.kind != Kind::Gauge) {
            assert!(text.contains(&format!("# HELP {} {}\n", metric.name, metric.help)), "{}", metric.name);
        }
        for line in [
            "carillon_gateway_connections_refused_total{why=\"full\"} 0",
            "carillon_gateway_sign_ins_total{way=\"any\",result=\"timed_out\"} 0",
            "carillon_gateway_byes_total{code=\"CODE_OUT_OF_ORDER\"} 0",
            "carillon_gateway_delivery_latency_seconds_count 0",
            "carillon_router_requests_total{op=\"send\",outcome=\"overloaded\"} 0",
            "carillon_router_epochs_renewed_total 0",
            "carillon_storage_refusals_total{why=\"full\"} 0",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
        }
    }
}
