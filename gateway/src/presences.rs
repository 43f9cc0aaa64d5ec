//! Presence of contacts on its way to clients. It is gathered: a connection is written to at most once in an interval because of it.

use std::{
    collections::BTreeMap,
    future::pending,
    hash::BuildHasher as _,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use carillon_proto::{
    Keyed, clock,
    pb::{client::Presence, link},
};
use parking_lot::Mutex;
use tokio::{sync::Notify, task::yield_now};

use crate::{connections::Connections, feeds::Form, mailbox::Mailbox};

/// Connections that are due within this time are told together.
const STEP: Duration = Duration::from_millis(50);
/// Connections that are told before other tasks have a turn.
const PIECE: usize = 256;

/// The presence of one contact, shared by all who are told it.
#[derive(Debug)]
pub(crate) struct PresenceNews {
    pub(crate) presence: Presence,
    /// Of the contact's name.
    pub(crate) hash: u64,
    /// The encoded presence in each form, made for the first client that needs it.
    rendered: [OnceLock<Bytes>; Form::ALL],
}

/// The presences of one gateway that wait for their time.
pub(crate) struct Presences {
    interval: Duration,
    connections: Arc<Connections>,
    begun: Instant,
    /// Connections that are told next, each once, by their time. Bounded by the connections.
    due: Mutex<BTreeMap<Instant, Vec<Arc<Mailbox>>>>,
    /// Notified when something is due sooner than the task knows.
    moved: Notify,
}

impl PresenceNews {
    pub(crate) fn new(presence: Presence) -> Self {
        let hash = Keyed::default().hash_one(&*presence.user);
        Self { presence, hash, rendered: Default::default() }
    }

    /// True if who is told this needs to know nothing of the earlier one.
    pub(crate) fn replaces(&self, earlier: &Self) -> bool {
        let (this, earlier) = (&self.presence, &earlier.presence);
        // Last seen is said once, and counts also afterwards.
        this.user == earlier.user
            && (this.era, this.number) >= (earlier.era, earlier.number)
            && (earlier.last_seen_ms == 0 || this.last_seen_ms != 0)
    }

    /// Approximate encoded size, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.presence.user.len() + self.presence.status.len() + 48
    }

    /// The encoded presence in this form; `render` makes it for the first client that needs it.
    pub(crate) fn rendered<E>(
        &self,
        form: Form,
        render: impl FnOnce(&Presence) -> Result<Bytes, E>,
    ) -> Result<&Bytes, E> {
        let place = &self.rendered[form as usize];
        if let Some(rendered) = place.get() {
            return Ok(rendered);
        }
        let rendered = render(&self.presence)?;
        Ok(place.get_or_init(|| rendered))
    }
}

impl PartialEq for PresenceNews {
    fn eq(&self, other: &Self) -> bool {
        self.presence == other.presence
    }
}

impl Presences {
    /// `interval`: between two times at which a connection is told; zero: each presence is told at once.
    pub(crate) fn new(interval: Duration, connections: Arc<Connections>, begun: Instant) -> Self {
        Self { interval, connections, begun, due: Mutex::default(), moved: Notify::new() }
    }

    /// A router has told these connections what contacts show.
    pub(crate) fn told(&self, connections: &[u64], told: link::Presences, now: Instant) {
        let interval = Some(self.interval).filter(|interval| !interval.is_zero() && !told.asked);
        let news: Vec<_> = told.presences.into_iter().map(|presence| Arc::new(PresenceNews::new(presence))).collect();
        let mut waiting = Vec::new();
        for connection in connections {
            if let Some(mailbox) = self.connections.get(*connection)
                && let Some(at) = mailbox.presences(&news, interval, now)
            {
                waiting.push((self.step_of(at), mailbox));
            }
        }
        if waiting.is_empty() {
            return;
        }
        let mut due = self.due.lock();
        let first = due.first_key_value().map(|(at, _)| *at);
        for (at, mailbox) in waiting {
            due.entry(at).or_default().push(mailbox);
        }
        if due.first_key_value().map(|(at, _)| *at) != first {
            self.moved.notify_one();
        }
    }

    /// Tells connections whose time has come. Runs until it is cancelled.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let sleep = async {
                match self.wake_at() {
                    Some(at) => clock::sleep_until(at.into()).await,
                    None => pending().await,
                }
            };
            // Both are cancel-safe.
            tokio::select! {
                biased;
                () = self.moved.notified() => continue,
                () = sleep => {}
            }
            let now = clock::now().into_std();
            for (number, mailbox) in self.take_due(now).into_iter().enumerate() {
                mailbox.ring(now);
                if number % PIECE == PIECE - 1 {
                    yield_now().await;
                }
            }
        }
    }

    /// The time at which `take_due` has something.
    fn wake_at(&self) -> Option<Instant> {
        self.due.lock().first_key_value().map(|(at, _)| *at)
    }

    /// Connections that are to be told now.
    fn take_due(&self, now: Instant) -> Vec<Arc<Mailbox>> {
        let mut due = self.due.lock();
        let mut taken = Vec::new();
        while let Some(first) = due.first_entry().filter(|first| *first.key() <= now) {
            taken.append(&mut first.remove());
        }
        taken
    }

    /// The end of the step in which this time is.
    fn step_of(&self, at: Instant) -> Instant {
        let since = at.saturating_duration_since(self.begun).as_nanos();
        let steps = u32::try_from(since / STEP.as_nanos() + 1).unwrap_or(u32::MAX);
        self.begun + STEP * steps
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::{pb::client::Show, tasks::Tasks};
    use futures_util::FutureExt as _;

    use super::*;
    use crate::conversation::Input;

    const INTERVAL: Duration = Duration::from_secs(1);

    fn presence(user: &str, number: u64, show: Show) -> Presence {
        Presence { user: user.to_owned(), show: show.into(), era: 1, number, ..Presence::default() }
    }

    struct World {
        presences: Presences,
        mailboxes: Vec<Arc<Mailbox>>,
        now: Instant,
    }

    impl World {
        fn new(interval: Duration, connections: u64) -> Self {
            let open = Arc::new(Connections::new());
            let mailboxes: Vec<_> = (0..connections).map(|_| Arc::default()).collect();
            for (number, mailbox) in (0..).zip(&mailboxes) {
                open.insert(number, Arc::clone(mailbox));
            }
            let now = Instant::now();
            Self { presences: Presences::new(interval, open, now), mailboxes, now }
        }

        fn told(&self, connections: &[u64], presence: Presence, asked: bool) {
            let told = link::Presences { presences: vec![presence], asked, ..link::Presences::default() };
            self.presences.told(connections, told, self.now);
        }

        /// Until nothing waits any more, or this long.
        fn passes(&mut self, time: Duration) {
            let until = self.now + time;
            while let Some(at) = self.presences.wake_at().filter(|at| *at <= until) {
                self.now = at;
                self.presences.take_due(at).iter().for_each(|mailbox| mailbox.ring(at));
                if self.presences.wake_at().is_none() {
                    return;
                }
            }
            self.now = until;
        }

        /// The contacts of which the connection is told, with the numbers of their presences; `None` if it was not woken.
        fn woken(&self, connection: usize) -> Option<Vec<(String, u64)>> {
            self.mailboxes[connection].arrived().now_or_never().map(|()| self.takes(connection))
        }

        fn takes(&self, connection: usize) -> Vec<(String, u64)> {
            let inputs = self.mailboxes[connection].take().into_inputs();
            let news = inputs.flat_map(|input| match input {
                Input::Presences(news) => news,
                _ => panic!("nothing else was told"),
            });
            news.map(|news| (news.presence.user.clone(), news.presence.number)).collect()
        }
    }

    fn told(told: &[(&str, u64)]) -> Vec<(String, u64)> {
        told.iter().map(|(user, number)| ((*user).to_owned(), *number)).collect()
    }

    #[test]
    fn a_connection_is_woken_once_in_an_interval_and_sooner_after_a_quiet_time() {
        let mut world = World::new(INTERVAL, 2);
        world.told(&[0, 1], presence("bob", 1, Show::Online), false);
        assert_eq!(world.woken(0), None);
        world.passes(STEP);
        assert_eq!(
            [0, 1].map(|connection| world.woken(connection)),
            [Some(told(&[("bob", 1)])), Some(told(&[("bob", 1)]))]
        );
        let (first, mut number) = (world.now, 1);
        // A storm: the latest of each contact counts.
        while world.now + STEP < first + INTERVAL {
            number += 2;
            world.told(&[0], presence("bob", number, Show::Away), false);
            world.told(&[0], presence("carol", number + 1, Show::Away), false);
            world.now += STEP / 5;
            world.passes(Duration::ZERO);
            assert_eq!(world.woken(0), None);
        }
        world.passes(INTERVAL);
        assert_eq!(world.woken(0), Some(told(&[("bob", number), ("carol", number + 1)])));
        assert!((INTERVAL..=INTERVAL + STEP).contains(&(world.now - first)), "{:?}", world.now - first);
        world.now += INTERVAL;
        world.told(&[0], presence("bob", 999, Show::Online), false);
        world.passes(STEP);
        assert_eq!(world.woken(0), Some(told(&[("bob", 999)])));
    }

    #[test]
    fn an_answer_to_a_question_is_told_at_once_with_what_waits() {
        let mut world = World::new(INTERVAL, 1);
        world.told(&[0], presence("bob", 1, Show::Online), false);
        world.passes(STEP);
        assert_eq!(world.woken(0), Some(told(&[("bob", 1)])));
        world.told(&[0], presence("bob", 2, Show::Away), false);
        assert_eq!(world.woken(0), None);
        world.told(&[0], presence("carol", 3, Show::Online), true);
        assert_eq!(world.woken(0), Some(told(&[("bob", 2), ("carol", 3)])));
        world.passes(INTERVAL * 2);
        assert_eq!(world.woken(0), None, "nothing is told twice");
    }

    #[test]
    fn without_an_interval_everything_is_told_at_once() {
        let world = World::new(Duration::ZERO, 1);
        for number in 1..4 {
            world.told(&[0], presence("bob", number, Show::Online), false);
            assert_eq!(world.woken(0), Some(told(&[("bob", number)])));
        }
        assert_eq!(world.presences.wake_at(), None);
    }

    #[test]
    fn what_other_mail_has_carried_along_wakes_nobody_again() {
        let mut world = World::new(INTERVAL, 1);
        world.told(&[0], presence("bob", 1, Show::Online), false);
        world.passes(STEP);
        assert_eq!(world.woken(0), Some(told(&[("bob", 1)])));
        world.told(&[0], presence("bob", 2, Show::Away), false);
        assert_eq!(world.takes(0), told(&[("bob", 2)]), "as when other mail is taken");
        world.passes(INTERVAL * 2);
        assert_eq!(world.woken(0), None);
        world.told(&[0], presence("bob", 3, Show::Online), false);
        world.passes(STEP);
        assert_eq!(world.woken(0), Some(told(&[("bob", 3)])));
    }

    #[tokio::test]
    async fn the_task_tells_a_connection_when_its_time_has_come() {
        let mailbox = Arc::<Mailbox>::default();
        let open = Arc::new(Connections::new());
        open.insert(1, Arc::clone(&mailbox));
        let presences = Arc::new(Presences::new(STEP, open, Instant::now()));
        let tasks = Tasks::new();
        tasks.spawn("presences", Arc::clone(&presences).run());
        for number in 1..4 {
            let told = link::Presences { presences: vec![presence("bob", number, Show::Away)], ..Default::default() };
            presences.told(&[1], told, Instant::now());
            tokio::time::timeout(Duration::from_secs(10), mailbox.arrived()).await.expect("is woken");
            let inputs: Vec<_> = mailbox.take().into_inputs().collect();
            assert!(matches!(&inputs[..], [Input::Presences(news)] if news[0].presence.number == number));
        }
        tasks.stop();
    }

    #[test]
    fn when_a_contact_was_last_there_is_not_lost() {
        let news = |number, last_seen_ms| {
            PresenceNews::new(Presence { last_seen_ms, ..presence("bob", number, Show::Unspecified) })
        };
        assert!(news(2, 0).replaces(&news(1, 0)) && news(2, 60_000).replaces(&news(1, 0)));
        assert!(news(2, 120_000).replaces(&news(1, 60_000)));
        assert!(!news(2, 0).replaces(&news(1, 60_000)));
        assert!(!news(1, 0).replaces(&news(2, 0)), "an older one that comes late");
        assert!(!PresenceNews::new(presence("carol", 9, Show::Away)).replaces(&news(1, 0)));
    }
}
