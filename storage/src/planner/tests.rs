mod leads;

use carillon_proto::{
    Level, ShardMap,
    pb::store::{
        AddStorageNode, DirectoryCommand, ForgetReplica, FoundCluster, RaiseLevel, ReplicaJoined, SetLevel,
        SetStorageNodeState, StorageNode,
    },
};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::machine::{DirectoryMachine, DirectoryReader, EntryCommands, Machine as _, Outcome};

const MAP: ShardMap = ShardMap { directory: 3, timeline: 9 };

/// Directory shard 0 of a cluster whose shards follow the placement at once.
struct Planned {
    _dir: tempfile::TempDir,
    machine: DirectoryMachine,
    reader: DirectoryReader,
    index: u64,
    /// Replicas that moved, except for the registry's.
    moves: usize,
    leads: Leads,
}

impl Planned {
    fn founded(nodes: u64) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let engines = crate::engine::Engines::open(dir.path(), MAP, crate::engine::Caches::default()).expect("opens");
        let (machine, reader) = engines.directory(ShardId::REGISTRY).expect("opens");
        let mut this = Self { _dir: dir, machine, reader, index: 0, moves: 0, leads: Leads::default() };
        this.apply(Op::SetLevel(SetLevel { level: Level::OF_PROGRAM.0 }));
        let members = (1..=nodes).map(|node| StorageNode { node, ..row(node, "") }).collect();
        let (directory_shards, timeline_shards) = (MAP.directory.into(), MAP.timeline.into());
        this.apply(Op::FoundCluster(FoundCluster { members, directory_shards, timeline_shards }));
        this.apply(Op::RaiseLevel(RaiseLevel { level: Level::OF_PROGRAM.0 }));
        this
    }

    fn rows(&self) -> ClusterRows {
        self.reader.registry().borrow().cluster.clone()
    }

    fn apply(&mut self, op: Op) -> Outcome {
        self.index += 1;
        let commands = vec![DirectoryCommand { op: Some(op) }.encode_to_vec().into()];
        let entry = EntryCommands { index: self.index, commands };
        let mut outcomes = self.machine.apply(&[entry], &self.index.to_be_bytes()).expect("applies");
        outcomes.remove(0).remove(0)
    }

    fn add(&mut self, disk: u64, zone: &str) -> u64 {
        let added = self.apply(Op::AddStorageNode(AddStorageNode { node: Some(row(disk, zone)) }));
        let Outcome::NodeAdded(added) = added else { panic!("{added:?}") };
        added.node
    }

    fn set(&mut self, node: u64, state: State) -> Outcome {
        self.apply(Op::SetStorageNodeState(SetStorageNodeState { node, state: state.into() }))
    }

    /// Carries out what is planned until nothing is left.
    fn settle(&mut self) {
        for _ in 0..2000 {
            let rows = self.rows();
            if let Some(op) = next(&rows, &self.leads) {
                self.moves += usize::from(matches!(op, Op::MoveReplica(_)));
                let outcome = self.apply(op.clone());
                assert!(!matches!(outcome, Outcome::Error(_)), "{op:?}: {outcome:?}");
            } else if !self.follow(&rows) {
                return;
            }
        }
        panic!("it goes on for ever: {:?}", next(&self.rows(), &self.leads));
    }

    /// Replicas join their shards as the placement says, except for those on lost nodes, and when all have, others leave. False if
    /// none was to.
    fn follow(&mut self, rows: &ClusterRows) -> bool {
        let mut did = false;
        for (shard, placement) in rows.placement() {
            let group = shard.group();
            let joins = placement.replicas.iter().any(|replica| replica.joining && !replica.leaving);
            for replica in &placement.replicas {
                let is_lost = rows.node(replica.node).is_some_and(|node| node.state() == State::Lost);
                if replica.leaving && !joins {
                    self.apply(Op::ForgetReplica(ForgetReplica { group, replica: replica.id }));
                    did = true;
                } else if replica.joining && !is_lost {
                    self.apply(Op::ReplicaJoined(ReplicaJoined { group, replica: replica.id }));
                    did = true;
                }
            }
        }
        did
    }

    fn load(&self) -> Vec<(u64, usize)> {
        let rows = self.rows();
        let load = rows.nodes().map(|node| (node.node, rows.shards_on(node.node).count()));
        load.collect()
    }

    fn voters(&self) -> BTreeSet<u64> {
        let rows = self.rows();
        let registry = rows.registry().iter().filter(|replica| !replica.learner);
        registry.map(|replica| replica.node).collect()
    }
}

fn row(disk: u64, zone: &str) -> StorageNode {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&disk.to_be_bytes());
    StorageNode {
        disk: id.to_vec().into(),
        address: format!("node-{disk}:1"),
        level: Level::OF_PROGRAM.0,
        zone: zone.to_owned(),
        ..StorageNode::default()
    }
}

#[test]
fn a_cluster_as_it_was_made_stays_as_it_is() {
    for nodes in [1, 2, 3, 5] {
        let mut cluster = Planned::founded(nodes);
        let before = cluster.rows();
        cluster.settle();
        assert_eq!(cluster.rows(), before, "{nodes}");
    }
}

#[test]
fn one_node_becomes_three_with_three_replicas_of_each_shard() {
    let mut cluster = Planned::founded(1);
    assert_eq!(cluster.add(20, ""), 2);
    cluster.settle();
    assert_eq!(cluster.load(), [(1, 11), (2, 0)], "two replicas would be worse than one");
    assert_eq!(cluster.add(30, ""), 3);
    assert_eq!(cluster.add(30, ""), 3, "the same disk is the same node");
    cluster.apply(Op::Rebalance(Rebalance { on: true }));
    cluster.settle();
    assert_eq!(cluster.load(), [(1, 11), (2, 11), (3, 11)]);
    assert_eq!(cluster.voters(), [1, 2, 3].into());
    let rows = cluster.rows();
    let leads = |node| {
        let leads = rows.placement().iter().filter(|(shard, it)| rows.node_of(**shard, it.preferred) == Some(node));
        leads.count()
    };
    assert_eq!([leads(1), leads(2), leads(3)], [4, 4, 4]);
    assert!(!rows.rebalancing, "it is over");
}

#[test]
fn a_fourth_node_takes_its_share_only_when_asked() {
    let mut cluster = Planned::founded(3);
    cluster.add(40, "");
    cluster.settle();
    assert_eq!(cluster.load(), [(1, 11), (2, 11), (3, 11), (4, 0)]);
    cluster.apply(Op::Rebalance(Rebalance { on: true }));
    cluster.settle();
    let load = cluster.load();
    assert!(load.iter().all(|(_, load)| (8..=9).contains(load)), "{load:?}");
    assert_eq!(cluster.moves, 8, "none moved twice");
    assert_eq!(cluster.voters().len(), 3);
}

#[test]
fn a_node_that_leaves_is_empty_at_the_end_and_gone_and_its_id_is_not_given_again() {
    let mut cluster = Planned::founded(3);
    let refused = cluster.set(3, State::Leaving);
    assert!(format!("{refused:?}").contains("add one first"), "{refused:?}");
    cluster.add(40, "");
    cluster.settle();
    assert!(matches!(cluster.set(1, State::Leaving), Outcome::Done(_)));
    cluster.settle();
    assert_eq!(cluster.load(), [(2, 11), (3, 11), (4, 11)]);
    assert_eq!(cluster.voters(), [2, 3, 4].into());
    assert!(matches!(cluster.set(4, State::Lost), Outcome::Done(_)));
    cluster.settle();
    assert_eq!(cluster.load(), [(2, 11), (3, 11), (4, 11)], "nobody can take it");
    assert_eq!(cluster.voters(), [2, 3].into(), "the lost one does not count");
    assert_eq!(cluster.add(50, ""), 5);
    cluster.settle();
    assert_eq!(cluster.load(), [(2, 11), (3, 11), (5, 11)]);
    assert_eq!(cluster.add(60, ""), 6, "4 is not given again");
}

#[test]
fn a_node_that_leaves_may_stay_after_all_but_a_lost_one_is_lost() {
    let mut cluster = Planned::founded(3);
    cluster.add(40, "");
    assert!(matches!(cluster.set(1, State::Leaving), Outcome::Done(_)));
    assert!(matches!(cluster.set(1, State::Active), Outcome::Done(_)));
    cluster.settle();
    assert_eq!(cluster.load()[0], (1, 11));
    assert!(matches!(cluster.set(1, State::Lost), Outcome::Done(_)));
    assert!(matches!(cluster.set(1, State::Active), Outcome::Error(_)));
}

#[test]
fn a_vote_that_comes_does_not_keep_the_one_of_a_lost_node() {
    let mut cluster = Planned::founded(3);
    cluster.add(4, "");
    cluster.settle();
    cluster.set(2, State::Leaving);
    let vote = next(&cluster.rows(), &cluster.leads).expect("node 4 gets a vote");
    assert!(matches!(&vote, Op::SetReplicaVotes(SetReplicaVotes { votes: true, .. })), "{vote:?}");
    cluster.apply(vote);
    // It does not run any more, so no change of the voters begins while it is to stay one.
    cluster.set(2, State::Lost);
    let then = next(&cluster.rows(), &cluster.leads);
    assert_eq!(then, Some(votes(2, false)));
    cluster.settle();
    assert_eq!(cluster.voters(), [1, 3, 4].into());
}

#[test]
fn a_lost_replica_leaves_without_another_one_where_a_place_is_still_taken_by_one_that_leaves() {
    let mut cluster = Planned::founded(3);
    let new = cluster.add(4, "");
    cluster.settle();
    let shard = ShardId { kind: carillon_proto::ShardKind::Timeline, index: 0 };
    cluster.apply(moved(shard, 1, new));
    // Node 1 still has its replica of the shard, so no active node is free.
    cluster.set(2, State::Lost);
    let planned = |rows: &ClusterRows| Planner::of(rows, &Leads::default()).evacuate(State::Lost);
    let mut of_shard = None;
    while let Some(op) = planned(&cluster.rows()) {
        if op == removed(shard, 2) {
            of_shard = Some(op.clone());
        }
        cluster.apply(op);
    }
    assert_eq!(of_shard, Some(removed(shard, 2)));
    cluster.settle();
    let on: BTreeSet<u64> = cluster.rows().placement()[&shard].replicas.iter().map(|replica| replica.node).collect();
    assert_eq!(on, [1, 3, new].into());
}

#[test]
fn the_target_of_a_move_may_be_lost_too() {
    let mut cluster = Planned::founded(3);
    let (fourth, fifth) = (cluster.add(40, ""), cluster.add(50, ""));
    cluster.settle();
    cluster.set(1, State::Leaving);
    let node = loop {
        let op = next(&cluster.rows(), &cluster.leads).expect("a move");
        cluster.apply(op.clone());
        if let Op::MoveReplica(MoveReplica { node, .. }) = op {
            break node;
        }
    };
    assert_eq!(node, fourth);
    cluster.set(fourth, State::Lost);
    cluster.settle();
    assert_eq!(cluster.load(), [(2, 11), (3, 11), (fifth, 11)]);
}

/// Three nodes of which one is to go to a fourth, which is lost before that has ended. Returns a shard that was to move.
fn interrupted() -> (Planned, ShardId) {
    let mut cluster = Planned::founded(3);
    let fourth = cluster.add(40, "");
    cluster.settle();
    cluster.set(1, State::Leaving);
    let rows = loop {
        let op = next(&cluster.rows(), &cluster.leads).expect("a move");
        cluster.apply(op.clone());
        if matches!(op, Op::MoveReplica(_)) {
            break cluster.rows();
        }
    };
    let (shard, _) = rows.shards().find(|(_, placement)| is_moving(placement)).expect("it moves");
    assert!(matches!(cluster.set(fourth, State::Lost), Outcome::Done(_)));
    cluster.settle();
    (cluster, shard)
}

#[test]
fn a_replica_that_leaves_is_kept_while_the_one_in_its_place_is_lost() {
    let (mut cluster, shard) = interrupted();
    let on = |cluster: &Planned| -> BTreeSet<u64> {
        cluster.rows().placement()[&shard].replicas.iter().map(|replica| replica.node).collect()
    };
    assert!(on(&cluster).contains(&1), "three replicas run");
    let fifth = cluster.add(50, "");
    cluster.settle();
    assert_eq!(on(&cluster), [2, 3, fifth].into());
}

#[test]
fn a_replica_that_was_lost_before_it_joined_is_no_move_for_ever() {
    let (mut cluster, shard) = interrupted();
    assert!(matches!(cluster.set(1, State::Lost), Outcome::Done(_)));
    cluster.settle();
    let rows = cluster.rows();
    let placement = &rows.placement()[&shard];
    assert!(!is_moving(placement), "{placement:?}");
    assert_eq!(placement.replicas.iter().map(|replica| replica.node).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn replicas_of_a_shard_are_in_different_zones_when_there_are_enough() {
    let mut cluster = Planned::founded(1);
    for (disk, zone) in [(20, "a"), (30, "b"), (40, "b"), (50, "c"), (60, "c")] {
        cluster.add(disk, zone);
    }
    cluster.settle();
    cluster.set(1, State::Leaving);
    cluster.apply(Op::Rebalance(Rebalance { on: true }));
    cluster.settle();
    let rows = cluster.rows();
    for (shard, placement) in rows.shards() {
        let zones = rows.zones(placement.replicas.iter().map(|replica| replica.node));
        assert_eq!(zones.len(), 3, "{shard}: {placement:?}");
    }
    assert_eq!(rows.zones(cluster.voters().into_iter()).len(), 3);
}

fn shard_of(number: usize) -> ShardId {
    MAP.all().nth(number).expect("there are so many")
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8),
    Leave(u64),
    Lose(u64),
    Keep(u64),
    Rebalance(bool),
    /// The shard of this number has another load.
    Load(usize, u64),
    /// The node can't keep up, or does again.
    Slow(u64, bool),
    Settle,
    /// The given number of changes is carried out, whether planned or by the shards.
    Go(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = 1..12u64;
    let step = prop_oneof![
        3 => (0..3u8).prop_map(Step::Add),
        2 => node.clone().prop_map(Step::Leave),
        1 => node.clone().prop_map(Step::Lose),
        1 => node.clone().prop_map(Step::Keep),
        1 => (0..12usize, 0..3000u64).prop_map(|(shard, rate)| Step::Load(shard, rate)),
        1 => (node, any::<bool>()).prop_map(|(node, slow)| Step::Slow(node, slow)),
        1 => any::<bool>().prop_map(Step::Rebalance),
        1 => Just(Step::Settle),
        3 => (0..20u8).prop_map(Step::Go),
    ];
    prop::collection::vec(step, 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever the operator wishes and when: each shard always has a replica that stays, the registry a vote, and in the end every
    /// shard has its replicas on active nodes.
    #[test]
    fn whatever_is_asked_for_ends_well(founders in 1..5u64, steps in steps()) {
        let mut cluster = Planned::founded(founders);
        let mut disks = 100;
        for step in steps {
            match step {
                Step::Add(zone) => {
                    disks += 1;
                    cluster.add(disks, ["", "a", "b"][usize::from(zone)]);
                }
                Step::Leave(node) => drop(cluster.set(node, State::Leaving)),
                Step::Lose(node) => drop(cluster.set(node, State::Lost)),
                Step::Keep(node) => drop(cluster.set(node, State::Active)),
                Step::Rebalance(on) => drop(cluster.apply(Op::Rebalance(Rebalance { on }))),
                Step::Load(shard, rate) => drop(cluster.leads.rates.insert(shard_of(shard), rate)),
                Step::Slow(node, true) => drop(cluster.leads.slow.insert(node)),
                Step::Slow(node, false) => drop(cluster.leads.slow.remove(&node)),
                Step::Settle => cluster.settle(),
                Step::Go(changes) => {
                    for _ in 0..changes {
                        let rows = cluster.rows();
                        match next(&rows, &cluster.leads) {
                            Some(op) => drop(cluster.apply(op)),
                            None => drop(cluster.follow(&rows)),
                        }
                    }
                }
            }
            let rows = cluster.rows();
            for (shard, placement) in rows.placement() {
                let nodes: BTreeSet<u64> = placement.replicas.iter().map(|replica| replica.node).collect();
                prop_assert_eq!(nodes.len(), placement.replicas.len(), "{}: two on one node", shard);
                prop_assert!(staying(placement).any(|replica| !replica.learner), "{}: {:?}", shard, placement);
            }
        }
        cluster.settle();
        let rows = cluster.rows();
        let active = rows.active().count();
        for (shard, placement) in rows.shards() {
            let on_active = placement.replicas.iter().filter(|replica| rows.is_active(replica.node)).count();
            prop_assert!(on_active >= if active >= REPLICAS { REPLICAS } else { 1 }, "{shard}: {placement:?}");
            // Without a third node, one that leaves is kept until there is one.
            let is_kept = |replica: &Replica| replica.leaving && rows.node(replica.node).is_some_and(|node| node.state() == State::Leaving);
            let waits = active < REPLICAS && placement.replicas.iter().any(is_kept);
            prop_assert!(waits || !is_moving(placement), "{shard}: {placement:?}");
        }
    }
}
