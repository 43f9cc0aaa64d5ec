//! The scenario *offline and catch-up*: messages to users who are away and then come back.

use std::{sync::Arc, time::Duration};

use carillon_client::Client;
use tokio::sync::watch;

use super::{
    DEVICE, Environment, Found, Load, NOTHING_ACCEPTED, RunError,
    accounts::make_accounts,
    check_open_files,
    device::Device,
    eventually, open_senders,
    pacer::{Pace, Pacer},
    read_back::{Inbox, read_back},
    sender::Sender,
    share::share,
};
use crate::{
    checker::FlowCheck,
    measure::window::{Reading, Window},
    report::{
        Integrity,
        figure::{Figure, SERVER_CPU, SERVER_CPU_OF_A_DELIVERY, cost, message_figures},
        times::Times,
    },
};

#[derive(Debug, Clone)]
pub struct OfflineConfig {
    /// Users who are away.
    pub absent: usize,
    pub senders: usize,
    /// Messages in all.
    pub messages: u64,
    /// Sends a second over all senders; `None`: as fast as the window allows.
    pub rate: Option<f64>,
    /// Sends of one sender without an answer.
    pub window: usize,
    /// Size of a message's text.
    pub bytes: usize,
    /// How long each part may take.
    pub patience: Duration,
}

/// No sending lasts longer, in seconds.
const LONGEST_S: f64 = 30.0 * 86_400.0;

struct Offline<'a> {
    environment: &'a Environment,
    config: OfflineConfig,
    load: Arc<Load>,
}

pub async fn run(environment: &Environment, config: OfflineConfig) -> Result<Found, RunError> {
    check_open_files(config.absent + config.senders)?;
    let load = Arc::new(environment.load(config.bytes, config.window));
    let offline = Offline { environment, config, load };
    make_accounts(environment, (0..offline.config.absent).map(|number| offline.load.user("away", number)).collect())
        .await?;
    let senders =
        open_senders(&offline.load, environment, offline.config.senders, |sender| offline.flows_from(sender)).await?;
    let (stored, all_sent) = offline.store(&senders).await;
    let accepted = stored.counts.accepted;
    let (receivers, caught_up) = offline.catch_up().await?;
    offline.read_back(&senders, &receivers).await;
    let findings = offline.load.checker.finish();
    for client in senders.iter().chain(&receivers) {
        client.close().await;
    }
    Ok(Found {
        integrity: Integrity::from(&findings),
        times: vec![Times::new("acceptance", environment.recorder.acceptance.total())],
        figures: figures(&stored, &caught_up),
        // The catch-up takes its own time and reads the same messages, even if the generator was the limit before.
        invalid: (accepted == 0)
            .then(|| NOTHING_ACCEPTED.to_owned())
            .or_else(|| (!all_sent).then(|| offline.too_slow(accepted)))
            .or_else(|| environment.generator_limit(&stored, offline.config.rate.is_none())),
        window: stored,
    })
}

impl Offline<'_> {
    /// Sends everything, or until the run ends early. False if that was not done in time.
    async fn store(&self, senders: &[Client]) -> (Window, bool) {
        let (recorder, config) = (&self.environment.recorder, &self.config);
        recorder.set_phase("storing");
        recorder.mark("sending to absent users");
        recorder.measure_from_now();
        let before = Reading::now(recorder, &self.environment.servers).await;
        let (stop, stopped) = watch::channel(false);
        let paced = config.rate.map(|rate| {
            let pace = Pace::Steady(rate).each_of(senders.len());
            Pacer::start(recorder, senders.len(), pace)
        });
        for (number, client) in senders.iter().enumerate() {
            let flows = self.flows_from(number);
            if flows.is_empty() {
                continue;
            }
            let mut sender = Sender::new(&self.load, client.clone(), flows);
            sender.schedule = paced.as_ref().map(|(_, schedules)| schedules[number].clone());
            sender.limit = Some(share(config.messages, config.senders as u64, number as u64));
            self.environment.tasks.spawn("send", sender.run(stopped.clone()));
        }
        drop(stopped);
        let ending = &self.environment.ending;
        let done = || stop.is_closed() || ending.is_ended();
        let all_sent = eventually(self.sending_lasts() + config.patience, done).await;
        let _ = stop.send(true);
        if ending.is_ended() {
            eventually(config.patience, || stop.is_closed()).await;
        }
        (before.until(&Reading::now(recorder, &self.environment.servers).await), all_sent)
    }

    /// How long the sending takes at the wanted rate, if there is one.
    fn sending_lasts(&self) -> Duration {
        let OfflineConfig { messages, rate, .. } = self.config;
        rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64((messages as f64 / rate).min(LONGEST_S)))
    }

    fn too_slow(&self, accepted: u64) -> String {
        let OfflineConfig { messages, patience, .. } = self.config;
        format!("only {accepted} of {messages} messages were accepted in time: the patience is {patience:?}")
    }

    /// Signs all users in at once, and waits until they have read everything.
    async fn catch_up(&self) -> Result<(Vec<Client>, Window), RunError> {
        let recorder = &self.environment.recorder;
        recorder.set_phase("catching up");
        recorder.mark("absent users sign in");
        let before = Reading::now(recorder, &self.environment.servers).await;
        let mut receivers = Vec::new();
        for number in 0..self.config.absent {
            let user = self.load.user("away", number);
            let watcher = self.load.checker.watcher(&user, DEVICE);
            let flow = self.flow_to(number);
            flow.expect(&watcher);
            let Environment { credentials, tasks, .. } = self.environment;
            let (client, events) = self.load.open((&user, DEVICE), credentials, Vec::new(), tasks)?;
            self.environment.tasks.spawn("watch", Device::new(&self.load, &watcher, vec![flow]).follow(events));
            receivers.push(client);
        }
        eventually(self.config.patience, || self.load.checker.complete()).await;
        let window = before.until(&Reading::now(recorder, &self.environment.servers).await);
        recorder.mark("all caught up");
        Ok((receivers, window))
    }

    async fn read_back(&self, senders: &[Client], receivers: &[Client]) {
        let sender = |(number, client): (usize, &Client)| Inbox {
            user: self.load.user("sender", number),
            client: client.clone(),
            flows: self.flows_from(number),
        };
        let receiver = |(number, client): (usize, &Client)| Inbox {
            user: self.load.user("away", number),
            client: client.clone(),
            flows: vec![self.flow_to(number)],
        };
        let senders = senders.iter().enumerate().map(sender);
        read_back(&self.load, senders.chain(receivers.iter().enumerate().map(receiver)).collect()).await;
    }

    /// Each absent user hears from one sender.
    fn flow_to(&self, absent: usize) -> Arc<FlowCheck> {
        let sender = self.load.user("sender", absent % self.config.senders);
        self.load.checker.flow(&sender, &self.load.user("away", absent))
    }

    fn flows_from(&self, sender: usize) -> Vec<Arc<FlowCheck>> {
        (sender..self.config.absent).step_by(self.config.senders).map(|absent| self.flow_to(absent)).collect()
    }
}

fn figures(stored: &Window, caught_up: &Window) -> Vec<Figure> {
    let mut figures = message_figures(stored);
    // Nobody is there to whom it could be delivered.
    figures.retain(|figure| !["delivered", SERVER_CPU_OF_A_DELIVERY].contains(&figure.name.as_str()));
    let delivered = caught_up.counts.delivered;
    figures.push(Figure::lower("catch-up", "s", caught_up.took.as_secs_f64()));
    figures.push(Figure::higher("catch-up rate", "1/s", delivered as f64 / caught_up.took.as_secs_f64()));
    for mut figure in cost(caught_up, delivered, "message") {
        figure.name =
            if figure.name == SERVER_CPU { "catch-up server CPU" } else { "catch-up generator CPU" }.to_owned();
        figures.push(figure);
    }
    figures
}
