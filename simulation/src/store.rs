//! The store, with Raft reduced to what others see of it: an entry that is committed is applied once, in the order of
//! the log; a change of the leader makes what is in flight uncertain; only the leader answers. The machines are real.

mod elections;
mod members;
mod planted;
mod sweeps;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use carillon_proto::{
    Level, MediaId, ShardId, ShardKind, ShardMap,
    pb::store::{
        Busy, CollectMedia, DirectoryCommand, LaneClosed, Node, NodeKind, NotHere, NotLeader, RaiseLevel, RegistryView,
        SetLevel, StoreError, StoreReply, StoreRequest, TimelineCommand, Unknown, directory_command, rejected::Reason,
        store_error::Why, store_reply::Result as Outcome, store_request::Op, timeline_command,
    },
};
use carillon_storage::simulation::{Lane, Lanes, Machines, RingSlots};
pub(crate) use members::changes;
use prost::Message as _;

use crate::{
    Guard, Plant,
    presence::changes_sight,
    routers::RouterEvent,
    schedule::{MS, Time},
    wires::{Side, WireId},
    world::{Event, Message, World},
};

/// The cluster is made of these.
const FOUNDERS: usize = 3;
/// All that there may be at a time.
pub(crate) const NODES: usize = 4;
pub(crate) const MAP: ShardMap = ShardMap { directory: 1, timeline: 2 };
/// The time between two steps of the lease clock.
const CLOCK: Time = 500 * MS;
/// The time between two looks of the shards' leaders for what is to be swept out.
const SWEEP: Time = 300 * MS;
/// So many times faster time passes for what gives slots to routers: a router waits for a slot for a quarter of a second.
const SLOTS_HURRY: u32 = 60;

pub(crate) struct Cluster<'m> {
    machines: &'m mut Machines,
    shards: BTreeMap<ShardId, Shard>,
    /// Lanes of each stream.
    lanes: BTreeMap<WireId, Lanes>,
    /// Which nodes are up.
    up: [Arc<AtomicBool>; NODES],
    disks: members::Disks,
    slots: RingSlots,
    clock_at: Time,
    swept_at: Time,
    /// Makes what is planted different each time.
    planted: u64,
}

#[derive(Default)]
struct Shard {
    leader: usize,
    /// While it is not elected, nobody answers.
    elected: bool,
    /// The node that has no replica of it now, in a run without `group`.
    without: Option<usize>,
    /// The members; `None` in runs in which they stay.
    group: Option<members::Group>,
    /// Entries of clients that were committed. Only these are on the disks of replicas one by one.
    committed: u64,
    /// Entries of the leader before, of which the next leader may have some.
    left: VecDeque<Vec<Write>>,
    term: u64,
    applied: u64,
    waiting: VecDeque<Write>,
    in_flight: VecDeque<Vec<Write>>,
    proposes: bool,
    last_commit: Time,
}

struct Write {
    wire: WireId,
    id: u64,
    command: Bytes,
    lane: Lane,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "each is on the way by itself")]
pub(crate) enum StoreEvent {
    Proposes(ShardId),
    Commits {
        shard: ShardId,
        term: u64,
    },
    Reads {
        wire: WireId,
        shard: ShardId,
        term: u64,
        id: u64,
        op: Op,
    },
    Elected {
        shard: ShardId,
        term: u64,
    },
    /// Nobody could be elected before.
    Elects {
        shard: ShardId,
        term: u64,
    },
    /// The planner and the leaders of the shards look at the members.
    Reconciles,
    /// The operator's change of this number.
    Operator(usize),
    /// The disk of this node is gone, and the operator replaces it.
    Replaces(usize),
    NodeStarts(usize),
    ClustersLevelRises,
    ShardsLevelRises(ShardId),
    Clock,
    Sweeps,
}

impl<'m> Cluster<'m> {
    pub(crate) fn new(machines: &'m mut Machines) -> Self {
        let shard = |(place, shard)| (shard, Shard { leader: place % NODES, elected: true, ..Shard::default() });
        Self {
            machines,
            shards: MAP.all().enumerate().map(shard).collect(),
            lanes: BTreeMap::new(),
            up: std::array::from_fn(|node| Arc::new(AtomicBool::new(node < FOUNDERS))),
            disks: members::Disks::default(),
            slots: RingSlots::default(),
            clock_at: 0,
            swept_at: 0,
            planted: 0,
        }
    }

    /// True while the node is up.
    pub(crate) fn node_is_up(&self, node: usize) -> Arc<AtomicBool> {
        Arc::clone(&self.up[node])
    }

    /// The nodes that are up.
    fn nodes_up(&self) -> Vec<usize> {
        (0..NODES).filter(|node| self.up[*node].load(Ordering::Relaxed)).collect()
    }

    pub(crate) fn registry_is_led(&self) -> bool {
        self.shards[&ShardId::REGISTRY].elected
    }

    /// A stream has ended.
    pub(crate) fn forget(&mut self, wire: WireId) {
        self.lanes.remove(&wire);
    }

    pub(crate) fn read(&self, shard: ShardId, op: &Op) -> Outcome {
        self.machines.read(shard, op).expect("the machine reads")
    }

    pub(crate) fn media_references(&self, shard: ShardId, id: &MediaId) -> u64 {
        self.machines.media_references(shard, id).expect("the machine reads")
    }

    fn shard(&mut self, shard: ShardId) -> &mut Shard {
        self.shards.get_mut(&shard).expect("all shards are there")
    }

    pub(crate) fn apply(&mut self, shard: ShardId, commands: Vec<Bytes>) -> Vec<Outcome> {
        let applied = self.shard(shard);
        applied.applied += 1;
        let index = applied.applied;
        self.machines.apply(shard, index, commands).expect("the machine applies")
    }

    fn set_level(&mut self, shard: ShardId, level: Level) {
        let set_level = SetLevel { level: level.0 };
        let command = match shard.kind {
            ShardKind::Directory => {
                DirectoryCommand { op: Some(directory_command::Op::SetLevel(set_level)) }.encode_to_vec()
            }
            ShardKind::Timeline => {
                TimelineCommand { op: Some(timeline_command::Op::SetLevel(set_level)) }.encode_to_vec()
            }
        };
        self.apply(shard, vec![command.into()]);
    }

    fn view(&self) -> RegistryView {
        let node = |lease, address| Node { lease, kind: NodeKind::Storage.into(), address, slot: None };
        let rows = self.machines.rows();
        let mut storage: Vec<Node> = rows.nodes().map(|row| node(row.node, row.address.clone())).collect();
        if storage.is_empty() {
            storage = (0..FOUNDERS).map(|at| node(at as u64, node_name(at))).collect();
        }
        RegistryView { storage, ..self.machines.registry() }
    }
}

pub(crate) fn node_name(node: usize) -> String {
    format!("s{node}:1")
}

pub(crate) fn node_of(address: &str) -> usize {
    address[1..2].parse().expect("a name of a storage node")
}

impl World<'_> {
    /// All shards are at the level of this program, or timelines below the one of cursors in groups, and all users have accounts,
    /// when the run begins. Directory shards are at the level of this program: below it, a sign-in that was given up may replace a
    /// later one.
    pub(crate) fn found_cluster(&mut self) {
        let level = match self.scenario.level_rises {
            None => Level::OF_PROGRAM,
            Some(at) => {
                self.schedule.at(at, Event::Store(StoreEvent::ClustersLevelRises));
                Level::CLUSTER
            }
        };
        for shard in MAP.all() {
            let is_directory = shard.kind == ShardKind::Directory;
            self.cluster.set_level(shard, if is_directory { Level::OF_PROGRAM } else { level });
        }
        let raise = DirectoryCommand { op: Some(directory_command::Op::RaiseLevel(RaiseLevel { level: level.0 })) };
        self.cluster.apply(ShardId::REGISTRY, vec![raise.encode_to_vec().into()]);
        for user in 0..self.scenario.users {
            self.make_account(user, 1);
        }
        if self.grows() {
            self.found_members();
        }
        self.schedule.after(CLOCK, Event::Store(StoreEvent::Clock));
        if self.scenario.cursor_age_ms > 0 || self.scenario.level_rises.is_none() {
            self.schedule.after(SWEEP, Event::Store(StoreEvent::Sweeps));
        }
    }

    pub(crate) fn store_event(&mut self, event: StoreEvent) {
        if let (StoreEvent::Commits { .. }, Some(until)) = (&event, self.stands_until()) {
            return self.schedule.at(until, Event::Store(event));
        }
        match event {
            StoreEvent::Proposes(shard) => self.proposes(shard),
            StoreEvent::Commits { shard, term } => {
                let known = self.cluster.shard(shard);
                if known.term != term || known.in_flight.is_empty() {
                    return;
                }
                if !self.is_replicated(shard) {
                    // Its followers are late.
                    let after = self.random.between(MS, 20 * MS);
                    self.schedule.after(after, Event::Store(StoreEvent::Commits { shard, term }));
                } else if let Some(writes) = self.cluster.shard(shard).in_flight.pop_front() {
                    self.commits(shard, writes, true);
                }
            }
            StoreEvent::Reads { wire, shard, term, id, op } => {
                let outcome = match self.cluster.shard(shard).term == term {
                    true => self.read(shard, &op),
                    false => error(Why::Unknown(Unknown { why: "led no more".to_owned() })),
                };
                if let Op::ReadContacts(read) = &op {
                    self.model.presence.answered(wire, id, read, &outcome);
                }
                self.reply(wire, id, outcome);
            }
            StoreEvent::Elected { shard, term } => {
                let known = self.cluster.shard(shard);
                known.elected |= known.term == term;
            }
            StoreEvent::Elects { shard, term } if self.cluster.shard(shard).term == term => self.elects(shard, None),
            StoreEvent::Elects { .. } => {}
            StoreEvent::Reconciles => self.reconciles(),
            StoreEvent::Operator(number) => self.operator(number),
            StoreEvent::Replaces(node) => self.replaces(node),
            StoreEvent::ClustersLevelRises if self.cluster.registry_is_led() => {
                let level = Level::OF_PROGRAM.0;
                self.registry_write(directory_command::Op::RaiseLevel(RaiseLevel { level }));
                for shard in MAP.all() {
                    let after = self.random.below(500 * MS);
                    self.schedule.after(after, Event::Store(StoreEvent::ShardsLevelRises(shard)));
                }
            }
            StoreEvent::ShardsLevelRises(shard) if self.cluster.shard(shard).elected => {
                self.cluster.set_level(shard, Level::OF_PROGRAM);
            }
            // The next leader does it.
            StoreEvent::ClustersLevelRises | StoreEvent::ShardsLevelRises(_) => {
                self.schedule.after(50 * MS, Event::Store(event));
            }
            StoreEvent::NodeStarts(node) => self.cluster.up[node].store(true, Ordering::Relaxed),
            StoreEvent::Clock => self.clock(),
            StoreEvent::Sweeps => self.sweeps(),
        }
    }

    pub(crate) fn store_request(&mut self, node: usize, wire: WireId, request: StoreRequest) {
        let StoreRequest { id, shard, lane, op, .. } = request;
        let shard = shard.as_ref().and_then(ShardId::from_pb).expect("the router names a shard");
        let op = op.expect("the router asks for something");
        let lane = self.cluster.lanes.entry(wire).or_default().lane(shard, lane);
        let command = match self.cluster.machines.check(shard, &op) {
            Ok(command) => command,
            Err(rejected) => {
                self.report.above_level += u64::from(rejected.reason() == Reason::Level);
                return self.reply(wire, id, error(Why::Rejected(rejected)));
            }
        };
        let lanes_count = self.lanes_count(shard);
        let busy = !self.healed && self.random.in_thousand(self.scenario.busy);
        let has_none = self.grows() && !self.has_replica(shard, node);
        let known = self.cluster.shard(shard);
        let why = if command.is_some() && lane.is_closed() && lanes_count {
            Why::LaneClosed(LaneClosed {})
        } else if has_none || known.without == Some(node) {
            Why::NotHere(NotHere::default())
        } else if node != known.leader || !known.elected {
            let leader = if known.elected { node_name(known.leader) } else { String::new() };
            Why::NotLeader(NotLeader { leader })
        } else if busy {
            Why::Busy(Busy { retry_after_ms: 50 })
        } else {
            let term = known.term;
            match command {
                Some(command) => {
                    known.waiting.push_back(Write { wire, id, command, lane });
                    self.will_propose(shard);
                }
                None => {
                    let after = self.random.below(1000);
                    self.schedule.after(after, Event::Store(StoreEvent::Reads { wire, shard, term, id, op }));
                }
            }
            return;
        };
        if command.is_some() {
            lane.close();
        }
        self.reply(wire, id, error(why));
    }

    fn lanes_count(&self, shard: ShardId) -> bool {
        let guard = match shard.kind {
            ShardKind::Timeline => Guard::Lanes,
            ShardKind::Directory => Guard::SessionLanes,
        };
        self.plant != Some(Plant::LanesStayOpen) && !self.is_without(guard)
    }

    fn will_propose(&mut self, shard: ShardId) {
        let after = self.random.below(1000);
        let known = self.cluster.shard(shard);
        if !std::mem::replace(&mut known.proposes, true) {
            self.schedule.after(after, Event::Store(StoreEvent::Proposes(shard)));
        }
    }

    fn proposes(&mut self, shard: ShardId) {
        let lanes_count = self.lanes_count(shard);
        let mut entry = Vec::new();
        let known = self.cluster.shard(shard);
        known.proposes = false;
        let mut closed = Vec::new();
        while (entry.len() as u64) < self.scenario.entry
            && let Some(write) = known.waiting.pop_front()
        {
            match lanes_count && write.lane.is_closed() {
                true => closed.push(write),
                false => entry.push(write),
            }
        }
        let more = !known.waiting.is_empty();
        for write in closed {
            self.reply(write.wire, write.id, error(Why::LaneClosed(LaneClosed {})));
        }
        if more {
            self.will_propose(shard);
        }
        if entry.is_empty() {
            return;
        }
        self.plant_in(shard, &mut entry);
        let (least, most) = self.scenario.disk;
        let at = self.schedule.now() + self.random.between(least, most);
        let known = self.cluster.shard(shard);
        known.last_commit = known.last_commit.max(at);
        let (at, term) = (known.last_commit, known.term);
        known.in_flight.push_back(entry);
        self.schedule.at(at, Event::Store(StoreEvent::Commits { shard, term }));
    }

    /// The end of the time in which nothing is committed, if it is such a time.
    fn stands_until(&self) -> Option<Time> {
        let (from, until) = self.scenario.stands?;
        (from..until).contains(&self.schedule.now()).then_some(until)
    }

    fn commits(&mut self, shard: ShardId, writes: Vec<Write>, answers: bool) {
        let commands: Vec<Bytes> = writes.iter().map(|write| write.command.clone()).collect();
        let before = self.cluster.view().version;
        let changes_sight = shard.kind == ShardKind::Directory && commands.iter().any(changes_sight);
        let outcomes = self.cluster.apply(shard, commands);
        self.cluster.shard(shard).committed += 1;
        if changes_sight {
            self.sight_changed();
        }
        for (write, outcome) in writes.into_iter().zip(outcomes) {
            if shard.kind == ShardKind::Timeline {
                self.model.files.now = self.schedule.now();
                self.model.applied(&write.command, &outcome);
                if let Some(collect) = collects(&write.command) {
                    self.files_collected(&collect);
                }
                self.report.moves += moves(&write.command);
            }
            if answers {
                self.reply(write.wire, write.id, outcome);
            }
        }
        if shard == ShardId::REGISTRY {
            self.registry_changed(before);
        }
    }

    /// A command to the registry that did not come on a stream.
    pub(crate) fn registry_write(&mut self, op: directory_command::Op) -> Outcome {
        let before = self.cluster.view().version;
        let command = DirectoryCommand { op: Some(op) };
        let outcomes = self.cluster.apply(ShardId::REGISTRY, vec![command.encode_to_vec().into()]);
        self.registry_changed(before);
        outcomes.into_iter().next().expect("one outcome for one command")
    }

    pub(crate) fn view(&self) -> RegistryView {
        self.cluster.view()
    }

    fn registry_changed(&mut self, before: u64) {
        let view = self.cluster.view();
        if view.version == before {
            return;
        }
        for router in 0..self.routers.len() {
            let late = if self.healed { 20 * MS } else { self.scenario.registry_late };
            let after = self.random.below(late);
            self.at_router(router, after, RouterEvent::Sees(view.clone()));
        }
    }

    fn read(&mut self, shard: ShardId, op: &Op) -> Outcome {
        let mut op = op.clone();
        if self.plant == Some(Plant::InboxGoesOn) {
            match &mut op {
                Op::ReadTimeline(read) => read.incarnation = self.first_owner(read.timeline.as_ref()),
                Op::ReadHead(read) => read.incarnation = self.first_owner(read.timeline.as_ref()),
                _ => {}
            }
        }
        let mut outcome = self.cluster.read(shard, &op);
        if self.plant == Some(Plant::GapsStayOpen)
            && let Outcome::TimelineRead(read) = &mut outcome
        {
            read.entries.clear();
        }
        outcome
    }

    fn reply(&mut self, wire: WireId, id: u64, outcome: Outcome) {
        self.send(wire, Side::First, Message::FromStore(StoreReply { id, result: Some(outcome) }));
    }
}

fn collects(command: &Bytes) -> Option<CollectMedia> {
    match TimelineCommand::decode(command.clone()).expect("it was applied").op {
        Some(timeline_command::Op::CollectMedia(collect)) => Some(collect),
        _ => None,
    }
}

/// Number of cursors that the command moves with others.
fn moves(command: &Bytes) -> u64 {
    match TimelineCommand::decode(command.clone()).expect("it was applied").op {
        Some(timeline_command::Op::MoveCursors(moves)) => moves.moved.len() as u64,
        _ => 0,
    }
}

fn error(why: Why) -> Outcome {
    Outcome::Error(StoreError { why: Some(why) })
}
