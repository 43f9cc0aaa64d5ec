//! The last resort against lost pushes that nobody noticed: the inbox heads of signed-in users are periodically
//! compared with the store's, many in one read.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    time::Duration,
};

use carillon_proto::UserId;
use tokio::time::Instant;

/// Ticks within which each user has one turn.
const TICKS: u32 = 60;
/// How long after a change of the ring all users are checked: by then the other routers follow the new ring, too.
const RING_SETTLES: Duration = Duration::from_secs(2);
/// Most users of one tick; the others have their turn later.
const USERS: usize = 4096;

/// The turns of one partition's users.
pub(crate) struct Checks {
    turns: VecDeque<UserId>,
    /// Each is in `turns` once.
    queued: HashSet<UserId>,
    pause: Duration,
    next: Instant,
    /// Users who may just have missed a push. They do not wait for their turn.
    urgent: BTreeSet<UserId>,
    /// When all users are to be checked.
    all_at: Option<Instant>,
    /// How many users at the front are checked as soon as possible.
    hurry: usize,
    /// Reads without an answer. While there are any, no other user has a turn.
    asked: usize,
}

impl Checks {
    /// `every`: the time between two turns of a user.
    pub(crate) fn new(every: Duration, now: Instant) -> Self {
        let (pause, turns) = (every / TICKS, VecDeque::new());
        let (queued, urgent) = (HashSet::new(), BTreeSet::new());
        Self { turns, queued, pause, next: now + pause, urgent, all_at: None, hurry: 0, asked: 0 }
    }

    pub(crate) fn signed_in(&mut self, user: &UserId) {
        if self.queued.insert(user.clone()) {
            self.turns.push_back(user.clone());
        }
    }

    /// This user may just have missed a push.
    pub(crate) fn soon(&mut self, user: &UserId) {
        if self.urgent.len() < USERS {
            self.urgent.insert(user.clone());
        } else {
            self.all_soon();
        }
    }

    /// Any user may have missed a push.
    pub(crate) fn all_soon(&mut self) {
        self.hurry = self.turns.len();
    }

    /// For a while after a new ring, a router does not know all sessions that it owns, and pushes may reach nobody. All
    /// users are checked `RING_SETTLES` later.
    pub(crate) fn ring_changed(&mut self, now: Instant) {
        self.all_at = Some(now + RING_SETTLES);
    }

    /// When to call `take`.
    pub(crate) fn due(&self) -> Option<Instant> {
        let next = (!self.turns.is_empty() || !self.urgent.is_empty()).then_some(self.next)?;
        Some(self.all_at.map_or(next, |all_at| next.min(all_at)))
    }

    /// The users to check now. The caller returns the users that are still signed in by `signed_in`.
    pub(crate) fn take(&mut self, now: Instant) -> Vec<UserId> {
        self.next = now + self.pause;
        if self.all_at.is_some_and(|all_at| all_at <= now) {
            self.all_at = None;
            self.all_soon();
        }
        if self.asked > 0 {
            return Vec::new();
        }
        let usual = self.turns.len().div_ceil(TICKS as usize);
        let count = usual.max(self.hurry).min(USERS).min(self.turns.len());
        self.hurry = self.hurry.saturating_sub(count);
        let mut taken: Vec<UserId> = self.turns.drain(..count).collect();
        for user in &taken {
            self.queued.remove(user);
            self.urgent.remove(user);
        }
        taken.extend(std::mem::take(&mut self.urgent));
        taken
    }

    pub(crate) fn asked(&mut self) {
        self.asked += 1;
    }

    pub(crate) fn answered(&mut self) {
        self.asked -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(60);

    fn user(number: usize) -> UserId {
        UserId::new(&format!("user{number}")).expect("valid")
    }

    /// Those whose turn it is, who all stay.
    fn turn(checks: &mut Checks, now: Instant) -> Vec<UserId> {
        let taken = checks.take(now);
        taken.iter().for_each(|user| checks.signed_in(user));
        taken
    }

    #[test]
    fn each_has_a_turn_once_in_the_time() {
        let mut now = Instant::now();
        let mut checks = Checks::new(EVERY, now);
        assert_eq!(checks.due(), None);
        (0..1000).for_each(|number| checks.signed_in(&user(number)));
        checks.signed_in(&user(0));
        let mut seen = Vec::new();
        for _ in 0..TICKS {
            now = checks.due().expect("due");
            let turn = turn(&mut checks, now);
            assert!(turn.len() <= 17, "{}", turn.len());
            seen.extend(turn);
        }
        assert_eq!(seen[..1000].iter().collect::<HashSet<_>>().len(), 1000);
        assert_eq!(seen[1000..], seen[..seen.len() - 1000], "then from the first on");
    }

    #[test]
    fn whoever_may_have_lost_something_is_first_and_waits_while_answers_are_due() {
        let now = Instant::now();
        let mut checks = Checks::new(EVERY, now);
        (0..100).for_each(|number| checks.signed_in(&user(number)));
        checks.soon(&user(50));
        checks.asked();
        assert_eq!(turn(&mut checks, now), []);
        checks.answered();
        assert_eq!(turn(&mut checks, now), [user(0), user(1), user(50)]);
        checks.all_soon();
        assert_eq!(turn(&mut checks, now).len(), 100);
        assert_eq!(turn(&mut checks, now).len(), 2);
        checks.ring_changed(now);
        assert_eq!(turn(&mut checks, now).len(), 2);
        let later = now + RING_SETTLES;
        checks.asked();
        assert_eq!(turn(&mut checks, later), []);
        assert!(checks.due().is_some_and(|due| due > later), "it waits for its answers");
        checks.answered();
        assert_eq!(turn(&mut checks, later).len(), 100, "once");
        assert_eq!(turn(&mut checks, later).len(), 2);
    }
}
