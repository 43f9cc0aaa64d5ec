//! The last resort against lost pushes that nobody noticed: the heads of timelines that somebody follows, the inboxes of signed-in
//! users and groups, are periodically compared with the store's, many in one read.

use std::{
    collections::BTreeSet,
    ops::Bound::{Excluded, Unbounded},
    time::Duration,
};

use carillon_proto::{ShardId, TimelineId};
use tokio::time::Instant;

/// Ticks within which each timeline has one turn.
const TICKS: u32 = 60;
/// How long after a change of the ring all timelines are checked: by then the other routers follow the new ring, too.
const RING_SETTLES: Duration = Duration::from_secs(2);
/// Most timelines of one tick; the others have their turn later.
const TIMELINES: usize = 4096;

/// The turns of one partition's timelines.
pub(crate) struct Checks {
    /// All timelines, by their shards, so that nearly all of one tick are read by one request.
    turns: BTreeSet<Turn>,
    /// The timeline that had the last turn. The next one in the order is next, and the first one after the last.
    last: Option<Turn>,
    pause: Duration,
    next: Instant,
    /// Timelines of which a push may just have been missed. They do not wait for their turn.
    urgent: BTreeSet<TimelineId>,
    /// When all are to be checked.
    all_at: Option<Instant>,
    /// How many of the next ones are checked as soon as possible.
    due_soon: usize,
    /// Reads without an answer. While there are any, no other timeline has a turn.
    asked: usize,
}

/// The shard's index, and the timeline.
type Turn = (u16, TimelineId);

impl Checks {
    /// `every`: the time between two turns of a timeline.
    pub(crate) fn new(every: Duration, now: Instant) -> Self {
        let pause = every / TICKS;
        let (turns, urgent) = (BTreeSet::new(), BTreeSet::new());
        Self { turns, last: None, pause, next: now + pause, urgent, all_at: None, due_soon: 0, asked: 0 }
    }

    /// Somebody follows the timeline, which is in this shard.
    pub(crate) fn add(&mut self, timeline: &TimelineId, shard: ShardId) {
        // The new timeline may stand before some that are to be checked soon, and must not have the turn of one of them.
        if self.turns.insert((shard.index, timeline.clone())) && self.due_soon > 0 {
            self.due_soon += 1;
        }
    }

    /// Nobody follows the timeline any more.
    pub(crate) fn remove(&mut self, timeline: TimelineId, shard: ShardId) {
        self.turns.remove(&(shard.index, timeline));
    }

    /// A push of this timeline may just have been missed.
    pub(crate) fn soon(&mut self, timeline: &TimelineId) {
        if self.urgent.len() < TIMELINES {
            self.urgent.insert(timeline.clone());
        } else {
            self.all_soon();
        }
    }

    /// Any push may have been missed.
    pub(crate) fn all_soon(&mut self) {
        self.due_soon = self.turns.len();
    }

    /// For a while after a new ring, a router does not know all sessions that it owns, and pushes may reach nobody. All
    /// timelines are checked `RING_SETTLES` later.
    pub(crate) fn ring_changed(&mut self, now: Instant) {
        self.all_at = Some(now + RING_SETTLES);
    }

    /// When to call `take`.
    pub(crate) fn due(&self) -> Option<Instant> {
        let next = (!self.turns.is_empty() || !self.urgent.is_empty()).then_some(self.next)?;
        Some(self.all_at.map_or(next, |all_at| next.min(all_at)))
    }

    /// The timelines to check now. The caller reports by `remove` those that nobody follows any more.
    pub(crate) fn take(&mut self, now: Instant) -> Vec<TimelineId> {
        self.next = now + self.pause;
        if self.all_at.is_some_and(|all_at| all_at <= now) {
            self.all_at = None;
            self.all_soon();
        }
        if self.asked > 0 {
            return Vec::new();
        }
        let usual = self.turns.len().div_ceil(TICKS as usize);
        let count = usual.max(self.due_soon).min(TIMELINES).min(self.turns.len());
        self.due_soon = self.due_soon.saturating_sub(count);
        let behind = (self.last.as_ref().map_or(Unbounded, Excluded), Unbounded);
        let turns: Vec<&Turn> = self.turns.range::<Turn, _>(behind).chain(&self.turns).take(count).collect();
        if let Some(last) = turns.last() {
            self.last = Some((*last).clone());
        }
        let mut taken: Vec<TimelineId> = turns.into_iter().map(|(_, timeline)| timeline.clone()).collect();
        for timeline in &taken {
            self.urgent.remove(timeline);
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
    use std::collections::HashSet;

    use carillon_proto::{ShardKind, UserId};

    use super::*;

    const EVERY: Duration = Duration::from_secs(60);

    fn inbox(number: usize) -> TimelineId {
        TimelineId::Inbox(UserId::new(&format!("user{number}")).expect("valid"))
    }

    /// Ten shards, in which the users take turns.
    fn shard(number: usize) -> ShardId {
        ShardId { kind: ShardKind::Timeline, index: (number % 10) as u16 }
    }

    fn signed_in(users: usize, now: Instant) -> Checks {
        let mut checks = Checks::new(EVERY, now);
        (0..users).for_each(|number| checks.add(&inbox(number), shard(number)));
        checks
    }

    #[test]
    fn each_has_a_turn_once_in_the_time_and_those_of_a_shard_together() {
        let mut now = Instant::now();
        let mut checks = signed_in(1000, now);
        checks.add(&inbox(0), shard(0));
        assert_eq!(Checks::new(EVERY, now).due(), None);
        let mut seen = Vec::new();
        for _ in 0..TICKS {
            now = checks.due().expect("due");
            let turn = checks.take(now);
            assert!(turn.len() <= 17, "{}", turn.len());
            let number =
                |timeline: &TimelineId| timeline.owner().trim_start_matches("user").parse::<usize>().expect("a number");
            let shards: HashSet<ShardId> = turn.iter().map(|timeline| shard(number(timeline))).collect();
            assert!(shards.len() <= 2, "{shards:?}");
            seen.extend(turn);
        }
        assert_eq!(seen[..1000].iter().collect::<HashSet<_>>().len(), 1000);
        assert_eq!(seen[1000..], seen[..seen.len() - 1000], "then from the first on");
    }

    #[test]
    fn who_has_signed_out_has_no_turn() {
        let now = Instant::now();
        let mut checks = signed_in(2, now);
        checks.remove(inbox(0), shard(0));
        assert_eq!(checks.take(now), [inbox(1)]);
        assert_eq!(checks.take(now), [inbox(1)]);
        checks.remove(inbox(1), shard(1));
        assert_eq!((checks.take(now), checks.due()), (vec![], None));
    }

    #[test]
    fn whoever_may_have_lost_something_is_first_and_waits_while_answers_are_due() {
        let now = Instant::now();
        let mut checks = signed_in(100, now);
        checks.soon(&inbox(50));
        checks.asked();
        assert_eq!(checks.take(now), []);
        checks.answered();
        assert_eq!(checks.take(now), [inbox(0), inbox(10), inbox(50)]);
        checks.all_soon();
        assert_eq!(checks.take(now).len(), 100);
        assert_eq!(checks.take(now).len(), 2);
        checks.ring_changed(now);
        assert_eq!(checks.take(now).len(), 2);
        let later = now + RING_SETTLES;
        checks.asked();
        assert_eq!(checks.take(later), []);
        assert!(checks.due().is_some_and(|due| due > later), "it waits for its answers");
        checks.answered();
        assert_eq!(checks.take(later).len(), 100, "once");
        assert_eq!(checks.take(later).len(), 2);
    }

    #[test]
    fn who_comes_while_all_are_checked_takes_nobodys_turn() {
        let now = Instant::now();
        let mut checks = signed_in(TIMELINES + 10, now);
        checks.all_soon();
        let mut seen: HashSet<TimelineId> = checks.take(now).into_iter().collect();
        // In the shard that comes last.
        (0..5).for_each(|number| checks.add(&inbox(1_000_000 + number), shard(9)));
        seen.extend(checks.take(now));
        assert!((0..TIMELINES + 10).all(|number| seen.contains(&inbox(number))));
    }
}
