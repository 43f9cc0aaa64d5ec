//! A bound of the sign-ins a second, so that a herd whose gateway has died does not take the time that everybody else's
//! messages need.
//!
//! A sign-in above the rate is refused with a time, at which a place is reserved for it: whoever comes back at its time
//! gets in, and all together come at exactly the rate. A client that comes back, and tells how far it has its timelines
//! or shows a resume ticket, counts for one; one that begins anew, and is going to load them, for two. Only sign-ins with
//! right credentials are counted.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
    time::{Duration, Instant},
};

use carillon_proto::{DeviceId, UserId};
use parking_lot::Mutex;
use rand::RngExt as _;

use crate::conversation::rate::Bucket;

/// Most places that are kept: some 6 MB. Whoever finds none left comes back at any time within a while.
const MAX_PLACES: usize = 100_000;
/// No place is further away.
const FARTHEST: Duration = Duration::from_secs(60);
/// For how long a place waits for its client.
const KEPT: Duration = Duration::from_secs(30);
const RESUMES: u32 = 1;
const BEGINS: u32 = 2;

pub(crate) struct Herd {
    queue: Mutex<Queue>,
    hasher: RandomState,
}

struct Queue {
    per_second: u32,
    burst: u32,
    /// Full when the first client comes.
    bucket: Option<Bucket>,
    /// By user and device.
    places: HashMap<u64, Instant>,
    /// The places in the order of their times.
    order: VecDeque<(Instant, u64)>,
}

impl Herd {
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        let burst = burst.max(BEGINS);
        let queue = Queue { per_second, burst, bucket: None, places: HashMap::new(), order: VecDeque::new() };
        Self { queue: Mutex::new(queue), hasher: RandomState::new() }
    }

    /// Ok if the client may sign in now; otherwise the time until it may.
    pub(crate) fn admit(&self, user: &UserId, device: &DeviceId, resumes: bool, now: Instant) -> Result<(), Duration> {
        let who = self.hasher.hash_one((user.as_str(), device.as_str()));
        self.queue.lock().admit(who, if resumes { RESUMES } else { BEGINS }, now)
    }
}

impl Queue {
    fn admit(&mut self, who: u64, cost: u32, now: Instant) -> Result<(), Duration> {
        self.forget(now);
        if let Some(at) = self.places.get(&who).copied() {
            let early = at.saturating_duration_since(now);
            if !early.is_zero() {
                return Err(early);
            }
            self.places.remove(&who);
            return Ok(());
        }
        let bucket = self.bucket.get_or_insert_with(|| Bucket::new(self.per_second.into(), self.burst, now));
        // Places that others have reserved come first.
        let wait = bucket.wait_for(cost, now);
        if wait.is_zero() {
            bucket.pay(cost);
            return Ok(());
        }
        if wait > FARTHEST || self.order.len() >= MAX_PLACES {
            return Err(FARTHEST.mul_f64(rand::rng().random_range(0.5..1.0)));
        }
        bucket.pay(cost);
        self.places.insert(who, now + wait);
        self.order.push_back((now + wait, who));
        Err(wait)
    }

    /// Gives up the places whose clients have not come, and takes those that have come out of the order.
    fn forget(&mut self, now: Instant) {
        while let Some((at, who)) = self.order.front().copied() {
            let waits = self.places.get(&who) == Some(&at);
            if waits && now < at + KEPT {
                return;
            }
            self.order.pop_front();
            if waits {
                self.places.remove(&who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn herd() -> Herd {
        Herd::new(100, 10)
    }

    fn comes(herd: &Herd, number: u32, resumes: bool, now: Instant) -> Result<(), Duration> {
        let user = UserId::new(&format!("user-{number}")).expect("valid");
        herd.admit(&user, &DeviceId::new("phone").expect("valid"), resumes, now)
    }

    #[test]
    fn a_herd_comes_back_at_the_rate_each_at_its_own_time() {
        let now = Instant::now();
        let herd = herd();
        let waits: Vec<_> = (0..1000).map(|number| comes(&herd, number, true, now)).collect();
        assert!(waits[..10].iter().all(Result::is_ok), "the burst");
        let waits: Vec<_> = waits[10..].iter().map(|wait| wait.expect_err("above the rate")).collect();
        assert!(waits.is_sorted() && waits[0] <= 20 * MS, "{:?}", waits[0]);
        let last = waits[989];
        assert!((9_800 * MS..=10_000 * MS).contains(&last), "{last:?}");
        for (number, wait) in (10..).zip(&waits) {
            assert!(comes(&herd, number, true, now + *wait / 2).is_err(), "too early");
            comes(&herd, number, true, now + *wait + MS).expect("its place");
        }
        comes(&herd, 10, true, now + last + MS).expect_err("once");
    }

    #[test]
    fn who_begins_anew_counts_for_two() {
        let now = Instant::now();
        let herd = herd();
        let admitted = (0..20).filter(|number| comes(&herd, *number, false, now).is_ok()).count();
        assert_eq!(admitted, 5);
    }

    #[test]
    fn places_of_clients_that_do_not_come_are_given_up_and_bounded() {
        let now = Instant::now();
        let herd = Herd::new(1_000_000, 2);
        let refused = (0..MAX_PLACES as u32 + 100).filter(|number| comes(&herd, *number, true, now).is_err()).count();
        assert!(refused > MAX_PLACES);
        assert_eq!(herd.queue.lock().places.len(), MAX_PLACES);
        let late = comes(&herd, 1_000_000, true, now).expect_err("no place is left");
        assert!((FARTHEST / 2..=FARTHEST).contains(&late));
        comes(&herd, 1_000_000, true, now + KEPT + Duration::from_secs(1)).expect("nobody has come");
        let queue = herd.queue.lock();
        assert!(queue.places.is_empty() && queue.order.is_empty());
    }

    #[test]
    fn nobody_is_told_to_come_back_in_an_hour() {
        let now = Instant::now();
        let herd = Herd::new(1, 2);
        let longest = (0..1000).filter_map(|number| comes(&herd, number, true, now).err()).max();
        assert!(longest.is_some_and(|longest| longest <= FARTHEST), "{longest:?}");
    }
}
