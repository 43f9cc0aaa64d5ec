//! Presence, between users of whom one blocks the other or hides.

use carillon_proto::pb::{
    client::{Presence, Show},
    link::{
        ContactNews, Presences, Probe, SessionPresence, SetPresence, change_privacy::Change as Asked, signaled::Notice,
    },
    store::{
        Audience, Contact, ContactChanged, ContactsRead, Person, PrivacyChanged, PrivacySettings, SetPrivacy,
        contacts_read,
    },
};

use super::{asks, play};
use crate::{owner::tests::play::*, said::Said};

impl Play {
    fn due(&mut self) -> Vec<Did> {
        self.now += Duration::from_secs(1);
        self.owner.presence_settles(self.now);
        self.owner.look_at_presences(self.now, 1_000);
        self.effects()
    }

    /// alice shows something at gateway 10; bob and carol see her and are seen.
    fn shows(read: ContactsRead) -> (Self, Vec<Did>) {
        let mut play = play();
        play.knows("alice", &[session("alice", "phone", 10, 1)]);
        let presence = Some(SessionPresence { show: Show::Online.into(), ..SessionPresence::default() });
        let set = SetPresence { user: "alice".into(), connection: 1, presence, again: false };
        play.request(Op::SetPresence(set));
        let did = play.due();
        let [Did::ReadContacts(token, ..)] = did[..] else { panic!("{did:?}") };
        let told = play.answer(token, StoreAnswer::ContactsRead(read));
        (play, told)
    }
}

fn both(contact: &str) -> contacts_read::Row {
    let row = Some(Contact { to: true, from: true, peer: 7, ..Contact::default() });
    contacts_read::Row { contact: contact.to_owned(), row }
}

fn contacts(names: &[&str]) -> ContactsRead {
    let contacts = names.iter().map(|name| both(name)).collect();
    ContactsRead { version: 5, contacts, complete: true, ..ContactsRead::default() }
}

/// Presences of alice, and the users who are told.
fn told(effects: &[Did]) -> Vec<(Show, Vec<String>)> {
    let told = |did: &Did| match did {
        Did::Says(Said::Presences(Presences { presences, to, .. })) => {
            Some((presences[0].show(), to.iter().map(|person| person.user.clone()).collect()))
        }
        _ => None,
    };
    effects.iter().filter_map(told).collect()
}

fn of_bob(show: Show, number: u64) -> Said {
    let presence = Presence { user: "bob".into(), show: show.into(), era: 1, number, ..Presence::default() };
    let to = vec![Person { user: "alice".into(), incarnation: 0 }];
    Said::Presences(Presences { presences: vec![presence], to, asked: false })
}

fn seen(effects: &[Did]) -> Vec<(String, Show)> {
    let seen = |did: &Did| match did {
        Did::Notice(10, _, Notice::Presences(told)) => Some((told.presences[0].user.clone(), told.presences[0].show())),
        _ => None,
    };
    effects.iter().filter_map(seen).collect()
}

#[test]
fn who_blocks_a_contact_and_the_contact_are_offline_for_each_other_until_the_block_ends() {
    let (mut play, did) = Play::shows(contacts(&["bob", "carol"]));
    assert_eq!(told(&did), [(Show::Online, vec!["bob".to_owned(), "carol".to_owned()])]);
    play.owner.said(of_bob(Show::Away, 5), play.now, 5);
    assert_eq!(seen(&play.effects()), [("bob".to_owned(), Show::Away)]);

    let did = play.request(asks("alice", Asked::Block("bob".into())));
    let [Did::ReadUser(token, _)] = did[..] else { panic!("{did:?}") };
    let did = play.answer(token, found_as(7, Account::default(), &[]));
    let [Did::ChangePrivacy(token, _)] = did[..] else { panic!("{did:?}") };
    let contact = ContactChanged { contact: both("bob").row, version: 5, before: 5, ..ContactChanged::default() };
    let changed = PrivacyChanged { before: 0, version: 1, contact: Some(contact.clone()), ..PrivacyChanged::default() };
    let did = play.answer(token, StoreAnswer::PrivacyChanged(changed));
    assert_eq!(told(&did), [(Show::Unspecified, vec!["bob".to_owned()])]);
    assert_eq!(seen(&did), [("bob".to_owned(), Show::Unspecified)]);
    // Bob's presence does not come through, and his questions are answered as if alice were away.
    play.owner.said(of_bob(Show::Online, 9), play.now, 9);
    assert_eq!(seen(&play.effects()), []);
    let from = Some(Person { user: "bob".into(), incarnation: 7 });
    let of = vec![Person { user: "alice".into(), incarnation: 0 }];
    GATEWAYS.into_iter().for_each(|gateway| play.owner.announced_all(LeaseId(gateway), 1, 1));
    play.owner.said(Said::Probe(Probe { from: from.clone(), of: of.clone(), last_seen: false }), play.now, 9);
    assert_eq!(told(&play.effects()), [(Show::Unspecified, vec!["bob".to_owned()])]);
    // Nor when the list is read anew.
    let did = play.due();
    let [Did::ReadContacts(token, ..)] = did[..] else { panic!("{did:?}") };
    let read = ContactsRead { blocked: vec!["bob".into()], ..contacts(&["carol"]) };
    play.answer(token, StoreAnswer::ContactsRead(read));
    play.owner.said(of_bob(Show::Online, 10), play.now, 10);
    assert_eq!(seen(&play.effects()), []);

    let did = play.request(asks("alice", Asked::Unblock("bob".into())));
    let [Did::ChangePrivacy(token, _)] = did[..] else { panic!("{did:?}") };
    let changed = PrivacyChanged { before: 1, version: 2, contact: Some(contact), ..PrivacyChanged::default() };
    let did = play.answer(token, StoreAnswer::PrivacyChanged(changed));
    assert_eq!(told(&did), [(Show::Online, vec!["bob".to_owned()])], "it may not ask by itself");
    let did = play.due();
    let [Did::ReadContacts(token, ..)] = did[..] else { panic!("{did:?}") };
    let did = play.answer(token, StoreAnswer::ContactsRead(contacts(&["bob", "carol"])));
    let asks_bob =
        |did: &Did| matches!(did, Did::Says(Said::Probe(probe)) if probe.of.iter().any(|of| of.user == "bob"));
    assert!(did.iter().any(asks_bob), "{did:?}");
    play.owner.said(Said::Probe(Probe { from, of, last_seen: false }), play.now, 11);
    assert_eq!(told(&play.effects()), [(Show::Online, vec!["bob".to_owned()])]);
    play.owner.said(of_bob(Show::Online, 12), play.now, 12);
    assert_eq!(seen(&play.effects()), [("bob".to_owned(), Show::Online)]);
}

#[test]
fn who_shows_its_presence_to_nobody_is_offline_for_all_and_sees_the_others() {
    let (mut play, _) = Play::shows(contacts(&["bob"]));
    let did = play.request(asks("alice", Asked::Set(SetPrivacy::default())));
    let [Did::ChangePrivacy(token, _)] = did[..] else { panic!("{did:?}") };
    let changed = PrivacyChanged { before: 0, version: 1, ..PrivacyChanged::default() };
    play.answer(token, StoreAnswer::PrivacyChanged(changed.clone()));
    let did = play.due();
    let [Did::ReadContacts(token, ..)] = did[..] else { panic!("{did:?}") };
    let hidden = ContactsRead { hidden: true, ..contacts(&["bob"]) };
    let did = play.answer(token, StoreAnswer::ContactsRead(hidden));
    assert_eq!(told(&did), [(Show::Unspecified, vec!["bob".to_owned()])]);
    assert!(did.iter().any(|did| matches!(did, Did::Says(Said::Probe(_)))), "{did:?}");
    let probe = Probe {
        from: Some(Person { user: "bob".into(), incarnation: 7 }),
        of: vec![Person { user: "alice".into(), incarnation: 0 }],
        last_seen: false,
    };
    GATEWAYS.into_iter().for_each(|gateway| play.owner.announced_all(LeaseId(gateway), 1, 1));
    play.owner.said(Said::Probe(probe.clone()), play.now, 9);
    assert_eq!(told(&play.effects()), [(Show::Unspecified, vec!["bob".to_owned()])]);
    assert_eq!(told(&play.due()), [], "nothing more is told");

    let did = play.request(asks("alice", Asked::Set(SetPrivacy::default())));
    let [Did::ChangePrivacy(token, _)] = did[..] else { panic!("{did:?}") };
    play.answer(token, StoreAnswer::PrivacyChanged(PrivacyChanged { before: 1, version: 2, ..changed }));
    let did = play.due();
    let [Did::ReadContacts(token, ..)] = did[..] else { panic!("{did:?}") };
    let did = play.answer(token, StoreAnswer::ContactsRead(contacts(&["bob"])));
    assert_eq!(told(&did), [(Show::Online, vec!["bob".to_owned()])]);
}

#[test]
fn who_has_just_hidden_is_not_shown_to_a_contact_that_is_let_in_then() {
    let (mut play, _) = Play::shows(contacts(&["bob"]));
    let did = play.request(asks("alice", Asked::Set(SetPrivacy::default())));
    let [Did::ChangePrivacy(token, _)] = did[..] else { panic!("{did:?}") };
    let settings = Some(PrivacySettings { presence: Audience::Nobody.into(), ..PrivacySettings::default() });
    let changed = PrivacyChanged { before: 0, version: 1, settings, ..PrivacyChanged::default() };
    play.answer(token, StoreAnswer::PrivacyChanged(changed));
    let row = Some(Contact { from: true, peer: 9, listed: true, ..Contact::default() });
    let user = Some(Person { user: "alice".into(), incarnation: 0 });
    let news = ContactNews { user, contact: "carol".into(), row, before: 5, version: 6 };
    play.owner.said(Said::News(Box::new(news)), play.now, 1_000);
    assert_eq!(told(&play.effects()), []);
}
