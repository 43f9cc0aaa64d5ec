//! Coalesces acknowledgements for the service: one position for each timeline.

use std::collections::BTreeMap;

use carillon_proto::{Position, TimelineId, pb::client::Ack};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Shared by the application, which records positions, and the client's task, which sends them. Bounded by the number
/// of timelines.
#[derive(Default)]
pub(crate) struct Acks {
    places: Mutex<BTreeMap<TimelineId, Place>>,
    pub(crate) changed: Notify,
}

struct Place {
    position: Position,
    sent: bool,
}

impl Acks {
    pub(crate) fn note(&self, timeline: &TimelineId, position: Position) {
        {
            let mut places = self.places.lock();
            match places.get_mut(timeline) {
                Some(Place { position: known, .. }) if known.epoch == position.epoch && known.seq >= position.seq => {
                    return;
                }
                Some(place) => *place = Place { position, sent: false },
                None => _ = places.insert(timeline.clone(), Place { position, sent: false }),
            }
        }
        self.changed.notify_one();
    }

    /// A new connection: acknowledgements sent on the old one may be lost.
    pub(crate) fn connected(&self) {
        self.places.lock().values_mut().for_each(|place| place.sent = false);
        self.changed.notify_one();
    }

    pub(crate) fn take(&self, mut out: impl FnMut(Ack)) {
        for (timeline, place) in self.places.lock().iter_mut().filter(|(_, place)| !place.sent) {
            place.sent = true;
            out(Ack { timeline: Some(timeline.to_client()), position: Some(place.position.into()) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::{Epoch, UserId};

    #[test]
    fn only_the_furthest_position_goes_out_and_again_after_a_reconnect() {
        let acks = Acks::default();
        let inbox = TimelineId::Inbox(UserId::new("alice").expect("valid"));
        for seq in [1, 3, 2] {
            acks.note(&inbox, Position { epoch: Epoch(7), seq });
        }
        let taken = || {
            let mut seqs = Vec::new();
            acks.take(|ack| seqs.push(ack.position.expect("set").seq));
            seqs
        };
        assert_eq!(taken(), [3]);
        assert!(taken().is_empty());
        acks.connected();
        assert_eq!(taken(), [3]);
    }
}
