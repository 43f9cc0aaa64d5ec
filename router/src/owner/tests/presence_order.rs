//! Presence whose words come late, or in another order.

use carillon_proto::pb::{
    client::Show,
    link::{ContactNews, Probe, SessionPresence, SetPresence},
    store::{Contact, ContactsRead},
};

use super::{contacts::*, play::*};
use crate::said::Said;

#[test]
fn who_asks_within_a_second_of_a_change_that_is_taken_back_is_told_what_the_others_know() {
    let (mut play, _) = Play::with_alice();
    play.all_announced();
    play.request(show("alice", 1, Show::Away));
    play.after(10);
    let probe = Probe { from: Some(person("bob", 7)), of: vec![person("alice", 0)], last_seen: true };
    play.owner.said(Said::Probe(probe), play.now, 1_000);
    assert_eq!(told(&play.effects()), is_told(Show::Online), "nobody would tell him of the change back");
    play.request(show("alice", 1, Show::Online));
    for did in play.after(60_000) {
        let Did::ReadContacts(token, ..) = did else { panic!("{did:?}") };
        assert_eq!(told(&play.answer(token, read(vec![both("bob", 7)]))), None);
    }
}

fn let_in(version: u64) -> Said {
    let row = Some(Contact { from: true, peer: 9, listed: true, ..Contact::default() });
    let user = Some(person("alice", 0));
    Said::News(Box::new(ContactNews { user, contact: "carol".into(), row, before: version - 1, version }))
}

#[test]
fn a_word_about_a_contact_that_has_been_overtaken_lets_nobody_in() {
    let (mut play, _) = Play::with_alice();
    play.all_announced();
    // The list was of version 5 when it was read.
    play.owner.said(let_in(4), play.now, 1_000);
    assert_eq!(told(&play.effects()), None);
    let probe = Probe { from: Some(person("carol", 9)), of: vec![person("alice", 0)], last_seen: false };
    play.owner.said(Said::Probe(probe), play.now, 1_000);
    let nothing = (vec![("alice".to_owned(), Show::Unspecified)], vec![person("carol", 9)]);
    assert_eq!(told(&play.effects()), Some(nothing));
    // What is so is read.
    let effects = play.after(0);
    let [Did::ReadContacts(token, _, _, (0, 0))] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(told(&play.answer(token, read(vec![both("bob", 7)]))), None);
    assert_eq!(play.after(60_000), [], "nothing more is due");
}

#[test]
fn an_answer_of_the_store_that_a_word_has_overtaken_is_asked_for_once_more() {
    let (mut play, _) = Play::with_alice();
    play.request(show("alice", 1, Show::Away));
    let effects = play.after(1_000);
    let [Did::ReadContacts(token, ..)] = effects[..] else { panic!("{effects:?}") };
    play.owner.said(let_in(7), play.now, 1_000);
    let to_carol = (vec![("alice".to_owned(), Show::Online)], vec![person("carol", 9)]);
    assert_eq!(told(&play.effects()), Some(to_carol));
    // Carol is not among them yet.
    assert_eq!(play.answer(token, read(vec![both("bob", 7)])), []);
    let effects = play.after(0);
    let [Did::ReadContacts(token, _, _, (0, 0))] = effects[..] else { panic!("{effects:?}") };
    let contacts = vec![both("bob", 7), both("carol", 9)];
    let read = ContactsRead { version: 7, contacts, complete: true, ..ContactsRead::default() };
    let to = vec![person("bob", 7), person("carol", 9)];
    let effects = play.answer(token, StoreAnswer::ContactsRead(read));
    assert_eq!(told(&effects), Some((vec![("alice".to_owned(), Show::Away)], to)));
}

fn numbered(shown: Show, number: u64) -> SessionPresence {
    SessionPresence { show: shown.into(), number, ..SessionPresence::default() }
}

#[test]
fn what_a_session_has_shown_since_it_was_announced_counts() {
    let mut play = Play::new();
    play.level_rises(Level::GROUPS);
    let set = |shown, number| {
        let presence = Some(numbered(shown, number));
        Op::SetPresence(SetPresence { user: "alice".into(), connection: 1, presence, again: false })
    };
    let stored = session("alice", "phone", 10, 1);
    let announce = |number| {
        let presence = Some(numbered(Show::Online, number));
        Op::Announce(link::Announce { session: Some(stored.clone()), presence })
    };
    let effects = play.request(announce(3));
    let [Did::ReadUser(read, _)] = effects[..] else { panic!("{effects:?}") };
    // The announcement waits for the account: the gateway says it once more.
    let refused = play.request(set(Show::Unspecified, 4));
    assert_eq!((refusal(&refused[0]).code(), refusal(&refused[0]).retry), (client::Code::Unavailable, true));
    play.answer(read, found("alice", std::slice::from_ref(&stored)));
    let alice = UserId::new("alice").expect("valid");
    let shown = |play: &Play| crate::presence::shown(play.owner.register.all_sessions(&alice)).is_some();
    assert!(shown(&play));
    let answered = play.request(set(Show::Unspecified, 4));
    assert!(matches!(answered[..], [Did::Answer(_, Answer::Done(_))]), "{answered:?}");
    assert!(!shown(&play));
    // Of another link, and late.
    play.request(announce(3));
    assert!(!shown(&play));
    play.request(set(Show::Online, 3));
    assert!(!shown(&play));
    play.request(announce(5));
    assert!(shown(&play));
}

#[test]
fn a_session_that_comes_late_to_an_owner_of_before_is_told_to_nobody() {
    let mut play = Play::new();
    play.all_announced();
    play.ring_comes(100, &["there:1"]);
    play.effects();
    let alice = UserId::new("alice").expect("valid");
    let presence = Some(Box::new(SessionPresence { show: Show::Online.into(), ..SessionPresence::default() }));
    let late = session::Session { presence, ..session::Session::new(&session("alice", "phone", 10, 1), 1) };
    play.owner.register.put(&alice, 0, late);
    assert_eq!(play.after(0), []);
    play.owner.register.remove(&alice, LeaseId(10), 1);
    play.all_announced();
    assert_eq!(play.after(0), []);
    assert_eq!(play.after(60_000), []);
}
