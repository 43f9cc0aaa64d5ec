//! What one user may have and do on this gateway, over all of its connections.

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

const PARTS: usize = 16;
/// Users in a part up to which nobody is looked for who can be forgotten.
const FEW: usize = 64;
const SWEEP_NS: u64 = 60_000_000_000;

/// Bounded by the connections, and by those users whose sends of the last seconds still count.
pub(crate) struct Users {
    parts: [Mutex<Part>; PARTS],
    /// With a key of this process: nobody can find two users with one hash.
    hasher: RandomState,
    most_connections: u32,
    /// Between two sends in the long run, and how far ahead of that a user may be.
    interval_ns: u64,
    ahead_ns: u64,
    start: Instant,
}

#[derive(Default)]
struct Part {
    users: HashMap<u64, Entry>,
    /// Those who can be forgotten are looked for when there are so many, or when it was long ago.
    sweep_at: usize,
    swept_ns: u64,
}

struct Entry {
    connections: u32,
    user: Arc<User>,
}

struct User {
    /// When all that was sent would have been sent at the rate of the long run, in nanoseconds from the start. (The
    /// generic cell rate algorithm, ITU-T I.371: a token bucket in one number.)
    sent_until_ns: AtomicU64,
}

/// A connection's part in its user's bounds; given back when it is dropped.
pub(crate) struct Share {
    users: Arc<Users>,
    user: Arc<User>,
    key: u64,
}

/// The user has as many connections as it may.
#[derive(Debug)]
pub(crate) struct TooMany;

impl Users {
    pub(crate) fn new(most_connections: u32, sends_per_second: u32, send_burst: u32) -> Arc<Self> {
        let interval_ns = 1_000_000_000 / u64::from(sends_per_second.max(1));
        Arc::new(Self {
            parts: Default::default(),
            hasher: RandomState::new(),
            most_connections,
            interval_ns,
            ahead_ns: interval_ns * u64::from(send_burst),
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
        Ok(Share { users: Arc::clone(self), user: Arc::clone(&entry.user), key })
    }

    fn part(&self, key: u64) -> &Mutex<Part> {
        &self.parts[(key % PARTS as u64) as usize]
    }

    fn ns(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

impl User {
    /// Do sends of before still count?
    fn owes(&self, now_ns: u64) -> bool {
        self.sent_until_ns.load(Ordering::Relaxed) > now_ns
    }
}

impl Share {
    /// May the user send now? If not: after how long it may, if nobody else does.
    pub(crate) fn send(&self, now: Instant) -> Result<(), Duration> {
        let (now_ns, users) = (self.users.ns(now), &self.users);
        let next = |until: u64| until.max(now_ns) + users.interval_ns;
        let within = |until: u64| (next(until) <= now_ns + users.ahead_ns).then(|| next(until));
        match self.user.sent_until_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within) {
            Ok(_) => Ok(()),
            Err(until) => Err(Duration::from_nanos(next(until).saturating_sub(now_ns + users.ahead_ns))),
        }
    }

    /// Takes one that is not there yet, and says after how long it will be.
    pub(crate) fn owe(&self, now: Instant) -> Duration {
        let (now_ns, users) = (self.users.ns(now), &self.users);
        let taken = self
            .user
            .sent_until_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| Some(until.max(now_ns) + users.interval_ns));
        // It always says Some.
        let (Ok(until) | Err(until)) = taken;
        Duration::from_nanos((until.max(now_ns) + users.interval_ns).saturating_sub(now_ns + users.ahead_ns))
    }

    /// After how long there will be one.
    pub(crate) fn wait_for_one(&self, now: Instant) -> Duration {
        let (now_ns, users) = (self.users.ns(now), &self.users);
        let until = self.user.sent_until_ns.load(Ordering::Relaxed).max(now_ns);
        Duration::from_nanos((until + users.interval_ns).saturating_sub(now_ns + users.ahead_ns))
    }

    /// One that was taken was not used.
    pub(crate) fn give_back(&self) {
        let interval_ns = self.users.interval_ns;
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
        let (users, now) = (Users::new(2, 10, 5), Instant::now());
        let first = users.join(&user("alice"), now).expect("one");
        let _second = users.join(&user("alice"), now).expect("two");
        assert!(users.join(&user("alice"), now).is_err());
        users.join(&user("bob"), now).expect("another user");
        drop(first);
        users.join(&user("alice"), now).expect("room again");
    }

    #[test]
    fn the_connections_of_a_user_share_a_burst_and_a_rate_also_when_they_come_and_go() {
        let (users, now) = (Users::new(9, 10, 5), Instant::now());
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
    fn who_has_gone_is_forgotten() {
        let (users, now) = (Users::new(1, 10, 5), Instant::now());
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
