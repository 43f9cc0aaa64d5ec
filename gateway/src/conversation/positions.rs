//! The positions of a device, given in SignIn and in the Positions frames after it: delivery of a timeline begins after its
//! position.

use std::time::Instant;

use carillon_proto::{
    KeyedMap, TimelineId, limits,
    pb::{
        client::{self, Code, Position, Start, TimelinePosition, TimelineState, timeline::Owner},
        link::TimelineHead,
        store::Head,
    },
};

use super::{
    Effect, Now, Session, State, Tag, Tell,
    live::{CloseReason, RESTORED},
    sign_in::{AGAIN_MS, request},
};
use crate::feeds::TimelineRef;

/// Most positions of one connection. They are not stored: the bound limits the work for frames that get no answer.
const MAX_POSITIONS: usize = 16_384;

/// The state of a session whose client has not given all its positions.
pub(super) struct Awaited {
    /// Positions given so far.
    given: usize,
    /// Deadline of the last frame.
    pub(super) until: Instant,
    start: Start,
    /// The head of the inbox, until its delivery begins.
    inbox: Option<Head>,
    groups: GivenPositions,
}

/// The device's positions in groups, as it says. The names are not checked: they are compared with those of the user's groups.
#[derive(Default)]
pub(super) struct GivenPositions(KeyedMap<Vec<u8>, Position>);

/// Where the delivery of a timeline starts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DeliveryStart {
    pub(super) epoch: u64,
    pub(super) first: u64,
    pub(super) last: u64,
    /// Delivery starts after this position.
    pub(super) from: u64,
}

impl Session {
    /// Further positions of the device.
    pub(super) fn positions(&mut self, now: Now, positions: Vec<TimelinePosition>, more: bool, out: &mut Vec<Effect>) {
        let State::Live(live) = &mut self.state else { return };
        let Some(mut awaited) = live.awaited.take() else {
            let why = "positions follow a sign_in with more_positions only, and none follow the last ones";
            return self.bye(Code::Invalid, why, None, out);
        };
        awaited.given += positions.len();
        if positions.len() > limits::POSITIONS_IN_FRAME {
            return self.bye(Code::Invalid, "positions names more than 1,024 timelines", None, out);
        }
        if awaited.given > MAX_POSITIONS {
            return self.bye(Code::Invalid, "the positions name more than 16,384 timelines", None, out);
        }
        let inbox = TimelineId::Inbox(live.who.user.clone());
        let timeline = inbox.to_client();
        let given = given(&timeline, &positions);
        let begins = awaited.inbox.take_if(|_| given.is_some() || !more);
        let begin = begins.map(|head| DeliveryStart::new(head, given, awaited.start));
        awaited.groups.take(positions);
        let start = awaited.start;
        match more {
            true => live.awaited = Some(awaited),
            false => live.load_groups(&self.rules, awaited.groups, start, out),
        }
        let Some(begin) = begin else { return };
        live.follow(inbox.clone(), &begin, now);
        let beyond = begin.beyond(given).map(|position| live.has_beyond(&inbox, position));
        if begin.is_news(given) {
            out.push(Effect::Tell(Tell::Timelines(vec![begin.state(timeline)])));
        }
        if let Some(op) = beyond {
            out.push(request(Tag::Ack(inbox), op));
            self.bye(RESTORED.0, RESTORED.1, Some(AGAIN_MS), out);
        }
    }
}

impl Awaited {
    /// `given`: the positions of the sign-in. `inbox`: its head, unless its delivery has begun.
    pub(super) fn new(given: Vec<TimelinePosition>, until: Instant, start: Start, inbox: Option<Head>) -> Self {
        Self { given: given.len(), until, start, inbox, groups: given.into() }
    }

    /// The routers told how far the inbox reaches, before its delivery has begun.
    pub(super) fn heard(&mut self, timeline: TimelineRef<'_>, head: &Head) -> Result<(), CloseReason> {
        let Some(known) = self.inbox.as_mut().filter(|_| matches!(timeline, TimelineRef::Inbox(_))) else {
            return Ok(());
        };
        if known.epoch != 0 && known.epoch != head.epoch {
            return Err(RESTORED);
        }
        (known.epoch, known.last) = (head.epoch, known.last.max(head.last));
        Ok(())
    }
}

impl GivenPositions {
    /// The positions in groups.
    fn take(&mut self, positions: Vec<TimelinePosition>) {
        self.0.reserve(positions.len());
        let in_group = |TimelinePosition { timeline, position }: TimelinePosition| match timeline?.owner? {
            Owner::Group(group) => Some((group.into_bytes(), position?)),
            Owner::Inbox(_) => None,
        };
        self.0.extend(positions.into_iter().filter_map(in_group));
    }

    pub(super) fn of(&self, group: &[u8]) -> Option<Position> {
        self.0.get(group).copied()
    }
}

impl From<Vec<TimelinePosition>> for GivenPositions {
    fn from(positions: Vec<TimelinePosition>) -> Self {
        let mut given = Self::default();
        given.take(positions);
        given
    }
}

impl DeliveryStart {
    /// `given`: how far the device has it, if it says so.
    pub(super) fn new(head: Head, given: Option<Position>, start: Start) -> Self {
        let Head { epoch, first, last, cursor, has_cursor, .. } = head;
        let first = first.max(1);
        let kept_before = first - 1;
        let from = match (given, start) {
            (Some(position), _) if position.epoch == epoch => position.seq.min(last),
            // The device has positions of another epoch, or none.
            (Some(_), _) => kept_before,
            (None, Start::Head) => last,
            (None, Start::Cursor) if has_cursor => cursor.min(last),
            (None, Start::Cursor) => kept_before,
        };
        Self { epoch, first, last, from }
    }

    pub(super) fn state(&self, timeline: client::Timeline) -> TimelineState {
        let Self { epoch, first, last, from } = *self;
        TimelineState { timeline: Some(timeline), epoch, first, last, delivered_from: from }
    }

    /// The device's position, if it has the timeline's epoch but lies beyond its end: the store was restored from a copy.
    pub(super) fn beyond(&self, given: Option<Position>) -> Option<Position> {
        given.filter(|given| self.epoch != 0 && given.epoch == self.epoch && given.seq > self.last)
    }

    /// False if the device said itself that it has all that there is.
    pub(super) fn is_news(&self, given: Option<Position>) -> bool {
        given != Some(Position { epoch: self.epoch, seq: self.last })
    }
}

/// The position that is given for this timeline.
pub(super) fn given(timeline: &client::Timeline, positions: &[TimelinePosition]) -> Option<Position> {
    positions.iter().find(|named| named.timeline.as_ref() == Some(timeline))?.position
}

pub(super) fn head_of(timeline: &client::Timeline, heads: &[TimelineHead]) -> Head {
    let named = heads.iter().find(|head| head.timeline.as_ref() == Some(timeline));
    named.and_then(|named| named.head).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_begins_where_the_device_is() {
        let head = Head { epoch: 7, first: 4, last: 9, cursor: 6, has_cursor: true, ..Head::default() };
        let from = |given: Option<(u64, u64)>, start: Start, head: Head| {
            DeliveryStart::new(head, given.map(|(epoch, seq)| Position { epoch, seq }), start).from
        };
        assert_eq!(from(Some((7, 8)), Start::Head, head), 8, "a position given is where it is");
        assert_eq!(from(Some((7, 1)), Start::Cursor, head), 1, "also one that is trimmed");
        assert_eq!(from(Some((7, 99)), Start::Cursor, head), 9, "never beyond the end");
        assert_eq!(from(Some((6, 8)), Start::Cursor, head), 3, "another epoch: all that is kept");
        assert_eq!(from(None, Start::Cursor, head), 6);
        assert_eq!(from(None, Start::Cursor, Head { has_cursor: false, ..head }), 3);
        assert_eq!(from(None, Start::Head, head), 9);
        assert_eq!(from(Some((0, 0)), Start::Cursor, Head::default()), 0);
    }
}
