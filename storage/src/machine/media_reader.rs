//! Reads of files, and the search for those that are to be removed.

use std::io;

use bytes::Bytes;
use carillon_proto::{
    MediaId,
    pb::store::{MediaRead, MediaRow, Person, ReadMedia, media_row::State, rejected::Reason, remove_media::Seen},
};
use prost::Message as _;

use super::{
    TimelineReader, Unread, broken,
    groups::refused,
    keys,
    retention::{LOOKED_AT, Retention, clock},
};
use crate::engine::fjall::TimelineView;

/// Most files that one command removes.
pub(crate) const REMOVED_MEDIA: usize = 256;
/// How long a file may be without all of its bytes: longer than the URL for them counts.
const PENDING_KEPT_MS: u64 = 24 * 3_600_000;

/// Files, each with its row.
type FilesFound = Vec<(MediaId, MediaRow)>;

impl TimelineReader {
    pub(crate) fn media(&self, op: &ReadMedia) -> Result<MediaRead, Unread> {
        let id = MediaId::from_bytes(&op.id).ok_or_else(|| broken("file of a read"))?;
        match self.shard.view().get(&keys::media(&id))? {
            Some(row) => Ok(MediaRead { row: Some(decode(&row)?) }),
            None => Err(refused(Reason::NotFound, "there is no such file").into()),
        }
    }

    /// Files of this user after the key `after`, and the key to continue after; empty at the end. One call looks at so many rows, whoever's they are.
    pub(crate) fn files_of(&self, owner: &Person, after: &[u8]) -> io::Result<(FilesFound, Vec<u8>)> {
        let view = self.shard.view();
        let (begin, end) = keys::all_media().into_inner();
        let begin = if after.is_empty() { begin } else { keys::after(after) };
        let mut files = Vec::new();
        // The key to go on behind comes from outside.
        let range = (begin <= end).then(|| view.range(begin..=end));
        for (looked_at, found) in (1..).zip(range.into_iter().flatten()) {
            let (key, value) = found?;
            let row = decode(&value)?;
            if row.owner.as_ref() == Some(owner) {
                files.push((keys::media_of(&key)?, row));
            }
            if looked_at >= LOOKED_AT {
                return Ok((files, key.to_vec()));
            }
        }
        Ok((files, Vec::new()))
    }

    /// Up to `limit` files that are to be removed, after the key `after`, and the key to continue after; empty at the end.
    pub(crate) fn due_media(
        &self,
        after: &[u8],
        retention: &Retention,
        limit: usize,
    ) -> io::Result<(Vec<Seen>, Vec<u8>)> {
        let view = self.shard.view();
        let clock_ms = clock(&view)?;
        let (begin, end) = keys::all_media().into_inner();
        let begin = if after.is_empty() { begin } else { keys::after(after) };
        let mut due = Vec::new();
        for (looked_at, found) in (1..).zip(view.range(begin..=end)) {
            let (key, value) = found?;
            let row = decode(&value)?;
            let too_old = row.state() == State::Pending && retention.age_ms(clock_ms, row.changed_ms) > PENDING_KEPT_MS;
            if too_old || is_erased(&view, &row)? {
                let id = Bytes::copy_from_slice(keys::media_of(&key)?.as_bytes());
                due.push(Seen { id, state: row.state, changed_ms: row.changed_ms });
            }
            if due.len() >= limit || looked_at >= LOOKED_AT {
                return Ok((due, key.to_vec()));
            }
        }
        Ok((due, Vec::new()))
    }
}

/// True if what the session has said that has made the file is erased.
fn is_erased(view: &TimelineView<'_>, row: &MediaRow) -> io::Result<bool> {
    let Some(Person { user, .. }) = &row.owner else { return Ok(false) };
    for key in [keys::erasing_sender(user.as_bytes()), keys::erased_sender(user.as_bytes())] {
        if let Some(generation) = view.get(&key)?
            && row.sender_generation < keys::number_of(&generation)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn decode(value: &[u8]) -> io::Result<MediaRow> {
    MediaRow::decode(value).map_err(|_| broken("row of a file"))
}
