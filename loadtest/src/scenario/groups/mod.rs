//! The scenario *groups*: users who are members of groups, some of whom write there.

mod crowd;
pub(crate) mod founding;
mod member;
pub(crate) mod plan;
mod read_back;
mod unrest;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::{GroupId, TimelineId, tasks::Tasks};
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::sync::watch;

pub use self::plan::InGroups;
pub(crate) use self::{crowd::Crowd, member::said_in, plan::Plan, read_back::read_log, unrest::Unrest};
use self::{
    founding::{Founding, make_groups},
    member::Member,
    unrest::Done,
};
use super::{
    Ending, Environment, Found, Load, NOTHING_ACCEPTED, RunError,
    accounts::make_accounts,
    check_open_files, eventually,
    pacer::{Pace, Pacer},
    sender::Sender,
};
use crate::{
    checker::{Findings, FlowCheck, GroupCheck},
    measure::window::{Reading, Window},
    report::{
        Integrity,
        figure::{Figure, message_figures},
        times::Times,
    },
};

#[derive(Debug, Clone)]
pub(crate) struct GroupsConfig {
    pub(crate) plan: Plan,
    /// Connections of each user; the first one sends.
    pub(crate) devices: usize,
    /// Further members of each group, who are never signed in while messages are sent.
    pub(crate) absent: usize,
    /// Members of each group who send.
    pub(crate) senders: usize,
    /// Messages a second over all groups; `None`: as fast as the window allows.
    pub(crate) rate: Option<f64>,
    /// Sends of one user without an answer.
    pub(crate) window: usize,
    /// Size of a message's text.
    pub(crate) bytes: usize,
    /// A send without an answer for this long is counted as unknown.
    pub(crate) send_timeout: Duration,
    pub(crate) unrest: Unrest,
}

/// Users who sign in at the same time.
const SIGNING_IN: usize = 64;

struct Groups<'a> {
    environment: &'a Environment,
    config: GroupsConfig,
    load: Arc<Load>,
    groups: Vec<Arc<GroupCheck>>,
    /// By user, then by device.
    members: Vec<Vec<Arc<Member>>>,
}

/// Cost of making the groups.
struct Made {
    took: Duration,
    memberships: usize,
    window: Window,
}

/// Signs everybody in, makes the groups, waits at the gate, measures the time after the warm-up, and waits at most `patience` for the last
/// messages.
pub(crate) async fn run_at(
    environment: &Environment,
    config: GroupsConfig,
    (warm_up, patience): (Duration, Duration),
    measured: impl Future<Output = ()>,
) -> Result<Found, RunError> {
    let (recorder, rate, unrest) = (&environment.recorder, config.rate, config.unrest);
    let groups = Groups::open(environment, config).await?;
    let made = groups.make().await?;
    environment.gate.pass().await;
    let (stop, quiet) = (watch::Sender::new(false), Ending::default());
    let senders = environment.tasks.child();
    let pacer = groups.send(&stop, &senders);
    let going_on = async {
        environment.warm_up(warm_up).await;
        let before = Reading::now(recorder, &environment.servers).await;
        measured.await;
        let window = before.until(&Reading::now(recorder, &environment.servers).await);
        quiet.end();
        window
    };
    let (window, changes, restarts) = tokio::join!(
        going_on,
        groups.members_go_and_come(unrest.changes, &quiet),
        groups.devices_restart(unrest.restarts, &quiet)
    );
    recorder.mark("sending ends");
    recorder.set_phase("waiting for the last messages");
    stop.send_replace(true);
    eventually(patience, || stop.is_closed()).await;
    drop(pacer);
    senders.stop();
    // The log says what the devices lack.
    groups.read_back().await;
    recorder.set_phase("waiting for the last messages");
    eventually(patience, || groups.load.checker.complete()).await;
    let findings = groups.load.checker.finish();
    groups.close().await;
    Ok(groups.found(&findings, window, &made, rate, Done { changes, restarts }))
}

impl<'a> Groups<'a> {
    async fn open(environment: &'a Environment, config: GroupsConfig) -> Result<Self, RunError> {
        check_open_files(config.plan.users * config.devices)?;
        let mut load = environment.load(config.bytes, config.window);
        load.send_timeout = config.send_timeout;
        let load = Arc::new(load);
        environment.recorder.set_phase("signing in");
        let groups: Vec<_> = (0..config.plan.groups).map(|group| load.checker.group(&load.user("g", group))).collect();
        let users: Vec<_> = (0..config.plan.users).map(|user| load.user("member", user)).collect();
        environment.credentials.prepare(users.iter().cloned()).await?;
        let mut opened = Self { environment, config, load, groups, members: Vec::new() };
        for (user, of) in users.iter().zip(opened.config.plan.groups_of_all()) {
            let device = |number: usize| {
                let groups = of.iter().map(|group| (opened.timeline(*group), Arc::clone(&opened.groups[*group])));
                let name = format!("device-{number}");
                Arc::new(Member::new(&opened.load, &environment.credentials, (user, &name), groups))
            };
            opened.members.push((0..opened.config.devices).map(device).collect());
        }
        let all = futures_util::stream::iter(opened.members.iter().flatten().map(Ok));
        all.try_for_each_concurrent(SIGNING_IN, async |member| {
            member.start(&environment.tasks)?;
            member.signed_in().await
        })
        .await?;
        Ok(opened)
    }

    /// Makes the groups, with all their members.
    async fn make(&self) -> Result<Made, RunError> {
        let GroupsConfig { plan, absent, .. } = self.config;
        let away: Vec<_> = (0..absent).map(|number| self.load.user("away", number)).collect();
        make_accounts(self.environment, away.clone()).await?;
        let recorder = &self.environment.recorder;
        recorder.set_phase("making groups");
        let (began, before) = (Instant::now(), Reading::now(recorder, &self.environment.servers).await);
        let founding = |group: usize| {
            // Members who are away join first, so that fewer are there to be told of others.
            let online = plan.members_of(group).skip(1).map(|user| self.load.user("member", user));
            let members = away.iter().cloned().chain(online).collect();
            let owner = self.owner_and_guest(group).0.client()?;
            Some(Founding { group: self.group_id(group), owner, members })
        };
        make_groups((0..plan.groups).filter_map(founding)).await?;
        let window = before.until(&Reading::now(recorder, &self.environment.servers).await);
        let memberships = plan.groups * (plan.members + absent);
        Ok(Made { took: began.elapsed(), memberships, window })
    }

    /// Begins to send.
    fn send(&self, stop: &watch::Sender<bool>, tasks: &Tasks) -> Option<Pacer> {
        let sending: Vec<_> = self.flows().into_iter().enumerate().filter(|(_, flows)| !flows.is_empty()).collect();
        let pace = self.config.rate.map(|rate| Pace::Steady(rate).each_of(sending.len()));
        let paced = pace.map(|pace| Pacer::start(&self.load.recorder, sending.len(), pace));
        let (pacer, schedules) = paced.map_or((None, Vec::new()), |(pacer, schedules)| (Some(pacer), schedules));
        for (at, (user, flows)) in sending.into_iter().enumerate() {
            let Some(client) = self.members[user][0].client() else { continue };
            let mut sender = Sender::new(&self.load, client, flows);
            sender.schedule = schedules.get(at).cloned();
            tasks.spawn("send", sender.run(stop.subscribe()));
        }
        pacer
    }

    /// What each user sends: the first members of each group, and the one who comes and goes.
    fn flows(&self) -> Vec<Vec<Arc<FlowCheck>>> {
        let mut flows = vec![Vec::new(); self.config.plan.users];
        for (number, group) in self.groups.iter().enumerate() {
            for user in self.senders_of(number) {
                flows[user].push(self.load.checker.group_flow(&self.load.user("member", user), group));
            }
        }
        flows
    }

    fn senders_of(&self, group: usize) -> Vec<usize> {
        let members = self.config.plan.members_of(group);
        let guest = members.clone().next_back().filter(|_| self.config.unrest.changes.is_some());
        let mut senders: Vec<_> = members.take(self.config.senders).chain(guest).collect();
        senders.dedup();
        senders
    }

    /// Devices that send nothing.
    fn silent(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.members
            .iter()
            .zip(self.flows())
            .flat_map(|(devices, flows)| devices.iter().skip(usize::from(!flows.is_empty())))
    }

    /// The first member, who has made the group, and the last one, who comes and goes.
    fn owner_and_guest(&self, group: usize) -> (&Member, &Member) {
        let mut members = self.config.plan.members_of(group);
        let owner = members.next().unwrap_or_default();
        let guest = members.next_back().unwrap_or(owner);
        (&self.members[owner][0], &self.members[guest][0])
    }

    fn group_id(&self, group: usize) -> GroupId {
        GroupId::new(&self.groups[group].name).expect("a name that this program has made")
    }

    fn timeline(&self, group: usize) -> TimelineId {
        TimelineId::Group(self.group_id(group))
    }

    async fn close(&self) {
        let all = futures_util::stream::iter(self.members.iter().flatten());
        all.for_each_concurrent(SIGNING_IN, async |member| member.close().await).await;
    }

    fn found(&self, findings: &Findings, window: Window, made: &Made, rate: Option<f64>, done: Done) -> Found {
        let (environment, recorder) = (self.environment, &self.environment.recorder);
        let mut figures = message_figures(&window);
        if let Some(rate) = rate {
            figures.push(Figure::neutral("wanted", "1/s", rate));
            figures.push(Figure::lower("not sent in time", "messages", recorder.not_sent_count() as f64));
        }
        figures.extend(made.figures());
        for (name, count) in [("changes of members", done.changes), ("devices that started again", done.restarts)] {
            if count > 0 {
                figures.push(Figure::neutral(name, "", count as f64));
            }
        }
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
            ],
            figures,
            invalid: nothing.or_else(|| environment.generator_limit(&window, rate.is_none())),
            window,
        }
    }
}

impl Made {
    fn figures(&self) -> Vec<Figure> {
        let mut figures = vec![
            Figure::lower("making of the groups", "s", self.took.as_secs_f64()),
            Figure::neutral("memberships", "", self.memberships as f64),
        ];
        if let Some(us) = self.window.server_cpu_us() {
            let each = us as f64 / self.memberships.max(1) as f64;
            figures.push(Figure::lower("server CPU for a membership", "us/membership", each));
        }
        figures
    }
}
