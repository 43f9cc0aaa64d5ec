//! The clocks of the shards, and what their leaders sweep out.

use std::time::Duration;

use bytes::Bytes;
use carillon_proto::{
    ShardId, ShardKind,
    pb::store::{AdvanceClock, TimelineCommand, directory_command, timeline_command},
};
use carillon_storage::simulation::Ages;
use prost::Message as _;

use super::{CLOCK, SLOTS_HURRY, SWEEP, StoreEvent};
use crate::{
    files::KEPT,
    schedule::MS,
    world::{Event, World},
};

impl World<'_> {
    pub(super) fn clock(&mut self) {
        let now = self.schedule.now();
        let elapsed = Duration::from_micros(now - self.cluster.clock_at);
        self.cluster.clock_at = now;
        let leads = self.cluster.registry_is_led();
        let slot = self.cluster.slots.due(Duration::from_micros(now) * SLOTS_HURRY, leads, self.cluster.machines);
        if let Some(change) = slot {
            self.registry_write(change);
        }
        // Time without a leader does not count.
        if leads {
            let elapsed_ms = elapsed.as_millis() as u32;
            let op = carillon_proto::pb::store::AdvanceLeaseClock { elapsed_ms };
            self.registry_write(directory_command::Op::AdvanceLeaseClock(op));
        }
        self.schedule.after(CLOCK, Event::Store(StoreEvent::Clock));
    }

    /// Time passes for the shards that are led, and their leaders sweep. A device whose cursor is gone begins with all that is
    /// kept, which the model allows as it allows any beginning before what was acknowledged.
    pub(super) fn sweeps(&mut self) {
        let now = self.schedule.now();
        let elapsed_ms = ((now - self.cluster.swept_at) / MS) as u32;
        self.cluster.swept_at = now;
        let led: Vec<ShardId> =
            self.cluster.shards.iter().filter(|(_, known)| known.elected).map(|(shard, _)| *shard).collect();
        for shard in led {
            if shard.kind == ShardKind::Timeline {
                let advance = timeline_command::Op::AdvanceClock(AdvanceClock { elapsed_ms });
                let command = TimelineCommand { op: Some(advance) };
                self.cluster.apply(shard, vec![command.encode_to_vec().into()]);
            }
            let age_ms = self.scenario.cursor_age_ms;
            let slack_ms = SWEEP / MS;
            let ages = Ages { cursor_ms: age_ms, file_ms: KEPT / MS, slack_ms };
            let due = self.cluster.machines.due_sweeps(shard, ages).expect("the machine reads");
            for command in due {
                self.report.swept += swept_by(shard, &command);
                self.cluster.apply(shard, vec![command.clone()]);
                if shard.kind == ShardKind::Timeline {
                    self.files_swept(&command);
                }
            }
        }
        self.sight_changed();
        self.contents_were_removed();
        self.schedule.after(SWEEP, Event::Store(StoreEvent::Sweeps));
    }
}

/// Number of rows that the command sweeps.
fn swept_by(shard: ShardId, command: &Bytes) -> u64 {
    match shard.kind {
        ShardKind::Directory => 1,
        ShardKind::Timeline => match TimelineCommand::decode(command.clone()).expect("encoded").op {
            Some(timeline_command::Op::SweepCursors(sweep)) => sweep.cursors.len() as u64,
            _ => 0,
        },
    }
}
