//! The time at which a contact was last there, and who is told it.

use std::collections::BTreeMap;

use carillon_proto::pb::{
    client::{Presence, Show},
    link::{Presences, Probe, signaled::Notice},
    store::{Allowed, AllowedRead, ContactsRead},
};

use super::{both, is_told, person, read, show, told};
use crate::{owner::tests::play::*, said::Said};

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
