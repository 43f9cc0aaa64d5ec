//! Which groups a session follows, and from where on.

use bytes::Bytes;

use carillon_proto::pb::store::Domain;

use super::*;
use crate::feeds::{Beginning, FeedAsk};

#[test]
fn a_device_gets_what_was_written_since_the_user_joined_and_it_has_not() {
    let from = |change: fn(&mut client::SignIn)| {
        let mut play = Play::in_group("club", 4, 9, change);
        play.timelines()[0].delivered_from
    };
    let has = |seq| {
        move |sign_in: &mut client::SignIn| {
            sign_in.positions = vec![TimelinePosition { timeline: Some(group("club")), position: Some(in_group(seq)) }];
        }
    };
    assert_eq!(from(|_| {}), 3, "it has never been here");
    assert_eq!(from(|sign_in| sign_in.start = Start::Head.into()), 9);
    let at = |seq: u64| {
        let mut play = Play::in_group("club", 4, 9, has(seq));
        play.timelines()[0].delivered_from
    };
    assert_eq!((at(6), at(2)), (6, 3), "never what was before");
    let mut play = Play::in_group("club", 4, 9, has(9));
    play.quiet();
    play.hears_push(group_push("club", 10, envelope(10)));
    assert_eq!(play.delivered(), [10]);
}

#[test]
fn the_devices_cursor_counts_where_it_says_nothing() {
    let mut play = Play::with_groups(|_| {});
    let row = memberships_read::Row { epoch: Some(GROUP_EPOCH), seq: 7, ..member_of("club", 4) };
    let old = memberships_read::Row { epoch: Some(1), seq: 7, ..member_of("old", 4) };
    play.hears_answer(Ok(memberships(vec![row, old], true)));
    play.followed(&[("club", Some(9)), ("old", Some(9))]);
    let from = |state: &TimelineState| state.delivered_from;
    let mut told = Vec::new();
    while let Some(server_frame::Body::Timelines(timelines)) = (!play.wrote.is_empty()).then(|| play.wrote()) {
        told.extend(timelines.timelines.iter().map(from));
    }
    assert_eq!(told, [7, 3], "a cursor of another epoch says nothing");
}

#[test]
fn all_pages_of_groups_are_read_and_a_failed_read_is_repeated() {
    let mut play = Play::with_groups(|_| {});
    play.hears_answer(Ok(memberships(vec![member_of("a", 1)], false)));
    let Op::ReadMemberships(read) = play.op() else { panic!("{:?}", play.asked) };
    assert_eq!(read.after_group, "a");
    play.hears_answer(Err(refusal(Code::Unavailable, "later", 10)));
    play.quiet();
    play.wait(Duration::from_secs(1));
    let Op::ReadMemberships(read) = play.op() else { panic!("{:?}", play.asked) };
    assert_eq!((read.after_group.as_str(), read.device.as_str()), ("a", "phone"));
    play.hears_answer(Ok(memberships(vec![member_of("b", 1)], true)));
    play.followed(&[("a", Some(1)), ("b", Some(1))]);
    assert!(play.is_followed("a") && play.is_followed("b"));
}

#[test]
fn few_backlogs_are_read_at_once() {
    let mut play = Play::with_groups(|_| {});
    let names = ["a", "b", "c", "d", "e", "f"];
    play.hears_answer(Ok(memberships(names.iter().map(|name| member_of(name, 1)).collect(), true)));
    play.followed(&names.map(|name| (name, Some(2))));
    play.wrote.clear();
    assert_eq!(play.asked.len(), 4);
    for left in [4, 4, 3, 2, 1, 0] {
        play.hears_answer(Ok(group_page(2, 1..=2)));
        assert_eq!(play.delivered(), [1, 2]);
        assert_eq!(play.asked.len(), left);
    }
}

#[test]
fn who_joins_gets_the_group_from_the_change_on() {
    let mut play = Play::with_groups(|_| {});
    play.hears_answer(Ok(memberships(vec![], true)));
    play.hears_push(inbox_push(4, changed("club", members(Kind::Added, &["alice"]))));
    assert_eq!(play.delivered(), [4]);
    let Op::ReadGroup(read) = play.op() else { panic!("{:?}", play.asked) };
    assert_eq!((read.group.as_str(), read.reader.as_ref().expect("a reader").user.as_str()), ("club", "alice"));
    play.hears_answer(Ok(group_read(Standing::Member, 5, 6)));
    assert_eq!(play.timelines()[0].delivered_from, 4);
    play.hears_answer(Ok(group_page(6, 5..=6)));
    assert_eq!(play.delivered(), [5, 6]);
    play.hears_push(group_push("club", 7, envelope(7)));
    assert_eq!(play.delivered(), [7]);
}

#[test]
fn an_invitation_is_delivered_and_nothing_of_the_group() {
    let mut play = Play::with_groups(|_| {});
    play.hears_answer(Ok(memberships(vec![], true)));
    play.hears_push(inbox_push(4, changed("club", members(Kind::Invited, &["alice"]))));
    assert_eq!(play.delivered(), [4]);
    play.quiet();
}

#[test]
fn old_news_of_groups_in_the_inbox_mean_nothing() {
    let mut play = Play::with(rules_with_groups());
    let Body::SignIn(mut sign_in) = token_sign_in("alice", 3600) else { panic!("no sign-in") };
    sign_in.positions = vec![TimelinePosition { timeline: Some(inbox("alice")), position: Some(at(2)) }];
    play.says(Body::SignIn(sign_in));
    play.hears_answer(Ok(opened(3, None)));
    play.wrote.clear();
    let (tag, op) = play.asked.remove(0);
    assert!(matches!(op, Op::ReadMemberships(_)), "{op:?}");
    let joined = changed("club", members(Kind::Joined, &["alice"]));
    play.hears_answer(Ok(Reply::TimelineRead(TimelineRead {
        head: Some(head(1, 3, None)),
        entries: vec![StoredEntry { seq: 3, envelope: joined.into(), ..Default::default() }],
        complete: true,
    })));
    assert_eq!(play.delivered(), [3]);
    play.quiet();
    play.input(Input::Answer(tag, RequestOutcome { result: Ok(memberships(vec![], true)), lease: 5 }));
    play.quiet();
}

#[test]
fn nothing_is_told_after_the_change_by_which_the_user_is_no_longer_in_the_group() {
    for what in [
        members(Kind::Removed, &["bob", "alice"]),
        members(Kind::Banned, &["alice"]),
        members(Kind::Left, &["alice"]),
        Changed::Deleted(GroupDeleted {}),
    ] {
        let mut play = Play::in_group("club", 1, 0, |_| {});
        play.wrote.clear();
        play.hears_push(group_push("club", 1, changed("club", members(Kind::Removed, &["bob"]))));
        play.hears_push(group_push("club", 3, envelope(3)));
        assert_eq!(play.delivered(), [1], "3 comes too early");
        // 3 is handed over right behind 2.
        play.hears_push(group_push("club", 2, changed("club", what.clone())));
        assert_eq!(play.delivered(), [2], "{what:?}");
        play.hears_push(group_push("club", 4, envelope(4)));
        play.quiet();
        assert!(!play.is_followed("club"));
    }
}

#[test]
fn who_comes_in_under_the_users_name_is_the_names_next_owner_unless_the_store_says_otherwise() {
    for (reply, goes_on) in
        [(Err(refusal(Code::NotFound, "gone", 0)), false), (Ok(group_read(Standing::Member, 2, 2)), true)]
    {
        let mut play = Play::in_group("club", 1, 1, |_| {});
        play.hears_answer(Ok(group_page(1, 1..=1)));
        play.wrote.clear();
        play.hears_push(group_push("club", 2, changed("club", members(Kind::Joined, &["alice"]))));
        play.hears_push(group_push("club", 3, envelope(3)));
        assert!(play.wrote.is_empty(), "{:?}", play.wrote);
        let Op::ReadGroup(read) = play.op() else { panic!("{:?}", play.asked) };
        assert_eq!(
            (&*read.group, read.reader.as_ref().map(|reader| reader.user.clone())),
            ("club", Some("alice".to_owned()))
        );
        play.hears_answer(reply);
        assert_eq!(play.is_followed("club"), goes_on);
    }
}

#[test]
fn a_removal_that_the_inbox_tells_first_ends_it_too_unless_the_user_is_in_again() {
    let mut play = Play::in_group("club", 1, 0, |_| {});
    play.wrote.clear();
    play.hears_push(inbox_push(4, changed("club", members(Kind::Removed, &["alice"]))));
    assert_eq!(play.delivered(), [4]);
    play.hears_answer(Ok(group_read(Standing::Member, 9, 9)));
    assert!(play.is_followed("club"), "joined again, which the inbox will tell");
    play.hears_push(inbox_push(5, changed("club", members(Kind::Joined, &["alice"]))));
    assert_eq!(play.delivered(), [5]);
    play.hears_answer(Ok(group_read(Standing::Member, 9, 9)));
    play.hears_push(inbox_push(6, changed("club", members(Kind::Banned, &["alice"]))));
    assert_eq!(play.delivered(), [6]);
    play.hears_answer(Err(refusal(Code::NotFound, "no such group", 0)));
    assert!(!play.is_followed("club"));
    play.hears_push(group_push("club", 1, envelope(1)));
    play.quiet();
}

#[test]
fn a_removal_before_the_present_membership_ends_nothing() {
    let mut play = Play::in_group("club", 3, 1, |_| {});
    play.wrote.clear();
    // The gateway has heard less than the store has.
    play.hears_push(group_push("club", 3, changed("club", members(Kind::Joined, &["alice"]))));
    assert_eq!(play.delivered(), [3]);
    play.hears_push(inbox_push(4, changed("club", members(Kind::Removed, &["alice"]))));
    play.hears_answer(Ok(group_read(Standing::Member, 9, 9)));
    assert_eq!(play.delivered(), [4]);
    for seq in 4..=9 {
        let removed = changed("club", members(Kind::Removed, &["alice"]));
        play.hears_push(group_push("club", seq, if seq == 6 { removed } else { envelope(seq) }));
    }
    assert_eq!(play.delivered(), [4, 5, 6, 7, 8, 9], "6 is before 9");
}

#[test]
fn a_membership_that_was_checked_meanwhile_counts_more_than_what_is_being_read() {
    let mut play = Play::with_groups(|_| {});
    let (tag, _) = play.asked.remove(0);
    play.hears_push(inbox_push(4, changed("club", members(Kind::Removed, &["alice"]))));
    assert_eq!(play.delivered(), [4]);
    play.hears_answer(Err(refusal(Code::NotFound, "no such group", 0)));
    let read = RequestOutcome { result: Ok(memberships(vec![member_of("club", 2)], true)), lease: 5 };
    play.input(Input::Answer(tag, read));
    play.quiet();
    assert!(!play.is_followed("club"));
}

#[test]
fn a_group_of_which_nobody_tells_is_asked_about() {
    let mut play = Play::with_groups(|_| {});
    play.hears_answer(Ok(memberships(vec![member_of("club", 2)], true)));
    play.quiet();
    play.wait(Duration::from_secs(5));
    assert!(matches!(play.op(), Op::ReadGroup(_)), "{:?}", play.asked);
    play.hears_answer(Err(refusal(Code::Unavailable, "later", 10)));
    play.quiet();
    play.wait(Duration::from_secs(1));
    play.hears_answer(Ok(group_read(Standing::Member, 2, 3)));
    assert_eq!(play.timelines()[0].delivered_from, 1);
    play.followed(&[("club", Some(3))]);
    play.hears_answer(Ok(group_page(3, 2..=3)));
    assert_eq!(play.delivered(), [2, 3], "once");
}

#[test]
fn a_group_that_begins_anew_is_followed_anew_and_the_connection_stays() {
    let mut play = Play::in_group("club", 1, 0, |_| {});
    play.wrote.clear();
    play.hears_push(group_push("club", 1, envelope(1)));
    assert_eq!(play.delivered(), [1]);
    let other = Position { epoch: 77, seq: 1 };
    play.hears_push(Push { position: Some(other), ..group_push("club", 1, envelope(1)) });
    let Op::Read(read) = play.op() else { panic!("{:?}", play.asked) };
    assert_eq!(read.user, "", "for all who follow it here");
    let head = Head { epoch: 77, first: 1, last: 1, ..Head::default() };
    play.hears_answer(Ok(Reply::TimelineRead(TimelineRead { head: Some(head), entries: vec![], complete: true })));
    play.quiet();
    play.wait(Duration::from_millis(500));
    let Reply::GroupRead(read) = group_read(Standing::Member, 1, 1) else { unreachable!("a group") };
    play.hears_answer(Ok(Reply::GroupRead(Box::new(GroupRead { head: Some(head), ..*read }))));
    let state = play.timelines().remove(0);
    assert_eq!((state.epoch, state.delivered_from), (77, 0));
}

#[test]
fn acknowledgements_of_groups_go_to_the_users_owner_and_only_of_what_is_there() {
    let mut play = Play::in_group("club", 1, 2, |_| {});
    play.wrote.clear();
    play.hears_answer(Ok(group_page(2, 1..=2)));
    assert_eq!(play.delivered(), [1, 2]);
    let ack = |seq| Body::Ack(Ack { timeline: Some(group("club")), position: Some(in_group(seq)) });
    play.says(ack(3));
    play.quiet();
    play.says(ack(2));
    let Op::Acknowledge(sent) = play.op() else { panic!("{:?}", play.asked) };
    assert_eq!((sent.user.as_str(), &sent.timeline, sent.position), ("alice", &Some(group("club")), Some(in_group(2))));
}

#[test]
fn a_client_that_does_not_read_gets_a_groups_entries_later() {
    let mut play = Play::in_group("club", 1, 0, |_| {});
    play.wrote.clear();
    play.input(Input::Backlog { full: true });
    play.hears_push(group_push("club", 1, envelope(1)));
    play.hears_push(group_push("club", 2, envelope(2)));
    play.quiet();
    play.input(Input::Backlog { full: false });
    if !play.asked.is_empty() {
        play.hears_answer(Ok(group_page(2, 1..=2)));
    }
    assert_eq!(play.delivered(), [1, 2]);
}

#[test]
fn groups_are_read_when_the_level_of_the_cluster_has_risen() {
    let below = Arc::new(rules());
    let mut play = Play::with(Arc::clone(&below));
    play.says(token_sign_in("alice", 3600));
    play.hears_answer(Ok(opened(3, Some(3))));
    let server_frame::Body::SignedIn(_) = play.wrote() else { panic!("not signed in") };
    play.quiet();
    below.level.heard(Level::OF_PROGRAM);
    play.says(Body::Ping(Ping { nonce: 1 }));
    let Op::ReadMemberships(_) = play.op() else { panic!("{:?}", play.asked) };
    play.hears_answer(Ok(memberships(vec![], true)));
    play.wrote.clear();
    play.says(Body::Ping(Ping { nonce: 2 }));
    assert!(play.asked.is_empty(), "{:?}", play.asked);
}

/// Another session of this gateway follows these groups, which reach to 9.
fn followed_by_others(play: &mut Play, names: &[&str]) -> Follows {
    let mut others = Follows::new(Follower(7));
    let asked = names.iter().map(|name| {
        let beginning = Beginning { since: 1, given: None, cursor: None, start: Start::Head };
        (Bytes::copy_from_slice(name.as_bytes()), beginning)
    });
    others.ask(&play.feeds, FeedAsk::Begin(asked.collect()), play.now.instant, &mut play.mail);
    play.followed(&names.iter().map(|name| (*name, Some(9))).collect::<Vec<_>>());
    others
}

/// The device has all of its group, which another session follows, too.
fn in_quiet_group() -> (Play, Follows) {
    let has = TimelinePosition { timeline: Some(group("club")), position: Some(in_group(9)) };
    let mut play = Play::with_groups(|sign_in| sign_in.positions = vec![has]);
    let others = followed_by_others(&mut play, &["club"]);
    play.hears_answer(Ok(memberships(vec![member_of("club", 4)], true)));
    play.quiet();
    (play, others)
}

#[test]
fn groups_of_which_the_device_has_all_are_live_at_once_if_others_follow_them() {
    let has = |name: &str, seq| TimelinePosition { timeline: Some(group(name)), position: Some(in_group(seq)) };
    let mut play = Play::with_groups(|sign_in| sign_in.positions = vec![has("a", 9), has("b", 8), has("c", 9)]);
    let _others = followed_by_others(&mut play, &["a", "b"]);
    play.quiet_but_for_requests();
    let rows = ["a", "b", "c"].map(|name| member_of(name, 1)).to_vec();
    play.hears_answer(Ok(memberships(rows, true)));
    let told: Vec<_> = play.timelines().into_iter().map(|state| (state.timeline, state.delivered_from)).collect();
    assert_eq!(told, [(Some(group("b")), 8)], "it lacks something, and of c nothing is known yet");
    play.hears_answer(Ok(group_page(9, 9..=9)));
    assert_eq!(play.delivered(), [9]);
    play.quiet();
    play.followed(&[("c", Some(9))]);
    play.quiet();
    for name in ["a", "b", "c"] {
        play.hears_push(group_push(name, 10, envelope(10)));
        assert_eq!(play.delivered(), [10], "{name}");
    }
}

#[test]
fn a_group_goes_on_where_it_was_when_nothing_has_happened_for_long() {
    let (mut play, _others) = in_quiet_group();
    let progress = |play: &Play| {
        let of_group = play.session.progress().into_iter().find(|progress| progress.timeline == Some(group("club")));
        let TimelineProgress { epoch, pushed, head, acknowledged, .. } = of_group.expect("followed");
        (epoch, pushed, head, acknowledged)
    };
    let ack = |seq| Body::Ack(Ack { timeline: Some(group("club")), position: Some(in_group(seq)) });
    assert_eq!(progress(&play), (GROUP_EPOCH, 9, 9, 0));
    let is_quiet = |play: &Play| match &play.session.state {
        State::Live(live) => live.timelines.not_quiet().all(|timeline| timeline.followed.timeline.id.owner() != "club"),
        _ => panic!("it has left"),
    };
    assert!(is_quiet(&play), "it begins so");
    for round in 0..3 {
        let seq = 10 + 2 * round;
        play.hears_push(group_push("club", seq, envelope(seq)));
        play.hears_push(group_push("club", seq + 1, envelope(seq + 1)));
        assert_eq!(play.delivered(), [seq, seq + 1]);
        assert!(!is_quiet(&play), "it is measured how long the client takes");
        for acked in [seq, seq + 1] {
            play.wait(Duration::from_secs(10));
            play.wrote.clear();
            play.says(ack(acked));
            let Op::Acknowledge(sent) = play.op() else { panic!("{:?}", play.asked) };
            assert_eq!(sent.position, Some(in_group(acked)));
            assert!(!is_quiet(&play), "the answer is on its way");
            play.hears_answer(Ok(Reply::Done(Done {})));
            assert_eq!(progress(&play), (GROUP_EPOCH, seq + 1, seq + 1, acked));
            assert!(is_quiet(&play), "nothing is left to be done for {acked}");
        }
        play.says(ack(seq + 1));
        play.says(ack(seq + 2));
        play.says(Body::Ack(Ack {
            position: Some(Position { epoch: 1, seq: seq + 2 }),
            timeline: Some(group("club")),
        }));
        play.quiet();
    }
    // The user is removed.
    play.hears_push(group_push("club", 16, changed("club", members(Kind::Removed, &["alice"]))));
    assert_eq!(play.delivered(), [16]);
    assert!(play.session.progress().iter().all(|progress| progress.timeline != Some(group("club"))));
    play.hears_push(group_push("club", 17, envelope(17)));
    play.quiet();
}

#[test]
fn a_lost_push_of_a_group_in_which_nothing_happens_is_read() {
    let (mut play, _others) = in_quiet_group();
    let behind = link::Behind { timeline: Some(group("club")), position: Some(in_group(11)), ..Default::default() };
    play.feeds.behind(&behind, play.now.instant);
    play.feeds_run();
    assert!(matches!(play.op(), Op::Read(_)), "{:?}", play.asked);
    play.hears_answer(Ok(group_page(11, 10..=11)));
    assert_eq!(play.delivered(), [10, 11]);
}

#[test]
fn a_group_in_which_nothing_happens_is_asked_about_when_its_feed_has_ended() {
    let (mut play, _others) = in_quiet_group();
    play.hears_push(Push { position: Some(Position { epoch: 77, seq: 1 }), ..group_push("club", 1, envelope(1)) });
    let head = Head { epoch: 77, first: 1, last: 1, ..Head::default() };
    play.hears_answer(Ok(Reply::TimelineRead(TimelineRead { head: Some(head), entries: vec![], complete: true })));
    play.quiet();
    play.wait(Duration::from_millis(500));
    assert!(matches!(play.op(), Op::ReadGroup(_)), "{:?}", play.asked);
}

#[test]
fn a_group_whose_feed_has_not_heard_of_the_membership_yet_tells_it_as_any_other_entry() {
    let has = TimelinePosition { timeline: Some(group("club")), position: Some(in_group(9)) };
    let mut play = Play::with_groups(|sign_in| sign_in.positions = vec![has]);
    let _others = followed_by_others(&mut play, &["club"]);
    play.hears_answer(Ok(memberships(vec![member_of("club", 10)], true)));
    play.wrote.clear();
    play.hears_push(group_push("club", 10, changed("club", members(Kind::Joined, &["alice"]))));
    play.hears_push(group_push("club", 11, envelope(11)));
    assert_eq!(play.delivered(), [10, 11]);
    play.quiet();
}

#[test]
fn nothing_is_told_of_a_group_whose_domain_does_not_talk_to_the_users_or_no_longer_does() {
    let rules = rules_with_groups();
    let crosses_to = vec![String::new()];
    rules.domains.heard(&[Domain { name: "a.example".to_owned(), crosses_to, ..Domain::default() }]);
    let (within, beyond) = ("club@a.example", "club@b.example");
    let mut play = Play::with_groups_by(Arc::clone(&rules), |_| {});
    play.hears_answer(Ok(memberships(vec![member_of(within, 1), member_of(beyond, 1), member_of("club", 1)], true)));
    play.followed(&[(within, Some(1)), ("club", Some(1))]);
    assert!(play.is_followed(within) && play.is_followed("club") && !play.is_followed(beyond));
    play.hears_answer(Ok(group_page(1, 1..=1)));
    play.hears_answer(Ok(group_page(1, 1..=1)));
    play.wrote.clear();
    play.hears_push(group_push(within, 2, envelope(2)));
    assert_eq!(play.delivered(), [2]);

    rules.domains.heard(&[]);
    play.hears_push(group_push(within, 3, envelope(3)));
    play.quiet();
    assert!(!play.is_followed(within));
    play.hears_push(group_push("club", 2, envelope(2)));
    assert_eq!(play.delivered(), [2]);
}
