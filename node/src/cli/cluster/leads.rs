//! Where the leads of the shards are at this moment, as the storage nodes tell.

use std::{collections::BTreeMap, fmt};

use carillon_proto::{
    ShardId,
    pb::{
        raft::{Lead, MembersReply},
        store::Placed,
    },
};

use super::{level::program, members::name_of};

/// Who leads a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leader {
    Node(u64),
    /// None of the nodes that answer.
    Nobody,
    /// Perhaps a node of a release that does not tell it.
    Untold,
}

pub(super) struct Leads<'a> {
    members: &'a MembersReply,
    /// The node of each Raft group.
    leaders: BTreeMap<u64, u64>,
}

impl<'a> Leads<'a> {
    pub(super) fn of(members: &'a MembersReply) -> Self {
        // A node that has just lost the lead may not know it yet: the higher term counts.
        let mut by_term: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for program in &members.programs {
            for Lead { group, term } in program.leads.iter().flat_map(|leads| &leads.led) {
                let leader = by_term.entry(*group).or_default();
                *leader = (*leader).max((*term, program.node));
            }
        }
        Self { members, leaders: by_term.into_iter().map(|(group, (_, node))| (group, node)).collect() }
    }

    /// How many shards this node leads; `None` if it does not answer or does not tell it.
    pub(super) fn count(&self, node: u64) -> Option<usize> {
        program(self.members, node)?.leads.as_ref()?;
        Some(self.leaders.values().filter(|leader| **leader == node).count())
    }

    /// The same for people.
    pub(super) fn shown(&self, node: u64) -> String {
        match self.count(node) {
            Some(count) => count.to_string(),
            None if program(self.members, node).is_some() => "?".to_owned(),
            None => "-".to_owned(),
        }
    }

    pub(super) fn leader_of(&self, placed: &Placed) -> Leader {
        let shard = placed.shard.as_ref().and_then(ShardId::from_pb);
        if let Some(leader) = shard.and_then(|shard| self.leaders.get(&shard.group())) {
            return Leader::Node(*leader);
        }
        let tells_nothing = |node: u64| program(self.members, node).is_some_and(|program| program.leads.is_none());
        match placed.replicas.iter().any(|replica| tells_nothing(replica.node)) {
            true => Leader::Untold,
            false => Leader::Nobody,
        }
    }

    /// The names of the shards that none of the nodes that answer leads.
    pub(super) fn without_leader(&self) -> Vec<String> {
        let shards = self.members.placement.iter();
        shards.filter(|placed| self.leader_of(placed) == Leader::Nobody).map(name_of).collect()
    }
}

impl fmt::Display for Leader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => node.fmt(f),
            Self::Nobody => f.pad("none"),
            Self::Untold => f.pad("?"),
        }
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::{
        ShardKind,
        pb::{
            raft::{Leads as Told, Program},
            store::Replica,
        },
    };

    use super::*;

    fn shard(index: u16) -> ShardId {
        ShardId { kind: ShardKind::Timeline, index }
    }

    /// A node that leads these shards, in these terms; `None`: one of an older release.
    fn node(node: u64, led: Option<&[(u16, u64)]>) -> Program {
        let lead = |(index, term): &(u16, u64)| Lead { group: shard(*index).group(), term: *term };
        let leads = led.map(|led| Told { led: led.iter().map(lead).collect() });
        Program { node, leads, ..Program::default() }
    }

    fn placed(index: u16, nodes: &[u64]) -> Placed {
        let replicas = nodes.iter().map(|node| Replica { id: *node, node: *node, ..Replica::default() });
        Placed { shard: Some(shard(index).to_pb()), replicas: replicas.collect(), preferred: 0 }
    }

    #[test]
    fn of_two_that_say_that_they_lead_the_later_one_does() {
        let programs = vec![node(1, Some(&[(0, 7), (1, 2)])), node(2, Some(&[(0, 8), (1, 1)]))];
        let members = MembersReply { programs, ..MembersReply::default() };
        let leads = Leads::of(&members);
        assert_eq!(leads.leader_of(&placed(0, &[1, 2])), Leader::Node(2));
        assert_eq!(leads.leader_of(&placed(1, &[1, 2])), Leader::Node(1));
        assert_eq!((leads.count(1), leads.count(2)), (Some(1), Some(1)));
    }

    #[test]
    fn a_node_of_an_older_release_may_lead_what_nobody_else_does() {
        let programs = vec![node(1, Some(&[(0, 1)])), node(2, None)];
        // The third node does not answer.
        let placement = vec![placed(0, &[1, 2]), placed(1, &[1, 2]), placed(2, &[1, 3])];
        let members = MembersReply { programs, placement, silent: vec![3], ..MembersReply::default() };
        let leads = Leads::of(&members);
        let leaders: Vec<String> = members.placement.iter().map(|placed| leads.leader_of(placed).to_string()).collect();
        assert_eq!(leaders, ["1", "?", "none"]);
        assert_eq!(leads.without_leader(), ["timeline-2"]);
        assert_eq!([1, 2, 3].map(|node| leads.shown(node)), ["1", "?", "-"]);
    }
}
