//! How far a shard is applied, as its machine stores it.

use std::io;

use carillon_proto::pb::raft as pb;
use prost::Message as _;

use super::{
    convert::{log_id_to_pb, meta_from_pb, stored_membership_to_pb},
    types::{LogId, SnapshotMeta, StoredMembership},
};

/// Written with each batch of entries: an encoded `carillon.raft.v1.SnapshotMeta`.
pub(super) struct Applied {
    pub(super) last: Option<LogId>,
    pub(super) members: Members,
}

/// Members of the group, which seldom change, with their encoded part.
pub(super) struct Members {
    stored: StoredMembership,
    encoded: Vec<u8>,
}

impl Applied {
    pub(super) fn load(value: Option<&[u8]>) -> io::Result<Self> {
        let meta = match value {
            None => SnapshotMeta::default(),
            Some(value) => pb::SnapshotMeta::decode(value)
                .map_err(io::Error::other)
                .and_then(|meta| meta_from_pb(meta).map_err(io::Error::other))?,
        };
        Ok(Self::new(meta))
    }

    pub(super) fn new(meta: SnapshotMeta) -> Self {
        Self { last: meta.last_log_id, members: Members::new(meta.last_membership) }
    }

    pub(super) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last, last_membership: self.members.stored.clone() }
    }
}

impl Members {
    pub(super) fn new(stored: StoredMembership) -> Self {
        let last_membership = Some(stored_membership_to_pb(&stored));
        let encoded = pb::SnapshotMeta { last_membership, ..Default::default() }.encode_to_vec();
        Self { stored, encoded }
    }

    pub(super) fn stored(&self) -> &StoredMembership {
        &self.stored
    }
}

/// The record to write when entries up to this one are applied. The fields of a message can be encoded one by one.
pub(super) fn encode(last: Option<LogId>, members: &Members) -> Vec<u8> {
    let head = pb::SnapshotMeta { last_log_id: last.map(log_id_to_pb), ..Default::default() };
    let tail =
        pb::SnapshotMeta { snapshot_id: last.map(|id| id.to_string()).unwrap_or_default(), ..Default::default() };
    let mut encoded = Vec::with_capacity(head.encoded_len() + members.encoded.len() + tail.encoded_len());
    // A vector grows as needed.
    let _ = head.encode(&mut encoded);
    encoded.extend_from_slice(&members.encoded);
    let _ = tail.encode(&mut encoded);
    encoded
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::raft::{
        convert::meta_to_pb,
        types::{Host, LeaderId, Membership},
    };

    #[test]
    fn it_is_written_as_one_message_and_read_again() {
        let log_id = |index| LogId { leader_id: LeaderId { term: 300, node_id: 2 }, index };
        let nodes: BTreeMap<_, _> = (1..=3).map(|id| (id, Host { node: id, address: format!("n{id}:7401") })).collect();
        let membership = Membership::new(vec![BTreeSet::from([1, 2])], nodes).expect("has voters");
        let members = [StoredMembership::default(), StoredMembership::new(Some(log_id(7)), membership)];
        for (last, members) in
            [None, Some(log_id(70_000))].into_iter().flat_map(|last| members.clone().map(|m| (last, m)))
        {
            let meta = SnapshotMeta { last_log_id: last, last_membership: members };
            let applied = Applied::new(meta.clone());
            let encoded = encode(applied.last, &applied.members);
            assert_eq!(encoded, meta_to_pb(&meta).encode_to_vec());
            assert_eq!(Applied::load(Some(&encoded)).expect("reads").meta(), meta);
        }
        assert_eq!(Applied::load(None).expect("nothing").meta(), SnapshotMeta::default());
    }
}
