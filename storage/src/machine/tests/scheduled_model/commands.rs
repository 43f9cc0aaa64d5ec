//! Acts at random, and the commands that they make.

use bytes::Bytes;
use carillon_proto::{
    Level,
    pb::store::{
        Append, CancelScheduled, ChangeScheduled, EndSender, EndTimeline, Header, Mentions, ReleaseScheduled, Schedule,
        SendScheduledNow, SetLevel, SetScheduled, SettleScheduled, TimelineCommand, TimelineKey,
        change_scheduled::Change, timeline_command::Op, timeline_key::Kind,
    },
};
use proptest::prelude::*;

pub(super) const USERS: [&str; 2] = ["a", "ab"];
/// Two of the long one are most of what a user may have.
const SIZES: [usize; 3] = [1, 7, 200 * 1024];

pub(super) fn key(kind: Kind, owner: &str) -> TimelineKey {
    TimelineKey { kind: kind.into(), owner: owner.to_owned().into() }
}

pub(super) fn command(op: Op) -> TimelineCommand {
    TimelineCommand { op: Some(op) }
}

pub(super) fn set_level() -> TimelineCommand {
    command(Op::SetLevel(SetLevel { level: Level::OF_PROGRAM.0 }))
}

pub(super) fn content(size: usize) -> Bytes {
    vec![7; size].into()
}

/// The header of this content: small contents mention somebody, and refer to a file.
pub(super) fn header(size: usize) -> Option<Box<Header>> {
    let mentions = Some(Mentions { users: vec![format!("user{size}")], ..Mentions::default() });
    let media = vec![vec![size as u8; 16].into()];
    (size < 100).then(|| Box::new(Header { countable: true, mentions, media, ..Header::default() }))
}

#[derive(Debug, Clone)]
pub(super) enum Act {
    Schedule {
        user: usize,
        incarnation: u64,
        generation: u64,
        key: u8,
        to: bool,
        size: usize,
        at_ms: u64,
    },
    Change {
        user: usize,
        incarnation: u64,
        id: u64,
        change: Change,
    },
    /// The copy of the message with this key comes into its user's own inbox.
    Sent(usize, u8),
    /// At this time.
    Release(u64),
    /// Of the inbox with this number.
    Settle {
        number: u64,
        id: u64,
        fails: bool,
    },
    /// An attempt to send one of the messages that are being sent: its answer says that it has failed, though it may have reached the inbox.
    Fails {
        which: usize,
        reaches: bool,
    },
    End(usize, u64),
    EndSender(usize, u64),
    Collect,
}

pub(super) fn act() -> impl Strategy<Value = Act> {
    let user = || 0..USERS.len();
    let incarnation = || prop_oneof![9 => Just(1u64), 1 => 0..4u64];
    let size = || (0..SIZES.len()).prop_map(|size| SIZES[size]);
    let set = (proptest::option::of(size()), proptest::option::of(1..50u64))
        .prop_filter("sets something", |set| *set != (None, None))
        .prop_map(|(size, at_ms)| {
            Change::Set(SetScheduled { content: size.map(content), at_ms, header: size.and_then(header) })
        });
    let now = (1..50u64).prop_map(|time_ms| Change::Now(SendScheduledNow { time_ms }));
    let change = prop_oneof![3 => set, 2 => Just(Change::Cancel(CancelScheduled {})), 2 => now];
    prop_oneof![
        8 => (user(), incarnation(), 1..4u64, 0..12u8, any::<bool>(), size(), 1..50u64).prop_map(
            |(user, incarnation, generation, key, to, size, at_ms)| {
                Act::Schedule { user, incarnation, generation, key, to, size, at_ms }
            }
        ),
        5 => (user(), incarnation(), 1..20u64, change)
            .prop_map(|(user, incarnation, id, change)| Act::Change { user, incarnation, id, change }),
        2 => (user(), 0..12u8).prop_map(|(user, key)| Act::Sent(user, key)),
        3 => (1..50u64).prop_map(Act::Release),
        4 => (1..5u64, 1..20u64, any::<bool>()).prop_map(|(number, id, fails)| Act::Settle { number, id, fails }),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(which, reaches)| Act::Fails { which, reaches }),
        1 => (user(), 1..4u64).prop_map(|(user, incarnation)| Act::End(user, incarnation)),
        1 => (user(), 1..4u64).prop_map(|(user, generation)| Act::EndSender(user, generation)),
        1 => Just(Act::Collect),
    ]
}

pub(super) fn schedule(user: &str, incarnation: u64, sender_generation: u64, number: u8) -> Schedule {
    Schedule {
        timeline: Some(key(Kind::Inbox, user)),
        incarnation,
        sender_generation,
        new_epoch: 5,
        duplicate_key: vec![number; 16].into(),
        device: "phone".to_owned(),
        client_id: number.to_string(),
        to: Some(key(Kind::Inbox, "bob")),
        content: content(1),
        header: header(1),
        at_ms: 10,
        expires_after_ms: u64::from(number % 3) * 5_000,
        to_incarnation: (number % 2 == 1).then_some(number.into()),
    }
}

pub(super) fn own_copy(user: &str, incarnation: u64, number: u8) -> Append {
    Append {
        timeline: Some(key(Kind::Inbox, user)),
        duplicate_key: vec![number; 16].into(),
        time_ms: 1,
        envelope: vec![number].into(),
        new_epoch: 5,
        incarnation,
        peer: "bob".into(),
        ..Append::default()
    }
}

/// The command without a look at what there is.
pub(super) fn as_command(act: &Act) -> Option<TimelineCommand> {
    Some(command(match act {
        Act::Schedule { user, incarnation, generation, key: number, to, size, at_ms } => {
            let kind = if *to { Kind::Inbox } else { Kind::Group };
            let (to, content, header) = (Some(key(kind, "bob")), content(*size), header(*size));
            let at_ms = *at_ms;
            Op::Schedule(Schedule {
                to,
                content,
                header,
                at_ms,
                ..schedule(USERS[*user], *incarnation, *generation, *number)
            })
        }
        Act::Change { user, incarnation, id, change } => {
            let (timeline, change) = (Some(key(Kind::Inbox, USERS[*user])), Some(change.clone()));
            Op::ChangeScheduled(ChangeScheduled { timeline, incarnation: *incarnation, id: *id, change })
        }
        Act::Sent(user, number) => Op::Append(own_copy(USERS[*user], 1, *number)),
        Act::Release(time_ms) => Op::ReleaseScheduled(ReleaseScheduled { time_ms: *time_ms }),
        Act::Settle { number, id, fails } => {
            let failed = if *fails { "nobody is there".to_owned() } else { String::new() };
            Op::SettleScheduled(SettleScheduled { number: *number, id: *id, failed })
        }
        // Messages that are being sent are not known here.
        Act::Fails { .. } => return None,
        Act::End(user, incarnation) => {
            Op::EndTimeline(EndTimeline { timeline: Some(key(Kind::Inbox, USERS[*user])), incarnation: *incarnation })
        }
        Act::EndSender(user, generation) => {
            Op::EndSender(EndSender { sender: USERS[*user].to_owned(), generation: *generation })
        }
        Act::Collect => Op::CollectGarbage(carillon_proto::pb::store::CollectGarbage { number: 1, limit: 3 }),
    }))
}
