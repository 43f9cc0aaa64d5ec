//! Storage nodes and places of replicas, which are commands from level 1 on.

use super::*;

fn cluster_commands() -> impl Strategy<Value = Vec<DirectoryCommand>> {
    let group = prop_oneof![Just(1u64 << 32), Just(2u64 << 32), Just(2u64 << 32 | 1)];
    let one = (0..14u8, group, 1..6u64, 0..3u32).prop_map(|(kind, group, small, level)| {
        let node = StorageNode {
            node: small,
            disk: vec![small as u8; 16].into(),
            address: format!("node-{small}-{level}:1"),
            level: level.max(1),
            ..StorageNode::default()
        };
        command(match kind {
            0 => Op::SetStorageNode(SetStorageNode { node: Some(node) }),
            1 => Op::RaiseLevel(RaiseLevel { level }),
            2 => Op::PlaceReplica(PlaceReplica { group, node: small }),
            3 => Op::RemoveReplica(RemoveReplica { group, replica: small }),
            4 => Op::ForgetReplica(ForgetReplica { group, replica: small }),
            5 => Op::AddStorageNode(AddStorageNode { node: Some(StorageNode { node: 0, ..node }) }),
            6 => Op::SetStorageNodeState(SetStorageNodeState { node: small, state: level as i32 }),
            7 => Op::MoveReplica(MoveReplica { group, replica: u64::from(level), node: small }),
            8 => Op::ReplicaJoined(ReplicaJoined { group, replica: small }),
            9 => Op::SetReplicaVotes(SetReplicaVotes { replica: small, votes: level > 0 }),
            10 => Op::DropStorageNode(DropStorageNode { node: small }),
            11 => Op::Rebalance(Rebalance { on: level > 0 }),
            12 => Op::PreferReplica(PreferReplica { group, replica: small }),
            _ => Op::SetLevel(SetLevel { level: level.min(1) }),
        })
    });
    prop::collection::vec(one, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_cluster_is_the_same_on_every_replica_whatever_is_applied_at_once(
        commands in cluster_commands(), cuts in prop::collection::vec(1..6usize, 40),
    ) {
        let folders = [(); 2].map(|()| tempfile::tempdir().expect("folder"));
        let engines = folders.each_ref().map(|folder| open(folder.path()));
        let mut machines = engines.each_ref().map(directory);
        let first = [set_level(Level::GROWTH), found()];
        let entries: Vec<_> = first.iter().chain(&commands).zip(1..).map(|(command, index)| entry(index, std::slice::from_ref(command))).collect();
        let mut outcomes: [Vec<Vec<Outcome>>; 2] = Default::default();
        for entry in &entries {
            let applied = entry.index.to_be_bytes();
            outcomes[0].extend(machines[0].apply(std::slice::from_ref(entry), &applied).expect("applies"));
        }
        let (mut rest, mut cuts) = (&*entries, cuts.into_iter().cycle());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
            let applied = now.last().expect("one").index.to_be_bytes();
            outcomes[1].extend(machines[1].apply(now, &applied).expect("applies"));
            rest = later;
        }
        prop_assert_eq!(&outcomes[0], &outcomes[1]);
        let [one, other] = machines.each_mut().map(records);
        prop_assert_eq!(one, other);
        // No two replicas of a shard on a node, and no id twice.
        for (shard, placement) in engines[0].directory(ShardId::REGISTRY).expect("shard").1.registry().borrow().cluster.placement() {
            let mut nodes: Vec<_> = placement.replicas.iter().map(|replica| replica.node).collect();
            nodes.sort_unstable();
            nodes.dedup();
            prop_assert_eq!(nodes.len(), placement.replicas.len(), "{}", shard);
            prop_assert!(placement.replicas.is_sorted_by(|a, b| a.id < b.id));
            prop_assert!(placement.replicas.iter().any(|replica| !replica.leaving));
        }
    }
}

#[test]
fn what_is_refused_is_told() {
    let folder = tempfile::tempdir().expect("folder");
    let engines = open(folder.path());
    let mut machine = directory(&engines);
    let stranger =
        StorageNode { node: 9, disk: vec![9; 16].into(), address: "x:1".into(), level: 1, ..StorageNode::default() };
    let set = command(Op::SetStorageNode(SetStorageNode { node: Some(stranger) }));
    let entry = entry(1, &[set_level(Level::CLUSTER), found(), set]);
    let outcomes = machine.apply(&[entry], &1u64.to_be_bytes()).expect("applies");
    assert!(matches!(&outcomes[0][2], Outcome::Error(StoreError { why: Some(Why::Rejected(_)) })), "{outcomes:?}");
}
