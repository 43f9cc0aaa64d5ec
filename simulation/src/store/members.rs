//! Storage nodes come, leave, lose their disks and are replaced, and replicas move. The planner and the steps of the shards' leaders are
//! real; of a replica's log only its length is kept.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::atomic::Ordering,
};

use carillon_proto::{
    Level, ShardId,
    pb::store::{
        AddStorageNode, ForgetReplica, FoundCluster, MoveReplica, NodeAdded, Rebalance, ReplicaJoined,
        SetStorageNodeState, StorageNode, directory_command::Op, storage_node::State, store_reply::Result as Outcome,
    },
};
use carillon_storage::simulation::{Known, Leads, Rows, Step};

use super::{FOUNDERS, MAP, NODES, Shard, StoreEvent, node_name};
use crate::{
    Plant,
    random::Random,
    scenario::Change,
    schedule::MS,
    world::{Event, World},
};

/// Rows that leaders may still see.
const PAST: usize = 4;

/// The members of one shard.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Two sets in the middle of a change: what is committed, and who leads, then needs a majority of each.
    sets: Vec<BTreeSet<u64>>,
    replicas: BTreeMap<u64, Replica>,
    leader: u64,
}

#[derive(Debug)]
struct Replica {
    /// The number of its node.
    node: u64,
    /// The length of its log on the disk.
    entries: u64,
}

/// The disks of the nodes, and what they see of the registry.
#[derive(Default)]
pub(super) struct Disks {
    /// The number that the cluster gave to the disk of each node.
    numbers: [Option<u64>; NODES],
    /// Disks so far: each has a name of its own.
    made: u8,
    past: VecDeque<Rows>,
    leads: LeadLoads,
}

/// Reports of the nodes about their leads.
struct LeadLoads {
    /// Random numbers of its own, so that the rest of a run is what it is without loads.
    random: Random,
    rates: BTreeMap<ShardId, u64>,
    slow: BTreeSet<u64>,
}

impl Default for LeadLoads {
    fn default() -> Self {
        Self { random: Random::new(0), rates: BTreeMap::new(), slow: BTreeSet::new() }
    }
}

impl LeadLoads {
    /// Now and then one shard has another load, or a node becomes slow or well.
    fn change(&mut self, nodes: &[u64]) {
        let random = &mut self.random;
        if !random.in_thousand(200) {
            return;
        }
        if random.in_thousand(100)
            && let Some(node) = nodes.get(random.index(nodes.len().max(1)))
            && !self.slow.remove(node)
        {
            self.slow.insert(*node);
        }
        let shards: Vec<ShardId> = MAP.all().collect();
        let rate = if random.in_thousand(500) { random.below(50) } else { random.below(5000) };
        self.rates.insert(shards[random.index(shards.len())], rate);
    }

    fn told(&mut self) -> Leads {
        let rests = self.random.in_thousand(800);
        Leads::new(self.rates.clone(), self.slow.clone(), rests)
    }

    fn told_at_the_end(&self) -> Leads {
        Leads::new(self.rates.clone(), self.slow.clone(), false)
    }
}

impl Group {
    fn founded(leader: u64) -> Self {
        let founders: Vec<u64> = (1..=FOUNDERS as u64).collect();
        let replicas = founders.iter().map(|id| (*id, Replica { node: *id, entries: 0 }));
        Self { replicas: replicas.collect(), sets: vec![founders.into_iter().collect()], leader }
    }

    fn voters(&self) -> BTreeSet<u64> {
        self.sets.iter().flatten().copied().collect()
    }

    /// A majority of each set of voters.
    fn most(&self, is_one: impl Fn(u64, &Replica) -> bool) -> bool {
        let counts = |id: &&u64| self.replicas.get(id).is_some_and(|replica| is_one(**id, replica));
        self.sets.iter().all(|set| set.iter().filter(counts).count() * 2 > set.len())
    }

    /// True if the node has a replica.
    pub(super) fn is_on(&self, node: Option<u64>) -> bool {
        self.replicas.values().any(|replica| Some(replica.node) == node)
    }

    /// Nodes that may win an election: a majority has no more than they have.
    fn candidates(&self, runs: impl Fn(u64) -> bool) -> Vec<u64> {
        let wins = |id: &u64| {
            let own = &self.replicas[id];
            runs(own.node) && self.most(|_, other| runs(other.node) && other.entries <= own.entries)
        };
        self.voters().into_iter().filter(|id| self.replicas.contains_key(id)).filter(wins).collect()
    }

    fn known(&self, last: u64, runs: impl Fn(u64) -> bool) -> Known {
        Known {
            own: self.leader,
            voters: self.voters(),
            replicas: self.replicas.iter().map(|(id, replica)| (*id, replica.entries)).collect(),
            last,
            in_change: self.sets.len() > 1,
            silent: self.replicas.iter().filter(|(_, replica)| !runs(replica.node)).map(|(id, _)| *id).collect(),
        }
    }

    /// All members that run have so many entries.
    fn catch_up(&mut self, entries: u64, runs: impl Fn(u64) -> bool) {
        for replica in self.replicas.values_mut().filter(|replica| runs(replica.node)) {
            replica.entries = replica.entries.max(entries);
        }
    }
}

impl World<'_> {
    /// Members change in this run.
    pub(crate) fn grows(&self) -> bool {
        !self.scenario.changes.is_empty()
    }

    pub(super) fn found_members(&mut self) {
        self.cluster.disks.leads.random = Random::new(self.random.clone().next());
        let mut members = Vec::new();
        for (node, number) in (0..FOUNDERS).zip(1..) {
            members.push(StorageNode { node: number, ..self.new_disk(node) });
            self.cluster.disks.numbers[node] = Some(number);
        }
        let (directory_shards, timeline_shards) = (MAP.directory.into(), MAP.timeline.into());
        self.registry_write(Op::FoundCluster(FoundCluster { members, directory_shards, timeline_shards }));
        for shard in self.cluster.shards.values_mut() {
            shard.group = Some(Group::founded(shard.leader as u64 + 1));
        }
        for (number, (_, at)) in self.scenario.changes.clone().into_iter().enumerate() {
            self.schedule.at(at, Event::Store(StoreEvent::Operator(number)));
        }
        self.schedule.after(20 * MS, Event::Store(StoreEvent::Reconciles));
    }

    /// The row of a node with an empty disk, without a number.
    fn new_disk(&mut self, node: usize) -> StorageNode {
        self.cluster.disks.made += 1;
        StorageNode {
            disk: vec![self.cluster.disks.made].into(),
            address: node_name(node),
            level: Level::OF_PROGRAM.0,
            ..StorageNode::default()
        }
    }

    /// True if the node of this number runs.
    fn runs(&self, number: u64) -> bool {
        let node = self.cluster.disks.numbers.iter().position(|known| *known == Some(number));
        node.is_some_and(|node| self.cluster.up[node].load(Ordering::Relaxed))
    }

    /// The nodes that belong to the cluster.
    pub(super) fn members(&self) -> Vec<usize> {
        let numbers = self.cluster.disks.numbers.iter().enumerate();
        numbers.filter(|(_, number)| number.is_some()).map(|(node, _)| node).collect()
    }

    pub(super) fn has_replica(&self, shard: ShardId, node: usize) -> bool {
        let number = self.cluster.disks.numbers[node];
        self.cluster.shards[&shard].group.as_ref().is_some_and(|group| group.is_on(number))
    }

    /// The entry is on the disks of some replicas. True if they are a majority.
    pub(super) fn is_replicated(&mut self, shard: ShardId) -> bool {
        let Some(mut group) = self.cluster.shard(shard).group.take() else { return true };
        let end = self.cluster.shard(shard).committed + 1;
        let leader = group.leader;
        for (id, replica) in &mut group.replicas {
            if self.runs(replica.node) && (*id == leader || self.healed || self.random.in_thousand(500)) {
                replica.entries = replica.entries.max(end);
            }
        }
        let is_committed = group.most(|_, replica| replica.entries >= end);
        self.cluster.shard(shard).group = Some(group);
        is_committed
    }

    /// A replica that has what a majority has leads from now on. What it has beyond that is committed, what it lacks is gone.
    pub(super) fn elects(&mut self, shard: ShardId, wanted: Option<u64>) {
        let Some(mut group) = self.cluster.shard(shard).group.take() else { return };
        let mut candidates = group.candidates(|number| self.runs(number));
        if let Some(wanted) = wanted.filter(|wanted| candidates.contains(wanted)) {
            candidates = vec![wanted];
        }
        let known = self.cluster.shard(shard);
        let (term, committed) = (known.term, known.committed);
        let Some(leader) = candidates.get(self.random.index(candidates.len().max(1))).copied() else {
            self.cluster.shard(shard).group = Some(group);
            self.schedule.after(50 * MS, Event::Store(StoreEvent::Elects { shard, term }));
            return;
        };
        group.leader = leader;
        let Replica { node, entries } = group.replicas[&leader];
        if entries < committed {
            let lost = committed - entries;
            self.model.broken = Some(format!("replica {leader} leads {shard} without {lost} committed entries"));
            return;
        }
        for replica in group.replicas.values_mut() {
            replica.entries = replica.entries.min(entries);
        }
        group.catch_up(entries, |number| self.runs(number));
        let slot = self.cluster.disks.numbers.iter().position(|known| *known == Some(node)).expect("it runs");
        let known = self.cluster.shard(shard);
        (known.group, known.leader) = (Some(group), slot);
        let mut left = std::mem::take(&mut known.left);
        left.truncate((entries - committed) as usize);
        for writes in left {
            self.commits(shard, writes, false);
        }
        let after = self.random.below(300 * MS);
        self.schedule.after(after, Event::Store(StoreEvent::Elected { shard, term }));
    }

    /// The registry's leader plans, and each leader makes a step.
    pub(super) fn reconciles(&mut self) {
        let after = self.random.between(5 * MS, 60 * MS);
        self.schedule.after(after, Event::Store(StoreEvent::Reconciles));
        let rows = self.cluster.machines.rows();
        if !rows.may_change() {
            return;
        }
        if self.cluster.registry_is_led() {
            let leads = self.leads_told(&rows);
            if let Some(change) = rows.plan(&leads) {
                self.registry_write(change);
            }
        }
        self.stops_who_left();
        let past = &mut self.cluster.disks.past;
        past.push_front(self.cluster.machines.rows());
        past.truncate(PAST);
        for shard in MAP.all() {
            if self.cluster.shard(shard).elected {
                self.step(shard);
            }
        }
    }

    /// The leads, as the registry's leader knows them now. They change until all is healed.
    fn leads_told(&mut self, rows: &Rows) -> Leads {
        let leads = &mut self.cluster.disks.leads;
        if self.healed {
            return leads.told_at_the_end();
        }
        let nodes: Vec<u64> = rows.nodes().map(|row| row.node).collect();
        leads.change(&nodes);
        leads.told()
    }

    /// By the rows of now, or by those that a node had a moment ago.
    fn step(&mut self, shard: ShardId) {
        let late = if self.healed || self.random.in_thousand(600) { 0 } else { self.random.index(PAST) };
        let past = &self.cluster.disks.past;
        let Some(rows) = past.get(late.min(past.len().saturating_sub(1))).cloned() else { return };
        let Some(mut group) = self.cluster.shard(shard).group.take() else { return };
        let known = self.cluster.shard(shard);
        let (committed, last) = (known.committed, known.committed + known.in_flight.len() as u64);
        if self.healed || self.random.in_thousand(30) {
            group.catch_up(committed, |number| self.runs(number));
        }
        let step = rows.step(shard, &group.known(last, |number| self.runs(number)));
        let mut hands_over = None;
        match step {
            Step::Nothing | Step::Wait => {}
            Step::AddLearner(id) => {
                if let Some(node) = rows.node_of(shard, id) {
                    group.replicas.insert(id, Replica { node, entries: 0 });
                }
            }
            Step::RemoveLearners(ids) => group.replicas.retain(|id, _| !ids.contains(id)),
            // The entry that changes the voters is committed by those before it and those after it, who then have all before it.
            Step::SetVoters(voters) => {
                let (before, next) = (
                    group.sets.clone(),
                    match &group.sets[..] {
                        [_, half] => half.clone(),
                        _ => voters,
                    },
                );
                group.sets = vec![before[0].clone(), next.clone()];
                match group.most(|_, replica| self.runs(replica.node)) {
                    false => group.sets = before,
                    true => {
                        group.catch_up(last, |number| self.runs(number));
                        self.report.members += 1;
                        if before.len() > 1 {
                            let left: BTreeSet<u64> = &before[0] - &next;
                            // The registry's replicas go on without a vote.
                            group.replicas.retain(|id, _| shard == ShardId::REGISTRY || !left.contains(id));
                            group.sets = vec![next];
                        }
                    }
                }
            }
            Step::HandOver(to) => hands_over = Some(to),
            Step::Joined(replicas) => self.tell_registry(
                replicas.into_iter().map(|replica| Op::ReplicaJoined(ReplicaJoined { group: shard.group(), replica })),
            ),
            Step::Forget(replicas) => self.tell_registry(
                replicas.into_iter().map(|replica| Op::ForgetReplica(ForgetReplica { group: shard.group(), replica })),
            ),
        }
        let lost_its_vote = !group.voters().contains(&group.leader);
        self.cluster.shard(shard).group = Some(group);
        if hands_over.is_some() || lost_its_vote {
            self.leader_changes_to(shard, hands_over);
        }
    }

    fn tell_registry(&mut self, ops: impl Iterator<Item = Op>) {
        if self.cluster.registry_is_led() {
            ops.for_each(|op| drop(self.registry_write(op)));
        }
    }

    /// An operator stops nodes that the cluster knows no more.
    fn stops_who_left(&mut self) {
        let rows = self.cluster.machines.rows();
        let known: BTreeSet<u64> = rows.nodes().map(|node| node.node).collect();
        for node in self.members() {
            let number = self.cluster.disks.numbers[node].expect("a member has one");
            if !known.contains(&number) {
                self.cluster.disks.numbers[node] = None;
                self.node_ends(node);
            }
        }
    }

    /// Carries out an act of the operator as soon as the registry takes it.
    pub(super) fn operator(&mut self, number: usize) {
        let rows = self.cluster.machines.rows();
        if !rows.may_change() || !self.cluster.registry_is_led() {
            return self.schedule.after(50 * MS, Event::Store(StoreEvent::Operator(number)));
        }
        match self.scenario.changes[number].0 {
            Change::Add => {
                let is_free = |node: &usize| rows.nodes().all(|row| row.address != node_name(*node));
                let free = (0..NODES).find(is_free);
                if let Some(node) = free {
                    self.add(node);
                    self.registry_write(Op::Rebalance(Rebalance { on: true }));
                }
            }
            Change::Remove(node) => {
                if let Some(number) = self.cluster.disks.numbers[node] {
                    self.set_state(number, State::Leaving);
                }
            }
            Change::LoseDisk(node) => self.loses_disk(node),
            Change::Move => self.moves_one(&rows),
        }
    }

    /// The operator gives the place of a node whose disk is gone to one with an empty disk, at the same address.
    pub(super) fn replaces(&mut self, node: usize) {
        let rows = self.cluster.machines.rows();
        let lost = rows.nodes().find(|row| row.address == node_name(node)).map(|row| row.node);
        let Some(lost) = lost.filter(|_| self.cluster.disks.numbers[node].is_none()) else { return };
        if !self.cluster.registry_is_led() {
            return self.schedule.after(50 * MS, Event::Store(StoreEvent::Replaces(node)));
        }
        self.set_state(lost, State::Lost);
        self.add(node);
    }

    fn add(&mut self, node: usize) {
        let row = self.new_disk(node);
        let added = self.registry_write(Op::AddStorageNode(AddStorageNode { node: Some(row) }));
        let Outcome::NodeAdded(NodeAdded { node: number, .. }) = added else {
            self.model.broken = Some(format!("a node with an empty disk is not added: {added:?}"));
            return;
        };
        self.cluster.disks.numbers[node] = Some(number);
        self.cluster.up[node].store(true, Ordering::Relaxed);
    }

    fn set_state(&mut self, node: u64, state: State) {
        // A removal is refused if too few would stay.
        self.registry_write(Op::SetStorageNodeState(SetStorageNodeState { node, state: state.into() }));
    }

    /// The node ends, and its disk is gone. Only while nothing else is missing: one of three may fail.
    fn loses_disk(&mut self, node: usize) {
        let all_run = self.members().iter().all(|node| self.cluster.up[*node].load(Ordering::Relaxed));
        if !all_run || self.cluster.disks.numbers[node].is_none() {
            return;
        }
        let number = self.cluster.disks.numbers[node];
        if self.plant == Some(Plant::DisksComeBackEmpty) {
            for shard in self.cluster.shards.values_mut() {
                let replicas = shard.group.iter_mut().flat_map(|group| group.replicas.values_mut());
                replicas.filter(|replica| Some(replica.node) == number).for_each(|replica| replica.entries = 0);
            }
            // The node is back before anybody misses it, and votes.
            return MAP.all().for_each(|shard| self.leader_changes(shard));
        }
        self.cluster.disks.numbers[node] = None;
        let after = self.random.between(50 * MS, 600 * MS);
        self.schedule.after(after, Event::Store(StoreEvent::Replaces(node)));
        self.node_ends(node);
    }

    fn moves_one(&mut self, rows: &Rows) {
        let shards: Vec<ShardId> = MAP.all().filter(|shard| *shard != ShardId::REGISTRY).collect();
        let shard = shards[self.random.index(shards.len())];
        let on: Vec<(u64, u64)> =
            rows.placement(shard).into_iter().flat_map(|it| &it.replicas).map(|it| (it.id, it.node)).collect();
        let free = rows.nodes().map(|node| node.node).find(|node| on.iter().all(|(_, other)| other != node));
        if let (Some(node), false) = (free, on.is_empty()) {
            let replica = on[self.random.index(on.len())].0;
            // Refused if the replica leaves already, or the node is to leave.
            self.registry_write(Op::MoveReplica(MoveReplica { group: shard.group(), replica, node }));
        }
    }

    /// Shards whose members are not those of the placement, or are to be changed.
    pub(crate) fn unsettled(&self) -> Option<String> {
        let rows = self.cluster.machines.rows();
        let leads = self.cluster.disks.leads.told_at_the_end();
        let differs = |(shard, known): (&ShardId, &Shard)| {
            let group = known.group.as_ref()?;
            let placement = rows.placement(*shard)?;
            let voters = placement.replicas.iter().filter(|replica| !replica.learner);
            let voters: BTreeSet<u64> = voters.map(|replica| replica.id).collect();
            let is_settled = rows.is_settled(&leads) && group.sets == [voters];
            (!is_settled).then(|| format!("{shard} has {group:?}, and is to have {placement:?}"))
        };
        let shards: Vec<String> = self.cluster.shards.iter().filter_map(differs).collect();
        (!shards.is_empty()).then(|| format!("{} of {:?}", shards.join(", "), rows.nodes().collect::<Vec<_>>()))
    }
}

/// What an operator does in a run, and when. Chosen beside everything else, so that runs in which members stay are what they are without
/// it.
pub(crate) fn changes(seed: u64, from: u64, to: u64) -> Vec<(Change, u64)> {
    let random = &mut Random::new(seed ^ 0x6772_6f77_7468);
    if random.in_thousand(500) {
        return Vec::new();
    }
    let mut changes = vec![(Change::Add, random.between(from, (from + to) / 2))];
    let later = |random: &mut Random| random.between(from, to);
    for _ in 0..random.between(0, 3) {
        changes.push((Change::Move, later(random)));
    }
    let (one, other) = (random.index(FOUNDERS), random.index(FOUNDERS));
    if random.in_thousand(500) {
        changes.push((Change::Remove(one), later(random)));
    }
    if random.in_thousand(500) {
        changes.push((Change::LoseDisk(other), later(random)));
    }
    changes
}
