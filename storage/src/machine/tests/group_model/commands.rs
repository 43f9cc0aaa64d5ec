//! Commands to groups, at random.

use carillon_proto::{
    Level,
    pb::store::{
        Append, ChangeGroup, ChangeMembers, CollectGarbage, CreateGroup, DeleteGroup, EndTimeline, GroupSettings,
        Membership, Person, Role, SetGroup, SetLevel, SetMembership, SettleOutbox, SweepMemberships, TimelineCommand,
        TimelineKey,
        change_group::Change,
        change_members::Change as OfMembers,
        member::Standing,
        settle_outbox::{Settled, Verdict},
        sweep_memberships,
        timeline_command::Op,
        timeline_key::Kind,
    },
};
use proptest::prelude::*;

pub(super) const GROUPS: [&str; 2] = ["g", "ga"];
pub(super) const USERS: [&str; 4] = ["a", "ab", "b", "c"];
/// Each name has had two owners.
const INCARNATIONS: u64 = 2;

pub(super) fn key(name: &str) -> TimelineKey {
    TimelineKey { kind: Kind::Group.into(), owner: name.to_owned().into() }
}

pub(super) fn inbox(user: &str) -> TimelineKey {
    TimelineKey { kind: Kind::Inbox.into(), owner: user.to_owned().into() }
}

pub(super) fn people() -> impl Iterator<Item = Person> {
    let of = |user: &'static str| (1..=INCARNATIONS).map(move |incarnation| Person { user: user.into(), incarnation });
    USERS.into_iter().flat_map(of)
}

pub(super) fn set_level() -> TimelineCommand {
    TimelineCommand { op: Some(Op::SetLevel(SetLevel { level: Level::OF_PROGRAM.0 })) }
}

fn person() -> impl Strategy<Value = Person> {
    // The second owner of a name is rare.
    (0..USERS.len(), prop_oneof![8 => Just(1), 1 => Just(INCARNATIONS)])
        .prop_map(|(user, incarnation)| Person { user: USERS[user].into(), incarnation })
}

fn append() -> impl Strategy<Value = Append> {
    (0..GROUPS.len(), any::<u8>(), person(), 0..200u64, any::<bool>()).prop_map(
        |(group, duplicate, sender, time_ms, only_repeat)| Append {
            timeline: Some(key(GROUPS[group])),
            duplicate_key: vec![duplicate; 16].into(),
            time_ms,
            envelope: vec![duplicate; 8].into(),
            new_epoch: 1 + u64::from(duplicate),
            sender: sender.user.into(),
            sender_incarnation: sender.incarnation,
            only_repeat: only_repeat && duplicate.is_multiple_of(16),
            group_incarnation: (duplicate % 8 == 7).then_some(u64::from(duplicate % 3)),
            ..Append::default()
        },
    )
}

fn settings() -> impl Strategy<Value = GroupSettings> {
    (any::<[bool; 5]>(), 0..60u32).prop_map(|([open, earlier_history, announcements, members_add, link], slow)| {
        GroupSettings {
            name: "name".into(),
            open,
            link: if link { vec![7; 16].into() } else { Default::default() },
            earlier_history,
            announcements: announcements && slow > 30,
            slow_mode_ms: slow / 20 * 20,
            members_add,
            ..GroupSettings::default()
        }
    })
}

fn create() -> impl Strategy<Value = Change> {
    (settings(), proptest::collection::vec(person(), 0..4)).prop_map(|(settings, members)| {
        Change::Create(CreateGroup { settings: Some(settings), members: once_each(members), owner: None })
    })
}

fn set() -> impl Strategy<Value = Change> {
    settings().prop_map(|GroupSettings { open, earlier_history, announcements, slow_mode_ms, members_add, .. }| {
        Change::Set(SetGroup {
            open: Some(open),
            earlier_history: Some(earlier_history),
            announcements: Some(announcements),
            slow_mode_ms: Some(slow_mode_ms),
            members_add: Some(members_add),
            ..SetGroup::default()
        })
    })
}

fn members() -> impl Strategy<Value = Change> {
    let kinds = [
        OfMembers::Join,
        OfMembers::Leave,
        OfMembers::Add,
        OfMembers::Invite,
        OfMembers::Remove,
        OfMembers::Ban,
        OfMembers::Pardon,
        OfMembers::Role,
        OfMembers::Mute,
    ];
    let role = prop_oneof![Just(Role::Reader), Just(Role::Member), Just(Role::Admin), Just(Role::Owner)];
    (
        proptest::sample::select(kinds.to_vec()),
        proptest::collection::vec(person(), 1..3),
        role,
        0..200u64,
        any::<bool>(),
        any::<[bool; 2]>(),
    )
        .prop_map(|(kind, users, role, muted_until_ms, link, unwanted)| {
            let mut change = ChangeMembers { users: once_each(users), ..ChangeMembers::default() };
            let names = change.users.iter().zip(unwanted).filter(|(_, unwanted)| *unwanted);
            change.unwanted = names.map(|(person, _)| person.user.clone()).collect();
            change.set_change(kind);
            match kind {
                OfMembers::Role => change.set_role(role),
                OfMembers::Add if role == Role::Reader => change.set_role(role),
                OfMembers::Mute => change.muted_until_ms = muted_until_ms,
                OfMembers::Join if link => change.link = vec![7; 16].into(),
                _ => {}
            }
            Change::Members(change)
        })
}

fn once_each(mut people: Vec<Person>) -> Vec<Person> {
    people.sort_by(|a, b| a.user.cmp(&b.user));
    people.dedup_by(|a, b| a.user == b.user);
    people
}

fn change() -> impl Strategy<Value = TimelineCommand> {
    let change = prop_oneof![
        2 => create(),
        1 => set(),
        12 => members(),
        1 => Just(Change::Delete(DeleteGroup {})),
    ];
    (append(), change, any::<u8>()).prop_map(|(mut append, mut change, operator)| {
        let by_operator = operator.is_multiple_of(16);
        let sender = Person {
            user: String::from_utf8(append.sender.to_vec()).expect("text"),
            incarnation: append.sender_incarnation,
        };
        match &mut change {
            Change::Create(create) => create.members.retain(|member| by_operator || member.user != sender.user),
            // Users join and leave by themselves.
            Change::Members(op) if matches!(op.change(), OfMembers::Join | OfMembers::Leave) && !by_operator => {
                op.users = vec![sender];
            }
            Change::Members(op) if op.change() == OfMembers::Join => op.set_change(OfMembers::Add),
            _ => {}
        }
        if by_operator {
            (append.sender, append.sender_incarnation) = (Default::default(), 0);
        }
        let op = ChangeGroup { append: Some(append), by_operator, change: Some(change), most_members: 0 };
        TimelineCommand { op: Some(Op::ChangeGroup(op)) }
    })
}

fn membership() -> impl Strategy<Value = TimelineCommand> {
    (append(), person(), 0..GROUPS.len(), 0..3u64, 1..9u64, any::<bool>()).prop_map(
        |(append, person, group, incarnation, seq, stays)| {
            let append = Append {
                timeline: Some(inbox(&person.user)),
                incarnation: person.incarnation - 1,
                sender: Default::default(),
                sender_incarnation: 0,
                only_repeat: false,
                ..append
            };
            let standing = if stays { Standing::Member } else { Standing::Left };
            let membership = Membership { incarnation, seq, standing: standing.into(), ..Membership::default() };
            let (append, group, membership) = (Some(append), Some(key(GROUPS[group])), Some(membership));
            TimelineCommand { op: Some(Op::SetMembership(SetMembership { append, group, membership })) }
        },
    )
}

/// Mostly of rows that are there: every other command of the first entries changes a group.
fn settle() -> impl Strategy<Value = Op> {
    let verdict = prop_oneof![
        3 => Just(Verdict::Done),
        8 => Just(Verdict::Refused),
        2 => Just(Verdict::Replay),
        1 => Just(Verdict::Discard),
    ];
    // A row that is settled again and again is given up.
    let row = (1..6u64, 0..4u32, verdict, 1..10usize).prop_map(|(index, number, verdict, times)| {
        let why = if verdict == Verdict::Refused { "no room".to_owned() } else { String::new() };
        vec![Settled { index, number, verdict: verdict.into(), why }; times]
    });
    proptest::collection::vec(row, 1..4).prop_map(|rows| Op::SettleOutbox(SettleOutbox { rows: rows.concat() }))
}

fn sweep() -> impl Strategy<Value = Op> {
    let seen = (1..6u64, 0..GROUPS.len(), 0..3u64, 1..9u64).prop_map(|(number, group, incarnation, seq)| {
        sweep_memberships::Seen { number, group: Some(key(GROUPS[group])), incarnation, seq }
    });
    proptest::collection::vec(seen, 0..40).prop_map(|rows| Op::SweepMemberships(SweepMemberships { rows }))
}

pub(super) fn command() -> impl Strategy<Value = TimelineCommand> {
    let end = (0..GROUPS.len(), 1..4u64).prop_map(|(group, incarnation)| {
        Op::EndTimeline(EndTimeline { timeline: Some(key(GROUPS[group])), incarnation })
    });
    let end_inbox = (0..USERS.len(), 1..4u64).prop_map(|(user, incarnation)| {
        Op::EndTimeline(EndTimeline { timeline: Some(inbox(USERS[user])), incarnation })
    });
    let collect = (1..9u64, 1..40u32).prop_map(|(number, limit)| Op::CollectGarbage(CollectGarbage { number, limit }));
    prop_oneof![
        12 => append().prop_map(|append| TimelineCommand { op: Some(Op::Append(append)) }),
        24 => change(),
        6 => membership(),
        4 => prop_oneof![settle(), sweep(), end_inbox].prop_map(|op| TimelineCommand { op: Some(op) }),
        1 => end.prop_map(|op| TimelineCommand { op: Some(op) }),
        2 => collect.prop_map(|op| TimelineCommand { op: Some(op) }),
    ]
}

pub(super) fn entries() -> impl Strategy<Value = Vec<Vec<TimelineCommand>>> {
    proptest::collection::vec(proptest::collection::vec(command(), 0..20), 1..5)
}
