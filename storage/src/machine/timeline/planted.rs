//! See `carillon_proto::planted`.

use std::io;

use bytes::Bytes;
use carillon_proto::{KeyedMap, Level, planted::PlantedBug};

use super::{Batch, EndedSenders, Outcome, Reading, RecentMap, TimelineState};
use crate::engine::{Changes, fjall::TimelineShard};

/// In which timeline to look for the duplicate key: in none.
pub(super) fn forget_duplicates(known: Option<TimelineState>) -> Option<TimelineState> {
    known.filter(|_| !PlantedBug::ForgetDuplicates.is_planted())
}

/// What these commands would come to if they were applied now.
pub(crate) fn foresee(shard: &TimelineShard, commands: impl Iterator<Item = Bytes>) -> io::Result<Vec<Outcome>> {
    let (states, changes) = (&mut RecentMap::new(0), Changes::default());
    let reading = Reading { level: Level::OF_PROGRAM, known: Level::OF_PROGRAM };
    let senders = EndedSenders::default();
    let mut batch = Batch { shard, states, touched: KeyedMap::default(), clock_ms: 0, senders, reading, changes };
    commands.map(|command| batch.command(command)).collect()
}
