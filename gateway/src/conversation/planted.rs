//! See `carillon_proto::planted`.

use std::{collections::HashMap, sync::Arc};

use carillon_proto::{Position, TimelineId, planted::PlantedBug};

use super::{Effect, Tell};

/// Every how many deliveries of a session one is dropped.
const OF: u64 = 20;

/// A session that counts positions by what it has sent, not by the timeline.
#[derive(Default)]
pub(super) struct Renumbered(HashMap<TimelineId, Counted>);

#[derive(Default)]
struct Counted {
    deliveries: u64,
    dropped: u64,
}

impl Renumbered {
    /// The dropped envelope counts as delivered, so nobody fetches it.
    pub(super) fn drop_push(&mut self, out: &mut Vec<Effect>) {
        if PlantedBug::DropPush.is_planted() || PlantedBug::DropGroupPush.is_planted() {
            out.retain_mut(|effect| match effect {
                Effect::Tell(tell) => self.is_told(tell),
                _ => true,
            });
        }
    }

    fn is_told(&mut self, tell: &mut Tell) -> bool {
        match tell {
            Tell::Entry(entry) if is_concerned(&entry.timeline.id) => {
                let counted = self.0.entry(entry.timeline.id.clone()).or_default();
                counted.deliveries += 1;
                if counted.deliveries.is_multiple_of(OF) {
                    counted.dropped += 1;
                    return false;
                }
                let Position { epoch, seq } = entry.position;
                *entry = Arc::new(entry.moved_to(Position { epoch, seq: seq - counted.dropped }));
            }
            Tell::Accepted(placed) => {
                let timeline =
                    placed.timeline.as_ref().and_then(|timeline| TimelineId::from_client(timeline).ok().flatten());
                let dropped = timeline.map_or(0, |timeline| self.dropped(&timeline));
                if let Some(position) = &mut placed.position {
                    position.seq = position.seq.saturating_sub(dropped);
                }
            }
            Tell::Heads { heads, .. } => {
                for (timeline, head) in heads {
                    head.seq = head.seq.saturating_sub(self.dropped(timeline));
                }
            }
            _ => {}
        }
        true
    }

    fn dropped(&self, timeline: &TimelineId) -> u64 {
        self.0.get(timeline).map_or(0, |counted| counted.dropped)
    }
}

fn is_concerned(timeline: &TimelineId) -> bool {
    match timeline {
        TimelineId::Inbox(_) => PlantedBug::DropPush.is_planted(),
        TimelineId::Group(_) => PlantedBug::DropGroupPush.is_planted(),
    }
}
