//! Messages that refer to messages, against a model that keeps only the messages and makes of them, each time anew, what a reader sees.

mod acts;
mod checks;
mod members;
mod model;
mod play;
mod recalls;

use proptest::prelude::*;

use self::{
    acts::{Act, act},
    play::Play,
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_reader_sees_what_messages_make_of_others(acts in proptest::collection::vec(act(), 1..120)) {
        let mut play = Play::new();
        for (at, act) in acts.into_iter().enumerate() {
            play.act(act);
            if at % 8 == 7 {
                play.check();
                play.check_media_holds();
            }
        }
        play.act(Act::CopiesArrive);
        play.check();
        play.check_media_holds();
        play.check_that_both_inboxes_agree();
        play.check_that_batches_make_no_difference();
    }
}

/// As many of one message as are allowed, and one more.
#[test]
fn what_is_made_of_a_message_is_bounded() {
    use carillon_proto::pb::store::{header::Kind, rejected::Reason};
    let mut play = Play::new();
    let message = play.says("a", "b");
    for _ in 0..100 {
        assert_eq!(play.refers("a", "b", message, Kind::Edit, &[]), None);
    }
    assert_eq!(play.refers("a", "b", message, Kind::Edit, &[]), Some(Reason::Full));
    let pinned: Vec<_> = (0..51).map(|_| play.says("a", "b")).collect();
    for message in &pinned[..50] {
        assert_eq!(play.refers("b", "a", *message, Kind::Pin, &[]), None);
    }
    assert_eq!(play.refers("b", "a", pinned[50], Kind::Pin, &[]), Some(Reason::Full));
    let elsewhere = play.says("b", "c");
    assert_eq!(play.refers("b", "c", elsewhere, Kind::Pin, &[]), None, "another conversation has pins of its own");
    assert_eq!(play.refers("a", "b", pinned[0], Kind::Unpin, &[]), None);
    assert_eq!(play.refers("a", "b", pinned[50], Kind::Pin, &[]), None, "there is room again");
    // Pins go with the messages: by trims, in each inbox for itself.
    play.act(Act::CopiesArrive);
    play.trims("a", 170);
    play.trims("b", 170);
    let message = play.says("a", "b");
    assert_eq!(play.refers("b", "a", message, Kind::Pin, &[]), None);
    play.check();
}

#[test]
fn the_own_inbox_decides_what_a_blocked_sender_may_make_of_a_message() {
    use carillon_proto::pb::store::{header::Kind, rejected::Reason};
    let mut play = Play::new();
    let (own, other) = (play.says("a", "b"), play.says("b", "a"));
    assert_eq!(play.refers_withheld("a", "b", own, Kind::Edit), None);
    assert_eq!(play.refers_withheld("a", "b", other, Kind::Edit), Some(Reason::Forbidden));
    assert_eq!(play.refers_withheld("a", "b", other, Kind::Recall), Some(Reason::Forbidden));
    assert_eq!(play.refers_withheld("a", "b", other, Kind::Reaction), None);
    assert_eq!(play.refers_withheld("a", "b", other, Kind::Vote), Some(Reason::Invalid), "it is no poll");
    assert_eq!(play.refers_withheld("a", "b", other, Kind::Pin), None);
    assert_eq!(play.refers_withheld("a", "b", own, Kind::Recall), None);
    assert_eq!(play.refers_withheld("a", "b", own, Kind::Edit), Some(Reason::NotFound), "it was recalled");
    let elsewhere = play.says("b", "c");
    assert_eq!(
        play.refers_withheld("a", "b", elsewhere, Kind::Reaction),
        Some(Reason::TooEarly),
        "it might still come"
    );
}

#[test]
fn what_is_about_another_message_is_not_unread() {
    use carillon_proto::pb::store::header::Kind;
    let mut play = Play::new();
    play.makes_group_of(1);
    let message = play.says("a", "b");
    play.refers("a", "b", message, Kind::Edit, &[]);
    assert_eq!(play.unread("b", "a"), 1);
    let message = play.says("a", "@g");
    play.refers("m0", "@g", message, Kind::Reaction, &["x".to_owned()]);
    play.refers("a", "@g", message, Kind::Edit, &[]);
    assert_eq!(play.unread_in_group("m0"), 1, "to react is not to have read");
    play.says("a", "@g");
    assert_eq!(play.unread_in_group("m0"), 2);
}

#[test]
fn mentions_are_counted_up_to_100_and_end_with_a_recall() {
    use carillon_proto::pb::store::{Mentions, header::Kind};
    let mut play = Play::new();
    play.makes_group_of(2);
    let mention = |users: &[&str], all| {
        Some(Mentions { users: users.iter().map(|user| (*user).to_owned()).collect(), all, here: false })
    };
    let mentions = |play: &Play, who: &str, mark| play.counted(who, 1, mark).mentions;
    let first = play.says_to("a", "@g", mention(&["m0", "m0", "a"], false));
    play.says_to("a", "@g", mention(&["m0"], true));
    assert_eq!([mentions(&play, "m0", 0), mentions(&play, "m1", 0), mentions(&play, "a", 0)], [2, 1, 0]);
    assert_eq!(mentions(&play, "m0", play.position(first)), 1);
    assert_eq!(play.refers("a", "@g", first, Kind::Recall, &[]), None);
    assert_eq!(mentions(&play, "m0", 0), 1, "the first one is recalled");
    for _ in 0..105 {
        play.says_to("a", "@g", mention(&["m0"], false));
    }
    assert_eq!(mentions(&play, "m0", 0), 100);
    play.check();
    play.says("m0", "@g");
    assert_eq!(mentions(&play, "m0", 0), 0, "who writes has read what stands before");
}

#[test]
fn the_mentions_of_a_message_are_those_of_its_last_edit() {
    use carillon_proto::pb::store::{Mentions, header::Kind};
    let mut play = Play::new();
    play.makes_group_of(2);
    let mention = |users: &[&str], all| {
        Some(Mentions { users: users.iter().map(|user| (*user).to_owned()).collect(), all, here: false })
    };
    let mentions = |play: &Play| ["m0", "m1"].map(|who| play.counted(who, 1, 0).mentions);
    let first = play.says_to("a", "@g", mention(&["m0"], false));
    play.says_to("a", "@g", mention(&["m1"], false));
    assert_eq!(mentions(&play), [1, 1]);
    for (edit, expected) in [
        (None, [0, 1]),
        (mention(&["m0", "m1"], false), [1, 2]),
        (mention(&[], true), [1, 2]),
        (mention(&["m1"], false), [0, 2]),
    ] {
        assert_eq!(play.edits_to("a", "@g", first, edit.clone()), None);
        assert_eq!(mentions(&play), expected, "{edit:?}");
        play.check();
    }
    assert_eq!(play.counted("m1", 1, play.position(first)).mentions, 1, "who has read a message has read its edits");
    assert_eq!(play.refers("a", "@g", first, Kind::Recall, &[]), None);
    assert_eq!(mentions(&play), [0, 1], "the recall takes out those of the edit");
    play.check();
}

#[test]
fn the_reactions_to_a_message_are_of_128_kinds_at_most() {
    use carillon_proto::pb::store::{header::Kind, rejected::Reason};
    let mut play = Play::new();
    play.makes_group_of(8);
    let message = play.says("a", "@g");
    let reactions = |from: usize, to: usize| (from..to).map(|at| format!("r{at}")).collect::<Vec<_>>();
    for user in 0..6 {
        let reactions = reactions(user * 20, user * 20 + 20);
        assert_eq!(play.refers(&format!("m{user}"), "@g", message, Kind::Reaction, &reactions), None);
    }
    assert_eq!(play.refers("m6", "@g", message, Kind::Reaction, &reactions(120, 129)), Some(Reason::Full));
    assert_eq!(play.refers("m6", "@g", message, Kind::Reaction, &reactions(120, 128)), None);
    assert_eq!(play.refers("m7", "@g", message, Kind::Reaction, &reactions(0, 20)), None, "none of them is new");
    assert_eq!(play.refers("m0", "@g", message, Kind::Reaction, &[]), None);
    assert_eq!(
        play.refers("m6", "@g", message, Kind::Reaction, &reactions(120, 129)),
        Some(Reason::Full),
        "m7 has them, too"
    );
    play.check();
}

/// One command removes as many rows as it may, and a further one what is left.
#[test]
fn a_message_with_many_rows_is_trimmed_in_several_steps() {
    use carillon_proto::pb::store::header::Kind;
    let mut play = Play::new();
    play.makes_group_of(2100);
    let first = play.says("a", "@g");
    let second = play.says("a", "@g");
    for user in 0..2100 {
        for message in [first, second] {
            assert_eq!(play.refers(&format!("m{user}"), "@g", message, Kind::Reaction, &["x".to_owned()]), None);
        }
    }
    let kept_from = |play: &Play| play.head_of("@g").first;
    play.trim_once("@g", 1000);
    assert_eq!(kept_from(&play), play.position(second), "it stays as long as it has rows");
    play.trim_once("@g", 1000);
    assert_eq!(kept_from(&play), play.position(second) + 256);
    assert_eq!(play.annotation_rows(), 0);
}
