//! Groups: what a client asks for, and what its session follows.

use carillon_proto::pb::{
    client::{
        ChangeMembers, CreateGroup, GroupChange, GroupDeleted, GroupRequest, GroupSettings, MembersChange, Start,
        TimelineState, group_change::What as Changed, group_request::Change, members_change::Kind,
    },
    store::{
        Group, GroupRead, Member, Membership, MembershipsRead, Person, TimelineKey, member::Standing, memberships_read,
    },
};

use super::*;

const GROUP_EPOCH: u64 = 9;

fn group(name: &str) -> Timeline {
    Timeline { owner: Some(Owner::Group(name.to_owned())) }
}

fn group_id(name: &str) -> GroupId {
    GroupId::new(name).expect("valid")
}

fn in_group(seq: u64) -> Position {
    Position { epoch: GROUP_EPOCH, seq }
}

fn group_head(last: u64) -> Head {
    Head { epoch: GROUP_EPOCH, first: 1, last, ..Head::default() }
}

/// A row of a member since this position.
fn member_of(name: &str, since: u64) -> memberships_read::Row {
    let key: TimelineKey = TimelineId::Group(group_id(name)).to_key();
    let membership = Membership { seq: since, standing: Standing::Member.into(), ..Membership::default() };
    memberships_read::Row { group: Some(key), membership: Some(membership), ..Default::default() }
}

fn memberships(rows: Vec<memberships_read::Row>, complete: bool) -> Reply {
    Reply::MembershipsRead(MembershipsRead { memberships: rows, complete })
}

/// What the owner of a group tells of it.
fn group_read(standing: Standing, since: u64, last: u64) -> Reply {
    let reader = Member { standing: standing.into(), since_seq: since, ..Member::default() };
    Reply::GroupRead(Box::new(GroupRead {
        group: Some(Group::default()),
        incarnation: 0,
        head: Some(group_head(last)),
        reader: Some(reader),
    }))
}

fn members(kind: Kind, users: &[&str]) -> Changed {
    let users = users.iter().map(|user| (*user).to_owned()).collect();
    Changed::Members(MembersChange { kind: kind.into(), users, ..MembersChange::default() })
}

fn changed(name: &str, what: Changed) -> Vec<u8> {
    let to = Some(Recipient { to: Some(To::Group(name.to_owned())) });
    Envelope { to, change: Some(Box::new(GroupChange { what: Some(what) })), ..Envelope::default() }.encode_to_vec()
}

fn group_push(name: &str, seq: u64, envelope: Vec<u8>) -> Push {
    Push { timeline: Some(group(name)), position: Some(in_group(seq)), envelope: envelope.into(), ..Push::default() }
}

fn inbox_push(seq: u64, envelope: Vec<u8>) -> Push {
    Push { envelope: envelope.into(), ..push(seq) }
}

fn group_page(last: u64, seqs: std::ops::RangeInclusive<u64>) -> Reply {
    let entry = |seq| StoredEntry { seq, envelope: envelope(seq).into() };
    Reply::TimelineRead(TimelineRead {
        head: Some(group_head(last)),
        entries: seqs.map(entry).collect(),
        complete: true,
    })
}

fn rules_with_groups() -> Arc<Rules> {
    let rules = rules();
    rules.level.heard(Level::OF_PROGRAM);
    Arc::new(rules)
}

impl Play {
    /// Signed in, with three messages in the inbox that the device has.
    fn with_groups(change: impl FnOnce(&mut client::SignIn)) -> Self {
        let mut play = Self::with(rules_with_groups());
        let Body::SignIn(mut sign_in) = token_sign_in("alice", 3600) else { panic!("no sign-in") };
        change(&mut sign_in);
        play.says(Body::SignIn(sign_in));
        play.hears_answer(Ok(opened(3, Some(3))));
        let server_frame::Body::SignedIn(signed_in) = play.wrote() else { panic!("not signed in") };
        assert!(signed_in.features.iter().any(|feature| feature == "groups"));
        play
    }

    /// In one group since this position; it reaches to `last`.
    fn in_group(name: &str, since: u64, last: u64, change: impl FnOnce(&mut client::SignIn)) -> Self {
        let mut play = Self::with_groups(change);
        let Op::ReadMemberships(_) = play.op() else { panic!("{:?}", play.asked) };
        play.hears_answer(Ok(memberships(vec![member_of(name, since)], true)));
        play.quiet();
        play.followed(&[(name, Some(last))]);
        play
    }

    /// The routers tell how far groups reach.
    fn followed(&mut self, groups: &[(&str, Option<u64>)]) {
        let heads = groups.iter().filter_map(|(name, last)| {
            Some(TimelineHead { timeline: Some(group(name)), head: Some(group_head((*last)?)) })
        });
        let names: Vec<GroupId> = groups.iter().map(|(name, _)| group_id(name)).collect();
        self.feeds.told(&names, &heads.collect::<Vec<_>>(), self.now.instant, &mut self.mail);
        self.feeds_run();
    }

    fn timelines(&mut self) -> Vec<TimelineState> {
        match self.wrote() {
            server_frame::Body::Timelines(told) => told.timelines,
            other => panic!("no Timelines: {other:?}"),
        }
    }

    fn is_followed(&self, name: &str) -> bool {
        let _ = self.feeds.take_changed();
        self.feeds.is_followed(&group_id(name))
    }
}

fn ask(group: &str, change: Change) -> Body {
    Body::Group(GroupRequest { client_id: "c1".to_owned(), group: group.to_owned(), change: Some(change) })
}

#[test]
fn a_change_is_passed_on_with_the_sessions_sender_and_is_delivered_in_its_turn() {
    let mut play = Play::in_group("club", 1, 1, |_| {});
    assert_eq!(play.timelines()[0].delivered_from, 0);
    play.hears_answer(Ok(group_page(1, 1..=1)));
    assert_eq!(play.delivered(), [1]);
    play.says(ask(
        "club",
        Change::Members(ChangeMembers {
            kind: Kind::Banned.into(),
            users: vec!["bob".to_owned()],
            ..ChangeMembers::default()
        }),
    ));
    let Op::ChangeGroup(asked) = play.op() else { panic!("{:?}", play.asked) };
    assert_eq!((&asked.sender[..], &asked.group[..], asked.connection), (&b"alice"[..], &b"club"[..], 0));
    let Some(link::change_group::Change::Members(members_asked)) = &asked.change else { panic!("{asked:?}") };
    assert_eq!(members_asked.users, [Person { user: "bob".to_owned(), incarnation: 0 }]);
    let accepted = Accepted {
        message_id: "id".to_owned(),
        timeline: Some(group("club")),
        position: Some(in_group(2)),
        time_ms: 1,
    };
    play.hears_answer(Ok(Reply::Accepted(accepted)));
    assert!(matches!(play.wrote(), server_frame::Body::Accepted(_)));
    play.hears_push(group_push("club", 2, changed("club", members(Kind::Banned, &["bob"]))));
    assert_eq!(play.delivered(), [2]);
}

#[test]
fn a_new_group_without_an_id_gets_the_same_one_in_each_repeat() {
    let id = |client_id: &str| {
        let mut play = Play::with_groups(|_| {});
        play.hears_answer(Ok(memberships(vec![], true)));
        let create = Some(Change::Create(CreateGroup::default()));
        play.says(Body::Group(GroupRequest { client_id: client_id.to_owned(), group: String::new(), change: create }));
        let Op::ChangeGroup(asked) = play.op() else { panic!("{:?}", play.asked) };
        String::from_utf8(asked.group.to_vec()).expect("text")
    };
    assert_eq!(id("a"), id("a"));
    assert_ne!(id("a"), id("b"));
    GroupId::check(&id("a")).expect("valid");
}

#[test]
fn a_change_that_is_none_is_refused_by_its_id() {
    let mut play = Play::with_groups(|_| {});
    play.hears_answer(Ok(memberships(vec![], true)));
    let members = |kind: Kind, users: &[&str]| {
        let users = users.iter().map(|user| (*user).to_owned()).collect();
        Change::Members(ChangeMembers { kind: kind.into(), users, ..ChangeMembers::default() })
    };
    for (group, change) in [
        ("Club", members(Kind::Left, &[])),
        ("club", members(Kind::Unspecified, &["bob"])),
        ("club", members(Kind::Joined, &["bob"])),
        ("club", members(Kind::Added, &[])),
        ("club", members(Kind::Added, &["bob", "bob"])),
        ("club", members(Kind::Role, &["bob"])),
        ("club", Change::Set(GroupSettings { name: Some("x".repeat(257)), ..Default::default() })),
        ("club", Change::Set(GroupSettings { link: Some(vec![1; 15].into()), ..Default::default() })),
        ("club", Change::Set(GroupSettings { picture: Some("cat.png".to_owned()), ..Default::default() })),
        ("club", Change::Create(CreateGroup { members: vec!["alice".to_owned()], ..Default::default() })),
    ] {
        play.says(ask(group, change.clone()));
        assert_eq!(play.refused(), (Some(What::ClientId("c1".to_owned())), Code::Invalid), "{change:?}");
        play.wait(Duration::from_secs(1));
        play.quiet();
    }
    play.says(Body::Group(GroupRequest { client_id: "c1".to_owned(), group: "club".to_owned(), change: None }));
    assert_eq!(play.refused().1, Code::Invalid);
}

#[test]
fn a_cluster_whose_parts_do_not_all_know_groups_has_none() {
    let mut play = Play::new();
    play.says(token_sign_in("alice", 3600));
    play.hears_answer(Ok(opened(0, None)));
    let server_frame::Body::SignedIn(signed_in) = play.wrote() else { panic!("not signed in") };
    assert!(!signed_in.features.iter().any(|feature| feature == "groups"));
    play.quiet();
    play.says(ask("club", Change::Create(CreateGroup::default())));
    assert_eq!(play.refused().1, Code::Unsupported);
    play.says(Body::ReadGroups(client::ReadGroups { request: 5, ..Default::default() }));
    assert_eq!(play.refused(), (Some(What::Request(5)), Code::Unsupported));
    play.quiet();
}

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
        entries: vec![StoredEntry { seq: 3, envelope: joined.into() }],
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
fn reads_of_groups_are_answered_by_their_number() {
    let mut play = Play::with_groups(|_| {});
    play.hears_answer(Ok(memberships(vec![], true)));
    play.says(Body::ReadGroup(client::ReadGroup { request: 7, group: "club".to_owned() }));
    play.hears_answer(Ok(group_read(Standing::Member, 4, 9)));
    let server_frame::Body::Group(told) = play.wrote() else { panic!("no Group") };
    let own = told.own.clone().expect("a row");
    assert_eq!(
        (told.request, told.group.as_str(), told.last, own.since_seq, own.user.as_str()),
        (7, "club", 9, 4, "alice")
    );
    play.says(Body::ReadGroups(client::ReadGroups { request: 8, ..Default::default() }));
    play.hears_answer(Ok(memberships(vec![member_of("club", 4)], true)));
    let server_frame::Body::Groups(told) = play.wrote() else { panic!("no Groups") };
    assert_eq!((told.request, told.groups[0].group.as_str(), told.complete), (8, "club", true));
    play.says(Body::ReadGroup(client::ReadGroup { request: 9, group: "a b".to_owned() }));
    assert_eq!(play.refused(), (Some(What::Request(9)), Code::Invalid));
    play.quiet();
}

#[test]
fn a_message_to_a_group_counts_by_its_answer() {
    let mut play = Play::in_group("club", 1, 0, |_| {});
    play.wrote.clear();
    let Body::Send(message) = send("m1", "hi") else { unreachable!("a send") };
    play.says(Body::Send(client::Send { to: Some(Recipient { to: Some(To::Group("club".to_owned())) }), ..message }));
    let Op::Send(sent) = play.op() else { panic!("{:?}", play.asked) };
    assert_eq!(sent.to, Some(link::SendTo { to: Some(link::send_to::To::Group("club".into())) }));
    play.hears_push(Push { sender_connection: ME.0, ..group_push("club", 1, envelope(1)) });
    play.quiet_but_for_requests();
    let accepted = Accepted {
        message_id: "id".to_owned(),
        timeline: Some(group("club")),
        position: Some(in_group(1)),
        time_ms: 1,
    };
    play.hears_answer(Ok(Reply::Accepted(accepted)));
    assert!(matches!(play.wrote(), server_frame::Body::Accepted(_)));
    play.hears_push(group_push("club", 2, envelope(2)));
    assert_eq!(play.delivered(), [2]);
}
