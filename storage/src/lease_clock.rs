//! The registry's leader tracks leases, and advances the lease clock of its shard: leases end by that clock alone.
//!
//! Renewals stay in the leader's memory, and the clock advances only while a holder is silent: as long as all holders
//! are heard, nothing is written. When one is overdue, the leader advances the clock by the time since it was last
//! advanced, and the same commands renew the leases that were heard meanwhile. A new leader knows no renewals and
//! counts from the time at which it began to lead, which makes leases longer, never shorter. See
//! docs/adr/0006-lease-clock.md.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use carillon_proto::pb::store::{
    AdvanceLeaseClock, DirectoryCommand, Release, RenewLease, StoreError, directory_command::Op,
};
use futures_util::future::join_all;
use prost::Message as _;
use tokio::{
    sync::Mutex,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::{
    cluster::Cluster,
    machine::{Outcome, RegistryState},
    shard::{Reader, Shard},
};

const INTERVAL: Duration = Duration::from_millis(300);
/// The most time that is counted between two looks. After a longer gap this process or its machine was held up, and the
/// messages that arrived meanwhile have not been read. Uncounted time makes leases longer, which is safe.
const MOST: Duration = INTERVAL.saturating_mul(3);
/// Longest time that a renewal waits for commands in flight, and for proof that this node leads.
const LEADS: Duration = Duration::from_secs(1);

/// The leases as the registry's leader sees them.
#[derive(Default)]
pub(crate) struct Leases {
    /// Locked while commands are in flight, so that a renewal sees their result.
    watch: Mutex<Watch>,
    /// By lease: of those that have told this node while it led. At most one for each running lease.
    told: parking_lot::Mutex<BTreeMap<u64, Introduction>>,
}

/// What the holder of a lease has told of itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Introduction {
    /// `None`: a release before 0.2.0.
    pub(crate) release: Option<Release>,
    /// By which the operator knows a gateway; empty: not told.
    pub(crate) name: String,
}

/// Longer names are cut off.
const NAME_CHARS: usize = 128;

/// The result of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    Done,
    Ended,
    /// This node can't say: it does not lead, is not sure to lead, or has not seen the lease yet.
    NotHere,
}

impl Leases {
    /// The holder of this lease has just registered or renewed.
    pub(crate) fn note(&self, shard: &Shard, lease: u64, told: Introduction) {
        let Reader::Directory(reader) = shard.reader() else { return };
        if told != Introduction::default() && shard.group().leads() && reader.registry().borrow().has(lease) {
            self.told.lock().insert(lease, told);
        }
    }

    /// What the holder of this lease has told this node; nothing, if it has not.
    pub(crate) fn told(&self, lease: u64) -> Introduction {
        self.told.lock().get(&lease).cloned().unwrap_or_default()
    }

    pub(crate) async fn renew(&self, shard: &Shard, lease: u64) -> Renewal {
        let Reader::Directory(reader) = shard.reader() else { return Renewal::NotHere };
        {
            let Ok(mut watch) = timeout(LEADS, self.watch.lock()).await else { return Renewal::NotHere };
            if !shard.group().leads() || !watch.renew(lease, Instant::now()) {
                return Renewal::NotHere;
            }
        }
        // A newer leader may have ended the lease.
        if shard.group().linearize(LEADS).await.is_err() {
            return Renewal::NotHere;
        }
        if reader.registry().borrow().has(lease) { Renewal::Done } else { Renewal::Ended }
    }
}

impl Introduction {
    /// On one line, whatever the name is.
    pub(crate) fn new(release: Option<Release>, name: &str) -> Self {
        Self { release, name: name.chars().filter(|c| !c.is_control()).take(NAME_CHARS).collect() }
    }
}

pub(crate) async fn run(cluster: Arc<crate::cluster::Serving>, leases: Arc<Leases>) {
    let Some(shard) = cluster.get().and_then(Cluster::registry) else { return };
    let Reader::Directory(reader) = shard.reader() else { return };
    let registry = reader.registry();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = ticks.tick().await;
        let mut watch = leases.watch.lock().await;
        let words = watch.tick(now, shard.group().leads(), &registry.borrow());
        leases.told.lock().retain(|lease, _| registry.borrow().has(*lease));
        if let Some(words) = words {
            tell(&shard, &words).await;
        }
    }
}

/// The commands travel together, in this order.
async fn tell(shard: &Shard, words: &Words) {
    let renew = |lease: &u64| Op::RenewLease(RenewLease { lease: *lease });
    let advance = Op::AdvanceLeaseClock(AdvanceLeaseClock { elapsed_ms: words.elapsed_ms });
    let ops = words.before.iter().map(renew).chain([advance]).chain(words.after.iter().map(renew));
    let commands = ops.map(|op| DirectoryCommand { op: Some(op) }.encode_to_vec().into());
    for outcome in join_all(commands.map(|command| shard.write(command))).await {
        // Not retried: the command may have been carried out. Uncounted time makes leases longer, which is safe.
        if let Outcome::Error(StoreError { why: Some(why) }) = outcome {
            tracing::debug!(?why, "lease clock stood still");
        }
    }
}

/// Commands for the shard. They end no lease whose holder was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Words {
    /// Leases that are renewed before the clock advances, so that they do not end, and again after it, so that they run
    /// for their whole length.
    before: Vec<u64>,
    elapsed_ms: u32,
    after: Vec<u64>,
}

#[derive(Default)]
struct Watch {
    /// The time of the last look; `None` while this node does not lead.
    looked: Option<Instant>,
    /// The instant up to which the shard's clock has counted.
    counted: Option<Instant>,
    leases: BTreeMap<u64, Seen>,
    /// A holder was overdue at the last look.
    counts: bool,
}

struct Seen {
    ttl: Duration,
    /// When the lease was last renewed, or first seen.
    at: Instant,
    /// The shard has not been told of this renewal.
    untold: bool,
}

impl Seen {
    /// Half of its length has passed; holders renew after a third.
    fn is_overdue(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) >= self.ttl / 2
    }
}

impl Watch {
    /// Records a renewal. False if the lease is not known.
    fn renew(&mut self, lease: u64, now: Instant) -> bool {
        let Some(seen) = self.leases.get_mut(&lease) else { return false };
        (seen.at, seen.untold) = (now, true);
        true
    }

    fn tick(&mut self, now: Instant, leads: bool, registry: &RegistryState) -> Option<Words> {
        if !leads {
            *self = Self::default();
            return None;
        }
        let before = self.looked.replace(now);
        self.see(now, registry);
        if before.is_none() {
            // The previous leader may have renewed any of them without writing it. From here on all run for their whole
            // length.
            self.counted = Some(now);
            self.leases.values_mut().for_each(|seen| seen.untold = false);
            let all: Vec<u64> = self.leases.keys().copied().collect();
            return (!all.is_empty()).then_some(Words { before: all, elapsed_ms: 0, after: Vec::new() });
        }
        let counted = self.counted.unwrap_or(now);
        // Time in which this process was held up does not count.
        let lost = before.map_or(Duration::ZERO, |before| now.saturating_duration_since(before).saturating_sub(MOST));
        let counted = (counted + lost).min(now);
        let overdue = self.leases.values().any(|seen| seen.is_overdue(now));
        if !overdue && !self.counts {
            let oldest = self.leases.values().map(|seen| seen.at).min().unwrap_or(now);
            self.counted = Some(counted.max(oldest));
            return None;
        }
        self.counts = overdue;
        self.counted = Some(now);
        let heard = || self.leases.values().filter(|seen| !seen.is_overdue(now));
        // The leases that are renewed before have more than that left.
        let most = heard().map(|seen| seen.ttl * 3 / 4).min().unwrap_or(Duration::MAX);
        let elapsed_ms =
            u32::try_from(now.saturating_duration_since(counted).min(most).as_millis()).unwrap_or(u32::MAX);
        let (mut renewed, mut all) = (Vec::new(), Vec::new());
        for (lease, seen) in self.leases.iter_mut().filter(|(_, seen)| !seen.is_overdue(now)) {
            all.push(*lease);
            if std::mem::take(&mut seen.untold) {
                renewed.push(*lease);
            }
        }
        // After the last commands all leases run for their whole length, of which nothing is counted from then on.
        let after = if overdue { renewed.clone() } else { all };
        Some(Words { before: renewed, elapsed_ms, after })
    }

    fn see(&mut self, now: Instant, registry: &RegistryState) {
        self.leases.retain(|lease, _| registry.has(*lease));
        for (lease, ttl) in registry.ttls() {
            // It was registered since the last look, and the shard's clock may have stopped before that.
            self.leases.entry(lease).or_insert(Seen { ttl, at: now, untold: true });
        }
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::store::{NodeKind, RegisterNode};
    use proptest::prelude::*;

    use super::*;
    use crate::{engine::Changes, machine::Registry};

    const TTL_MS: u32 = 3000;

    /// A shard whose leader looks at it, and holders of leases.
    struct World {
        registry: Registry,
        watch: Watch,
        start: Instant,
        at: u64,
        ms: u64,
    }

    impl World {
        fn new() -> Self {
            Self { registry: Registry::default(), watch: Watch::default(), start: Instant::now(), at: 0, ms: 0 }
        }

        fn next(&mut self) -> u64 {
            self.at += 64;
            self.at
        }

        fn now(&self) -> Instant {
            self.start + Duration::from_millis(self.ms)
        }

        fn register(&mut self) -> u64 {
            let at = self.next();
            let node = RegisterNode {
                kind: NodeKind::Gateway.into(),
                address: String::new(),
                ttl_ms: TTL_MS,
                nonce: u128::from(at).to_be_bytes().to_vec().into(),
            };
            self.registry.register(at, &node, &mut Changes::default()).expect("well-formed")
        }

        /// Returns whether something was written.
        fn tick(&mut self, leads: bool) -> bool {
            let words = self.watch.tick(self.now(), leads, &self.registry.state());
            let Some(Words { before, elapsed_ms, after }) = words.clone() else { return false };
            let mut changes = Changes::default();
            for lease in before {
                self.registry.renew(lease, &mut changes);
            }
            let at = self.next();
            self.registry.advance(at, elapsed_ms, &mut changes);
            for lease in after {
                self.registry.renew(lease, &mut changes);
            }
            true
        }

        fn has(&self, lease: u64) -> bool {
            self.registry.state().has(lease)
        }
    }

    #[test]
    fn while_all_holders_are_heard_nothing_is_written() {
        let mut world = World::new();
        let leases = [world.register(), world.register()];
        world.tick(true);
        for round in 1..2000u64 {
            world.ms = round * 100;
            if round % 10 == 0 {
                let now = world.now();
                assert!(leases.iter().all(|lease| world.watch.renew(*lease, now)));
            }
            if round % 3 == 0 {
                assert!(!world.tick(true), "written after {} ms", world.ms);
            }
        }
        assert!(leases.iter().all(|lease| world.has(*lease)));
    }

    #[test]
    fn a_silent_holders_lease_ends_in_time_and_the_others_go_on() {
        let mut world = World::new();
        let (silent, heard) = (world.register(), world.register());
        world.tick(true);
        let (mut ended, mut last) = (None, 0);
        for ms in (100..20_000).step_by(100) {
            world.ms = ms;
            let now = world.now();
            if ms % 1000 == 0 {
                assert!(world.watch.renew(heard, now));
                if ms <= 5000 {
                    world.watch.renew(silent, now);
                    last = ms;
                }
            }
            if ms % 300 == 0 {
                world.tick(true);
            }
            if ended.is_none() && !world.has(silent) {
                ended = Some(ms);
            }
        }
        let after = ended.expect("ended") - last;
        assert!((u64::from(TTL_MS)..=u64::from(TTL_MS) + 300).contains(&after), "ended after {after} ms");
        assert!(world.has(heard));
        assert!(!world.tick(true), "nothing is left to be told");
    }

    #[test]
    fn a_leader_that_was_held_up_has_not_watched_meanwhile() {
        let mut world = World::new();
        let lease = world.register();
        world.tick(true);
        world.ms = 3_600_000;
        world.tick(true);
        assert!(world.has(lease), "what it said meanwhile has not been read");
        world.ms += 1000;
        let now = world.now();
        assert!(world.watch.renew(lease, now));
        for _ in 0..5 {
            world.ms += 300;
            world.tick(true);
        }
        assert!(world.has(lease));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Wait(u64),
        Renew(usize),
        Register,
        /// Another node leads from here on: what this one has in memory is gone.
        Changes,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            20 => (1..1500u64).prop_map(Step::Wait),
            20 => any::<usize>().prop_map(Step::Renew),
            2 => Just(Step::Register),
            1 => Just(Step::Changes),
        ]
    }

    proptest! {
        /// Whatever the leaders do: a holder that was told that its lease is renewed has it for its whole length from then on.
        #[test]
        fn no_lease_ends_while_its_holder_counts_on_it(steps in prop::collection::vec(step(), 1..300)) {
            let mut world = World::new();
            let mut held: Vec<(u64, u64)> = Vec::new();
            for step in steps {
                match step {
                    Step::Wait(ms) => {
                        let end = world.ms + ms;
                        while world.ms < end {
                            world.ms = (world.ms + 300).min(end);
                            world.tick(true);
                            for (lease, counted_from) in &held {
                                // What happens between two looks is not told apart.
                                let counts = world.ms < counted_from + u64::from(TTL_MS) - 300;
                                prop_assert!(world.has(*lease) || !counts, "ended at {}, held from {counted_from}", world.ms);
                            }
                        }
                    }
                    Step::Renew(which) if !held.is_empty() => {
                        let which = which % held.len();
                        let now = world.now();
                        if world.has(held[which].0) && world.watch.renew(held[which].0, now) {
                            held[which].1 = world.ms;
                        }
                    }
                    Step::Renew(_) => {}
                    Step::Register => {
                        let lease = world.register();
                        held.push((lease, world.ms));
                    }
                    Step::Changes => {
                        world.tick(false);
                        world.tick(true);
                    }
                }
            }
        }
    }

    #[test]
    fn who_does_not_lead_renews_nothing() {
        let mut world = World::new();
        let lease = world.register();
        let now = world.now();
        assert!(!world.watch.renew(lease, now), "it has not looked yet");
        world.tick(true);
        assert!(world.watch.renew(lease, now) && !world.watch.renew(lease + 1, now));
        world.tick(false);
        assert!(!world.watch.renew(lease, now));
    }
}
