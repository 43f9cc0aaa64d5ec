//! Keys and values of timeline shards.

use std::io;

use bytes::Bytes;
use carillon_proto::{
    MediaId,
    pb::store::{TimelineKey, timeline_key::Kind},
};

use super::{
    ANNOTATION, CONVERSATION, CONVERSATION_CHANGE, CURSOR, DEAD_LETTER, DUPLICATE, DUPLICATE_1, ENDED_SENDER,
    ERASED_SENDER, ERASING_SENDER, GARBAGE, GROUP, GROUP_CURSOR, GROUP_CURSOR_COUNT, MEDIA, MEDIA_SUM, MEMBER,
    MEMBERSHIP, MEMBERSHIP_COUNT, OUTBOX, RECORD, RECORD_1, RowBytes, TIMELINE, broken, emptied, key, number_of,
    numbers_of, numbers_value, scheduled_list,
};

/// A clock value from here on is a time since 1970: as such it is 2004 or later, and as a shard's clock it would be 34
/// years.
pub(super) const SINCE_1970_MS: u64 = 1 << 40;

pub(crate) fn timeline(timeline: &TimelineKey) -> RowBytes {
    key(TIMELINE, &[&[kind_byte(timeline.kind())], &timeline.owner])
}

/// The prefix of all timelines.
pub(crate) fn timelines() -> RowBytes {
    key(TIMELINE, &[])
}

/// The first key after all timelines.
pub(crate) fn after_timelines() -> RowBytes {
    key(TIMELINE + 1, &[])
}

/// True for the key of a group's timeline.
pub(crate) fn is_group(key: &[u8]) -> bool {
    key.get(1) == Some(&kind_byte(Kind::Group))
}

pub(crate) fn timeline_of(key: &[u8]) -> io::Result<TimelineKey> {
    let [TIMELINE, name @ ..] = key else { return Err(broken("key of a timeline")) };
    named(name)
}

/// The timeline named by kind and owner in a key.
pub(super) fn named(name: &[u8]) -> io::Result<TimelineKey> {
    let [kind, owner @ ..] = name else { return Err(broken("key of a timeline")) };
    let kind = match kind {
        1 => Kind::Inbox,
        2 => Kind::Group,
        _ => return Err(broken("kind in the key of a timeline")),
    };
    str::from_utf8(owner).map_err(|_| broken("owner in the key of a timeline"))?;
    Ok(TimelineKey { kind: kind.into(), owner: Bytes::copy_from_slice(owner) })
}

pub(super) fn kind_byte(kind: Kind) -> u8 {
    match kind {
        Kind::Unspecified => 0,
        Kind::Inbox => 1,
        Kind::Group => 2,
    }
}

pub(crate) fn record(number: u64, seq: u64) -> RowBytes {
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

/// True for the key of a record.
pub(crate) fn is_record(key: &[u8]) -> bool {
    matches!(key.first(), Some(RECORD..DUPLICATE))
}

/// The range of all records of all timelines.
pub(crate) fn all_records() -> std::ops::RangeInclusive<RowBytes> {
    key(RECORD, &[])..=key(DUPLICATE, &[])
}

/// Number of the timeline and position.
pub(crate) fn record_of(key: &[u8]) -> io::Result<(u64, u64)> {
    let seq = seq_of(key)?;
    let number = key[1..key.len() - 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    Ok((number, seq))
}

pub(crate) fn duplicate(number: u64, duplicate: &[u8; 16]) -> RowBytes {
    numbered(DUPLICATE, number, duplicate)
}

/// The key in format 2 for a key of format 1; `None` if it is the same in both.
pub(crate) fn upgraded(key: &[u8]) -> Option<RowBytes> {
    let [first @ (RECORD_1 | DUPLICATE_1), rest @ ..] = key else { return None };
    let (number, rest) = rest.split_first_chunk()?;
    let now = if *first == RECORD_1 { RECORD } else { DUPLICATE };
    Some(numbered(now, u64::from_be_bytes(*number), rest))
}

/// The range of all keys of format 1 that are no longer written.
pub(crate) fn outdated() -> std::ops::RangeInclusive<RowBytes> {
    key(RECORD_1, &[])..=key(DUPLICATE_1 + 1, &[])
}

/// The prefixes of everything that a timeline has: records, duplicate keys and cursors, of an inbox its devices' cursors in
/// groups, its user's memberships, conversations and scheduled messages, of a group its members and its own row; what messages have made of
/// others, and which ones have lost their content.
pub(crate) fn all_of(number: u64) -> [RowBytes; 14] {
    let [in_groups, memberships, conversations, changes, annotations] =
        [GROUP_CURSOR, MEMBERSHIP, CONVERSATION, CONVERSATION_CHANGE, ANNOTATION]
            .map(|first| key(first, &[&number.to_be_bytes()]));
    let (records, duplicates) = (numbered(RECORD, number, &[]), numbered(DUPLICATE, number, &[]));
    let (cursors, members, group) = (cursor(number, ""), member(number, ""), group(number));
    let scheduled = scheduled_list(number);
    [
        records,
        duplicates,
        cursors,
        in_groups,
        memberships,
        members,
        group,
        conversations,
        changes,
        annotations,
        scheduled,
        membership_count(number),
        group_cursor_count(number, ""),
        emptied(number, ""),
    ]
}

pub(crate) fn group(number: u64) -> RowBytes {
    key(GROUP, &[&number.to_be_bytes()])
}

pub(crate) fn group_of(key: &[u8]) -> io::Result<u64> {
    let [GROUP, number @ ..] = key else { return Err(broken("key of a group")) };
    number_of(number)
}

pub(crate) fn member(number: u64, user: &str) -> RowBytes {
    key(MEMBER, &[&number.to_be_bytes(), user.as_bytes()])
}

/// The key after all members of the group.
pub(crate) fn after_members(number: u64) -> RowBytes {
    key(MEMBER, &[&number.to_be_bytes(), &[0xff]])
}

pub(crate) fn member_of(key: &[u8]) -> io::Result<(u64, &str)> {
    let parse = || {
        let [MEMBER, rest @ ..] = key else { return None };
        let (number, user) = rest.split_first_chunk()?;
        Some((u64::from_be_bytes(*number), str::from_utf8(user).ok()?))
    };
    parse().ok_or_else(|| broken("key of a member"))
}

/// `number` is that of the user's inbox.
pub(crate) fn membership(number: u64, group: &TimelineKey) -> RowBytes {
    key(MEMBERSHIP, &[&number.to_be_bytes(), &[kind_byte(group.kind())], &group.owner])
}

/// The range of all memberships of an inbox.
pub(crate) fn memberships_of(number: u64) -> std::ops::RangeInclusive<RowBytes> {
    let bound = |end: &[u8]| key(MEMBERSHIP, &[&number.to_be_bytes(), end]);
    bound(&[])..=bound(&[0xff])
}

/// How many groups an inbox has rows of.
pub(crate) fn membership_count(number: u64) -> RowBytes {
    key(MEMBERSHIP_COUNT, &[&number.to_be_bytes()])
}

pub(crate) fn membership_count_of(key: &[u8]) -> io::Result<u64> {
    let [MEMBERSHIP_COUNT, number @ ..] = key else { return Err(broken("key of a number of memberships")) };
    number_of(number)
}

pub(crate) fn membership_of(key: &[u8]) -> io::Result<(u64, TimelineKey)> {
    let parse = || {
        let [MEMBERSHIP, rest @ ..] = key else { return None };
        let (number, name) = rest.split_first_chunk()?;
        Some((u64::from_be_bytes(*number), name))
    };
    let (number, name) = parse().ok_or_else(|| broken("key of a membership"))?;
    Ok((number, named(name)?))
}

/// Kind and owner of the group.
pub(crate) fn name_of_membership(key: &[u8]) -> io::Result<&[u8]> {
    match key {
        [MEMBERSHIP, rest @ ..] if rest.len() > 8 => Ok(&rest[8..]),
        _ => Err(broken("key of a membership")),
    }
}

/// The range of the memberships of all inboxes.
pub(crate) fn all_memberships() -> std::ops::RangeInclusive<RowBytes> {
    key(MEMBERSHIP, &[])..=key(MEMBERSHIP + 1, &[])
}

/// `number`: which row of this entry it is.
pub(crate) fn outbox(index: u64, number: u32) -> RowBytes {
    key(OUTBOX, &[&index.to_be_bytes(), &number.to_be_bytes()])
}

/// The range of all rows of the outbox.
pub(crate) fn outbox_rows() -> std::ops::RangeInclusive<RowBytes> {
    key(OUTBOX, &[])..=key(OUTBOX + 1, &[])
}

/// The place of a row of the outbox that was given up.
pub(crate) fn dead_letter(index: u64, number: u32) -> RowBytes {
    key(DEAD_LETTER, &[&index.to_be_bytes(), &number.to_be_bytes()])
}

/// The range of all dead letters.
pub(crate) fn dead_letters() -> std::ops::RangeInclusive<RowBytes> {
    key(DEAD_LETTER, &[])..=key(DEAD_LETTER + 1, &[])
}

/// Index and number in a key of `OUTBOX` or `DEAD_LETTER`.
pub(crate) fn outbox_of(key: &[u8]) -> io::Result<(u64, u32)> {
    let parse = || {
        let [OUTBOX | DEAD_LETTER, rest @ ..] = key else { return None };
        let (index, number) = rest.split_first_chunk()?;
        Some((u64::from_be_bytes(*index), u32::from_be_bytes(number.try_into().ok()?)))
    };
    parse().ok_or_else(|| broken("key of the outbox"))
}

pub(crate) fn media(id: &MediaId) -> RowBytes {
    key(MEDIA, &[id.as_bytes()])
}

/// The range of all files.
pub(crate) fn all_media() -> std::ops::RangeInclusive<RowBytes> {
    key(MEDIA, &[])..=key(MEDIA + 1, &[])
}

pub(crate) fn media_of(key: &[u8]) -> io::Result<MediaId> {
    let [MEDIA, id @ ..] = key else { return Err(broken("key of a file")) };
    MediaId::from_bytes(id).ok_or_else(|| broken("key of a file"))
}

pub(crate) fn media_sum(user: &[u8]) -> RowBytes {
    key(MEDIA_SUM, &[user])
}

pub(crate) fn media_sum_of(key: &[u8]) -> io::Result<&str> {
    let [MEDIA_SUM, user @ ..] = key else { return Err(broken("key of a sum of files")) };
    str::from_utf8(user).map_err(|_| broken("user in the key of a sum of files"))
}

pub(crate) fn ended_sender(user: &[u8]) -> RowBytes {
    key(ENDED_SENDER, &[user])
}

/// The range of all ended senders.
pub(crate) fn all_ended_senders() -> std::ops::RangeInclusive<RowBytes> {
    key(ENDED_SENDER, &[])..=key(ENDED_SENDER + 1, &[])
}

pub(crate) fn ended_sender_of(key: &[u8]) -> io::Result<&[u8]> {
    let [ENDED_SENDER, user @ ..] = key else { return Err(broken("key of a sender that has ended")) };
    Ok(user)
}

pub(crate) fn erasing_sender(user: &[u8]) -> RowBytes {
    key(ERASING_SENDER, &[user])
}

/// The range of all senders that are being erased.
pub(crate) fn all_erasing_senders() -> std::ops::RangeInclusive<RowBytes> {
    key(ERASING_SENDER, &[])..=key(ERASING_SENDER, &[&[0xff]])
}

pub(crate) fn erased_sender(user: &[u8]) -> RowBytes {
    key(ERASED_SENDER, &[user])
}

/// The user in a key of `ERASING_SENDER` or `ERASED_SENDER`.
pub(crate) fn erased_sender_of(key: &[u8]) -> io::Result<&str> {
    let [ERASING_SENDER | ERASED_SENDER, user @ ..] = key else { return Err(broken("key of an erased sender")) };
    str::from_utf8(user).map_err(|_| broken("user in the key of an erased sender"))
}

pub(crate) fn garbage(number: u64) -> RowBytes {
    key(GARBAGE, &[&number.to_be_bytes()])
}

/// The range of all ended timelines.
pub(crate) fn all_garbage() -> std::ops::RangeInclusive<RowBytes> {
    key(GARBAGE, &[])..=key(GARBAGE + 1, &[])
}

pub(crate) fn garbage_of(key: &[u8]) -> io::Result<u64> {
    let [GARBAGE, number @ ..] = key else { return Err(broken("key of garbage")) };
    number_of(number)
}

fn numbered(first: u8, number: u64, rest: &[u8]) -> RowBytes {
    let bytes = number.to_be_bytes();
    let skip = (number.leading_zeros() / 8).min(7) as usize;
    key(first + (7 - skip) as u8, &[&bytes[skip..], rest])
}

pub(crate) fn cursor(number: u64, device: &str) -> RowBytes {
    key(CURSOR, &[&number.to_be_bytes(), device.as_bytes()])
}

/// The prefix of all cursors.
pub(crate) fn cursors() -> RowBytes {
    key(CURSOR, &[])
}

/// Greater than all cursors, and less than the next key, which is one byte.
pub(crate) fn after_cursors() -> RowBytes {
    key(CURSOR, &[&[0xff; 9]])
}

/// Number and device.
pub(crate) fn cursor_of(key: &[u8]) -> io::Result<(u64, &str)> {
    let [CURSOR, rest @ ..] = key else { return Err(broken("key of a cursor")) };
    let (number, device) = rest.split_first_chunk().ok_or_else(|| broken("key of a cursor"))?;
    let device = str::from_utf8(device).map_err(|_| broken("device in the key of a cursor"))?;
    Ok((u64::from_be_bytes(*number), device))
}

/// The key of a device's cursor in a group's timeline. `number` is that of the user's inbox. The device contains no
/// 0x00: it refuses control characters.
pub(crate) fn group_cursor(number: u64, device: &str, group: &TimelineKey) -> RowBytes {
    let name = [0, kind_byte(group.kind())];
    key(GROUP_CURSOR, &[&number.to_be_bytes(), device.as_bytes(), &name, &group.owner])
}

/// The range of a device's cursors in groups.
pub(crate) fn group_cursors_of(number: u64, device: &str) -> std::ops::RangeInclusive<RowBytes> {
    let bound = |end: u8| key(GROUP_CURSOR, &[&number.to_be_bytes(), device.as_bytes(), &[end]]);
    bound(0)..=bound(1)
}

/// Kind and owner of the group of a cursor of this device, as in the key of a membership.
pub(crate) fn name_of_group_cursor<'a>(key: &'a [u8], device: &str) -> Option<&'a [u8]> {
    key.get(1 + 8 + device.len() + 1..)
}

/// Number of the device's cursors in groups.
pub(crate) fn group_cursor_count(number: u64, device: &str) -> RowBytes {
    key(GROUP_CURSOR_COUNT, &[&number.to_be_bytes(), device.as_bytes()])
}

/// Number of the inbox, and device.
pub(crate) fn group_cursor_count_of(key: &[u8]) -> io::Result<(u64, &str)> {
    let parse = || {
        let [GROUP_CURSOR_COUNT, rest @ ..] = key else { return None };
        let (number, device) = rest.split_first_chunk()?;
        Some((u64::from_be_bytes(*number), str::from_utf8(device).ok()?))
    };
    parse().ok_or_else(|| broken("key of a number of cursors in groups"))
}

/// The prefix of all cursors in groups.
pub(crate) fn group_cursors() -> RowBytes {
    key(GROUP_CURSOR, &[])
}

/// The first key after all cursors in groups.
pub(crate) fn after_group_cursors() -> RowBytes {
    key(GROUP_CURSOR + 1, &[])
}

/// Number, device and group.
pub(crate) fn group_cursor_of(key: &[u8]) -> io::Result<(u64, &str, TimelineKey)> {
    let parse = || {
        let [GROUP_CURSOR, rest @ ..] = key else { return None };
        let (number, rest) = rest.split_first_chunk()?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        Some((u64::from_be_bytes(*number), str::from_utf8(&rest[..end]).ok()?, &rest[end + 1..]))
    };
    let (number, device, name) = parse().ok_or_else(|| broken("key of a cursor in a group"))?;
    Ok((number, device, named(name)?))
}

/// The value of `TIMELINE`: number, epoch, first, last; then the incarnation, which timelines of format 2 do not have, and the number of
/// counted messages of a group. Zeros at the end are left out.
pub(crate) fn timeline_value(numbers: [u64; 4], incarnation: u64, counted: u64) -> RowBytes {
    let numbers = numbers_value(numbers);
    match (incarnation, counted) {
        (0, 0) => numbers,
        (incarnation, 0) => RowBytes::fused(&numbers, &incarnation.to_be_bytes()),
        (incarnation, counted) => RowBytes::fused(&numbers, &numbers_value([incarnation, counted])),
    }
}

pub(crate) fn timeline_numbers(value: &[u8]) -> io::Result<([u64; 4], [u64; 2])> {
    match value.split_at_checked(32) {
        Some((numbers, [])) => Ok((numbers_of(numbers)?, [0, 0])),
        Some((numbers, rest)) if rest.len() == 8 => Ok((numbers_of(numbers)?, [number_of(rest)?, 0])),
        Some((numbers, rest)) => Ok((numbers_of(numbers)?, numbers_of(rest)?)),
        None => Err(broken("value of a timeline")),
    }
}

/// The value of `CURSOR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) seq: u64,
    /// By the shard's clock.
    pub(crate) moved_ms: u64,
}

impl Cursor {
    pub(crate) fn encode(self) -> RowBytes {
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

/// The value of `GROUP_CURSOR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupCursor {
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    /// By the clock of the shard that holds the cursor.
    pub(crate) moved_ms: u64,
}

impl GroupCursor {
    pub(crate) fn encode(self) -> RowBytes {
        numbers_value([self.epoch, self.seq, self.moved_ms])
    }

    pub(crate) fn decode(value: &[u8]) -> io::Result<Self> {
        let [epoch, seq, moved_ms] = numbers_of(value)?;
        Ok(Self { epoch, seq, moved_ms })
    }
}
