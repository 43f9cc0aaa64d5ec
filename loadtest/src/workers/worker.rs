//! A worker: does its share of a scenario, and tells the coordinator what it sees.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use carillon_proto::tasks::Tasks;
use tokio::{
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::Instant,
};

use super::{
    handshake::{HandshakeError, Secret, join},
    message::{Order, Told},
    wire::{MOST_BYTES, receive, send},
};
use crate::{
    capacity::{Loaded as _, Steps},
    measure::window::Reading,
    report::Integrity,
    scenario::{Environment, Found, Gate, mix},
    scenario_file::ScenarioFile,
    session::{Outputs, Session},
};

pub(crate) struct WorkerConfig {
    pub(crate) coordinator: String,
    pub(crate) secret: Secret,
    /// How long the coordinator may take to be there.
    pub(crate) patience: Duration,
    pub(crate) threads: usize,
    /// In the place of those that the scenario names.
    pub(crate) token_secret_file: Option<PathBuf>,
    pub(crate) ca: Option<PathBuf>,
}

/// Pause between two attempts to reach the coordinator.
const AGAIN: Duration = Duration::from_secs(1);
/// Messages to the coordinator that wait; whoever has one more waits, too.
const WAITING: usize = 16;
/// How long the last words to the coordinator may take.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// A coordinator gives no order for as long as its slowest worker needs.
const NO_ORDER: Duration = Duration::from_secs(24 * 3600);

/// Comes when the coordinator is there, and goes when it says so.
pub(crate) async fn work(config: &WorkerConfig) -> anyhow::Result<()> {
    let mut stream = reach(config).await?;
    match join(&mut stream, &config.secret, config.threads).await {
        Ok(()) => {}
        // Perhaps the coordinator has all that it needs.
        Err(why @ HandshakeError::Wire(_)) => anyhow::bail!("the coordinator does not take this worker: {why}"),
        Err(why) => return Err(why).context("the coordinator"),
    }
    eprintln!("the coordinator {} has taken this worker", config.coordinator);
    let (tasks, telling) = (Tasks::new(), Tasks::new());
    let (from, to) = stream.into_split();
    let (told, waiting) = mpsc::channel(WAITING);
    telling.spawn_graceful("tell the coordinator", tell(to, waiting));
    let done = Working { config, from, told, tasks: tasks.clone() }.run().await;
    tasks.finish(LAST_WORDS).await;
    // Nobody has anything more to say: it ends when the last word is on its way.
    telling.finish(LAST_WORDS).await;
    done
}

async fn reach(config: &WorkerConfig) -> anyhow::Result<TcpStream> {
    let give_up = Instant::now() + config.patience;
    loop {
        match TcpStream::connect(&config.coordinator).await {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() + AGAIN > give_up => {
                let (coordinator, patience) = (&config.coordinator, config.patience);
                return Err(error).with_context(|| format!("can't reach {coordinator} within {patience:?}"));
            }
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

async fn tell(mut to: OwnedWriteHalf, mut waiting: mpsc::Receiver<Told>) {
    while let Some(told) = waiting.recv().await {
        if send(&mut to, &told).await.is_err() {
            // The reading side notices it, too.
            return;
        }
    }
}

struct Working<'a> {
    config: &'a WorkerConfig,
    from: OwnedReadHalf,
    told: mpsc::Sender<Told>,
    tasks: Tasks,
}

impl Working<'_> {
    async fn order(&mut self) -> anyhow::Result<Order> {
        receive(&mut self.from, MOST_BYTES, NO_ORDER).await.context("the coordinator is lost")
    }

    async fn tell(&self, told: Told) -> anyhow::Result<()> {
        self.told.send(told).await.context("the coordinator is lost")
    }

    async fn run(mut self) -> anyhow::Result<()> {
        let Order::Work { name, run, scenario } = self.order().await? else {
            anyhow::bail!("the coordinator gives orders before there is work")
        };
        eprintln!("this is {name}: {}", share_of(&scenario));
        let done = self.do_work(run, &scenario).await;
        if let Err(why) = &done {
            // The coordinator itself may be lost.
            let _ = self.tell(Told::Failed { why: format!("{why:#}") }).await;
        }
        done
    }

    async fn do_work(&mut self, run: String, scenario: &ScenarioFile) -> anyhow::Result<()> {
        let mut scenario = scenario.clone();
        let target = &mut scenario.target;
        target.token_secret_file = self.config.token_secret_file.clone().unwrap_or(target.token_secret_file.clone());
        target.ca = self.config.ca.clone().or(target.ca.take());
        let setting = scenario.setting(Outputs::default(), String::new(), self.config.threads)?;
        let mut session = Session::new(setting);
        session.environment.run = run;
        session.environment.gate = Gate::closed();
        let environment = &session.environment;
        self.tasks.spawn("tell what is recorded", record(environment.clone(), self.told.clone()));
        let found = if scenario.capacity.is_some() {
            self.steps(environment, &scenario).await?
        } else {
            self.mix(environment, &scenario).await?
        };
        environment.tasks.finish(Duration::from_secs(5)).await;
        self.tell(Told::Done(Box::new(found))).await?;
        while !matches!(self.order().await?, Order::Dismissed) {}
        Ok(())
    }

    async fn mix(&mut self, environment: &Environment, scenario: &ScenarioFile) -> anyhow::Result<Found> {
        let told = self.told.clone();
        let mut running = std::pin::pin!(mix::run(environment, scenario));
        let all = async {
            environment.gate.arrived(1).await;
            told.send(Told::Ready).await
        };
        tokio::select! {
            failed = &mut running => return Ok(failed?),
            ready = all => ready.context("the coordinator is lost")?,
        }
        // An order that was read in part is never read again: the reading is not given up before the run has ended.
        let mut orders = std::pin::pin!(async {
            loop {
                match self.order().await? {
                    Order::Start => environment.gate.let_pass(),
                    Order::Finish => {
                        environment.ending.end();
                        // The run may wait there for a beginning that never comes.
                        environment.gate.let_pass();
                    }
                    _ => {}
                }
            }
            #[expect(unreachable_code, reason = "it names the type of the error")]
            anyhow::Ok(())
        });
        tokio::select! {
            found = &mut running => Ok(found?),
            lost = &mut orders => Err(lost.err().unwrap_or_else(|| anyhow::anyhow!("the coordinator is lost"))),
        }
    }

    async fn steps(&mut self, environment: &Environment, scenario: &ScenarioFile) -> anyhow::Result<Found> {
        let direct = scenario.direct.as_ref().context("the coordinator's scenario has no users")?;
        let mut steps = Steps::open(environment, scenario.direct_config(direct, environment)).await?;
        self.tell(Told::Ready).await?;
        let before = Reading::now(&environment.recorder, &environment.servers).await;
        loop {
            let told = match self.order().await? {
                Order::Begin { rate } => {
                    steps.begin(rate).await?;
                    Told::Begun
                }
                Order::Measure { ms } => Told::Measured(Box::new(steps.measure(Duration::from_millis(ms)).await?)),
                Order::End { patience_ms } => Told::Drained(steps.end(Duration::from_millis(patience_ms)).await?),
                Order::Finish => break,
                _ => continue,
            };
            self.tell(told).await?;
        }
        let window = before.until(&Reading::now(&environment.recorder, &environment.servers).await);
        let report = steps.finish(scenario.time.patience.0).await;
        let integrity = Integrity::from(&report.findings);
        Ok(Found { integrity, times: Vec::new(), figures: Vec::new(), window, invalid: None })
    }
}

/// Tells each second what was recorded, so that the coordinator sees that this worker is there.
async fn record(environment: Environment, told: mpsc::Sender<Told>) {
    let mut marks = 0;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let recorded = Arc::clone(&environment.recorder).take_recorded(marks);
        marks += recorded.marks.len();
        if told.send(Told::Recorded(Box::new(recorded))).await.is_err() {
            return;
        }
    }
}

fn share_of(scenario: &ScenarioFile) -> String {
    let users = scenario.direct.as_ref().map(|direct| format!("{} users", direct.users));
    let contacts = scenario.presence.as_ref().map(|presence| format!("{} users with contacts", presence.users));
    let talks = scenario.marks.as_ref().map(|marks| format!("{} pairs and {} groups", marks.pairs, marks.groups));
    let idle = scenario.idle.as_ref().map(|idle| format!("{} idle connections", idle.connections));
    let absent = scenario.offline.as_ref().map(|offline| format!("{} absent users", offline.absent));
    let back = scenario.reconnect.as_ref().map(|reconnect| format!("{} that come back", reconnect.connections));
    let parts: Vec<_> = [users, contacts, talks, idle, absent, back].into_iter().flatten().collect();
    format!("{} of {}", parts.join(", "), scenario.name)
}
