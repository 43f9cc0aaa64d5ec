//! Messages with headers.

use carillon_proto::{
    DuplicateKey,
    pb::store::{Header, Reference, header::Kind},
};

use super::play::*;

const KEY: DuplicateKey = DuplicateKey([7; 16]);

/// About a message of the sender, or of somebody else.
fn about(op: Op, by_sender: bool, seq: u64) -> Op {
    let Op::Send(send) = op else { unreachable!("a send") };
    let key = KEY.0.to_vec().into();
    let refers_to = Some(Reference { id: "id".into(), key, by_sender, seq });
    let header = Header { kind: Kind::Reaction.into(), refers_to, ..Header::default() };
    Op::Send(Send { incarnation: 9, header: Some(Box::new(header)), ..send })
}

fn key(play: &Play, append: usize) -> Bytes {
    let header = play.headers[append].as_ref().expect("has one");
    header.refers_to.as_ref().expect("has one").key.clone()
}

#[test]
fn both_inboxes_get_the_key_with_the_incarnation_of_the_author() {
    for (by_sender, incarnation) in [(true, 9), (false, 4)] {
        let mut play = Play::new();
        let effects = play.request(about(send("bob", "1"), by_sender, 0));
        let [Did::ReadUser(token, _)] = effects[..] else { panic!("{effects:?}") };
        let first = one_append(play.answer(token, found_as(4, Account::default(), &[]))).token;
        let effects = play.answer(first, appended(5, &Bytes::new()));
        assert!(matches!(&effects[..], [Did::Append(_, owner, _)] if owner == "alice"), "{effects:?}");
        let expected = Bytes::copy_from_slice(&KEY.of_incarnation(incarnation).0);
        assert_eq!([key(&play, 0), key(&play, 1)], [expected.clone(), expected]);
        assert_eq!(play.headers[0], play.headers[1]);
    }
}

#[test]
fn a_plain_message_has_no_header() {
    let mut play = Play::knowing(&["bob"]);
    play.appends(send("bob", "1"));
    assert_eq!(play.headers, [None]);
}

#[test]
fn in_a_group_the_key_has_the_incarnation_of_the_sender() {
    let mut play = Play::new();
    play.level_rises(Level::GROUPS);
    let Op::Send(said) = send("friends", "1") else { unreachable!("a send") };
    let to = Some(SendTo { to: Some(send_to::To::Group("friends".into())) });
    play.appends(about(Op::Send(Send { to, ..said }), true, 3));
    assert_eq!(key(&play, 0), Bytes::copy_from_slice(&KEY.of_incarnation(9).0));
}

#[test]
fn a_message_that_was_taken_back_for_good_is_still_known_when_it_is_sent_again() {
    let mut play = Play::knowing(&["bob"]);
    let said = play.appends(send("bob", "1"));
    let said = RawEnvelope::decode(said.envelope).expect("encoded");
    let left = RawEnvelope { content: Bytes::new(), client_id: String::new(), erased: true, ..said.clone() };
    let left = Bytes::from(left.encode_to_vec());
    let token = play.appends(send("bob", "1")).token;
    let Appending { token, owner, .. } = one_append(play.answer(token, appended(5, &left)));
    assert_eq!(owner, "alice");
    let effects = play.answer(token, appended(6, &left));
    let [Did::Answer(2, Answer::Accepted(accepted))] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(accepted.message_id, said.id);
}

#[test]
fn what_comes_too_late_is_refused_so() {
    let mut play = Play::knowing(&["bob"]);
    let token = play.appends(about(send("bob", "1"), true, 0)).token;
    let effects = play.fails(token, StoreFailure::TooLate { detail: "the poll is over".into() });
    let refusal = refusal(&effects[0]);
    assert_eq!((refusal.code(), refusal.retry, &*refusal.reason), (client::Code::TooLate, false, "the poll is over"));
}
