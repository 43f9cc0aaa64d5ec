//! The scenario *reconnection herd*: many connections break at once, and all come back.

mod member;
mod outcome;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_client::{Client, State};
use carillon_proto::tasks::Tasks;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::watch;

use self::{
    member::{Fate, Member},
    outcome::Outcome,
};
use super::{
    Environment, Found, Load, RunError, check_open_files, eventually, open_senders,
    read_back::{Inbox, read_back},
    sender::Sender,
    signed_in,
};
use crate::{
    checker::FlowCheck,
    measure::window::Reading,
    report::{Integrity, figure::cost},
};

#[derive(Debug, Clone)]
pub struct HerdConfig {
    pub connections: usize,
    pub senders: usize,
    /// Sends of one sender without an answer.
    pub window: usize,
    /// Size of a message's text.
    pub bytes: usize,
    /// A shell command that breaks the connections, for example by killing a gateway; `None`: the clients drop them.
    pub trigger: Option<String>,
    /// How long the members may take to come back.
    pub patience: Duration,
}

/// Sign-ins at the same time, before the connections break.
const CONCURRENCY: usize = 64;

struct Herd<'a> {
    environment: &'a Environment,
    config: HerdConfig,
    load: Arc<Load>,
    members: Vec<Arc<Member>>,
}

pub async fn run(environment: &Environment, config: HerdConfig) -> Result<Found, RunError> {
    check_open_files(config.connections + config.senders)?;
    let load = Arc::new(environment.load(config.bytes, config.window));
    let credentials = &environment.credentials;
    let members =
        (0..config.connections).map(|number| Arc::new(Member::new(&load, credentials, number, config.senders)));
    let herd = Herd { environment, members: members.collect(), config, load };
    let senders = open_senders(&herd.load, environment, herd.config.senders, |sender| herd.flows_from(sender)).await?;
    credentials.prepare(herd.members.iter().map(|member| member.user.clone())).await?;
    let first_life = environment.tasks.child();
    herd.sign_in(&first_life).await?;
    // One message for each member, so that every device has a position.
    herd.send_to_all(&senders, 1).await;
    herd.load.recorder.measure_from_now();
    let before = Reading::now(&environment.recorder, &environment.servers).await;
    let broken_at = match environment.ending.is_ended() {
        true => Instant::now(),
        false => herd.stampede(&senders, &first_life).await?,
    };
    let after = Reading::now(&environment.recorder, &environment.servers).await;
    // Taken before anything else ends connections.
    let outcome = Outcome::of(broken_at, &herd.members);
    herd.read_back(&senders).await;
    let findings = herd.load.checker.finish();
    let clients: Vec<_> = herd.members.iter().filter_map(|member| member.client.lock().clone()).collect();
    futures_util::stream::iter(clients).for_each_concurrent(CONCURRENCY, async |client| client.close().await).await;
    let window = before.until(&after);
    Ok(Found {
        integrity: Integrity::from(&findings),
        times: outcome.times(),
        figures: outcome.figures().into_iter().chain(cost(&window, outcome.back.len(), "return")).collect(),
        invalid: outcome.invalid(),
        window,
    })
}

impl Herd<'_> {
    async fn sign_in(&self, tasks: &Tasks) -> Result<(), RunError> {
        self.load.recorder.set_phase("signing in");
        let failed = Mutex::new(None);
        let members = futures_util::stream::iter(&self.members);
        members
            .for_each_concurrent(CONCURRENCY, async |member| {
                let opened = member.open(&self.load, tasks);
                let client = member.client.lock().clone();
                let result = match (opened, client) {
                    (Ok(()), Some(client)) => signed_in(&client, &member.user).await,
                    (opened, _) => opened,
                };
                if let Err(error) = result {
                    failed.lock().get_or_insert(error);
                }
            })
            .await;
        failed.into_inner().map_or(Ok(()), Err)
    }

    /// Breaks the connections, sends everyone a message, and waits until all have come back and read it. Returns the
    /// time of the break.
    async fn stampede(&self, senders: &[Client], first_life: &Tasks) -> Result<Instant, RunError> {
        let recorder = &self.load.recorder;
        recorder.set_phase("connections break");
        recorder.mark("connections break");
        // Earlier breaks have nothing to do with this one.
        self.members.iter().for_each(|member| *member.fate.lock() = Fate::default());
        let broken_at = Instant::now();
        match &self.config.trigger {
            Some(command) => trigger(command).await?,
            None => {
                // The connections are dropped without a goodbye, as by a crash of the client.
                first_life.stop();
                let ended = |member: &Arc<Member>| {
                    let client = member.client.lock();
                    client.as_ref().is_none_or(|client| matches!(&*client.state().borrow(), State::Ended { .. }))
                };
                eventually(self.config.patience, || self.members.iter().all(ended)).await;
                for member in &self.members {
                    member.broke_now();
                    member.open(&self.load, &self.environment.tasks)?;
                }
            }
        }
        recorder.set_phase("coming back");
        let sent = self.send_to_all(senders, 2);
        let resumed = eventually(self.config.patience, || {
            self.members.iter().all(|member| {
                if member.watcher.shown() >= 2 {
                    member.fate.lock().resumed.get_or_insert_with(Instant::now);
                }
                let fate = *member.fate.lock();
                fate.resumed.is_some() && (fate.broke.is_none() || fate.back.is_some())
            })
        });
        tokio::join!(sent, resumed);
        recorder.mark("all are back");
        Ok(broken_at)
    }

    /// Sends one message to each member. Waits until all messages are accepted and each member was shown `shown`
    /// messages in all, unless that takes too long.
    async fn send_to_all(&self, senders: &[Client], shown: u64) {
        let (stop, stopped) = watch::channel(false);
        for (number, client) in senders.iter().enumerate() {
            let flows = self.flows_from(number);
            let limit = Some(flows.len() as u64);
            if !flows.is_empty() {
                let mut sender = Sender::new(&self.load, client.clone(), flows);
                sender.limit = limit;
                self.environment.tasks.spawn("send", sender.run(stopped.clone()));
            }
        }
        drop(stopped);
        eventually(self.config.patience, || {
            stop.is_closed() && self.members.iter().all(|member| member.watcher.shown() >= shown)
        })
        .await;
    }

    async fn read_back(&self, senders: &[Client]) {
        let member = |member: &Arc<Member>| {
            let client = member.client.lock().clone()?;
            Some(Inbox { user: member.user.clone(), client, flows: vec![Arc::clone(&member.flow)] })
        };
        let sender = |(number, client): (usize, &Client)| Inbox {
            user: self.load.user("sender", number),
            client: client.clone(),
            flows: self.flows_from(number),
        };
        let senders = senders.iter().enumerate().map(sender);
        read_back(&self.load, senders.chain(self.members.iter().filter_map(member)).collect()).await;
    }

    fn flows_from(&self, sender: usize) -> Vec<Arc<FlowCheck>> {
        self.members.iter().skip(sender).step_by(self.config.senders).map(|member| Arc::clone(&member.flow)).collect()
    }
}

async fn trigger(command: &str) -> Result<(), RunError> {
    let failed = |why: String| RunError::Trigger { command: command.to_owned(), why };
    let status = tokio::process::Command::new("sh").arg("-c").arg(command).status().await;
    let status = status.map_err(|error| failed(format!("can't be started: {error}")))?;
    if status.success() { Ok(()) } else { Err(failed(format!("failed with {status}"))) }
}
