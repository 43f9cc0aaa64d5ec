//! Commands to a timeline shard, one by one and at random.

use carillon_proto::{
    Level,
    pb::store::{
        AdvanceClock, Append, CollectGarbage, EndSender, EndTimeline, RenewEpoch, SetCursor, SetLevel, SweepCursors,
        TimelineCommand, TimelineKey, Trim, sweep_cursors::Seen, timeline_command::Op, timeline_key::Kind,
    },
};
use proptest::prelude::*;

use super::{DEVICES, INCARNATIONS, SENDER};

pub(super) fn key(number: u8) -> TimelineKey {
    let kind = if number.is_multiple_of(2) { Kind::Inbox } else { Kind::Group };
    TimelineKey { kind: kind.into(), owner: ["a", "ab", "b"][usize::from(number / 2) % 3].to_owned() }
}

pub(super) fn append(number: u8, duplicate: u8, epoch: u64, bytes: usize, time_ms: u64) -> TimelineCommand {
    let op = Append {
        timeline: Some(key(number)),
        duplicate_key: vec![duplicate; 16].into(),
        time_ms,
        envelope: vec![epoch as u8; bytes].into(),
        new_epoch: epoch,
        after_key: Default::default(),
        incarnation: 0,
        ..Append::default()
    };
    TimelineCommand { op: Some(Op::Append(op)) }
}

pub(super) fn append_after(number: u8, duplicate: u8, after: u8) -> TimelineCommand {
    let mut command = append(number, duplicate, 2, 20, 7);
    if let Some(Op::Append(op)) = &mut command.op {
        op.after_key = vec![after; 16].into();
    }
    command
}

/// The same of another owner of the inbox.
pub(super) fn of(incarnation: u64, mut command: TimelineCommand) -> TimelineCommand {
    if let Some(Op::Append(op)) = &mut command.op {
        op.incarnation = incarnation;
    }
    command
}

pub(super) fn end(number: u8, incarnation: u64) -> TimelineCommand {
    TimelineCommand { op: Some(Op::EndTimeline(EndTimeline { timeline: Some(key(number)), incarnation })) }
}

/// The same, sent by a session of this generation.
pub(super) fn by(generation: u64, mut command: TimelineCommand) -> TimelineCommand {
    if let Some(Op::Append(op)) = &mut command.op {
        (op.sender, op.sender_generation) = (SENDER.into(), generation);
    }
    command
}

/// The same, only if it is there.
pub(super) fn only_repeat(mut command: TimelineCommand) -> TimelineCommand {
    if let Some(Op::Append(op)) = &mut command.op {
        op.only_repeat = true;
    }
    command
}

pub(super) fn end_sender(generation: u64) -> TimelineCommand {
    TimelineCommand { op: Some(Op::EndSender(EndSender { sender: SENDER.to_owned(), generation })) }
}

pub(super) fn set_level() -> TimelineCommand {
    TimelineCommand { op: Some(Op::SetLevel(SetLevel { level: Level::OF_PROGRAM.0 })) }
}

pub(super) fn collect(number: u64, limit: u32) -> TimelineCommand {
    TimelineCommand { op: Some(Op::CollectGarbage(CollectGarbage { number, limit })) }
}

pub(super) fn trim(number: u8, before_seq: u64, limit: u32) -> TimelineCommand {
    TimelineCommand { op: Some(Op::Trim(Trim { timeline: Some(key(number)), before_seq, limit, epoch: 0 })) }
}

pub(super) fn set_cursor(number: u8, device: usize, epoch: u64, seq: u64) -> TimelineCommand {
    let device = DEVICES[device].to_owned();
    TimelineCommand { op: Some(Op::SetCursor(SetCursor { timeline: Some(key(number)), device, epoch, seq })) }
}

pub(super) fn advance(elapsed_ms: u32) -> TimelineCommand {
    TimelineCommand { op: Some(Op::AdvanceClock(AdvanceClock { elapsed_ms })) }
}

pub(super) fn sweep(number: u64, device: usize, seq: u64) -> TimelineCommand {
    let seen = Seen { number, device: DEVICES[device].to_owned(), seq };
    TimelineCommand { op: Some(Op::SweepCursors(SweepCursors { cursors: vec![seen] })) }
}

pub(super) fn renew_epoch(number: u8, epoch: u64, seq: u64, new_epoch: u64) -> TimelineCommand {
    TimelineCommand { op: Some(Op::RenewEpoch(RenewEpoch { timeline: Some(key(number)), epoch, seq, new_epoch })) }
}

/// Mostly that of the first owner.
pub(super) fn incarnation() -> impl Strategy<Value = u64> {
    prop_oneof![12 => Just(0), 1 => 1..INCARNATIONS]
}

pub(super) fn command() -> impl Strategy<Value = TimelineCommand> {
    prop_oneof![
        12 => (0..6u8, 0..60u8, 1..4u64, 1..200usize, incarnation())
            .prop_map(|(n, d, e, b, of_owner)| of(of_owner, append(n, d, e, b, 7))),
        1 => (0..6u8, 1..INCARNATIONS).prop_map(|(n, incarnation)| end(n, incarnation)),
        2 => (1..12u64, 1..9u32).prop_map(|(number, limit)| collect(number, limit)),
        4 => (0..6u8, 0..60u8, 0..60u8, incarnation())
            .prop_map(|(n, d, after, of_owner)| of(of_owner, append_after(n, d, after))),
        3 => (0..6u8, 0..2usize, 1..4u64, 0..40u64).prop_map(|(n, d, e, s)| set_cursor(n, d, e, s)),
        2 => (0..6u8, 0..40u64, 1..12u32).prop_map(|(n, b, l)| trim(n, b, l)),
        1 => prop_oneof![any::<u32>(), 0..100_000_000u32].prop_map(advance),
        3 => (0..6u8, 0..60u8, 0..5u64).prop_map(|(n, d, g)| by(g, append(n, d, 2, 20, 7))),
        3 => (0..6u8, 0..60u8, incarnation())
            .prop_map(|(n, d, of_owner)| only_repeat(of(of_owner, append(n, d, 2, 20, 7)))),
        1 => (1..5u64).prop_map(end_sender),
        1 => (0..6u8, 1..4u64, 0..60u64, 1..4u64).prop_map(|(n, e, s, new)| renew_epoch(n, e, s, new)),
        1 => (0..7u64, 0..2usize, 0..40u64).prop_map(|(n, d, s)| sweep(n, d, s)),
    ]
}

pub(super) fn entries() -> impl Strategy<Value = Vec<Vec<TimelineCommand>>> {
    proptest::collection::vec(proptest::collection::vec(command(), 0..20), 1..5)
}
