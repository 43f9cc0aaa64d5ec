//! Decisions by the identities of nodes.

use carillon_proto::pb::raft::{Cluster, Identity};

use super::BootstrapError;

/// The result of one round of asking the other nodes.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Wait(Lack),
    /// The cluster knows this disk: its making, or the adding of this node, was interrupted.
    Join {
        cluster: Cluster,
        node: u64,
        level: u32,
    },
}

/// Why a node with an empty disk has no place yet.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum Lack {
    #[error("no cluster is made yet: `carillon cluster init` makes one of all its storage nodes, once")]
    Cluster,
    #[error(
        "the cluster of {other} does not know this disk: `carillon cluster add {own}` makes it one of its storage nodes"
    )]
    Place { own: String, other: String },
    #[error(
        "the cluster of {other} knows {own} as storage node {node} with another disk: give this node its old data folder, or let it \
         take the place with `carillon cluster replace {node} {own}`"
    )]
    OldDisk { own: String, other: String, node: u64 },
}

/// The cluster that lists this disk as a member, according to the disks of other members.
pub(super) fn begun(disk: &[u8], answers: &[(String, Identity)]) -> Option<Cluster> {
    let mut clusters = answers.iter().filter_map(|(_, answer)| answer.cluster.as_ref());
    clusters.find(|cluster| cluster.members.iter().any(|member| member.disk == disk)).cloned()
}

pub(super) fn check_own(identity: &Identity) -> Result<(), BootstrapError> {
    let mut members = identity.cluster.iter().flat_map(|cluster| &cluster.members);
    match members.any(|member| (member.node, &member.disk) == (identity.node, &identity.disk)) {
        true => Ok(()),
        false => Err(BootstrapError::NoOwnMember),
    }
}

/// The next step of a node without a cluster, given the answers of the others.
pub(super) fn decide(own: &str, disk: &[u8], answers: Vec<(String, Option<Identity>)>) -> Step {
    let mut lack = Lack::Cluster;
    for (other, answer) in answers {
        let Some(identity) = answer else { continue };
        let Some(cluster) = identity.cluster else { continue };
        if let Some(member) = cluster.members.iter().find(|member| member.disk == disk) {
            let node = member.node;
            return Step::Join { cluster, node, level: identity.level };
        }
        let own = own.to_owned();
        lack = match cluster.members.iter().find(|member| member.address == own) {
            Some(member) => Lack::OldDisk { own, other, node: member.node },
            None => Lack::Place { own, other },
        };
    }
    Step::Wait(lack)
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::raft::Member;

    use super::*;

    fn identity(disk: u8, cluster: Option<Cluster>) -> Option<Identity> {
        Some(Identity { format: 1, disk: vec![disk].into(), cluster, ..Identity::default() })
    }

    fn cluster(disks: &[(&str, u8)]) -> Option<Cluster> {
        let members = disks.iter().zip(1..).map(|((address, disk), node)| Member {
            node,
            address: (*address).to_owned(),
            disk: vec![*disk].into(),
            registry_replica: 0,
        });
        Some(Cluster { id: "c".into(), directory_shards: 1, timeline_shards: 1, members: members.collect(), level: 1 })
    }

    fn step(own: &str, disk: u8, answers: &[(&str, Option<Identity>)]) -> Step {
        decide(own, &[disk], answers.iter().map(|(address, answer)| ((*address).to_owned(), answer.clone())).collect())
    }

    #[test]
    fn a_making_that_was_interrupted_is_known_by_the_disks_of_others() {
        let answers = |known: Option<Cluster>| {
            let answers = [("a", identity(1, None)), ("b", identity(2, known))];
            answers.map(|(address, answer)| (address.to_owned(), answer.expect("an answer")))
        };
        assert_eq!(begun(&[1], &answers(None)), None);
        let ours = cluster(&[("a", 1), ("b", 2)]);
        assert_eq!(begun(&[1], &answers(ours.clone())), ours);
        assert_eq!(begun(&[1], &answers(cluster(&[("b", 2)]))), None, "another one's");
    }

    #[test]
    fn empty_disks_wait_whoever_is_there() {
        let all = [("a", identity(1, None)), ("b", identity(2, None)), ("c", identity(3, None))];
        for (own, disk) in [("a", 1), ("b", 2)] {
            assert_eq!(step(own, disk, &all), Step::Wait(Lack::Cluster));
        }
        let strangers = [("x", identity(1, cluster(&[("x", 1)]))), ("b", None)];
        assert_eq!(step("b", 2, &strangers), Step::Wait(Lack::Place { own: "b".into(), other: "x".into() }));
    }

    #[test]
    fn a_node_whose_disk_the_cluster_knows_takes_its_place_wherever_it_is() {
        let known = cluster(&[("a", 1), ("b", 2), ("c", 3)]);
        let all = [("a", identity(1, known)), ("b", identity(2, None)), ("c", None)];
        for own in ["b", "elsewhere"] {
            assert!(matches!(step(own, 2, &all), Step::Join { node: 2, level: 0, .. }));
        }
    }

    #[test]
    fn an_empty_disk_at_an_old_address_waits_to_replace_the_node_that_was_there() {
        let known = cluster(&[("a", 1), ("b", 2), ("c", 3)]);
        for (own, node) in [("a", 1), ("b", 2)] {
            let all = [("a", identity(9, None)), ("b", identity(9, None)), ("c", identity(3, known.clone()))];
            let lack = Lack::OldDisk { own: own.into(), other: "c".into(), node };
            assert_eq!(step(own, 9, &all), Step::Wait(lack));
        }
    }

    #[test]
    fn an_identity_without_its_own_member_is_refused() {
        let of = |node| Identity { node, ..identity(7, cluster(&[("a", 7), ("b", 8)])).expect("made") };
        check_own(&of(1)).expect("its own");
        check_own(&of(2)).expect_err("another disk's");
    }
}
