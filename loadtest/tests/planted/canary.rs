//! A canary finds a delivery failure, which the service itself does not report.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use carillon::{Layers, Role};
use carillon_proto::planted::PlantedBug;

use crate::service::Service;

/// The canary's promise with its default settings.
const FOUND_WITHIN: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until the canary answers so; panics with what it said last.
fn until(service: &Service, what: &str, so: impl Fn(&str, &str) -> bool) -> Duration {
    let begun = Instant::now();
    loop {
        let get = |path| service.get_from(7500, path).unwrap_or_default();
        let (ready, metrics) = (get("/readyz"), get("/metrics"));
        if so(&ready, &metrics) {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}: {ready}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn rounds(metrics: &str, result: &str) -> f64 {
    let name = format!("carillon_canary_rounds_total{{result=\"{result}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0.0)
}

#[test]
fn pushes_that_a_router_withholds_are_found_by_the_canary_within_half_a_minute() {
    let mut service = Service::new(Some(PlantedBug::WithholdPushes.name()));
    service.start();
    service.wait_ready();
    let config = Layers::default().text(&service.canary(), "canary").load().expect("a configuration");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    let canary = runtime.block_on(carillon::start(config, &[Role::Canary])).expect("starts");

    let is_well = |ready: &str, _: &str| ready.starts_with("HTTP/1.1 200");
    until(&service, "messages go both ways", is_well);
    fs::write(service.whom(), "carillon-canary-2").expect("written");
    let found = until(&service, "the canary finds it", |ready, metrics| {
        ready.starts_with("HTTP/1.1 503")
            && ready.contains("was accepted and not delivered")
            && rounds(metrics, "not_delivered") > 0.0
    });
    assert!(found < FOUND_WITHIN, "{found:?}");
    println!("found after {found:?}");
    fs::remove_file(service.whom()).expect("removed");
    let healed = until(&service, "the canary is well again", is_well);
    println!("well again after {healed:?}");
    let metrics = service.get_from(7500, "/metrics").expect("answers");
    assert!(rounds(&metrics, "ok") >= 4.0 && rounds(&metrics, "wrong") == 0.0, "{metrics}");
    assert!(runtime.block_on(canary.stop()), "stopped in time");
}
