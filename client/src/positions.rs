//! How far this device has each timeline, and so which push comes next. Pure.

use std::collections::HashMap;

use carillon_proto::{
    Epoch, Position, TimelineId, limits,
    pb::client::{self, SignIn, TimelinePosition, TimelineState},
};
use prost::Message as _;

/// Bytes of a frame besides its positions.
const FRAME: usize = 32;

#[derive(Default)]
pub(crate) struct Positions {
    timelines: HashMap<TimelineId, Progress>,
}

struct Progress {
    /// The device has everything up to here. Epoch 0: the timeline does not exist yet.
    has: Position,
    /// Where the device was at the last Pong, if the Pong reported a head beyond it.
    behind: Option<Position>,
}

/// How a position relates to this device.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The next one.
    Next,
    /// The device has it already.
    Known,
    /// Positions in between are missing, or the timeline has another epoch now.
    Gap { has: Position },
}

/// Positions that SignIn has no room for.
#[derive(Debug, Default)]
pub(crate) struct Rest(Vec<TimelinePosition>);

impl Rest {
    /// Puts into `request` as many positions as fit beside its credential, which takes so many bytes. It keeps the others.
    pub(crate) fn of(mut positions: Vec<TimelinePosition>, request: &mut SignIn, credential: usize) -> Self {
        let room = limits::MAX_FRAME_BYTES_BEFORE_SIGN_IN.saturating_sub(FRAME + request.encoded_len() + credential);
        let rest = positions.split_off(fitting(&positions, limits::POSITIONS_IN_SIGN_IN, room));
        (request.positions, request.more_positions) = (positions, !rest.is_empty());
        Self(rest)
    }

    /// In frames of at most so many bytes; none if there is no rest.
    pub(crate) fn into_frames(self, max_bytes: usize) -> Vec<client::Positions> {
        let (mut rest, mut frames) = (self.0, Vec::new());
        while !rest.is_empty() {
            let behind =
                rest.split_off(fitting(&rest, limits::POSITIONS_IN_FRAME, max_bytes.saturating_sub(FRAME)).max(1));
            frames.push(client::Positions { positions: rest, more: !behind.is_empty() });
            rest = behind;
        }
        frames
    }
}

/// How many of the first positions fit into a frame.
fn fitting(positions: &[TimelinePosition], most: usize, mut room: usize) -> usize {
    let fits = |position: &&TimelinePosition| {
        // The tag, and the length, which is less than 16 KiB.
        let size = position.encoded_len() + 3;
        let fits = size <= room;
        room = room.saturating_sub(size);
        fits
    };
    positions.iter().take(most).take_while(fits).count()
}

impl Positions {
    pub(crate) fn new(known: impl IntoIterator<Item = (TimelineId, Position)>) -> Self {
        let timelines = known.into_iter().map(|(timeline, has)| (timeline, Progress { has, behind: None })).collect();
        Self { timelines }
    }

    /// All positions, for SignIn and the Positions frames after it.
    pub(crate) fn to_sign_in(&self) -> Vec<TimelinePosition> {
        let mut positions: Vec<_> = self.timelines.iter().collect();
        positions.sort_unstable_by_key(|(timeline, _)| *timeline);
        let entry = |(timeline, progress): (&TimelineId, &Progress)| TimelinePosition {
            timeline: Some(timeline.to_client()),
            position: Some(progress.has.into()),
        };
        positions.into_iter().map(entry).collect()
    }

    /// A new connection is signed in. Heads that an earlier one has told say nothing about it.
    pub(crate) fn connected(&mut self) {
        self.timelines.values_mut().for_each(|progress| progress.behind = None);
    }

    /// SignedIn tells where delivery starts. Returns the first position to come if the device has lost the positions
    /// before it, or if the timeline started anew.
    pub(crate) fn signed_in(&mut self, timeline: TimelineId, state: &TimelineState) -> Option<Position> {
        let from = Position { epoch: Epoch(state.epoch), seq: state.delivered_from };
        let Some(progress) = self.timelines.get_mut(&timeline) else {
            self.timelines.insert(timeline, Progress { has: from, behind: None });
            return None;
        };
        let has = progress.has;
        if has.epoch == from.epoch && has.seq >= from.seq {
            return None;
        }
        progress.has = from;
        // The device had nothing of this timeline, which has only come into being.
        let nothing_lost = has.seq == 0 && from.seq == 0;
        (!nothing_lost).then_some(Position { epoch: from.epoch, seq: from.seq + 1 })
    }

    /// A position in Deliver or Accepted: if it is the next one, the device has it from now on.
    pub(crate) fn step(&mut self, timeline: &TimelineId, position: Position) -> Step {
        let Some(progress) = self.timelines.get_mut(timeline) else {
            // A timeline that is new since the sign-in starts where the gateway starts it.
            self.timelines.insert(timeline.clone(), Progress { has: position, behind: None });
            return Step::Next;
        };
        let has = progress.has;
        let created = has.epoch.0 == 0 && has.seq == 0;
        if has.epoch != position.epoch && !created {
            return Step::Gap { has };
        }
        if position.seq <= has.seq {
            Step::Known
        } else if position.seq == has.seq + 1 {
            progress.has = position;
            Step::Next
        } else {
            Step::Gap { has }
        }
    }

    /// Entries before `first` are gone. False if the device is past them anyway.
    pub(crate) fn trimmed(&mut self, timeline: &TimelineId, first: Position) -> bool {
        let before = Position { epoch: first.epoch, seq: first.seq.saturating_sub(1) };
        let progress = self.timelines.entry(timeline.clone()).or_insert(Progress { has: before, behind: None });
        if progress.has.epoch == first.epoch && progress.has.seq >= before.seq {
            return false;
        }
        progress.has = before;
        true
    }

    /// A Pong reports the head. True if the device was behind an earlier head and has not moved since: the pushes in
    /// between are lost.
    pub(crate) fn is_stuck(&mut self, timeline: &TimelineId, head: Position) -> bool {
        let Some(progress) = self.timelines.get_mut(timeline) else { return false };
        let caught_up = progress.has.epoch == head.epoch && progress.has.seq >= head.seq;
        let before = progress.behind.take();
        if caught_up {
            return false;
        }
        progress.behind = Some(progress.has);
        before == progress.behind
    }

    pub(crate) fn get(&self, timeline: &TimelineId) -> Option<Position> {
        self.timelines.get(timeline).map(|progress| progress.has)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::{GroupId, UserId};

    fn inbox() -> TimelineId {
        TimelineId::Inbox(UserId::new("alice").expect("valid"))
    }

    fn at(epoch: u64, seq: u64) -> Position {
        Position { epoch: Epoch(epoch), seq }
    }

    fn state(epoch: u64, delivered_from: u64) -> TimelineState {
        TimelineState { epoch, delivered_from, ..TimelineState::default() }
    }

    #[test]
    fn next_is_taken_earlier_is_known_later_is_a_gap() {
        let mut positions = Positions::new([(inbox(), at(7, 3))]);
        assert_eq!(positions.step(&inbox(), at(7, 5)), Step::Gap { has: at(7, 3) });
        assert_eq!(positions.step(&inbox(), at(7, 4)), Step::Next);
        assert_eq!(positions.step(&inbox(), at(7, 4)), Step::Known);
        assert_eq!(positions.step(&inbox(), at(7, 1)), Step::Known);
        assert_eq!(positions.step(&inbox(), at(7, 5)), Step::Next);
        assert_eq!(positions.step(&inbox(), at(8, 6)), Step::Gap { has: at(7, 5) });
    }

    #[test]
    fn the_first_envelope_of_a_new_timeline_brings_its_epoch() {
        let mut positions = Positions::default();
        assert_eq!(positions.signed_in(inbox(), &state(0, 0)), None);
        assert_eq!(positions.step(&inbox(), at(9, 1)), Step::Next);
        assert_eq!(positions.get(&inbox()), Some(at(9, 1)));
        assert_eq!(positions.to_sign_in()[0].position, Some(at(9, 1).into()));
    }

    #[test]
    fn sign_in_starts_where_the_gateway_says_unless_the_device_is_further() {
        let mut positions = Positions::default();
        assert_eq!(positions.signed_in(inbox(), &state(7, 40)), None);
        assert_eq!(positions.get(&inbox()), Some(at(7, 40)));
        positions.step(&inbox(), at(7, 41));
        assert_eq!(positions.signed_in(inbox(), &state(7, 40)), None);
        assert_eq!(positions.get(&inbox()), Some(at(7, 41)));
        assert_eq!(positions.signed_in(inbox(), &state(7, 50)), Some(at(7, 51)));
    }

    #[test]
    fn another_epoch_begins_anew() {
        let mut positions = Positions::new([(inbox(), at(7, 40))]);
        assert_eq!(positions.signed_in(inbox(), &state(8, 0)), Some(at(8, 1)));
        assert_eq!(positions.step(&inbox(), at(8, 1)), Step::Next);
        let mut created = Positions::new([(inbox(), at(0, 0))]);
        assert_eq!(created.signed_in(inbox(), &state(8, 0)), None);
        assert_eq!(created.step(&inbox(), at(8, 1)), Step::Next);
    }

    #[test]
    fn the_positions_of_two_thousand_groups_go_out_in_frames_that_gateways_take() {
        let group = |number: u64| TimelineId::Group(GroupId::new(&format!("group-{number:0>100}")).expect("valid"));
        let all = (0..2000).map(|number| (group(number), at(u64::MAX, number))).chain([(inbox(), at(7, 3))]);
        let positions = Positions::new(all).to_sign_in();
        let mut request = SignIn { user: "alice".to_owned(), device: "phone".to_owned(), ..SignIn::default() };
        let token = "x".repeat(2000);
        let rest = Rest::of(positions.clone(), &mut request, token.len());
        request.credential = Some(client::sign_in::Credential::Token(token));
        let frame = |body| client::ClientFrame { body: Some(body) }.encoded_len();
        let size = frame(client::client_frame::Body::SignIn(request.clone()));
        assert!((7 * 1024..=limits::MAX_FRAME_BYTES_BEFORE_SIGN_IN).contains(&size), "{size} bytes");
        assert_eq!(request.positions[0].timeline, Some(inbox().to_client()), "the inbox does not wait");
        assert!(request.more_positions);
        let frames = rest.into_frames(64 * 1024);
        let more: Vec<bool> = frames.iter().map(|positions| positions.more).collect();
        assert_eq!(more.iter().filter(|more| !**more).count(), 1);
        assert_eq!(more.last(), Some(&false));
        let mut told = request.positions;
        for positions in frames {
            assert!(positions.positions.len() <= limits::POSITIONS_IN_FRAME);
            let size = frame(client::client_frame::Body::Positions(positions.clone()));
            assert!(size <= 64 * 1024, "{size} bytes");
            told.extend(positions.positions);
        }
        assert_eq!(told, positions);

        let mut request = SignIn::default();
        let rest = Rest::of(positions[..2].to_vec(), &mut request, 100);
        assert!(!request.more_positions && request.positions.len() == 2 && rest.into_frames(8192).is_empty());
    }

    #[test]
    fn trimmed_moves_forward_only() {
        let mut positions = Positions::new([(inbox(), at(7, 3))]);
        assert!(positions.trimmed(&inbox(), at(7, 10)));
        assert_eq!(positions.step(&inbox(), at(7, 10)), Step::Next);
        assert!(!positions.trimmed(&inbox(), at(7, 5)));
        assert_eq!(positions.get(&inbox()), Some(at(7, 10)));
    }

    #[test]
    fn a_device_that_stays_behind_the_head_is_stuck() {
        let mut positions = Positions::new([(inbox(), at(7, 3))]);
        assert!(!positions.is_stuck(&inbox(), at(7, 5)));
        positions.step(&inbox(), at(7, 4));
        assert!(!positions.is_stuck(&inbox(), at(7, 6)), "it moved");
        assert!(positions.is_stuck(&inbox(), at(7, 6)), "it did not");
        positions.step(&inbox(), at(7, 5));
        positions.step(&inbox(), at(7, 6));
        assert!(!positions.is_stuck(&inbox(), at(7, 6)));
    }
}
