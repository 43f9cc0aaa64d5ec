//! What one seed decides before the run begins.

use crate::{
    expiring::passing,
    files::files,
    groups::{Want, reads, wants},
    presence::{People, flaps, people},
    random::Random,
    reports::reports,
    schedule::{MS, SECOND, Time},
    scheduled::schedules,
    store::changes,
};

const SIGN_IN_TIMEOUT: Time = 3 * SECOND;
const SHORT_SIGN_IN_TIMEOUT: Time = 700 * MS;

/// How large the world is, what is sent in it and what goes wrong. Most runs have some of the faults only, so that each
/// is seen alone and with every other one.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) users: usize,
    /// The user of each device.
    pub(crate) devices: Vec<usize>,
    pub(crate) gateways: usize,
    pub(crate) routers: usize,
    /// Device, when, recipient, how many at once.
    pub(crate) bursts: Vec<(usize, Time, usize, u64)>,
    /// User, and when its account is deleted; the name gets another owner soon after that. At most once each: tokens tell
    /// their time in seconds, and a run takes a few.
    pub(crate) deletions: Vec<(usize, Time)>,
    /// After it nothing goes wrong any more.
    pub(crate) heals_at: Time,
    /// The time for which a client waits for the answer to its sign-in.
    pub(crate) sign_in_timeout: Time,
    pub(crate) send_timeout: Time,
    /// The time for which a gateway tries a request.
    pub(crate) gateway_deadline_ms: u64,
    pub(crate) window: u32,
    pub(crate) heartbeat_ms: u32,
    /// Least and most of a message's way.
    pub(crate) latency: (Time, Time),
    /// The time of a write to the disk.
    pub(crate) disk: (Time, Time),
    /// Most writes in an entry.
    pub(crate) entry: u64,
    /// Messages in a thousand that take much longer than the others.
    pub(crate) slow: u64,
    /// Mean pauses between faults of a kind; None: there are none.
    pub(crate) faults: Vec<(Fault, Time)>,
    /// Pushes that wait for a link; more are dropped.
    pub(crate) pushes: usize,
    /// Pushes in a thousand that come twice, or late.
    pub(crate) pushes_doubled: u64,
    pub(crate) pushes_late: u64,
    /// Messages that wait for another router; of more only the positions are told, later.
    pub(crate) hints: usize,
    /// Messages between routers in a thousand with which the link breaks.
    pub(crate) peers_break: u64,
    /// Most that a router learns of a change of the registry too late.
    pub(crate) registry_late: Time,
    /// Writes in a thousand that the store calls too many.
    pub(crate) busy: u64,
    /// Cursors of devices that are gone for so long, by the shard's clock, are swept out; 0: never.
    pub(crate) cursor_age_ms: u64,
    /// When the last storage node can read the level of this program: until then commands to timelines are of the level before
    /// cursors in groups. None: all can when the run begins.
    pub(crate) level_rises: Option<Time>,
    /// The time in which the whole store stands still: longer than gateways try, in one run of five.
    pub(crate) stands: Option<(Time, Time)>,
    /// The time for which a gateway stands still.
    pub(crate) gateways_stand: Option<(Time, Time)>,
    /// Acts of an operator on storage nodes, and their times; none in half of the runs.
    pub(crate) changes: Vec<(Change, Time)>,
    /// Wishes about groups, conversations, scheduled and expiring messages, reports and files: the user, the time, the wish.
    /// No files where the level rises.
    pub(crate) groups: Vec<(usize, Time, Want)>,
    /// Acts of users on contacts and presence. None where the level rises, because nobody has contacts before.
    pub(crate) people: People,
    /// Deliveries in a thousand after which the application acknowledges.
    pub(crate) acknowledged: u64,
}

/// A change of the storage nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// A fourth node comes, and replicas are spread.
    Add,
    /// This node is to leave.
    Remove(usize),
    /// This node ends, and its disk is gone. One with an empty disk takes its place soon after that.
    LoseDisk(usize),
    /// A replica moves.
    Move,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    ClientWire,
    LinkWire,
    StreamWire,
    ClientRestarts,
    ClientDoesNotRead,
    GatewayCrashes,
    GatewayPauses,
    RouterCrashes,
    RouterLeaves,
    RouterPauses,
    LeaderChanges,
    NodeCrashes,
}

const FAULTS: [(Fault, Time); 12] = [
    (Fault::ClientWire, 300 * MS),
    (Fault::LinkWire, 200 * MS),
    (Fault::StreamWire, 200 * MS),
    (Fault::ClientRestarts, 1000 * MS),
    (Fault::ClientDoesNotRead, 500 * MS),
    (Fault::GatewayCrashes, 1000 * MS),
    (Fault::GatewayPauses, 500 * MS),
    (Fault::RouterCrashes, 700 * MS),
    (Fault::RouterLeaves, 500 * MS),
    (Fault::RouterPauses, 500 * MS),
    (Fault::LeaderChanges, 200 * MS),
    (Fault::NodeCrashes, 1000 * MS),
];
/// Before it nothing goes wrong and nothing is sent: most are signed in by then.
pub(crate) const BEGINS: Time = 300 * MS;

impl Scenario {
    pub(crate) fn new(seed: u64, random: &mut Random) -> Self {
        let users = random.between(2, 4) as usize;
        let mut devices: Vec<usize> = (0..users).collect();
        devices.extend((0..users).filter(|_| random.in_thousand(300)));
        let heals_at = BEGINS + random.between(700, 2500) * MS;
        let mut bursts = Vec::new();
        for _ in 0..random.between(3, 8) {
            // Some write to themselves.
            let (from, to) = (random.index(devices.len()), random.index(users));
            let (mut at, pause) = (random.between(BEGINS, heals_at), random.between(MS, 100 * MS));
            for _ in 0..random.between(1, 5) {
                bursts.push((from, at, to, random.between(1, 4)));
                at += random.between(0, pause);
            }
        }
        let faulty =
            |random: &mut Random, often: u64| if random.in_thousand(500) { random.between(1, often) } else { 0 };
        let chosen = random.between(0, 900);
        let faults = FAULTS.into_iter().filter(|_| random.in_thousand(chosen)).collect();
        let least = random.between(20, 2000);
        let disk = if random.in_thousand(300) { random.between(5 * MS, 40 * MS) } else { random.between(100, 5 * MS) };
        let usual = |random: &mut Random| random.between(BEGINS, heals_at);
        let deleted = if random.in_thousand(500) { random.between(0, 600) } else { 0 };
        let mut deletions = Vec::new();
        for user in 0..users {
            if random.in_thousand(deleted) {
                deletions.push((user, usual(random)));
            }
        }
        let stands = stands(seed, BEGINS, heals_at);
        let heals_at = stands.map_or(heals_at, |(_, until)| heals_at.max(until));
        let people = people(seed, users, devices.len(), BEGINS, heals_at);
        let mut scenario = Self {
            people,
            stands,
            gateways_stand: None,
            changes: changes(seed, BEGINS, heals_at),
            groups: [wants, reads, schedules, passing, reports].map(|of| of(seed, users, BEGINS, heals_at)).concat(),
            deletions,
            users,
            devices,
            gateways: random.between(1, 3) as usize,
            routers: random.between(1, 4) as usize,
            bursts,
            heals_at,
            sign_in_timeout: SIGN_IN_TIMEOUT,
            send_timeout: random.between(3, 20) * SECOND,
            gateway_deadline_ms: random.between(1500, 10_000),
            window: random.between(1, 16) as u32,
            heartbeat_ms: 2000,
            latency: (least, least * random.between(1, 4)),
            disk: (disk, disk * random.between(1, 4)),
            entry: random.between(1, 16),
            slow: faulty(random, 30),
            faults,
            pushes: if random.in_thousand(500) { random.between(1, 3) as usize } else { 1024 },
            pushes_doubled: faulty(random, 300),
            pushes_late: faulty(random, 300),
            hints: if random.in_thousand(500) { random.between(1, 3) as usize } else { 1024 },
            peers_break: faulty(random, 300),
            registry_late: if random.in_thousand(500) { random.between(1, 1500) * MS } else { 20 * MS },
            busy: faulty(random, 50),
            cursor_age_ms: if random.in_thousand(500) { random.between(100, 1500) } else { 0 },
            acknowledged: random.between(0, 1000),
            level_rises: random.in_thousand(500).then(|| random.between(0, heals_at)),
        };
        match scenario.level_rises {
            Some(_) => Self { people: People::default(), ..scenario },
            None => {
                scenario.groups.extend(files(seed, users, BEGINS, heals_at));
                scenario
            }
        }
    }
}

impl Scenario {
    /// All faults, twice as often; and where there are contacts, devices change all the time what they show.
    pub(crate) fn become_hostile(&mut self, seed: u64) {
        self.faults = FAULTS.into_iter().map(|(fault, mean)| (fault, mean / 2)).collect();
        let mut random = Random::new(seed ^ 0x666c_6170);
        if !self.people.shows.is_empty() {
            for device in 0..self.devices.len() {
                self.people.shows.extend(flaps(device, BEGINS, self.heals_at, &mut random));
            }
        }
    }

    /// Has gateways stand still for longer than a client waits for its sign-in, so that the client signs in at another one meanwhile.
    pub(crate) fn let_gateways_stand(&mut self) {
        self.gateways = self.gateways.max(2);
        self.sign_in_timeout = SHORT_SIGN_IN_TIMEOUT;
        // No longer than a lease: a gateway whose lease has ended signs nobody in.
        self.gateways_stand = Some((SHORT_SIGN_IN_TIMEOUT, 3 * SECOND));
        self.faults = vec![(Fault::GatewayPauses, 1000 * MS), (Fault::ClientWire, 300 * MS)];
        self.heals_at += 8 * SECOND;
        self.deletions.clear();
        self.people = People::default();
    }
}

/// By random numbers of its own, so that the rest of a run stays what it was.
fn stands(seed: u64, from: Time, until: Time) -> Option<(Time, Time)> {
    let mut random = Random::new(seed ^ 0x7374_616e_6473);
    random.in_thousand(200).then(|| {
        let begins = random.between(from, until);
        (begins, begins + random.between(1500, 9000) * MS)
    })
}
