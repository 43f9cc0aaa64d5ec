//! Checks of commands about scheduled messages.

use carillon_proto::{
    ClientId, ShardId, ShardMap,
    limits::{EXPIRES_AFTER_MS, MAX_FRAME_BYTES},
    pb::store::{
        ChangeScheduled, Header, Rejected, ReleaseScheduled, Schedule, SetScheduled, SettleScheduled, TimelineKey,
        change_scheduled::Change, header, timeline_key::Kind,
    },
};

use super::{check_any_timeline, check_device, check_timeline_key, headers, invalid};

/// Of the reason that is kept.
const MAX_WHY_BYTES: usize = 512;

pub(super) fn check_scheduled(shard: ShardId, map: ShardMap, op: &Schedule) -> Result<(), Rejected> {
    check_inbox(shard, map, op.timeline.as_ref())?;
    check_any_timeline(op.to.as_ref())?;
    check_device(&op.device)?;
    ClientId::check(&op.client_id).map_err(invalid)?;
    check_content(&op.content)?;
    check_header(op.header.as_deref())?;
    check_time(op.at_ms)?;
    if op.expires_after_ms != 0 && !EXPIRES_AFTER_MS.contains(&op.expires_after_ms) {
        return Err(invalid(format!("message expires after {} ms, not {EXPIRES_AFTER_MS:?}", op.expires_after_ms)));
    }
    if op.duplicate_key.len() != 16 {
        return Err(invalid(format!("duplicate key has {} bytes, not 16", op.duplicate_key.len())));
    }
    if op.new_epoch == 0 { Err(invalid("new epoch is 0")) } else { Ok(()) }
}

pub(super) fn check_change(shard: ShardId, map: ShardMap, op: &ChangeScheduled) -> Result<(), Rejected> {
    check_inbox(shard, map, op.timeline.as_ref())?;
    match op.change.as_ref().ok_or_else(|| invalid("nothing is to be changed"))? {
        Change::Set(SetScheduled { content: None, at_ms: None, .. }) => Err(invalid("nothing is to be set")),
        Change::Set(SetScheduled { content: None, header: Some(_), .. }) => Err(invalid("a header without content")),
        Change::Set(SetScheduled { content, at_ms, header }) => {
            check_header(header.as_deref())?;
            content.as_ref().map_or(Ok(()), |content| check_content(content))?;
            at_ms.map_or(Ok(()), check_time)
        }
        Change::Cancel(_) => Ok(()),
        Change::Now(now) => check_time(now.time_ms),
    }
}

pub(super) fn check_released(op: &ReleaseScheduled) -> Result<(), Rejected> {
    check_time(op.time_ms)
}

pub(super) fn check_settled(op: &SettleScheduled) -> Result<(), Rejected> {
    match op.failed.len() {
        0..=MAX_WHY_BYTES => Ok(()),
        bytes => Err(invalid(format!("reason has {bytes} bytes, not up to {MAX_WHY_BYTES}"))),
    }
}

fn check_inbox(shard: ShardId, map: ShardMap, timeline: Option<&TimelineKey>) -> Result<(), Rejected> {
    match check_timeline_key(shard, map, timeline)? {
        Kind::Inbox => Ok(()),
        Kind::Group | Kind::Unspecified => Err(invalid("scheduled messages stand in the inbox of their user")),
    }
}

fn check_content(content: &[u8]) -> Result<(), Rejected> {
    match content.len() {
        1..=MAX_FRAME_BYTES => Ok(()),
        bytes => Err(invalid(format!("content has {bytes} bytes, not 1 to {MAX_FRAME_BYTES}"))),
    }
}

/// A message that is sent later says something itself.
fn check_header(header: Option<&Header>) -> Result<(), Rejected> {
    match header {
        Some(header) if header.kind != header::Kind::Message as i32 => {
            Err(invalid("what is about another message is not sent later"))
        }
        Some(header) if header.expires_at_ms != 0 => Err(invalid("it is not known yet when the message expires")),
        Some(header) => headers::check(Kind::Inbox, header, &[]),
        None => Ok(()),
    }
}

fn check_time(time_ms: u64) -> Result<(), Rejected> {
    if time_ms == 0 { Err(invalid("the message has no time")) } else { Ok(()) }
}
