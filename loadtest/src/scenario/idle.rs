//! The scenario *idle hold*: many connections that are signed in and idle.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use parking_lot::Mutex;

use super::{
    Environment, Found, RunError, check_open_files,
    groups::{InGroups, founding::make_groups_of},
    light::Light,
};
use crate::{
    measure::window::Reading,
    report::{
        Integrity,
        figure::{Figure, SERVER_CPU},
    },
};

#[derive(Debug, Clone)]
pub struct IdleConfig {
    pub connections: usize,
    /// Sign-ins at the same time.
    pub concurrency: usize,
    pub groups: Option<InGroups>,
}

/// The golden ratio. The fractional parts of its multiples lie evenly between 0 and 1, however many there are.
const GOLDEN: f64 = 0.618_033_988_749_895;

/// Holds the connections while `measured` is pending.
pub async fn run(
    environment: &Environment,
    config: IdleConfig,
    settle: Duration,
    measured: impl Future<Output = ()>,
) -> Result<Found, RunError> {
    check_open_files(config.connections)?;
    let recorder = &environment.recorder;
    let (lost, failed) = (Arc::new(AtomicU64::new(0)), Mutex::new(None));
    let user = |number: usize| format!("{}-{number}", environment.run);
    environment.credentials.prepare((0..config.connections).map(user)).await?;
    if let Some(groups) = config.groups {
        let users: Vec<_> = (0..config.connections).map(user).collect();
        make_groups_of(environment, &users, groups.plan(config.connections), false).await?;
    }
    recorder.set_phase("signing in");
    let empty = Reading::now(recorder, &environment.servers).await;
    let sign_in = |number: usize| {
        let (lost, failed, user) = (Arc::clone(&lost), &failed, &user);
        async move {
            let user = user(number);
            match Light::open(environment, number, (&user, "idle")).await {
                Ok(light) => {
                    let phase = (number as f64 * GOLDEN).fract();
                    environment.tasks.spawn("idle", light.hold(phase, lost));
                }
                Err(error) => _ = failed.lock().get_or_insert((user, error.to_string())),
            }
        }
    };
    let goes_on = |_: &usize| std::future::ready(!environment.ending.is_ended());
    let all = futures_util::stream::iter(0..config.connections).take_while(goes_on);
    all.for_each_concurrent(config.concurrency.max(1), sign_in).await;
    if let Some((user, why)) = failed.lock().take() {
        return Err(RunError::SignIn { user, why });
    }
    recorder.set_phase("settling");
    environment.ending.within(settle).await;
    let before = Reading::now(recorder, &environment.servers).await;
    recorder.set_phase("holding");
    measured.await;
    let after = Reading::now(recorder, &environment.servers).await;
    let (filling, window) = (empty.until(&before), before.until(&after));
    let connections = config.connections as f64;
    let mut figures = vec![Figure::neutral("connections", "", connections)];
    if let Some(groups) = config.groups {
        figures.push(Figure::neutral("groups of each", "", groups.each as f64));
    }
    if let Some(growth) = filling.server_rss_growth_bytes() {
        figures.push(Figure::lower("server memory", "bytes/connection", growth as f64 / connections));
    }
    if let (Some(us), Some(cores)) = (window.server_cpu_us(), window.server_cores()) {
        figures.push(Figure::lower("idle servers", "cores", cores));
        let each = us as f64 / connections / window.took.as_secs_f64();
        figures.push(Figure::lower(SERVER_CPU, "us/connection/s", each));
    }
    let lost = lost.load(Ordering::Relaxed);
    figures.push(Figure::lower("connections lost", "", lost as f64));
    Ok(Found {
        integrity: Integrity::default(),
        times: Vec::new(),
        figures,
        invalid: (lost > 0).then(|| format!("{lost} of {connections} connections were lost while they were held")),
        window,
    })
}
