//! The scenario *marks and typing*: users who write to each other, read what comes, and show that they are writing.

mod device;
mod ending;
pub(crate) mod plan;
mod reading;
mod views;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use carillon_client::Events;
use carillon_proto::{GroupId, TimelineId};
use futures_util::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use self::{
    device::{Counts, Device, Person, Scene},
    ending::Asked,
    plan::Plan,
    reading::Reading,
};
use super::{
    Environment, Found, Load, NOTHING_ACCEPTED, RunError, check_open_files, eventually,
    groups::founding::{Founding, make_groups},
    pacer::{Pace, Pacer},
    sender::Sender,
    signed_in,
};
use crate::{
    checker::{Findings, FlowCheck, GroupCheck},
    measure::{
        latencies::Latencies,
        window::{Reading as Meter, Window},
    },
    report::{
        Integrity,
        figure::{Figure, message_figures},
        times::Times,
    },
};

#[derive(Debug, Clone)]
pub(crate) struct MarksConfig {
    pub(crate) plan: Plan,
    /// Messages a second over all users.
    pub(crate) rate: f64,
    /// From the first unread message until the mark is moved.
    pub(crate) read_after: Duration,
    /// Sends of one user without an answer.
    pub(crate) window: usize,
    /// Size of a message's text.
    pub(crate) bytes: usize,
    /// A send without an answer for this long is counted as unknown.
    pub(crate) send_timeout: Duration,
}

/// Of each user. The first one sends and reads.
pub(crate) const DEVICES: usize = 2;
/// Devices that sign in at the same time.
const SIGNING_IN: usize = 64;

struct Talks<'a> {
    environment: &'a Environment,
    config: MarksConfig,
    load: Arc<Load>,
    scene: Arc<Scene>,
    groups: Vec<Arc<GroupCheck>>,
    people: Vec<Arc<Person>>,
    /// By user.
    devices: Vec<Vec<Arc<Device>>>,
}

/// How many there were in a time.
#[derive(Debug, Clone, Copy)]
struct Counted {
    marks: u64,
    chat_states: u64,
}

impl Counted {
    fn now(counts: &Counts) -> Self {
        Self { marks: counts.marks.load(Ordering::Relaxed), chat_states: counts.chat_states.load(Ordering::Relaxed) }
    }

    fn since(self, before: Self) -> Self {
        Self { marks: self.marks - before.marks, chat_states: self.chat_states - before.chat_states }
    }
}

/// Signs everybody in, makes the groups, waits at the gate, measures the time after the warm-up, and waits at most `patience` for the last
/// messages, and as long again until all marks are where they should be.
pub(crate) async fn run_at(
    environment: &Environment,
    config: MarksConfig,
    (warm_up, patience): (Duration, Duration),
    measured: impl Future<Output = ()>,
) -> Result<Found, RunError> {
    let recorder = &environment.recorder;
    let talks = Talks::open(environment, config).await?;
    talks.make_groups().await?;
    environment.gate.pass().await;
    let (stop, stop_reading) = (watch::Sender::new(false), watch::Sender::new(false));
    let (senders, readers) = (environment.tasks.child(), environment.tasks.child());
    let first: Vec<_> = talks.first().collect();
    let (pacer, schedules) = Pacer::start(recorder, first.len(), Pace::Steady(talks.config.rate).each_of(first.len()));
    for (device, schedule) in first.into_iter().zip(schedules) {
        let mut sender = Sender::new(&talks.load, device.client.clone(), vec![talks.flow_of(&device.person)]);
        sender.schedule = Some(schedule);
        senders.spawn("send", sender.run(stop.subscribe()));
        readers.spawn("read", Arc::clone(device).keep_reading(stop_reading.subscribe()));
    }
    environment.warm_up(warm_up).await;
    let (before, counted) = (Meter::now(recorder, &environment.servers).await, Counted::now(&talks.scene.counts));
    measured.await;
    let window = before.until(&Meter::now(recorder, &environment.servers).await);
    let counted = Counted::now(&talks.scene.counts).since(counted);
    recorder.mark("sending ends");
    recorder.set_phase("waiting for the last messages");
    stop.send_replace(true);
    eventually(patience, || stop.is_closed()).await;
    drop(pacer);
    senders.stop();
    // The logs say what the devices lack.
    talks.read_back().await;
    recorder.set_phase("waiting for the last messages");
    eventually(patience, || talks.load.checker.complete()).await;
    recorder.set_phase("reading the last messages");
    talks.all_is_read(patience).await;
    stop_reading.send_replace(true);
    eventually(patience, || stop_reading.is_closed()).await;
    readers.stop();
    recorder.set_phase("comparing what is seen with what is so");
    let asked = talks.who_has_to_ask().await;
    talks.compare(patience).await;
    let findings = talks.load.checker.finish();
    talks.close().await;
    Ok(talks.found(&findings, window, counted, asked))
}

impl<'a> Talks<'a> {
    async fn open(environment: &'a Environment, config: MarksConfig) -> Result<Self, RunError> {
        check_open_files(config.plan.users() * DEVICES)?;
        let mut load = environment.load(config.bytes, config.window);
        load.send_timeout = config.send_timeout;
        let load = Arc::new(load);
        environment.recorder.set_phase("signing in");
        let users = (0..config.plan.users()).map(|user| load.user("u", user));
        environment.credentials.prepare(users).await?;
        let scene = Arc::new(Scene {
            load: Arc::clone(&load),
            read_after: config.read_after,
            counts: Counts::default(),
            stored: Latencies::default(),
            seen_by_writer: Latencies::default(),
            seen_by_own: Latencies::default(),
        });
        let groups = (0..config.plan.groups).map(|group| load.checker.group(&load.user("g", group))).collect();
        let mut talks = Self { environment, config, load, scene, groups, people: Vec::new(), devices: Vec::new() };
        talks.people = (0..talks.config.plan.users()).map(|user| talks.person(user)).collect();
        for person in &talks.people {
            let mut devices = Vec::new();
            for number in 0..DEVICES {
                let (device, events) = talks.device(person, number)?;
                environment.tasks.spawn("watch", Arc::clone(&device).follow(events));
                environment.tasks.spawn("list", Arc::clone(&device).keep_list());
                devices.push(device);
            }
            talks.devices.push(devices);
            if let Some(earlier) = person.number.checked_sub(SIGNING_IN) {
                signed_in(&talks.devices[earlier][DEVICES - 1].client, &talks.people[earlier].name).await?;
            }
        }
        let all = futures_util::stream::iter(talks.all().map(Ok));
        all.try_for_each_concurrent(SIGNING_IN, async |device| signed_in(&device.client, &device.person.name).await)
            .await?;
        Ok(talks)
    }

    fn person(&self, number: usize) -> Arc<Person> {
        let plan = self.config.plan;
        let talk = plan.talk_of(number);
        let talk = match talk {
            plan::Talk::Pair(_) => device::Talk::Pair(self.load.user("u", number ^ 1)),
            plan::Talk::Group(group) => {
                let group = &self.groups[group];
                device::Talk::Group(TimelineId::Group(group_id(group)), Arc::clone(group))
            }
        };
        Arc::new(Person::new(number, self.load.user("u", number), talk, plan.reads(number)))
    }

    fn device(&self, person: &Arc<Person>, number: usize) -> Result<(Arc<Device>, Events), RunError> {
        let Environment { credentials, tasks, .. } = self.environment;
        let name = format!("device-{number}");
        let inbox = self.load.checker.watcher(&person.name, &name);
        let own = self.flow_of(person);
        let (peer, in_group, flows) = match &person.talk {
            device::Talk::Pair(peer) => {
                let theirs = self.load.checker.flow(peer, &person.name);
                theirs.expect(&inbox);
                if number > 0 {
                    own.expect(&inbox);
                }
                // The two of a pair stand beside each other.
                (self.people.get(person.number ^ 1).cloned(), None, vec![theirs, own])
            }
            device::Talk::Group(_, group) => (None, Some(group.watch(&person.name, &name)), Vec::new()),
        };
        let (client, events) = self.load.open((&person.name, &name), credentials, Vec::new(), tasks)?;
        let reading = Reading::new(person.talk.recipient(), in_group.is_some());
        let device = Device {
            scene: Arc::clone(&self.scene),
            person: Arc::clone(person),
            peer,
            client,
            inbox,
            in_group,
            flows,
            is_first: number == 0,
            reading: Mutex::new(reading),
            news: Notify::new(),
            stale: Notify::new(),
            shard: self.load.recorder.shard(),
        };
        Ok((Arc::new(device), events))
    }

    /// The check of the messages that the user sends.
    fn flow_of(&self, person: &Person) -> Arc<FlowCheck> {
        match &person.talk {
            device::Talk::Pair(peer) => self.load.checker.flow(&person.name, peer),
            device::Talk::Group(_, group) => self.load.checker.group_flow(&person.name, group),
        }
    }

    async fn make_groups(&self) -> Result<(), RunError> {
        self.environment.recorder.set_phase("making groups");
        let founding = |group: usize| {
            let mut members = self.config.plan.members_of(plan::Talk::Group(group));
            let owner = self.devices[members.next().unwrap_or_default()][0].client.clone();
            let members = members.map(|user| self.people[user].name.clone()).collect();
            Founding { group: group_id(&self.groups[group]), owner, members }
        };
        make_groups((0..self.config.plan.groups).map(founding)).await
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Device>> {
        self.devices.iter().flatten()
    }

    /// The first device of each user.
    fn first(&self) -> impl Iterator<Item = &Arc<Device>> {
        self.devices.iter().filter_map(|devices| devices.first())
    }

    async fn close(&self) {
        let all = futures_util::stream::iter(self.all());
        all.for_each_concurrent(SIGNING_IN, async |device| device.client.close().await).await;
    }

    fn found(&self, findings: &Findings, window: Window, counted: Counted, asked: Asked) -> Found {
        let (environment, recorder, scene) = (self.environment, &self.environment.recorder, &self.scene);
        let seconds = window.took.as_secs_f64();
        let mut figures = message_figures(&window);
        figures.push(Figure::neutral("wanted", "1/s", self.config.rate));
        figures.push(Figure::lower("not sent in time", "messages", recorder.not_sent_count() as f64));
        figures.push(Figure::neutral("marks", "1/s", counted.marks as f64 / seconds));
        if let Counted { marks: marks @ 1.., .. } = counted {
            figures.push(Figure::neutral(
                "messages for a mark",
                "messages/mark",
                window.counts.accepted as f64 / marks as f64,
            ));
            if let Some(us) = window.server_cpu_us() {
                figures.push(Figure::lower("server CPU for a mark", "us/mark", us as f64 / marks as f64));
            }
        }
        figures.push(Figure::neutral("chat states told", "1/s", counted.chat_states as f64 / seconds));
        figures.push(Figure::lower("devices that had to ask", "", asked.devices as f64));
        figures.push(Figure::lower("writers that had to ask", "", asked.writers as f64));
        let away = recorder.away.total();
        if !away.is_empty() {
            figures.push(Figure::neutral("devices that came back", "", away.len() as f64));
            figures.push(Figure::lower("longest time away", "ms", away.max() as f64 / 1000.0));
        }
        let nothing = (findings.summary.accepted == 0).then(|| NOTHING_ACCEPTED.to_owned());
        Found {
            integrity: Integrity::from(findings),
            times: vec![
                Times::new("acceptance", recorder.acceptance.total()),
                Times::new("delivery", recorder.delivery.total()),
                Times::new("mark stored", scene.stored.total()),
                Times::new("mark seen by writer", scene.seen_by_writer.total()),
                Times::new("mark seen by own device", scene.seen_by_own.total()),
            ],
            figures,
            invalid: nothing.or_else(|| environment.generator_limit(&window, false)),
            window,
        }
    }
}

fn group_id(group: &GroupCheck) -> GroupId {
    GroupId::new(&group.name).expect("a name that this program has made")
}
