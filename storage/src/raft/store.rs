//! openraft's log storage on top of one shard's log.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
};

use carillon_proto::pb::raft as pb;
use futures_util::{Stream, stream};
use openraft::{
    OptionalSend,
    storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage},
};

use super::{
    convert::{entry_from_pb, entry_to_pb, log_id_from_pb, log_id_to_pb, vote_from_pb, vote_to_pb},
    types::{Entry, LogId, Payload, Types, Vote},
};
use crate::{damage::damaged, log::ShardLog};

/// Bytes of entries that are read at once to be sent; many such messages are in flight to each follower.
const SEND_BYTES: usize = carillon_proto::limits::BATCH_BYTES;
/// Bytes of entries that are read at once to be applied.
const APPLY_BYTES: usize = 1 << 20;

#[derive(Clone)]
pub(crate) struct LogStore {
    log: ShardLog,
}

impl LogStore {
    pub(crate) fn new(log: ShardLog) -> Self {
        Self { log }
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let (purged, last) = self.log.bounds();
        Ok(LogState { last_purged_log_id: purged.map(log_id_from_pb), last_log_id: last.map(log_id_from_pb) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.log.save_vote(vote_to_pb(*vote)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if let Some(committed) = committed {
            self.log.save_committed(log_id_to_pb(committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.log.committed().map(log_id_from_pb))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut accepted = Vec::new();
        let entries: Vec<pb::Entry> = entries
            .into_iter()
            .map(|mut entry| {
                if let Payload::Normal(commands) = &mut entry.payload {
                    accepted.extend(commands.accepted.take());
                }
                entry_to_pb(entry)
            })
            .collect();
        self.log.append(entries, |result| callback.io_completed(result)).await?;
        for accepted in accepted {
            accepted();
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.log.truncate_after(last.map(log_id_to_pb)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.log.purge(log_id_to_pb(upto)).await
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        read(&self.log, start, end, usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.vote().map(vote_from_pb))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let entries = read(&self.log, start, end, SEND_BYTES).await?;
        // Purged meanwhile: the remaining entries begin too late to be sent behind `start - 1`.
        if entries.first().is_some_and(|entry| entry.log_id.index > start) { Ok(Vec::new()) } else { Ok(entries) }
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let chunks = stream::unfold((self.log.clone(), start), move |(log, next)| async move {
            if next >= end {
                return None;
            }
            match read(&log, next, end, APPLY_BYTES).await.and_then(|entries| begin_at(next, entries)) {
                Ok(entries) => {
                    let last = entries.last()?.log_id.index;
                    let entries: Vec<_> = entries.into_iter().map(Ok).collect();
                    Some((stream::iter(entries), (log, last + 1)))
                }
                Err(error) => Some((stream::iter(vec![Err(error)]), (log, end))),
            }
        });
        futures_util::StreamExt::flatten(chunks)
    }
}

/// What is applied has no gap.
pub(super) fn begin_at(next: u64, entries: Vec<Entry>) -> io::Result<Vec<Entry>> {
    match entries.first().map(|entry| entry.log_id.index) {
        Some(first) if first != next => {
            Err(damaged("raft log", format!("entries {next} to {} are to be applied, and are not there", first - 1)))
        }
        _ => Ok(entries),
    }
}

async fn read(log: &ShardLog, start: u64, end: u64, bytes: usize) -> io::Result<Vec<Entry>> {
    let entries = log.read(start..end, bytes).await?;
    let entries = entries.into_iter().map(entry_from_pb).collect::<Result<_, _>>();
    entries.map_err(|missing| io::Error::new(io::ErrorKind::InvalidData, missing))
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end.max(start))
}
