//! Messages that are shown for a time only.

use carillon_proto::pb::store::{Header, header::Kind};

use super::play::*;

/// Times of these tests are those of the sends.
fn passing(op: Op, time_ms: u64, expires_after_ms: u64) -> Op {
    let Op::Send(send) = op else { unreachable!("a send") };
    Op::Send(Send { time_ms, expires_after_ms, ..send })
}

fn to_group(client_id: &str) -> Op {
    let Op::Send(send) = send("friends", client_id) else { unreachable!("a send") };
    Op::Send(Send { to: Some(SendTo { to: Some(send_to::To::Group("friends".into())) }), incarnation: 9, ..send })
}

fn expires_at_ms(envelope: &Bytes) -> u64 {
    RawEnvelope::decode(envelope.clone()).expect("encoded").expires_at_ms
}

fn ends(play: &Play) -> Vec<(bool, u64)> {
    let end = |header: &Option<Box<Header>>| {
        let header = header.as_ref().expect("has one");
        (header.countable, header.expires_at_ms)
    };
    play.headers.iter().map(end).collect()
}

#[test]
fn both_inboxes_are_told_when_a_message_ends() {
    let mut play = Play::knowing(&["bob"]);
    let Appending { token, envelope, .. } = play.appends(passing(send("bob", "1"), 2_000, 5_000));
    assert_eq!(expires_at_ms(&envelope), 7_000);
    let copy = one_append(play.answer(token, appended(5, &Bytes::new()))).envelope;
    assert_eq!(copy, envelope);
    assert_eq!(ends(&play), [(true, 7_000), (true, 7_000)], "it counts as unread, as a plain one does");
}

#[test]
fn a_message_that_is_sent_again_ends_as_it_would_have_the_first_time() {
    let mut play = Play::knowing(&["bob"]);
    let first = play.appends(passing(send("bob", "1"), 2_000, 5_000)).envelope;
    // By the client, some time later.
    let token = play.appends(passing(send("bob", "1"), 3_000, 5_000)).token;
    let copy = one_append(play.answer(token, appended(5, &first))).envelope;
    assert_eq!(copy, first);
    assert_eq!(ends(&play)[1..], [(true, 8_000), (true, 7_000)]);
    let token = play.appends(passing(send("bob", "1"), 3_000, 6_000)).token;
    let effects = play.answer(token, appended(5, &first));
    assert_eq!(refusal(&effects[0]).code(), client::Code::Invalid, "for another time it is another message");
}

#[test]
fn an_edit_ends_with_its_message_whenever_it_is_sent() {
    let mut play = Play::knowing(&["bob"]);
    let edit = |time_ms| {
        let header = Header { kind: Kind::Edit.into(), expires_at_ms: 7_000, ..Header::default() };
        let Op::Send(send) = send("bob", "1") else { unreachable!("a send") };
        Op::Send(Send { time_ms, header: Some(Box::new(header)), ..send })
    };
    let first = play.appends(edit(2_000)).envelope;
    assert_eq!(expires_at_ms(&first), 7_000);
    let token = play.appends(edit(3_000)).token;
    let copy = one_append(play.answer(token, appended(5, &first))).envelope;
    assert_eq!(copy, first);
}

#[test]
fn in_a_group_it_is_the_same() {
    let mut play = Play::new();
    play.level_rises(Level::GROUPS);
    let first = play.appends(passing(to_group("1"), 2_000, 5_000)).envelope;
    assert_eq!(expires_at_ms(&first), 7_000);
    assert_eq!(ends(&play), [(true, 7_000)]);
    let token = play.appends(passing(to_group("1"), 3_000, 5_000)).token;
    let effects = play.answer(token, appended(5, &first));
    assert!(effects.iter().any(|did| matches!(did, Did::Answer(_, Answer::Accepted(_)))), "{effects:?}");
    let token = play.appends(passing(to_group("1"), 3_000, 0)).token;
    let effects = play.answer(token, appended(5, &first));
    assert_eq!(refusal(&effects[0]).code(), client::Code::Invalid, "for ever it is another message");
}

#[test]
fn a_groups_rule_ends_a_message_for_those_who_follow_it_and_for_its_sender() {
    let mut play = Play::new();
    play.level_rises(Level::GROUPS);
    let by_rule = |seq, first_envelope: &Bytes| {
        let first_envelope = first_envelope.clone();
        StoreAnswer::Appended(Appended { epoch: 7, seq, first_envelope, expires_at_ms: 4_000, ..Appended::default() })
    };
    let accepted = |effects: &[Did]| {
        let told = effects.iter().find_map(|did| match did {
            Did::Answer(_, Answer::Accepted(accepted)) => Some(accepted.expires_at_ms),
            _ => None,
        });
        told.unwrap_or_else(|| panic!("{effects:?}"))
    };
    let Appending { token, envelope, .. } = play.appends(passing(to_group("1"), 2_000, 0));
    assert_eq!(expires_at_ms(&envelope), 0);
    assert_eq!(accepted(&play.answer(token, by_rule(5, &Bytes::new()))), 4_000);
    // Sent again, it ends as it did.
    let first = Bytes::from(carillon_proto::expiring_at(&envelope, 4_000).expect("an envelope"));
    let token = play.appends(passing(to_group("1"), 3_000, 0)).token;
    assert_eq!(accepted(&play.answer(token, by_rule(5, &first))), 4_000);
    // One that was to be shown for a shorter time is another message.
    let token = play.appends(passing(to_group("1"), 3_000, 1_500)).token;
    let effects = play.answer(token, by_rule(5, &first));
    assert_eq!(refusal(&effects[0]).code(), client::Code::Invalid);
}
