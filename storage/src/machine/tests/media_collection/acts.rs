//! Acts of users, shards and workers, at random.

use proptest::prelude::*;

pub(super) const SHARDS: usize = 3;
pub(super) const USERS: [&str; 2] = ["u", "v"];
pub(super) const SENDERS: [&str; 2] = ["s", "t"];
pub(super) const KEPT_MS: u64 = 6400;

#[derive(Debug, Clone)]
pub(super) enum Act {
    Upload(usize),
    Say {
        shard: usize,
        user: usize,
        sender: usize,
        files: [Option<u8>; 2],
    },
    Edit {
        message: u8,
        file: Option<u8>,
    },
    Recall {
        message: u8,
        for_good: bool,
    },
    /// Forwards the files of a message, which then goes by age.
    Move {
        message: u8,
        shard: usize,
        user: usize,
    },
    /// The copy of an edit reaches the inbox after the message was recalled for good.
    LateEdit {
        message: u8,
        file: u8,
    },
    Trim {
        shard: usize,
        user: usize,
        many: u64,
    },
    End {
        shard: usize,
        user: usize,
    },
    Erase(usize),
    Garbage(usize),
    Schedule {
        shard: usize,
        user: usize,
        file: u8,
    },
    ChangeScheduled {
        which: u8,
        file: Option<u8>,
    },
    Cancel(u8),
    SendNow(u8),
    /// A user reports a message, in the shard of its own inbox.
    Report {
        message: u8,
        shard: usize,
        by: usize,
    },
    /// A moderator resolves a report or removes it, or it has been kept long enough.
    EndReport {
        which: u8,
        how: EndOfReport,
    },
    /// The clocks of the shards that have no leader stand still.
    Advance {
        ms: u64,
        leads: [bool; SHARDS],
    },
    Sweep {
        shard: usize,
        limit: usize,
    },
    /// A worker carries out a row of the outbox, and may do so twice or die before it says so.
    Work {
        shard: usize,
        row: u8,
        again: bool,
        dies: bool,
    },
    /// A worker asks the next shard.
    Ask {
        check: u8,
        again: bool,
    },
    /// A command that was on its way for long arrives.
    Arrive(u8),
    Reopen(usize),
    Restore(usize),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum EndOfReport {
    Resolved,
    Removed,
    Old,
}

pub(super) fn act() -> impl Strategy<Value = Act> {
    let shard = || 0..SHARDS;
    let user = || 0..USERS.len();
    let file = || 0..12u8;
    let maybe = move || proptest::option::weighted(0.7, file());
    prop_oneof![
        5 => shard().prop_map(Act::Upload),
        12 => (shard(), user(), 0..SENDERS.len(), [maybe(), proptest::option::weighted(0.2, file())])
            .prop_map(|(shard, user, sender, files)| Act::Say { shard, user, sender, files }),
        3 => (any::<u8>(), maybe()).prop_map(|(message, file)| Act::Edit { message, file }),
        4 => (any::<u8>(), any::<bool>()).prop_map(|(message, for_good)| Act::Recall { message, for_good }),
        10 => (any::<u8>(), shard(), user()).prop_map(|(message, shard, user)| Act::Move { message, shard, user }),
        1 => (any::<u8>(), file()).prop_map(|(message, file)| Act::LateEdit { message, file }),
        5 => (shard(), user(), 1..5u64).prop_map(|(shard, user, many)| Act::Trim { shard, user, many }),
        1 => (shard(), user()).prop_map(|(shard, user)| Act::End { shard, user }),
        1 => (0..SENDERS.len()).prop_map(Act::Erase),
        2 => shard().prop_map(Act::Garbage),
        2 => (shard(), user(), file()).prop_map(|(shard, user, file)| Act::Schedule { shard, user, file }),
        1 => (any::<u8>(), maybe()).prop_map(|(which, file)| Act::ChangeScheduled { which, file }),
        1 => any::<u8>().prop_map(Act::Cancel),
        1 => any::<u8>().prop_map(Act::SendNow),
        4 => (any::<u8>(), shard(), 0..SENDERS.len())
            .prop_map(|(message, shard, by)| Act::Report { message, shard, by }),
        3 => (any::<u8>(), prop_oneof![Just(EndOfReport::Resolved), Just(EndOfReport::Removed), Just(EndOfReport::Old)])
            .prop_map(|(which, how)| Act::EndReport { which, how }),
        8 => (prop_oneof![1..400u64, 2000..KEPT_MS + 1000], proptest::array::uniform(prop_oneof![1 => Just(false), 5 => Just(true)]))
            .prop_map(|(ms, leads)| Act::Advance { ms, leads }),
        8 => (shard(), 1..6usize).prop_map(|(shard, limit)| Act::Sweep { shard, limit }),
        10 => (shard(), any::<u8>(), any::<bool>(), any::<bool>())
            .prop_map(|(shard, row, again, dies)| Act::Work { shard, row, again, dies }),
        14 => (any::<u8>(), any::<bool>()).prop_map(|(check, again)| Act::Ask { check, again }),
        3 => any::<u8>().prop_map(Act::Arrive),
        1 => shard().prop_map(Act::Reopen),
        1 => shard().prop_map(Act::Restore),
    ]
}
