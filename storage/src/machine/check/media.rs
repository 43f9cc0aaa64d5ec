//! Checks of commands about files.

use bytes::Bytes;
use carillon_proto::{
    MediaId, ShardId, ShardMap,
    limits::MEDIA_AT_ONCE,
    pb::store::{
        CheckMedia, CollectMedia, CompleteMedia, CreateMedia, ForgetReleasedMedia, NoteReleasedMedia, Rejected,
        RemoveMedia, timeline_key::Kind,
    },
};

use super::{check_any_user, check_timeline_key, invalid};
use crate::machine::media_reader::REMOVED_MEDIA;

/// Largest file, which others could not be sent anyway.
const MAX_BYTES: u64 = 1 << 40;
/// Of a name, and of a type.
const MAX_TEXT_BYTES: usize = 256;
const SHA256_BYTES: usize = 32;

pub(super) fn check_created(shard: ShardId, map: ShardMap, op: &CreateMedia) -> Result<(), Rejected> {
    if check_timeline_key(shard, map, op.timeline.as_ref())? != Kind::Inbox {
        return Err(invalid("a file is a user's"));
    }
    check_id(shard, map, &op.id)?;
    if !(1..=MAX_BYTES).contains(&op.size_bytes) {
        return Err(invalid(format!("file of {} bytes, not 1 to {MAX_BYTES}", op.size_bytes)));
    }
    check_text("type", &op.media_type)?;
    check_text("name", &op.name)
}

pub(super) fn check_completed(shard: ShardId, map: ShardMap, op: &CompleteMedia) -> Result<(), Rejected> {
    check_id(shard, map, &op.id)?;
    check_any_user(&op.owner.as_ref().ok_or_else(|| invalid("owner is missing"))?.user)?;
    match (op.sha256.len(), op.size_bytes) {
        (0, 0) | (SHA256_BYTES, 1..=MAX_BYTES) => {}
        (hash, size) => {
            return Err(invalid(format!(
                "other bytes of a file: a hash of {hash} bytes, not {SHA256_BYTES}, of {size} bytes"
            )));
        }
    }
    check_text("type", &op.media_type)
}

pub(super) fn check_removed(op: &RemoveMedia) -> Result<(), Rejected> {
    match op.files.len() {
        1..=REMOVED_MEDIA => Ok(()),
        count => Err(invalid(format!("{count} files are to be removed, not 1 to {REMOVED_MEDIA}"))),
    }
}

pub(super) fn check_forgotten(op: &ForgetReleasedMedia) -> Result<(), Rejected> {
    check_count(op.files.len())?;
    op.files.iter().try_for_each(|seen| match MediaId::from_bytes(&seen.id) {
        Some(_) => Ok(()),
        None => Err(invalid("the file has no id")),
    })
}

pub(super) fn check_released(shard: ShardId, map: ShardMap, op: &NoteReleasedMedia) -> Result<(), Rejected> {
    check_ids(shard, map, &op.ids)
}

pub(super) fn check_looked_for(shard: ShardId, map: ShardMap, op: &CheckMedia) -> Result<(), Rejected> {
    check_ids(shard, map, &op.ids)
}

pub(super) fn check_collected(shard: ShardId, map: ShardMap, op: &CollectMedia) -> Result<(), Rejected> {
    if op.check == 0 {
        return Err(invalid("the check of files is not named"));
    }
    check_count(op.held.len() + op.unheld.len())?;
    op.held.iter().chain(&op.unheld).try_for_each(|id| check_id(shard, map, id))
}

fn check_ids(shard: ShardId, map: ShardMap, ids: &[Bytes]) -> Result<(), Rejected> {
    check_count(ids.len())?;
    ids.iter().try_for_each(|id| check_id(shard, map, id))
}

fn check_count(files: usize) -> Result<(), Rejected> {
    match files {
        1..=MEDIA_AT_ONCE => Ok(()),
        files => Err(invalid(format!("{files} files, not 1 to {MEDIA_AT_ONCE}"))),
    }
}

fn check_id(shard: ShardId, map: ShardMap, id: &[u8]) -> Result<(), Rejected> {
    match MediaId::from_bytes(id).and_then(|id| id.shard(map)) {
        Some(named) if named == shard => Ok(()),
        Some(_) => Err(invalid("the file is in another shard")),
        None => Err(invalid("the file has no id")),
    }
}

fn check_text(what: &str, text: &str) -> Result<(), Rejected> {
    if text.len() > MAX_TEXT_BYTES || text.chars().any(char::is_control) {
        return Err(invalid(format!(
            "{what} of a file must be at most {MAX_TEXT_BYTES} bytes without control characters"
        )));
    }
    Ok(())
}
