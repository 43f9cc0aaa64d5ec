//! The scenario *presence*: users with many contacts, who change what they show.

mod board;
mod contacts;
mod person;
pub(crate) mod ring;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream::FuturesUnordered};
use tokio::sync::watch;

use self::{
    board::Board,
    person::{KIND, Person, Scene, Way},
    ring::Ring,
};
use super::{
    DEVICE, Ending, Environment, Found, RunError, check_open_files, eventually,
    pacer::{Pace, Pacer},
};
use crate::{
    checker::{Findings, View, Violation, Watcher},
    measure::{
        latencies::Latencies,
        window::{Reading, Window},
    },
    report::{
        Integrity,
        figure::{CHANGES, Figure, cost},
        times::Times,
    },
};

#[derive(Debug, Clone)]
pub(crate) struct PresenceConfig {
    pub(crate) ring: Ring,
    /// Changes a second over all users.
    pub(crate) rate: f64,
    /// So often, one device goes, and comes back.
    pub(crate) restarts: Option<Duration>,
    /// For an answer.
    pub(crate) send_timeout: Duration,
}

/// Users who sign in, or show their first state, at the same time.
const AT_ONCE: usize = 64;
/// Longer than a service waits before it says that a user is offline.
const AWAY: Duration = Duration::from_secs(8);
/// All pictures are looked at so often, until they are right.
const LOOK: Duration = Duration::from_millis(200);
/// How devices go, in turn, and for how long.
const WAYS: [(Way, Duration); 4] =
    [(Way::SignsOut, AWAY), (Way::Breaks, AWAY), (Way::SignsOut, Duration::ZERO), (Way::Breaks, Duration::ZERO)];

struct Storm<'a> {
    environment: &'a Environment,
    config: PresenceConfig,
    scene: Arc<Scene>,
    people: Vec<Arc<Person>>,
}

/// Cost of making the contacts.
struct Made {
    took: Duration,
    window: Window,
}

/// Signs everybody in, makes the contacts, waits at the gate, measures the time after the warm-up, and waits at most `patience` until everybody
/// sees what is so.
pub(crate) async fn run_at(
    environment: &Environment,
    config: PresenceConfig,
    (warm_up, patience): (Duration, Duration),
    measured: impl Future<Output = ()>,
) -> Result<Found, RunError> {
    let recorder = &environment.recorder;
    let storm = Storm::open(environment, config).await?;
    let made = storm.make().await?;
    environment.gate.pass().await;
    let (stop, quiet) = (watch::Sender::new(false), Ending::default());
    let changing = environment.tasks.child();
    let pace = Pace::Steady(storm.config.rate).each_of(storm.people.len());
    let (pacer, schedules) = Pacer::start(recorder, storm.people.len(), pace);
    for (person, schedule) in storm.people.iter().zip(schedules) {
        changing.spawn("change", Arc::clone(person).keep_changing(schedule, stop.subscribe()));
    }
    let going_on = async {
        environment.warm_up(warm_up).await;
        let before = Reading::now(recorder, &environment.servers).await;
        measured.await;
        let window = before.until(&Reading::now(recorder, &environment.servers).await);
        quiet.end();
        window
    };
    let (window, restarts) = tokio::join!(going_on, storm.devices_go_and_come(&quiet, patience));
    recorder.mark("changing ends");
    recorder.set_phase("waiting for the last changes");
    stop.send_replace(true);
    eventually(patience, || stop.is_closed()).await;
    storm.scene.given_up.store(true, Ordering::SeqCst);
    drop(pacer);
    changing.stop();
    storm.some_stay_away(restarts).await;
    recorder.set_phase("comparing what is seen with what is so");
    let findings = storm.compare(patience).await;
    storm.close().await;
    Ok(storm.found(&findings, window, &made, restarts))
}

impl<'a> Storm<'a> {
    async fn open(environment: &'a Environment, config: PresenceConfig) -> Result<Self, RunError> {
        check_open_files(config.ring.users)?;
        let mut load = environment.load(0, 1);
        load.send_timeout = config.send_timeout;
        environment.recorder.set_phase("signing in");
        let users = (0..config.ring.users).map(|user| load.user(KIND, user));
        environment.credentials.prepare(users).await?;
        let scene = Arc::new(Scene {
            load: Arc::new(load),
            credentials: environment.credentials.clone(),
            board: Board::new(config.ring),
            gone: Latencies::default(),
            given_up: AtomicBool::new(false),
        });
        let people: Vec<_> = (0..config.ring.users).map(|number| Arc::new(Person::new(&scene, number))).collect();
        let all = futures_util::stream::iter(people.iter().map(Ok));
        all.try_for_each_concurrent(AT_ONCE, |person| person.start(&environment.tasks)).await?;
        Ok(Self { environment, config, scene, people })
    }

    /// Makes the contacts, and everybody appears.
    async fn make(&self) -> Result<Made, RunError> {
        let Environment { recorder, servers, .. } = self.environment;
        let (began, before) = (Instant::now(), Reading::now(recorder, servers).await);
        contacts::make(self.environment, &self.scene, &self.people).await?;
        let window = before.until(&Reading::now(recorder, servers).await);
        let took = began.elapsed();
        recorder.set_phase("appearing");
        futures_util::stream::iter(&self.people).for_each_concurrent(AT_ONCE, |person| person.appear()).await;
        Ok(Made { took, window })
    }

    /// Devices in turn, until it is told to end. Those that are away then do not come back. Returns how many have gone.
    async fn devices_go_and_come(&self, ending: &Ending, patience: Duration) -> usize {
        let Some(every) = self.config.restarts else { return 0 };
        let (mut gone, mut coming) = (0, FuturesUnordered::new());
        for (number, (way, away)) in WAYS.into_iter().cycle().enumerate() {
            let mut wait = std::pin::pin!(ending.within(every));
            let goes_on = loop {
                // Both branches are cancel-safe: the futures stay.
                tokio::select! {
                    goes_on = &mut wait => break goes_on,
                    Some(()) = coming.next() => {}
                }
            };
            if !goes_on {
                break;
            }
            let person = &self.people[number % self.people.len()];
            if !person.leave(way).await {
                continue;
            }
            gone += 1;
            coming.push(async move {
                if away.is_zero() || ending.within(away).await {
                    self.comes_back(person).await;
                }
            });
        }
        let all = async { while coming.next().await.is_some() {} };
        if tokio::time::timeout(patience, all).await.is_err() {
            self.environment.recorder.mark("not all devices have come back");
        }
        gone
    }

    /// A user who can't come back has not said anything new, and is gone.
    async fn comes_back(&self, person: &Person) {
        if person.come_back(&self.environment.tasks).await.is_err() {
            person.leave(Way::Breaks).await;
        }
    }

    /// Two users more go for good, one in each way, if devices go at all: who is gone has to be offline for all.
    async fn some_stay_away(&self, restarts: usize) {
        if self.config.restarts.is_none() {
            return;
        }
        let mut ways = [Way::SignsOut, Way::Breaks].into_iter().peekable();
        for number in restarts..restarts + self.people.len() {
            let Some(way) = ways.peek() else { break };
            if self.people[number % self.people.len()].leave(*way).await {
                ways.next();
            }
        }
    }

    /// Waits until everybody sees what is so, at most this long, and says who does not.
    async fn compare(&self, patience: Duration) -> Findings {
        let (checker, board) = (&self.scene.load.checker, &self.scene.board);
        let give_up = Instant::now() + patience;
        while Instant::now() < give_up && self.watchers().any(|person| !self.is_right(person)) {
            tokio::time::sleep(LOOK).await;
        }
        for person in &self.people {
            let watcher = checker.watcher(&person.name, DEVICE);
            if board.is_unknown(person.number) {
                watcher.unread("its last change was not answered: whether its contacts see it is not known".to_owned());
            }
        }
        for person in self.watchers() {
            let is_connected = person.client().is_some_and(|client| client.state().borrow().is_connected());
            if !is_connected {
                let why = "it was not connected at the end: what it sees of its contacts is not known";
                checker.watcher(&person.name, DEVICE).unread(why.to_owned());
                continue;
            }
            for wrong in board.wrong(person.number, &person.picture) {
                let why = wrong.told(&self.people[wrong.contact].name);
                let watcher = Watcher { user: person.name.clone(), device: DEVICE.to_owned() };
                checker.found(Violation::Untrue { view: View::Presence, watcher, why });
            }
        }
        checker.finish()
    }

    /// The people who are not gone.
    fn watchers(&self) -> impl Iterator<Item = &Arc<Person>> {
        self.people.iter().filter(|person| person.client().is_some())
    }

    fn is_right(&self, person: &Person) -> bool {
        self.scene.board.wrong(person.number, &person.picture).next().is_none()
    }

    async fn close(&self) {
        let all = futures_util::stream::iter(&self.people);
        all.for_each_concurrent(AT_ONCE, |person| person.close()).await;
    }

    fn found(&self, findings: &Findings, window: Window, made: &Made, restarts: usize) -> Found {
        let (environment, recorder) = (self.environment, &self.environment.recorder);
        let (seconds, counts) = (window.took.as_secs_f64(), window.counts);
        let mut figures = vec![
            Figure::higher(CHANGES, "1/s", counts.accepted as f64 / seconds),
            Figure::neutral("wanted", "1/s", self.config.rate),
            Figure::neutral("told", "1/s", counts.delivered as f64 / seconds),
        ];
        figures.extend(cost(&window, counts.accepted, "change"));
        if let (Some(us), told @ 1..) = (window.server_cpu_us(), counts.delivered) {
            figures.push(Figure::lower("server CPU for a telling", "us/telling", us as f64 / told as f64));
        }
        figures.extend(made.figures(self.config.ring));
        let compared = self.watchers().count() * self.config.ring.contacts;
        figures.push(Figure::neutral("presences compared", "", compared as f64));
        if self.config.restarts.is_some() {
            figures.push(Figure::neutral("devices that went", "", restarts as f64));
        }
        let away = recorder.away.total();
        if !away.is_empty() {
            figures.push(Figure::neutral("devices that came back", "", away.len() as f64));
            figures.push(Figure::lower("longest time away", "ms", away.max() as f64 / 1000.0));
        }
        let nothing = (counts.accepted == 0).then(|| "nobody has changed anything in the measured time".to_owned());
        Found {
            integrity: Integrity::from(findings),
            times: vec![
                Times::new("acceptance", recorder.acceptance.total()),
                Times::new("delivery", recorder.delivery.total()),
                Times::new("gone", self.scene.gone.total()),
            ],
            figures,
            invalid: nothing.or_else(|| environment.generator_limit(&window, false)),
            window,
        }
    }
}

impl Made {
    fn figures(&self, ring: Ring) -> Vec<Figure> {
        let contacts = ring.users * ring.contacts;
        let mut figures = vec![
            Figure::lower("making of the contacts", "s", self.took.as_secs_f64()),
            Figure::neutral("contacts", "", contacts as f64),
        ];
        if let Some(us) = self.window.server_cpu_us() {
            figures.push(Figure::lower("server CPU for a contact", "us/contact", us as f64 / contacts.max(1) as f64));
        }
        figures
    }
}
