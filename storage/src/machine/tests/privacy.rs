//! Privacy of users, against a model that remembers the choices of each.

use std::collections::{BTreeMap, BTreeSet};

use carillon_proto::{
    Level,
    pb::store::{
        Account, Allowed, Audience, BlockedUser, ChangeContact, ChangePrivacy, ContactsRead, DeleteAccount,
        DeleteSession, DirectoryCommand, HeardFromContact, Privacy, PrivacyChanged, PutAccount, PutSession,
        ReadAllowed, ReadContacts, ReadPrivacy, RemoveContact, Said, SayToContact, Session, SetContact, SetLevel,
        SetPrivacy, Word, change_contact, change_privacy::Change, directory_command::Op, put_account::Mode,
        rejected::Reason, store_error::Why,
    },
};
use proptest::prelude::*;

use super::*;
use crate::machine::{DirectoryMachine, DirectoryReader, Outcome, keys};

const USERS: [&str; 3] = ["a", "ab", "b"];
const AUDIENCES: [Audience; 5] =
    [Audience::Unspecified, Audience::Everyone, Audience::Contacts, Audience::Nobody, Audience::Requests];

struct World {
    shard: OpenShard<DirectoryMachine, DirectoryReader>,
    index: u64,
    /// Of the words that users say.
    word: u64,
}

fn directory(engines: &Engines) -> (DirectoryMachine, DirectoryReader) {
    engines.directory(carillon_proto::ShardId::REGISTRY).expect("opens")
}

fn set_level() -> DirectoryCommand {
    DirectoryCommand { op: Some(Op::SetLevel(SetLevel { level: Level::GROUPS.0 })) }
}

impl World {
    fn new() -> Self {
        let mut world = Self { shard: OpenShard::new(directory, &set_level()), index: 1, word: 0 };
        USERS.iter().for_each(|user| world.creates(user));
        world
    }

    fn apply(&mut self, op: Op) -> Outcome {
        self.index += 1;
        let command = DirectoryCommand { op: Some(op) };
        let outcomes = self.shard.machine.apply(&[entry(self.index, &[command])], &self.index.to_be_bytes());
        outcomes.expect("applies").remove(0).remove(0)
    }

    fn creates(&mut self, user: &str) {
        let account = Account { user: user.to_owned(), created_ms: self.index, ..Account::default() };
        let mode = Mode::Ensure.into();
        self.apply(Op::PutAccount(PutAccount {
            account: Some(account),
            mode,
            numbered: true,
            revive: true,
            most_accounts: None,
        }));
    }

    fn deletes(&mut self, user: &str) {
        self.apply(Op::DeleteAccount(DeleteAccount { user: user.to_owned(), time_ms: self.index }));
    }

    /// `None`: there is no account.
    fn incarnation(&self, user: &str) -> Option<u64> {
        let account = self.shard.reader.user(user).expect("reads").account?;
        (!account.deleted).then_some(account.incarnation)
    }

    fn person(&self, user: &str) -> BlockedUser {
        BlockedUser { user: user.to_owned(), incarnation: self.incarnation(user).unwrap_or(0) }
    }

    fn change(&mut self, user: &str, change: Change) -> Result<PrivacyChanged, Reason> {
        let incarnation = self.incarnation(user).expect("an account");
        self.change_of(user, incarnation, change)
    }

    fn change_of(&mut self, user: &str, incarnation: u64, change: Change) -> Result<PrivacyChanged, Reason> {
        let change = ChangePrivacy { user: user.to_owned(), incarnation, change: Some(change) };
        match self.apply(Op::ChangePrivacy(change)) {
            Outcome::PrivacyChanged(changed) => Ok(changed),
            Outcome::Error(error) => match error.why {
                Some(Why::Rejected(rejected)) => Err(rejected.reason()),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    fn contact(&mut self, user: &str, contact: &str, change: change_contact::Change) {
        let incarnation = self.incarnation(user).expect("an account");
        let (user, contact) = (user.to_owned(), contact.to_owned());
        self.apply(Op::ChangeContact(ChangeContact { user, incarnation, contact, change: Some(change) }));
    }

    /// The user hears that the other asks to see its presence.
    fn hears_a_request(&mut self, user: &str, from: &str) {
        self.word += 1;
        let said = vec![Said { number: self.word, word: Word::Subscribe.into(), ..Said::default() }];
        let peer = self.incarnation(from).expect("an account");
        self.contact(user, from, change_contact::Change::Heard(HeardFromContact { peer, said }));
    }

    /// The user lets the other see its presence, if it asks now.
    fn lets_see(&mut self, user: &str, other: &str) {
        self.hears_a_request(user, other);
        let (word, peer) = (Word::Subscribed.into(), self.incarnation(other));
        self.contact(user, other, change_contact::Change::Say(SayToContact { word, text: String::new(), peer }));
    }

    /// A session of the user begins, and ends at this time.
    fn comes_and_goes(&mut self, user: &str, time_ms: u64) {
        let account = self.shard.reader.user(user).expect("reads").account.expect("an account");
        let (user, device) = (user.to_owned(), "phone".to_owned());
        let (lease, connection) = (1, self.index);
        let session = Session {
            user: user.clone(),
            device: device.clone(),
            lease,
            connection,
            generation: account.generation,
            ..Session::default()
        };
        self.apply(Op::PutSession(PutSession { session: Some(session), ..PutSession::default() }));
        let generation = account.generation;
        self.apply(Op::DeleteSession(DeleteSession { user, device, lease, connection, time_ms, generation }));
    }

    fn allowed(&self, user: &str, by: &BlockedUser) -> Allowed {
        let users = vec!["nobody".into(), user.to_owned()];
        let read = ReadAllowed { by: Some(by.clone()), users, last_seen: true, contact: true };
        let mut read = self.shard.reader.read_allowed(&read).expect("reads").allowed;
        assert_eq!(read[0], Allowed::default(), "there is no such user");
        let allowed = read.remove(1);
        if self.incarnation(user).is_some() {
            let unasked = Allowed { last_seen_ms: 0, contact: false, ..allowed };
            assert_eq!(self.shard.reader.user_for(user, Some(by)).expect("reads").allowed, Some(unasked));
        }
        allowed
    }

    fn privacy(&self, user: &str) -> Privacy {
        let incarnation = self.incarnation(user).expect("an account");
        let read = self.shard.reader.read_privacy(&ReadPrivacy { user: user.to_owned(), incarnation }).expect("reads");
        assert_eq!(self.shard.reader.user(user).expect("reads").privacy.unwrap_or_default(), read);
        read
    }

    fn asks(&self, user: &str, contact: &str) -> bool {
        let incarnation = self.incarnation(user).expect("an account");
        let read = ReadContacts { user: user.to_owned(), incarnation, ..ReadContacts::default() };
        let rows = self.shard.reader.contacts(&read).expect("reads").contacts;
        rows.into_iter().any(|row| row.contact == contact && row.row.expect("a row").asks)
    }
}

#[derive(Debug, Clone)]
enum Act {
    Set(usize, [Option<usize>; 5]),
    Block(usize, usize),
    Unblock(usize, usize),
    List(usize, usize),
    Unlist(usize, usize),
    Request(usize, usize),
    /// The other asks to see the user, who lets it.
    LetSee(usize, usize),
    /// A session of the user ends at this second.
    ComeAndGo(usize, u64),
    /// The account ends, and the name has its next owner.
    Remake(usize),
    Reopen,
    SnapshotAndRestore,
}

fn act() -> impl Strategy<Value = Act> {
    let pair = || (0..USERS.len(), 1..USERS.len()).prop_map(|(user, by)| (user, (user + by) % USERS.len()));
    let audience = || proptest::option::of(0..4usize);
    let who_may_write = || proptest::option::of(0..AUDIENCES.len());
    let to_contacts = || prop_oneof![Just(None), Just(Some(3usize)), Just(Some(0))];
    prop_oneof![
        4 => (0..USERS.len(), who_may_write(), audience(), audience(), to_contacts(), to_contacts())
            .prop_map(|(user, write, groups, marks, presence, seen)| Act::Set(user, [write, groups, marks, presence, seen])),
        4 => pair().prop_map(|(user, other)| Act::Block(user, other)),
        2 => pair().prop_map(|(user, other)| Act::Unblock(user, other)),
        3 => pair().prop_map(|(user, other)| Act::List(user, other)),
        1 => pair().prop_map(|(user, other)| Act::Unlist(user, other)),
        3 => pair().prop_map(|(user, other)| Act::Request(user, other)),
        4 => pair().prop_map(|(user, other)| Act::LetSee(user, other)),
        3 => (0..USERS.len(), 0..400u64).prop_map(|(user, second)| Act::ComeAndGo(user, second)),
        1 => (0..USERS.len()).prop_map(Act::Remake),
        1 => Just(Act::Reopen),
        1 => Just(Act::SnapshotAndRestore),
    ]
}

/// The choices of one owner of a name.
#[derive(Default, Clone)]
struct Choices {
    settings: [Audience; 5],
    blocked: BTreeMap<String, u64>,
    /// Names on the list, and the incarnation that a row is about, if it is known.
    listed: BTreeMap<String, Option<u64>>,
    met: BTreeMap<String, u64>,
    asking: BTreeSet<String>,
    /// People who see the user, each with the incarnation.
    shown_to: BTreeMap<String, u64>,
    last_seen_ms: u64,
    version: u64,
}

impl Choices {
    /// Agreements with an earlier owner of the name are void.
    fn meets(&mut self, who: &BlockedUser) {
        self.met.insert(who.user.clone(), who.incarnation);
        self.shown_to.retain(|user, incarnation| *user != who.user || *incarnation == who.incarnation);
    }
}

#[derive(Default)]
struct Model {
    of: BTreeMap<String, Choices>,
    /// The subscriptions of each user as they were read last, with the incarnation.
    known: BTreeMap<String, (Option<u64>, ContactsRead)>,
}

impl Model {
    fn of(&mut self, user: &str) -> &mut Choices {
        self.of.entry(user.to_owned()).or_default()
    }

    fn allowed(&self, user: &str, by: &BlockedUser) -> Allowed {
        let said = self.of.get(user).cloned().unwrap_or_default();
        if said.blocked.get(&by.user).is_some_and(|incarnation| by.incarnation <= *incarnation) {
            return Allowed { blocked: true, ..Allowed::default() };
        }
        let met = said.met.get(&by.user);
        let is_contact = said.listed.contains_key(&by.user) && met.is_none_or(|met| *met == by.incarnation);
        let opens = |at: usize| match said.settings[at] {
            Audience::Unspecified | Audience::Everyone => true,
            Audience::Contacts | Audience::Requests => is_contact,
            Audience::Nobody => false,
        };
        let requests = said.settings[0] == Audience::Requests;
        let write_back = said.settings[0] != Audience::Nobody;
        let is_hidden = said.settings[3..].contains(&Audience::Nobody);
        let sees = !is_hidden && said.shown_to.get(&by.user) == Some(&by.incarnation);
        let last_seen_ms = if sees { said.last_seen_ms } else { 0 };
        let (groups, read_marks) = (opens(1), opens(2));
        Allowed {
            blocked: false,
            write: opens(0),
            write_back,
            groups,
            read_marks,
            last_seen_ms,
            requests,
            contact: is_contact,
        }
    }
}

fn perform(world: &mut World, model: &mut Model, act: &Act) {
    match act {
        Act::Set(user, audiences) => {
            let of = |at: usize| audiences[at].map(|audience| i32::from(AUDIENCES[audience]));
            let set = SetPrivacy { write: of(0), groups: of(1), read_marks: of(2), presence: of(3), last_seen: of(4) };
            let said = model.of(USERS[*user]);
            let before = said.settings;
            for (at, audience) in audiences.iter().enumerate() {
                said.settings[at] = audience.map_or(said.settings[at], |audience| AUDIENCES[audience]);
            }
            let changed = world.change(USERS[*user], Change::Set(set)).expect("set");
            said.version += u64::from(before != said.settings);
            assert_eq!(changed.version, said.version);
            let settings = changed.settings.expect("told");
            let told = [settings.write(), settings.groups(), settings.read_marks(), settings.presence()];
            assert_eq!([&told[..], &[settings.last_seen()]].concat(), said.settings);
        }
        Act::Block(user, other) => {
            let who = world.person(USERS[*other]);
            let said = model.of(USERS[*user]);
            let is_new = said.blocked.insert(who.user.clone(), who.incarnation) != Some(who.incarnation);
            said.version += u64::from(is_new);
            let asked = said.asking.remove(&who.user);
            let changed = world.change(USERS[*user], Change::Block(who)).expect("blocked");
            assert_eq!((changed.version - changed.before, changed.version), (u64::from(is_new), said.version));
            assert_eq!(changed.contact.expect("told").changed, asked);
        }
        Act::Unblock(user, other) => {
            let said = model.of(USERS[*user]);
            said.version += u64::from(said.blocked.remove(USERS[*other]).is_some());
            let who = BlockedUser { user: USERS[*other].into(), incarnation: 0 };
            let changed = world.change(USERS[*user], Change::Unblock(who)).expect("unblocked");
            assert_eq!(changed.version, said.version);
        }
        Act::List(user, other) => {
            model.of(USERS[*user]).listed.insert(USERS[*other].into(), None);
            world.contact(USERS[*user], USERS[*other], change_contact::Change::Set(SetContact::default()));
        }
        Act::Unlist(user, other) => {
            let said = model.of(USERS[*user]);
            said.listed.remove(USERS[*other]);
            said.asking.remove(USERS[*other]);
            said.shown_to.remove(USERS[*other]);
            world.contact(USERS[*user], USERS[*other], change_contact::Change::Remove(RemoveContact {}));
        }
        Act::Request(user, other) => {
            let from = world.person(USERS[*other]);
            let is_blocked = model.allowed(USERS[*user], &from).blocked;
            let said = model.of(USERS[*user]);
            said.meets(&from);
            if !is_blocked && !said.shown_to.contains_key(&from.user) {
                said.asking.insert(from.user.clone());
            }
            world.hears_a_request(USERS[*user], USERS[*other]);
        }
        Act::LetSee(user, other) => {
            let from = world.person(USERS[*other]);
            if !model.allowed(USERS[*user], &from).blocked {
                let said = model.of(USERS[*user]);
                said.meets(&from);
                said.asking.remove(&from.user);
                said.listed.insert(from.user.clone(), None);
                said.shown_to.insert(from.user, from.incarnation);
                world.lets_see(USERS[*user], USERS[*other]);
            }
        }
        Act::ComeAndGo(user, second) => {
            // Without a time the session, which began in 1970, says nothing.
            if *second >= 60 {
                model.of(USERS[*user]).last_seen_ms = second / 60 * 60_000;
            }
            world.comes_and_goes(USERS[*user], second * 1000);
        }
        Act::Remake(user) => {
            world.deletes(USERS[*user]);
            world.creates(USERS[*user]);
            model.of.remove(USERS[*user]);
        }
        Act::Reopen | Act::SnapshotAndRestore => {}
    }
}

/// Reads as a client that knows the versions of `known`.
fn subscribed(world: &World, user: &str, known: &ContactsRead) -> ContactsRead {
    let read = ReadContacts {
        user: user.to_owned(),
        incarnation: world.incarnation(user).expect("an account"),
        subscribed: true,
        known: known.version,
        known_privacy: known.privacy_version,
        ..ReadContacts::default()
    };
    world.shard.reader.contacts(&read).expect("reads")
}

fn check(world: &mut World, model: &mut Model) {
    for user in USERS {
        let said = model.of(user).clone();
        let privacy = world.privacy(user);
        assert_eq!(privacy.version, said.version, "{user}");
        let blocked: Vec<_> = privacy.blocked.iter().map(|who| (who.user.clone(), who.incarnation)).collect();
        assert_eq!(blocked, said.blocked.clone().into_iter().collect::<Vec<_>>(), "{user}");
        for other in USERS.iter().filter(|other| **other != user) {
            let by = world.person(other);
            for by in [by.clone(), BlockedUser { incarnation: by.incarnation + 1, ..by.clone() }] {
                assert_eq!(world.allowed(user, &by), model.allowed(user, &by), "{user} by {by:?}");
            }
            assert_eq!(world.asks(user, other), said.asking.contains(*other), "{other} asks {user}");
        }
        let read = subscribed(world, user, &ContactsRead::default());
        let known = model.known.insert(user.to_owned(), (world.incarnation(user), read.clone()));
        // A client that knows the versions is told nothing if, and only if, all is still as it was.
        if let Some((_, known)) = known.filter(|(incarnation, _)| *incarnation == world.incarnation(user)) {
            let again = subscribed(world, user, &known);
            assert!(!again.unchanged || read == known, "{user}: {known:?}, and now {read:?}");
            assert!(again.unchanged || again == read, "{user}: {again:?}, and not {read:?}");
            assert_eq!(again.unchanged, known.version != 0 && read == known, "{user}");
        }
        assert_eq!(read.hidden, said.settings[3] == Audience::Nobody);
        assert_eq!(read.last_seen_hidden, said.settings[4] == Audience::Nobody);
        assert_eq!(read.blocked, said.blocked.into_keys().collect::<Vec<_>>());
    }
    // Nothing remains of ended accounts.
    for (key, _) in records(&mut world.shard.machine).iter().filter(|(key, _)| key[0] == 0x0f) {
        let (user, incarnation) = keys::privacy_of(key).expect("a key of privacy");
        assert_eq!(Some(incarnation), world.incarnation(user), "{user}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn users_are_allowed_what_the_model_says(acts in proptest::collection::vec(act(), 1..60)) {
        let (mut world, mut model) = (World::new(), Model::default());
        for act in acts {
            match act {
                Act::Reopen => world.shard = world.shard.reopened(),
                Act::SnapshotAndRestore => world.shard = world.shard.restored_from_its_snapshot(),
                act => perform(&mut world, &mut model, &act),
            }
            check(&mut world, &mut model);
        }
    }
}

#[test]
fn the_blocked_neither_see_the_user_nor_are_seen() {
    let mut world = World::new();
    for (user, other) in [("a", "b"), ("a", "ab")] {
        let peer = world.incarnation(other);
        let said =
            |word: Word| change_contact::Change::Say(SayToContact { word: word.into(), text: String::new(), peer });
        world.contact(user, other, said(Word::Subscribe));
        world.hears_a_request(user, other);
        world.contact(user, other, said(Word::Subscribed));
    }
    let subscribed = |world: &World| {
        let incarnation = world.incarnation("a").expect("an account");
        let read = ReadContacts { user: "a".into(), incarnation, subscribed: true, ..ReadContacts::default() };
        let rows = world.shard.reader.contacts(&read).expect("reads").contacts;
        rows.into_iter().map(|row| (row.contact, row.row.expect("a row").from)).collect::<Vec<_>>()
    };
    assert_eq!(subscribed(&world), [("ab".to_owned(), true), ("b".to_owned(), true)]);
    let blocked = Change::Block(world.person("b"));
    let changed = world.change("a", blocked.clone()).expect("blocked");
    assert!(changed.contact.expect("told").contact.expect("a row").from, "the router ends what was shown");
    assert_eq!(subscribed(&world), [("ab".to_owned(), true)]);
    world.change("a", Change::Unblock(world.person("b"))).expect("unblocked");
    assert_eq!(subscribed(&world).len(), 2, "the subscription was not touched");
    // The next owner of the name has done nothing.
    world.change("a", blocked).expect("blocked");
    world.deletes("b");
    world.creates("b");
    assert!(!world.allowed("a", &world.person("b")).blocked);
}

#[test]
fn the_list_of_the_blocked_is_bounded() {
    let mut world = World::new();
    let block = |name: String| Change::Block(BlockedUser { user: name, incarnation: 1 });
    for number in 0..1000 {
        world.change("a", block(format!("u{number}"))).expect("room");
    }
    assert_eq!(world.change("a", block("one.more".into())), Err(Reason::Full));
    assert!(world.change("a", block("u7".into())).is_ok(), "who is there already needs no room");
    world.change("a", Change::Unblock(BlockedUser { user: "u7".into(), incarnation: 0 })).expect("unblocked");
    assert!(world.change("a", block("one.more".into())).is_ok());
    let long = |number: usize| format!("{number:03}{}", "x".repeat(320));
    let fits = (0..1000).take_while(|number| world.change("b", block(long(*number))).is_ok()).count();
    assert_eq!(fits, 64 * 1024 / 323);
    assert_eq!(world.change_of("a", 1, block("x".into())), Err(Reason::Gone), "of another owner of the name");
}
