//! Groups against a model that only follows the changes that were carried out, and knows by a table who may do what.

mod commands;
mod model;
mod outbox;

use std::collections::BTreeMap;

use carillon_proto::{
    ShardId, ShardKind,
    pb::store::{
        AdvanceClock, Append, GroupRead, Head, ListGroups, Membership, MembershipsRead, MoveCursors, ReadGroup,
        ReadHead, ReadMembers, ReadMemberships, ReadTimeline, Role, SetMembership, StoreError, SweepMemberships,
        TimelineCommand, member::Standing, move_cursors::Moved, rejected::Reason, store_error::Why,
        sweep_memberships::Seen, timeline_command::Op,
    },
};
use proptest::prelude::*;

use self::{commands::*, model::*};
use super::*;
use crate::machine::{Outcome, Retention, TimelineMachine, TimelineReader, Unread};

const SHARD: ShardId = ShardId { kind: ShardKind::Timeline, index: 1 };

fn reason(outcome: &Outcome) -> Option<Reason> {
    match outcome {
        Outcome::Error(StoreError { why: Some(Why::Rejected(rejected)) }) => Some(rejected.reason()),
        _ => None,
    }
}

fn check_reads(reader: &TimelineReader, model: &Model) {
    for name in GROUPS {
        let group = model.get(name);
        for person in people() {
            let row = group.and_then(|group| group.row(&person)).filter(|_| group.is_some_and(Group::lives));
            let is_member = row.is_some_and(|row| row.standing == Standing::Member);
            let read =
                ReadTimeline { timeline: Some(key(name)), reader: Some(person.clone()), ..ReadTimeline::default() };
            match reader.read(&read) {
                Ok(read) => {
                    let (group, row) = (group.expect("there is one"), row.expect("a member"));
                    assert!(is_member, "{person:?} reads {name}");
                    let from = if group.settings.earlier_history { 1 } else { row.since };
                    let head = Head { epoch: group.epoch, first: from, last: group.last, ..Head::default() };
                    assert_eq!(read.head, Some(head));
                    let seqs: Vec<u64> = read.entries.iter().map(|entry| entry.seq).collect();
                    assert_eq!(seqs, (from..=group.last).collect::<Vec<_>>());
                }
                Err(Unread::Rejected(why)) => {
                    assert_eq!((why.reason(), is_member), (Reason::NotFound, false), "{person:?} reads {name}");
                }
                Err(Unread::Engine(error)) => panic!("{error}"),
            }
            for writes_at_ms in [1, 5, 50] {
                let read = ReadGroup { timeline: Some(key(name)), reader: Some(person.clone()), writes_at_ms };
                let writes = reader.group(&read).is_ok_and(|read| read.writes);
                let may_write = |group: &Group| group.refuses_to_write(row, writes_at_ms).is_none();
                assert_eq!(writes, is_member && group.is_some_and(may_write), "{person:?} in {name} at {writes_at_ms}");
            }
            let read = ReadGroup { timeline: Some(key(name)), reader: Some(person.clone()), writes_at_ms: 0 };
            let shown = reader.group(&read).is_ok();
            let open = group.is_some_and(|group| group.lives() && group.settings.open);
            let expected = match row.map(|row| row.standing) {
                Some(Standing::Member | Standing::Invited) => true,
                Some(Standing::Banned) => false,
                _ => open,
            };
            assert_eq!(shown, expected, "{person:?} sees {name}");
        }
        check_rows(reader, name, group);
    }
    let listed = reader.groups(&ListGroups::default()).expect("reads").groups.into_iter().map(|row| row.group);
    let living = GROUPS.into_iter().filter(|name| model.get(name).is_some_and(Group::lives));
    assert_eq!(listed.collect::<Vec<_>>(), living.collect::<Vec<_>>());
    for user in USERS {
        check_memberships(reader, user, model);
    }
    outbox::check(reader, model);
}

/// The service sees all rows, and the numbers are those of the rows.
fn check_rows(reader: &TimelineReader, name: &str, group: Option<&Group>) {
    let read = reader.group(&ReadGroup { timeline: Some(key(name)), reader: None, writes_at_ms: 0 });
    let Some(group) = group.filter(|group| group.lives()) else {
        return assert!(matches!(read, Err(Unread::Rejected(why)) if why.reason() == Reason::NotFound));
    };
    let GroupRead { group: row, incarnation, .. } = read.expect("reads");
    let row = row.expect("has one");
    assert_eq!(incarnation, group.incarnation);
    assert_eq!(row.settings.as_ref(), Some(&group.settings));
    let members = group.rows.values().filter(|row| row.standing == Standing::Member);
    let owners = members.clone().filter(|row| row.role == Role::Owner).count();
    let numbers = (members.clone().count(), owners, group.rows.len() - members.count());
    assert_eq!((row.members as usize, row.owners as usize, row.others as usize), numbers, "{name}");
    // In pages of two.
    let mut found = Vec::new();
    loop {
        let after_user = found.last().map_or(String::new(), |(user, _): &(String, _)| user.clone());
        let op =
            ReadMembers { timeline: Some(key(name)), others: true, after_user, limit: 2, ..ReadMembers::default() };
        let page = reader.members(&op).expect("reads");
        found.extend(page.members.into_iter().map(|row| (row.user, row.member.expect("has one"))));
        if page.complete {
            break;
        }
    }
    let found: Vec<_> = found.into_iter().map(|(user, row)| (user, row.standing(), row.role())).collect();
    let expected: Vec<_> = group.rows.iter().map(|(user, row)| (user.clone(), row.standing, row.role)).collect();
    assert_eq!(found, expected, "{name}");
}

fn check_memberships(reader: &TimelineReader, user: &str, model: &Model) {
    let nothing = Inbox::default();
    let of = model.inboxes.get(user).unwrap_or(&nothing);
    let incarnation = of.incarnation;
    let op = ReadMemberships { timeline: Some(inbox(user)), incarnation, limit: 1, ..ReadMemberships::default() };
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let op = ReadMemberships { after: after.clone(), ..op.clone() };
        let MembershipsRead { memberships, complete } = reader.memberships(&op).expect("reads");
        for row in memberships {
            let membership = row.membership.expect("has one");
            after.clone_from(&row.group);
            found.push((row.group.expect("has one").owner, membership.incarnation, membership.seq));
        }
        if complete {
            break;
        }
    }
    let rows = of.memberships.iter().filter(|(_, row)| row.2 == Standing::Member);
    let expected: Vec<_> = rows.map(|(group, row)| (group.clone().into(), row.0, row.1)).collect();
    assert_eq!(found, expected, "{user}");
    let op = ReadHead { timeline: Some(inbox(user)), incarnation, ..ReadHead::default() };
    let head = reader.head(&op).expect("reads");
    assert_eq!(head.last, of.last);
}

/// Each inbox says how many rows of memberships it has. Of one that has ended, the rows go one after another.
fn check_counts(machine: &mut TimelineMachine) {
    let (mut rows, mut counts, mut ended) = (BTreeMap::<Vec<u8>, u64>::new(), BTreeMap::new(), Vec::new());
    for (key, value) in records(machine) {
        match key[0] {
            0x1c => *rows.entry(key[1..9].to_vec()).or_default() += 1,
            0x3f => _ = counts.insert(key[1..].to_vec(), u64::from_be_bytes(value[..].try_into().expect("a number"))),
            0x16 => ended.push(key[1..].to_vec()),
            _ => {}
        }
    }
    counts.retain(|number, count| *count != 0 && !ended.contains(number));
    rows.retain(|number, _| !ended.contains(number));
    assert_eq!(counts, rows);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_group_does_what_its_model_does(steps in proptest::collection::vec(step(entries()), 1..25)) {
        let mut shard = OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &set_level());
        let (mut model, mut index) = (Model::default(), 0);
        for step in steps {
            match step {
                Step::Apply(commands) => {
                    let entries: Vec<_> =
                        commands.iter().map(|commands| { index += 1; entry(index, commands) }).collect();
                    let outcomes = shard.machine.apply(&entries, &index.to_be_bytes()).expect("applies");
                    for ((commands, outcomes), entry) in commands.iter().zip(&outcomes).zip(&entries) {
                        for (command, outcome) in commands.iter().zip(outcomes) {
                            model.follow(entry.index, command, outcome);
                        }
                    }
                }
                Step::Reopen => shard = shard.reopened(),
                Step::SnapshotAndRestore => shard = shard.restored_from_its_snapshot(),
            }
            check_reads(&shard.reader, &model);
            check_counts(&mut shard.machine);
        }
    }

    #[test]
    fn batch_boundaries_make_no_difference_to_groups(
        commands in proptest::collection::vec(proptest::collection::vec(command(), 0..20), 1..20),
    ) {
        check_batches(|engines| engines.timeline(SHARD).expect("shard").0, &set_level(), commands);
    }
}

#[test]
fn what_was_left_a_day_ago_is_found_and_forgotten() {
    let mut shard = OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &set_level());
    let set = |group: usize, seq: u64, standing: Standing| {
        let append = Append {
            timeline: Some(inbox("a")),
            duplicate_key: vec![(16 * group) as u8 + seq as u8; 16].into(),
            envelope: b"e".as_slice().into(),
            new_epoch: 7,
            ..Append::default()
        };
        let membership = Membership { seq, standing: standing.into(), ..Membership::default() };
        let op = SetMembership { append: Some(append), group: Some(key(GROUPS[group])), membership: Some(membership) };
        TimelineCommand { op: Some(Op::SetMembership(op)) }
    };
    let mut index = 0;
    let mut apply = |shard: &mut OpenShard<TimelineMachine, TimelineReader>, command: TimelineCommand| {
        index += 1;
        shard.machine.apply(&[entry(index, &[command])], &index.to_be_bytes()).expect("applies").remove(0).remove(0)
    };
    let day = 24 * 3_600_000;
    let clock = |elapsed_ms| TimelineCommand { op: Some(Op::AdvanceClock(AdvanceClock { elapsed_ms })) };
    apply(&mut shard, set(0, 5, Standing::Left));
    apply(&mut shard, clock(1));
    apply(&mut shard, set(1, 5, Standing::Member));
    apply(&mut shard, clock(day - 1));
    let found =
        |reader: &TimelineReader, limit| reader.left_groups(&[], &Retention::default(), limit).expect("reads").0;
    assert_eq!(found(&shard.reader, 9), [], "not longer than a day");
    apply(&mut shard, clock(1));
    let rows = found(&shard.reader, 9);
    let seen = Seen { number: 1, group: Some(key(GROUPS[0])), incarnation: 0, seq: 5 };
    assert_eq!(rows, std::slice::from_ref(&seen), "who stays is not forgotten");
    // The row has changed since it was examined.
    let outdated = Seen { seq: 4, ..seen };
    let sweep = |rows| TimelineCommand { op: Some(Op::SweepMemberships(SweepMemberships { rows })) };
    apply(&mut shard, sweep(vec![outdated]));
    assert!(matches!(apply(&mut shard, set(0, 3, Standing::Member)), Outcome::Done(_)), "an older change");
    apply(&mut shard, sweep(rows));
    assert_eq!(found(&shard.reader, 9), []);
    // A membership that comes even later is put right by the repeat of the leaving that stands behind it in the outbox.
    assert!(matches!(apply(&mut shard, set(0, 4, Standing::Member)), Outcome::Appended(_)));
    apply(&mut shard, set(0, 5, Standing::Left));
    let op = ReadMemberships { timeline: Some(inbox("a")), ..ReadMemberships::default() };
    let left: Vec<_> = shard.reader.memberships(&op).expect("reads").memberships;
    let groups: Vec<_> = left.into_iter().filter_map(|row| row.group).collect();
    assert_eq!(groups, [key(GROUPS[1])]);
    check_counts(&mut shard.machine);
}

#[test]
fn memberships_are_read_with_the_cursors_of_one_device() {
    let mut shard = OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &set_level());
    let names = ["b", "ba", "bb", "c"];
    let set = |(number, name): (usize, &&str)| {
        let append = Append {
            timeline: Some(inbox("a")),
            duplicate_key: vec![number as u8; 16].into(),
            envelope: b"e".as_slice().into(),
            new_epoch: 7,
            ..Append::default()
        };
        let membership = Membership { seq: 1, standing: Standing::Member.into(), ..Membership::default() };
        let op = SetMembership { append: Some(append), group: Some(key(name)), membership: Some(membership) };
        TimelineCommand { op: Some(Op::SetMembership(op)) }
    };
    // The device is in some of the groups, and has been in others.
    let of_devices = [
        ("p", vec![("b", 10)]),
        ("ph", vec![("a", 20), ("ba", 21), ("baa", 22), ("c", 23), ("d", 24)]),
        ("phb", vec![("bb", 30)]),
    ];
    let moves = |(device, cursors): &(&str, Vec<(&str, u64)>)| {
        let moved = cursors.iter().map(|(name, seq)| Moved { timeline: Some(key(name)), epoch: 5, seq: *seq });
        let (timeline, device) = (Some(inbox("a")), (*device).to_owned());
        TimelineCommand {
            op: Some(Op::MoveCursors(MoveCursors { timeline, device, moved: moved.collect(), incarnation: 0 })),
        }
    };
    let commands: Vec<_> = names.iter().enumerate().map(set).chain(of_devices.iter().map(moves)).collect();
    shard.machine.apply(&[entry(1, &commands)], &1u64.to_be_bytes()).expect("applies");
    for limit in 1..=5 {
        for device in ["", "p", "ph", "phb", "phone"] {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let device = device.to_owned();
                let op =
                    ReadMemberships { timeline: Some(inbox("a")), device, after, limit, ..ReadMemberships::default() };
                let page = shard.reader.memberships(&op).expect("reads");
                after = page.memberships.last().and_then(|row| row.group.clone());
                found.extend(page.memberships.into_iter().map(|row| row.epoch.map(|epoch| (epoch, row.seq))));
                if page.complete {
                    break;
                }
            }
            let of_device = of_devices.iter().find(|(name, _)| *name == device).map(|(_, cursors)| cursors);
            let cursor = |name: &&str| {
                let (_, seq) = of_device?.iter().find(|(group, _)| group == name)?;
                Some((5, *seq))
            };
            assert_eq!(found, names.iter().map(cursor).collect::<Vec<_>>(), "{device:?} by {limit}");
        }
    }
}
