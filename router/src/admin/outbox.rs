//! Rows of the outboxes for the operator: what waits, and dead letters, which are replayed or discarded. See docs/adr/0026-workers.md.

use std::collections::BTreeMap;

use carillon_proto::{
    Level, ShardId, ShardKind,
    pb::{
        admin::{
            ListOutboxReply, ListOutboxRequest, OutboxPlace, SettleDeadLettersReply, SettleDeadLettersRequest,
            list_outbox_reply::Row,
        },
        store::{
            OutboxRead, ReadOutbox, SettleOutbox, TimelineCommand, settle_outbox::Settled, settle_outbox::Verdict,
            store_request::Op, timeline_command,
        },
    },
};
use tonic::Status;

use super::{Admin, PAGE, failed};
use crate::store::StoreAnswer;

/// Most letters of one request.
const LETTERS: usize = 256;

impl Admin {
    pub(super) async fn outbox(&self, request: ListOutboxRequest) -> Result<ListOutboxReply, Status> {
        self.has_outboxes()?;
        let ListOutboxRequest { dead, after, limit } = request;
        let limit = if limit == 0 { PAGE } else { limit.min(PAGE) } as usize;
        let first = after.as_ref().map(shard_of).transpose()?;
        let mut after = after.map_or((0, 0), |place| (place.index, place.number));
        let mut rows = Vec::new();
        let shards = self.shards()?.all().filter(|shard| shard.kind == ShardKind::Timeline);
        for shard in shards.skip_while(|shard| first.is_some_and(|first| *shard != first)) {
            loop {
                let read = self.rows(shard, after, (limit - rows.len()) as u32, dead).await?;
                for row in read.rows {
                    after = (row.index, row.number);
                    rows.push(Row { place: Some(place(shard, after)), row: row.row });
                }
                if rows.len() == limit {
                    return Ok(ListOutboxReply { rows, complete: false });
                }
                if read.complete {
                    break;
                }
            }
            after = (0, 0);
        }
        Ok(ListOutboxReply { rows, complete: true })
    }

    pub(super) async fn settle_letters(
        &self,
        request: SettleDeadLettersRequest,
    ) -> Result<SettleDeadLettersReply, Status> {
        self.has_outboxes()?;
        let SettleDeadLettersRequest { letters, discard } = request;
        if !(1..=LETTERS).contains(&letters.len()) {
            return Err(Status::invalid_argument(format!(
                "the request names {} dead letters, not 1 to 256",
                letters.len()
            )));
        }
        let known = self.shards()?;
        let mut by_shard: BTreeMap<ShardId, Vec<(u64, u32)>> = BTreeMap::new();
        for letter in &letters {
            let shard = shard_of(letter)?;
            let at = (letter.index, letter.number);
            let is_there = known.all().any(|known| known == shard) && self.is_letter(shard, at).await?;
            if !is_there {
                return Err(Status::not_found(format!("there is no dead letter {shard}/{}/{}", at.0, at.1)));
            }
            by_shard.entry(shard).or_default().push(at);
        }
        let verdict = if discard { Verdict::Discard } else { Verdict::Replay };
        for (shard, places) in by_shard {
            let settled = |(index, number)| Settled { index, number, verdict: verdict.into(), why: String::new() };
            let settle = SettleOutbox { rows: places.into_iter().map(settled).collect() };
            let op = timeline_command::Op::SettleOutbox(settle);
            match self.call(shard, Op::Timeline(TimelineCommand { op: Some(op) })).await {
                Ok(StoreAnswer::Done(_)) => self.nudges.nudge(shard),
                other => return Err(failed(other)),
            }
        }
        Ok(SettleDeadLettersReply {})
    }

    fn has_outboxes(&self) -> Result<(), Status> {
        let level = Level(self.topology.borrow().view.level);
        if level >= Level::GROUPS {
            return Ok(());
        }
        let needed = Level::GROUPS;
        Err(Status::failed_precondition(format!("the cluster is at level {level}; workers need level {needed}")))
    }

    async fn is_letter(&self, shard: ShardId, (index, number): (u64, u32)) -> Result<bool, Status> {
        let before = match number.checked_sub(1) {
            Some(before) => (index, before),
            None => (index.saturating_sub(1), u32::MAX),
        };
        let read = self.rows(shard, before, 1, true).await?;
        Ok(read.rows.first().is_some_and(|row| (row.index, row.number) == (index, number)))
    }

    async fn rows(&self, shard: ShardId, after: (u64, u32), limit: u32, dead: bool) -> Result<OutboxRead, Status> {
        let read = ReadOutbox { after_index: after.0, after_number: after.1, limit, dead };
        match self.call(shard, Op::ReadOutbox(read)).await {
            Ok(StoreAnswer::OutboxRead(read)) => Ok(read),
            other => Err(failed(other)),
        }
    }
}

fn shard_of(place: &OutboxPlace) -> Result<ShardId, Status> {
    let shard = place.shard.as_ref().and_then(ShardId::from_pb);
    shard.ok_or_else(|| Status::invalid_argument("the place of the row names no shard"))
}

fn place(shard: ShardId, (index, number): (u64, u32)) -> OutboxPlace {
    OutboxPlace { shard: Some(shard.to_pb()), index, number }
}
