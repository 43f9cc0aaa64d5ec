//! Commands to a timeline shard, one by one and at random.

use carillon_proto::{
    Level,
    pb::client::{Content, Envelope, Text, content},
    pb::store::{
        AdvanceClock, Append, CollectGarbage, EndSender, EndTimeline, EraseSender, MoveCursors, Redact, RenewEpoch,
        SenderErased, SetCursor, SetLevel, SweepCursors, TimelineCommand, TimelineKey, Trim, move_cursors::Moved,
        redact::Message, sweep_cursors::Seen, timeline_command::Op, timeline_key::Kind,
    },
};
use proptest::prelude::*;
use prost::Message as _;

use super::{DEVICES, INCARNATIONS, SENDER};

pub(super) fn key(number: u8) -> TimelineKey {
    let owner = ["a", "ab", "b", "c", "c@b", "d"][usize::from(number) % 6];
    TimelineKey { kind: Kind::Inbox.into(), owner: owner.into() }
}

/// Only a name: of cursors and memberships.
pub(super) fn group_key(number: u8) -> TimelineKey {
    TimelineKey { kind: Kind::Group.into(), owner: ["a", "ab", "b"][usize::from(number) % 3].into() }
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

/// Makes the command one of another owner of the inbox.
pub(super) fn of(incarnation: u64, mut command: TimelineCommand) -> TimelineCommand {
    match &mut command.op {
        Some(Op::Append(op)) => op.incarnation = incarnation,
        Some(Op::MoveCursors(op)) => op.incarnation = incarnation,
        other => panic!("{other:?} is of no incarnation"),
    }
    command
}

pub(super) fn end(number: u8, incarnation: u64) -> TimelineCommand {
    TimelineCommand { op: Some(Op::EndTimeline(EndTimeline { timeline: Some(key(number)), incarnation })) }
}

pub(super) fn said_by(sender: &str, text: &str) -> Envelope {
    Envelope {
        id: format!("of {text}"),
        sender: sender.to_owned(),
        sender_device: "a device".to_owned(),
        time_ms: 7,
        content: Some(Content {
            body: Some(content::Body::Text(Text { body: text.to_owned() })),
            ..Default::default()
        }),
        ..Envelope::default()
    }
}

/// The same, sent by a session of this generation.
pub(super) fn by(generation: u64, mut command: TimelineCommand) -> TimelineCommand {
    if let Some(Op::Append(op)) = &mut command.op {
        op.envelope = said_by(SENDER, &format!("{:?}", op.duplicate_key.first())).encode_to_vec().into();
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

pub(super) fn erase_sender(generation: u64) -> TimelineCommand {
    TimelineCommand { op: Some(Op::EraseSender(EraseSender { sender: SENDER.to_owned(), generation })) }
}

/// Number and position of each.
pub(super) fn redact(generation: u64, messages: &[(u64, u64)]) -> TimelineCommand {
    let messages = messages.iter().map(|(number, seq)| Message { number: *number, seq: *seq }).collect();
    TimelineCommand { op: Some(Op::Redact(Redact { sender: SENDER.to_owned(), generation, messages })) }
}

pub(super) fn sender_erased(generation: u64) -> TimelineCommand {
    TimelineCommand { op: Some(Op::SenderErased(SenderErased { sender: SENDER.to_owned(), generation })) }
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

/// Of a device in the first owner's inbox: in these timelines to this epoch and position.
pub(super) fn move_cursors(
    number: u8,
    device: usize,
    moved: impl IntoIterator<Item = (TimelineKey, u64, u64)>,
) -> TimelineCommand {
    let moved =
        moved.into_iter().map(|(timeline, epoch, seq)| Moved { timeline: Some(timeline), epoch, seq }).collect();
    let device = DEVICES[device].to_owned();
    let op = MoveCursors { timeline: Some(key(number)), device, moved, incarnation: 0 };
    TimelineCommand { op: Some(Op::MoveCursors(op)) }
}

pub(super) fn advance(elapsed_ms: u32) -> TimelineCommand {
    TimelineCommand { op: Some(Op::AdvanceClock(AdvanceClock { elapsed_ms })) }
}

pub(super) fn sweep(number: u64, device: usize, seq: u64) -> TimelineCommand {
    let seen = Seen { number, device: DEVICES[device].to_owned(), seq, ..Seen::default() };
    TimelineCommand { op: Some(Op::SweepCursors(SweepCursors { cursors: vec![seen] })) }
}

pub(super) fn sweep_in_group(number: u64, device: usize, group: TimelineKey, epoch: u64, seq: u64) -> TimelineCommand {
    let seen = Seen { number, device: DEVICES[device].to_owned(), seq, group: Some(group), epoch };
    TimelineCommand { op: Some(Op::SweepCursors(SweepCursors { cursors: vec![seen] })) }
}

pub(super) fn renew_epoch(number: u8, epoch: u64, seq: u64, new_epoch: u64) -> TimelineCommand {
    TimelineCommand { op: Some(Op::RenewEpoch(RenewEpoch { timeline: Some(key(number)), epoch, seq, new_epoch })) }
}

/// Mostly that of the first owner.
pub(super) fn incarnation() -> impl Strategy<Value = u64> {
    prop_oneof![12 => Just(0), 1 => 1..INCARNATIONS]
}

fn inbox() -> impl Strategy<Value = u8> {
    (0..3u8).prop_map(|n| 2 * n)
}

fn group() -> impl Strategy<Value = u8> {
    0..3u8
}

/// In the device's own inbox, or in one of the groups.
fn moved() -> impl Strategy<Value = Vec<(Option<u8>, u64, u64)>> {
    let in_inbox = (1..4u64, 0..40u64).prop_map(|(epoch, seq)| (None, epoch, seq));
    let in_group = (group(), 1..3u64, 0..4u64).prop_map(|(group, epoch, seq)| (Some(group), epoch, seq));
    proptest::collection::vec(prop_oneof![1 => in_inbox, 2 => in_group], 1..4)
}

fn places(inbox: u8, moved: Vec<(Option<u8>, u64, u64)>) -> Vec<(TimelineKey, u64, u64)> {
    moved.into_iter().map(|(group, epoch, seq)| (group.map_or_else(|| key(inbox), group_key), epoch, seq)).collect()
}

pub(super) fn command() -> impl Strategy<Value = TimelineCommand> {
    prop_oneof![
        12 => (0..6u8, 0..60u8, 1..4u64, 1..200usize, incarnation())
            .prop_map(|(n, d, e, b, of_owner)| of(of_owner, append(n, d, e, b, 7))),
        1 => (0..6u8, 1..INCARNATIONS).prop_map(|(n, incarnation)| end(n, incarnation)),
        2 => (1..12u64, 1..9u32).prop_map(|(number, limit)| collect(number, limit)),
        4 => (0..6u8, 0..60u8, 0..60u8, incarnation())
            .prop_map(|(n, d, after, of_owner)| of(of_owner, append_after(n, d, after))),
        2 => (inbox(), 0..2usize, 1..4u64, 0..40u64).prop_map(|(n, d, e, s)| set_cursor(n, d, e, s)),
        4 => (inbox(), 0..2usize, incarnation(), moved())
            .prop_map(|(n, d, of_owner, moved)| of(of_owner, move_cursors(n, d, places(n, moved)))),
        2 => (0..6u8, 0..40u64, 1..12u32).prop_map(|(n, b, l)| trim(n, b, l)),
        1 => prop_oneof![any::<u32>(), 0..100_000_000u32].prop_map(advance),
        3 => (0..6u8, 0..60u8, 0..5u64).prop_map(|(n, d, g)| by(g, append(n, d, 2, 20, 7))),
        3 => (0..6u8, 0..60u8, incarnation())
            .prop_map(|(n, d, of_owner)| only_repeat(of(of_owner, append(n, d, 2, 20, 7)))),
        1 => (1..5u64).prop_map(end_sender),
        1 => (1..5u64).prop_map(erase_sender),
        2 => (1..5u64, proptest::collection::vec((1..7u64, 1..12u64), 1..9))
            .prop_map(|(g, messages)| redact(g, &messages)),
        1 => (1..5u64).prop_map(sender_erased),
        1 => (0..6u8, 1..4u64, 0..60u64, 1..4u64).prop_map(|(n, e, s, new)| renew_epoch(n, e, s, new)),
        1 => (0..7u64, 0..2usize, 0..40u64).prop_map(|(n, d, s)| sweep(n, d, s)),
        2 => (1..7u64, 0..2usize, group(), 1..3u64, 0..4u64)
            .prop_map(|(n, d, group, e, s)| sweep_in_group(n, d, group_key(group), e, s)),
    ]
}

pub(super) fn entries() -> impl Strategy<Value = Vec<Vec<TimelineCommand>>> {
    proptest::collection::vec(proptest::collection::vec(command(), 0..20), 1..5)
}
