mod commands;
mod model;
mod of_devices;

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use carillon_proto::{
    ShardId, ShardKind,
    pb::client::Envelope,
    pb::store::{
        Append, Head, ReadHead, ReadTimeline, SenderErasure, StoreError, TimelineCommand, TimelineKey, Trim, rejected,
        store_error::Why, sweep_cursors::Seen, timeline_command::Op, timeline_key::Kind,
    },
};
use proptest::prelude::*;

use self::{commands::*, model::*};
use super::*;
use crate::machine::{Ages, Outcome, Retention, TimelineMachine, TimelineReader, Unread, keys};

const SHARD: ShardId = ShardId { kind: ShardKind::Timeline, index: 1 };
const INCARNATIONS: u64 = 4;
const SENDER: &str = "carol";
const SENDERS_KEPT_MS: u64 = 86_400_000;
const DEVICES: [&str; 2] = ["phone", "phone/2"];

fn check_reads(reader: &TimelineReader, model: &Model) {
    let erasing: Vec<_> = reader.erasing().expect("reads").into_iter().map(|of| (of.user, of.generation)).collect();
    assert_eq!(erasing, model.erasing.clone().into_iter().collect::<Vec<_>>());
    for (timeline, incarnation) in (0..6).map(key).flat_map(|key| (0..INCARNATIONS).map(move |of| (key.clone(), of))) {
        let model = model.get(&timeline);
        if model.is_some_and(|model| model.incarnation > incarnation) {
            // The earlier owner reads nothing of the timeline.
            let read = ReadTimeline { timeline: Some(timeline.clone()), incarnation, ..ReadTimeline::default() };
            assert!(matches!(reader.read(&read), Err(Unread::Rejected(why)) if why.reason() == rejected::Reason::Gone));
            let head = ReadHead { timeline: Some(timeline), incarnation, ..ReadHead::default() };
            assert!(matches!(reader.head(&head), Err(Unread::Rejected(why)) if why.reason() == rejected::Reason::Gone));
            continue;
        }
        // The next owner finds nothing.
        let model = model.filter(|model| model.incarnation == incarnation && model.epoch != 0);
        let head = model.map_or(Head { first: 1, ..Head::default() }, Timeline::head);
        for device in DEVICES {
            let cursor = model.and_then(|model| model.cursors.get(device)).copied();
            let read = reader.head(&ReadHead {
                timeline: Some(timeline.clone()),
                device: device.to_owned(),
                incarnation,
                unread_of: None,
            });
            let head = Head { cursor: cursor.unwrap_or(0), has_cursor: cursor.is_some(), ..head };
            assert_eq!(read.expect("reads"), head);
            let of_device = model.into_iter().flat_map(|model| &model.in_groups).filter(|((of, _), _)| of == device);
            let expected: Vec<_> = of_device.map(|((_, group), (epoch, seq))| (group.clone(), *epoch, *seq)).collect();
            assert_eq!(in_groups(reader, &timeline, device, incarnation), expected);
        }
        let kept: Vec<_> = model.into_iter().flat_map(|model| (model.first..).zip(&model.kept)).collect();
        for (backward, from_seq, limit, max_bytes) in
            [false, true].into_iter().flat_map(|b| [(b, 0, 0, 0), (b, 5, 3, 0), (b, 7, 100, 150), (b, 100, 1, 1)])
        {
            let timeline = Some(timeline.clone());
            let op =
                ReadTimeline { timeline, from_seq, backward, limit, max_bytes, incarnation, ..ReadTimeline::default() };
            let read = reader.read(&op).expect("reads");
            assert_eq!(read.head, Some(head));
            let wanted = kept.iter().filter(|(seq, _)| match (backward, from_seq) {
                (_, 0) => true,
                (false, from) => *seq >= from,
                (true, from) => *seq <= from,
            });
            let wanted: Vec<_> = if backward { wanted.rev().collect() } else { wanted.collect() };
            let mut expected = Vec::new();
            let mut bytes = 0;
            for (seq, append) in &wanted {
                bytes += append.envelope.len();
                let full = max_bytes != 0 && bytes > max_bytes as usize && !expected.is_empty();
                if full || (limit != 0 && expected.len() == limit as usize) {
                    break;
                }
                expected.push((*seq, append.envelope.clone()));
            }
            let given: Vec<_> = read.entries.into_iter().map(|entry| (entry.seq, entry.envelope)).collect();
            assert_eq!(read.complete, expected.len() == wanted.len(), "{op:?}");
            assert_eq!(given, expected, "{op:?}");
        }
    }
}

/// Each device has a row that says how many cursors in groups it has, if it has any. Of an inbox that has ended, the rows go one after another.
fn check_counts(machine: &mut TimelineMachine) {
    let (mut rows, mut counts, mut ended) = (BTreeMap::<(u64, String), u64>::new(), BTreeMap::new(), HashSet::new());
    for (key, value) in records(machine) {
        match key[0] {
            0x19 => {
                let (number, device, _) = keys::group_cursor_of(&key).expect("a cursor");
                *rows.entry((number, device.to_owned())).or_default() += 1;
            }
            0x40 => {
                let (number, device) = keys::group_cursor_count_of(&key).expect("a number");
                counts.insert((number, device.to_owned()), keys::number_of(&value).expect("a number"));
            }
            0x16 => _ = ended.insert(keys::garbage_of(&key).expect("a number")),
            _ => {}
        }
    }
    counts.retain(|(number, _), _| !ended.contains(number));
    rows.retain(|(number, _), _| !ended.contains(number));
    assert_eq!(counts, rows);
}

/// All cursors of the device in groups, one at a time: owner of the group, epoch and position.
fn in_groups(reader: &TimelineReader, inbox: &TimelineKey, device: &str, incarnation: u64) -> Vec<(Bytes, u64, u64)> {
    let read = ReadHead { timeline: Some(inbox.clone()), device: device.to_owned(), incarnation, unread_of: None };
    let mut found: Vec<(TimelineKey, u64, u64)> = Vec::new();
    while let [next] = &reader.group_cursors(&read, found.last().map(|(group, ..)| group), 1).expect("reads")[..] {
        found.push(next.clone());
    }
    assert_eq!(reader.group_cursors(&read, None, usize::MAX).expect("reads"), found);
    found.into_iter().map(|(group, epoch, seq)| (group.owner, epoch, seq)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_timeline_shard_does_what_its_model_does(steps in proptest::collection::vec(step(entries()), 1..25)) {
        let mut shard = OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &set_level());
        let (mut model, mut index) = (Model::default(), 0);
        for step in steps {
            match step {
                Step::Apply(commands) => {
                    let entries: Vec<_> =
                        commands.iter().map(|commands| { index += 1; entry(index, commands) }).collect();
                    let outcomes = shard.machine.apply(&entries, &index.to_be_bytes()).expect("applies");
                    let expected: Vec<Vec<_>> =
                        commands.iter().map(|entry| entry.iter().map(|command| model.apply(command)).collect()).collect();
                    prop_assert_eq!(outcomes, expected);
                }
                Step::Reopen => shard = shard.reopened(),
                Step::SnapshotAndRestore => shard = shard.restored_from_its_snapshot(),
            }
            prop_assert_eq!(applied(&shard.machine), index);
            check_reads(&shard.reader, &model);
            check_counts(&mut shard.machine);
        }
    }

    #[test]
    fn batch_boundaries_make_no_difference(
        commands in proptest::collection::vec(proptest::collection::vec(command(), 0..20), 1..30),
        cuts in proptest::collection::vec(1..8usize, 30),
    ) {
        let dir = tempfile::tempdir().expect("folder");
        let engines = [open(&dir.path().join("a")), open(&dir.path().join("b"))];
        let mut machines =
            engines.each_ref().map(|engines| at_level(engines.timeline(SHARD).expect("shard").0, &set_level()));
        let entries: Vec<_> = commands.iter().zip(1..).map(|(commands, index)| entry(index, commands)).collect();
        let mut outcomes: [Vec<_>; 2] = [Vec::new(), Vec::new()];
        for piece in entries.chunks(1) {
            outcomes[0].extend(machines[0].apply(piece, &[0; 8]).expect("applies"));
        }
        let mut rest = entries.as_slice();
        for cut in cuts {
            let (piece, later) = rest.split_at(cut.min(rest.len()));
            outcomes[1].extend(machines[1].apply(piece, &[0; 8]).expect("applies"));
            rest = later;
        }
        outcomes[1].extend(machines[1].apply(rest, &[0; 8]).expect("applies"));
        prop_assert_eq!(&outcomes[0], &outcomes[1]);
        let [a, b] = &mut machines;
        prop_assert_eq!(records(a), records(b));
    }
}

fn machine(dir: &Path) -> (TimelineMachine, TimelineReader) {
    let (machine, reader) = machine_of_before(dir);
    (at_level(machine, &set_level()), reader)
}

/// Its shard is at level 0.
fn machine_of_before(dir: &Path) -> (TimelineMachine, TimelineReader) {
    open(dir).timeline(SHARD).expect("shard")
}

#[test]
fn a_position_is_never_given_again() {
    let dir = tempfile::tempdir().expect("folder");
    let appended = |machine: &mut TimelineMachine, commands: &[TimelineCommand]| {
        let outcomes = machine.apply(&[entry(1, commands)], &[0; 8]).expect("applies").remove(0);
        match outcomes.last() {
            Some(Outcome::Appended(appended)) => appended.seq,
            other => panic!("not appended: {other:?}"),
        }
    };
    {
        let (mut machine, _) = machine(dir.path());
        let commands = [append(0, 1, 9, 10, 1), append(0, 2, 9, 10, 1), trim(0, 100, 100), append(0, 3, 9, 10, 1)];
        assert_eq!(appended(&mut machine, &commands), 3);
        machine.apply(&[entry(2, &[trim(0, 100, 100)])], &[0; 8]).expect("applies");
    }
    let (mut machine, reader) = machine(dir.path());
    let head = reader.head(&ReadHead { timeline: Some(key(0)), ..ReadHead::default() }).expect("reads");
    assert_eq!((head.epoch, head.first, head.last), (9, 4, 3));
    assert_eq!(appended(&mut machine, &[append(0, 1, 8, 10, 1)]), 4);
}

#[test]
fn a_malformed_command_stops_the_machine_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("folder");
    let (mut machine, _) = machine(dir.path());
    let good = append(0, 1, 9, 10, 1);
    machine.apply(&[entry(1, std::slice::from_ref(&good))], &1u64.to_be_bytes()).expect("applies");
    let before = records(&mut machine);
    let mut bad = append(0, 2, 0, 10, 1);
    machine.apply(&[entry(2, &[append(0, 3, 9, 10, 1), bad.clone()])], &[0; 8]).expect_err("epoch 0");
    bad.op = None;
    machine.apply(&[entry(2, &[bad])], &[0; 8]).expect_err("no operation");
    assert_eq!((records(&mut machine), applied(&machine)), (before, 1));
}

/// All that is due: of each timeline, the first position that is kept.
fn due(reader: &TimelineReader, retention: Retention) -> Vec<(TimelineKey, u64)> {
    let (mut due, mut after) = (Vec::new(), Vec::new());
    // Two a call: six timelines, and a call that comes to the end.
    for _ in 0..4 {
        let (trims, next) = reader.due_trims(&after, &retention, &Ages::default(), 2).expect("reads");
        assert!(trims.len() <= 2);
        after = next;
        due.extend(trims.into_iter().map(|trim| (trim.timeline.expect("a key"), trim.before_seq)));
    }
    due.sort_by(|a, b| (a.0.kind, &a.0.owner).cmp(&(b.0.kind, &b.0.owner)));
    due
}

/// All cursors of devices that are gone, at most `limit` a look.
fn gone_cursors(reader: &TimelineReader, ages: Retention, limit: usize) -> Vec<Seen> {
    let (mut all, mut after) = (Vec::new(), Vec::new());
    loop {
        let (gone, next) = reader.gone_cursors(&after, &ages, limit).expect("reads");
        assert!(gone.len() <= limit);
        all.extend(gone);
        if next.is_empty() {
            return all;
        }
        after = next;
    }
}

#[test]
fn only_what_retention_ends_is_due_and_each_timeline_gets_its_turn() {
    let dir = tempfile::tempdir().expect("folder");
    let (mut machine, reader) = machine(dir.path());
    // The clock is at 0 for the first of each timeline, at 8000 for the last one.
    let turn = |n: u8| (0..6).map(move |number| append(number, n, 1, 5, 7)).chain([advance(1000)]);
    let commands: Vec<_> = (1..=9u8).flat_map(turn).chain([advance(1)]).collect();
    machine.apply(&[entry(1, &commands)], &[0; 8]).expect("applies");
    let due = |retention| due(&reader, retention);
    let all = |before_seq| {
        let mut all: Vec<_> = (0..6).map(|number| (key(number), before_seq)).collect();
        all.sort_by(|a, b| (a.0.kind, &a.0.owner).cmp(&(b.0.kind, &b.0.owner)));
        all
    };
    let by_age = Retention { max_age_ms: 6000, ..Retention::default() };
    assert_eq!(due(by_age), all(5));
    assert_eq!(due(Retention { slack_ms: 1000, ..by_age }), all(4), "it may be so much younger");
    let by_count = Retention { max_count: 2, ..Retention::default() };
    assert_eq!(due(by_count), all(8));
    assert_eq!(due(Retention { duplicate_window_ms: 8000, ..by_age }), all(3));
    assert_eq!(due(Retention { duplicate_window_ms: 8000, ..by_count }), all(3));
    assert_eq!(due(Retention::default()), []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_wall_clock_makes_anything_due(times_ms in proptest::collection::vec(any::<u64>(), 1..20), ahead in 0..64u32) {
        const DAY_MS: u64 = 86_400_000;
        let dir = tempfile::tempdir().expect("folder");
        let (mut machine, reader) = machine(dir.path());
        let now_ms = carillon_proto::now_ms();
        let odd = [0, now_ms, now_ms + 31 * DAY_MS, now_ms - 31 * DAY_MS, u64::MAX, 1 << ahead];
        let appends: Vec<_> =
            times_ms.into_iter().chain(odd).zip(1..).map(|(time_ms, n)| append(0, n, 1, 5, time_ms)).collect();
        let count = appends.len() as u64;
        machine.apply(&[entry(1, &appends), entry(2, &[advance(1000)])], &[0; 8]).expect("applies");
        let month = Retention { max_age_ms: 30 * DAY_MS, ..Retention::default() };
        prop_assert_eq!(due(&reader, month), []);
        // The envelopes are due when the shard has had a leader for a month.
        let days: Vec<_> = (0..31).map(|_| advance(DAY_MS as u32)).collect();
        machine.apply(&[entry(3, &days)], &[0; 8]).expect("applies");
        let (trims, _) = reader.due_trims(&[], &month, &Ages::default(), 9).expect("reads");
        prop_assert_eq!(trims.into_iter().map(|trim| trim.before_seq).collect::<Vec<_>>(), [count + 1]);
    }
}

/// By the owners in the keys.
#[test]
fn a_domain_keeps_its_messages_for_a_shorter_time_and_never_for_a_longer_one() {
    let dir = tempfile::tempdir().expect("folder");
    let (mut machine, reader) = machine(dir.path());
    let of = |owner: &str| TimelineKey { kind: Kind::Inbox.into(), owner: owner.to_owned().into() };
    let timelines = [of("ann"), of("ann@acme.example"), of("ann@b.example"), of("acme.example")];
    let appends: Vec<_> = timelines
        .iter()
        .map(|key| {
            let Some(Op::Append(append)) = append(0, 1, 1, 5, 7).op else { panic!("an append") };
            TimelineCommand { op: Some(Op::Append(Append { timeline: Some(key.clone()), ..append })) }
        })
        .collect();
    machine.apply(&[entry(1, &appends), entry(2, &[advance(5000)])], &[0; 8]).expect("applies");
    let due = |retention: Retention, ages: &[(&str, u64)]| {
        let ages: Ages = std::sync::Arc::new(ages.iter().map(|(name, age_ms)| ((*name).to_owned(), *age_ms)).collect());
        let (trims, _) = reader.due_trims(&[], &retention, &ages, 9).expect("reads");
        let owner = |trim: Trim| String::from_utf8(trim.timeline.expect("a key").owner.to_vec()).expect("text");
        let mut owners: Vec<String> = trims.into_iter().map(owner).collect();
        owners.sort();
        owners
    };
    let by_age = |max_age_ms| Retention { max_age_ms, ..Retention::default() };
    assert_eq!(due(by_age(0), &[("acme.example", 4999)]), ["ann@acme.example"]);
    assert_eq!(due(by_age(0), &[("acme.example", 5000)]), [""; 0], "not older than that");
    assert_eq!(due(by_age(0), &[("", 4000)]), ["acme.example", "ann"]);
    assert_eq!(due(by_age(6000), &[("acme.example", 4000)]), ["ann@acme.example"]);
    assert_eq!(due(by_age(4000), &[("acme.example", 6000)]).len(), 4, "the cluster's time is shorter");
    let window = Retention { duplicate_window_ms: 6000, ..by_age(0) };
    assert_eq!(due(window, &[("acme.example", 4000)]), [""; 0], "a repeat would not be recognised");
}

#[test]
fn envelopes_of_a_version_without_a_clock_are_kept_for_the_whole_time_from_now_on() {
    let dir = tempfile::tempdir().expect("folder");
    let (mut machine, reader) = machine_of_before(dir.path());
    machine
        .apply(&[entry(1, &[append(0, 1, 1, 5, 7), set_cursor(0, 0, 1, 1), append(0, 2, 1, 5, 7)])], &[0; 8])
        .expect("applies");
    // As format 2 wrote them.
    let mut old = Vec::new();
    for (key, value) in records(&mut machine) {
        let value = match key[0] {
            0x13 => value[..8].to_vec(),
            0x20 => [&1_700_000_000_000u64.to_be_bytes(), &value[8..]].concat(),
            _ => value,
        };
        old.push(Ok((key, value)));
    }
    machine.restore(&mut old.into_iter(), &[0; 8]).expect("restores");
    let ages = Retention { max_age_ms: 6000, cursor_age_ms: 6000, ..Retention::default() };
    let head = |reader: &TimelineReader| {
        reader
            .head(&ReadHead { timeline: Some(key(0)), device: DEVICES[0].to_owned(), incarnation: 0, unread_of: None })
            .expect("reads")
    };
    assert_eq!((head(&reader).cursor, head(&reader).last), (1, 2));
    machine.apply(&[entry(2, &[advance(6000)])], &[0; 8]).expect("applies");
    assert_eq!((due(&reader, ages), gone_cursors(&reader, ages, 9)), (vec![], vec![]));
    machine.apply(&[entry(3, &[advance(1)])], &[0; 8]).expect("applies");
    assert_eq!(reader.due_trims(&[], &ages, &Ages::default(), 9).expect("reads").0[0].before_seq, 3);
    assert_eq!(gone_cursors(&reader, ages, 9).len(), 1);
}

#[test]
fn a_new_owners_first_message_ends_what_stood_there_and_it_is_removed() {
    let dir = tempfile::tempdir().expect("folder");
    let (mut machine, reader) = machine(dir.path());
    let before = records(&mut machine);
    let old: Vec<_> = (0..40)
        .map(|n| append(0, n, 9, 10, 1))
        .chain([move_cursors(0, 0, [(key(0), 9, 3), (group_key(0), 1, 1)])])
        .collect();
    machine.apply(&[entry(1, &old)], &[0; 8]).expect("applies");
    assert_eq!(reader.garbage(10).expect("reads"), []);
    machine.apply(&[entry(2, &[of(7, append(0, 1, 8, 10, 1))])], &[0; 8]).expect("applies");
    let head = |incarnation| {
        reader.head(&ReadHead { timeline: Some(key(0)), device: "phone".into(), incarnation, unread_of: None })
    };
    let now = head(7).expect("reads");
    assert_eq!((now.epoch, now.first, now.last, now.has_cursor), (8, 1, 1, false));
    assert!(matches!(head(0), Err(Unread::Rejected(_))));
    let mut rounds = 0;
    while let Some(found) = reader.garbage(1).expect("reads").first() {
        machine.apply(&[entry(3, &[collect(found.number, 16)])], &[0; 8]).expect("applies");
        rounds += 1;
    }
    // 40 records, 40 duplicate keys and two cursors.
    assert_eq!(rounds, 82usize.div_ceil(16));
    machine.apply(&[entry(4, &[end(0, 9), collect(2, 16)])], &[0; 8]).expect("applies");
    assert_eq!(reader.garbage(10).expect("reads"), []);
    let left = records(&mut machine);
    assert_eq!(left.len(), before.len() + 2, "the timeline's row and the next number: {left:?}");
    // A trim after a look at the old timeline takes nothing from the new one.
    machine.apply(&[entry(5, &[of(10, append(0, 1, 4, 10, 1))])], &[0; 8]).expect("applies");
    let late = Trim { timeline: Some(key(0)), before_seq: 2, limit: 10, epoch: 8 };
    let late = TimelineCommand { op: Some(Op::Trim(late)) };
    machine.apply(&[entry(6, &[late])], &[0; 8]).expect("applies");
    assert_eq!(head(10).expect("reads").first, 1);
}

#[test]
fn what_a_session_that_is_over_has_sent_gets_into_no_timeline() {
    let dir = tempfile::tempdir().expect("folder");
    let sent = |machine: &mut TimelineMachine, index, generation| {
        let command = by(generation, append(0, index as u8, 1, 5, 7));
        let outcome = machine.apply(&[entry(index, &[command])], &[0; 8]).expect("applies").remove(0).remove(0);
        matches!(outcome, Outcome::Appended(_))
    };
    {
        let (mut machine, _) = machine(dir.path());
        assert!(sent(&mut machine, 1, 4));
        machine.apply(&[entry(2, &[end_sender(5)])], &[0; 8]).expect("applies");
        // Late, and of no effect.
        machine.apply(&[entry(3, &[end_sender(3)])], &[0; 8]).expect("applies");
        assert!(!sent(&mut machine, 4, 4) && sent(&mut machine, 5, 5));
        assert!(
            matches!(
                machine.apply(&[entry(6, &[append(0, 6, 1, 5, 7)])], &[0; 8]).expect("applies")[0][0],
                Outcome::Appended(_)
            ),
            "of another one"
        );
    }
    let (mut machine, _) = machine(dir.path());
    assert!(!sent(&mut machine, 7, 4), "also after a start");
    let records_with = records(&mut machine).len();
    machine.apply(&[entry(8, &[advance(SENDERS_KEPT_MS as u32)])], &[0; 8]).expect("applies");
    assert!(!sent(&mut machine, 9, 4), "for a day");
    machine.apply(&[entry(10, &[advance(1)])], &[0; 8]).expect("applies");
    assert_eq!(records(&mut machine).len(), records_with, "the clock is there, and the sender is not");
    assert!(sent(&mut machine, 11, 4));
}

#[test]
fn what_an_erased_user_has_said_is_nowhere_and_everything_else_stays_in_its_place() {
    const MESSAGES: u64 = 12;
    let dir = tempfile::tempdir().expect("folder");
    let said = |reader: &TimelineReader, number| {
        let read = ReadTimeline { timeline: Some(key(number)), ..ReadTimeline::default() };
        let entries = reader.read(&read).expect("reads").entries.into_iter();
        entries.map(|entry| (entry.seq, Envelope::decode(entry.envelope).expect("decodes"))).collect::<Vec<_>>()
    };
    let users = HashSet::from([SENDER.to_owned()]);
    let mut index = 0;
    let mut apply = |machine: &mut TimelineMachine, command: TimelineCommand| {
        index += 1;
        machine.apply(&[entry(index, &[command])], &[0; 8]).expect("applies").remove(0).remove(0)
    };
    let of_other = |number, n: u8| {
        let mut command = append(number, n, 2, 20, 7);
        if let Some(Op::Append(op)) = &mut command.op {
            op.envelope = said_by("dave", &format!("{n}")).encode_to_vec().into();
        }
        command
    };
    {
        let (mut machine, reader) = machine(dir.path());
        for number in [0, 2] {
            for n in 0..MESSAGES as u8 {
                let command = if n % 3 == 0 { of_other(number, n) } else { by(4, append(number, n, 2, 20, 7)) };
                apply(&mut machine, command);
            }
        }
        let before = [said(&reader, 0), said(&reader, 2)];
        assert_eq!(apply(&mut machine, erase_sender(5)), Outcome::SenderErasure(SenderErasure { done: false }));
        let gone = apply(&mut machine, by(4, append(0, 99, 2, 20, 7)));
        assert_eq!(gone, rejected(rejected::Reason::SenderGone, "the session that has sent it is over"));
        let (found, next) = reader.sent_by(&users, &[]).expect("reads");
        assert!(next.is_empty() && found.iter().all(|(sender, _)| sender == SENDER));
        assert_eq!(found.len() as u64, 2 * MESSAGES * 2 / 3);
        let found: Vec<_> = found.into_iter().map(|(_, message)| (message.number, message.seq)).collect();
        assert_eq!(
            apply(&mut machine, redact(4, &found)),
            rejected(rejected::Reason::NotFound, "the user is not being erased")
        );
        assert_eq!([said(&reader, 0), said(&reader, 2)], before, "of another generation");
        // Twice, and with others' messages among them.
        let all: Vec<_> = [1, 2].into_iter().flat_map(|number| (1..=MESSAGES).map(move |seq| (number, seq))).collect();
        apply(&mut machine, redact(5, &found));
        apply(&mut machine, redact(5, &all));
        let left = |(seq, said): (u64, Envelope)| (seq, if said.sender == SENDER { left_of(said) } else { said });
        let expected = before.map(|of_timeline| of_timeline.into_iter().map(left).collect::<Vec<_>>());
        assert_eq!([said(&reader, 0), said(&reader, 2)], expected);
        assert_eq!(reader.sent_by(&users, &[]).expect("reads"), (Vec::new(), Vec::new()));
        apply(&mut machine, sender_erased(5));
        assert_eq!(reader.erasing().expect("reads"), Vec::new());
        assert_eq!(apply(&mut machine, erase_sender(5)), Outcome::SenderErasure(SenderErasure { done: true }), "once");
    }
    let (mut machine, reader) = machine(dir.path());
    let has = |value: &[u8], text: &[u8]| value.windows(text.len()).any(|part| part == text);
    let rows = records(&mut machine);
    assert!(rows.iter().filter(|(_, value)| has(value, b"a device")).all(|(_, value)| has(value, b"dave")));
    // A late command does not erase the next owner of the name.
    apply(&mut machine, by(9, append(0, 50, 2, 20, 7)));
    let last = said(&reader, 0).last().expect("is there").0;
    apply(&mut machine, redact(5, &[(1, last)]));
    assert!(!said(&reader, 0).last().expect("is there").1.erased);
}
