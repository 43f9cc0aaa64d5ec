//! The scenario *sign-in ramp*: many sign-ins, some of them concurrently.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use parking_lot::Mutex;

use carillon_client::Ticket;

use super::{
    Environment, Found, RunError, check_open_files,
    groups::{Crowd, InGroups},
    light::{By, Light},
};
use crate::{
    measure::{
        latencies::histogram,
        window::{Reading, Window},
    },
    report::{
        Integrity,
        figure::{Figure, cost},
        times::Times,
    },
};

#[derive(Debug, Clone)]
pub struct SignInConfig {
    /// Sign-ins in all, each on a connection of its own.
    pub count: usize,
    /// Number of users, who sign in in turn, each time with another device.
    pub users: usize,
    /// Sign-ins at the same time.
    pub concurrency: usize,
    /// Sign-ins begun a second, if the concurrency allows it; latency counts from the time that this rate gives to
    /// each. `None`: as many as the concurrency allows.
    pub rate: Option<f64>,
    /// Sign out after each, rather than stay signed in until the end. Its cost is in the figures then.
    pub sign_out: bool,
    /// True if the users are new, so that their accounts are made in the measured part.
    pub new_users: bool,
    /// By resume tickets, which every device gets before the measured part.
    pub resume: bool,
    pub groups: Option<InGroups>,
    /// The devices have everything of the groups, and say so.
    pub up_to_date: bool,
}

pub async fn run(environment: &Environment, config: SignInConfig) -> Result<Found, RunError> {
    check_open_files(if config.sign_out { config.concurrency } else { config.count })?;
    let recorder = &environment.recorder;
    let users = (0..config.users.max(1)).map(|number| format!("{}-{number}", environment.run));
    environment.credentials.prepare(users).await?;
    let tickets: Vec<OnceLock<Ticket>> =
        (0..if config.resume { config.count } else { 0 }).map(|_| OnceLock::new()).collect();
    if config.resume {
        recorder.set_phase("getting tickets");
        let first = SignInConfig { rate: None, sign_out: true, resume: false, ..config.clone() };
        let ramp = Ramp { tickets: &tickets, ..Ramp::new(environment, &first, DEVICE) };
        ramp.run().await.must_succeed()?;
    } else if !config.new_users {
        recorder.set_phase("making accounts");
        let first = SignInConfig { count: config.users, rate: None, sign_out: true, ..config.clone() };
        Ramp::new(environment, &first, "first").run().await.must_succeed()?;
    }
    let crowd = match config.groups {
        Some(groups) => Some(Crowd::make(environment, groups, &config).await?),
        None => None,
    };
    recorder.set_phase("signing in");
    recorder.measure_from_now();
    let before = Reading::now(recorder, &environment.servers).await;
    let ramp = Ramp { tickets: &tickets, crowd: crowd.as_ref(), ..Ramp::new(environment, &config, DEVICE) };
    let ramped = ramp.run().await;
    if crowd.is_some() {
        environment.ending.within(SETTLE).await;
    }
    let after = Reading::now(recorder, &environment.servers).await;
    let window = before.until(&after);
    Ok(Found {
        integrity: Integrity::default(),
        figures: figures(&window, &ramped),
        times: vec![Times::new("sign_in", ramped.latencies.clone())],
        invalid: ramped.failed(&config).or_else(|| environment.generator_limit(&window, config.rate.is_none())),
        window,
    })
}

/// The devices of the measured part.
const DEVICE: &str = "ramp";
/// After the last sign-in, for what a service tells of groups behind its answer.
const SETTLE: Duration = Duration::from_secs(1);

struct Ramp<'a> {
    environment: &'a Environment,
    config: &'a SignInConfig,
    device: &'static str,
    /// By number of the sign-in: taken from here if the configuration says so, put here otherwise. Empty if nobody wants them.
    tickets: &'a [OnceLock<Ticket>],
    /// Users in groups.
    crowd: Option<&'a Crowd>,
}

struct Ramped {
    latencies: hdrhistogram::Histogram<u64>,
    succeeded: u64,
    failed: u64,
    /// The first failed sign-in: user and reason.
    failure: Option<(String, String)>,
    lost: Arc<AtomicU64>,
}

impl<'a> Ramp<'a> {
    fn new(environment: &'a Environment, config: &'a SignInConfig, device: &'static str) -> Self {
        Self { environment, config, device, tickets: &[], crowd: None }
    }

    async fn run(&self) -> Ramped {
        let (began, lost) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let (latencies, failure) = (Mutex::new(histogram()), Mutex::new(None));
        let (ending, failed) = (&self.environment.ending, AtomicU64::new(0));
        let goes_on = |_: &usize| std::future::ready(!ending.is_ended());
        let all = futures_util::stream::iter(0..self.config.count).take_while(goes_on);
        all.for_each_concurrent(self.config.concurrency.max(1), |number| {
            let (latencies, failure, failed, lost) = (&latencies, &failure, &failed, &lost);
            async move {
                let intended = self.config.rate.map(|rate| began + Duration::from_secs_f64(number as f64 / rate));
                if let Some(intended) = intended
                    && !ending.within(intended.saturating_duration_since(Instant::now())).await
                {
                    return;
                }
                let intended = intended.unwrap_or_else(Instant::now);
                match self.one(number, lost).await {
                    Ok(signed_in_at) => {
                        let us = signed_in_at.saturating_duration_since(intended).as_micros() as u64;
                        latencies.lock().saturating_record(us);
                    }
                    Err(why) => {
                        failed.fetch_add(1, Ordering::Relaxed);
                        failure.lock().get_or_insert(why);
                    }
                }
            }
        })
        .await;
        let latencies = latencies.into_inner();
        let (succeeded, failed) = (latencies.len(), failed.into_inner());
        Ramped { succeeded, failed, latencies, failure: failure.into_inner(), lost }
    }

    /// Signs in once. Returns the time at which the sign-in was answered.
    async fn one(&self, number: usize, lost: &Arc<AtomicU64>) -> Result<Instant, (String, String)> {
        let environment = self.environment;
        let users = self.config.users.max(1);
        let (user, device) =
            (format!("{}-{}", environment.run, number % users), format!("{}-{}", self.device, number / users));
        if let Some(crowd) = self.crowd {
            return crowd.sign_in(environment, number % users, (&user, &device), self.config).await;
        }
        let slot = self.tickets.get(number);
        let by = match slot.and_then(OnceLock::get) {
            Some(ticket) if self.config.resume => By::Ticket(ticket.clone()),
            None if self.config.resume => return Err((user, "the service gave no ticket".to_owned())),
            _ => By::Credential(environment.credentials.of(&user)),
        };
        let opened = Light::enter(environment, number, (&user, &device), &by).await;
        let (light, ticket) = opened.map_err(|error| (user, error.to_string()))?;
        let at = Instant::now();
        if let (Some(slot), Some(ticket)) = (slot, ticket) {
            // The first one stays: others are not used.
            let _ = slot.set(ticket);
        }
        if self.config.sign_out {
            light.sign_out().await;
        } else {
            environment.tasks.spawn("signed in", light.hold(0.5, Arc::clone(lost)));
        }
        Ok(at)
    }
}

impl Ramped {
    fn must_succeed(self) -> Result<(), RunError> {
        self.failure.map_or(Ok(()), |(user, why)| Err(RunError::SignIn { user, why }))
    }

    fn failed(&self, config: &SignInConfig) -> Option<String> {
        let lost = self.lost.load(Ordering::Relaxed);
        if let Some((user, why)) = &self.failure {
            let failed = self.failed;
            return Some(format!("{failed} of {} sign-ins failed, first that of {user}: {why}", config.count));
        }
        (lost > 0).then(|| format!("{lost} connections were lost after their sign-in"))
    }
}

fn figures(window: &Window, ramped: &Ramped) -> Vec<Figure> {
    let mut figures = vec![Figure::higher("sign-ins", "1/s", ramped.succeeded as f64 / window.took.as_secs_f64())];
    figures.extend(cost(window, ramped.succeeded, "sign-in"));
    figures
}
