//! Reads of the outbox, for workers.

use std::{collections::BTreeMap, io};

use carillon_proto::{
    limits::MAX_NODE_MESSAGE_BYTES,
    pb::store::{OutboxRead, OutboxRow, ReadOutbox, TellMembers, outbox_read, outbox_row::Task},
};
use prost::Message as _;

use super::{
    TimelineReader, Unread, broken,
    keys::{self, Stored},
    report_reader::waiting_reports,
    scheduled_reader::{next_due, to_be_sent},
};
use crate::engine::fjall::TimelineView;

/// Most rows that one read returns, whatever it asks for.
pub(crate) const OUTBOX_ROWS: usize = 256;
/// Most bytes of rows and envelopes after which a read ends, so that the answer fits in a message between nodes.
const MAX_BYTES: usize = MAX_NODE_MESSAGE_BYTES / 4;

impl TimelineReader {
    pub(crate) fn outbox(&self, op: &ReadOutbox) -> Result<OutboxRead, Unread> {
        let view = self.shard.view();
        let (begin, end) = if op.dead { keys::dead_letters() } else { keys::outbox_rows() }.into_inner();
        let is_first = (op.after_index, op.after_number) == (0, 0);
        let place = if op.dead { keys::dead_letter } else { keys::outbox };
        let begin = if is_first { begin } else { keys::after(&place(op.after_index, op.after_number)) };
        let limit = if op.limit == 0 { OUTBOX_ROWS } else { OUTBOX_ROWS.min(op.limit as usize) };
        let mut read = OutboxRead { complete: true, ..OutboxRead::default() };
        let mut bytes = 0;
        for row in view.range(begin..=end) {
            if read.rows.len() == limit || bytes >= MAX_BYTES {
                read.complete = false;
                break;
            }
            let (key, value) = row?;
            let (index, number) = keys::outbox_of(&key)?;
            let row = decode(&value)?;
            let envelope = match &row.task {
                Some(Task::Tell(tell)) => {
                    let record = view.get(&keys::record(tell.number, tell.seq))?;
                    record.map(|record| Stored::decode(&record).map(|stored| stored.envelope())).transpose()?
                }
                Some(
                    Task::Leave(_)
                    | Task::RemoveObjects(_)
                    | Task::SendScheduled(_)
                    | Task::MediaReleased(_)
                    | Task::FindMediaHolders(_),
                )
                | None => None,
            };
            let scheduled = match &row.task {
                Some(Task::SendScheduled(send)) => to_be_sent(&view, send)?,
                _ => None,
            };
            let envelope = envelope.unwrap_or_default();
            bytes += value.len() + envelope.len() + scheduled.as_ref().map_or(0, |row| row.content.len());
            read.rows.push(outbox_read::Row { index, number, row: Some(row), envelope, scheduled });
        }
        if is_first {
            (read.open_reports, read.first_report_ms) = waiting_reports(&view)?;
            read.next_scheduled_ms = next_due(&view)?.unwrap_or_default();
            // Bounded by what the machine keeps.
            for row in view.range(keys::dead_letters()) {
                row?;
                read.dead_letters += 1;
            }
        }
        Ok(read)
    }
}

/// The groups of which the outbox has changes to tell, by the numbers in their keys, each with the position of the first such change. The
/// envelopes that tell of the changes stand in the groups' logs.
pub(super) fn first_untold(view: &TimelineView<'_>) -> io::Result<BTreeMap<u64, u64>> {
    let mut first = BTreeMap::new();
    for row in view.range(keys::outbox_rows()) {
        let (_, value) = row?;
        if let Some(Task::Tell(TellMembers { number, seq, .. })) = decode(&value)?.task {
            let known = first.entry(number).or_insert(seq);
            *known = seq.min(*known);
        }
    }
    Ok(first)
}

fn decode(value: &[u8]) -> io::Result<OutboxRow> {
    OutboxRow::decode(value).map_err(|_| broken("row of the outbox"))
}
