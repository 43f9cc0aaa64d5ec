//! Every key that the engines hold: its first byte, its layout, its value. Numbers in keys and values are big-endian,
//! so that the order of the bytes is the order of the numbers. A first byte is never used again for another meaning.
//!
//! | first byte | in | rest of the key | value |
//! | --- | --- | --- | --- |
//! | 0x00 `APPLIED` | both | nothing | bytes of the Raft core: how far the log is applied. Not part of a snapshot |
//! | 0x01 `ACCOUNT` | directory | user | encoded `Account` |
//! | 0x02 `SESSION` | directory | user, 0x00, device | encoded `Session` |
//! | 0x03 `LEASE` | directory 0 | lease u64 | kind u8, ttl_ms u32, ends u64 (by the lease clock), nonce 16 bytes, address |
//! | 0x04 `REGISTRY` | directory 0 | nothing | lease clock in ms u64, version u64, ring version u64 |
//! | 0x05 `ENDING` | directory | user | incarnation u64: of a deleted user whose inbox has not ended yet |
//! | 0x06 `LEVEL` | both | nothing | level u32: by which the shard's commands are read |
//! | 0x07 `STORAGE_NODE` | directory 0 | node u64 | encoded `StorageNode` |
//! | 0x08 `PLACEMENT` | directory 0 | Raft group u64 | encoded `Placement` |
//! | 0x09 `CLUSTER_LEVEL` | directory 0 | nothing | level u32: what all storage nodes can read |
//! | 0x10 `TIMELINE` | timeline | kind u8, owner | number u64, epoch u64, first u64, last u64 when last trimmed; then incarnation u64 if it is not 0. Number and epoch 0: it has ended and there is no new one |
//! | 0x13 `CURSOR` | timeline | number u64, device | seq u64, the shard's clock when it moved there u64 |
//! | 0x14 `NEXT_NUMBER` | timeline | nothing | the number that the next new timeline gets, u64 |
//! | 0x15 `CLOCK` | timeline | nothing | the shard's clock in ms u64 |
//! | 0x16 `GARBAGE` | timeline | number u64 | nothing: what the keys of this number hold is of no timeline any more |
//! | 0x17 `ENDED_SENDER` | timeline | user | generation u64, the shard's clock when it was told u64 |
//! | 0x20 to 0x27 `RECORD` | timeline | number in 1 to 8 bytes, seq u64 | the shard's clock u64, duplicate key 16 bytes, envelope |
//! | 0x28 to 0x2f `DUPLICATE` | timeline | number in 1 to 8 bytes, duplicate key 16 bytes | seq u64 |
//!
//! Users and owners are ids as they come in commands: a local part, which has no `@` in it, and for those of another domain
//! than the default one `@` and the domain behind it. So ids with a domain need no other layout.
//!
//! The first byte of `RECORD` and `DUPLICATE` says how long the number is, which is as short as can be. So these keys,
//! which are most of all, have what distinguishes them in their first four bytes, and no more than 20 bytes as long as a
//! shard has fewer than 2^24 timelines: the engine compares and holds such keys without following a pointer.
//!
//! Format 1 had two others in their place, which [`upgraded`] turns into these wherever they are found:
//!
//! | first byte | rest of the key |
//! | --- | --- |
//! | 0x11 `RECORD` | number u64, seq u64 |
//! | 0x12 `DUPLICATE` | number u64, duplicate key 16 bytes |
//!
//! Before format 3 there was no clock: the value of `RECORD` began with milliseconds since 1970 by the clock of a router,
//! and that of `CURSOR` was the position alone. Both are read as written when the shard's clock began, so they are kept too
//! long rather than too short; an older version would take the shard's clock for 1970 and remove everything.
//! Nor were there incarnations, `ENDING`, `GARBAGE` and `ENDED_SENDER`.
//!
//! Each shard is a tree (sled) or a keyspace (fjall) `shard-INDEX`. The number of the format is in the file `*.mark` beside
//! the folder of the engine.

use std::io;

use bytes::Bytes;
use carillon_proto::{
    Level, ShardId,
    pb::store::{TimelineKey, timeline_key::Kind},
};

use super::broken;

/// The version of all layouts above, and the oldest that can be read.
pub(crate) const FORMAT: u32 = 3;
pub(crate) const OLDEST_FORMAT: u32 = 1;

pub(crate) const APPLIED: &[u8] = &[0x00];
pub(crate) const REGISTRY: &[u8] = &[0x04];
pub(crate) const LEVEL: &[u8] = &[0x06];
pub(crate) const CLUSTER_LEVEL: &[u8] = &[0x09];
pub(crate) const NEXT_NUMBER: &[u8] = &[0x14];
pub(crate) const CLOCK: &[u8] = &[0x15];
/// In the place of the shard's clock, this or more is a time since 1970: 2004 or later, and for a clock, 34 years.
const SINCE_1970_MS: u64 = 1 << 40;

const ACCOUNT: u8 = 0x01;
const SESSION: u8 = 0x02;
const LEASE: u8 = 0x03;
const ENDING: u8 = 0x05;
const STORAGE_NODE: u8 = 0x07;
const PLACEMENT: u8 = 0x08;
const TIMELINE: u8 = 0x10;
const RECORD_1: u8 = 0x11;
const DUPLICATE_1: u8 = 0x12;
const CURSOR: u8 = 0x13;
const GARBAGE: u8 = 0x16;
const ENDED_SENDER: u8 = 0x17;
const RECORD: u8 = 0x20;
const DUPLICATE: u8 = 0x28;

pub(crate) fn account(user: &str) -> Vec<u8> {
    key(ACCOUNT, &[user.as_bytes()])
}

/// Neither user nor device has a 0x00 in it: control characters are refused in both.
pub(crate) fn session(user: &str, device: &str) -> Vec<u8> {
    key(SESSION, &[user.as_bytes(), &[0], device.as_bytes()])
}

/// What all accounts begin with.
pub(crate) fn accounts() -> Vec<u8> {
    vec![ACCOUNT]
}

/// What all sessions begin with.
pub(crate) fn all_sessions() -> Vec<u8> {
    vec![SESSION]
}

pub(crate) fn ending(user: &str) -> Vec<u8> {
    key(ENDING, &[user.as_bytes()])
}

/// What all keys of deleted users whose inbox has not ended yet begin with.
pub(crate) fn endings() -> Vec<u8> {
    vec![ENDING]
}

/// The user of a key of `ACCOUNT` or `ENDING`.
pub(crate) fn user_of(key: &[u8]) -> io::Result<String> {
    let [ACCOUNT | ENDING, user @ ..] = key else { return Err(broken("key of an account")) };
    String::from_utf8(user.to_vec()).map_err(|_| broken("user in the key of an account"))
}

/// What all sessions of the user begin with.
pub(crate) fn sessions(user: &str) -> Vec<u8> {
    session(user, "")
}

pub(crate) fn lease(lease: u64) -> Vec<u8> {
    key(LEASE, &[&lease.to_be_bytes()])
}

/// What all leases begin with.
pub(crate) fn leases() -> Vec<u8> {
    vec![LEASE]
}

pub(crate) fn lease_of(key: &[u8]) -> io::Result<u64> {
    let [LEASE, number @ ..] = key else { return Err(broken("key of a lease")) };
    number.try_into().map(u64::from_be_bytes).map_err(|_| broken("key of a lease"))
}

pub(crate) fn storage_node(node: u64) -> Vec<u8> {
    key(STORAGE_NODE, &[&node.to_be_bytes()])
}

/// What all storage nodes begin with.
pub(crate) fn storage_nodes() -> Vec<u8> {
    vec![STORAGE_NODE]
}

pub(crate) fn storage_node_of(key: &[u8]) -> io::Result<u64> {
    let [STORAGE_NODE, node @ ..] = key else { return Err(broken("key of a storage node")) };
    number_of(node)
}

pub(crate) fn placement(shard: ShardId) -> Vec<u8> {
    key(PLACEMENT, &[&shard.group().to_be_bytes()])
}

/// What all placements begin with.
pub(crate) fn placements() -> Vec<u8> {
    vec![PLACEMENT]
}

pub(crate) fn placement_of(key: &[u8]) -> io::Result<ShardId> {
    let [PLACEMENT, group @ ..] = key else { return Err(broken("key of a placement")) };
    ShardId::from_group(number_of(group)?).ok_or_else(|| broken("shard in the key of a placement"))
}

/// Value of `LEVEL` and `CLUSTER_LEVEL`.
pub(crate) fn level_value(level: Level) -> Vec<u8> {
    level.0.to_be_bytes().to_vec()
}

pub(crate) fn level_of(value: &[u8]) -> io::Result<Level> {
    value.try_into().map(u32::from_be_bytes).map(Level).map_err(|_| broken("level"))
}

pub(crate) fn timeline(timeline: &TimelineKey) -> Vec<u8> {
    key(TIMELINE, &[&[kind_byte(timeline.kind())], timeline.owner.as_bytes()])
}

/// What all timelines begin with.
pub(crate) fn timelines() -> Vec<u8> {
    vec![TIMELINE]
}

/// What is greater than all timelines.
pub(crate) fn after_timelines() -> Vec<u8> {
    vec![TIMELINE + 1]
}

pub(crate) fn timeline_of(key: &[u8]) -> io::Result<TimelineKey> {
    let [TIMELINE, kind, owner @ ..] = key else { return Err(broken("key of a timeline")) };
    let kind = match kind {
        1 => Kind::Inbox,
        2 => Kind::Group,
        _ => return Err(broken("kind in the key of a timeline")),
    };
    let owner = String::from_utf8(owner.to_vec()).map_err(|_| broken("owner in the key of a timeline"))?;
    Ok(TimelineKey { kind: kind.into(), owner })
}

fn kind_byte(kind: Kind) -> u8 {
    match kind {
        Kind::Unspecified => 0,
        Kind::Inbox => 1,
        Kind::Group => 2,
    }
}

pub(crate) fn record(number: u64, seq: u64) -> Vec<u8> {
    numbered(RECORD, number, &seq.to_be_bytes())
}

pub(crate) fn seq_of(key: &[u8]) -> io::Result<u64> {
    match key.split_last_chunk::<8>() {
        Some(([first @ RECORD..DUPLICATE, number @ ..], seq)) if number.len() == usize::from(first - RECORD) + 1 => {
            Ok(u64::from_be_bytes(*seq))
        }
        _ => Err(broken("key of a record")),
    }
}

pub(crate) fn duplicate(number: u64, duplicate: &[u8; 16]) -> Vec<u8> {
    numbered(DUPLICATE, number, duplicate)
}

/// The key that format 2 has in the place of one of format 1; None if it is the same in both.
pub(crate) fn upgraded(key: &[u8]) -> Option<Vec<u8>> {
    let [first @ (RECORD_1 | DUPLICATE_1), rest @ ..] = key else { return None };
    let (number, rest) = rest.split_first_chunk()?;
    let now = if *first == RECORD_1 { RECORD } else { DUPLICATE };
    Some(numbered(now, u64::from_be_bytes(*number), rest))
}

/// What all keys of format 1 that are no longer written lie between.
pub(crate) fn outdated() -> std::ops::RangeInclusive<Vec<u8>> {
    vec![RECORD_1]..=vec![DUPLICATE_1 + 1]
}

/// What all records, duplicate keys and cursors of a timeline begin with.
pub(crate) fn all_of(number: u64) -> [Vec<u8>; 3] {
    [numbered(RECORD, number, &[]), numbered(DUPLICATE, number, &[]), cursor(number, "")]
}

pub(crate) fn ended_sender(user: &[u8]) -> Vec<u8> {
    key(ENDED_SENDER, &[user])
}

/// What all keys of senders that have ended lie between.
pub(crate) fn all_ended_senders() -> std::ops::RangeInclusive<Vec<u8>> {
    vec![ENDED_SENDER]..=vec![ENDED_SENDER + 1]
}

pub(crate) fn ended_sender_of(key: &[u8]) -> io::Result<&[u8]> {
    let [ENDED_SENDER, user @ ..] = key else { return Err(broken("key of a sender that has ended")) };
    Ok(user)
}

pub(crate) fn garbage(number: u64) -> Vec<u8> {
    key(GARBAGE, &[&number.to_be_bytes()])
}

/// What all keys of timelines that have ended lie between.
pub(crate) fn all_garbage() -> std::ops::RangeInclusive<Vec<u8>> {
    vec![GARBAGE]..=vec![GARBAGE + 1]
}

pub(crate) fn garbage_of(key: &[u8]) -> io::Result<u64> {
    let [GARBAGE, number @ ..] = key else { return Err(broken("key of garbage")) };
    number_of(number)
}

fn numbered(first: u8, number: u64, rest: &[u8]) -> Vec<u8> {
    let bytes = number.to_be_bytes();
    let skip = (number.leading_zeros() / 8).min(7) as usize;
    key(first + (7 - skip) as u8, &[&bytes[skip..], rest])
}

pub(crate) fn cursor(number: u64, device: &str) -> Vec<u8> {
    key(CURSOR, &[&number.to_be_bytes(), device.as_bytes()])
}

/// What all cursors begin with.
pub(crate) fn cursors() -> Vec<u8> {
    vec![CURSOR]
}

/// What is greater than all cursors, and less than the key after them, which is one byte.
pub(crate) fn after_cursors() -> Vec<u8> {
    key(CURSOR, &[&[0xff; 9]])
}

/// Number and device.
pub(crate) fn cursor_of(key: &[u8]) -> io::Result<(u64, &str)> {
    let [CURSOR, rest @ ..] = key else { return Err(broken("key of a cursor")) };
    let (number, device) = rest.split_first_chunk().ok_or_else(|| broken("key of a cursor"))?;
    let device = str::from_utf8(device).map_err(|_| broken("device in the key of a cursor"))?;
    Ok((u64::from_be_bytes(*number), device))
}

fn key(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(first);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// Value of `DUPLICATE`, `NEXT_NUMBER`, `CLOCK` and `ENDING`.
pub(crate) fn number_value(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

pub(crate) fn number_of(value: &[u8]) -> io::Result<u64> {
    value.try_into().map(u64::from_be_bytes).map_err(|_| broken("number"))
}

/// Value of `CURSOR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) seq: u64,
    /// By the shard's clock.
    pub(crate) moved_ms: u64,
}

impl Cursor {
    pub(crate) fn encode(self) -> Vec<u8> {
        numbers_value([self.seq, self.moved_ms])
    }

    pub(crate) fn decode(value: &[u8]) -> io::Result<Self> {
        if value.len() == 8 {
            return Ok(Self { seq: number_of(value)?, moved_ms: 0 });
        }
        let [seq, moved_ms] = numbers_of(value)?;
        Ok(Self { seq, moved_ms })
    }
}

/// Value of `REGISTRY`, and part of that of `TIMELINE`.
pub(crate) fn numbers_value<const N: usize>(numbers: [u64; N]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

pub(crate) fn numbers_of<const N: usize>(value: &[u8]) -> io::Result<[u64; N]> {
    let (chunks, rest) = value.as_chunks::<8>();
    let chunks: &[[u8; 8]; N] = chunks.try_into().map_err(|_| broken("numbers"))?;
    if rest.is_empty() { Ok(chunks.map(u64::from_be_bytes)) } else { Err(broken("numbers")) }
}

/// Value of `TIMELINE`: number, epoch, first, last, and the incarnation, which timelines of format 2 do not have.
pub(crate) fn timeline_value(numbers: [u64; 4], incarnation: u64) -> Vec<u8> {
    let mut value = numbers_value(numbers);
    if incarnation != 0 {
        value.extend_from_slice(&incarnation.to_be_bytes());
    }
    value
}

pub(crate) fn timeline_numbers(value: &[u8]) -> io::Result<([u64; 4], u64)> {
    match value.split_at_checked(32) {
        Some((numbers, [])) => Ok((numbers_of(numbers)?, 0)),
        Some((numbers, incarnation)) => Ok((numbers_of(numbers)?, number_of(incarnation)?)),
        None => Err(broken("value of a timeline")),
    }
}

/// Value of `RECORD`.
pub(crate) struct Stored<'a> {
    /// The shard's clock when it was appended.
    pub(crate) clock_ms: u64,
    pub(crate) duplicate: [u8; 16],
    pub(crate) envelope: &'a [u8],
}

impl<'a> Stored<'a> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        [&self.clock_ms.to_be_bytes(), self.duplicate.as_slice(), self.envelope].concat()
    }

    pub(crate) fn decode(value: &'a [u8]) -> io::Result<Self> {
        let (clock_ms, rest) = value.split_first_chunk().ok_or_else(|| broken("record"))?;
        let clock_ms = Some(u64::from_be_bytes(*clock_ms)).filter(|clock_ms| *clock_ms < SINCE_1970_MS).unwrap_or(0);
        let (duplicate, envelope) = rest.split_first_chunk().ok_or_else(|| broken("record"))?;
        Ok(Self { clock_ms, duplicate: *duplicate, envelope })
    }

    pub(crate) fn envelope(&self) -> Bytes {
        Bytes::copy_from_slice(self.envelope)
    }
}

/// Value of `LEASE`.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_encoded_is_decoded(
            a in any::<u64>(), b in any::<u64>(), c in any::<u64>(), d in any::<u32>(),
            kind in 1..=2u8, sixteen in any::<[u8; 16]>(),
            text in "[a-z0-9é.]{1,128}(@[a-z0-9.-]{1,253})?", bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let key = TimelineKey { kind: i32::from(kind), owner: text.clone() };
            prop_assert_eq!(timeline_of(&timeline(&key)).expect("decodes"), key);
            prop_assert_eq!(seq_of(&record(a, b)).expect("decodes"), b);
            prop_assert_eq!(garbage_of(&garbage(a)).expect("decodes"), a);
            prop_assert_eq!(user_of(&account(&text)).expect("decodes"), text.clone());
            prop_assert_eq!(user_of(&ending(&text)).expect("decodes"), text.clone());
            let [records, duplicates, its_cursors] = all_of(a);
            prop_assert!(record(a, b).starts_with(&records) && !record(b, a).starts_with(&records) || a == b);
            prop_assert!(duplicate(a, &sixteen).starts_with(&duplicates) && cursor(a, &text).starts_with(&its_cursors));
            prop_assert_eq!(lease_of(&lease(a)).expect("decodes"), a);
            prop_assert_eq!(storage_node_of(&storage_node(a)).expect("decodes"), a);
            prop_assert_eq!(level_of(&level_value(Level(d))).expect("decodes"), Level(d));
            let shard = ShardId { kind: carillon_proto::ShardKind::Timeline, index: d as u16 };
            prop_assert_eq!(placement_of(&placement(shard)).expect("decodes"), shard);
            prop_assert_eq!(number_of(&number_value(a)).expect("decodes"), a);
            prop_assert_eq!(numbers_of(&numbers_value([a, b, c])).expect("decodes"), [a, b, c]);
            prop_assert_eq!(timeline_numbers(&timeline_value([a, b, c, a], b)).expect("decodes"), ([a, b, c, a], b));
            let lease = Lease { kind, ttl_ms: d, ends: a, nonce: sixteen, address: text };
            prop_assert_eq!(Lease::decode(&lease.encode()).expect("decodes"), lease);
            let clock_ms = a >> 24;
            let encoded = Stored { clock_ms, duplicate: sixteen, envelope: &bytes }.encode();
            let stored = Stored::decode(&encoded).expect("decodes");
            prop_assert_eq!((stored.clock_ms, stored.duplicate, stored.envelope), (clock_ms, sixteen, bytes.as_slice()));
            let moved = Cursor { seq: a, moved_ms: b };
            prop_assert_eq!(Cursor::decode(&moved.encode()).expect("decodes"), moved);
            let phone = cursor(a, "phone");
            prop_assert_eq!(cursor_of(&phone).expect("decodes"), (a, "phone"));
            prop_assert!((cursors()..=after_cursors()).contains(&phone));
            prop_assert!(!(cursors()..=after_cursors()).contains(&NEXT_NUMBER.to_vec()));
        }

        #[test]
        fn records_sort_by_timeline_then_position(a in any::<(u64, u64)>(), b in any::<(u64, u64)>()) {
            for shift in [0, 8, 30, 60] {
                let (a, b) = ((a.0 >> shift, a.1), (b.0 >> shift, b.1));
                prop_assert_eq!(record(a.0, a.1).cmp(&record(b.0, b.1)), a.cmp(&b));
            }
            prop_assert_eq!(lease(a.0).cmp(&lease(b.0)), a.0.cmp(&b.0));
        }

        #[test]
        fn keys_of_format_1_become_those_of_format_2(number in any::<u64>(), shift in 0..64u32, seq in any::<u64>()) {
            let number = number >> shift;
            let record_1 = key(RECORD_1, &[&number.to_be_bytes(), &seq.to_be_bytes()]);
            prop_assert_eq!(upgraded(&record_1), Some(record(number, seq)));
            let duplicate_1 = key(DUPLICATE_1, &[&number.to_be_bytes(), &[7; 16]]);
            prop_assert_eq!(upgraded(&duplicate_1), Some(duplicate(number, &[7; 16])));
            for outdated_key in [record_1, duplicate_1] {
                prop_assert!(outdated().contains(&outdated_key));
            }
            for key in [record(number, seq), duplicate(number, &[7; 16]), cursor(number, "d"), NEXT_NUMBER.to_vec()] {
                prop_assert_eq!(upgraded(&key), None);
                prop_assert!(!outdated().contains(&key));
            }
        }

        #[test]
        fn the_sessions_of_a_user_are_those_with_its_prefix(
            a in "[a-c]{1,3}(@[a-c]{1,2})?", b in "[a-c]{1,3}(@[a-c]{1,2})?", device in "[a-c/]{1,3}",
        ) {
            prop_assert_eq!(session(&a, &device).starts_with(&sessions(&b)), a == b);
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = (timeline_of(&bytes), seq_of(&bytes), lease_of(&bytes), number_of(&bytes));
            let _ = (cursor_of(&bytes).is_ok(), Cursor::decode(&bytes));
            let _ = (user_of(&bytes), garbage_of(&bytes));
            let _ = (storage_node_of(&bytes), placement_of(&bytes), level_of(&bytes));
            let _ = (numbers_of::<4>(&bytes), Lease::decode(&bytes), Stored::decode(&bytes).is_ok());
            let _ = timeline_numbers(&bytes);
        }
    }

    #[test]
    fn what_has_a_time_since_1970_or_none_counts_from_the_begin_of_the_clock() {
        let march_2026 = 1_774_000_000_000u64;
        let stored = Stored { clock_ms: march_2026, duplicate: [7; 16], envelope: b"e" }.encode();
        assert_eq!(Stored::decode(&stored).expect("decodes").clock_ms, 0);
        assert_eq!(Cursor::decode(&number_value(5)).expect("decodes"), Cursor { seq: 5, moved_ms: 0 });
    }

    #[test]
    fn layouts_never_change() {
        let inbox = TimelineKey { kind: Kind::Inbox.into(), owner: "al".into() };
        assert_eq!(timeline(&inbox), [0x10, 1, b'a', b'l']);
        assert_eq!(record(1, 2), [0x20, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(record(0x100, 2), [0x21, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(record(u64::MAX, 2)[..9], [0x27, 255, 255, 255, 255, 255, 255, 255, 255]);
        assert_eq!(duplicate(1, &[7; 16])[..3], [0x28, 1, 7]);
        assert_eq!(duplicate(0xff_ffff, &[7; 16]).len(), 20);
        assert_eq!(cursor(1, "d"), [0x13, 0, 0, 0, 0, 0, 0, 0, 1, b'd']);
        // As format 2 had it, and what came after.
        assert_eq!(timeline_value([1, 2, 3, 4], 0), numbers_value([1, 2, 3, 4]));
        assert_eq!(timeline_value([1, 2, 3, 4], 5), numbers_value([1, 2, 3, 4, 5]));
        assert_eq!(garbage(1), [0x16, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(ending("al"), [5, b'a', b'l']);
        assert_eq!(account("al"), [1, b'a', b'l']);
        assert_eq!(session("al", "d"), [2, b'a', b'l', 0, b'd']);
        assert_eq!(lease(1), [3, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(storage_node(1), [7, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(placement(ShardId::REGISTRY), [8, 0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(level_value(Level(1)), [0, 0, 0, 1]);
    }
}
