//! Conversions between openraft's types and the messages on the wire and on disk.

use std::collections::{BTreeMap, BTreeSet};

use carillon_proto::pb::raft as pb;
use openraft::{raft::AppendEntriesRequest, raft::VoteRequest, raft::VoteResponse};

use super::types::{
    Commands, Entry, Host, LeaderId, LogId, Membership, Payload, SnapshotMeta, StoredMembership, Types, Vote,
};

/// A message lacks a required field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("raft message without {0}")]
pub(crate) struct Missing(pub(crate) &'static str);

pub(crate) fn log_id_to_pb(id: LogId) -> pb::LogId {
    pb::LogId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

pub(crate) fn log_id_from_pb(id: pb::LogId) -> LogId {
    LogId { leader_id: LeaderId { term: id.term, node_id: id.node }, index: id.index }
}

pub(crate) fn vote_to_pb(vote: Vote) -> pb::Vote {
    pb::Vote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

pub(crate) fn vote_from_pb(vote: pb::Vote) -> Vote {
    Vote { leader_id: LeaderId { term: vote.term, node_id: vote.node }, committed: vote.committed }
}

pub(crate) fn entry_to_pb(entry: Entry) -> pb::Entry {
    let payload = match entry.payload {
        Payload::Blank => pb::entry::Payload::Blank(pb::Blank {}),
        Payload::Normal(commands) => pb::entry::Payload::Commands(commands.encoded),
        Payload::Membership(membership) => pb::entry::Payload::Membership(membership_to_pb(&membership)),
    };
    pb::Entry { log_id: Some(log_id_to_pb(entry.log_id)), payload: Some(payload) }
}

pub(crate) fn entry_from_pb(entry: pb::Entry) -> Result<Entry, Missing> {
    let payload = match entry.payload.ok_or(Missing("the payload of an entry"))? {
        pb::entry::Payload::Blank(pb::Blank {}) => Payload::Blank,
        pb::entry::Payload::Commands(encoded) => Payload::Normal(Commands { encoded, accepted: None }),
        pb::entry::Payload::Membership(membership) => Payload::Membership(membership_from_pb(membership)?),
    };
    Ok(Entry { log_id: log_id_from_pb(entry.log_id.ok_or(Missing("the log id of an entry"))?), payload })
}

fn membership_to_pb(membership: &Membership) -> pb::Membership {
    pb::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|nodes| pb::NodeSet { nodes: nodes.iter().copied().collect() })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, Host { node, address })| pb::MemberNode { node: *id, address: address.clone(), host: *node })
            .collect(),
    }
}

fn membership_from_pb(membership: pb::Membership) -> Result<Membership, Missing> {
    let configs: Vec<BTreeSet<u64>> =
        membership.configs.into_iter().map(|set| set.nodes.into_iter().collect()).collect();
    let host = |member: pb::MemberNode| (member.node, Host { node: member.host, address: member.address });
    let nodes: BTreeMap<u64, Host> = membership.nodes.into_iter().map(host).collect();
    Membership::new(configs, nodes).map_err(|_| Missing("a voter of a membership"))
}

pub(super) fn stored_membership_to_pb(stored: &StoredMembership) -> pb::StoredMembership {
    pb::StoredMembership {
        log_id: stored.log_id().map(log_id_to_pb),
        membership: Some(membership_to_pb(stored.membership())),
    }
}

fn stored_membership_from_pb(stored: pb::StoredMembership) -> Result<StoredMembership, Missing> {
    let membership = stored.membership.map(membership_from_pb).transpose()?.unwrap_or_default();
    Ok(StoredMembership::new(stored.log_id.map(log_id_from_pb), membership))
}

pub(crate) fn meta_to_pb(meta: &SnapshotMeta) -> pb::SnapshotMeta {
    pb::SnapshotMeta {
        last_log_id: meta.last_log_id.map(log_id_to_pb),
        last_membership: Some(stored_membership_to_pb(&meta.last_membership)),
        snapshot_id: meta.last_log_id.map(|id| id.to_string()).unwrap_or_default(),
    }
}

pub(crate) fn meta_from_pb(meta: pb::SnapshotMeta) -> Result<SnapshotMeta, Missing> {
    Ok(SnapshotMeta {
        last_log_id: meta.last_log_id.map(log_id_from_pb),
        last_membership: meta.last_membership.map(stored_membership_from_pb).transpose()?.unwrap_or_default(),
    })
}

pub(crate) fn append_to_pb(request: AppendEntriesRequest<Types>) -> pb::AppendRequest {
    pb::AppendRequest {
        vote: Some(vote_to_pb(request.vote)),
        prev_log_id: request.prev_log_id.map(log_id_to_pb),
        entries: request.entries.into_iter().map(entry_to_pb).collect(),
        leader_commit: request.leader_commit.map(log_id_to_pb),
    }
}

pub(crate) fn append_from_pb(request: pb::AppendRequest) -> Result<AppendEntriesRequest<Types>, Missing> {
    Ok(AppendEntriesRequest {
        vote: vote_from_pb(request.vote.ok_or(Missing("the vote of an append"))?),
        prev_log_id: request.prev_log_id.map(log_id_from_pb),
        entries: request.entries.into_iter().map(entry_from_pb).collect::<Result<_, _>>()?,
        leader_commit: request.leader_commit.map(log_id_from_pb),
    })
}

pub(crate) fn vote_request_to_pb(request: &VoteRequest<Types>) -> pb::VoteRequest {
    pb::VoteRequest {
        vote: Some(vote_to_pb(request.vote)),
        last_log_id: request.last_log_id.map(log_id_to_pb),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(crate) fn vote_request_from_pb(request: pb::VoteRequest) -> Result<VoteRequest<Types>, Missing> {
    let vote = vote_from_pb(request.vote.ok_or(Missing("the vote of a vote request"))?);
    let mut result = VoteRequest::new(vote, request.last_log_id.map(log_id_from_pb));
    result.leadership_transfer = request.leadership_transfer;
    Ok(result)
}

pub(crate) fn vote_reply_to_pb(reply: &VoteResponse<Types>) -> pb::VoteReply {
    pb::VoteReply {
        vote: Some(vote_to_pb(reply.vote)),
        granted: reply.vote_granted,
        last_log_id: reply.last_log_id.map(log_id_to_pb),
    }
}

pub(crate) fn vote_reply_from_pb(reply: pb::VoteReply) -> Result<VoteResponse<Types>, Missing> {
    let vote = vote_from_pb(reply.vote.ok_or(Missing("the vote of a vote reply"))?);
    Ok(VoteResponse::new(vote, reply.last_log_id.map(log_id_from_pb), reply.granted))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    fn log_id() -> impl Strategy<Value = LogId> {
        any::<(u64, u64, u64)>()
            .prop_map(|(term, node_id, index)| LogId { leader_id: LeaderId { term, node_id }, index })
    }

    fn vote() -> impl Strategy<Value = Vote> {
        any::<(u64, u64, bool)>()
            .prop_map(|(term, node_id, committed)| Vote { leader_id: LeaderId { term, node_id }, committed })
    }

    fn membership() -> impl Strategy<Value = Membership> {
        let voters = prop::collection::vec(prop::collection::btree_set(0u64..20, 1..5), 1..3);
        (voters, prop::collection::btree_set(0u64..20, 0..3)).prop_map(|(configs, learners)| {
            let nodes: BTreeMap<_, _> = configs
                .iter()
                .flatten()
                .chain(&learners)
                .map(|id| (*id, Host { node: id % 7 + 1, address: format!("node-{id}:7401") }))
                .collect();
            Membership::new(configs, nodes).expect("has voters")
        })
    }

    fn entry() -> impl Strategy<Value = (LogId, u8, Vec<u8>, Membership)> {
        (log_id(), 0u8..3, any::<Vec<u8>>(), membership())
    }

    fn make((log_id, kind, bytes, membership): (LogId, u8, Vec<u8>, Membership)) -> Entry {
        let payload = match kind {
            0 => Payload::Blank,
            1 => Payload::Normal(Commands { encoded: bytes.into(), accepted: None }),
            _ => Payload::Membership(membership),
        };
        Entry { log_id, payload }
    }

    /// Through bytes, as the wire and the disk do.
    fn carry<M: Message + Default>(message: &M) -> M {
        M::decode(Bytes::from(message.encode_to_vec())).expect("decodes")
    }

    proptest! {
        #[test]
        fn entries_round_trip(parts in entry()) {
            let expected = format!("{:?}", make(parts.clone()));
            let there = carry(&entry_to_pb(make(parts)));
            prop_assert_eq!(format!("{:?}", entry_from_pb(there).expect("whole")), expected);
        }

        #[test]
        fn appends_round_trip(
            vote in vote(), prev in prop::option::of(log_id()), commit in prop::option::of(log_id()),
            entries in prop::collection::vec(entry(), 0..4),
        ) {
            let make = || AppendEntriesRequest::<Types> {
                vote, prev_log_id: prev, leader_commit: commit,
                entries: entries.iter().cloned().map(make).collect(),
            };
            let there = carry(&append_to_pb(make()));
            prop_assert_eq!(format!("{:?}", append_from_pb(there).expect("whole")), format!("{:?}", make()));
        }

        #[test]
        fn votes_round_trip(vote in vote(), last in prop::option::of(log_id()), flag: bool) {
            let mut request = VoteRequest::<Types>::new(vote, last);
            request.leadership_transfer = flag;
            prop_assert_eq!(&vote_request_from_pb(carry(&vote_request_to_pb(&request))).expect("whole"), &request);
            let reply = VoteResponse::<Types>::new(vote, last, flag);
            prop_assert_eq!(&vote_reply_from_pb(carry(&vote_reply_to_pb(&reply))).expect("whole"), &reply);
        }

        #[test]
        fn snapshot_metadata_round_trips(
            last in prop::option::of(log_id()), log in prop::option::of(log_id()), membership in membership(),
        ) {
            let meta = SnapshotMeta { last_log_id: last, last_membership: StoredMembership::new(log, membership) };
            prop_assert_eq!(meta_from_pb(carry(&meta_to_pb(&meta))), Ok(meta));
        }
    }

    #[test]
    fn a_replica_of_before_there_were_ids_is_on_the_node_of_its_number() {
        let nodes = vec![pb::MemberNode { node: 3, address: "c:1".into(), host: 0 }];
        let old = pb::Membership { configs: vec![pb::NodeSet { nodes: vec![3] }], nodes };
        let read = membership_from_pb(carry(&old)).expect("whole");
        assert_eq!(read.get_node(&3).map(|host| (host.of(3), &*host.address)), Some((3, "c:1")));
    }

    #[test]
    fn what_was_never_written_is_the_default() {
        let meta = SnapshotMeta::default();
        assert_eq!(meta_from_pb(carry(&meta_to_pb(&meta))), Ok(meta));
    }
}
