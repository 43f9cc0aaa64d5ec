//! The send rate of a client, and when a send that was refused for its rate may be repeated.
//!
//! A send above the rate is refused with a time, at which a place is reserved for it: the send has paid, and passes
//! when it is repeated. The places are spaced, so a client that just repeats each send at its time gets through at
//! exactly the rate. A send pays both the rate of the connection and the rate of its user, which all connections of the
//! user share; its place is behind everything owed to either. A send that names a refused one (`Send.after`) is refused
//! as well, before anything is done for it, and its place is behind the one it names.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::LazyLock,
    time::{Duration, Instant},
};

use super::rate::Bucket;
use crate::users::Share;

/// Most refused sends of one connection whose places are kept: some 25 KiB. Further ones are refused with a time, too,
/// but have no place.
const MAX_PLACES: usize = 896;
/// A place is kept for this long after its time. Then it is free for others.
const LATE: Duration = Duration::from_secs(10);
/// Tolerance for the timers of clients.
const EARLY: Duration = Duration::from_millis(2);
/// Distance between a send and the one that follows it.
const BEHIND: Duration = Duration::from_millis(1);
/// The shortest retry delay of a refusal.
const SOONEST: Duration = Duration::from_millis(10);

/// The rate of one connection, and its share in the rate of its user.
pub(super) struct SendRate {
    bucket: Bucket,
    share: Share,
    /// `None`, the normal case, while no refused send is expected.
    later: Option<Box<Later>>,
}

/// Why a send must wait, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotNow {
    /// The rate is exceeded.
    Rate(Duration),
    /// The send that it names was refused and has not been repeated yet.
    Follows(Duration),
}

/// A send, by the hash of its client id under a secret key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Named(u64);

impl Named {
    /// `None` for the empty id, which names no send.
    pub(super) fn of(client_id: &str) -> Option<Self> {
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        (!client_id.is_empty()).then(|| Self(KEY.hash_one(client_id)))
    }
}

struct Later {
    places: HashMap<Named, Place>,
    sweep_at: Instant,
}

#[derive(Clone, Copy)]
struct Place {
    /// The send may not come before this.
    at: Instant,
    paid: Paid,
}

impl Place {
    /// How much too early the send may come. After a refusal without a time of its own, it may come at once.
    fn early(&self) -> Duration {
        match self.paid {
            Paid::No | Paid::Ahead => EARLY,
            Paid::Before => SOONEST,
        }
    }
}

/// Whether the send has been paid from the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paid {
    No,
    /// The send has not been admitted.
    Ahead,
    /// The send was admitted, and the service refused it afterwards.
    Before,
}

/// An admitted send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admitted {
    /// If the service refuses it for now, it is admitted again without paying: that is not the client's fault.
    Paid,
    /// The send had been admitted before. It pays for each further attempt, so it never exceeds twice the rate.
    Again,
}

impl SendRate {
    pub(super) fn new(per_second: u32, burst: u32, share: Share, now: Instant) -> Self {
        Self { bucket: Bucket::new(per_second.into(), burst, now), share, later: None }
    }

    /// Decides whether this send may go now. `after`: the client id that it names, or empty.
    pub(super) fn admit(&mut self, now: Instant, client_id: &str, after: &str) -> Result<Admitted, NotNow> {
        let Some(later) = &mut self.later else {
            return match self.take(now) {
                Ok(()) => Ok(Admitted::Paid),
                Err(_) => Err(NotNow::Rate(self.book(now, client_id, now) - now)),
            };
        };
        // An empty id is refused for itself, right after this.
        let Some(id) = Named::of(client_id) else {
            return self.take(now).map(|()| Admitted::Paid).map_err(NotNow::Rate);
        };
        let mine = later.places.get(&id).copied();
        if let Some(before) = later.before(Named::of(after)) {
            let behind = before.at + BEHIND;
            let at = match mine {
                Some(mine) => {
                    let at = mine.at.max(behind).max(now + SOONEST);
                    later.places.insert(id, Place { at, ..mine });
                    at
                }
                None => self.book(now, client_id, behind.max(now + SOONEST)),
            };
            return Err(NotNow::Follows(at - now));
        }
        let admitted = match mine {
            Some(mine) if mine.at > now + mine.early() => return Err(NotNow::Rate(mine.at - now)),
            Some(Place { paid: Paid::Ahead, .. }) => Admitted::Paid,
            Some(Place { paid: Paid::Before, .. }) => Admitted::Again,
            Some(Place { paid: Paid::No, .. }) | None => match self.take(now) {
                Ok(()) => Admitted::Paid,
                Err(_) => return Err(NotNow::Rate(self.book(now, client_id, now) - now)),
            },
        };
        if let Some(later) = &mut self.later {
            later.places.remove(&id);
        }
        Ok(admitted)
    }

    /// A send was refused for now, for a reason other than the rate. Returns its retry delay: `wait`, or more.
    /// `admitted`: `None` if it was not admitted.
    pub(super) fn postpone(
        &mut self,
        now: Instant,
        client_id: &str,
        after: Option<Named>,
        wait: Duration,
        admitted: Option<Admitted>,
    ) -> Duration {
        let later = self.later.get_or_insert_with(|| Box::new(Later::new(now)));
        let Some(id) = Named::of(client_id) else { return wait };
        let mine = later.places.get(&id).copied();
        let mut at = now + wait.max(SOONEST);
        if let Some(before) = later.before(after) {
            at = at.max(before.at + BEHIND);
        }
        if mine.is_some() || later.places.len() < MAX_PLACES {
            let paid = match admitted {
                Some(Admitted::Paid) => Paid::Before,
                Some(Admitted::Again) => Paid::No,
                None => mine.map_or(Paid::No, |mine| mine.paid),
            };
            later.places.insert(id, Place { at, paid });
        }
        at - now
    }

    /// Releases places whose time is long past.
    pub(super) fn sweep(&mut self, now: Instant) {
        let Some(later) = self.later.as_mut().filter(|later| later.sweep_at <= now) else { return };
        later.sweep_at = now + LATE;
        let (bucket, share) = (&mut self.bucket, &self.share);
        later.places.retain(|_, place| {
            let keep = place.at + LATE > now;
            if !keep && place.paid == Paid::Ahead {
                bucket.give_back();
                share.give_back();
            }
            keep
        });
        if later.places.is_empty() {
            self.later = None;
        }
    }

    /// When `sweep` is due.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.later.as_ref().map(|later| later.sweep_at)
    }

    /// Takes one send from both the connection's and the user's rate, or from neither.
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.bucket.check(now)?;
        self.share.send(now)?;
        self.bucket.take(now)
    }

    /// Reserves a send in advance. Returns the time at which it may be used, not before `earliest`.
    fn book(&mut self, now: Instant, client_id: &str, earliest: Instant) -> Instant {
        let later = self.later.get_or_insert_with(|| Box::new(Later::new(now)));
        match Named::of(client_id) {
            Some(id) if later.places.len() < MAX_PLACES || later.places.contains_key(&id) => {
                let at = earliest.max(now + self.bucket.owe(now)).max(now + self.share.owe(now));
                later.places.insert(id, Place { at, paid: Paid::Ahead });
                at
            }
            Some(_) | None => earliest.max(now + self.bucket.wait_for_one()).max(now + self.share.wait_for_one(now)),
        }
    }
}

/// Returns unused reservations to the user, so that its next connection does not wait behind them.
impl Drop for SendRate {
    fn drop(&mut self) {
        let places = self.later.iter().flat_map(|later| later.places.values());
        places.filter(|place| place.paid == Paid::Ahead).for_each(|_| self.share.give_back());
    }
}

impl Later {
    fn new(now: Instant) -> Self {
        Self { places: HashMap::new(), sweep_at: now + LATE }
    }

    /// The place of the previous send, if it was refused and has not been repeated yet.
    fn before(&self, after: Option<Named>) -> Option<Place> {
        self.places.get(&after?).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use std::sync::Arc;

    use carillon_proto::UserId;

    use super::*;
    use crate::{cluster_domains::ClusterDomains, users::Users};

    const MS: Duration = Duration::from_millis(1);

    /// A connection of a user who may send as much as anybody.
    fn alone(per_second: u32, burst: u32, now: Instant) -> SendRate {
        of(&Users::new(9, 1_000_000, 1_000_000, ClusterDomains::default()), per_second, burst, now)
    }

    fn of(users: &Arc<Users>, per_second: u32, burst: u32, now: Instant) -> SendRate {
        let share = users.join(&UserId::new("alice").expect("valid"), now).expect("room");
        SendRate::new(per_second, burst, share, now)
    }

    #[test]
    fn each_refused_send_is_told_a_later_time_and_goes_through_at_it() {
        let start = Instant::now();
        let mut pace = alone(10, 2, start);
        for id in ["1", "2"] {
            pace.admit(start, id, "").expect("within the burst");
        }
        let told: Vec<Duration> = (3..8)
            .map(|id| match pace.admit(start, &id.to_string(), "") {
                Err(NotNow::Rate(wait)) => wait,
                other => panic!("{id}: {other:?}"),
            })
            .collect();
        for (n, wait) in told.iter().enumerate() {
            let right = 100 * MS * (n as u32 + 1);
            assert!((right - MS..=right + MS).contains(wait), "{n}: {wait:?}");
        }
        for (id, wait) in (3..8).zip(told) {
            pace.admit(start + wait, &id.to_string(), "").expect("at its time");
        }
        assert!(matches!(pace.admit(start + 500 * MS, "new", ""), Err(NotNow::Rate(_))), "the rate was used up");
    }

    #[test]
    fn one_that_comes_too_early_is_told_the_same_time_and_pays_once() {
        let start = Instant::now();
        let mut pace = alone(10, 1, start);
        pace.admit(start, "1", "").expect("within the burst");
        pace.admit(start, "2", "").expect_err("over it");
        for _ in 0..50 {
            let Err(NotNow::Rate(wait)) = pace.admit(start + 50 * MS, "2", "") else { panic!("too early") };
            assert!((49 * MS..=51 * MS).contains(&wait), "{wait:?}");
        }
        pace.admit(start + 100 * MS, "2", "").expect("at its time");
        pace.admit(start + 200 * MS, "3", "").expect("one came back");
    }

    #[test]
    fn what_follows_a_refused_send_is_behind_it_and_costs_no_more_than_its_own_place() {
        let start = Instant::now();
        let mut pace = alone(10, 1, start);
        pace.admit(start, "1", "").expect("within the burst");
        let told = |pace: &mut SendRate, id: &str, after: &str| match pace.admit(start, id, after) {
            Err(NotNow::Rate(wait) | NotNow::Follows(wait)) => wait,
            Ok(_) => panic!("{id} went through"),
        };
        let (two, three) = (told(&mut pace, "2", "1"), told(&mut pace, "3", "2"));
        assert!(two < three, "{two:?} {three:?}");
        for _ in 0..100 {
            assert!(matches!(pace.admit(start, "3", "2"), Err(NotNow::Follows(_))));
        }
        pace.admit(start + two, "2", "1").expect("its time");
        pace.admit(start + three, "3", "2").expect("its time, and 2 went before");
        assert!(three < 250 * MS, "two places of 100 ms: {three:?}");
    }

    #[test]
    fn after_a_refusal_by_the_service_it_goes_again_without_paying_twice() {
        let start = Instant::now();
        let mut pace = alone(10, 2, start);
        pace.admit(start, "1", "").expect("goes");
        pace.admit(start, "2", "1").expect("goes");
        let one = pace.postpone(start, "1", None, 500 * MS, Some(Admitted::Paid));
        let two = pace.postpone(start, "2", Named::of("1"), Duration::ZERO, Some(Admitted::Paid));
        assert!(one >= 500 * MS && two > one, "{one:?} {two:?}");
        let at = start + one;
        // Others have used up the rate.
        for id in 0..7 {
            let _ = pace.admit(at, &format!("other {id}"), "");
        }
        pace.admit(at, "2", "1").expect_err("1 has not come again");
        pace.admit(start, "1", "").expect_err("before its time");
        assert_eq!(pace.admit(at, "1", ""), Ok(Admitted::Again));
        let at = start + two;
        assert_eq!(pace.admit(at, "2", "1"), Ok(Admitted::Again));
        // Refused once more by the service: from now on it pays like a new one.
        let again = pace.postpone(at, "2", None, 100 * MS, Some(Admitted::Again));
        assert!(matches!(pace.admit(at + again, "2", ""), Err(NotNow::Rate(_))), "the others were before it");
    }

    #[test]
    fn places_that_nobody_takes_are_given_back() {
        let start = Instant::now();
        let mut pace = alone(10, 5, start);
        for id in 0..2000 {
            let _ = pace.admit(start, &id.to_string(), "");
        }
        let mut now = start;
        while let Some(at) = pace.wake_at() {
            now = at;
            pace.sweep(now);
            assert!(now < start + Duration::from_secs(300), "nothing is kept for ever");
        }
        let taken = (0..100).filter(|id| pace.admit(now, &format!("new {id}"), "").is_ok()).count();
        assert_eq!(taken, 5, "the burst is whole again");
    }

    /// Clients that send each message again after its own time, and do nothing more clever, whatever the order of their
    /// timers. The messages are dealt to the connections in turn. Returns how long it takes until all are through.
    fn naive(paces: &mut [SendRate], sends: usize, start: Instant) -> Duration {
        let count = paces.len();
        // When, and for order at the same time a number that shuffles.
        let mut timers: BTreeMap<(Duration, usize), usize> = (0..sends).map(|n| ((Duration::ZERO, n), n)).collect();
        let (mut refusals, mut end, mut order) = (0, Duration::ZERO, Vec::new());
        while let Some(((at, _), n)) = timers.pop_first() {
            let behind = 3 * count;
            let after = if n >= behind { (n - behind).to_string() } else { String::new() };
            match paces[n % count].admit(start + at, &n.to_string(), &after) {
                Ok(_) => {
                    order.push(n);
                    end = end.max(at);
                }
                Err(NotNow::Rate(wait) | NotNow::Follows(wait)) => {
                    refusals += 1;
                    assert!(refusals < 4 * sends, "it spirals");
                    // Whole milliseconds, as on the wire.
                    let wait = Duration::from_millis(wait.as_micros().div_ceil(1000) as u64);
                    timers.insert((at + wait, (n * 7919) % sends), n);
                }
            }
        }
        assert_eq!(order.len(), sends);
        for to in 0..3 * count {
            let of_one: Vec<usize> = order.iter().copied().filter(|n| n % (3 * count) == to).collect();
            assert!(of_one.is_sorted(), "the order of one recipient is kept");
        }
        end
    }

    #[test]
    fn a_naive_client_gets_through_at_the_rate() {
        let start = Instant::now();
        let end = naive(&mut [alone(50, 200, start)], 700, start);
        let allowed = Duration::from_secs(10);
        assert!(end >= allowed - 25 * MS, "faster than the rate: {end:?}");
        assert!(end < allowed * 5 / 4, "{end:?} of virtual time for what the rate allows in {allowed:?}");
    }

    #[test]
    fn naive_connections_of_one_user_get_through_at_the_rate_of_the_user() {
        let start = Instant::now();
        let users = Users::new(9, 50, 100, ClusterDomains::default());
        let mut paces: Vec<SendRate> = (0..4).map(|_| of(&users, 50, 200, start)).collect();
        let end = naive(&mut paces, 600, start);
        let allowed = Duration::from_secs(10);
        assert!(end >= allowed - 25 * MS, "faster than the rate: {end:?}");
        assert!(end < allowed * 5 / 4, "{end:?} of virtual time for what the rate allows in {allowed:?}");
    }

    #[test]
    fn what_a_connection_did_not_use_is_its_users_again() {
        let start = Instant::now();
        let users = Users::new(9, 10, 5, ClusterDomains::default());
        let mut first = of(&users, 100, 100, start);
        let refused = (0..100).filter(|id| first.admit(start, &id.to_string(), "").is_err()).count();
        assert_eq!(refused, 95);
        drop(first);
        let mut next = of(&users, 100, 100, start);
        let Err(NotNow::Rate(wait)) = next.admit(start, "again", "") else { panic!("the burst was used up") };
        assert!((99 * MS..=101 * MS).contains(&wait), "{wait:?}");
    }
}
