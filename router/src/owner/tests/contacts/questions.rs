//! Questions after what a contact shows, and their answers.

use super::*;

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
