//! The lease of a gateway or router: acquired from the registry, renewed, and acquired again after it has ended.

use std::time::Duration;

use tokio::time::{self, Instant};
use tonic::Code;

use crate::{
    LeaseId, pause,
    pb::store::{NodeKind, RegisterRequest, Release, RenewRequest},
    peer::cause,
    registry::RegistryClient,
    waiting::Waiting,
};

/// Pause after a request without an answer.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A lease, and the time until which its holder may act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldLease {
    pub lease: LeaseId,
    /// By the holder's own clock, counted from before the request was sent: the lease never ends earlier at the
    /// registry than here.
    pub until: Instant,
}

/// A request to the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Registering again with the same nonce returns the same lease.
    Register {
        nonce: [u8; 16],
    },
    Renew(LeaseId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseAnswer {
    Registered(LeaseId),
    Renewed,
    /// The registry says that the lease has ended.
    Ended,
    /// There was no answer, or it says nothing about the lease.
    Unknown,
}

/// Decides what to ask the registry and when, and until when the lease is held. Has no clock and does no I/O.
#[derive(Debug, Clone)]
pub struct LeaseKeeper {
    length: Duration,
    state: State,
    failures: u32,
    due: Instant,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Without,
    /// `counts_from`: when the first request with this nonce was sent. Its answer may have been lost, and the lease
    /// counts from it.
    Registering {
        nonce: [u8; 16],
        counts_from: Instant,
    },
    Has {
        lease: LeaseId,
        counts_from: Instant,
    },
}

impl LeaseKeeper {
    pub fn new(length: Duration, now: Instant) -> Self {
        Self { length, state: State::Without, failures: 0, due: now }
    }

    /// When `ask` is to be called next.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// The request to send to the registry now. `nonce` makes a random number for a new registration.
    pub fn ask(&mut self, now: Instant, nonce: impl FnOnce() -> [u8; 16]) -> Ask {
        match self.state {
            State::Has { lease, .. } => Ask::Renew(lease),
            State::Registering { nonce, .. } => Ask::Register { nonce },
            State::Without => {
                let nonce = nonce();
                self.state = State::Registering { nonce, counts_from: now };
                Ask::Register { nonce }
            }
        }
    }

    /// Takes the answer to the request sent at `asked`. `pause` spreads a pause around the given one.
    ///
    /// After the lease has run out by our own clock it is no longer held, but it may still be renewed: the registry's
    /// clock stands still while there is no leader.
    pub fn answered(
        &mut self,
        answer: LeaseAnswer,
        asked: Instant,
        now: Instant,
        pause: impl FnOnce(Duration) -> Duration,
    ) {
        let counts_from = match (self.state, answer) {
            (State::Registering { counts_from, .. }, LeaseAnswer::Registered(lease)) => {
                self.state = State::Has { lease, counts_from };
                counts_from
            }
            (State::Has { lease, .. }, LeaseAnswer::Renewed) => {
                self.state = State::Has { lease, counts_from: asked };
                asked
            }
            (_, LeaseAnswer::Ended) => {
                self.state = State::Without;
                self.failures = 0;
                self.due = now;
                return;
            }
            (state, _) => {
                let wait = match state {
                    // Wakes no later than the end of the lease, so that its loss is reported.
                    State::Has { counts_from, .. } if counts_from + self.length > now => {
                        pause(PAUSE).min(counts_from + self.length - now)
                    }
                    State::Has { .. } => pause(PAUSE),
                    _ => pause(PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE)),
                };
                self.failures = self.failures.saturating_add(1);
                self.due = now + wait;
                return;
            }
        };
        self.failures = 0;
        self.due = now.max(counts_from + self.length / 3);
    }

    pub fn held(&self, now: Instant) -> Option<HeldLease> {
        let State::Has { lease, counts_from } = self.state else { return None };
        Some(HeldLease { lease, until: counts_from + self.length }).filter(|held| held.until > now)
    }
}

/// Registers a node and keeps its lease as long as it runs.
pub struct LeaseHolder {
    pub registry: RegistryClient,
    pub kind: NodeKind,
    /// host:port of the node; empty for gateways.
    pub address: String,
    /// By which the operator knows a gateway; empty for nodes with an address.
    pub name: String,
    pub length: Duration,
    /// Named in the log while nobody answers.
    pub waits_for: &'static str,
}

impl LeaseHolder {
    /// Runs until it is cancelled. `publish` is called after each answer, and when the lease runs out.
    pub async fn run(self, mut publish: impl FnMut(Option<HeldLease>)) {
        let mut keeper = LeaseKeeper::new(self.length, Instant::now());
        let mut waiting = Waiting::new(self.waits_for);
        loop {
            time::sleep_until(keeper.due()).await;
            let asked = Instant::now();
            let call = self.call(keeper.ask(asked, rand::random), asked);
            tokio::pin!(call);
            let answer = match keeper.held(asked) {
                // Every branch is cancel-safe.
                Some(held) => tokio::select! {
                    biased;
                    answer = &mut call => answer,
                    () = time::sleep_until(held.until) => {
                        publish(None);
                        call.await
                    }
                },
                None => call.await,
            };
            let answer = answer.unwrap_or_else(|cause| {
                waiting.still(self.registry.addresses(), cause);
                LeaseAnswer::Unknown
            });
            match answer {
                LeaseAnswer::Registered(lease) => tracing::info!(lease = lease.0, "lease taken"),
                LeaseAnswer::Ended => tracing::warn!("the lease has ended, registering anew"),
                LeaseAnswer::Renewed | LeaseAnswer::Unknown => {}
            }
            if answer != LeaseAnswer::Unknown {
                waiting.over();
            }
            let now = Instant::now();
            keeper.answered(answer, asked, now, pause::around);
            publish(keeper.held(now));
        }
    }

    /// The answer, or why there is none.
    async fn call(&self, ask: Ask, now: Instant) -> Result<LeaseAnswer, String> {
        let answer = match ask {
            Ask::Register { nonce } => {
                let request = RegisterRequest {
                    kind: self.kind.into(),
                    address: self.address.clone(),
                    ttl_ms: u32::try_from(self.length.as_millis()).unwrap_or(u32::MAX),
                    nonce: nonce.to_vec().into(),
                    release: Some(Release::own()),
                    name: self.name.clone(),
                };
                self.registry.register(request, now + self.length).await.map(LeaseAnswer::Registered)
            }
            Ask::Renew(LeaseId(lease)) => {
                let request = RenewRequest { lease, release: Some(Release::own()), name: self.name.clone() };
                match self.registry.renew(request, now + self.length / 3).await {
                    Err(status) if status.code() == Code::FailedPrecondition => Ok(LeaseAnswer::Ended),
                    answer => answer.map(|()| LeaseAnswer::Renewed),
                }
            }
        };
        answer.map_err(|status| cause(&status))
    }
}

/// Gives the lease back, so that everything bound to it ends now and not when it would have run out. False if nobody has
/// taken it back.
pub async fn give_up(registry: &RegistryClient, lease: LeaseId, within: Duration) -> bool {
    let given_back = registry.deregister(lease, Instant::now() + within).await;
    if let Err(status) = &given_back {
        tracing::info!(cause = %cause(status), lease = lease.0, "the lease could not be given back; it runs out by itself");
    }
    given_back.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(3);
    const LEASE: LeaseId = LeaseId(7);

    struct Play {
        keeper: LeaseKeeper,
        start: Instant,
    }

    impl Play {
        fn new() -> Self {
            let start = Instant::now();
            Self { keeper: LeaseKeeper::new(LENGTH, start), start }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn ask(&mut self, ms: u64, nonce: u8) -> Ask {
            let at = self.at(ms);
            self.keeper.ask(at, || [nonce; 16])
        }

        fn answered(&mut self, answer: LeaseAnswer, asked_ms: u64, now_ms: u64) {
            let (asked, now) = (self.at(asked_ms), self.at(now_ms));
            self.keeper.answered(answer, asked, now, |pause| pause);
        }

        fn due_ms(&self) -> u128 {
            (self.keeper.due() - self.start).as_millis()
        }

        fn held_until_ms(&self, now_ms: u64) -> Option<u128> {
            let held = self.keeper.held(self.at(now_ms))?;
            assert_eq!(held.lease, LEASE);
            Some((held.until - self.start).as_millis())
        }
    }

    #[test]
    fn a_lease_counts_from_before_it_was_asked_for() {
        let mut play = Play::new();
        assert_eq!(play.ask(0, 1), Ask::Register { nonce: [1; 16] });
        play.answered(LeaseAnswer::Registered(LEASE), 0, 400);
        assert_eq!((play.held_until_ms(400), play.due_ms()), (Some(3000), 1000));
        assert_eq!(play.ask(1000, 2), Ask::Renew(LEASE));
        play.answered(LeaseAnswer::Renewed, 1000, 1300);
        assert_eq!((play.held_until_ms(1300), play.due_ms()), (Some(4000), 2000));
        assert_eq!(play.held_until_ms(4000), None);
    }

    #[test]
    fn a_registration_is_asked_for_again_with_the_same_nonce_and_counts_from_the_first_time() {
        let mut play = Play::new();
        play.ask(0, 1);
        play.answered(LeaseAnswer::Unknown, 0, 500);
        assert_eq!(play.due_ms(), 600);
        assert_eq!(play.ask(600, 2), Ask::Register { nonce: [1; 16] });
        play.answered(LeaseAnswer::Registered(LEASE), 600, 700);
        assert_eq!((play.held_until_ms(700), play.due_ms()), (Some(3000), 1000));
    }

    #[test]
    fn pauses_between_registrations_grow_to_a_second() {
        let mut play = Play::new();
        let pauses: Vec<_> = (0..6)
            .map(|_| {
                play.ask(0, 1);
                play.answered(LeaseAnswer::Unknown, 0, 0);
                play.due_ms()
            })
            .collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
    }

    #[test]
    fn a_lease_that_could_not_be_renewed_is_not_held_but_may_be_renewed_later() {
        let mut play = Play::new();
        play.ask(0, 1);
        play.answered(LeaseAnswer::Registered(LEASE), 0, 0);
        play.ask(2000, 2);
        play.answered(LeaseAnswer::Unknown, 2000, 2950);
        // Not past the end.
        assert_eq!((play.held_until_ms(2950), play.due_ms()), (Some(3000), 3000));
        assert_eq!(play.ask(3000, 3), Ask::Renew(LEASE));
        play.answered(LeaseAnswer::Unknown, 3000, 3500);
        assert_eq!((play.held_until_ms(3500), play.due_ms()), (None, 3600));
        assert_eq!(play.ask(3600, 4), Ask::Renew(LEASE));
        play.answered(LeaseAnswer::Renewed, 3600, 3700);
        assert_eq!(play.held_until_ms(3700), Some(6600));
    }

    #[test]
    fn after_a_lease_has_ended_another_one_is_asked_for_at_once() {
        let mut play = Play::new();
        play.ask(0, 1);
        play.answered(LeaseAnswer::Registered(LEASE), 0, 0);
        play.ask(1000, 2);
        play.answered(LeaseAnswer::Ended, 1000, 1100);
        assert_eq!((play.held_until_ms(1100), play.due_ms()), (None, 1100));
        assert_eq!(play.ask(1100, 3), Ask::Register { nonce: [3; 16] });
    }
}
