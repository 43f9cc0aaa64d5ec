//! RFC 6121, appendix A, written out.

use super::*;

/// The states of RFC 6121, A.1.
const STATES: [&str; 9] = ["none", "none out", "none in", "none out in", "to", "to in", "from", "from out", "both"];

/// A row of `a` about `b` in this state, of which nothing is to be told any more.
fn in_state(wanted: &str) -> World {
    let mut world = World::new(&["a", "b"]);
    world.does("a", "b", Change::Set(SetContact::default())).expect("set");
    let incarnation = world.incarnation("b").expect("an account");
    let (to, from) = (wanted.starts_with("to") || wanted == "both", wanted.starts_with("from") || wanted == "both");
    let hears = |world: &mut World, word: Word| {
        let number = world.index * 100;
        let heard = Said { number, word: word.into(), answers: u64::MAX, ..Said::default() };
        let heard = Change::Heard(HeardFromContact { peer: incarnation, said: vec![heard] });
        world.does("a", "b", heard).expect("heard");
    };
    // Nothing follows from it, and from now on the contact is known.
    hears(&mut world, Word::Unsubscribe);
    if to || wanted.contains("out") {
        world.says("a", "b", Word::Subscribe);
    }
    if to {
        hears(&mut world, Word::Subscribed);
    }
    if from || wanted.contains("in") {
        hears(&mut world, Word::Subscribe);
    }
    if from {
        world.says("a", "b", Word::Subscribed);
    }
    let told = ContactTold { upto: u64::MAX, peer: incarnation, ..ContactTold::default() };
    world.does("a", "b", Change::Told(told)).expect("told");
    let row = world.row("a", "b").expect("a row");
    assert_eq!((&*state(&row), row.untold.len()), (wanted, 0));
    world
}

/// RFC 6121, A.2: for each state and each word of the user, whether it is routed to the contact, and the new state.
#[test]
fn what_a_user_says_follows_table_a_2() {
    const TABLE: [(Word, [(bool, &str); 9]); 4] = [
        (
            Word::Subscribe,
            [
                (true, "none out"),
                (true, "none out"),
                (true, "none out in"),
                (true, "none out in"),
                (true, "to"),
                (true, "to in"),
                (true, "from out"),
                (true, "from out"),
                (true, "both"),
            ],
        ),
        (
            Word::Unsubscribe,
            [
                (true, "none"),
                (true, "none"),
                (true, "none in"),
                (true, "none in"),
                (true, "none"),
                (true, "none in"),
                (true, "from"),
                (true, "from"),
                (true, "from"),
            ],
        ),
        (
            Word::Subscribed,
            [
                (false, "none"),
                (false, "none out"),
                (true, "from"),
                (true, "from out"),
                (false, "to"),
                (true, "both"),
                (false, "from"),
                (false, "from out"),
                (false, "both"),
            ],
        ),
        (
            Word::Unsubscribed,
            [
                (false, "none"),
                (false, "none out"),
                (true, "none"),
                (true, "none out"),
                (false, "to"),
                (true, "to"),
                (true, "none"),
                (true, "none out"),
                (true, "to"),
            ],
        ),
    ];
    for (word, rows) in TABLE {
        for (before, (routed, after)) in STATES.iter().zip(rows) {
            let mut world = in_state(before);
            let row = world.says("a", "b", word).expect("a row");
            let told: Vec<Word> = row.untold.iter().map(Said::word).collect();
            let expected = if routed { vec![word] } else { Vec::new() };
            assert_eq!((state(&row), told), (after.to_owned(), expected), "{word:?} in {before}");
            let approves = word == Word::Subscribed && ["none", "none out", "to"].contains(before);
            assert_eq!(row.approved, approves, "{word:?} in {before}");
        }
    }
}

/// RFC 6121, A.3: for each state and each word of the contact, whether the user is told, and the new state.
#[test]
fn what_a_user_hears_follows_table_a_3() {
    const TABLE: [(Word, [(bool, &str); 9]); 4] = [
        (
            Word::Subscribe,
            [
                (true, "none in"),
                (true, "none out in"),
                (false, "none in"),
                (false, "none out in"),
                (true, "to in"),
                (false, "to in"),
                (false, "from"),
                (false, "from out"),
                (false, "both"),
            ],
        ),
        (
            Word::Unsubscribe,
            [
                (false, "none"),
                (false, "none out"),
                (true, "none"),
                (true, "none out"),
                (false, "to"),
                (true, "to"),
                (true, "none"),
                (true, "none out"),
                (true, "to"),
            ],
        ),
        (
            Word::Subscribed,
            [
                (false, "none"),
                (true, "to"),
                (false, "none in"),
                (true, "to in"),
                (false, "to"),
                (false, "to in"),
                (false, "from"),
                (true, "both"),
                (false, "both"),
            ],
        ),
        (
            Word::Unsubscribed,
            [
                (false, "none"),
                (true, "none"),
                (false, "none in"),
                (true, "none in"),
                (true, "none"),
                (true, "none in"),
                (false, "from"),
                (true, "from"),
                (true, "from"),
            ],
        ),
    ];
    for (word, rows) in TABLE {
        for (before, (is_told, after)) in STATES.iter().zip(rows) {
            let mut world = in_state(before);
            let peer = world.incarnation("b").expect("an account");
            let said = Said { number: u64::MAX, word: word.into(), answers: u64::MAX, ..Said::default() };
            let change = Change::Heard(HeardFromContact { peer, said: vec![said] });
            let (user, incarnation) = ("a".to_owned(), world.incarnation("a").expect("an account"));
            let change = ChangeContact { user, incarnation, contact: "b".to_owned(), change: Some(change) };
            let Outcome::ContactChanged(changed) = world.apply(Op::ChangeContact(change)) else { panic!("refused") };
            let row = changed.contact.expect("a row");
            assert_eq!((state(&row), changed.changed), (after.to_owned(), is_told), "{word:?} in {before}");
            // RFC 6121, 3.1.3: who is allowed already is told so again; and who allows what nobody wants is told that.
            let expected = match word {
                Word::Subscribe if row.from => vec![Word::Subscribed],
                Word::Subscribed if !row.to && !before.contains("out") => vec![Word::Unsubscribe],
                _ => Vec::new(),
            };
            assert_eq!(row.untold.iter().map(Said::word).collect::<Vec<_>>(), expected, "{word:?} in {before}");
        }
    }
}
