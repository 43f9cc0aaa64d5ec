//! Reads of scheduled messages.

use std::io;

use carillon_proto::{
    limits::BATCH_BYTES,
    pb::store::{
        ReadScheduled, ScheduledList, ScheduledRead, ScheduledRow, SendScheduled, TimelineKey, scheduled_read::Row,
        timeline_key::Kind,
    },
};
use prost::Message as _;

use super::{TimelineReader, Unread, broken, keys, timeline::TimelineState, timeline_reader::load};
use crate::engine::fjall::TimelineView;

impl TimelineReader {
    pub(crate) fn scheduled(&self, op: &ReadScheduled) -> Result<ScheduledRead, Unread> {
        let view = self.shard.view();
        let mut read = ScheduledRead { complete: true, ..ScheduledRead::default() };
        let Some(inbox) = load(&view, op.timeline.as_ref(), op.incarnation)? else { return Ok(read) };
        if let Some(list) = view.get(&keys::scheduled_list(inbox.number))? {
            read.version = decode_list(&list)?.version;
        }
        let mut bytes = 0;
        for row in view.range(keys::scheduled_after(inbox.number, op.after)) {
            let (key, value) = row?;
            bytes += value.len();
            if bytes > BATCH_BYTES && !read.messages.is_empty() {
                read.complete = false;
                break;
            }
            let (_, id) = keys::scheduled_of(&key)?;
            let row = Some(decode(&value)?);
            read.messages.push(Row { id: id.ok_or_else(|| broken("key of a scheduled message"))?, row });
        }
        Ok(read)
    }
}

/// When the first message of the shard that waits is to be sent.
pub(super) fn next_due(view: &TimelineView<'_>) -> io::Result<Option<u64>> {
    view.range(keys::all_due()).next().map(|row| keys::due_of(&row?.0).map(|(at_ms, ..)| at_ms)).transpose()
}

/// The message that is to be sent, if its inbox is still the one of its user.
pub(super) fn to_be_sent(view: &TimelineView<'_>, send: &SendScheduled) -> io::Result<Option<ScheduledRow>> {
    let Some(sender) = &send.sender else { return Ok(None) };
    let inbox = TimelineKey { kind: Kind::Inbox.into(), owner: sender.user.clone().into() };
    let state = TimelineState::load(view, &keys::timeline(&inbox))?;
    if state.is_none_or(|state| state.number != send.number) {
        return Ok(None);
    }
    view.get(&keys::scheduled(send.number, send.id))?.map(|row| decode(&row)).transpose()
}

pub(super) fn decode(value: &[u8]) -> io::Result<ScheduledRow> {
    ScheduledRow::decode(value).map_err(|_| broken("row of a scheduled message"))
}

pub(super) fn decode_list(value: &[u8]) -> io::Result<ScheduledList> {
    ScheduledList::decode(value).map_err(|_| broken("row of scheduled messages"))
}
