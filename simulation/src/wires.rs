//! Streams between two processes: in order while they live; when they break, what is in flight is lost from some point
//! on, in each direction by itself.

use std::collections::BTreeMap;

use crate::schedule::Time;

/// Names one stream; a new one between the same two has another number.
pub(crate) type WireId = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    Client {
        client: usize,
        gateway: usize,
        connection: u64,
    },
    Link {
        gateway: usize,
        router: usize,
    },
    /// The wire of a user who speaks to a router about groups.
    Talker {
        user: usize,
        router: usize,
    },
    /// Between two routers.
    Peer {
        from: usize,
        to: usize,
    },
    Stream {
        router: usize,
        node: usize,
    },
}

/// The first end that [`Ends`] names, or the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    First,
    Second,
}

struct Wire {
    ends: Ends,
    /// Towards each side: when the last message arrives.
    last: [Time; 2],
    /// The times at which the sides learn of the end. Messages that would arrive later are lost.
    cut: [Option<Time>; 2],
    /// Sides that know.
    gone: [bool; 2],
}

#[derive(Default)]
pub(crate) struct Wires {
    last_id: WireId,
    open: BTreeMap<WireId, Wire>,
}

impl Side {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    fn index(self) -> usize {
        match self {
            Self::First => 0,
            Self::Second => 1,
        }
    }
}

impl Wires {
    pub(crate) fn open(&mut self, ends: Ends) -> WireId {
        self.last_id += 1;
        self.open.insert(self.last_id, Wire { ends, last: [0; 2], cut: [None; 2], gone: [false; 2] });
        self.last_id
    }

    /// `None` once the side that is asked about has heard of the wire's end.
    pub(crate) fn ends(&self, wire: WireId, side: Side) -> Option<Ends> {
        self.open.get(&wire).filter(|wire| !wire.gone[side.index()]).map(|wire| wire.ends)
    }

    /// All that at least one side believes in.
    pub(crate) fn all(&self) -> impl Iterator<Item = (WireId, Ends)> {
        self.open.iter().map(|(id, wire)| (*id, wire.ends))
    }

    /// The time at which a message that takes `latency` arrives at `to`, behind those before it. `None`: it is lost.
    pub(crate) fn send(&mut self, wire: WireId, to: Side, now: Time, latency: Time) -> Option<Time> {
        let wire = self.open.get_mut(&wire).filter(|wire| !wire.gone[to.other().index()])?;
        let at = (now + latency).max(wire.last[to.index()]);
        wire.last[to.index()] = at;
        Some(at)
    }

    /// Does what was sent arrive, now that its time has come?
    pub(crate) fn arrives(&self, wire: WireId, at: Side, now: Time) -> Option<Ends> {
        let wire = self.open.get(&wire)?;
        let lost = wire.gone[at.index()] || wire.cut[at.index()].is_some_and(|cut| now > cut);
        (!lost).then_some(wire.ends)
    }

    /// Breaks the wire: each side learns of it at its time. Gives the sides that did not know of an end.
    pub(crate) fn cut(&mut self, wire: WireId, at: [Time; 2]) -> Vec<(Side, Time)> {
        let Some(wire) = self.open.get_mut(&wire) else { return Vec::new() };
        let mut cut = Vec::new();
        for side in [Side::First, Side::Second] {
            let index = side.index();
            if wire.cut[index].is_none() && !wire.gone[index] {
                wire.cut[index] = Some(at[index]);
                cut.push((side, at[index]));
            }
        }
        cut
    }

    /// Closes the wire at one side; the other side hears all that was said before. Gives the time at which it hears of the end.
    pub(crate) fn close(&mut self, wire: WireId, by: Side, at: Time) -> Option<Time> {
        let other = by.other().index();
        let known = self.open.get_mut(&wire)?;
        known.gone[by.index()] = true;
        if known.gone[other] {
            self.open.remove(&wire);
            return None;
        }
        let at = at.max(known.last[other]);
        let first = known.cut[other].is_none();
        first.then(|| *known.cut[other].insert(at))
    }

    /// This side has learnt of the end. None if it knew.
    pub(crate) fn learnt(&mut self, wire: WireId, side: Side) -> Option<Ends> {
        let known = self.open.get_mut(&wire).filter(|wire| !wire.gone[side.index()])?;
        known.gone[side.index()] = true;
        let ends = known.ends;
        if known.gone == [true; 2] {
            self.open.remove(&wire);
        }
        Some(ends)
    }
}

/// The number that one end has for a wire.
pub(crate) fn number_of(numbers: &BTreeMap<u64, WireId>, wire: WireId) -> Option<u64> {
    numbers.iter().find(|(_, known)| **known == wire).map(|(number, _)| *number)
}
