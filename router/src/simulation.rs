//! For the simulation only: a router without tasks, sockets and clock. Between the deciding parts (`Gate`, `Owner`, the
//! store's `Engine`) it does what the tasks do, in the same order: see `Reader::run`, `Partition::run` and
//! `StoreActor::run`.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use carillon_proto::{
    LeaseId, UserId,
    pb::{
        link::{Behind, Evict, Forget, Hello, Hint, Push, RouterReply, RouterRequest, ToRouter, router_reply},
        store::{NodeKind, RegistryView, StoreReply, StoreRequest},
    },
};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    companions::Companions,
    config::UnknownRecipient,
    delivery::Delivery,
    gate::{Gate, GateRequest, Verdict},
    owner::{Effect, Owner, OwnerConfig},
    partition::{Input, PARTITIONS, part_of},
    reply::{InFlight, ReplySlot, Request, deadline, op_name, routed_by},
    store::{
        StoreResult,
        simulation::{Done, Event, StoreSide},
    },
    topology::Topology,
};

/// How late a retry or the end of a deadline in the store's client may be.
const TICK: Duration = Duration::from_millis(10);
/// Answers of a link that are outstanding or unread; at this number the link is no longer read.
const REPLIES: usize = 64;

/// What leaves the router.
pub enum Output {
    Store { stream: u64, request: StoreRequest },
    Reply { link: u64, reply: RouterReply },
    Push { link: u64, push: Push },
    Behind { link: u64, behind: Vec<Behind> },
    Evict { link: u64, evict: Evict },
    View { link: u64, view: RegistryView },
    Hint { address: String, hint: Hint },
}

pub struct Router {
    topology: Arc<Topology>,
    /// The lease and its end.
    held: Option<Instant>,
    partitions: Vec<Partition>,
    store: StoreSide,
    store_events: VecDeque<Event>,
    next_tick: Instant,
    links: BTreeMap<u64, Link>,
    longest: Duration,
    outputs: Vec<Output>,
}

struct Partition {
    owner: Owner,
    inputs: VecDeque<Input>,
    answers: VecDeque<StoreResult>,
    follows: bool,
}

struct Link {
    hello: Option<Hello>,
    gate: Gate,
    unread: VecDeque<Unread>,
    waits_until: Option<Instant>,
    to_replies: mpsc::Sender<RouterReply>,
    replies: mpsc::Receiver<RouterReply>,
}

/// Messages of a gateway, in order.
#[expect(clippy::large_enum_variant, reason = "nearly all are requests")]
enum Unread {
    Forget(Forget),
    Request(RouterRequest),
    AnnouncedAll(u64),
}

/// The part of a router that runs next. Parts run at their own pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Partition(usize),
    Store,
}

/// A user has fewer devices in the simulation.
const DEVICES: u32 = 256;

impl Router {
    /// `seed` determines the pauses before retries; `longest` is the most that a request may take.
    pub fn new(here: &str, seed: u64, longest: Duration, now: std::time::Instant) -> Self {
        let topology = Arc::new(Topology::unknown(here));
        let config = OwnerConfig {
            accounts: 64,
            cursor_pause: Duration::from_millis(100),
            unknown_recipient: UnknownRecipient::Refuse,
            max_devices_per_user: DEVICES,
            companions: Companions::default(),
            // A push that two simultaneous failures have lost is found before the run is given up.
            head_check: Duration::from_secs(20),
        };
        let partition = |_| Partition {
            owner: Owner::new(Arc::clone(&topology), config.clone(), now.into()),
            inputs: VecDeque::new(),
            answers: VecDeque::new(),
            follows: false,
        };
        Self {
            partitions: (0..PARTITIONS).map(partition).collect(),
            topology,
            held: None,
            store: StoreSide::new(8192, seed),
            store_events: VecDeque::new(),
            next_tick: now.into(),
            links: BTreeMap::new(),
            longest,
            outputs: Vec::new(),
        }
    }

    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// The parts that have something to do.
    pub fn runnable(&self) -> impl Iterator<Item = Part> {
        let busy = |part: &Partition| part.follows || !part.inputs.is_empty() || !part.answers.is_empty();
        let partitions = self.partitions.iter().enumerate().filter(move |(_, part)| busy(part));
        let store = (!self.store_events.is_empty()).then_some(Part::Store);
        partitions.map(|(index, _)| Part::Partition(index)).chain(store)
    }

    /// When `wake` is due.
    pub fn wake_at(&self) -> Option<std::time::Instant> {
        let tick = (!self.store.is_idle()).then_some(self.next_tick);
        let cursors = self.partitions.iter().filter_map(|partition| partition.owner.cursors_due());
        let checks = self.partitions.iter().filter_map(|partition| partition.owner.check_due());
        let links = self.links.values().filter_map(|link| link.waits_until);
        tick.into_iter().chain(cursors).chain(checks).chain(links).min().map(Instant::into_std)
    }

    pub fn wake(&mut self, now: std::time::Instant) {
        let now = Instant::from_std(now);
        if !self.store.is_idle() && self.next_tick <= now {
            self.next_tick = now + TICK;
            self.store_events.push_back(Event::Tick);
        }
        for index in 0..self.partitions.len() {
            if self.partitions[index].owner.cursors_due().is_some_and(|due| due <= now) {
                self.partitions[index].owner.flush_cursors();
                self.perform(index);
            }
        }
        for index in 0..self.partitions.len() {
            if self.partitions[index].owner.check_due().is_some_and(|due| due <= now) {
                self.partitions[index].owner.check(now);
                self.perform(index);
            }
        }
        self.read_links(now);
    }

    /// The lease runs until then, if at all.
    pub fn holds_lease(&mut self, until: Option<std::time::Instant>) {
        self.held = until.map(Instant::from_std);
    }

    pub fn sees(&mut self, view: RegistryView, now: std::time::Instant) {
        let Some(next) = self.topology.followed_by(view) else { return };
        self.topology = Arc::new(next);
        self.partitions.iter_mut().for_each(|partition| partition.follows = true);
        self.store_events.push_back(Event::Members(self.topology.storage()));
        for link in self.links.keys() {
            self.outputs.push(Output::View { link: *link, view: (*self.topology.view).clone() });
        }
        self.read_links(Instant::from_std(now));
    }

    /// The other routers that it keeps a link to.
    pub fn peers(&self) -> Vec<String> {
        self.topology.others().map(|router| router.address.clone()).collect()
    }

    pub fn link_up(&mut self, link: u64, now: std::time::Instant) {
        let (to_replies, replies) = mpsc::channel(REPLIES);
        let gate = Gate::new(now.into());
        let opened = Link { hello: None, gate, unread: VecDeque::new(), waits_until: None, to_replies, replies };
        self.links.insert(link, opened);
        if self.topology.is_known() {
            self.outputs.push(Output::View { link, view: (*self.topology.view).clone() });
        }
    }

    pub fn link_down(&mut self, link: u64) {
        self.links.remove(&link);
    }

    pub fn link_says(&mut self, link: u64, said: ToRouter, now: std::time::Instant) {
        let now = Instant::from_std(now);
        for hint in said.hints {
            self.take_hint(hint);
        }
        for user in said.changed_users.iter().filter_map(|user| UserId::new(user).ok()) {
            if self.topology.owns(user.as_str()) {
                self.partitions[partition_of(&user)].inputs.push_back(Input::Changed(user));
            }
        }
        let Some(link) = self.links.get_mut(&link) else { return };
        link.hello = said.hello.or(link.hello.take());
        link.unread.extend(said.forgets.into_iter().map(Unread::Forget));
        link.unread.extend(said.requests.into_iter().map(Unread::Request));
        link.unread.extend((said.announced_all != 0).then_some(Unread::AnnouncedAll(said.announced_all)));
        self.read_links(now);
    }

    /// Hints that another router sent on an earlier link may have been lost.
    pub fn doubts(&mut self) {
        self.partitions.iter_mut().for_each(|partition| partition.inputs.push_back(Input::Doubt));
    }

    pub fn stream_up(&mut self, address: &str, stream: u64) {
        self.store_events.push_back(Event::Up { address: address.to_owned(), stream });
    }

    pub fn stream_down(&mut self, stream: u64) {
        self.store_events.push_back(Event::Down { stream });
    }

    pub fn store_says(&mut self, reply: StoreReply) {
        self.store_events.push_back(Event::Reply(reply));
    }

    pub fn run(&mut self, part: Part, now: std::time::Instant, time_ms: u64) {
        let now = Instant::from_std(now);
        match part {
            Part::Store => self.run_store(now),
            Part::Partition(index) => self.run_partition(index, now, time_ms),
        }
        self.read_links(now);
    }

    fn run_store(&mut self, now: Instant) {
        for event in std::mem::take(&mut self.store_events) {
            self.store.take(event, now);
        }
        let Done { sends, answers } = self.store.perform(now);
        self.outputs.extend(sends.into_iter().map(|(stream, request)| Output::Store { stream, request }));
        for (partition, answer) in answers {
            self.partitions[partition].answers.push_back(answer);
        }
    }

    fn run_partition(&mut self, index: usize, now: Instant, time_ms: u64) {
        let partition = &mut self.partitions[index];
        if std::mem::take(&mut partition.follows) {
            partition.owner.follow(Arc::clone(&self.topology), now);
        }
        for (token, answer) in std::mem::take(&mut partition.answers) {
            partition.owner.answer(token, answer, now, time_ms);
        }
        self.perform(index);
        let partition = &mut self.partitions[index];
        for input in std::mem::take(&mut partition.inputs) {
            input.carry_out(&mut partition.owner, now, time_ms);
        }
        self.perform(index);
    }

    fn perform(&mut self, index: usize) {
        for effect in std::mem::take(&mut self.partitions[index].owner.effects) {
            match effect {
                Effect::Store { token, shard, op, deadline, place, .. } => {
                    self.store_events.push_back(Event::Op { shard, op, deadline, place, to: (index, token) });
                }
                Effect::Answer(slot, answer) => slot.answer(answer),
                Effect::Push(gateway, push) => {
                    if let Some(link) = self.link_of(gateway) {
                        self.outputs.push(Output::Push { link, push });
                    }
                }
                Effect::Behind(gateway, behind) => {
                    if let Some(link) = self.link_of(gateway) {
                        self.outputs.push(Output::Behind { link, behind: vec![behind] });
                    }
                }
                // The simulated clients send nothing of the kind.
                Effect::Signal(..) | Effect::Direct { .. } => {}
                Effect::Evict { gateway, connection, why } => {
                    if let Some(link) = self.link_of(gateway) {
                        self.outputs.push(Output::Evict { link, evict: Evict { connection, why: why.into() } });
                    }
                }
                Effect::Deliver(delivery) => self.pass_on(delivery),
            }
        }
        self.take_replies();
    }

    fn take_replies(&mut self) {
        for (link, open) in &mut self.links {
            while let Ok(reply) = open.replies.try_recv() {
                self.outputs.push(Output::Reply { link: *link, reply });
            }
        }
    }

    fn link_of(&self, gateway: LeaseId) -> Option<u64> {
        let is_its = |hello: &Hello| hello.kind() == NodeKind::Gateway && hello.lease == gateway.0;
        // The newest of several.
        self.links.iter().rev().find(|(_, link)| link.hello.as_ref().is_some_and(is_its)).map(|(link, _)| *link)
    }

    fn pass_on(&mut self, delivery: Delivery) {
        match self.topology.elsewhere(&delivery.user) {
            Some(address) => {
                self.outputs.push(Output::Hint { address: address.to_owned(), hint: delivery.into_hint() });
            }
            None => self.deliver(delivery),
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        let partition = partition_of(&delivery.user);
        self.partitions[partition].inputs.push_back(Input::Deliver(delivery));
    }

    fn take_hint(&mut self, hint: Hint) {
        let Some(delivery) = Delivery::of_hint(hint) else { return };
        if !delivery.passed_on
            && let Some(address) = self.topology.elsewhere(&delivery.user)
        {
            let hint = Hint { passed_on: true, ..delivery.clone().into_hint() };
            self.outputs.push(Output::Hint { address: address.to_owned(), hint });
        }
        self.deliver(delivery);
    }

    fn read_links(&mut self, now: Instant) {
        self.take_replies();
        let held = self.held.is_some_and(|until| until > now);
        for (number, link) in &mut self.links {
            link.waits_until = None;
            let Some(hello) = &link.hello else { continue };
            let gateway = LeaseId(hello.lease);
            while let Some(unread) = link.unread.front() {
                let request = match unread {
                    Unread::Request(request) => request,
                    Unread::Forget(Forget { user, connection }) => {
                        if let Ok(user) = UserId::new(user) {
                            let (partition, connection, link_number) = (partition_of(&user), *connection, *number);
                            let said = Input::Forget { user, gateway, connection, link: link_number };
                            self.partitions[partition].inputs.push_back(said);
                        }
                        link.unread.pop_front();
                        continue;
                    }
                    Unread::AnnouncedAll(ring_version) => {
                        let (link_number, ring_version) = (*number, *ring_version);
                        for partition in &mut self.partitions {
                            let said = Input::AnnouncedAll { gateway, link: link_number, ring_version };
                            partition.inputs.push_back(said);
                        }
                        link.unread.pop_front();
                        continue;
                    }
                };
                let Some(op) = &request.op else { break };
                let Ok(user) = routed_by(op) else { break };
                let asked = GateRequest::new(op, &user, request.ring_version, request.era);
                if link.to_replies.capacity() == 0 {
                    break;
                }
                let verdict = link.gate.pass(&asked, &self.topology, held, now);
                if let Verdict::Wait(until) = verdict {
                    link.waits_until = Some(until);
                    break;
                }
                let Some(Unread::Request(RouterRequest { id, deadline_ms, op: Some(op), .. })) =
                    link.unread.pop_front()
                else {
                    break;
                };
                // It has room, as checked above.
                let Ok(place) = link.to_replies.clone().try_reserve_owned() else { break };
                let slot = ReplySlot { id, place, op: op_name(&op), since: now, _counted: InFlight::default().enter() };
                if let Verdict::NotOwner(not) = verdict {
                    slot.answer(router_reply::Result::NotOwner(not));
                    continue;
                }
                let deadline = deadline(now, deadline_ms, self.longest);
                let partition = partition_of(&user);
                let request = Request { user, op, lease: gateway, link: *number, deadline, span: None, slot };
                self.partitions[partition].inputs.push_back(Input::Request(request));
            }
        }
        self.take_replies();
    }
}

fn partition_of(user: &UserId) -> usize {
    part_of(user, PARTITIONS)
}
