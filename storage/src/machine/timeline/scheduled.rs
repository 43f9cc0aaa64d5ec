//! Messages that are to be sent later. See docs/adr/0033-scheduled.md.

use std::{collections::BTreeMap, io};

use bytes::Bytes;
use carillon_proto::pb::store::{
    ChangeScheduled, OutboxRow, Person, ReleaseScheduled, Schedule, ScheduledChanged, ScheduledList, ScheduledRow,
    SendScheduled, SetScheduled, SettleScheduled, TimelineKey, change_scheduled::Change, outbox_row::Task,
    rejected::Reason, scheduled_list::Gone, scheduled_row::State, timeline_key::Kind,
};
use prost::Message as _;

use super::{Batch, Outcome, done, rejected, timeline_key};
use crate::machine::{
    broken,
    keys::{self, RowBytes},
    scheduled_reader::{decode, decode_list},
};

// Replicas with different numbers would diverge: a change needs a new level.

/// Most scheduled messages of a user, and the most bytes of their contents.
pub(in crate::machine) const MESSAGES: u32 = 100;
pub(in crate::machine) const CONTENT_BYTES: u64 = 512 * 1024;
/// Most messages that one command releases.
pub(in crate::machine) const RELEASED: usize = 256;
/// Messages that were sent or cancelled and are remembered, so that a late repeat of their scheduling does not make them again.
pub(in crate::machine) const GONE: usize = 64;

impl Batch<'_> {
    pub(super) fn schedule(&mut self, op: &Schedule) -> io::Result<Outcome> {
        let user = op.timeline.as_ref().and_then(|inbox| inbox.owner_str().ok()).ok_or_else(|| broken("inbox"))?;
        if self.senders.has_ended(user.as_bytes(), op.sender_generation) {
            return Ok(rejected(Reason::SenderGone, "the session that has scheduled it is over"));
        }
        let inbox = match self.own_inbox(op.timeline.as_ref(), op.incarnation)? {
            Ok(Some(inbox)) => inbox,
            Ok(None) => self.first_inbox(op.timeline.as_ref(), op.incarnation, op.new_epoch)?,
            Err(refused) => return Ok(refused),
        };
        let mut list = self.scheduled_list(inbox.number)?;
        if let Some(repeat) = self.scheduled_before(inbox.number, &list, op)? {
            return Ok(repeat);
        }
        if let Some(full) = too_many(&list, 1, op.content.len(), 0) {
            return Ok(full);
        }
        let row = ScheduledRow {
            sender: Some(Person { user: user.to_owned(), incarnation: op.incarnation }),
            duplicate_key: op.duplicate_key.clone(),
            device: op.device.clone(),
            client_id: op.client_id.clone(),
            to: op.to.clone(),
            content: op.content.clone(),
            header: op.header.clone(),
            at_ms: op.at_ms,
            expires_after_ms: op.expires_after_ms,
            to_incarnation: op.to_incarnation,
            state: State::Waiting.into(),
            ..ScheduledRow::default()
        };
        list.version += 1;
        list.messages += 1;
        list.bytes += row.content.len() as u64;
        let id = list.version;
        self.hold_media_of(row.header.as_deref())?;
        self.put_scheduled(inbox.number, id, &row);
        Ok(self.scheduled_changed(inbox.number, id, &list))
    }

    pub(super) fn change_scheduled(&mut self, op: &ChangeScheduled) -> io::Result<Outcome> {
        let inbox = match self.own_inbox(op.timeline.as_ref(), op.incarnation)? {
            Ok(Some(inbox)) => inbox,
            Ok(None) => return Ok(not_there()),
            Err(refused) => return Ok(refused),
        };
        let (number, id) = (inbox.number, op.id);
        let row = match self.scheduled(number, id)? {
            Some(row) if row.state() == State::Sending => {
                return Ok(rejected(Reason::NotFound, "the scheduled message is being sent"));
            }
            Some(row) => row,
            None => return Ok(not_there()),
        };
        let mut list = self.scheduled_list(number)?;
        match op.change.as_ref().ok_or_else(|| broken("change of a scheduled message"))? {
            Change::Set(set) => {
                let after = set_in(&row, set);
                if after == row {
                    return Ok(unchanged(&list, id));
                }
                if let Some(full) = too_many(&list, 0, after.content.len(), row.content.len()) {
                    return Ok(full);
                }
                list.bytes = list.bytes + after.content.len() as u64 - row.content.len() as u64;
                self.hold_media_of(after.header.as_deref())?;
                self.release_media_of(row.header.as_deref())?;
                self.drop_due(number, id, &row);
                self.put_scheduled(number, id, &after);
            }
            Change::Cancel(_) => self.drop_scheduled(number, id, &row, &mut list)?,
            Change::Now(now) => {
                if !self.outbox.has_room() {
                    return Ok(rejected(Reason::Full, "too much waits to be sent"));
                }
                self.release(number, id, row, now.time_ms)?;
            }
        }
        list.version += 1;
        Ok(self.scheduled_changed(number, id, &list))
    }

    pub(super) fn release_scheduled(&mut self, op: &ReleaseScheduled) -> io::Result<Outcome> {
        for (number, id) in self.due(op.time_ms)? {
            // The worker asks again.
            if !self.outbox.has_room() {
                break;
            }
            let row = self.scheduled(number, id)?.ok_or_else(|| broken("time without its scheduled message"))?;
            if !self.is_of_an_inbox(number, &row)? {
                // The message goes with the remains of its inbox.
                self.drop_due(number, id, &row);
                continue;
            }
            self.release(number, id, row, op.time_ms)?;
            let mut list = self.scheduled_list(number)?;
            list.version += 1;
            self.scheduled_changed(number, id, &list);
        }
        Ok(done())
    }

    /// The first messages whose time has come: the numbers of their inboxes, and their ids.
    fn due(&self, time_ms: u64) -> io::Result<Vec<(u64, u64)>> {
        let (begin, end) = (keys::all_due().into_inner().0, keys::due(time_ms, u64::MAX, u64::MAX));
        // Some may have come or gone in this batch: other replicas may batch the entries differently.
        let pending = self.changes.with_prefix(&begin).filter(|(key, value)| value.is_some() && **key <= *end);
        let mut found: Vec<RowBytes> = pending.map(|(key, _)| key.into()).collect();
        let mut stored = 0;
        for row in self.shard.view().range(begin..=end) {
            let (key, _) = row?;
            if self.changes.get(&key).is_none() {
                found.push(RowBytes::new(&key));
                stored += 1;
            }
            if stored == RELEASED {
                break;
            }
        }
        found.sort_unstable();
        found.iter().take(RELEASED).map(|key| keys::due_of(key).map(|(_, number, id)| (number, id))).collect()
    }

    pub(super) fn settle_scheduled(&mut self, op: &SettleScheduled) -> io::Result<Outcome> {
        let (number, id) = (op.number, op.id);
        let mut list = self.scheduled_list(number)?;
        let Some(row) = self.scheduled(number, id)?.filter(|row| row.state() == State::Sending) else {
            return Ok(unchanged(&list, id));
        };
        let failed = !op.failed.is_empty() && !self.is_in_own_inbox(number, &row)?;
        if failed {
            let (state, why) = (State::Failed.into(), op.failed.clone());
            self.put_scheduled(number, id, &ScheduledRow { state, why, ..row });
        } else {
            self.drop_scheduled(number, id, &row, &mut list)?;
        }
        list.version += 1;
        self.changes.put(keys::scheduled_list(number), list.encode_to_vec());
        Ok(Outcome::ScheduledChanged(ScheduledChanged { version: list.version, id, changed: true, failed }))
    }

    /// True if an earlier attempt has sent the message.
    fn is_in_own_inbox(&self, number: u64, row: &ScheduledRow) -> io::Result<bool> {
        let key = (&*row.duplicate_key).try_into().map_err(|_| broken("duplicate key of a scheduled message"))?;
        Ok(self.get(&keys::duplicate(number, &key), |_| Ok(()))?.is_some())
    }

    /// From now on it is being sent.
    fn release(&mut self, number: u64, id: u64, row: ScheduledRow, time_ms: u64) -> io::Result<()> {
        self.drop_due(number, id, &row);
        let send = SendScheduled { sender: row.sender.clone(), number, id };
        let why = String::new();
        self.put_scheduled(number, id, &ScheduledRow { state: State::Sending.into(), time_ms, why, ..row });
        self.put_outbox(&OutboxRow { time_ms, task: Some(Task::SendScheduled(send)), ..OutboxRow::default() })
    }

    /// The answer to a repeat, if there is or was a message with this key.
    fn scheduled_before(&self, number: u64, list: &ScheduledList, op: &Schedule) -> io::Result<Option<Outcome>> {
        if let Some(gone) = list.gone.iter().find(|gone| gone.duplicate_key == op.duplicate_key) {
            return Ok(Some(unchanged(list, gone.id)));
        }
        let mut rows = BTreeMap::new();
        for row in self.shard.view().range(keys::scheduled_after(number, 0)) {
            let (key, value) = row?;
            rows.insert(RowBytes::new(&key), Some(decode(&value)?));
        }
        for (key, value) in self.changes.with_prefix(&keys::scheduled_list(number)) {
            if keys::scheduled_of(key)?.1.is_some() {
                rows.insert(key.into(), value.map(decode).transpose()?);
            }
        }
        let is_known =
            |row: &Option<ScheduledRow>| row.as_ref().is_some_and(|row| row.duplicate_key == op.duplicate_key);
        let Some((key, Some(row))) = rows.iter().find(|(_, row)| is_known(row)) else { return Ok(None) };
        if row.to != op.to {
            return Ok(Some(rejected(Reason::Exists, "the client id is that of another scheduled message")));
        }
        let id = keys::scheduled_of(key)?.1.ok_or_else(|| broken("key of a scheduled message"))?;
        Ok(Some(unchanged(list, id)))
    }

    /// True as long as the inbox with this number is the one of its user.
    fn is_of_an_inbox(&mut self, number: u64, row: &ScheduledRow) -> io::Result<bool> {
        let user = &row.sender.as_ref().ok_or_else(|| broken("scheduled message of nobody"))?.user;
        let inbox = TimelineKey { kind: Kind::Inbox.into(), owner: Bytes::copy_from_slice(user.as_bytes()) };
        Ok(self.held(&timeline_key(Some(&inbox))?)?.is_some_and(|held| held.state.number == number))
    }

    /// Removes what else there is of a scheduled message, when the row with this key goes with the remains of its inbox.
    pub(super) fn forget_scheduled(&mut self, key: &[u8]) -> io::Result<()> {
        if keys::is_scheduled(key)
            && let (number, Some(id)) = keys::scheduled_of(key)?
            && let Some(row) = self.scheduled(number, id)?
        {
            self.drop_due(number, id, &row);
            self.release_media_of(row.header.as_deref())?;
        }
        Ok(())
    }

    fn drop_scheduled(&mut self, number: u64, id: u64, row: &ScheduledRow, list: &mut ScheduledList) -> io::Result<()> {
        self.release_media_of(row.header.as_deref())?;
        self.drop_due(number, id, row);
        self.changes.delete(keys::scheduled(number, id));
        list.messages = list.messages.saturating_sub(1);
        list.bytes = list.bytes.saturating_sub(row.content.len() as u64);
        if list.gone.len() >= GONE {
            list.gone.remove(0);
        }
        list.gone.push(Gone { duplicate_key: row.duplicate_key.clone(), id });
        Ok(())
    }

    fn put_scheduled(&mut self, number: u64, id: u64, row: &ScheduledRow) {
        self.changes.put(keys::scheduled(number, id), row.encode_to_vec());
        if row.state() == State::Waiting {
            self.changes.put(keys::due(row.at_ms, number, id), RowBytes::default());
        }
    }

    fn drop_due(&mut self, number: u64, id: u64, row: &ScheduledRow) {
        if row.state() == State::Waiting {
            self.changes.delete(keys::due(row.at_ms, number, id));
        }
    }

    fn scheduled(&self, number: u64, id: u64) -> io::Result<Option<ScheduledRow>> {
        self.get(&keys::scheduled(number, id), decode)
    }

    fn scheduled_list(&self, number: u64) -> io::Result<ScheduledList> {
        Ok(self.get(&keys::scheduled_list(number), decode_list)?.unwrap_or_default())
    }

    fn scheduled_changed(&mut self, number: u64, id: u64, list: &ScheduledList) -> Outcome {
        self.changes.put(keys::scheduled_list(number), list.encode_to_vec());
        Outcome::ScheduledChanged(ScheduledChanged { version: list.version, id, changed: true, failed: false })
    }
}

fn set_in(row: &ScheduledRow, set: &SetScheduled) -> ScheduledRow {
    let mut after = row.clone();
    if let Some(content) = &set.content {
        (after.content, after.header) = (content.clone(), set.header.clone());
    }
    if let Some(at_ms) = set.at_ms {
        after.at_ms = at_ms;
        after.state = State::Waiting.into();
        after.why.clear();
    }
    after
}

/// The refusal of this much more.
fn too_many(list: &ScheduledList, more: u32, bytes: usize, instead_of: usize) -> Option<Outcome> {
    let has = list.bytes.saturating_sub(instead_of as u64);
    if list.messages + more <= MESSAGES && has + bytes as u64 <= CONTENT_BYTES {
        return None;
    }
    let why = format!(
        "the user has {} scheduled messages of {} bytes, and may have {MESSAGES} of {CONTENT_BYTES}",
        list.messages, list.bytes
    );
    Some(rejected(Reason::Full, &why))
}

fn unchanged(list: &ScheduledList, id: u64) -> Outcome {
    Outcome::ScheduledChanged(ScheduledChanged { version: list.version, id, changed: false, failed: false })
}

fn not_there() -> Outcome {
    rejected(Reason::NotFound, "there is no such scheduled message: it was sent or cancelled")
}
