//! The level of the cluster: what its storage nodes may write, and which releases can still read it.

use carillon_proto::pb::{
    raft::{MembersReply, Program, RaiseLevelReply, RaiseLevelRequest},
    store::storage_node::State,
};
use clap::Args;

use super::{
    super::out,
    members::{Asked, Nodes, timed},
};
use crate::Config;

/// Lets the cluster use what its new release adds to the replicated formats. There is no way back: releases that can't read it
/// refuse to start from then on. Does nothing if the cluster is there already.
#[derive(Args)]
pub(super) struct RaiseLevel {
    /// Raises it to this level; otherwise to the highest one that the programs of all storage nodes can read.
    #[arg(long, value_name = "LEVEL", default_value_t = 0, hide_default_value = true)]
    to: u32,
    #[command(flatten)]
    asked: Asked,
}

impl RaiseLevel {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let request = RaiseLevelRequest { level: self.to };
        let nodes = Nodes::of(config, self.asked)?;
        let raised = nodes.ask(async |mut client| Ok(client.raise_level(timed(request)).await?.into_inner())).await?;
        out::line(said(raised))
    }
}

fn said(RaiseLevelReply { level, before }: RaiseLevelReply) -> String {
    if level == before {
        return format!("the cluster is at level {level} already");
    }
    format!(
        "the cluster is at level {level}, it was at {before}: a release that can't read level {level} no longer starts"
    )
}

/// Whether the level can rise, and what holds it.
pub(super) fn outlook(members: &MembersReply) -> String {
    let reading = members.nodes.iter().filter(|node| node.state() != State::Lost);
    let highest = members.programs.iter().map(|program| program.reads_level).max().unwrap_or_default();
    let mut readable: Option<(u32, u64)> = None;
    for node in reading {
        match program(members, node.node) {
            None if highest <= members.level => return String::new(),
            None => return format!("the level can't rise: storage node {} does not answer", node.node),
            Some(Program { reads_level, .. }) => {
                if readable.is_none_or(|(lowest, _)| *reads_level < lowest) {
                    readable = Some((*reads_level, node.node));
                }
            }
        }
    }
    match readable {
        Some((lowest, _)) if lowest > members.level => format!(
            "all storage nodes can read level {lowest}: `carillon cluster raise-level` raises it, if all routers and gateways know it, \
             and ends the way back to a release that can't"
        ),
        Some((lowest, node)) if lowest < highest => {
            format!("the level can't rise: storage node {node} reads levels up to {lowest}, others up to {highest}")
        }
        _ => String::new(),
    }
}

/// The program of a storage node, if it answers.
pub(super) fn program(members: &MembersReply, node: u64) -> Option<&Program> {
    members.programs.iter().find(|program| program.node == node)
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::store::StorageNode;

    use super::*;

    #[test]
    fn the_outlook_names_who_holds_the_level_and_what_raises_it() {
        let of = |level, reads: &[Option<u32>]| {
            let numbered = || reads.iter().zip(1..);
            let nodes = numbered().map(|(_, node)| StorageNode { node, ..StorageNode::default() }).collect();
            let program = |(reads, node): (&Option<u32>, u64)| {
                reads.map(|reads_level| Program { node, reads_level, ..Program::default() })
            };
            let programs = numbered().filter_map(program).collect();
            outlook(&MembersReply { level, nodes, programs, ..MembersReply::default() })
        };
        assert_eq!(of(4, &[Some(4), Some(4)]), "");
        assert!(of(3, &[Some(4), Some(3)]).contains("storage node 2 reads levels up to 3, others up to 4"));
        assert!(of(3, &[None, Some(4)]).contains("storage node 1 does not answer"));
        assert_eq!(of(4, &[None, Some(4)]), "", "there is nothing to rise to");
        assert!(of(3, &[Some(4), Some(5)]).contains("all storage nodes can read level 4"));
    }

    #[test]
    fn a_raise_says_what_it_did() {
        let told = |level, before| said(RaiseLevelReply { level, before });
        assert_eq!(told(4, 4), "the cluster is at level 4 already");
        assert!(told(4, 3).starts_with("the cluster is at level 4, it was at 3"));
    }
}
