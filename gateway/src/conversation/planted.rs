//! See `carillon_proto::planted`.

use std::sync::Arc;

use carillon_proto::{Position, TimelineId, planted::PlantedBug};

use super::{Effect, Tell};

/// Every how many deliveries of a session one is dropped.
const OF: u64 = 20;

/// A session that counts positions by what it has sent, not by the timeline.
#[derive(Default)]
pub(super) struct Renumbered {
    deliveries: u64,
    dropped: u64,
}

impl Renumbered {
    /// The dropped envelope counts as delivered, so nobody fetches it.
    pub(super) fn drop_push(&mut self, out: &mut Vec<Effect>) {
        if PlantedBug::DropPush.is_planted() {
            out.retain_mut(|effect| match effect {
                Effect::Tell(tell) => self.is_told(tell),
                _ => true,
            });
        }
    }

    fn is_told(&mut self, tell: &mut Tell) -> bool {
        match tell {
            Tell::Entry(entry) if matches!(entry.timeline.id, TimelineId::Inbox(_)) => {
                self.deliveries += 1;
                if self.deliveries.is_multiple_of(OF) {
                    self.dropped += 1;
                    return false;
                }
                let Position { epoch, seq } = entry.position;
                *entry = Arc::new(entry.moved_to(Position { epoch, seq: seq - self.dropped }));
            }
            Tell::Accepted(placed) => {
                if let Some(position) = &mut placed.position {
                    position.seq = position.seq.saturating_sub(self.dropped);
                }
            }
            Tell::Heads { heads, .. } => {
                heads.iter_mut().for_each(|(_, head)| head.seq = head.seq.saturating_sub(self.dropped));
            }
            _ => {}
        }
        true
    }
}
