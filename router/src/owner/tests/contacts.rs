//! Contacts, and who is told what of whom.

use std::collections::BTreeMap;

use carillon_proto::pb::{
    client::{Presence, Show},
    link::{ContactNews, Presences, Probe, SessionPresence, SetPresence, signaled::Notice},
    store::{Allowed, AllowedRead, Contact, ContactChanged, ContactsRead, Person, contacts_read},
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
    /// What is due at this time after the beginning.
    pub(super) fn after(&mut self, millis: u64) -> Vec<Did> {
        self.now += Duration::from_millis(millis);
        self.owner.presence_settles(self.now);
        self.owner.look_at_presences(self.now, 100 * 60_000);
        self.effects()
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

/// Who shows what, and who is told that.
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
fn who_asks_again_while_only_versions_are_compared_has_its_answer() {
    let (mut play, _) = Play::with_alice();
    play.request(show("alice", 1, Show::Away));
    let effects = play.after(1_000);
    let [Did::ReadContacts(token, _, true, (5, 0))] = effects[..] else { panic!("{effects:?}") };
    let presence = Some(SessionPresence { show: Show::Away.into(), ..SessionPresence::default() });
    play.request(Op::SetPresence(SetPresence { user: "alice".into(), connection: 1, presence, again: true }));
    let unchanged = ContactsRead { version: 5, unchanged: true, ..ContactsRead::default() };
    let effects = play.answer(token, StoreAnswer::ContactsRead(unchanged));
    assert_eq!(told(&effects), is_told(Show::Away));
    let probes = |effects: &[Did]| effects.iter().any(|did| matches!(did, Did::Says(Said::Probe(_))));
    assert!(!probes(&effects), "{effects:?}");
    let effects = play.after(0);
    let [Did::ReadContacts(token, _, true, (0, 0))] = effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(token, read(vec![both("bob", 7)]));
    assert!(probes(&effects), "{effects:?}");
    assert_eq!(told(&effects), None, "nothing new");
    assert_eq!(play.after(60_000), [], "nothing more is due");
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
    let view = store::RegistryView { version: 100, ..(*topology(1, "here:1", &["here:1"], &[20, 30]).view).clone() };
    let view = store::RegistryView { level: Level::GROUPS.0, ..view };
    let next = play.owner.topology.followed_by(view).expect("newer");
    play.owner.follow(Arc::new(next), play.now);
    assert_eq!(play.after(0), []);
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
    let view = store::RegistryView { version: 100, ..(*topology(1, "here:1", &["here:1"], &[20, 30]).view).clone() };
    let view = store::RegistryView { level: Level::GROUPS.0, ..view };
    let next = play.owner.topology.followed_by(view).expect("newer");
    play.owner.follow(Arc::new(next), play.now);
    assert_eq!(play.after(0), []);
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
fn only_who_may_see_a_user_is_answered_with_what_it_shows() {
    let (mut play, _) = Play::with_alice();
    play.all_announced();
    let mut probed = |from: Person, of: Person| {
        play.owner.said(Said::Probe(Probe { from: Some(from), of: vec![of], last_seen: false }), play.now, 1_000);
        told(&play.effects()).map(|(shown, to)| (shown[0].1, to))
    };
    let (alice, bob) = (person("alice", 0), person("bob", 7));
    assert_eq!(probed(bob.clone(), alice.clone()), Some((Show::Online, vec![bob.clone()])));
    let carol = person("carol", 9);
    assert_eq!(probed(carol.clone(), alice.clone()), Some((Show::Unspecified, vec![carol])));
    let later = person("bob", 8);
    assert_eq!(probed(later.clone(), alice), Some((Show::Unspecified, vec![later])), "the next owner of the name");
    let another = person("alice", 1);
    assert_eq!(probed(bob.clone(), another), Some((Show::Unspecified, vec![bob])), "another owner of her name");
}

#[test]
fn a_question_waits_while_it_is_not_known_whether_the_user_is_away() {
    let mut play = Play::new();
    let probe = Said::Probe(Probe { from: Some(person("bob", 7)), of: vec![person("alice", 0)], last_seen: false });
    play.owner.said(probe.clone(), play.now, 1_000);
    assert_eq!(play.effects(), []);
    assert_eq!(play.after(1_000), [Did::Says(probe.clone())], "it goes to whoever owns her then");
    play.all_announced();
    play.owner.said(probe, play.now, 1_000);
    assert_eq!(told(&play.effects()), is_told(Show::Unspecified));
}

#[test]
fn a_question_about_a_user_who_comes_here_by_a_ring_that_is_not_known_yet_waits() {
    let mut play = Play::new();
    play.all_announced();
    play.ring_comes(2, &["there:1"]);
    play.effects();
    let probe = Said::Probe(Probe { from: Some(person("bob", 7)), of: vec![person("alice", 0)], last_seen: true });
    play.owner.said(probe.clone(), play.now, 1_000);
    assert_eq!(play.effects(), [], "it is not said that she is offline");
    assert!(play.after(1_000).contains(&Did::Says(probe)), "it goes to whoever owns her then");
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

/// Minutes after 1970 at which the contacts are told that alice was last there; `None`: they are told nothing of her.
fn last_seen(effects: &[Did]) -> Option<u64> {
    effects.iter().find_map(|did| match did {
        Did::Says(Said::Presences(told)) => Some(told.presences[0].last_seen_ms / 60_000),
        _ => None,
    })
}

#[test]
fn contacts_hear_when_who_leaves_was_last_there_unless_it_is_hidden() {
    let seen = [(false, false, 99), (true, false, 0), (false, true, 0)];
    for (hidden, last_seen_hidden, minute) in seen {
        let (mut play, _) = Play::with_alice();
        play.all_announced();
        play.owner.register.remove(&UserId::new("alice").expect("valid"), LeaseId(10), 1);
        assert_eq!(play.after(0), []);
        let effects = play.after(6_000);
        let [Did::ReadContacts(token, ..)] = effects[..] else { panic!("{effects:?}") };
        let contacts = vec![both("bob", 7)];
        let read =
            ContactsRead { version: 5, contacts, complete: true, hidden, last_seen_hidden, ..ContactsRead::default() };
        // She left 6 s before.
        play.owner.answer(token, Ok(StoreAnswer::ContactsRead(read)), play.now, 100 * 60_000 + 5_000);
        assert_eq!(last_seen(&play.effects()), Some(minute), "{hidden} {last_seen_hidden}");
    }
}

#[test]
fn the_store_is_asked_when_contacts_who_are_offline_were_last_there_if_that_is_wanted() {
    let mut play = Play::new();
    play.level_rises(Level::GROUPS);
    play.all_announced();
    let (bob, of) = (person("bob", 7), vec![person("alice", 0), person("carol", 3)]);
    let probe = |last_seen| Said::Probe(Probe { from: Some(bob.clone()), of: of.clone(), last_seen });
    play.owner.said(probe(false), play.now, 1_000);
    assert_eq!(last_seen(&play.effects()), Some(0), "nothing was read");
    play.owner.said(probe(true), play.now, 1_000);
    let mut told = BTreeMap::new();
    for did in play.effects() {
        let Did::ReadAllowed(token, by, users) = did else { panic!("{did:?}") };
        assert_eq!(by, "bob");
        let allowed = users
            .iter()
            .map(|user| Allowed { last_seen_ms: if user == "alice" { 120_000 } else { 0 }, ..Allowed::default() });
        let answer = StoreAnswer::AllowedRead(AllowedRead { allowed: allowed.collect() });
        for did in play.answer(token, answer) {
            let Did::Says(Said::Presences(Presences { presences, to, .. })) = did else { panic!("{did:?}") };
            assert_eq!(to, std::slice::from_ref(&bob));
            told.extend(presences.into_iter().map(|told| (told.user.clone(), (told.show(), told.last_seen_ms))));
        }
    }
    let expected = [("alice".to_owned(), (Show::Unspecified, 120_000)), ("carol".to_owned(), (Show::Unspecified, 0))];
    assert_eq!(told, BTreeMap::from(expected));
    // Without an answer of the store, they are offline all the same.
    play.owner.said(probe(true), play.now, 1_000);
    let mut offline = 0;
    for did in play.effects() {
        let Did::ReadAllowed(token, ..) = did else { panic!("{did:?}") };
        for did in play.fails(token, StoreFailure::Unexpected) {
            let Did::Says(Said::Presences(told)) = did else { panic!("{did:?}") };
            offline += told.presences.len();
        }
    }
    assert_eq!(offline, 2);
}

#[test]
fn who_comes_back_while_the_store_is_asked_is_not_said_to_be_offline() {
    let mut play = Play::new();
    play.level_rises(Level::GROUPS);
    play.all_announced();
    let probe = Probe { from: Some(person("bob", 7)), of: vec![person("alice", 0)], last_seen: true };
    play.owner.said(Said::Probe(probe), play.now, 1_000);
    let effects = play.effects();
    let [Did::ReadAllowed(asked, ..)] = effects[..] else { panic!("{effects:?}") };
    play.knows("alice", &[session("alice", "phone", 10, 1)]);
    play.request(show("alice", 1, Show::Online));
    let effects = play.after(0);
    let [Did::ReadContacts(token, ..)] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(told(&play.answer(token, read(vec![both("bob", 7)]))), is_told(Show::Online));
    let allowed = vec![Allowed { last_seen_ms: 60_000, ..Allowed::default() }];
    let effects = play.answer(asked, StoreAnswer::AllowedRead(AllowedRead { allowed }));
    assert_eq!((told(&effects), last_seen(&effects)), (is_told(Show::Online), Some(0)));
}

#[test]
fn who_does_not_show_when_it_was_last_there_is_not_told_it_of_others_either() {
    let (mut play, _) = Play::with_alice();
    let gone = Presence { user: "bob".into(), last_seen_ms: 60_000, ..Presence::default() };
    let hears = |play: &mut Play| {
        let told = Presences { presences: vec![gone.clone()], to: vec![person("alice", 0)], asked: false };
        play.owner.said(Said::Presences(told), play.now, 1_000);
        let effects = play.effects();
        let [Did::Notice(10, _, Notice::Presences(told))] = &effects[..] else { panic!("{effects:?}") };
        told.presences[0].last_seen_ms
    };
    assert_eq!(hears(&mut play), 60_000);
    let settings = store::PrivacySettings { last_seen: store::Audience::Nobody.into(), ..Default::default() };
    let set = store::SetPrivacy { last_seen: Some(store::Audience::Nobody.into()), ..Default::default() };
    let change = Some(link::change_privacy::Change::Set(set));
    let did = play.request(Op::ChangePrivacy(link::ChangePrivacy { user: "alice".into(), incarnation: 0, change }));
    let [Did::ChangePrivacy(token, _)] = did[..] else { panic!("{did:?}") };
    let changed = store::PrivacyChanged { version: 1, settings: Some(settings), ..store::PrivacyChanged::default() };
    play.answer(token, StoreAnswer::PrivacyChanged(changed));
    assert_eq!(hears(&mut play), 0, "from the answer on");
    // Nor does she ask for it.
    let effects = play.after(1_000);
    let [Did::ReadContacts(token, ..)] = effects[..] else { panic!("{effects:?}") };
    let contacts = vec![both("bob", 7)];
    let read = ContactsRead { version: 5, contacts, complete: true, last_seen_hidden: true, ..ContactsRead::default() };
    let effects = play.answer(token, StoreAnswer::ContactsRead(read));
    let probes = |did: &Did| matches!(did, Did::Says(Said::Probe(Probe { last_seen: false, .. })));
    assert!(effects.iter().any(probes), "{effects:?}");
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
fn who_asks_while_a_contact_may_come_back_is_told_what_the_others_know() {
    for comes_back in [true, false] {
        let (mut play, _) = Play::with_alice();
        play.all_announced();
        let alice = UserId::new("alice").expect("valid");
        play.owner.register.remove(&alice, LeaseId(10), 1);
        assert_eq!(play.after(1_000), []);
        let probe = Probe { from: Some(person("bob", 7)), of: vec![person("alice", 0)], last_seen: true };
        play.owner.said(Said::Probe(probe), play.now, 1_000);
        assert_eq!(told(&play.effects()), is_told(Show::Online));
        if comes_back {
            play.knows("alice", &[session("alice", "phone", 10, 9)]);
            play.request(show("alice", 9, Show::Online));
        }
        let effects = play.after(6_000);
        let Some(Did::ReadContacts(token, ..)) = effects.iter().find(|did| matches!(did, Did::ReadContacts(..))) else {
            panic!("{effects:?}")
        };
        let expected = if comes_back { None } else { is_told(Show::Unspecified) };
        assert_eq!(told(&play.answer(*token, read(vec![both("bob", 7)]))), expected);
    }
}
