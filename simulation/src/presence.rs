//! Contacts and presence: what users show, who may see it, and what devices are told of it. See docs/adr/0027-contacts.md and
//! docs/adr/0032-privacy.md.

use std::collections::{BTreeMap, BTreeSet};

use carillon_proto::{
    ShardKind, UserId,
    pb::{
        client::{self, SetPresence, Show},
        link::{
            ChangeContact, ChangePrivacy, change_contact::Change as OfContact, change_privacy::Change as OfPrivacy,
            router_request::Op,
        },
        store::{
            Audience, Contact, ContactsRead, DirectoryCommand, ReadContacts, ReadUntold, SayToContact, SetPrivacy,
            Word, directory_command, store_reply::Result as Outcome, store_request::Op as StoreOp,
        },
    },
};
use prost::Message as _;

use crate::{
    clients::{ClientEvent, user_name},
    groups::{Want, What},
    model::Model,
    random::Random,
    schedule::{MS, Time},
    store::MAP,
    wires::{Ends, Side, WireId},
    world::World,
};

/// Longest time of a router from an answer of the store to the presence that it tells.
const TELLS_WITHIN: Time = 50 * MS;

/// Settings of who may write: strangers' messages are requests with the last one.
const AUDIENCES: [Audience; 4] = [Audience::Everyone, Audience::Contacts, Audience::Nobody, Audience::Requests];

/// User and incarnation.
type Account = (String, u64);
/// The account that is seen, and the one that sees.
type Pair = (Account, Account);

/// Actions of users with contacts and presence. None in a part of the runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct People {
    /// Device, when, what it shows; and whether it wants to hear of others if it shows nothing.
    pub(crate) shows: Vec<(usize, Time, Show, bool)>,
    /// Devices that are away from then on, until all else is quiet; and whether their gateways end with them.
    pub(crate) leaves: Vec<(usize, Time, bool)>,
    pub(crate) wants: Vec<(usize, Time, Want)>,
}

/// By random numbers of its own, so that the rest of a run stays what it was.
pub(crate) fn people(seed: u64, users: usize, devices: usize, from: Time, until: Time) -> People {
    let mut random = Random::new(seed ^ 0x7065_6f70_6c65);
    let mut people = People::default();
    if random.in_thousand(300) {
        return people;
    }
    let show = |random: &mut Random| match random.below(10) {
        0..5 => Show::Online,
        5..7 => Show::Away,
        7 => Show::DoNotDisturb,
        _ => Show::Unspecified,
    };
    for device in 0..devices {
        people.shows.push((device, from, Show::Online, false));
        for _ in 0..random.between(0, 4) {
            let at = random.between(from, until + 2000 * MS);
            people.shows.push((device, at, show(&mut random), random.in_thousand(500)));
        }
        if random.in_thousand(250) {
            people.leaves.push((device, random.between(from, until), random.in_thousand(600)));
        }
    }
    let say = |with, word| Want { group: 0, what: What::Contact { with, word } };
    let mut pairs = Vec::new();
    for user in 0..users {
        for with in (0..users).filter(|with| *with != user) {
            if random.in_thousand(600) {
                pairs.push((user, with));
                people.wants.push((user, from, say(with, Word::Subscribe)));
                people.wants.push((with, from, say(user, Word::Subscribed)));
            }
        }
    }
    for _ in 0..random.between(0, 8) {
        if pairs.is_empty() {
            break;
        }
        let (user, with) = pairs[random.index(pairs.len())];
        let (user, what) = match random.below(14) {
            0 | 1 => (user, What::Contact { with, word: Word::Unsubscribe }),
            2 | 3 => (with, What::Contact { with: user, word: Word::Unsubscribed }),
            4 => (user, What::Contact { with, word: Word::Subscribe }),
            5 => (with, What::Contact { with: user, word: Word::Subscribed }),
            6 => (with, What::Hides(true)),
            7 => (with, What::Hides(false)),
            8 | 9 => (with, What::Blocks(user)),
            10 => (user, What::Lets(AUDIENCES[random.index(AUDIENCES.len())])),
            _ => (with, What::Unblocks(user)),
        };
        people.wants.push((user, random.between(from, until), Want { group: 0, what }));
    }
    people
}

/// Presences of a device that changes it all the time: soon again, and often back to the one before.
pub(crate) fn flaps(device: usize, from: Time, until: Time, random: &mut Random) -> Vec<(usize, Time, Show, bool)> {
    let (mut flaps, mut at) = (Vec::new(), random.between(from, until));
    for _ in 0..random.between(4, 12) {
        let show = if random.in_thousand(500) { Show::Online } else { Show::Unspecified };
        flaps.push((device, at, show, random.in_thousand(500)));
        at += random.between(MS, 700 * MS);
    }
    flaps
}

/// The request of a user to its router.
pub(crate) fn asks(user: usize, incarnation: u64, what: What) -> Option<Op> {
    let user = user_name(user);
    let change = match what {
        What::Contact { with, word } => {
            let change = Some(OfContact::Say(SayToContact { word: word.into(), ..SayToContact::default() }));
            let contact = user_name(with);
            return Some(Op::ChangeContact(Box::new(ChangeContact { user, incarnation, contact, change })));
        }
        What::Hides(hides) => {
            let presence = if hides { Audience::Nobody } else { Audience::Contacts };
            OfPrivacy::Set(SetPrivacy { presence: Some(presence.into()), ..SetPrivacy::default() })
        }
        What::Lets(audience) => OfPrivacy::Set(SetPrivacy { write: Some(audience.into()), ..SetPrivacy::default() }),
        What::Blocks(whom) => OfPrivacy::Block(user_name(whom)),
        What::Unblocks(whom) => OfPrivacy::Unblock(user_name(whom)),
        _ => return None,
    };
    Some(Op::ChangePrivacy(ChangePrivacy { user, incarnation, change: Some(change) }))
}

/// True for a command that may change who sees whom.
pub(crate) fn changes_sight(command: &bytes::Bytes) -> bool {
    use directory_command::Op::{ChangeContact, ChangePrivacy, DeleteAccount, PutAccount};
    let op = DirectoryCommand::decode(command.clone()).expect("it was applied").op;
    matches!(op, Some(ChangeContact(_) | ChangePrivacy(_) | DeleteAccount(_) | PutAccount(_)))
}

struct Status {
    user: String,
    show: Show,
    since: Time,
}

/// Statuses that have been shown, and the contacts that might see them.
#[derive(Default)]
pub(crate) struct Presence {
    /// By their texts.
    statuses: BTreeMap<String, Status>,
    /// Until when the one may see the other; `Time::MAX`: now.
    sight: BTreeMap<Pair, Time>,
    /// The time at which a router has last heard from the store that it may.
    heard: BTreeMap<Pair, Time>,
    /// Answers of the store that are on their way.
    answers: BTreeMap<(WireId, u64), Vec<Pair>>,
    /// Pairs of a user and one whom it has ever blocked.
    blocks: BTreeSet<(String, String)>,
}

impl Presence {
    fn sees(&mut self, pairs: &BTreeSet<Pair>, now: Time) {
        for (pair, until) in &mut self.sight {
            if *until == Time::MAX && !pairs.contains(pair) {
                *until = now;
            }
        }
        self.sight.extend(pairs.iter().map(|pair| (pair.clone(), Time::MAX)));
    }

    fn may_see(&self, pair: &Pair) -> bool {
        self.sight.get(pair) == Some(&Time::MAX)
    }

    pub(crate) fn has_blocked(&self, owner: &str, other: &str) -> bool {
        self.blocks.contains(&(owner.to_owned(), other.to_owned()))
    }

    /// The store's answer to a router's question for the contacts of this account is on its way.
    pub(crate) fn answered(&mut self, wire: WireId, id: u64, of: &ReadContacts, outcome: &Outcome) {
        let Outcome::ContactsRead(read) = outcome else { return };
        if of.subscribed {
            self.answers.insert((wire, id), seers(&(of.user.clone(), of.incarnation), read).collect());
        }
    }

    pub(crate) fn router_hears(&mut self, wire: WireId, id: u64, now: Time) {
        let pairs = self.answers.remove(&(wire, id)).unwrap_or_default();
        self.heard.extend(pairs.into_iter().map(|pair| (pair, now)));
    }

    /// This account is told that a user shows something.
    fn may_be_told(&self, presence: &client::Presence, by: &Account) -> Result<(), String> {
        let (seer, user, status) = (&by.0, &presence.user, &presence.status);
        let shown = self.statuses.get(status).filter(|shown| shown.user == *user && shown.show == presence.show());
        let shown = shown.ok_or_else(|| format!("{seer} is told {presence:?}, which {user} has never shown"))?;
        let pairs = self.sight.iter().filter(|((of, other), _)| of.0 == *user && other == by);
        let last = pairs.map(|(pair, until)| (*until).max(self.heard.get(pair).map_or(0, |at| at + TELLS_WITHIN)));
        match last.max() {
            Some(last) if last >= shown.since => Ok(()),
            last => Err(format!(
                "{seer} is told {status} of {user} from {}, which it may not see; it might until {last:?}",
                shown.since
            )),
        }
    }
}

/// The contacts who see this account.
fn seers<'a>(of: &'a Account, read: &'a ContactsRead) -> impl Iterator<Item = Pair> + 'a {
    let rows = read.contacts.iter().filter(move |_| !read.hidden);
    let rows = rows.filter_map(|row| Some((row.contact.clone(), row.row.as_ref()?)));
    rows.filter(|(_, row)| row.from).map(move |(contact, row)| (of.clone(), (contact, row.peer)))
}

impl Model {
    fn account_of(&self, device: usize) -> Account {
        (self.devices[device].user.clone(), self.devices[device].incarnation)
    }
}

impl World<'_> {
    pub(crate) fn client_shows(&mut self, client: usize, show: Show, hears: bool) {
        if self.is_out_or_away(client) {
            return;
        }
        let now = self.schedule.now();
        let node = &mut self.clients[client];
        node.shown_times += 1;
        let status = if show == Show::Unspecified { String::new() } else { format!("d{client}-{}", node.shown_times) };
        let (user, since) = (user_name(node.user), now);
        // Each device has a priority of its own: which one counts is certain.
        let priority = client as i32;
        let set = SetPresence { show: show.into(), status: status.clone(), priority, hears, ..SetPresence::default() };
        node.shown = Some(set);
        self.model.presence.statuses.insert(status, Status { user, show, since });
        self.client_shows_again(client);
    }

    /// The application shows what it has shown before: its program has begun anew, or it was refused.
    pub(crate) fn client_shows_again(&mut self, client: usize) {
        let deadline = self.schedule.instant_at(self.schedule.now() + self.scenario.send_timeout);
        let node = &mut self.clients[client];
        if let Some(set) = node.shown.clone() {
            node.device.show(set, deadline);
        }
    }

    /// The device is away, with or without its gateway, until all else is quiet.
    pub(crate) fn client_leaves(&mut self, client: usize, with_gateway: bool) {
        if self.is_out_or_away(client) {
            return;
        }
        let wire = self.clients[client].wire;
        let ends = wire.and_then(|wire| self.wires.ends(wire, Side::Second));
        self.client_restarts(client);
        self.clients[client].is_away = true;
        if let Some(Ends::Client { gateway, .. }) = ends.filter(|_| with_gateway) {
            self.gateway_crashes(gateway);
        }
    }

    /// Brings devices back that were away; false if none was.
    pub(crate) fn clients_return(&mut self) -> bool {
        let away: Vec<usize> = (0..self.clients.len()).filter(|client| self.clients[*client].is_away).collect();
        for client in &away {
            self.clients[*client].is_away = false;
            self.at_client(*client, 0, ClientEvent::Connects);
        }
        !away.is_empty()
    }

    /// A device is told what somebody shows.
    pub(crate) fn client_sees(&mut self, client: usize, presence: client::Presence) {
        let by = self.model.account_of(client);
        if presence.show() != Show::Unspecified
            && let Err(what) = self.model.presence.may_be_told(&presence, &by)
        {
            self.model.breaks(what);
        }
        self.report.presences += 1;
        self.clients[client].picture.insert(presence.user.clone(), (presence.show(), presence.status));
    }

    /// The contacts that see each user may have changed.
    pub(crate) fn sight_changed(&mut self) {
        if self.scenario.people.shows.is_empty() {
            return;
        }
        let lists = self.lists();
        let mut pairs = BTreeSet::new();
        for (account, read) in &lists {
            let blocks = |other: &Account| lists.get(other).is_some_and(|theirs| theirs.blocked.contains(&account.0));
            pairs.extend(seers(account, read).filter(|(_, seer)| !blocks(seer)));
            let blocked = read.blocked.iter().map(|other| (account.0.clone(), other.clone()));
            self.model.presence.blocks.extend(blocked);
        }
        self.model.presence.sees(&pairs, self.schedule.now());
    }

    /// The contacts of each account that there is.
    fn lists(&self) -> BTreeMap<Account, ContactsRead> {
        let accounts = (0..self.scenario.users).map(user_name);
        let accounts = accounts.filter_map(|user| Some((user.clone(), self.model.owner(&user)?)));
        let lists = accounts.filter_map(|account| {
            let (user, incarnation) = account.clone();
            let shard = MAP.directory_of(&UserId::new(&user).expect("valid"));
            let read = ReadContacts { user, incarnation, subscribed: true, ..ReadContacts::default() };
            match self.cluster.read(shard, &StoreOp::ReadContacts(read)) {
                Outcome::ContactsRead(read) => Some((account, read)),
                _ => None,
            }
        });
        lists.collect()
    }

    /// The presence of a user: of its devices that are there, the one with the highest priority counts.
    fn shown_by(&self, user: &str) -> (Show, String) {
        let there = self.clients.iter().filter(|client| user_name(client.user) == user && !client.is_away);
        let shown = there.filter_map(|client| client.shown.as_ref()).rfind(|set| set.show() != Show::Unspecified);
        shown.map_or((Show::Unspecified, String::new()), |set| (set.show(), set.status.clone()))
    }

    /// A contact has still to be told something, or a device does not know what it should of a contact.
    pub(crate) fn presences_wait(&self) -> Option<String> {
        if self.scenario.people.shows.is_empty() {
            return None;
        }
        for shard in MAP.all().filter(|shard| shard.kind == ShardKind::Directory) {
            let read = StoreOp::ReadUntold(ReadUntold { limit: 1, ..ReadUntold::default() });
            if let Outcome::UntoldRead(untold) = self.cluster.read(shard, &read)
                && let Some(row) = untold.rows.first()
            {
                return Some(format!("{} has still to be told something by {}: {:?}", row.contact, row.user, row.row));
            }
        }
        let lists = self.lists();
        (0..self.clients.len()).find_map(|client| self.presence_waits(client, &lists))
    }

    fn presence_waits(&self, client: usize, lists: &BTreeMap<Account, ContactsRead>) -> Option<String> {
        let node = &self.clients[client];
        let hears = node.shown.as_ref().is_some_and(|set| set.show() != Show::Unspecified || set.hears);
        let account = self.model.account_of(client);
        let list = lists.get(&account).filter(|_| hears && !node.is_away)?;
        list.contacts.iter().find_map(|row| {
            // Only what the user's contacts show is told again when it was lost.
            let contact = (row.contact.clone(), row.row.as_ref().filter(|row| row.to)?.peer);
            if !lists.contains_key(&contact) {
                return None;
            }
            let may_see = self.model.presence.may_see(&(contact.clone(), account.clone()));
            let nothing = (Show::Unspecified, String::new());
            let expected = if may_see { self.shown_by(&contact.0) } else { nothing.clone() };
            let found = node.picture.get(&contact.0).cloned().unwrap_or(nothing);
            (found != expected)
                .then(|| format!("device {client} of {} sees {} as {found:?}, not {expected:?}", account.0, contact.0))
        })
    }

    /// A user who sees another is known as such by the other one, unless one of them has blocked the other.
    pub(crate) fn check_contacts(&self) -> Result<(), String> {
        if self.scenario.people.shows.is_empty() {
            return Ok(());
        }
        let lists = self.lists();
        let is = |of: &Account, with: &Account, which: fn(&Contact) -> bool| {
            let rows = lists.get(of).into_iter().flat_map(|read| &read.contacts);
            let mut rows = rows.filter(|row| row.contact == with.0).filter_map(|row| row.row.as_ref());
            rows.any(|row| row.peer == with.1 && which(row))
        };
        for (one, of_one) in &lists {
            for (other, of_other) in &lists {
                if of_one.blocked.contains(&other.0) || of_other.blocked.contains(&one.0) {
                    continue;
                }
                let (sees, is_seen) = (is(one, other, |row| row.to), is(other, one, |row| row.from));
                if sees != is_seen {
                    return Err(format!("{} sees {}: {sees}, and its contact knows: {is_seen}", one.0, other.0));
                }
            }
        }
        Ok(())
    }
}
