//! See `carillon_proto::planted`.

use std::sync::Arc;

use carillon_proto::{Position, pb::client::server_frame::Body, planted::PlantedBug};

use super::Effect;
use crate::codec::Outgoing;

/// Of so many deliveries of a session one is dropped.
const OF: u64 = 20;

/// A session that counts positions by what it has written, not by what stands in the timeline.
#[derive(Default)]
pub(super) struct Renumbered {
    deliveries: u64,
    dropped: u64,
}

impl Renumbered {
    /// What is dropped counts as delivered, so nobody fetches it.
    pub(super) fn drop_push(&mut self, out: &mut Vec<Effect>) {
        if PlantedBug::DropPush.is_planted() {
            out.retain_mut(|effect| match effect {
                Effect::Write(frame) => self.is_written(frame),
                _ => true,
            });
        }
    }

    fn is_written(&mut self, frame: &mut Outgoing) -> bool {
        match frame {
            Outgoing::Entry(entry) => {
                self.deliveries += 1;
                if self.deliveries.is_multiple_of(OF) {
                    self.dropped += 1;
                    return false;
                }
                let Position { epoch, seq } = entry.position;
                *entry = Arc::new(entry.moved_to(Position { epoch, seq: seq - self.dropped }));
            }
            Outgoing::Frame(frame) => {
                let positions: Vec<_> = match &mut frame.body {
                    Some(Body::Accepted(accepted)) => accepted.position.iter_mut().collect(),
                    Some(Body::Pong(pong)) => pong.heads.iter_mut().filter_map(|head| head.position.as_mut()).collect(),
                    _ => Vec::new(),
                };
                for position in positions {
                    position.seq = position.seq.saturating_sub(self.dropped);
                }
            }
            Outgoing::Page(_) => {}
        }
        true
    }
}
