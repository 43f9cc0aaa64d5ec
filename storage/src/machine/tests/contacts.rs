//! Contacts: the tables of RFC 6121, appendix A, and two or more users who never agree on the order of things.

mod tables;

use std::collections::BTreeMap;

use carillon_proto::{
    Level,
    pb::store::{
        Account, ChangeContact, Contact, ContactTold, DeleteAccount, DirectoryCommand, HeardFromContact, PutAccount,
        ReadContacts, ReadUntold, RemoveContact, Said, SayToContact, SetContact, SetLevel, UntoldRead, Word,
        change_contact::Change, contacts_read, directory_command::Op, put_account::Mode, rejected::Reason,
        store_error::Why, untold_read,
    },
};
use proptest::prelude::*;

use super::*;
use crate::machine::{DirectoryMachine, DirectoryReader, Outcome, keys};

struct World {
    shard: OpenShard<DirectoryMachine, DirectoryReader>,
    index: u64,
    /// Everything that was applied, to be applied once more in other batches.
    log: Vec<DirectoryCommand>,
}

fn directory(engines: &Engines) -> (DirectoryMachine, DirectoryReader) {
    engines.directory(carillon_proto::ShardId::REGISTRY).expect("opens")
}

fn set_level() -> DirectoryCommand {
    DirectoryCommand { op: Some(Op::SetLevel(SetLevel { level: Level::GROUPS.0 })) }
}

impl World {
    fn new(users: &[&str]) -> Self {
        let mut world = Self { shard: OpenShard::new(directory, &set_level()), index: 1, log: Vec::new() };
        users.iter().for_each(|user| world.creates(user));
        world
    }

    fn apply(&mut self, op: Op) -> Outcome {
        let command = DirectoryCommand { op: Some(op) };
        self.index += 1;
        let applied = self.index.to_be_bytes();
        let outcomes = self.shard.machine.apply(&[entry(self.index, std::slice::from_ref(&command))], &applied);
        self.log.push(command);
        outcomes.expect("applies").remove(0).remove(0)
    }

    fn creates(&mut self, user: &str) {
        self.creates_numbered(user, true);
    }

    /// `numbered`: not by a release without incarnations.
    fn creates_numbered(&mut self, user: &str, numbered: bool) {
        let account = Account { user: user.to_owned(), created_ms: self.index, ..Account::default() };
        let mode = Mode::Ensure.into();
        self.apply(Op::PutAccount(PutAccount {
            account: Some(account),
            mode,
            numbered,
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

    fn change(
        &mut self,
        user: &str,
        incarnation: u64,
        contact: &str,
        change: Change,
    ) -> Result<Option<Contact>, Reason> {
        let (user, contact) = (user.to_owned(), contact.to_owned());
        match self.apply(Op::ChangeContact(ChangeContact { user, incarnation, contact, change: Some(change) })) {
            Outcome::ContactChanged(changed) => Ok(changed.contact),
            Outcome::Error(error) => match error.why {
                Some(Why::Rejected(rejected)) => Err(rejected.reason()),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    fn does(&mut self, user: &str, contact: &str, change: Change) -> Result<Option<Contact>, Reason> {
        let incarnation = self.incarnation(user).expect("an account");
        self.change(user, incarnation, contact, change)
    }

    /// As the router does it, which reads the contact's account before.
    fn say(&self, contact: &str, word: Word) -> Change {
        Change::Say(SayToContact { word: word.into(), text: String::new(), peer: self.incarnation(contact) })
    }

    fn says(&mut self, user: &str, contact: &str, word: Word) -> Option<Contact> {
        let said = self.say(contact, word);
        self.does(user, contact, said).expect("room")
    }

    fn row(&self, user: &str, contact: &str) -> Option<Contact> {
        let incarnation = self.incarnation(user)?;
        let read = ReadContacts { user: user.to_owned(), incarnation, ..ReadContacts::default() };
        let read = self.shard.reader.contacts(&read).expect("reads");
        let mut rows = read.contacts.into_iter();
        rows.find(|row| row.contact == contact).and_then(|row: contacts_read::Row| row.row)
    }

    fn untold(&self) -> Vec<untold_read::Row> {
        let (mut all, mut after) = (Vec::new(), bytes::Bytes::new());
        loop {
            let UntoldRead { rows, next } = self.shard.reader.untold(&ReadUntold { after, limit: 1 }).expect("reads");
            all.extend(rows);
            if next.is_empty() {
                return all;
            }
            after = next;
        }
    }

    /// Says to the contact what it was not told. Returns what to note then.
    fn tells(&mut self, row: &untold_read::Row) -> (String, u64, String, ContactTold) {
        let known = row.row.clone().expect("a row");
        let upto = known.untold.last().expect("something").number;
        let heard = HeardFromContact { peer: row.incarnation, said: known.untold };
        let told = match self.apply(Op::ChangeContact(ChangeContact {
            user: row.contact.clone(),
            incarnation: known.peer,
            contact: row.user.clone(),
            change: Some(Change::Heard(heard)),
        })) {
            Outcome::ContactChanged(_) => ContactTold { upto, peer: known.peer, ..ContactTold::default() },
            _ => ContactTold { upto, peer: known.peer, failed: true, full: false },
        };
        (row.user.clone(), row.incarnation, row.contact.clone(), told)
    }

    fn settles(&mut self) {
        for _ in 0..100 {
            for sweep in self.shard.reader.ended_contacts(10).expect("reads") {
                self.apply(Op::ChangeContact(sweep));
            }
            let untold = self.untold();
            if untold.is_empty() && self.shard.reader.ended_contacts(1).expect("reads").is_empty() {
                return;
            }
            for row in untold {
                let (user, incarnation, contact, told) = self.tells(&row);
                let _ = self.change(&user, incarnation, &contact, Change::Told(told));
            }
        }
        panic!("it goes on and on: {:?}", self.untold());
    }
}

const WORDS: [Word; 4] = [Word::Subscribe, Word::Unsubscribe, Word::Subscribed, Word::Unsubscribed];

fn state(row: &Contact) -> String {
    let subscription = match (row.to, row.from) {
        (false, false) => "none",
        (true, false) => "to",
        (false, true) => "from",
        (true, true) => "both",
    };
    format!("{subscription}{}{}", if row.asked { " out" } else { "" }, if row.asks { " in" } else { "" })
}

#[test]
fn who_is_approved_before_asking_is_let_in_at_once() {
    let mut world = World::new(&["a", "b"]);
    world.says("b", "a", Word::Subscribed);
    world.says("a", "b", Word::Subscribe);
    world.settles();
    assert_eq!(world.row("a", "b").map(|row| state(&row)).as_deref(), Some("to"));
    assert_eq!(world.row("b", "a").map(|row| state(&row)).as_deref(), Some("from"));
}

#[test]
fn who_is_removed_sees_nothing_any_more_and_is_told() {
    let mut world = World::new(&["a", "b"]);
    for (user, contact) in [("a", "b"), ("b", "a")] {
        world.says(user, contact, Word::Subscribe);
        world.settles();
        world.says(contact, user, Word::Subscribed);
        world.settles();
    }
    assert_eq!(world.row("a", "b").map(|row| state(&row)).as_deref(), Some("both"));
    world.does("a", "b", Change::Remove(RemoveContact {})).expect("removed");
    world.settles();
    assert_eq!(world.row("a", "b"), None);
    assert_eq!(world.row("b", "a").map(|row| state(&row)).as_deref(), Some("none"));
    assert_eq!(world.does("a", "b", Change::Remove(RemoveContact {})), Ok(None), "a repeat");
}

#[test]
fn a_request_to_an_account_that_has_just_ended_comes_to_nothing() {
    let mut world = World::new(&["a", "b"]);
    world.says("a", "b", Word::Subscribe);
    world.deletes("b");
    world.creates("b");
    world.settles();
    assert_eq!(world.row("a", "b").map(|row| state(&row)).as_deref(), Some("none"));
    assert_eq!(world.row("b", "a"), None);
}

#[test]
fn the_next_owner_of_a_name_is_no_contact_of_those_who_knew_the_last_one() {
    let mut world = World::new(&["a", "b"]);
    world.says("b", "a", Word::Subscribed);
    world.says("a", "b", Word::Subscribe);
    world.settles();
    let before = world.row("a", "b").expect("a row").peer;
    world.deletes("b");
    world.creates("b");
    assert_eq!(world.row("b", "a"), None);
    world.says("a", "b", Word::Subscribe);
    world.settles();
    let row = world.row("a", "b").expect("a row");
    assert_eq!((state(&row), row.peer > before), ("none out".to_owned(), true), "the new owner is asked");
    let asked = world.row("b", "a").expect("asks");
    assert_eq!((state(&asked), asked.listed), ("none in".to_owned(), false));
}

#[test]
fn lists_requests_and_words_are_bounded() {
    let mut world = World::new(&["a", "b"]);
    let incarnation = world.incarnation("a").expect("an account");
    let mut fill = |prefix: &str, count: u32, change: &dyn Fn(u32) -> Change| {
        let command = |at: u32| {
            let (user, contact) = ("a".to_owned(), format!("{prefix}{at}"));
            let change = Some(change(at));
            DirectoryCommand { op: Some(Op::ChangeContact(ChangeContact { user, incarnation, contact, change })) }
        };
        let commands: Vec<_> = (0..count).map(command).collect();
        for commands in commands.chunks(64) {
            world.index += 1;
            let applied = world.index.to_be_bytes();
            let outcomes = world.shard.machine.apply(&[entry(world.index, commands)], &applied).expect("applies");
            assert!(outcomes[0].iter().all(|outcome| matches!(outcome, Outcome::ContactChanged(_))));
        }
    };
    let said = |number| Said { number, word: Word::Subscribe.into(), ..Said::default() };
    fill("friend", 10_000, &|_| Change::Set(SetContact::default()));
    fill("stranger", 1_000, &|at| Change::Heard(HeardFromContact { peer: 1_000 + u64::from(at), said: vec![said(1)] }));
    assert_eq!(world.does("a", "b", Change::Set(SetContact::default())), Err(Reason::Full));
    let asks = Change::Heard(HeardFromContact { peer: 7, said: vec![said(1)] });
    assert_eq!(world.does("a", "b", asks.clone()), Err(Reason::Full));
    world.does("a", "friend1", Change::Remove(RemoveContact {})).expect("removed");
    world.does("a", "b", Change::Set(SetContact::default())).expect("there is room");
    world.does("a", "b", asks).expect("who is on the list may ask");
    world.creates("friend2");
    for at in 0..16 {
        world.says("a", "friend2", if at % 2 == 0 { Word::Subscribe } else { Word::Unsubscribe });
    }
    let said = world.say("friend2", Word::Subscribe);
    assert_eq!(world.does("a", "friend2", said), Err(Reason::Full));

    let (mut pages, mut read) = (0, ReadContacts { user: "a".into(), incarnation, ..ReadContacts::default() });
    let mut all = 0;
    loop {
        let page = world.shard.reader.contacts(&read).expect("reads");
        (pages, all) = (pages + 1, all + page.contacts.len());
        if page.complete {
            break;
        }
        read.after = page.contacts.last().expect("rows").contact.clone();
    }
    assert_eq!((all, pages), (11_000, 11));
}

#[derive(Debug, Clone)]
enum Act {
    Say(usize, usize, Word),
    Set(usize, usize),
    Remove(usize, usize),
    /// Carries out what one of the untold rows asks for; whether that is noted then.
    Tell(usize, bool),
    /// Repeats an earlier command that told something, as late as may be.
    Again(usize),
    Delete(usize),
    Create(usize),
    Sweep,
    Reopen,
    SnapshotAndRestore,
}

const USERS: [&str; 3] = ["a", "ab", "b"];

fn act() -> impl Strategy<Value = Act> {
    let pair = || (0..USERS.len(), 1..USERS.len()).prop_map(|(user, by)| (user, (user + by) % USERS.len()));
    prop_oneof![
        8 => (pair(), 0..4usize).prop_map(|((user, contact), word)| Act::Say(user, contact, WORDS[word])),
        1 => pair().prop_map(|(user, contact)| Act::Set(user, contact)),
        1 => pair().prop_map(|(user, contact)| Act::Remove(user, contact)),
        8 => (any::<usize>(), any::<bool>()).prop_map(|(which, noted)| Act::Tell(which, noted)),
        3 => any::<usize>().prop_map(Act::Again),
        1 => (0..USERS.len()).prop_map(Act::Delete),
        2 => (0..USERS.len()).prop_map(Act::Create),
        1 => Just(Act::Sweep),
        1 => Just(Act::Reopen),
        1 => Just(Act::SnapshotAndRestore),
    ]
}

fn perform(mut world: World, act: Act, told: &mut Vec<Op>) -> World {
    match act {
        Act::Say(user, contact, word) if world.incarnation(USERS[user]).is_some() => {
            let said = world.say(USERS[contact], word);
            // Without an account the router refuses it.
            if world.incarnation(USERS[contact]).is_some() || matches!(word, Word::Unsubscribe | Word::Unsubscribed) {
                let _ = world.does(USERS[user], USERS[contact], said);
            }
        }
        Act::Set(user, contact) if world.incarnation(USERS[user]).is_some() => {
            let _ = world.does(USERS[user], USERS[contact], Change::Set(SetContact::default()));
        }
        Act::Remove(user, contact) if world.incarnation(USERS[user]).is_some() => {
            let _ = world.does(USERS[user], USERS[contact], Change::Remove(RemoveContact {}));
        }
        Act::Say(..) | Act::Set(..) | Act::Remove(..) => {}
        Act::Tell(which, noted) => {
            let untold = world.untold();
            if untold.is_empty() {
                return world;
            }
            let (user, incarnation, contact, note) = world.tells(&untold[which % untold.len()]);
            told.extend(world.log.last().and_then(|command| command.op.clone()));
            let note = Change::Told(note);
            let note = ChangeContact { user, incarnation, contact, change: Some(note) };
            if noted {
                world.apply(Op::ChangeContact(note.clone()));
            }
            told.push(Op::ChangeContact(note));
        }
        Act::Again(which) => {
            if !told.is_empty() {
                world.apply(told[which % told.len()].clone());
            }
        }
        Act::Delete(user) => world.deletes(USERS[user]),
        Act::Create(user) => world.creates(USERS[user]),
        Act::Sweep => {
            for sweep in world.shard.reader.ended_contacts(10).expect("reads") {
                world.apply(Op::ChangeContact(sweep));
            }
        }
        Act::Reopen => world.shard = world.shard.reopened(),
        Act::SnapshotAndRestore => world.shard = world.shard.restored_from_its_snapshot(),
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is said, crossed, lost, doubled and late: in the end both sides of each pair say the same.
    #[test]
    fn both_sides_agree_in_the_end(acts in proptest::collection::vec(act(), 1..60)) {
        let mut world = World::new(&USERS[1..]);
        world.creates_numbered(USERS[0], false);
        let mut told = Vec::new();
        for act in acts {
            world = perform(world, act, &mut told);
        }
        world.settles();
        let mut rows = BTreeMap::new();
        for user in USERS {
            for contact in USERS {
                rows.insert((user, contact), world.row(user, contact).unwrap_or_default());
            }
        }
        for ((user, contact), row) in &rows {
            let other = &rows[&(*contact, *user)];
            prop_assert_eq!(
                (row.to, row.asked), (other.from, other.asks), "{} of {}: {:?}, {:?}", contact, user, row, other
            );
            if row.to || row.from || row.asked || row.asks {
                prop_assert_eq!(Some(row.peer), world.incarnation(contact), "{} of {}: {:?}", contact, user, row);
            }
        }
        // Nothing remains of ended accounts.
        let all = records(&mut world.shard.machine);
        for (key, _) in all.iter().filter(|(key, _)| (0x0a..=0x0d).contains(&key[0])) {
            let (user, incarnation, _) = keys::contact_of(key).expect("a key of contacts");
            prop_assert_eq!(Some(incarnation), world.incarnation(user), "{:?}", key);
        }
        // In one batch the same commands make the same records.
        let mut again = OpenShard::new(directory, &set_level());
        let entries: Vec<_> = (2..).zip(&world.log).map(|(index, command)| entry(index, std::slice::from_ref(command))).collect();
        again.machine.apply(&entries, &world.index.to_be_bytes()).expect("applies");
        prop_assert_eq!(records(&mut again.machine), all);
    }
}
