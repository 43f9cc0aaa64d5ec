//! Contacts, and who is told what of whom.

mod last_seen;
mod questions;

use carillon_proto::pb::{
    client::{Presence, Show},
    link::{ContactNews, Presences, Probe, SessionPresence, SetPresence, signaled::Notice},
    store::{Contact, ContactChanged, ContactsRead, Person, contacts_read},
};

use super::play::*;
use crate::said::Said;

pub(super) fn person(user: &str, incarnation: u64) -> Person {
    Person { user: user.to_owned(), incarnation }
}

pub(super) fn show(user: &str, connection: u64, show: Show) -> Op {
    let presence = Some(SessionPresence { show: show.into(), ..SessionPresence::default() });
    Op::SetPresence(SetPresence { user: user.to_owned(), connection, presence, again: false })
}

/// A contact who sees the user, and whom the user sees.
pub(super) fn both(contact: &str, peer: u64) -> contacts_read::Row {
    let row = Some(Contact { to: true, from: true, peer, ..Contact::default() });
    contacts_read::Row { contact: contact.to_owned(), row }
}

pub(super) fn read(contacts: Vec<contacts_read::Row>) -> StoreAnswer {
    StoreAnswer::ContactsRead(ContactsRead { version: 5, contacts, complete: true, ..ContactsRead::default() })
}

impl Play {
    /// Lets so much time pass. Gives what is due then.
    pub(super) fn after(&mut self, millis: u64) -> Vec<Did> {
        self.now += Duration::from_millis(millis);
        self.owner.presence_settles(self.now);
        self.owner.look_at_presences(self.now, 100 * 60_000);
        self.effects()
    }

    /// The lease of gateway 10 is gone from the registry.
    fn first_gateway_ends(&mut self) {
        let view = (*topology(1, "here:1", &["here:1"], &[20, 30]).view).clone();
        let view = store::RegistryView { version: 100, level: Level::GROUPS.0, ..view };
        let next = self.owner.topology.followed_by(view).expect("newer");
        self.owner.follow(Arc::new(next), self.now);
        assert_eq!(self.after(0), []);
    }

    pub(super) fn all_announced(&mut self) {
        GATEWAYS.into_iter().for_each(|gateway| self.owner.announced_all(LeaseId(gateway), 1, 1));
    }

    /// As at level 7, with alice at gateway 10, whose contact bob sees her.
    pub(super) fn with_alice() -> (Self, Vec<Did>) {
        let mut play = Self::new();
        play.level_rises(Level::GROUPS);
        play.knows("alice", &[session("alice", "phone", 10, 1)]);
        let answered = play.request(show("alice", 1, Show::Online));
        assert!(matches!(answered[..], [Did::Answer(_, Answer::Done(_))]), "{answered:?}");
        let effects = play.after(0);
        let [Did::ReadContacts(token, ..)] = effects[..] else { panic!("{effects:?}") };
        let effects = play.answer(token, read(vec![both("bob", 7)]));
        (play, effects)
    }
}

/// Users with their presences, and the people who are told.
pub(super) type Told = (Vec<(String, Show)>, Vec<Person>);

/// `None`: nobody is told anything.
pub(super) fn told(effects: &[Did]) -> Option<Told> {
    effects.iter().find_map(|did| match did {
        Did::Says(Said::Presences(Presences { presences, to, .. })) => {
            let shown = presences.iter().map(|presence| (presence.user.clone(), presence.show())).collect();
            Some((shown, to.clone()))
        }
        _ => None,
    })
}

pub(super) fn is_told(shown: Show) -> Option<Told> {
    Some((vec![("alice".to_owned(), shown)], vec![person("bob", 7)]))
}

#[test]
fn who_begins_to_show_something_is_told_to_contacts_and_asks_for_theirs() {
    let (mut play, effects) = Play::with_alice();
    assert_eq!(told(&effects), is_told(Show::Online));
    let probe = Probe { from: Some(person("alice", 0)), of: vec![person("bob", 7)], last_seen: true };
    assert!(effects.contains(&Did::Says(Said::Probe(probe))), "{effects:?}");
    // The version of the list goes along, so that nothing of it is missed for long.
    let is_version = |did: &Did| matches!(did, Did::Notice(10, _, Notice::ContactNews(news)) if news.version == 5);
    assert!(effects.iter().any(is_version), "{effects:?}");
    assert_eq!(play.after(60_000), [], "nothing more is due");
}

#[test]
fn a_flood_of_changes_comes_to_one_word_a_second_and_the_last_one_counts() {
    let (mut play, _) = Play::with_alice();
    let mut reads = 0;
    for at in 0..100 {
        play.request(show("alice", 1, if at % 2 == 0 { Show::Away } else { Show::Online }));
        for did in play.after(10) {
            let Did::ReadContacts(token, ..) = did else { panic!("{did:?}") };
            reads += 1;
            play.answer(token, read(vec![both("bob", 7)]));
        }
    }
    assert!(reads <= 1, "{reads} in a second");
    play.request(show("alice", 1, Show::DoNotDisturb));
    let effects = play.after(1_000);
    let [Did::ReadContacts(token, ..)] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(told(&play.answer(token, read(vec![both("bob", 7)]))), is_told(Show::DoNotDisturb));
}

#[test]
fn those_who_are_told_are_named_again_only_when_they_have_changed() {
    let (mut play, _) = Play::with_alice();
    let mut next = |shown: Show, answer: ContactsRead| {
        play.request(show("alice", 1, shown));
        let effects = play.after(1_000);
        let [Did::ReadContacts(token, _, true, known)] = effects[..] else { panic!("{effects:?}") };
        let told = told(&play.answer(token, StoreAnswer::ContactsRead(answer)));
        (known, told.map(|(shown, to)| (shown[0].1, to)))
    };
    let unchanged = ContactsRead { version: 5, unchanged: true, ..ContactsRead::default() };
    assert_eq!(next(Show::Away, unchanged.clone()), ((5, 0), Some((Show::Away, vec![person("bob", 7)]))));
    assert_eq!(next(Show::Online, unchanged), ((5, 0), Some((Show::Online, vec![person("bob", 7)]))));
    let contacts = vec![both("carol", 9), both("dave", 4)];
    let changed = ContactsRead { version: 8, privacy_version: 2, contacts, ..ContactsRead::default() };
    let (carol, dave) = (person("carol", 9), person("dave", 4));
    assert_eq!(next(Show::Away, changed.clone()), ((5, 0), Some((Show::Away, vec![carol.clone(), dave.clone()]))));
    // Only the settings have changed.
    let contacts = vec![both("carol", 9)];
    let blocks = ContactsRead { privacy_version: 3, blocked: vec!["dave".into()], contacts, ..changed.clone() };
    assert_eq!(next(Show::Online, blocks), ((8, 2), Some((Show::Online, vec![carol.clone()]))));
    let hides = ContactsRead { privacy_version: 4, hidden: true, ..changed };
    assert_eq!(next(Show::Away, hides), ((8, 3), Some((Show::Unspecified, vec![carol, dave]))));
    // The settings are remembered with the contacts.
    let unchanged = ContactsRead { version: 8, privacy_version: 4, unchanged: true, ..ContactsRead::default() };
    assert_eq!(next(Show::Online, unchanged), ((8, 4), None), "she is shown to nobody");
}

#[test]
fn who_comes_back_soon_was_never_away_and_nobody_is_away_before_all_gateways_have_announced() {
    const RING: u64 = 100;
    let (mut play, _) = Play::with_alice();
    // The gateways have registered before it.
    play.ring_comes(RING, &["here:1"]);
    let effects = play.after(5_000);
    let [Did::ReadContacts(token, ..)] = effects[..] else { panic!("{effects:?}") };
    play.answer(token, read(vec![both("bob", 7)]));
    let alice = UserId::new("alice").expect("valid");
    play.owner.register.remove(&alice, LeaseId(10), 1);
    assert_eq!(play.after(0), []);
    assert_eq!(play.after(4_000), []);
    let back = session::Session {
        presence: Some(Box::new(SessionPresence { show: Show::Online.into(), ..SessionPresence::default() })),
        ..session::Session::new(&session("alice", "phone", 20, 9), 1)
    };
    play.owner.register.put(&alice, 0, back);
    assert_eq!(play.after(10_000), [], "as if nothing had been");
    play.owner.register.remove(&alice, LeaseId(20), 9);
    assert_eq!(play.after(0), []);
    assert_eq!(play.after(60_000), [], "gateways may have sessions of hers");
    GATEWAYS.into_iter().for_each(|gateway| play.owner.announced_all(LeaseId(gateway), 1, RING));
    let effects = play.after(2_000);
    let [Did::ReadContacts(token, ..)] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(told(&play.answer(token, read(vec![both("bob", 7)]))), is_told(Show::Unspecified));
    assert_eq!(play.after(60_000), []);
}

#[test]
fn the_sessions_of_a_gateway_that_has_ended_are_away_soon() {
    let (mut play, _) = Play::with_alice();
    play.all_announced();
    play.first_gateway_ends();
    let effects = play.after(5_000);
    let [Did::DeleteSession(deleted, 1), Did::ReadContacts(token, ..)] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(told(&play.answer(token, read(vec![both("bob", 7)]))), is_told(Show::Unspecified));
    // The store is told when that was, until it answers.
    let told = play.deleted.pop().expect("deleted");
    assert_eq!((&*told.user, told.lease, told.time_ms), ("alice", 10, 100 * 60_000 - 5_000));
    assert_eq!(play.fails(deleted, StoreFailure::Unexpected), []);
    let effects = play.after(5_000);
    let [Did::DeleteSession(deleted, 1)] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(play.deleted.pop().expect("deleted").time_ms, 100 * 60_000 - 10_000);
    assert_eq!(play.answer(deleted, StoreAnswer::Done(Done {})), []);
    assert_eq!(play.after(60_000), []);
}

#[test]
fn of_who_has_come_back_from_a_gateway_that_has_ended_the_store_is_told_nothing() {
    let (mut play, _) = Play::with_alice();
    play.all_announced();
    play.first_gateway_ends();
    play.knows("alice", &[session("alice", "phone", 20, 4)]);
    for did in play.after(60_000) {
        assert!(matches!(did, Did::ReadContacts(..)), "{did:?}");
    }
}

#[test]
fn thousands_who_lose_their_gateway_are_said_to_be_away_one_after_the_other() {
    let mut play = Play::new();
    play.level_rises(Level::GROUPS);
    play.all_announced();
    let users: Vec<UserId> = (0..2_000).map(|n| UserId::new(&format!("user{n}")).expect("valid")).collect();
    let online = || Some(Box::new(SessionPresence { show: Show::Online.into(), ..SessionPresence::default() }));
    for (connection, user) in users.iter().enumerate() {
        let stored = session(user.as_str(), "phone", 10, connection as u64);
        play.owner.register.put(user, 0, session::Session { presence: online(), ..session::Session::new(&stored, 1) });
    }
    assert_eq!(play.after(0), []);
    users.iter().enumerate().for_each(|(connection, user)| {
        play.owner.register.remove(user, LeaseId(10), connection as u64);
    });
    assert_eq!(play.after(0), []);
    let (mut away, mut most) = (0, 0);
    for _ in 0..100 {
        let reads = play.after(100);
        most = most.max(reads.len());
        for did in reads {
            let Did::ReadContacts(token, ..) = did else { panic!("{did:?}") };
            let effects = play.answer(token, read(vec![both("bob", 7)]));
            away += usize::from(told(&effects).is_some_and(|(shown, _)| shown[0].1 == Show::Unspecified));
        }
    }
    assert_eq!(away, 2_000);
    assert!(most <= 60, "{most} in a tenth of a second");
}

#[test]
fn who_has_stayed_while_this_router_was_out_of_the_ring_is_shown_as_before() {
    let (mut play, _) = Play::with_alice();
    play.ring_comes(100, &["there:1"]);
    assert_eq!(told(&play.after(10_000)), None);
    play.ring_comes(200, &["here:1"]);
    let probe = Probe { from: Some(person("bob", 7)), of: vec![person("alice", 0)], last_seen: true };
    play.owner.said(Said::Probe(probe), play.now, 1_000);
    let effects = play.after(2_000);
    let [Did::ReadContacts(token, ..)] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(told(&play.answer(token, read(vec![both("bob", 7)]))), is_told(Show::Online));
}

#[test]
fn a_contact_that_is_let_in_is_told_at_once_and_one_that_is_not_any_more_sees_nothing() {
    let (mut play, _) = Play::with_alice();
    let mut news = |from: bool| {
        let row = Some(Contact { from, peer: 9, listed: true, ..Contact::default() });
        let user = Some(person("alice", 0));
        let news = ContactNews { user, contact: "carol".into(), row, before: 5, version: 6 };
        play.owner.said(Said::News(Box::new(news)), play.now, 1_000);
        told(&play.effects())
    };
    let to_carol = |shown| Some((vec![("alice".to_owned(), shown)], vec![person("carol", 9)]));
    assert_eq!(news(true), to_carol(Show::Online));
    assert_eq!(news(true), None, "once");
    assert_eq!(news(false), to_carol(Show::Unspecified));
}

#[test]
fn presences_reach_only_sessions_that_show_something_and_of_the_right_owner_of_the_name() {
    let (mut play, _) = Play::with_alice();
    play.knows("alice", &[session("alice", "phone", 10, 1), session("alice", "bot", 20, 5)]);
    play.request(show("alice", 1, Show::Online));
    let presences = vec![Presence { user: "bob".into(), ..Presence::default() }];
    let mut says = |incarnation| {
        let to = vec![person("alice", incarnation), person("stranger", 3)];
        play.owner.said(Said::Presences(Presences { presences: presences.clone(), to, asked: false }), play.now, 1_000);
        play.effects()
    };
    let what = Notice::Presences(Presences { presences: presences.clone(), to: Vec::new(), asked: false });
    assert_eq!(says(0), [Did::Notice(10, vec![1], what)]);
    assert_eq!(says(1), []);
}

#[test]
fn a_change_is_told_to_the_users_devices_and_then_to_the_contact() {
    let (mut play, _) = Play::with_alice();
    let ask = |change| {
        let change = Some(change);
        Op::ChangeContact(Box::new(link::ChangeContact {
            user: "alice".into(),
            incarnation: 0,
            contact: "carol".into(),
            change,
        }))
    };
    let say = || {
        link::change_contact::Change::Say(store::SayToContact {
            word: store::Word::Subscribe.into(),
            text: "hi".into(),
            // Nobody but the router says who that is.
            peer: Some(99),
        })
    };
    let effects = play.request(ask(say()));
    let [Did::ReadUser(token, contact)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(contact, "carol");
    let effects = play.answer(*token, found_as(9, Account::default(), &[]));
    let [Did::ChangeContact(token, change)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((&*change.user, &*change.contact), ("alice", "carol"));
    let Some(store::change_contact::Change::Say(said)) = &change.change else { panic!("{change:?}") };
    assert_eq!(said.peer, Some(9));
    let row = Contact { asked: true, listed: true, untold: vec![store::Said::default()], ..Contact::default() };
    let changed = ContactChanged { contact: Some(row.clone()), version: 6, before: 5, changed: true, incarnation: 0 };
    let effects = play.answer(*token, StoreAnswer::ContactChanged(changed));
    let [Did::Notice(10, _, Notice::ContactNews(news)), Did::Tell(contact, telling)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((news.before, news.version, &**contact, telling), (5, 6, "carol", &row));

    let effects = play.request(ask(say()));
    let [Did::ReadUser(token, _)] = effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(token, StoreAnswer::User(User::default()));
    assert_eq!(refusal(&effects[0]).code(), client::Code::NotFound);

    let effects = play.request(ask(link::change_contact::Change::Set(store::SetContact::default())));
    let [Did::ChangeContact(token, _)] = effects[..] else { panic!("{effects:?}") };
    let full = StoreFailure::NoRoom { detail: "the list has 10000 contacts already".into() };
    let effects = play.fails(token, full);
    assert_eq!(refusal(&effects[0]).code(), client::Code::Overloaded);
}

#[test]
fn a_session_that_only_hears_is_told_of_others_and_nobody_of_it() {
    let mut play = Play::new();
    play.level_rises(Level::GROUPS);
    play.all_announced();
    play.knows("alice", &[session("alice", "phone", 10, 1)]);
    let hears = Some(SessionPresence { hears: true, ..SessionPresence::default() });
    play.request(Op::SetPresence(SetPresence { user: "alice".into(), connection: 1, presence: hears, again: false }));
    let effects = play.after(0);
    let [Did::ReadContacts(token, ..)] = effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(token, read(vec![both("bob", 7)]));
    assert_eq!(told(&effects), None);
    assert!(effects.iter().any(|did| matches!(did, Did::Says(Said::Probe(_)))), "{effects:?}");
    assert_eq!(play.after(60_000), [], "nothing more is due");
    let presences = vec![Presence { user: "bob".into(), ..Presence::default() }];
    let to = vec![person("alice", 0)];
    play.owner.said(Said::Presences(Presences { presences, to, asked: false }), play.now, 1_000);
    assert!(matches!(play.effects()[..], [Did::Notice(10, _, Notice::Presences(_))]));
    // From showing something to hearing alone: offline at once for the others.
    play.request(show("alice", 1, Show::Online));
    let mut words = Vec::new();
    for (shown, hears) in [(Show::Online, false), (Show::Unspecified, true)] {
        let presence = Some(SessionPresence { show: shown.into(), hears, ..SessionPresence::default() });
        play.request(Op::SetPresence(SetPresence { user: "alice".into(), connection: 1, presence, again: false }));
        for did in play.after(1_000) {
            let Did::ReadContacts(token, ..) = did else { panic!("{did:?}") };
            words.extend(told(&play.answer(token, read(vec![both("bob", 7)]))));
        }
    }
    assert_eq!(words, [is_told(Show::Online), is_told(Show::Unspecified)].map(|told| told.expect("told")));
}

#[test]
fn below_level_7_there_are_no_contacts() {
    let mut play = Play::knowing(&["alice"]);
    let refused = play.request(show("alice", 1, Show::Online));
    assert_eq!(refusal(&refused[0]).code(), client::Code::Unsupported);
}

#[test]
fn users_of_domains_that_no_longer_talk_to_each_other_are_gone_for_each_other() {
    let crossing = || {
        let crosses_to = vec![String::new()];
        vec![store::Domain { name: "a.example".to_owned(), crosses_to, ..store::Domain::default() }]
    };
    let mut play = Play::new();
    play.decides(crossing());
    play.knows("alice", &[session("alice", "phone", 10, 1)]);
    play.request(show("alice", 1, Show::Online));
    let (bob, carol) = (person("bob@a.example", 7), person("carol", 8));
    let contacts = || read(vec![both("bob@a.example", 7), both("carol", 8)]);
    let reads = |effects: &[Did]| match effects {
        [Did::ReadContacts(token, _, true, (0, 0))] => *token,
        other => panic!("{other:?}"),
    };
    let probed = |effects: &[Did]| {
        effects
            .iter()
            .find_map(|did| if let Did::Says(Said::Probe(probe)) = did { Some(probe.of.clone()) } else { None })
    };
    let all_told =
        |effects: &[Did]| -> Vec<Told> { effects.iter().filter_map(|did| told(std::slice::from_ref(did))).collect() };
    let alice = |shown: Show, to: &[&Person]| -> Told {
        (vec![("alice".to_owned(), shown)], to.iter().copied().cloned().collect())
    };
    let token = reads(&play.after(0));
    let effects = play.answer(token, contacts());
    assert_eq!(all_told(&effects), [alice(Show::Online, &[&bob, &carol])]);
    assert_eq!(probed(&effects), Some(vec![bob.clone(), carol.clone()]));
    let hears = |play: &mut Play, show: Show| {
        let presences = vec![Presence { user: bob.user.clone(), show: show.into(), ..Presence::default() }];
        let said = Presences { presences, to: vec![person("alice", 0)], asked: false };
        play.owner.said(Said::Presences(said), play.now, 1_000);
        play.effects().len()
    };
    assert_eq!(hears(&mut play, Show::Online), 1);

    // At once nothing comes through but that he is gone, and he has no answer.
    play.decides(vec![]);
    assert_eq!([hears(&mut play, Show::Away), hears(&mut play, Show::Unspecified)], [0, 1]);
    let probe = Probe { from: Some(bob.clone()), of: vec![person("alice", 0)], last_seen: true };
    play.owner.said(Said::Probe(probe.clone()), play.now, 1_000);
    assert_eq!(play.effects(), []);
    // Soon she is gone for him, and goes on for others.
    let token = reads(&play.after(5_000));
    let effects = play.answer(token, contacts());
    assert_eq!(all_told(&effects), [alice(Show::Unspecified, &[&bob])]);
    assert_eq!(probed(&effects), Some(vec![carol.clone()]));
    play.request(show("alice", 1, Show::Away));
    let effects = play.after(1_000);
    let [Did::ReadContacts(token, _, true, _)] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(all_told(&play.answer(token, contacts())), [alice(Show::Away, &[&carol])]);

    // It is allowed again.
    play.decides(crossing());
    let token = reads(&play.after(5_000));
    let effects = play.answer(token, contacts());
    assert_eq!(all_told(&effects), [alice(Show::Away, &[&bob])]);
    assert_eq!(probed(&effects), Some(vec![bob.clone(), carol]));
    assert_eq!(hears(&mut play, Show::Online), 1);
    play.owner.said(Said::Probe(probe), play.now, 1_000);
    assert_eq!(all_told(&play.effects()), [alice(Show::Away, &[&bob])]);
}
