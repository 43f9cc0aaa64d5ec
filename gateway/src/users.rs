//! Limits of one user on this gateway, over all of its connections.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use carillon_proto::UserId;
use parking_lot::Mutex;

use crate::cluster_domains::ClusterDomains;

const PARTS: usize = 16;
/// Up to this many users of a shard, no search for removable ones is done.
const FEW: usize = 64;
const SWEEP_NS: u64 = 60_000_000_000;

/// Bounded by the connections, plus users whose sends of the last seconds still count.
pub(crate) struct Users {
    parts: [Mutex<Part>; PARTS],
    /// Keyed for this process, so that nobody can construct collisions.
    hasher: RandomState,
    most_connections: u32,
    rate: Rate,
    send_burst: u32,
    domains: ClusterDomains,
    start: Instant,
}

/// The interval between two sends at the sustained rate, and how far ahead of it a user may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate {
    interval_ns: u64,
    ahead_ns: u64,
}

impl Rate {
    fn new(per_second: u32, burst: u32) -> Self {
        let interval_ns = 1_000_000_000 / u64::from(per_second.max(1));
        Self { interval_ns, ahead_ns: interval_ns * u64::from(burst) }
    }
}

/// Seconds of a domain's rate that a user may send at once.
const DOMAIN_BURST_S: u32 = 4;

#[derive(Default)]
struct Part {
    users: HashMap<u64, Entry>,
    /// Removable users are searched for at this size, or after a long time.
    sweep_at: usize,
    swept_ns: u64,
}

struct Entry {
    connections: u32,
    user: Arc<User>,
}

struct User {
    /// When everything sent so far would have been sent at the sustained rate, in nanoseconds from the start. (The
    /// generic cell rate algorithm, ITU-T I.371: a token bucket in one number.)
    sent_until_ns: AtomicU64,
}

/// A connection's share in its user's limits; released when it is dropped.
pub(crate) struct Share {
    users: Arc<Users>,
    user: Arc<User>,
    key: u64,
    /// `None`: the default one.
    domain: Option<String>,
}

/// The user has as many connections as allowed.
#[derive(Debug)]
pub(crate) struct TooMany;

impl Users {
    /// A domain narrows the rate of its users.
    pub(crate) fn new(
        most_connections: u32,
        sends_per_second: u32,
        send_burst: u32,
        domains: ClusterDomains,
    ) -> Arc<Self> {
        Arc::new(Self {
            parts: Default::default(),
            hasher: RandomState::new(),
            most_connections,
            rate: Rate::new(sends_per_second, send_burst),
            send_burst,
            domains,
            start: Instant::now(),
        })
    }

    pub(crate) fn join(self: &Arc<Self>, user: &UserId, now: Instant) -> Result<Share, TooMany> {
        let key = self.hasher.hash_one(user.as_str());
        let mut part = self.part(key).lock();
        let now_ns = self.ns(now);
        if part.users.len() >= part.sweep_at.max(FEW) || now_ns >= part.swept_ns + SWEEP_NS {
            part.users.retain(|_, entry| entry.connections > 0 || entry.user.owes(now_ns));
            part.sweep_at = 2 * part.users.len();
            part.swept_ns = now_ns;
        }
        let entry = part
            .users
            .entry(key)
            .or_insert_with(|| Entry { connections: 0, user: Arc::new(User { sent_until_ns: AtomicU64::new(0) }) });
        if entry.connections >= self.most_connections {
            return Err(TooMany);
        }
        entry.connections += 1;
        let domain = user.domain().map(str::to_owned);
        Ok(Share { users: Arc::clone(self), user: Arc::clone(&entry.user), key, domain })
    }

    fn part(&self, key: u64) -> &Mutex<Part> {
        &self.parts[(key % PARTS as u64) as usize]
    }

    fn ns(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

impl User {
    /// True if earlier sends still count.
    fn owes(&self, now_ns: u64) -> bool {
        self.sent_until_ns.load(Ordering::Relaxed) > now_ns
    }
}

impl Share {
    /// The rate of the user's domain, if it is lower than the gateway's.
    fn rate(&self) -> Rate {
        let (users, of_domain) = (&self.users, self.users.domains.sends_per_second(self.domain.as_deref()));
        if of_domain == 0 {
            return users.rate;
        }
        let narrow = Rate::new(of_domain, users.send_burst.min(of_domain.saturating_mul(DOMAIN_BURST_S)));
        if narrow.interval_ns > users.rate.interval_ns { narrow } else { users.rate }
    }

    /// Ok if the user may send now; otherwise the delay until it may, if no other connection sends.
    pub(crate) fn send(&self, now: Instant) -> Result<(), Duration> {
        let (now_ns, Rate { interval_ns, ahead_ns }) = (self.users.ns(now), self.rate());
        let next = |until: u64| until.max(now_ns) + interval_ns;
        let within = |until: u64| (next(until) <= now_ns + ahead_ns).then(|| next(until));
        match self.user.sent_until_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within) {
            Ok(_) => Ok(()),
            Err(until) => Err(Duration::from_nanos(next(until).saturating_sub(now_ns + ahead_ns))),
        }
    }

    /// Takes a send in advance, and returns the delay until it may be used.
    pub(crate) fn owe(&self, now: Instant) -> Duration {
        let (now_ns, Rate { interval_ns, ahead_ns }) = (self.users.ns(now), self.rate());
        let taken = self
            .user
            .sent_until_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| Some(until.max(now_ns) + interval_ns));
        // The closure always returns Some.
        let (Ok(until) | Err(until)) = taken;
        Duration::from_nanos((until.max(now_ns) + interval_ns).saturating_sub(now_ns + ahead_ns))
    }

    /// The delay until the next send.
    pub(crate) fn wait_for_one(&self, now: Instant) -> Duration {
        let (now_ns, Rate { interval_ns, ahead_ns }) = (self.users.ns(now), self.rate());
        let until = self.user.sent_until_ns.load(Ordering::Relaxed).max(now_ns);
        Duration::from_nanos((until + interval_ns).saturating_sub(now_ns + ahead_ns))
    }

    /// Returns an unused send.
    pub(crate) fn give_back(&self) {
        let Rate { interval_ns, .. } = self.rate();
        let back = |until: u64| Some(until.saturating_sub(interval_ns));
        let _ = self.user.sent_until_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, back);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut part = self.users.part(self.key).lock();
        let Some(entry) = part.users.get_mut(&self.key) else { return };
        entry.connections -= 1;
        if entry.connections == 0 && !entry.user.owes(self.users.ns(Instant::now())) {
            part.users.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str) -> UserId {
        UserId::new(text).expect("valid")
    }

    fn known(users: &Users) -> usize {
        users.parts.iter().map(|part| part.lock().users.len()).sum()
    }

    #[test]
    fn a_user_has_a_bound_of_connections_and_others_do_not_feel_it() {
        let (users, now) = (Users::new(2, 10, 5, ClusterDomains::default()), Instant::now());
        let first = users.join(&user("alice"), now).expect("one");
        let _second = users.join(&user("alice"), now).expect("two");
        assert!(users.join(&user("alice"), now).is_err());
        users.join(&user("bob"), now).expect("another user");
        drop(first);
        users.join(&user("alice"), now).expect("room again");
    }

    #[test]
    fn the_connections_of_a_user_share_a_burst_and_a_rate_also_when_they_come_and_go() {
        let (users, now) = (Users::new(9, 10, 5, ClusterDomains::default()), Instant::now());
        let (one, other) =
            (users.join(&user("alice"), now).expect("one"), users.join(&user("alice"), now).expect("two"));
        for share in [&one, &other, &one, &other, &one] {
            share.send(now).expect("within the burst");
        }
        let wait = other.send(now).expect_err("over the burst");
        assert!((Duration::from_millis(99)..=Duration::from_millis(101)).contains(&wait), "{wait:?}");
        drop((one, other));
        let again = users.join(&user("alice"), now).expect("again");
        again.send(now).expect_err("coming again is no way round it");
        again.send(now + wait + Duration::from_millis(1)).expect("one came back");
        users.join(&user("bob"), now).expect("joins").send(now).expect("another user");
        let later = now + Duration::from_secs(60);
        assert_eq!((0..100).take_while(|_| again.send(later).is_ok()).count(), 5, "never more than the burst");
    }

    #[test]
    fn a_domain_narrows_the_rate_of_its_users_at_once_and_never_widens_it() {
        use carillon_proto::pb::store::Domain;
        let domains = ClusterDomains::default();
        let (users, now) = (Users::new(9, 10, 100, domains.clone()), Instant::now());
        let [ann, bob, dan] =
            ["ann@acme.example", "bob@wide.example", "dan"].map(|name| users.join(&user(name), now).expect("joins"));
        let row = |name: &str, sends_per_second| Domain { name: name.into(), sends_per_second, ..Domain::default() };
        domains.heard(&[row("acme.example", 2), row("wide.example", 1000)]);
        let sends = |share: &Share| (0..1000).take_while(|_| share.send(now).is_ok()).count();
        assert_eq!([&ann, &bob, &dan].map(sends), [8, 100, 100], "four seconds of the domain's rate");
        let wait = ann.send(now).expect_err("over the burst");
        assert!((Duration::from_millis(499)..=Duration::from_millis(501)).contains(&wait), "{wait:?}");
        domains.heard(&[]);
        ann.send(now).expect("as all others");
    }

    #[test]
    fn who_has_gone_is_forgotten() {
        let (users, now) = (Users::new(1, 10, 5, ClusterDomains::default()), Instant::now());
        for i in 0..10_000 {
            let share = users.join(&user(&format!("user-{i}")), now).expect("joins");
            if i % 2 == 0 {
                share.send(now).expect("sends");
            }
        }
        let later = now + Duration::from_secs(120);
        for i in 0..10_000 {
            users.join(&user(&format!("later-{i}")), later).expect("joins");
        }
        assert_eq!(known(&users), 0);
    }
}
