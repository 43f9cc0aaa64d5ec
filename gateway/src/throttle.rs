//! Limits failed sign-ins: by address, by user, and by address and user.
//!
//! Password guessing is slowed down, whether it comes from one address, from many addresses against one user, or
//! against many users. Failures of others do not lock out a user with the right password: one client with an old
//! password behind an office's address uses up its allowance with this one user only, and where a user has signed in
//! before, others' failures do not count.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hash, RandomState},
    net::IpAddr,
    time::{Duration, Instant},
};

use carillon_proto::{UserId, seldom::Seldom};
use parking_lot::Mutex;

use crate::{conversation::rate::Bucket, network::Network};

/// Most addresses, users, and pairs that are remembered. Beyond it, entries with a full allowance are dropped, then
/// any: an attacker with that many gains attempts, others lose nothing.
const MAX_REMEMBERED: usize = 16_384;
/// Burst of failed sign-ins in the log; after that, one each interval.
const TOLD_AT_ONCE: u32 = 20;
const TELL: Duration = Duration::from_secs(1);
/// After this time without a logged failure, the number of the others is logged.
pub(crate) const TELL_REST: Duration = Duration::from_secs(10);

/// A burst, and the number that comes back each minute.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowed {
    pub(crate) burst: u32,
    pub(crate) per_minute: u32,
}

/// The limits on attempts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tries {
    /// Failures of one address, for any user.
    pub(crate) of_address: Allowed,
    /// Failures for one user from all addresses, and from one address.
    pub(crate) of_user: Allowed,
    /// Password sign-ins of one address that have started and not succeeded.
    pub(crate) begun: Allowed,
}

pub(crate) struct Throttle {
    by_address: Buckets<Network>,
    by_user: Buckets<u64>,
    by_pair: Buckets<u64>,
    begun: Buckets<Network>,
    /// Where users have signed in by password, and when.
    good: Mutex<HashMap<u64, Instant>>,
    hasher: RandomState,
    told: Seldom,
}

struct Buckets<K> {
    allowed: Allowed,
    buckets: Mutex<HashMap<K, Bucket>>,
}

impl Throttle {
    pub(crate) fn new(tries: Tries) -> Self {
        Self {
            by_address: Buckets::new(tries.of_address),
            by_user: Buckets::new(tries.of_user),
            by_pair: Buckets::new(tries.of_user),
            begun: Buckets::new(tries.begun),
            good: Mutex::default(),
            hasher: RandomState::new(),
            told: Seldom::new(TOLD_AT_ONCE, TELL),
        }
    }

    /// Ok if the address may try a credential that can be guessed; otherwise the delay.
    pub(crate) fn check_address(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        self.by_address.check(&Network::of(address), now)
    }

    /// Ok if a password sign-in may start. Its cost is returned by [`Throttle::succeeded`], and over time.
    pub(crate) fn begin(&self, address: IpAddr, user: &UserId, now: Instant) -> Result<(), Duration> {
        let network = Network::of(address);
        let pair = self.pair(network, user);
        self.by_pair.check(&pair, now)?;
        if !self.good.lock().contains_key(&pair) {
            self.by_address.check(&network, now)?;
            self.by_user.check(&self.hasher.hash_one(user.as_str()), now)?;
        }
        self.begun.take(network, now)
    }

    /// A token or password was wrong. `user`: for a password.
    pub(crate) fn failed(&self, address: IpAddr, user: Option<&UserId>, now: Instant) {
        let network = Network::of(address);
        // An empty bucket is intended.
        let _ = self.by_address.take(network, now);
        if let Some(user) = user {
            let _ = self.by_user.take(self.hasher.hash_one(user.as_str()), now);
            let _ = self.by_pair.take(self.pair(network, user), now);
        }
    }

    /// The password was right.
    pub(crate) fn succeeded(&self, address: IpAddr, user: &UserId, now: Instant) {
        let network = Network::of(address);
        self.begun.give_back(&network);
        let mut good = self.good.lock();
        if good.len() >= MAX_REMEMBERED {
            // Drops the older half: half of an attacker's entries may be among the newer ones, but those passwords were
            // right.
            let mut times: Vec<Instant> = good.values().copied().collect();
            let (_, middle, _) = times.select_nth_unstable(MAX_REMEMBERED / 2);
            let middle = *middle;
            good.retain(|_, at| *at > middle);
        }
        good.insert(self.pair(network, user), now);
    }

    /// `Some` if this failure is to be logged, with the number left out before it.
    pub(crate) fn tell(&self, now: Instant) -> Option<u64> {
        self.told.turn(now)
    }

    /// The number of failures that were left out, if any.
    pub(crate) fn not_told(&self) -> Option<u64> {
        self.told.take_left_out()
    }

    fn pair(&self, network: Network, user: &UserId) -> u64 {
        self.hasher.hash_one((network, user.as_str()))
    }
}

impl<K: Hash + Eq> Buckets<K> {
    fn new(allowed: Allowed) -> Self {
        Self { allowed, buckets: Mutex::default() }
    }

    fn check(&self, key: &K, now: Instant) -> Result<(), Duration> {
        self.buckets.lock().get_mut(key).map_or(Ok(()), |bucket| bucket.check(now))
    }

    fn take(&self, key: K, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock();
        if buckets.len() >= MAX_REMEMBERED && !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| !bucket.is_full(now));
            if buckets.len() >= MAX_REMEMBERED {
                buckets.clear();
            }
        }
        let Allowed { burst, per_minute } = self.allowed;
        buckets.entry(key).or_insert_with(|| Bucket::new(f64::from(per_minute) / 60.0, burst, now)).take(now)
    }

    fn give_back(&self, key: &K) {
        if let Some(bucket) = self.buckets.lock().get_mut(key) {
            bucket.give_back();
        }
    }
}

#[cfg(test)]
impl Tries {
    /// Few, so that tests come to the end of them.
    pub(crate) fn few() -> Self {
        // A try comes back in ten seconds: the derivation of a key takes as long on a busy machine.
        let allowed = |burst| Allowed { burst, per_minute: 6 };
        Self { of_address: allowed(4), of_user: allowed(2), begun: allowed(8) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn user(text: &str) -> UserId {
        UserId::new(text).expect("valid")
    }

    #[test]
    fn failures_are_counted_by_network_and_forgiven_with_time() {
        let (throttle, now) = (Throttle::new(Tries::few()), Instant::now());
        for neighbour in ["2001:db8::1", "2001:db8::2", "2001:db8::1", "2001:db8::2"] {
            throttle.check_address(at(neighbour), now).expect("may try");
            throttle.failed(at(neighbour), None, now);
        }
        throttle.check_address(at("2001:db8::3"), now).expect_err("the same network");
        throttle.check_address(at("2001:db8:0:1::3"), now).expect("another network");
        throttle.check_address(at("192.0.2.1"), now).expect("another address");
        throttle.check_address(at("2001:db8::3"), now + Duration::from_secs(11)).expect("one came back");
    }

    #[test]
    fn one_client_with_a_wrong_password_does_not_lock_out_its_neighbours() {
        let (throttle, now) = (Throttle::new(Tries::few()), Instant::now());
        let (office, bad, good) = (at("192.0.2.1"), user("bad"), user("good"));
        let mut tried = 0;
        for _ in 0..100 {
            if throttle.begin(office, &bad, now).is_ok() {
                throttle.failed(office, Some(&bad), now);
                tried += 1;
            }
        }
        assert_eq!(tried, 2, "what one user may have");
        throttle.begin(office, &good, now).expect("another user");
    }

    #[test]
    fn a_user_is_guessed_at_from_many_addresses_and_gets_in_from_where_it_was_before() {
        let (throttle, now) = (Throttle::new(Tries::few()), Instant::now());
        let (victim, home) = (user("victim"), at("198.51.100.1"));
        throttle.begin(home, &victim, now).expect("may try");
        throttle.succeeded(home, &victim, now);
        let guesses = (0..100u32).filter(|i| {
            let address = IpAddr::V4((0xc000_0200 + i).into());
            let begun = throttle.begin(address, &victim, now).is_ok();
            if begun {
                throttle.failed(address, Some(&victim), now);
            }
            begun
        });
        assert_eq!(guesses.count(), 2);
        throttle.begin(home, &victim, now).expect("its own address");
        throttle.begin(at("198.51.100.2"), &victim, now).expect_err("one it was never at");
        // At home, too, a wrong password is counted.
        for _ in 0..2 {
            throttle.failed(home, Some(&victim), now);
        }
        throttle.begin(home, &victim, now).expect_err("guessed at from home");
    }

    #[test]
    fn many_names_from_one_address_are_one_guesser() {
        let (throttle, now) = (Throttle::new(Tries::few()), Instant::now());
        let tried = (0..100).filter(|i| {
            let name = user(&format!("user-{i}"));
            let begun = throttle.begin(at("192.0.2.1"), &name, now).is_ok();
            if begun {
                throttle.failed(at("192.0.2.1"), Some(&name), now);
            }
            begun
        });
        assert_eq!(tried.count(), 4);
    }

    #[test]
    fn what_is_begun_and_not_finished_has_an_end_and_what_succeeds_costs_nothing() {
        let (throttle, now) = (Throttle::new(Tries::few()), Instant::now());
        let (address, alice) = (at("192.0.2.1"), user("alice"));
        for _ in 0..100 {
            throttle.begin(address, &alice, now).expect("right ones have no end");
            throttle.succeeded(address, &alice, now);
        }
        let begun = (0..100).filter(|_| throttle.begin(address, &alice, now).is_ok()).count();
        assert_eq!(begun, 8);
        throttle.begin(at("192.0.2.2"), &alice, now).expect("another address");
    }

    #[test]
    fn the_tables_are_bounded() {
        let (throttle, now) = (Throttle::new(Tries::few()), Instant::now());
        for i in 0..2 * MAX_REMEMBERED as u32 {
            let (address, name) = (IpAddr::V4(i.into()), user(&format!("user-{i}")));
            let _ = throttle.begin(address, &name, now);
            throttle.failed(address, Some(&name), now);
            throttle.succeeded(address, &name, now);
        }
        assert!(throttle.by_address.buckets.lock().len() <= MAX_REMEMBERED);
        assert!(throttle.by_user.buckets.lock().len() <= MAX_REMEMBERED);
        assert!(throttle.by_pair.buckets.lock().len() <= MAX_REMEMBERED);
        assert!(throttle.begun.buckets.lock().len() <= MAX_REMEMBERED);
        assert!(throttle.good.lock().len() <= MAX_REMEMBERED);
    }
}
