//! Turns the writes that wait into Raft entries, many in flight, without ever changing their order.
//!
//! Order across failures. Entries are proposed one after the other: the next one only when the last one has its place
//! in the log. All that are in flight were proposed in one era, one time of leading; openraft refuses the era's
//! entries once it is over. So an entry can succeed only if those proposed before it did, or were answered, and closed
//! their lanes, before it was proposed.

#[cfg(feature = "planted-bugs")]
mod planted;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use carillon_proto::{
    ShardId, ShardKind,
    limits::{ENTRY_BYTES, ENTRY_COMMANDS},
    pb::store::{CommandBatch, LaneClosed, store_error::Why},
};
use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use prost::Message as _;
use tokio::{sync::mpsc, time::sleep};

use super::{Answer, Lane, Write, not_proposed};
use crate::{
    machine::Outcome,
    metrics,
    raft::{Era, Group, ProposeError},
};

/// Entries in flight. More wait in the queue.
const IN_FLIGHT: usize = 32;
/// Entries in flight behind which only a full one is proposed: what comes meanwhile becomes one entry, not many small
/// ones that each cost a round to the other nodes.
const IN_FLIGHT_SMALL: usize = 2;
/// A leader that is new gets its first answer of a majority in this time, or it won't.
const PATIENCE: Duration = Duration::from_millis(1500);
const PAUSE: Duration = Duration::from_millis(10);

/// The task that owns the order of a shard's writes.
pub(super) struct Proposer {
    kind: ShardKind,
    group: Arc<Group>,
    queue: mpsc::Receiver<Write>,
    waiting: VecDeque<Write>,
    /// Lands in the order of the log: of two that are applied together, the later one may be looked at first, and whoever
    /// asked would have to keep its answer until the earlier one comes.
    in_flight: FuturesOrdered<BoxFuture<'static, Landed>>,
    /// That of what is in flight.
    era: Option<Era>,
    /// Since when the leader refuses for lack of a majority.
    refused_since: Option<Instant>,
    #[cfg(feature = "planted-bugs")]
    reader: super::Reader,
}

/// Who waits for one command of an entry.
struct Caller {
    lane: Option<Lane>,
    answer: Answer,
}

/// An entry that has its outcome.
struct Landed {
    callers: Vec<Caller>,
    result: Result<Vec<Outcome>, ProposeError>,
    proposed: Instant,
}

/// Why an entry has no place in the log.
enum Refused {
    /// The era is over, or has not begun: what was not proposed may be tried again.
    Era(Vec<Write>),
    NotYet(Vec<Write>),
    /// Answered.
    Settled,
}

impl Proposer {
    pub(super) fn new(
        shard: ShardId,
        group: Arc<Group>,
        queue: mpsc::Receiver<Write>,
        #[cfg(feature = "planted-bugs")] reader: super::Reader,
    ) -> Self {
        Self {
            kind: shard.kind,
            group,
            queue,
            waiting: VecDeque::new(),
            in_flight: FuturesOrdered::new(),
            era: None,
            refused_since: None,
            #[cfg(feature = "planted-bugs")]
            reader,
        }
    }

    pub(super) async fn run(mut self) {
        let mut taken = Vec::with_capacity(ENTRY_COMMANDS);
        loop {
            // Every branch is cancel-safe; the last one is there so that what may be proposed is not held up.
            tokio::select! {
                biased;
                Some(landed) = self.in_flight.next() => land(landed),
                count = self.queue.recv_many(&mut taken, ENTRY_COMMANDS), if self.waiting.len() < ENTRY_COMMANDS => {
                    if count == 0 {
                        return;
                    }
                    self.waiting.extend(taken.drain(..));
                }
                () = std::future::ready(()), if self.may_propose() => {}
            }
            if self.may_propose() {
                self.propose().await;
            }
        }
    }

    fn may_propose(&self) -> bool {
        match self.in_flight.len() {
            0..IN_FLIGHT_SMALL => !self.waiting.is_empty(),
            IN_FLIGHT_SMALL..IN_FLIGHT => fill_an_entry(&self.waiting),
            IN_FLIGHT.. => false,
        }
    }

    async fn propose(&mut self) {
        if self.in_flight.is_empty() {
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
        match self.place(era, writes).await {
            Ok(()) => self.refused_since = None,
            Err(Refused::Settled) => {}
            Err(Refused::Era(writes)) => {
                self.put_back(writes);
                // Their lanes must be closed before anything is proposed in another era.
                while !self.in_flight.is_empty() {
                    self.land_next().await;
                }
                if self.group.era() == Ok(era) {
                    // It is handing its leadership over; the group tells so only when that is done.
                    self.wait_or_refuse(ProposeError::NotLeader { leader: None }).await;
                }
            }
            Err(Refused::NotYet(writes)) => {
                self.put_back(writes);
                self.wait_or_refuse(ProposeError::NotYet).await;
            }
        }
    }

    /// Proposes one entry and waits until it has its place in the log.
    async fn place(&mut self, era: Era, writes: Vec<Write>) -> Result<(), Refused> {
        metrics::proposed(self.kind, writes.len());
        let encoded = encode(&writes);
        let start = Instant::now();
        let mut proposed = match self.group.propose(era, encoded).await {
            Ok(proposed) => proposed,
            Err(error) => {
                refuse(writes, &error);
                return Err(Refused::Settled);
            }
        };
        let accepted = loop {
            // Every branch is cancel-safe.
            tokio::select! {
                biased;
                accepted = &mut proposed.accepted => break accepted,
                Some(landed) = self.in_flight.next() => land(landed),
            }
        };
        if accepted.is_ok() {
            let callers = writes.into_iter().map(|write| Caller { lane: write.lane, answer: write.answer }).collect();
            self.in_flight.push_back(Box::pin(async move {
                Landed { callers, result: proposed.outcomes().await, proposed: start }
            }));
            return Ok(());
        }
        match proposed.outcomes().await {
            Err(ProposeError::NotLeader { .. }) => Err(Refused::Era(writes)),
            Err(ProposeError::NotYet) => Err(Refused::NotYet(writes)),
            Err(error) => {
                refuse(writes, &error);
                Err(Refused::Settled)
            }
            // The core tells that it took an entry before it can know its outcome.
            Ok(outcomes) => {
                let callers =
                    writes.into_iter().map(|write| Caller { lane: write.lane, answer: write.answer }).collect();
                land(Landed { callers, result: Ok(outcomes), proposed: start });
                Ok(())
            }
        }
    }

    async fn land_next(&mut self) {
        if let Some(landed) = self.in_flight.next().await {
            land(landed);
        }
    }

    fn put_back(&mut self, writes: Vec<Write>) {
        for write in writes.into_iter().rev() {
            self.waiting.push_front(write);
        }
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

/// Takes what fits one entry; what stands in a closed lane is answered.
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

fn encode(writes: &[Write]) -> Bytes {
    CommandBatch { commands: writes.iter().map(|write| write.command.clone()).collect() }.encode_to_vec().into()
}

fn refuse(writes: impl IntoIterator<Item = Write>, error: &ProposeError) {
    for write in writes {
        write.refuse(not_proposed(error.clone()));
    }
}

fn land(Landed { callers, result, proposed }: Landed) {
    metrics::landed(proposed.elapsed());
    match result {
        Ok(outcomes) => {
            // As many as commands: the machine's adapter checks the entries, the machine the commands.
            for (caller, outcome) in callers.into_iter().zip(outcomes) {
                caller.answer.give(outcome);
            }
        }
        Err(error) => {
            for Caller { lane, answer } in callers {
                if let Some(lane) = lane {
                    lane.close();
                }
                answer.refuse(not_proposed(error.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::shard::{Lanes, Waiting};

    fn write(bytes: usize, lane: Option<Lane>) -> (Write, tokio::sync::oneshot::Receiver<Outcome>) {
        let (answer, outcome) = Answer::once();
        let _waiting = Waiting { bytes: 0, all: Arc::new(AtomicUsize::new(0)) };
        (Write { command: vec![0; bytes].into(), lane, answer, _waiting }, outcome)
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

    #[test]
    fn an_entry_that_fails_closes_the_lanes_of_all_in_it() {
        let mut lanes = Lanes::default();
        let lane = lanes.lane(ShardId::REGISTRY, 1);
        let (write, mut outcome) = write(1, Some(lane.clone()));
        let callers = vec![Caller { lane: write.lane, answer: write.answer }];
        land(Landed { callers, result: Err(ProposeError::Unknown("lost".into())), proposed: Instant::now() });
        assert!(lane.is_closed());
        let Ok(Outcome::Error(error)) = outcome.try_recv() else { panic!("not refused") };
        assert!(matches!(error.why, Some(Why::Unknown(_))));
    }
}
