//! Cursors: which of them are swept, and how many a device has.

use std::ops::Range;

use carillon_proto::{Level, limits::MOVED_CURSORS, pb::store::SetLevel};

use super::*;
use crate::machine::timeline::cursors;

#[test]
fn cursors_of_devices_that_are_gone_are_swept_and_no_others() {
    let dir = tempfile::tempdir().expect("folder");
    let (mut machine, reader) = machine(dir.path());
    let ages = Retention { cursor_age_ms: 1000, ..Retention::default() };
    let gone = || {
        // One at a time, so that each look goes on where the last one ended.
        let looks = gone_cursors(&reader, ages, 1).into_iter();
        looks.map(|seen| (seen.device, seen.seq)).collect::<Vec<_>>()
    };
    let mut index = 0;
    let mut apply = |commands: &[TimelineCommand]| {
        index += 1;
        machine.apply(&[entry(index, commands)], &[0; 8]).expect("applies");
    };
    apply(&[append(0, 1, 1, 5, 7), append(0, 2, 1, 5, 7), set_cursor(0, 0, 1, 1), set_cursor(0, 1, 1, 2)]);
    apply(&[advance(1000)]);
    assert_eq!(gone(), [], "not for longer than that");
    apply(&[advance(1)]);
    assert_eq!(gone(), [(DEVICES[0].to_owned(), 1)], "the other one has all there is");
    apply(&[append(0, 3, 1, 5, 7), set_cursor(0, 0, 1, 3), sweep(1, 0, 1)]);
    let cursor = |device: usize| {
        let read =
            ReadHead { timeline: Some(key(0)), device: DEVICES[device].to_owned(), incarnation: 0, unread_of: None };
        Some(reader.head(&read).expect("reads")).filter(|head| head.has_cursor).map(|head| head.cursor)
    };
    assert_eq!(cursor(0), Some(3), "it has moved since it was seen");
    assert_eq!(gone(), [], "what came for the other one is new");
    apply(&[advance(1001)]);
    assert_eq!(gone(), [(DEVICES[1].to_owned(), 2)]);
    apply(&[sweep(1, 1, 2)]);
    assert_eq!((cursor(0), cursor(1)), (Some(3), None));
    apply(&[advance(1000)]);
    assert_eq!(gone(), [(DEVICES[0].to_owned(), 3)], "nothing has come for it for twice the time");
}

#[test]
fn cursors_in_groups_that_have_not_moved_for_twice_the_time_are_swept() {
    let dir = tempfile::tempdir().expect("folder");
    let (mut machine, reader) = machine(dir.path());
    let ages = Retention { cursor_age_ms: 1000, ..Retention::default() };
    let gone = || {
        let looks = gone_cursors(&reader, ages, 1).into_iter();
        looks.map(|seen| (seen.group.map(|group| group.owner), seen.device, seen.epoch, seen.seq)).collect::<Vec<_>>()
    };
    let mut index = 0;
    let mut apply = |commands: &[TimelineCommand]| {
        index += 1;
        machine.apply(&[entry(index, commands)], &[0; 8]).expect("applies");
    };
    let places = [(key(0), 1, 1), (group_key(0), 5, 70), (group_key(1), 6, 80)];
    apply(&[append(0, 1, 1, 5, 7), append(0, 2, 1, 5, 7), move_cursors(0, 0, places)]);
    apply(&[advance(1001)]);
    let in_inbox = || (None, DEVICES[0].to_owned(), 0, 1);
    let in_group = |group: u8, epoch, seq| (Some(group_key(group).owner), DEVICES[0].to_owned(), epoch, seq);
    assert_eq!(gone(), [in_inbox()], "what has come in the groups is not known here");
    apply(&[advance(1000), move_cursors(0, 0, [(group_key(1), 6, 81)])]);
    assert_eq!(gone(), [in_inbox(), in_group(0, 5, 70)]);
    apply(&[move_cursors(0, 0, [(group_key(0), 5, 71)]), sweep_in_group(1, 0, group_key(0), 5, 70)]);
    apply(&[sweep_in_group(1, 0, group_key(1), 7, 81), sweep_in_group(1, 1, group_key(1), 6, 81)]);
    let left = || in_groups(&reader, &key(0), DEVICES[0], 0);
    assert_eq!(left(), [(group_key(0).owner, 5, 71), (group_key(1).owner, 6, 81)], "they have moved, or are another's");
    apply(&[advance(2001)]);
    assert_eq!(gone(), [in_inbox(), in_group(0, 5, 71), in_group(1, 6, 81)]);
    apply(&[sweep(1, 0, 1), sweep_in_group(1, 0, group_key(0), 5, 71), sweep_in_group(1, 0, group_key(1), 6, 81)]);
    assert_eq!((gone(), left()), (vec![], vec![]));
    check_counts(&mut machine);
}

#[test]
fn cursors_from_before_the_level_of_groups_are_counted_with_the_first_new_one() {
    let dir = tempfile::tempdir().expect("folder");
    let (machine, _) = machine_of_before(dir.path());
    let of_cursors = TimelineCommand { op: Some(Op::SetLevel(SetLevel { level: Level::CURSORS.0 })) };
    let mut machine = at_level(machine, &of_cursors);
    let mut index = 0;
    let mut apply = |machine: &mut TimelineMachine, commands: &[TimelineCommand]| {
        index += 1;
        machine.apply(&[entry(index, commands)], &[0; 8]).expect("applies");
    };
    let moves = |groups: &[u8]| move_cursors(0, 0, groups.iter().map(|group| (group_key(*group), 5, 7)));
    apply(&mut machine, &[append(0, 1, 1, 5, 7), moves(&[0, 1])]);
    let count = |machine: &mut TimelineMachine| records(machine).into_iter().filter(|(key, _)| key[0] == 0x40).count();
    assert_eq!(count(&mut machine), 0);
    apply(&mut machine, &[set_level(), sweep_in_group(1, 0, group_key(0), 5, 7)]);
    assert_eq!(count(&mut machine), 0);
    apply(&mut machine, &[moves(&[2, 3])]);
    check_counts(&mut machine);
}

#[test]
fn a_device_has_cursors_in_a_bounded_number_of_groups_however_the_log_is_cut() {
    let group = |number: usize| TimelineKey { kind: Kind::Group.into(), owner: format!("group{number}").into() };
    const GROUP_CURSORS: usize = cursors::GROUP_CURSORS as usize;
    let moves =
        |device, groups: Range<usize>, seq| move_cursors(0, device, groups.map(|number| (group(number), 1, seq)));
    let commands = [append(0, 1, 1, 5, 7)]
        .into_iter()
        .chain((0..GROUP_CURSORS - 6).step_by(MOVED_CURSORS).map(|from| moves(0, from..from + MOVED_CURSORS, 1)))
        // The last ones again, in another order: ten of those behind the end are left out.
        .chain([moves(0, GROUP_CURSORS - 5..GROUP_CURSORS + 10, 2), moves(1, 0..MOVED_CURSORS, 3)])
        .chain([sweep_in_group(1, 0, group(7), 1, 1), moves(0, GROUP_CURSORS + 20..GROUP_CURSORS + 22, 4)]);
    let entries: Vec<_> = commands.zip(1..).map(|(command, index)| entry(index, &[command])).collect();
    let mut all = Vec::new();
    for cut in [1, 2, 7, entries.len()] {
        let dir = tempfile::tempdir().expect("folder");
        let (mut machine, reader) = machine(dir.path());
        let mut outcomes = Vec::new();
        for piece in entries.chunks(cut) {
            outcomes.extend(machine.apply(piece, &[0; 8]).expect("applies").into_iter().flatten());
        }
        let full = |outcome: &Outcome| match outcome {
            Outcome::Error(StoreError { why: Some(Why::Rejected(why)) }) if why.reason() == rejected::Reason::Full => {
                Some(why.detail.clone())
            }
            _ => None,
        };
        let refused: Vec<_> = outcomes.iter().filter_map(full).collect();
        let [first, second] = &refused[..] else { panic!("{refused:?}") };
        assert!(first.starts_with("10 of 15 cursors") && second.starts_with("1 of 2 cursors"), "{refused:?}");
        let of_phone = in_groups(&reader, &key(0), DEVICES[0], 0);
        assert_eq!(of_phone.len(), GROUP_CURSORS);
        check_counts(&mut machine);
        let at = |seq| of_phone.iter().filter(|(.., at)| *at == seq).count();
        assert_eq!((at(1), at(2), at(4)), (GROUP_CURSORS - 6, 5, 1), "those that were there have moved");
        assert_eq!(in_groups(&reader, &key(0), DEVICES[1], 0).len(), MOVED_CURSORS, "another device has its own");
        all.push((outcomes, records(&mut machine)));
    }
    assert!(all.iter().all(|of_cut| *of_cut == all[0]));
}
