//! Keys and values of directory shards.

use std::io;

use carillon_proto::ShardId;

use super::{
    ACCOUNT, ENDING, ERASURE, LEASE, PLACEMENT, RING_SLOT, RowBytes, SESSION, STORAGE_NODE, broken, key, number_of,
    numbers_of, numbers_value,
};

pub(crate) fn account(user: &str) -> RowBytes {
    key(ACCOUNT, &[user.as_bytes()])
}

/// Neither user nor device contains 0x00: both refuse control characters.
pub(crate) fn session(user: &str, device: &str) -> RowBytes {
    key(SESSION, &[user.as_bytes(), &[0], device.as_bytes()])
}

/// The prefix of all accounts.
pub(crate) fn accounts() -> RowBytes {
    key(ACCOUNT, &[])
}

/// The prefix of all sessions.
pub(crate) fn all_sessions() -> RowBytes {
    key(SESSION, &[])
}

pub(crate) fn ending(user: &str) -> RowBytes {
    key(ENDING, &[user.as_bytes()])
}

/// The prefix of deleted users whose inbox has not ended yet.
pub(crate) fn endings() -> RowBytes {
    key(ENDING, &[])
}

pub(crate) fn erasure(user: &str) -> RowBytes {
    key(ERASURE, &[user.as_bytes()])
}

/// The user in a key of `ACCOUNT`, `ENDING` or `ERASURE`.
pub(crate) fn user_of(key: &[u8]) -> io::Result<String> {
    let [ACCOUNT | ENDING | ERASURE, user @ ..] = key else { return Err(broken("key of an account")) };
    String::from_utf8(user.to_vec()).map_err(|_| broken("user in the key of an account"))
}

/// The prefix of all sessions of the user.
pub(crate) fn sessions(user: &str) -> RowBytes {
    session(user, "")
}

pub(crate) fn lease(lease: u64) -> RowBytes {
    key(LEASE, &[&lease.to_be_bytes()])
}

/// The prefix of all leases.
pub(crate) fn leases() -> RowBytes {
    key(LEASE, &[])
}

pub(crate) fn lease_of(key: &[u8]) -> io::Result<u64> {
    let [LEASE, number @ ..] = key else { return Err(broken("key of a lease")) };
    number.try_into().map(u64::from_be_bytes).map_err(|_| broken("key of a lease"))
}

pub(crate) fn ring_slot(slot: u32) -> RowBytes {
    key(RING_SLOT, &[&slot.to_be_bytes()])
}

/// The prefix of all slots of the ring.
pub(crate) fn ring_slots() -> RowBytes {
    key(RING_SLOT, &[])
}

pub(crate) fn ring_slot_of(key: &[u8]) -> io::Result<u32> {
    let [RING_SLOT, slot @ ..] = key else { return Err(broken("key of a slot of the ring")) };
    slot.try_into().map(u32::from_be_bytes).map_err(|_| broken("key of a slot of the ring"))
}

pub(crate) fn storage_node(node: u64) -> RowBytes {
    key(STORAGE_NODE, &[&node.to_be_bytes()])
}

/// The prefix of all storage nodes.
pub(crate) fn storage_nodes() -> RowBytes {
    key(STORAGE_NODE, &[])
}

pub(crate) fn storage_node_of(key: &[u8]) -> io::Result<u64> {
    let [STORAGE_NODE, node @ ..] = key else { return Err(broken("key of a storage node")) };
    number_of(node)
}

pub(crate) fn placement(shard: ShardId) -> RowBytes {
    key(PLACEMENT, &[&shard.group().to_be_bytes()])
}

/// The prefix of all placements.
pub(crate) fn placements() -> RowBytes {
    key(PLACEMENT, &[])
}

pub(crate) fn placement_of(key: &[u8]) -> io::Result<ShardId> {
    let [PLACEMENT, group @ ..] = key else { return Err(broken("key of a placement")) };
    ShardId::from_group(number_of(group)?).ok_or_else(|| broken("shard in the key of a placement"))
}

/// The value of `ERASURE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Erasure {
    /// Of the account's row.
    pub(crate) incarnation: u64,
    /// In milliseconds since 1970.
    pub(crate) ordered_ms: u64,
    pub(crate) done: bool,
}

impl Erasure {
    pub(crate) fn encode(self) -> RowBytes {
        numbers_value([self.incarnation, self.ordered_ms, self.done.into()])
    }

    pub(crate) fn decode(value: &[u8]) -> io::Result<Self> {
        match numbers_of(value)? {
            [incarnation, ordered_ms, done @ (0 | 1)] => Ok(Self { incarnation, ordered_ms, done: done == 1 }),
            _ => Err(broken("erasure")),
        }
    }
}

/// The value of `LEASE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) kind: u8,
    pub(crate) ttl_ms: u32,
    pub(crate) ends: u64,
    pub(crate) nonce: [u8; 16],
    pub(crate) address: String,
}

impl Lease {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (ttl_ms, ends) = (self.ttl_ms.to_be_bytes(), self.ends.to_be_bytes());
        [&[self.kind], ttl_ms.as_slice(), &ends, &self.nonce, self.address.as_bytes()].concat()
    }

    pub(crate) fn decode(value: &[u8]) -> io::Result<Self> {
        let parse = || {
            let (kind, rest) = value.split_first()?;
            let (ttl_ms, rest) = rest.split_first_chunk()?;
            let (ends, rest) = rest.split_first_chunk()?;
            let (nonce, rest) = rest.split_first_chunk()?;
            let address = String::from_utf8(rest.to_vec()).ok()?;
            let (ttl_ms, ends) = (u32::from_be_bytes(*ttl_ms), u64::from_be_bytes(*ends));
            Some(Self { kind: *kind, ttl_ms, ends, nonce: *nonce, address })
        };
        parse().ok_or_else(|| broken("lease"))
    }
}
