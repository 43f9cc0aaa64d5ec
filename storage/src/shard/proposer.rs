//! Turns the waiting writes into Raft entries, many in flight, without ever changing their order.
//!
//! Order across failures: entries are proposed one after the other, the next one only when the last one has its place
//! in the log. All entries in flight were proposed in one leader term; openraft refuses the entries of a term that is
//! over. So an entry can succeed only if those proposed before it succeeded, or were answered, and closed their lanes,
//! before it was proposed.
//!
//! The group itself answers the callers of an entry, in the order of the log, without a turn of the proposer, which is
//! woken only when it may continue.

mod flight;
#[cfg(feature = "planted-bugs")]
mod planted;

use std::{
    collections::VecDeque,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use carillon_proto::{
    ShardId, ShardKind,
    limits::{ENTRY_BYTES, ENTRY_COMMANDS},
    pb::store::{LaneClosed, store_error::Why},
};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tokio::{sync::mpsc, time::sleep};

use self::flight::{Flight, Next};
use super::{Lane, Work, Write, not_proposed};
use crate::{
    metrics,
    raft::{Group, LeaderTerm, ProposeError},
};

/// Entries in flight. More wait in the queue.
const IN_FLIGHT: usize = 32;
/// With this many entries in flight, only a full entry is proposed: small writes collect in one entry instead of
/// costing a network round each.
const IN_FLIGHT_SMALL: usize = 2;
/// A new leader gets its first answer from a majority within this time, or not at all.
const PATIENCE: Duration = Duration::from_millis(1500);
const PAUSE: Duration = Duration::from_millis(10);

/// The task that owns the order of a shard's writes.
pub(super) struct Proposer {
    kind: ShardKind,
    group: Arc<Group>,
    queue: mpsc::Receiver<Write>,
    waiting: VecDeque<Write>,
    flight: Arc<Flight>,
    work: Work,
    /// The leader term in which the entries in flight were proposed.
    era: Option<LeaderTerm>,
    /// The last entry found no place in the log.
    refused: bool,
    /// Since when entries have found no place.
    refused_since: Option<Instant>,
    #[cfg(feature = "planted-bugs")]
    reader: super::Reader,
}

impl Proposer {
    pub(super) fn new(
        shard: ShardId,
        group: Arc<Group>,
        queue: mpsc::Receiver<Write>,
        work: Work,
        #[cfg(feature = "planted-bugs")] reader: super::Reader,
    ) -> Self {
        Self {
            kind: shard.kind,
            group,
            queue,
            waiting: VecDeque::new(),
            flight: Arc::default(),
            work,
            era: None,
            refused: false,
            refused_since: None,
            #[cfg(feature = "planted-bugs")]
            reader,
        }
    }

    pub(super) async fn run(mut self) {
        let mut taken = Vec::with_capacity(ENTRY_COMMANDS);
        loop {
            let limit = self.limit();
            // Both branches are cancel-safe.
            tokio::select! {
                biased;
                count = self.queue.recv_many(&mut taken, ENTRY_COMMANDS), if self.waiting.len() < ENTRY_COMMANDS => {
                    if count == 0 {
                        return;
                    }
                    self.waiting.extend(taken.drain(..));
                }
                () = self.flight.below(limit) => {}
            }
            match self.flight.next(self.limit()) {
                Next::Wait => {}
                Next::Propose => self.propose().await,
                Next::Again(writes, error) => self.again(writes, error).await,
            }
        }
    }

    /// The waiting writes may be proposed when fewer entries than this are in flight.
    fn limit(&self) -> usize {
        if self.waiting.is_empty() {
            0
        } else if fill_an_entry(&self.waiting) {
            IN_FLIGHT
        } else {
            IN_FLIGHT_SMALL
        }
    }

    /// Proposes one entry. The flight reports that it has its place in the log, or that it comes back.
    async fn propose(&mut self) {
        if !mem::take(&mut self.refused) {
            self.refused_since = None;
        }
        if self.flight.is_empty() {
            self.era = None;
        }
        let era = match self.era.map_or_else(|| self.group.era(), Ok) {
            Ok(era) => era,
            Err(error) => return self.refuse_all(&error),
        };
        self.era = Some(era);
        let writes = next_entry(&mut self.waiting);
        if writes.is_empty() {
            return;
        }
        #[cfg(feature = "planted-bugs")]
        let writes = self.spoil(writes).await;
        metrics::proposed(self.kind, writes.len());
        let encoded = encode(&writes);
        self.work.wrote(writes.len(), encoded.len());
        let (place, landing) = self.flight.begin(writes);
        self.group.propose(era, encoded, || place.given(), |result| landing.land(result)).await;
    }

    /// Handles writes that found no place in the log.
    async fn again(&mut self, writes: Vec<Write>, error: ProposeError) {
        self.refused = true;
        for write in writes.into_iter().rev() {
            self.waiting.push_front(write);
        }
        if matches!(error, ProposeError::NotLeader { .. }) {
            // The term is over, or has not begun. Its lanes must be closed before anything is proposed in another term.
            self.flight.below(1).await;
            if self.group.era().ok() != self.era {
                return;
            }
            // The leader is handing over; the group reports it only when that is done.
            return self.wait_or_refuse(ProposeError::NotLeader { leader: None }).await;
        }
        self.wait_or_refuse(error).await;
    }

    async fn wait_or_refuse(&mut self, error: ProposeError) {
        let since = *self.refused_since.get_or_insert_with(Instant::now);
        if since.elapsed() < PATIENCE {
            sleep(PAUSE).await;
        } else {
            self.refuse_all(&error);
        }
    }

    fn refuse_all(&mut self, error: &ProposeError) {
        self.refused_since = None;
        refuse(self.waiting.drain(..), error);
    }
}

fn fill_an_entry(waiting: &VecDeque<Write>) -> bool {
    waiting.len() >= ENTRY_COMMANDS || waiting.iter().map(|write| write.command.len()).sum::<usize>() >= ENTRY_BYTES
}

/// Takes what fits in one entry; writes of closed lanes are answered.
fn next_entry(waiting: &mut VecDeque<Write>) -> Vec<Write> {
    let mut bytes = 0;
    let mut writes = Vec::with_capacity(waiting.len().min(ENTRY_COMMANDS));
    while writes.len() < ENTRY_COMMANDS
        && let Some(write) = waiting.front()
    {
        bytes += write.command.len();
        if !writes.is_empty() && bytes > ENTRY_BYTES {
            break;
        }
        let closed = write.lane.as_ref().is_some_and(Lane::is_closed);
        match waiting.pop_front() {
            Some(write) if closed => write.answer.refuse(Why::LaneClosed(LaneClosed {})),
            write => writes.extend(write),
        }
    }
    writes
}

/// A `CommandBatch`, without one that holds the commands.
fn encode(writes: &[Write]) -> Bytes {
    const COMMANDS: u32 = 1;
    let len = |bytes: usize| key_len(COMMANDS) + encoded_len_varint(bytes as u64) + bytes;
    let mut encoded = Vec::with_capacity(writes.iter().map(|write| len(write.command.len())).sum());
    for Write { command, .. } in writes {
        encode_key(COMMANDS, WireType::LengthDelimited, &mut encoded);
        encode_varint(command.len() as u64, &mut encoded);
        encoded.extend_from_slice(command);
    }
    encoded.into()
}

fn refuse(writes: impl IntoIterator<Item = Write>, error: &ProposeError) {
    for write in writes {
        write.refuse(not_proposed(error.clone()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use carillon_proto::pb::store::CommandBatch;
    use prost::Message as _;

    use super::*;
    use crate::{
        machine::Outcome,
        shard::{Lanes, Responder, Waiting},
    };

    fn write(bytes: usize, lane: Option<Lane>) -> (Write, tokio::sync::oneshot::Receiver<Outcome>) {
        let (answer, outcome) = Responder::once();
        let waiting = Waiting { bytes: 0, all: Arc::new(AtomicUsize::new(0)) };
        (Write { command: vec![0; bytes].into(), lane, answer, waiting }, outcome)
    }

    #[test]
    fn an_entry_is_bounded_by_commands_and_bytes_but_has_one() {
        let sizes = |sizes: &[usize]| {
            let mut waiting: VecDeque<_> = sizes.iter().map(|bytes| write(*bytes, None).0).collect();
            let mut entries = Vec::new();
            while !waiting.is_empty() {
                entries.push(next_entry(&mut waiting).len());
            }
            entries
        };
        assert_eq!(sizes(&[10; 100]), [64, 36]);
        assert_eq!(sizes(&[ENTRY_BYTES / 2, ENTRY_BYTES / 2, 1]), [2, 1]);
        assert_eq!(sizes(&[ENTRY_BYTES * 2, 1]), [1, 1]);
    }

    #[test]
    fn an_entry_is_full_by_commands_or_bytes() {
        let full = |sizes: &[usize]| fill_an_entry(&sizes.iter().map(|bytes| write(*bytes, None).0).collect());
        assert!(!full(&[]));
        assert!(!full(&[10; ENTRY_COMMANDS - 1]));
        assert!(full(&[10; ENTRY_COMMANDS]));
        assert!(!full(&[ENTRY_BYTES - 1]));
        assert!(full(&[ENTRY_BYTES / 2; 2]));
    }

    #[test]
    fn an_entry_is_an_encoded_batch() {
        let writes: Vec<_> = [0, 1, 200].map(|bytes| write(bytes, None).0).into();
        let batch = CommandBatch::decode(encode(&writes)).expect("decodes");
        assert_eq!(batch.commands, writes.iter().map(|write| write.command.clone()).collect::<Vec<_>>());
    }

    #[test]
    fn what_waits_in_a_closed_lane_is_not_proposed() {
        let mut lanes = Lanes::default();
        let (old, new) = (lanes.lane(ShardId::REGISTRY, 4), lanes.lane(ShardId::REGISTRY, 5));
        let (first, mut refused) = write(1, Some(old.clone()));
        let (second, mut open) = write(1, Some(new));
        let mut waiting = VecDeque::from([first, second]);
        old.close();
        let entry = next_entry(&mut waiting);
        assert_eq!(entry.len(), 1);
        let Ok(Outcome::Error(error)) = refused.try_recv() else { panic!("not refused") };
        assert_eq!(error.why, Some(Why::LaneClosed(LaneClosed {})));
        assert!(open.try_recv().is_err());
    }
}
