use carillon_proto::{
    LeaseId,
    pb::{
        link::SessionPresence,
        store::{Contact, contacts_read},
    },
};

use super::*;

fn session(priority: i32, show: Show, status: &str) -> Session {
    let presence =
        SessionPresence { show: show.into(), status: status.to_owned(), priority, ..SessionPresence::default() };
    Session {
        device: "a".into(),
        lease: LeaseId(1),
        connection: 1,
        generation: 1,
        link: 1,
        presence: Some(Box::new(presence)),
        shown: 0,
    }
}

#[test]
fn the_session_of_the_highest_priority_counts_and_then_the_one_that_is_most_there() {
    let of = |sessions: &[Session]| shown(sessions).map(|shown| shown.status);
    assert_eq!(of(&[]), None);
    let silent = Session { presence: None, ..session(9, Show::Online, "silent") };
    assert_eq!(of(std::slice::from_ref(&silent)), None);
    let (busy, home, late) = (
        session(1, Show::DoNotDisturb, "busy"),
        session(0, Show::Online, "home"),
        session(0, Show::ExtendedAway, "late"),
    );
    assert_eq!(of(&[home.clone(), busy, silent]).as_deref(), Some("busy"));
    assert_eq!(of(&[late, home]).as_deref(), Some("home"));
}

#[test]
fn numbers_grow_also_when_the_clock_is_put_back() {
    let mut presences = Presences::default();
    let numbers: Vec<u64> = [5, 5, 2, 9].map(|time_ms| presences.presence("alice", None, 1, time_ms).number).to_vec();
    assert_eq!(numbers, [5, 6, 7, 9]);
}

#[test]
fn what_could_not_be_said_is_said_again_up_to_a_bound() {
    let (mut presences, now) = (Presences::default(), Instant::now());
    for _ in 0..UNSAID + 5 {
        presences.unsaid(Said::Presences(Default::default()), now);
    }
    assert_eq!(presences.due(), Some(now + AGAIN));
    assert!(presences.take_due(now).1.is_empty());
    assert_eq!(presences.take_due(now + AGAIN).1.len(), UNSAID);
    assert_eq!(presences.due(), None);
}

fn row(contact: &str, from: bool) -> contacts_read::Row {
    let row = Some(Contact { from, to: true, peer: 7, ..Contact::default() });
    contacts_read::Row { contact: contact.to_owned(), row }
}

fn online(all_announced: bool) -> Current {
    let shown = Some(Shown { show: Show::Online.into(), status: String::new() });
    Current { shown, hears: true, has_sessions: true, all_announced }
}

#[test]
fn who_may_see_the_user_since_the_last_read_is_told_although_the_others_know_it() {
    let (mut presences, now, alice) = (Presences::default(), Instant::now(), UserId::new("alice").expect("valid"));
    let mut reads = |contacts: Vec<contacts_read::Row>| {
        presences.asks_again(&alice, now);
        presences.touch(&alice, 1, &online(true), false, now);
        assert!(presences.look(&alice, &online(true), now));
        let read = ContactsRead { contacts, ..ContactsRead::default() };
        let telling = presences.read(&alice, 1, Some(&read), &online(true), now).expect("it is read");
        let is_new = |user: &str| telling.is_new(&Person { user: user.to_owned(), incarnation: 7 });
        (telling.tells, is_new("bob"), is_new("carol"))
    };
    assert_eq!(reads(vec![row("bob", true)]), (true, false, false), "all are told");
    assert_eq!(reads(vec![row("bob", true), row("carol", false)]), (false, false, false));
    assert_eq!(reads(vec![row("bob", true), row("carol", true)]), (false, false, true));
    assert_eq!(reads(vec![row("bob", true), row("carol", true)]), (false, false, false), "once");
}

/// The user's contacts have asked this owner meanwhile, and were told that it is offline.
#[test]
fn a_session_that_is_announced_after_all_others_is_told() {
    for (all_announced, tells) in [(false, false), (true, true)] {
        let (mut presences, now, alice) = (Presences::default(), Instant::now(), UserId::new("alice").expect("valid"));
        presences.touch(&alice, 1, &online(all_announced), true, now);
        assert!(presences.look(&alice, &online(true), now + AFTER_A_RING));
        let read = ContactsRead { contacts: vec![row("bob", true)], ..ContactsRead::default() };
        let telling = presences.read(&alice, 1, Some(&read), &online(true), now + AFTER_A_RING).expect("it is read");
        assert_eq!(telling.tells, tells);
    }
}
