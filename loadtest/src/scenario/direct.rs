//! The scenario *direct chat*: each user sends to the next one, and every device of every user watches.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_client::{Address, Client, ConnectOptions};
use carillon_proto::tasks::Tasks;
use hdrhistogram::Histogram;
use tokio::sync::watch;

use super::{
    Environment, Found, Load, NOTHING_ACCEPTED, RunError, Target, check_open_files,
    device::{Device, Slow},
    eventually,
    pacer::{Pace, Pacer},
    read_back::{Inbox, read_back},
    sender::Sender,
    signed_in, user_of,
    witness::Witness,
};
use crate::{
    checker::{Checker, Findings, FlowCheck, Summary, Violation},
    credentials::Credentials,
    measure::window::Reading,
    payload::Filling,
    report::{
        Integrity,
        figure::{Figure, message_figures},
        recorder::Recorder,
        times::Times,
    },
};

#[derive(Clone)]
pub struct DirectConfig {
    /// Names the run; user ids begin with it, so that runs do not mix.
    pub run: String,
    pub addresses: Vec<Address>,
    pub users: usize,
    /// Devices of each user, each with a connection of its own; the first one sends.
    pub devices: usize,
    /// Sends a second of each user; `None`: as fast as the window allows.
    pub rate: Option<f64>,
    /// Sends of one user without an answer.
    pub window: usize,
    /// Size of a message's text.
    pub bytes: usize,
    pub filling: Filling,
    /// A send without an answer for this long is counted as unknown.
    pub send_timeout: Duration,
    pub slow_readers: SlowReaders,
}

/// The first `count` users have one more device, which pauses after each event while messages are sent. Its delivery
/// latencies are not recorded, but it is checked that it gets everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct SlowReaders {
    pub count: usize,
    pub pause: Duration,
}

/// A run in progress.
pub struct Direct {
    load: Arc<Load>,
    /// Clients by user, then by device.
    clients: Vec<Vec<Client>>,
    /// Tells slow readers to stop pausing.
    no_pauses: watch::Sender<bool>,
    tasks: Tasks,
    /// While messages are sent.
    sending: Option<Sending>,
}

struct Sending {
    stop: watch::Sender<bool>,
    senders: Tasks,
    /// Wakes the senders until it is dropped.
    _pacer: Option<Pacer>,
    began: Instant,
}

/// The result of a run.
pub struct Report {
    pub summary: Summary,
    /// The first 1,000 violations of each class.
    pub violations: Vec<Violation>,
    pub findings: Findings,
    /// Acceptance latency in microseconds, from the intended time of the send.
    pub latencies: Histogram<u64>,
    /// Delivery latency in microseconds: from the intended time of the send to each device of the recipient.
    pub delivery: Histogram<u64>,
    pub took: Duration,
}

impl Report {
    /// The first violations, and the inboxes that could not be read back; empty if it is proven that nothing is broken.
    pub fn wrong(&self) -> Vec<String> {
        let unread = self.findings.unread.iter().map(ToString::to_string);
        self.violations.iter().map(ToString::to_string).chain(unread).collect()
    }
}

/// The device that sends.
const SENDER: &str = "device-0";
/// Users who sign in at the same time.
const SIGNING_IN: usize = 64;

impl Direct {
    /// Signs everyone in, then begins to send; all latencies count. `token` makes a token for a user.
    pub async fn start(config: DirectConfig, token: impl Fn(&str) -> String, tasks: &Tasks) -> Result<Self, RunError> {
        let recorder = Arc::new(Recorder::default());
        recorder.measure_from_now();
        Self::start_with(config, ConnectOptions::default(), recorder, token, tasks).await
    }

    /// Like `start`, with a recorder that others share; latencies count from [`Recorder::measure_from_now`] on.
    pub async fn start_with(
        config: DirectConfig,
        connect: ConnectOptions,
        recorder: Arc<Recorder>,
        token: impl Fn(&str) -> String,
        tasks: &Tasks,
    ) -> Result<Self, RunError> {
        let pace = config.rate.map(Pace::Steady);
        let mut direct = Self::open(config, connect, recorder, |user| Credentials::given(token(user)), tasks).await?;
        direct.send(pace);
        Ok(direct)
    }

    /// Signs everyone in, and sends nothing yet.
    pub(crate) async fn open(
        config: DirectConfig,
        connect: ConnectOptions,
        recorder: Arc<Recorder>,
        credentials: impl Fn(&str) -> Credentials,
        tasks: &Tasks,
    ) -> Result<Self, RunError> {
        check_open_files(config.users * config.devices + config.slow_readers.count)?;
        let load = Arc::new(Load {
            run: config.run,
            target: Target { addresses: config.addresses, connect },
            checker: Checker::default(),
            recorder,
            bytes: config.bytes,
            filling: config.filling,
            send_timeout: config.send_timeout,
            window: config.window,
        });
        load.recorder.set_phase("signing in");
        let (no_pauses, no_more_pauses) = watch::channel(false);
        let mut clients = Vec::new();
        for number in 0..config.users {
            let user = load.user("", number);
            let credentials = credentials(&user);
            let flows = flows_of(&load, number, config.users);
            let mut devices = Vec::new();
            for device in 0..config.devices {
                devices.push(open(&load, (&user, &format!("device-{device}")), &credentials, &flows, None, tasks)?);
            }
            if number < config.slow_readers.count {
                let slow = Slow { pause: config.slow_readers.pause, until: no_more_pauses.clone() };
                devices.push(open(&load, (&user, "slow"), &credentials, &flows, Some(slow), tasks)?);
            }
            clients.push(devices);
            if let Some(earlier) = number.checked_sub(SIGNING_IN) {
                all_signed_in(&load, &clients, earlier).await?;
            }
        }
        for number in 0..config.users {
            all_signed_in(&load, &clients, number).await?;
        }
        Ok(Self { load, clients, no_pauses, tasks: tasks.clone(), sending: None })
    }

    /// Makes the accounts, and opens with the target and the recorder of the environment.
    pub(crate) async fn open_in(environment: &Environment, config: DirectConfig) -> Result<Self, RunError> {
        let Environment { credentials, recorder, target, tasks, .. } = environment;
        credentials.prepare((0..config.users).map(|number| user_of(&config.run, "", number))).await?;
        let (connect, recorder) = (target.connect.clone(), Arc::clone(recorder));
        Self::open(config, connect, recorder, |_| credentials.clone(), tasks).await
    }

    /// Begins to send at this pace of each user; `None`: as fast as the window allows.
    pub(crate) fn send(&mut self, pace: Option<Pace>) {
        let users = self.clients.len();
        let (stop, stopped) = watch::channel(false);
        let paced = pace.map(|pace| Pacer::start(&self.load.recorder, users, pace));
        let (pacer, schedules) = paced.map_or((None, Vec::new()), |(pacer, schedules)| (Some(pacer), schedules));
        let senders = self.tasks.child();
        for (number, devices) in self.clients.iter().enumerate() {
            let mut sender = Sender::new(&self.load, devices[0].clone(), vec![flow(&self.load, number, users)]);
            sender.schedule = schedules.get(number).cloned();
            senders.spawn("send", sender.run(stopped.clone()));
        }
        self.load.recorder.set_phase("sending");
        self.sending = Some(Sending { stop, senders, _pacer: pacer, began: Instant::now() });
    }

    /// Stops sending, and waits (at most so long) until every send has ended and every device has everything. False if that was not
    /// so in time.
    pub(crate) async fn pause(&mut self, patience: Duration) -> bool {
        let Some(sending) = self.sending.take() else { return true };
        sending.stop.send_replace(true);
        let complete = eventually(patience, || sending.stop.is_closed() && self.load.checker.complete()).await;
        sending.senders.stop();
        if !complete {
            // Or what is sent after the pause could never be complete.
            self.load.checker.give_up();
        }
        complete
    }

    /// The violations that are known by now, but for messages that are still to come.
    pub(crate) fn broken(&self) -> u64 {
        self.load.checker.broken()
    }

    /// Messages accepted so far.
    pub fn accepted(&self) -> u64 {
        self.load.recorder.counts().accepted
    }

    /// Deliveries so far, over all devices.
    pub fn delivered(&self) -> u64 {
        self.load.recorder.counts().delivered
    }

    /// The recorder, which counts during the run and takes marks.
    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.load.recorder
    }

    /// Stops sending, waits (at most so long) until every send has ended and every device has everything, then reads
    /// all timelines back.
    pub async fn finish(mut self, patience: Duration) -> Report {
        let took = self.settle(patience).await;
        let users = self.clients.len();
        let inbox = |(number, devices): (usize, &Vec<Client>)| inbox(&self.load, number, users, devices[0].clone());
        read_back(&self.load, self.clients.iter().enumerate().map(inbox).collect()).await;
        let findings = self.load.checker.finish();
        self.close().await;
        Report {
            summary: findings.summary,
            violations: findings.violations.clone(),
            findings,
            latencies: self.load.recorder.acceptance.total(),
            delivery: self.load.recorder.delivery.total(),
            took,
        }
    }
}

impl Direct {
    /// Stops sending and waits like [`Direct::finish`], but reads nothing back, and does not sign out. Returns for how long messages
    /// were sent.
    async fn settle(&mut self, patience: Duration) -> Duration {
        let took = self.sending.as_ref().map_or(Duration::ZERO, |sending| sending.began.elapsed());
        self.no_pauses.send_replace(true);
        self.load.recorder.mark("sending ends");
        self.load.recorder.set_phase("waiting for the last messages");
        self.pause(patience).await;
        took
    }

    async fn close(&self) {
        for client in self.clients.iter().flatten() {
            client.close().await;
        }
    }

    /// Knows what was sent, also after the end of the run.
    pub(crate) fn witness(&self) -> Witness {
        Witness::new(&self.load, self.clients.len())
    }

    /// Like [`Direct::finish`], without reading the timelines back. The findings are those of the devices.
    pub(crate) async fn finish_unread(mut self, patience: Duration) -> Findings {
        self.settle(patience).await;
        self.close().await;
        self.load.checker.finish()
    }
}

async fn all_signed_in(load: &Load, clients: &[Vec<Client>], number: usize) -> Result<(), RunError> {
    for client in &clients[number] {
        signed_in(client, &load.user("", number)).await?;
    }
    Ok(())
}

fn previous(number: usize, users: usize) -> usize {
    (number + users - 1) % users
}

fn flow(load: &Load, sender: usize, users: usize) -> Arc<FlowCheck> {
    load.checker.flow(&load.user("", sender), &load.user("", (sender + 1) % users))
}

/// The inbox of the user with this number.
pub(super) fn inbox(load: &Load, number: usize, users: usize, client: Client) -> Inbox {
    Inbox { user: load.user("", number), client, flows: flows_of(load, number, users) }
}

/// The flow that goes to the user with this number, and the user's own.
pub(super) fn flows_of(load: &Load, number: usize, users: usize) -> Vec<Arc<FlowCheck>> {
    vec![flow(load, previous(number, users), users), flow(load, number, users)]
}

/// Opens a device. The first flow goes to the user; the second one is the user's own, which the first device sends.
fn open(
    load: &Arc<Load>,
    (user, device): (&str, &str),
    credentials: &Credentials,
    flows: &[Arc<FlowCheck>],
    slow: Option<Slow>,
    tasks: &Tasks,
) -> Result<Client, RunError> {
    let watcher = load.checker.watcher(user, device);
    flows[0].expect(&watcher);
    if device != SENDER {
        flows[1].expect(&watcher);
    }
    let (client, events) = load.open((user, device), credentials, Vec::new(), tasks)?;
    let device = Device::new(load, &watcher, flows.to_vec());
    let device = match slow {
        Some(slow) => device.slowed(slow),
        None => device,
    };
    tasks.spawn("watch", device.follow(events));
    Ok(client)
}

/// Carries out a run with a warm-up, measures the time after it, waits at most `patience` for the last messages, and
/// returns everything found.
pub async fn run(
    environment: &Environment,
    config: DirectConfig,
    times: (Duration, Duration),
    measured: impl Future<Output = ()>,
) -> Result<Found, RunError> {
    let pace = config.rate.map(Pace::Steady);
    run_at(environment, config, pace, times, measured).await
}

/// Runs the scenario at this pace of each user.
pub(crate) async fn run_at(
    environment: &Environment,
    config: DirectConfig,
    pace: Option<Pace>,
    (warm_up, patience): (Duration, Duration),
    measured: impl Future<Output = ()>,
) -> Result<Found, RunError> {
    let users = config.users;
    let recorder = Arc::clone(&environment.recorder);
    let mut direct = Direct::open_in(environment, config).await?;
    environment.gate.pass().await;
    direct.send(pace);
    environment.warm_up(warm_up).await;
    let before = Reading::now(&recorder, &environment.servers).await;
    let told_before = environment.gateways.read().await;
    measured.await;
    let after = Reading::now(&recorder, &environment.servers).await;
    let told_after = environment.gateways.read().await;
    let window = before.until(&after);
    let report = direct.finish(patience).await;
    let mut figures = message_figures(&window);
    if let Some(Pace::Steady(rate)) = pace {
        figures.push(Figure::neutral("wanted", "1/s", rate * users as f64));
    }
    if pace.is_some() {
        figures.push(Figure::lower("not sent in time", "messages", recorder.not_sent_count() as f64));
    }
    let away = recorder.away.total();
    if !away.is_empty() {
        figures.push(Figure::neutral("devices that came back", "", away.len() as f64));
        figures.push(Figure::lower("longest time away", "ms", away.max() as f64 / 1000.0));
    }
    if let (Some(before), Some(after)) = (told_before, told_after) {
        figures.extend(before.figures(&after, window.took));
    }
    let nothing = (report.summary.accepted == 0).then(|| NOTHING_ACCEPTED.to_owned());
    Ok(Found {
        integrity: Integrity::from(&report.findings),
        times: vec![Times::new("acceptance", report.latencies), Times::new("delivery", report.delivery)],
        figures,
        invalid: nothing.or_else(|| environment.generator_limit(&window, pace.is_none())),
        window,
    })
}
