//! The entries of a shard in flight, and the callers that wait for each.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    machine::Outcome,
    metrics,
    raft::ProposeError,
    shard::{Lane, Responder, Waiting, Write, not_proposed},
};

/// Shared by the proposer and by the group, which takes its entries and reports their outcomes. At most one entry is on
/// its way into the log.
#[derive(Default)]
pub(super) struct Flight {
    state: Mutex<State>,
    /// Only the proposer waits on it.
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Number of entries so far.
    count: u64,
    /// The number of the entry that has no place in the log yet, and its commands.
    placing: Option<(u64, Vec<Parked>)>,
    /// Entries with a place but without an outcome.
    in_flight: usize,
    /// Writes that found no place.
    refused: Option<(Vec<Write>, ProposeError)>,
    /// The proposer is woken when fewer entries than this are in flight, and none is on its way into the log.
    wake_below: usize,
}

/// What is kept of a command until it has its place in the log.
struct Parked {
    command: Bytes,
    waiting: Waiting,
}

/// The caller that waits for one command.
struct Caller {
    lane: Option<Lane>,
    answer: Responder,
}

/// Reports that an entry has its place in the log.
pub(super) struct Place {
    flight: Arc<Flight>,
    number: u64,
}

/// Reports the outcome of an entry. Dropped without one, it reports that nothing is known.
pub(super) struct Landing {
    flight: Arc<Flight>,
    number: u64,
    callers: Vec<Caller>,
    proposed: Instant,
}

/// What the proposer does next.
pub(super) enum Next {
    Wait,
    Propose,
    /// These were refused before they had a place in the log, and so may be proposed again.
    Again(Vec<Write>, ProposeError),
}

impl Flight {
    /// Waits until an entry was refused, or until no entry is on its way into the log and fewer than `limit` are in
    /// flight. Cancel-safe.
    pub(super) async fn below(&self, limit: usize) {
        loop {
            {
                let mut state = self.state.lock();
                if state.refused.is_some() || state.is_below(limit) {
                    return;
                }
                state.wake_below = limit;
            }
            // A notification since then is kept for this wait.
            self.changed.notified().await;
        }
    }

    /// With `limit` as in `below`.
    pub(super) fn next(&self, limit: usize) -> Next {
        let mut state = self.state.lock();
        match state.refused.take() {
            Some((writes, error)) => Next::Again(writes, error),
            None if state.is_below(limit) => Next::Propose,
            None => Next::Wait,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state.lock().is_below(1)
    }

    /// Registers an entry of these writes that is about to be proposed. No other entry may be on its way into the log.
    pub(super) fn begin(self: &Arc<Self>, writes: Vec<Write>) -> (Place, Landing) {
        let (mut callers, mut parked) = (Vec::with_capacity(writes.len()), Vec::with_capacity(writes.len()));
        for Write { command, lane, answer, waiting } in writes {
            callers.push(Caller { lane, answer });
            parked.push(Parked { command, waiting });
        }
        let number = {
            let mut state = self.state.lock();
            state.count += 1;
            state.placing = Some((state.count, parked));
            state.count
        };
        let place = Place { flight: Arc::clone(self), number };
        (place, Landing { flight: Arc::clone(self), number, callers, proposed: Instant::now() })
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let changed = change(&mut state);
        let wakes = state.refused.is_some() || state.is_below(state.wake_below);
        if wakes {
            state.wake_below = 0;
        }
        drop(state);
        if wakes {
            self.changed.notify_one();
        }
        changed
    }
}

impl State {
    fn is_below(&self, limit: usize) -> bool {
        self.placing.is_none() && self.in_flight < limit
    }

    /// The commands of this entry, if it has no place in the log.
    fn take_parked(&mut self, number: u64) -> Option<Vec<Parked>> {
        self.placing.take_if(|(placing, _)| *placing == number).map(|(_, parked)| parked)
    }
}

impl Place {
    pub(super) fn given(self) {
        let parked = self.flight.change(|state| {
            let parked = state.take_parked(self.number);
            state.in_flight += usize::from(parked.is_some());
            parked
        });
        drop(parked);
    }
}

impl Landing {
    /// There are as many outcomes as commands: the machine's adapter checks the entries, the machine the commands.
    pub(super) fn land(mut self, result: Result<Vec<Outcome>, ProposeError>) {
        self.end(result);
    }

    fn end(&mut self, result: Result<Vec<Outcome>, ProposeError>) {
        match result {
            Ok(outcomes) => {
                for (caller, outcome) in self.callers.drain(..).zip(outcomes) {
                    caller.answer.give(outcome);
                }
            }
            Err(error) if self.comes_back(&error) => return,
            Err(error) => {
                for Caller { lane, answer } in self.callers.drain(..) {
                    if let Some(lane) = lane {
                        lane.close();
                    }
                    answer.refuse(not_proposed(error.clone()));
                }
            }
        }
        self.answered();
    }

    /// Returns the commands to the proposer, if they have had no place in the log and may get one in another attempt.
    fn comes_back(&mut self, error: &ProposeError) -> bool {
        if matches!(error, ProposeError::Unknown(_)) {
            return false;
        }
        self.flight.change(|state| {
            let Some(parked) = state.take_parked(self.number) else { return false };
            let writes =
                self.callers.drain(..).zip(parked).map(|(Caller { lane, answer }, Parked { command, waiting })| {
                    Write { command, lane, answer, waiting }
                });
            state.refused = Some((writes.collect(), error.clone()));
            true
        })
    }

    /// Only now, when the lanes are closed: after this another term may begin.
    fn answered(&self) {
        metrics::landed(self.proposed.elapsed());
        self.flight.change(|state| {
            if state.take_parked(self.number).is_none() {
                state.in_flight -= 1;
            }
        });
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if !self.callers.is_empty() {
            self.end(Err(ProposeError::Unknown("the shard stopped on this node".to_owned())));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use carillon_proto::{
        ShardId,
        pb::store::{Done, store_error::Why},
    };
    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;
    use crate::shard::Lanes;

    /// A flight whose first entry is one command in this lane.
    fn begun(lane: &Lane) -> (Arc<Flight>, Place, Landing, oneshot::Receiver<Outcome>) {
        let flight = Arc::new(Flight::default());
        let (answer, outcome) = Responder::once();
        let waiting = Waiting { bytes: 0, all: Arc::new(AtomicUsize::new(0)) };
        let write = Write { command: Bytes::from_static(b"a"), lane: Some(lane.clone()), answer, waiting };
        let (place, landing) = flight.begin(vec![write]);
        (flight, place, landing, outcome)
    }

    fn lane() -> Lane {
        Lanes::default().lane(ShardId::REGISTRY, 1)
    }

    #[tokio::test]
    async fn one_entry_at_a_time_gets_its_place_and_answers_are_given_before_it_counts_as_landed() {
        let (flight, place, landing, mut outcome) = begun(&lane());
        assert!(matches!(flight.next(9), Next::Wait) && flight.below(9).now_or_never().is_none());
        place.given();
        assert!(matches!(flight.next(2), Next::Propose) && matches!(flight.next(1), Next::Wait));
        let empty = async {
            flight.below(1).await;
            outcome.try_recv()
        };
        let (found, ()) = tokio::join!(empty, async { landing.land(Ok(vec![Outcome::Done(Done {})])) });
        assert_eq!(found, Ok(Outcome::Done(Done {})));
    }

    #[tokio::test]
    async fn what_found_no_place_comes_back_as_it_was() {
        for error in [ProposeError::NotYet, ProposeError::NotLeader { leader: None }] {
            let lane = lane();
            let (flight, place, landing, mut outcome) = begun(&lane);
            drop(place);
            landing.land(Err(error.clone()));
            flight.below(0).await;
            let Next::Again(writes, why) = flight.next(0) else { panic!("nothing came back") };
            assert!(writes.len() == 1 && writes[0].command == b"a".as_slice() && why == error);
            assert!(!lane.is_closed() && outcome.try_recv().is_err() && flight.is_empty());
        }
    }

    #[tokio::test]
    async fn what_fails_otherwise_closes_its_lanes_before_it_counts_as_landed() {
        let fail: [fn(Place, Landing); 3] = [
            |place, landing| {
                place.given();
                landing.land(Err(ProposeError::NotLeader { leader: None }));
            },
            |place, landing| {
                drop(place);
                landing.land(Err(ProposeError::Unknown("lost".into())));
            },
            |place, landing| drop((place, landing)),
        ];
        for fail in fail {
            let lane = lane();
            let (flight, place, landing, mut outcome) = begun(&lane);
            fail(place, landing);
            assert!(matches!(flight.next(1), Next::Propose) && lane.is_closed());
            let Ok(Outcome::Error(error)) = outcome.try_recv() else { panic!("not refused") };
            assert!(matches!(error.why, Some(Why::Unknown(_) | Why::NotLeader(_))));
        }
    }
}
