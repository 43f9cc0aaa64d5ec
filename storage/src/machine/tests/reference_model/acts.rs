//! Acts of people and shards, at random.

use carillon_proto::pb::store::header::Kind;
use proptest::prelude::*;

#[derive(Debug, Clone)]
pub(super) enum Act {
    Say {
        who: u8,
        to: u8,
        poll: u8,
        again: bool,
        later_ms: u16,
    },
    Refer {
        who: u8,
        second: bool,
        message: u16,
        kind: Kind,
        choice: u8,
        lie: u8,
        later_ms: u16,
        skew_ms: u16,
    },
    /// The sender's own inbox gets one of the copies that wait, or all.
    CopyArrives(u8),
    CopiesArrive,
    Member {
        who: u8,
        second: bool,
        what: u8,
    },
    EarlierHistory(bool),
    Trim {
        timeline: u8,
        many: u8,
    },
    Erase {
        who: u8,
    },
    Reopen,
    SnapshotAndRestore,
}

pub(super) fn act() -> impl Strategy<Value = Act> {
    let kinds = [Kind::Edit, Kind::Recall, Kind::Reaction, Kind::Pin, Kind::Unpin, Kind::Vote];
    let refer = (
        0..3u8,
        prop_oneof![6 => Just(false), 1 => Just(true)],
        any::<u16>(),
        proptest::sample::select(kinds.to_vec()),
        any::<u8>(),
        any::<u8>(),
        any::<u16>(),
        any::<u16>(),
    )
        .prop_map(|(who, second, message, kind, choice, lie, later_ms, skew_ms)| Act::Refer {
            who,
            second,
            message,
            kind,
            choice,
            lie,
            later_ms: later_ms % 4000,
            skew_ms: skew_ms % 3000,
        });
    prop_oneof![
        8 => (0..3u8, 0..4u8, any::<u8>(), any::<u8>(), any::<u16>()).prop_map(|(who, to, poll, again, later_ms)| {
            Act::Say { who, to, poll, again: again < 30, later_ms: later_ms % 8000 }
        }),
        16 => refer,
        6 => any::<u8>().prop_map(Act::CopyArrives),
        1 => Just(Act::CopiesArrive),
        2 => (0..3u8, any::<bool>(), any::<u8>()).prop_map(|(who, second, what)| Act::Member { who, second, what }),
        1 => any::<bool>().prop_map(Act::EarlierHistory),
        1 => (0..4u8, 1..6u8).prop_map(|(timeline, many)| Act::Trim { timeline, many }),
        1 => (0..24u8).prop_filter_map("rarely", |who| (who < 3).then_some(Act::Erase { who })),
        1 => Just(Act::Reopen),
        1 => Just(Act::SnapshotAndRestore),
    ]
}
