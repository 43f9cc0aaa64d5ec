//! Every key that the engines hold: its first byte, its layout, its value. Numbers in keys and values are big-endian,
//! so that the order of the bytes is the order of the numbers. A first byte is never used again for another meaning.
//!
//! | first byte | in | rest of the key | value |
//! | --- | --- | --- | --- |
//! | 0x00 `APPLIED` | both | nothing | bytes of the Raft core: how far the log is applied; in a directory behind them a digest (`engine/digest.rs`). Not part of a snapshot |
//! | 0x01 `ACCOUNT` | directory | user | encoded `Account` |
//! | 0x02 `SESSION` | directory | user, 0x00, device | encoded `Session` |
//! | 0x03 `LEASE` | directory 0 | lease u64 | kind u8, ttl_ms u32, ends u64 (by the lease clock), nonce 16 bytes, address |
//! | 0x04 `REGISTRY` | directory 0 | nothing | lease clock in ms u64, version u64, ring version u64 |
//! | 0x05 `ENDING` | directory | user | incarnation u64: of a deleted user whose inbox has not ended yet |
//! | 0x06 `LEVEL` | both | nothing | level u32: by which the shard's commands are read |
//! | 0x07 `STORAGE_NODE` | directory 0 | node u64 | encoded `StorageNode` |
//! | 0x08 `PLACEMENT` | directory 0 | Raft group u64 | encoded `Placement` |
//! | 0x09 `CLUSTER_LEVEL` | directory 0 | nothing | level u32: what all storage nodes can read |
//! | 0x0a `CONTACT` | directory | user, 0x00, incarnation u64 of the account, contact | encoded `Contact` |
//! | 0x0b `CONTACT_LIST` | directory | user, 0x00, incarnation u64 of the account | encoded `ContactList` |
//! | 0x0c `UNTOLD` | directory | as `CONTACT` | nothing: the contact has to be told something |
//! | 0x0f `PRIVACY` | directory | as `CONTACT_LIST` | encoded `Privacy` |
//! | 0x0d `CONTACTS_END` | directory | as `CONTACT_LIST` | the account has ended, and those whom it knows are being told: 0x00 and the contact up to which the rows were prepared, or 0x01: all were |
//! | 0x1d `CLUSTER_GROWTH` | directory 0 | nothing | the id that the next storage node gets u64, 1 while shards are to be spread u64 |
//! | 0x1e `ERASURE` | directory | user | incarnation u64, when it was ordered u64 (ms since 1970), 1 when it is done u64: the last erasure of a user of this name |
//! | 0x3a `RING_SLOT` | directory 0 | slot u32 | lease u64 of the router that holds it, 0 for none |
//! | 0x42 `DOMAIN` | directory 0 | domain, or nothing for the default one | encoded `Domain` |
//! | 0x43 `DOMAIN_ACCOUNTS` | directory | domain | how many accounts of the domain the shard has u64 |
//! | 0x44 `DOMAIN_USER` | directory | domain, 0x00, user | nothing: there is or was an account of this name |
//! | 0x10 `TIMELINE` | timeline | kind u8, owner | number u64, epoch u64, first u64, last u64 when last trimmed; then incarnation u64, and the number of a group's counted messages u64, without zeros at the end. Number and epoch 0: it has ended and there is no new one |
//! | 0x13 `CURSOR` | timeline | number u64, device | seq u64, the shard's clock when it moved there u64 |
//! | 0x14 `NEXT_NUMBER` | timeline | nothing | the number that the next new timeline gets, u64 |
//! | 0x15 `CLOCK` | timeline | nothing | the shard's clock in ms u64 |
//! | 0x16 `GARBAGE` | timeline | number u64 | nothing: what the keys of this number hold is of no timeline any more |
//! | 0x17 `ENDED_SENDER` | timeline | user | generation u64, the shard's clock when it was told u64 |
//! | 0x18 `REPORT` | timeline | 1 | encoded `ReportSum` |
//! | | | 2 if it is open or 3 if it is resolved, ms since 1970 u64, id u64 | encoded `ReportRow`: messages that a user of this shard has reported |
//! | | | 4, ms since 1970 u64, id u64 | encoded `ReportEvidence`: these messages |
//! | | | 5, user | encoded `ReportsOfUser` |
//! | 0x19 `GROUP_CURSOR` | timeline | number of the inbox u64, device, 0x00, kind u8, owner | of the device in this group's timeline: epoch u64, seq u64, the shard's clock when it moved there u64 |
//! | 0x1a `CONVERSATION_CHANGE` | timeline | number of the inbox u64 | the newest version of its conversations u64; then how many of them are open requests u64, and how many have a version u64, without zeros at the end |
//! | 0x1a `CONVERSATION_CHANGE` | timeline | number of the inbox u64, version u64 | kind u8, owner: the conversation that has this version |
//! | 0x1b `CONVERSATION` | timeline | number of the inbox u64, kind u8, owner | encoded `Conversation`: with the user who owns this inbox, or in this group |
//! | 0x1c `MEMBERSHIP` | timeline | number of the inbox u64, kind u8, owner | encoded `Membership`: a group that the user is in, or was |
//! | 0x1f `ERASING_SENDER` | timeline | user | generation u64: what the user had sent is being erased |
//! | 0x30 `MEMBER` | timeline | number of the group u64, user | encoded `Member` |
//! | 0x31 `ANNOTATION` | timeline | number u64, seq u64 of a message, 0 | encoded `Annotated`: what others have made of the message |
//! | | | number u64, seq u64 of a message, 1 for reactions or 2 for votes, user | encoded `UserAnnotation` |
//! | | | number u64, 0 u64, 3, the other user of the conversation, or nothing in a group | encoded `Pins` |
//! | | | number of the group u64, 0 u64, 4, a member, or nothing for everybody | encoded `Mentioned` |
//! | 0x32 `OUTBOX` | timeline | index in the log u64, number u32 of the row in its entry | encoded `OutboxRow`: what a worker has to do |
//! | 0x33 `DEAD_LETTER` | timeline | the same | encoded `OutboxRow`: what no worker could do |
//! | 0x34 `MEDIA` | timeline | id of the file 16 bytes | encoded `MediaRow` |
//! | 0x35 `MEDIA_SUM` | timeline | user | encoded `MediaSum`: what the user's files come to |
//! | 0x36 `MEDIA_RELEASED` | timeline | the shard's clock u64, id of a file 16 bytes | nothing: since then nothing in the shard refers to the file |
//! | 0x37 `MEDIA_HOLD` | timeline | id of a file 16 bytes, of any shard | encoded `MediaHold`: how often something in this shard refers to the file |
//! | 0x38 `ERASED_SENDER` | timeline | user | generation u64: the same is done |
//! | 0x39 `ERASED` | both | nothing | the entry in the log with which the last erasure ended in the shard u64 |
//! | 0x3b `GROUP` | timeline | number of the group u64 | encoded `Group` |
//! | 0x3c `SCHEDULED` | timeline | number of the inbox u64 | encoded `ScheduledList` |
//! | 0x3c `SCHEDULED` | timeline | number of the inbox u64, id u64 | encoded `ScheduledRow`: a message that is to be sent later |
//! | 0x3d `DUE` | timeline | ms since 1970 u64, number of the inbox u64, id u64 | nothing: the scheduled message waits until then |
//! | 0x3e `EXPIRING` | timeline | when its content is to be removed, by the shard's clock u64, number u64, seq u64 of a message | kind u8, owner: the timeline |
//! | 0x46 `DOMAIN_GROUP` | timeline | domain, or nothing for the default one, 0x00, group | number of the group u64: there is this group |
//! | 0x3f `MEMBERSHIP_COUNT` | timeline | number of the inbox u64 | how many rows `MEMBERSHIP` it has, u64 |
//! | 0x40 `GROUP_CURSOR_COUNT` | timeline | number of the inbox u64, device | how many rows `GROUP_CURSOR` the device has, u64. None if it has none, or those of before level 7 alone |
//! | 0x47 `EMPTIED` | timeline | number u64, the other user of a direct conversation, or nothing in a group | encoded `Emptied`: messages that do not count as unread any more |
//! | 0x20 to 0x27 `RECORD` | timeline | number in 1 to 8 bytes, seq u64 | the shard's clock u64, duplicate key 16 bytes, envelope. With a header the first byte is 1, and before the envelope stand the length of the header (varint) and the encoded `RecordHeader` |
//! | 0x28 to 0x2f `DUPLICATE` | timeline | number in 1 to 8 bytes, duplicate key 16 bytes | seq u64 |
//!
//! Users and owners are ids as they come in commands: a local part, which has no `@` in it, and for those of another domain
//! than the default one `@` and the domain behind it. So ids with a domain need no other layout. docs/adr/0016 names the first
//! bytes that are kept for rows to come.
//!
//! The first byte of `RECORD` and `DUPLICATE` says how long the number is, which is as short as can be. So these keys,
//! which are most of all, have what distinguishes them in their first four bytes, and no more than 20 bytes as long as a
//! shard has fewer than 2^24 timelines: the engine compares and holds such keys without following a pointer.
//!
//! The value of `RECORD` begins with 0, as the clock is below 2^56, or with 1 if it has a header. Another first byte is another layout.
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
//! Nor were there incarnations, `ENDING` and `GARBAGE`.
//!
//! `LEVEL`, `STORAGE_NODE`, `PLACEMENT`, `CLUSTER_LEVEL` and `ENDED_SENDER` came without a new format. Folders whose shards are
//! at level 0 have none of them, those whose shards are below level 2 have no `GROUP_CURSOR`, and those below level 4 no
//! `CLUSTER_GROWTH`, and those below level 5 no `ERASURE`, `ERASING_SENDER`, `ERASED_SENDER` and `ERASED`, and those below level 6
//! no `RING_SLOT`, and those below level 7 no `GROUP`, `MEMBER`, `MEMBERSHIP`, `MEMBERSHIP_COUNT`, `GROUP_CURSOR_COUNT`, `OUTBOX`,
//! `DEAD_LETTER`, `ANNOTATION`, `CONVERSATION`, `CONVERSATION_CHANGE`, `CONTACT`, `CONTACT_LIST`, `UNTOLD`, `CONTACTS_END`, `PRIVACY`, `MEDIA`, `MEDIA_SUM`,
//! `MEDIA_RELEASED`, `MEDIA_HOLD`, `SCHEDULED`, `DUE`, `EXPIRING`, `DOMAIN_GROUP`, `EMPTIED` and `REPORT`, and no
//! records with a header.
//!
//! Each shard is a tree (sled) or a keyspace (fjall) `shard-INDEX`. The number of the format is in the file `*.mark` beside
//! the folder of the engine.

mod annotations;
mod contacts;
mod conversations;
mod directory;
mod domains;
mod emptied;
mod expiring;
mod media_holds;
mod privacy;
mod reports;
mod rows;
mod scheduled;
mod stored;
#[cfg(test)]
mod tests;
mod timeline;

use std::io;

use byteview::ByteView;
use carillon_proto::Level;

pub(crate) use self::{
    annotations::*,
    contacts::*,
    conversations::*,
    directory::*,
    domains::*,
    emptied::*,
    expiring::*,
    media_holds::*,
    privacy::*,
    reports::*,
    rows::{check, is_of_nodes},
    scheduled::*,
    stored::*,
    timeline::*,
};
use super::broken;

/// The version of all layouts above, and the oldest one that can be read.
pub(crate) const FORMAT: u32 = 3;
pub(crate) const OLDEST_FORMAT: u32 = 1;

pub(crate) const APPLIED: &[u8] = &[0x00];
pub(crate) const REGISTRY: &[u8] = &[0x04];
pub(crate) const LEVEL: &[u8] = &[0x06];
pub(crate) const CLUSTER_LEVEL: &[u8] = &[0x09];
pub(crate) const CLUSTER_GROWTH: &[u8] = &[0x1d];
pub(crate) const ERASED: &[u8] = &[0x39];
pub(crate) const NEXT_NUMBER: &[u8] = &[0x14];
pub(crate) const CLOCK: &[u8] = &[0x15];
const CONTACT: u8 = 0x0a;
const CONTACT_LIST: u8 = 0x0b;
const UNTOLD: u8 = 0x0c;
const CONTACTS_END: u8 = 0x0d;
const PRIVACY: u8 = 0x0f;
const DOMAIN: u8 = 0x42;
const DOMAIN_ACCOUNTS: u8 = 0x43;
const DOMAIN_USER: u8 = 0x44;
const DOMAIN_GROUP: u8 = 0x46;
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
const GROUP_CURSOR: u8 = 0x19;
const CONVERSATION_CHANGE: u8 = 0x1a;
const CONVERSATION: u8 = 0x1b;
const MEMBERSHIP: u8 = 0x1c;
const MEMBERSHIP_COUNT: u8 = 0x3f;
const GROUP_CURSOR_COUNT: u8 = 0x40;
const ERASURE: u8 = 0x1e;
const ERASING_SENDER: u8 = 0x1f;
const ERASED_SENDER: u8 = 0x38;
const MEMBER: u8 = 0x30;
const ANNOTATION: u8 = 0x31;
const OUTBOX: u8 = 0x32;
const DEAD_LETTER: u8 = 0x33;
const MEDIA: u8 = 0x34;
const MEDIA_SUM: u8 = 0x35;
const MEDIA_RELEASED: u8 = 0x36;
const MEDIA_HOLD: u8 = 0x37;
const RING_SLOT: u8 = 0x3a;
const GROUP: u8 = 0x3b;
const REPORT: u8 = 0x18;
const SCHEDULED: u8 = 0x3c;
const DUE: u8 = 0x3d;
const EXPIRING: u8 = 0x3e;
const EMPTIED: u8 = 0x47;
const RECORD: u8 = 0x20;
const DUPLICATE: u8 = 0x28;

/// A key or a value of an engine, as the timeline engine holds it. Up to 20 bytes are in place: most keys, and values that
/// are numbers.
pub(crate) type RowBytes = ByteView;

/// The value of `LEVEL` and `CLUSTER_LEVEL`.
pub(crate) fn level_value(level: Level) -> RowBytes {
    level.0.to_be_bytes().into()
}

pub(crate) fn level_of(value: &[u8]) -> io::Result<Level> {
    value.try_into().map(u32::from_be_bytes).map(Level).map_err(|_| broken("level"))
}

fn key(first: u8, parts: &[&[u8]]) -> RowBytes {
    let mut key = RowBytes::with_size(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    // Nobody else has it yet.
    if let Some(mut bytes) = key.get_mut() {
        bytes[0] = first;
        let mut end = 1;
        for part in parts {
            bytes[end..end + part.len()].copy_from_slice(part);
            end += part.len();
        }
    }
    key
}

/// The first key after this one.
pub(crate) fn after(key: &[u8]) -> RowBytes {
    RowBytes::fused(key, &[0])
}

/// The value of `DUPLICATE`, `NEXT_NUMBER`, `CLOCK` and `ENDING`.
pub(crate) fn number_value(number: u64) -> RowBytes {
    number.to_be_bytes().into()
}

pub(crate) fn number_of(value: &[u8]) -> io::Result<u64> {
    value.try_into().map(u64::from_be_bytes).map_err(|_| broken("number"))
}

/// The value of `REGISTRY`, and part of the value of `TIMELINE`.
pub(crate) fn numbers_value<const N: usize>(numbers: [u64; N]) -> RowBytes {
    numbers.map(u64::to_be_bytes).as_flattened().into()
}

pub(crate) fn numbers_of<const N: usize>(value: &[u8]) -> io::Result<[u64; N]> {
    let (chunks, rest) = value.as_chunks::<8>();
    let chunks: &[[u8; 8]; N] = chunks.try_into().map_err(|_| broken("numbers"))?;
    if rest.is_empty() { Ok(chunks.map(u64::from_be_bytes)) } else { Err(broken("numbers")) }
}
