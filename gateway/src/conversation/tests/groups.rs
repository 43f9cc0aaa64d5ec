//! Requests about groups.

mod following;

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

/// The answer of a group's owner to a read.
fn group_read(standing: Standing, since: u64, last: u64) -> Reply {
    let reader = Member { standing: standing.into(), since_seq: since, ..Member::default() };
    Reply::GroupRead(Box::new(GroupRead {
        group: Some(Group::default()),
        incarnation: 0,
        head: Some(group_head(last)),
        reader: Some(reader),
        writes: false,
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
    let entry = |seq| StoredEntry { seq, envelope: envelope(seq).into(), ..Default::default() };
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
        Self::with_groups_by(rules_with_groups(), change)
    }

    fn with_groups_by(rules: Arc<Rules>, change: impl FnOnce(&mut client::SignIn)) -> Self {
        let mut play = Self::with(rules);
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
        expires_at_ms: 0,
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
        expires_at_ms: 0,
    };
    play.hears_answer(Ok(Reply::Accepted(accepted)));
    assert!(matches!(play.wrote(), server_frame::Body::Accepted(_)));
    play.hears_push(group_push("club", 2, envelope(2)));
    assert_eq!(play.delivered(), [2]);
}
