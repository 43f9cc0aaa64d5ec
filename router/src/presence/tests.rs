use carillon_proto::LeaseId;
use carillon_proto::pb::link::SessionPresence;

use super::*;

fn session(priority: i32, show: Show, status: &str) -> Session {
    let presence = SessionPresence { show: show.into(), status: status.to_owned(), priority, hears: false };
    Session {
        device: "a".into(),
        lease: LeaseId(1),
        connection: 1,
        generation: 1,
        link: 1,
        presence: Some(Box::new(presence)),
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
