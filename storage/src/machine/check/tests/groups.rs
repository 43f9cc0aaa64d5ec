//! Malformed commands about groups and their members are refused.

use carillon_proto::pb::store::{
    Append, ChangeGroup, ChangeMembers, CreateGroup, DeleteGroup, GroupSettings, Membership, Person, Role, SetGroup,
    SetMembership, SettleOutbox, SweepMemberships,
    append::Admission,
    change_group::Change,
    change_members::Change as OfMembers,
    settle_outbox::{Settled, Verdict},
    sweep_memberships::Seen,
    timeline_key::Kind,
};

use super::{append, key, timeline};
use crate::machine::check::*;

#[test]
fn malformed_changes_of_groups_are_refused() {
    let person = |user: &str| Person { user: user.into(), incarnation: 7 };
    let by_alice =
        || Append { timeline: key(Kind::Group, "alice"), sender: "alice".into(), sender_incarnation: 7, ..append() };
    let change =
        |change| ChangeGroup { append: Some(by_alice()), by_operator: false, change: Some(change), most_members: 0 };
    let members = |kind: OfMembers, users: &[&str]| ChangeMembers {
        change: kind.into(),
        users: users.iter().map(|user| person(user)).collect(),
        ..ChangeMembers::default()
    };
    let of_members = |op| change(Change::Members(op));
    let check = |op| timeline(TimelineOp::ChangeGroup(op));
    let ban = || of_members(members(OfMembers::Ban, &["bob", "carol"]));
    let settings =
        |settings| change(Change::Create(CreateGroup { settings: Some(settings), ..CreateGroup::default() }));
    let right = [
        ban(),
        of_members(members(OfMembers::Leave, &["alice"])),
        of_members(ChangeMembers { role: Role::Reader.into(), ..members(OfMembers::Add, &["bob"]) }),
        settings(GroupSettings::default()),
        settings(GroupSettings { expire_after_ms: 5_000, ..GroupSettings::default() }),
        change(Change::Delete(DeleteGroup {})),
    ];
    right.into_iter().for_each(|op| assert_eq!(check(op.clone()), Ok(()), "{op:?}"));
    let many: Vec<String> = (0..257).map(|n| format!("user{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let in_envelope = |change: fn(&mut Append)| {
        let mut op = ban();
        op.append.as_mut().into_iter().for_each(change);
        op
    };
    let wrong = [
        ("envelope is missing", ChangeGroup { append: None, ..ban() }),
        ("change is missing", ChangeGroup { change: None, ..ban() }),
        (
            "an inbox has no members",
            in_envelope(|op| (op.timeline, op.sender_incarnation) = (key(Kind::Inbox, "alice"), 0)),
        ),
        ("refers to no message", in_envelope(|op| op.header = Some(Box::default()))),
        ("names no incarnation", in_envelope(|op| op.incarnation = 1)),
        ("the operator's or a user's", ChangeGroup { by_operator: true, ..ban() }),
        ("the operator's or a user's", in_envelope(|op| op.sender = Default::default())),
        ("by themselves", of_members(members(OfMembers::Leave, &["bob"]))),
        ("by themselves", of_members(members(OfMembers::Join, &["alice", "bob"]))),
        ("named twice", of_members(members(OfMembers::Ban, &["bob", "bob"]))),
        ("not valid", of_members(members(OfMembers::Ban, &["b b"]))),
        ("nobody", of_members(members(OfMembers::Ban, &[]))),
        ("257 users", of_members(members(OfMembers::Ban, &many))),
        ("without a kind", of_members(members(OfMembers::Unspecified, &["bob"]))),
        ("new role is missing", of_members(members(OfMembers::Role, &["bob"]))),
        ("reads only", of_members(ChangeMembers { role: 3, ..members(OfMembers::Add, &["bob"]) })),
        ("role is unknown", of_members(ChangeMembers { role: 9, ..members(OfMembers::Role, &["bob"]) })),
        ("does not belong", of_members(ChangeMembers { muted_until_ms: 1, ..members(OfMembers::Ban, &["bob"]) })),
        ("does not belong", of_members(ChangeMembers { link: "secret".into(), ..members(OfMembers::Ban, &["bob"]) })),
        ("name has 257", settings(GroupSettings { name: "n".repeat(257), ..GroupSettings::default() })),
        ("description has", settings(GroupSettings { description: "d".repeat(4097), ..GroupSettings::default() })),
        ("picture has", settings(GroupSettings { picture: "p".repeat(2049), ..GroupSettings::default() })),
        ("secret of a link", settings(GroupSettings { link: vec![1; 15].into(), ..GroupSettings::default() })),
        ("slow mode", settings(GroupSettings { slow_mode_ms: u32::MAX, ..GroupSettings::default() })),
        ("expire after 4.999 seconds", settings(GroupSettings { expire_after_ms: 4_999, ..GroupSettings::default() })),
        ("expire after", settings(GroupSettings { expire_after_ms: 367 * 86_400_000, ..GroupSettings::default() })),
        ("settings are missing", change(Change::Create(CreateGroup::default()))),
        ("nothing is to be set", change(Change::Set(SetGroup::default()))),
    ];
    for (why, op) in wrong {
        let (reason, detail) = check(op.clone()).expect_err(why);
        assert!(reason == Reason::Invalid && detail.contains(why), "{why}: {detail}");
    }
}

#[test]
fn to_a_group_a_sender_is_a_member_or_from_beyond_the_border() {
    for (kind, sender, admission, is_right) in [
        (Kind::Group, "bob", Admission::Unspecified, true),
        (Kind::Group, "bob", Admission::Refused, true),
        (Kind::Group, "bob", Admission::Request, false),
        (Kind::Group, "bob", Admission::Withheld, false),
        (Kind::Group, "", Admission::Refused, false),
        (Kind::Inbox, "bob", Admission::Request, true),
        (Kind::Inbox, "", Admission::Refused, false),
    ] {
        let (sender, admission) = (sender.to_owned().into(), admission.into());
        let append = Append { timeline: key(kind, "alice"), sender, admission, ..append() };
        let checked = timeline(TimelineOp::Append(append.clone()));
        assert_eq!(checked.is_ok(), is_right, "{append:?}: {checked:?}");
    }
}

#[test]
fn malformed_memberships_are_refused() {
    let right = || SetMembership {
        append: Some(append()),
        group: key(Kind::Group, "friends"),
        membership: Some(Membership { seq: 3, standing: 1, ..Membership::default() }),
    };
    let check = |op| timeline(TimelineOp::SetMembership(op));
    assert_eq!(check(right()), Ok(()));
    type Edit = fn(&mut SetMembership);
    let wrong: [(&str, Edit); 8] = [
        ("envelope is missing", |op| op.append = None),
        ("memberships stand in inboxes", |op| {
            op.append = Some(Append { timeline: key(Kind::Group, "alice"), ..append() })
        }),
        ("by the service", |op| op.append = Some(Append { sender: "bob".into(), ..append() })),
        ("timeline is missing", |op| op.group = None),
        ("an inbox has no members", |op| op.group = key(Kind::Inbox, "alice")),
        ("membership is missing", |op| op.membership = None),
        ("is of a position", |op| op.membership = Some(Membership { standing: 1, ..Membership::default() })),
        ("standing is unknown", |op| op.membership = Some(Membership { seq: 1, ..Membership::default() })),
    ];
    for (why, edit) in wrong {
        let mut op = right();
        edit(&mut op);
        let (reason, detail) = check(op).expect_err(why);
        assert!(reason == Reason::Invalid && detail.contains(why), "{why}: {detail}");
    }
}

#[test]
fn malformed_rows_of_the_outbox_and_sweeps_of_memberships_are_refused() {
    let settled = || Settled { index: 1, verdict: Verdict::Refused.into(), why: "w".repeat(512), ..Settled::default() };
    let settle = |rows: Vec<Settled>| timeline(TimelineOp::SettleOutbox(SettleOutbox { rows }));
    assert_eq!(settle(vec![settled(); 256]), Ok(()));
    let wrong = [
        vec![],
        vec![settled(); 257],
        vec![settled(), Settled { verdict: 0, ..settled() }],
        vec![Settled { verdict: 9, ..settled() }],
        vec![Settled { why: "w".repeat(513), ..settled() }],
    ];
    for rows in wrong {
        assert!(settle(rows.clone()).is_err(), "{rows:?}");
    }
    let seen = |group| Seen { number: 1, group, ..Seen::default() };
    let sweep = |rows: Vec<Seen>| timeline(TimelineOp::SweepMemberships(SweepMemberships { rows }));
    let of_friends = || seen(key(Kind::Group, "friends"));
    assert_eq!(sweep(vec![of_friends(); SWEEP_MEMBERSHIPS]), Ok(()));
    assert!(sweep(vec![of_friends(); SWEEP_MEMBERSHIPS + 1]).is_err() && sweep(vec![seen(None)]).is_err());
}
