//! Reads of files, and the search for those that are to be removed.

use std::io;

use bytes::Bytes;
use carillon_proto::{
    MediaId,
    pb::store::{
        HeldMediaRead, MediaHold, MediaRead, MediaRow, Person, ReadHeldMedia, ReadMedia, forget_released_media,
        media_row::State, rejected::Reason, remove_media::Seen,
    },
};
use prost::Message as _;

use super::{
    TimelineReader, Unread, broken, erasure,
    groups::refused,
    keys,
    retention::{LOOKED_AT, Retention, clock},
    timeline::media_holds::may_check,
};
use crate::engine::fjall::TimelineView;

/// Most files that one command removes.
pub(crate) const REMOVED_MEDIA: usize = 256;
/// How long a file may be without all of its bytes: longer than the URL for them counts.
const PENDING_KEPT_MS: u64 = 24 * 3_600_000;
/// After so long a file that was held is looked at once more: a cluster that was restored may not have heard that it was released.
const HELD_MS: u64 = 90 * 24 * 3_600_000;
/// Files that are due wait for others for this part of the time that they were kept for, so that many are asked for at once.
const GATHERED_PART: u64 = 64;

/// A file of a user.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FoundFile {
    pub(crate) id: MediaId,
    pub(crate) row: MediaRow,
    /// Something in this shard refers to it.
    pub(crate) held: bool,
}

/// A file with which something is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum DueMedia {
    /// The file is to be removed.
    Removed(Seen),
    /// The file may be held by nobody.
    Checked(Bytes),
}

impl TimelineReader {
    pub(crate) fn media(&self, op: &ReadMedia) -> Result<MediaRead, Unread> {
        let id = MediaId::from_bytes(&op.id).ok_or_else(|| broken("file of a read"))?;
        match self.shard.view().get(&keys::media(&id))? {
            Some(row) => Ok(MediaRead { row: Some(decode(&row)?) }),
            None => Err(refused(Reason::NotFound, "there is no such file").into()),
        }
    }

    /// Files of this user after the key `after`, and the key to continue after; empty at the end. One call looks at so many rows, whoever's they are.
    pub(crate) fn files_of(&self, owner: &Person, after: &[u8]) -> io::Result<(Vec<FoundFile>, Vec<u8>)> {
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
                let id = keys::media_of(&key)?;
                let hold = view.get(&keys::media_hold(&id))?.map(|hold| decode_hold(&hold)).transpose()?;
                files.push(FoundFile { id, row, held: hold.is_some_and(|hold| hold.count > 0) });
            }
            if looked_at >= LOOKED_AT {
                return Ok((files, key.to_vec()));
            }
        }
        Ok((files, Vec::new()))
    }

    /// Those of these files that something in the shard refers to, or did until not long ago.
    pub(crate) fn held_media(&self, op: &ReadHeldMedia) -> Result<HeldMediaRead, Unread> {
        let view = self.shard.view();
        let mut held = Vec::new();
        for id in &op.ids {
            let file = MediaId::from_bytes(id).ok_or_else(|| broken("file of a read"))?;
            if view.get(&keys::media_hold(&file))?.is_some() {
                held.push(id.clone());
            }
        }
        Ok(HeldMediaRead { ids: held })
    }

    /// The number of references to the file in this shard.
    pub(crate) fn media_references(&self, id: &MediaId) -> io::Result<u64> {
        let hold = self.shard.view().get(&keys::media_hold(id))?;
        hold.map_or(Ok(0), |hold| Ok(decode_hold(&hold)?.count))
    }

    /// The first files to which nothing in the shard has referred for long, if there are many, or one has waited for others.
    pub(crate) fn released_media(
        &self,
        retention: &Retention,
        limit: usize,
    ) -> io::Result<Vec<forget_released_media::Seen>> {
        if retention.unreferenced_media_ms == 0 {
            return Ok(Vec::new());
        }
        let view = self.shard.view();
        let clock_ms = clock(&view)?;
        let (mut due, mut waits) = (Vec::new(), true);
        for row in view.range(keys::all_released_media()).take(limit) {
            let (released_ms, id) = keys::media_released_of(&row?.0)?;
            let age_ms = retention.age_ms(clock_ms, released_ms);
            if age_ms <= retention.unreferenced_media_ms {
                break;
            }
            waits &= age_ms <= gathered_ms(retention.unreferenced_media_ms);
            due.push(forget_released_media::Seen { id: Bytes::copy_from_slice(id.as_bytes()), released_ms });
        }
        Ok(if waits && due.len() < limit { Vec::new() } else { due })
    }

    /// Up to `limit` files with which something is to be done, after the key `after`, and the key to continue after; empty at the end.
    pub(crate) fn due_media(
        &self,
        after: &[u8],
        retention: &Retention,
        limit: usize,
    ) -> io::Result<(Vec<DueMedia>, Vec<u8>)> {
        let view = self.shard.view();
        let clock_ms = clock(&view)?;
        let (begin, end) = keys::all_media().into_inner();
        let begin = if after.is_empty() { begin } else { keys::after(after) };
        let (mut due, mut unchecked) = (Vec::new(), Unchecked::default());
        let mut next = Vec::new();
        for (looked_at, found) in (1..).zip(view.range(begin..=end)) {
            let (key, value) = found?;
            let row = decode(&value)?;
            let too_old = row.state() == State::Pending && retention.age_ms(clock_ms, row.changed_ms) > PENDING_KEPT_MS;
            let id = || Ok::<_, io::Error>(Bytes::copy_from_slice(keys::media_of(&key)?.as_bytes()));
            if too_old || is_erased(&view, &row)? {
                due.push(DueMedia::Removed(Seen { id: id()?, state: row.state, changed_ms: row.changed_ms }));
            } else if unchecked.is_due(&row, clock_ms, retention) {
                unchecked.ids.push(id()?);
            }
            if due.len() + unchecked.ids.len() >= limit || looked_at >= LOOKED_AT {
                next = key.to_vec();
                break;
            }
        }
        if !unchecked.waits || due.len() + unchecked.ids.len() >= limit {
            due.extend(unchecked.ids.into_iter().map(DueMedia::Checked));
        }
        Ok((due, next))
    }
}

/// Files that may be held by nobody.
struct Unchecked {
    ids: Vec<Bytes>,
    /// None of them has waited for others.
    waits: bool,
}

impl Default for Unchecked {
    fn default() -> Self {
        Self { ids: Vec::new(), waits: true }
    }
}

impl Unchecked {
    /// Whether somebody has to find out if the file is held.
    fn is_due(&mut self, row: &MediaRow, clock_ms: u64, retention: &Retention) -> bool {
        let kept_ms = retention.unreferenced_media_ms;
        if kept_ms == 0 || row.state() != State::Complete || !may_check(row, clock_ms) {
            return false;
        }
        let age_ms = |since_ms| retention.age_ms(clock_ms, since_ms);
        // The user who has uploaded the file has time to send it.
        let is_young = age_ms(row.changed_ms) <= kept_ms;
        let (since_ms, waits_ms) = match (row.released_ms, row.held_ms) {
            _ if is_young => return false,
            _ if row.check != 0 => (row.check_ms, 0),
            (0, 0) => (row.changed_ms, gathered_ms(kept_ms)),
            (0, held_ms) if age_ms(held_ms) > HELD_MS => (held_ms, gathered_ms(HELD_MS)),
            (0, _) => return false,
            (released_ms, _) => (released_ms, gathered_ms(kept_ms) - kept_ms),
        };
        self.waits &= age_ms(since_ms) <= waits_ms;
        true
    }
}

/// The age from which on what is due after this time waits for nothing else.
fn gathered_ms(kept_ms: u64) -> u64 {
    kept_ms.saturating_add(kept_ms / GATHERED_PART)
}

/// True if everything that the session has said that has made the file is erased.
fn is_erased(view: &TimelineView<'_>, row: &MediaRow) -> io::Result<bool> {
    let Some(Person { user, .. }) = &row.owner else { return Ok(false) };
    let number = |key: &[u8]| view.get(key)?.map(|value| keys::number_of(&value)).transpose();
    erasure::is_erased(user, row.sender_generation, number)
}

fn decode(value: &[u8]) -> io::Result<MediaRow> {
    MediaRow::decode(value).map_err(|_| broken("row of a file"))
}

fn decode_hold(value: &[u8]) -> io::Result<MediaHold> {
    MediaHold::decode(value).map_err(|_| broken("hold on a file"))
}
