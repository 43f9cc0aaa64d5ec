//! The role: opened, run and drained.

use std::{sync::Arc, time::Duration};

use carillon_proto::{
    Readiness, Ready, now_ms,
    peer::{PeerError, PeerSecurity, Tier},
    tasks::Tasks,
};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    accounts::{Accounts, Operator},
    config::{CanaryConfig, InvalidConfig},
    device::{Device, name_of_device},
    ledger::Ledger,
    metrics,
    round::{Failure, round},
    wellness::{self, Way, Wellness},
};

/// Pause before accounts that could not be made are tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Deadline for signing out at the end.
const SIGN_OUT: Duration = Duration::from_secs(2);

/// A canary: opened, then run, then drained.
pub struct Canary {
    readiness: watch::Sender<Readiness>,
    closing: CancellationToken,
    closed: CancellationToken,
    /// Taken by `run`.
    parts: Mutex<Option<Parts>>,
}

struct Parts {
    config: CanaryConfig,
    accounts: Accounts,
    devices: [Device; 2],
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("canary.{0}")]
    Config(#[from] InvalidConfig),
    #[error(transparent)]
    Security(#[from] PeerError),
    #[error("the canary makes its accounts with the operator's token, or needs canary.password_file")]
    NoToken,
    #[error("{0}")]
    Client(String),
}

impl Canary {
    /// `security` is needed unless the accounts are given with their password; `routers`: where the accounts are made.
    pub fn open(config: CanaryConfig, routers: Vec<String>, security: Option<PeerSecurity>) -> Result<Self, OpenError> {
        config.validate()?;
        let accounts = if config.makes_accounts() {
            let security = security.ok_or(OpenError::NoToken)?.of_tier(Tier::Operator)?;
            Accounts::Made(Operator { security, routers })
        } else {
            Accounts::Given(config.password_file.clone())
        };
        let (users, name) = (config.users(), name_of_device(&config));
        let device = |number: usize| Device::new(&users[number], number, &name, &config).map_err(OpenError::Client);
        let devices = [device(0)?, device(1)?];
        Ok(Self {
            readiness: watch::channel(Readiness::NotReady("not started".to_owned())).0,
            closing: CancellationToken::new(),
            closed: CancellationToken::new(),
            parts: Mutex::new(Some(Parts { config, accounts, devices })),
        })
    }

    /// Ready: the service delivers.
    pub fn ready(&self) -> Ready {
        self.readiness.subscribe()
    }

    /// Starts everything. A second call does nothing.
    pub fn run(&self, tasks: &Tasks) {
        let Some(Parts { config, accounts, devices }) = self.parts.lock().take() else { return };
        let (wellness, seen) = watch::channel([Way::new(), Way::new()]);
        tasks.spawn("canary readiness", wellness::tell(seen, self.readiness.clone(), config.ready_within()));
        if config.history != 0 && !accounts.can_be_made() {
            tracing::info!(
                "the canary's messages stay until storage.retention removes them: canary.password_file is set, so it does not make its accounts anew"
            );
        }
        let work = Rounds {
            ledgers: ledgers(),
            config,
            accounts: Arc::new(accounts),
            devices,
            wellness,
            tasks: tasks.child(),
            made: false,
            turn: 0,
        };
        let (closing, closed) = (self.closing.clone(), self.closed.clone());
        tasks.spawn_critical("canary", async move {
            work.run(&closing).await;
            closed.cancel();
        });
    }

    /// Ends the rounds, and signs out.
    pub async fn drain(&self) {
        self.readiness.send_replace(Readiness::Draining);
        self.closing.cancel();
        if self.parts.lock().is_none() {
            // Signing out takes longer only if the service does not answer.
            let _ = timeout(2 * SIGN_OUT, self.closed.cancelled()).await;
        }
    }
}

struct Rounds {
    config: CanaryConfig,
    accounts: Arc<Accounts>,
    devices: [Device; 2],
    /// By the sending account.
    ledgers: [Ledger; 2],
    wellness: watch::Sender<Wellness>,
    tasks: Tasks,
    /// The accounts are there.
    made: bool,
    turn: usize,
}

fn ledgers() -> [Ledger; 2] {
    let run = rand::random();
    [Ledger::new(run, 0), Ledger::new(run, 1)]
}

impl Rounds {
    async fn run(mut self, closing: &CancellationToken) {
        let mut ticks = interval(self.config.interval());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let working = async {
            loop {
                ticks.tick().await;
                let from = self.turn % 2;
                let done = self.one(from).await;
                self.note(from, done);
                if let Err(why) = self.shorten().await {
                    tracing::warn!(why, "the canary's inboxes are long, and it can't begin anew");
                }
            }
        };
        tokio::select! {
            () = closing.cancelled() => {}
            () = working => {}
        }
        let [first, second] = &mut self.devices;
        let signing_out = async { tokio::join!(first.close(), second.close()) };
        // A service that does not answer needs no farewell.
        let _ = timeout(SIGN_OUT, signing_out).await;
    }

    async fn one(&mut self, from: usize) -> Result<(), Failure> {
        let deadline = Instant::now() + self.config.deadline();
        if !self.made {
            let made = self.accounts.make(&self.config.users(), false).await;
            if let Err(error) = made {
                sleep(AGAIN).await;
                return Err(Failure::NotSignedIn(error.to_string()));
            }
            self.made = true;
        }
        let [first, second] = &mut self.devices;
        let both = tokio::join!(
            first.signed_in(&self.accounts, deadline, &self.tasks),
            second.signed_in(&self.accounts, deadline, &self.tasks),
        );
        both.0.and(both.1).map_err(Failure::NotSignedIn)?;
        self.turn += 1;
        let [first, second] = &mut self.devices;
        let (sender, recipient) = if from == 0 { (first, second) } else { (second, first) };
        round(sender, recipient, &mut self.ledgers[from], deadline).await
    }

    fn note(&self, from: usize, done: Result<(), Failure>) {
        match done {
            Ok(()) => {
                metrics::round("ok");
                metrics::succeeded(now_ms());
                let mut before = String::new();
                self.wellness.send_modify(|ways| before = ways[from].went_well(Instant::now()));
                if !before.is_empty() {
                    tracing::info!(before, "a message of the canary went well");
                }
            }
            Err(failure) => {
                metrics::round(failure.name());
                // Until the first one the service may just be starting.
                if self.wellness.borrow().iter().any(Way::was_well) {
                    tracing::warn!(result = failure.name(), %failure, "a message of the canary did not go well");
                } else {
                    tracing::info!(result = failure.name(), %failure, "no message of the canary goes well yet");
                }
                self.wellness.send_modify(|ways| ways[from].failed(failure.to_string()));
            }
        }
    }

    /// Makes the accounts anew when their inboxes are long: what the canary writes does not grow.
    async fn shorten(&mut self) -> Result<(), String> {
        let longest = self.devices.iter().map(Device::position).max().unwrap_or(0);
        if self.config.history == 0 || longest < self.config.history || !self.accounts.can_be_made() {
            return Ok(());
        }
        tracing::info!(messages = longest, "the canary makes its accounts anew");
        for device in &mut self.devices {
            device.forget().await;
        }
        self.made = false;
        self.ledgers = ledgers();
        self.accounts.remove(&self.config.users()).await.map_err(|error| error.to_string())
    }
}
