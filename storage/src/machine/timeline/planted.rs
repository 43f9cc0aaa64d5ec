//! See `carillon_proto::planted`.

use std::io;

use bytes::Bytes;
use carillon_proto::{KeyedMap, Level, planted::PlantedBug};

use super::{Batch, EndedSenders, OutboxCounts, Outcome, Reading, RecentMap, TimelineState};
use crate::engine::{Changes, fjall::TimelineShard};

/// Pretends that the duplicate key can be in no timeline.
pub(super) fn forget_duplicates(known: Option<TimelineState>) -> Option<TimelineState> {
    known.filter(|_| !PlantedBug::ForgetDuplicates.is_planted())
}

/// Asks nobody whether the sender is a member.
pub(super) fn anybody_writes() -> bool {
    PlantedBug::AnybodyWrites.is_planted()
}

/// Takes a mark for a later one.
pub(super) fn marks_go_back() -> bool {
    PlantedBug::MarksGoBack.is_planted()
}

/// The number of the inbox beside which the marks of this one are kept: that of the shard's first one.
pub(super) fn number_of_marks(number: u64) -> u64 {
    if PlantedBug::MarksOfOthers.is_planted() { 1 } else { number }
}

/// True if a recall takes the evidence out of reports.
pub(super) fn recalls_take_evidence() -> bool {
    PlantedBug::RecallsTakeEvidence.is_planted()
}

/// True if what has expired still holds its files.
pub(super) fn expired_hold() -> bool {
    PlantedBug::ExpiredHold.is_planted()
}

/// The outcomes that these commands would have if they were applied now.
pub(crate) fn foresee(shard: &TimelineShard, commands: impl Iterator<Item = Bytes>) -> io::Result<Vec<Outcome>> {
    let (states, conversations, changes) = (&mut RecentMap::new(0), &mut RecentMap::new(0), Changes::default());
    let reading = Reading { level: Level::OF_PROGRAM, known: Level::OF_PROGRAM };
    let senders = EndedSenders::default();
    let outbox = OutboxCounts::load(shard)?;
    let mut batch = Batch {
        shard,
        states,
        touched: KeyedMap::default(),
        conversations,
        touched_conversations: KeyedMap::default(),
        clock_ms: 0,
        senders,
        outbox,
        outbox_number: 0,
        reading,
        changes,
        index: 0,
    };
    commands.map(|command| batch.command(command)).collect()
}
