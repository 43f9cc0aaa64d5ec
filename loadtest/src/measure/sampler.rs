//! Takes a sample every second.

use std::{sync::Arc, time::Duration};

use carillon_proto::tasks::Tasks;
use tokio::time::MissedTickBehavior;

use super::{servers::Servers, window::Reading};
use crate::report::{
    recorder::Recorder,
    sample::{Quantiles, Sample, ServerSample},
};

/// Takes samples until `tasks` are stopped, and gives them to the recorder.
pub fn start(recorder: Arc<Recorder>, servers: Arc<Servers>, tasks: &Tasks) {
    tasks.spawn("sample", async move {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        let mut before = Reading::now(&recorder, &servers).await;
        loop {
            tick.tick().await;
            let now = Reading::now(&recorder, &servers).await;
            recorder.sampled(sample(&recorder, &before, &now));
            before = now;
        }
    });
}

fn sample(recorder: &Recorder, before: &Reading, now: &Reading) -> Sample {
    let window = before.until(now);
    let seconds = window.took.as_secs_f64();
    let server = |server: &super::window::ServerWindow| ServerSample {
        cores: server.cpu_us as f64 / 1e6 / seconds,
        rss_bytes: server.rss_after_bytes,
    };
    Sample {
        at_ms: recorder.elapsed_ms(),
        accepted_per_s: window.counts.accepted as f64 / seconds,
        delivered_per_s: window.counts.delivered as f64 / seconds,
        signed_in: window.counts.signed_in,
        acceptance: Quantiles::of(&recorder.acceptance.take_interval()),
        delivery: Quantiles::of(&recorder.delivery.take_interval()),
        servers: window.servers.iter().map(server).collect(),
        generator_cores: window.own_cores(),
        machine_busy: window.machine_busy,
    }
}
