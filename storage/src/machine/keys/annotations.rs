//! Keys of what messages have made of others, in timeline shards.

use std::io;

use super::{ANNOTATION, RowBytes, broken, key};

const OF_MESSAGE: u8 = 0;
const REACTIONS: u8 = 1;
const VOTES: u8 = 2;
const PINS: u8 = 3;
const MENTIONED: u8 = 4;

fn annotation(number: u64, seq: u64, kind: u8, user: &str) -> RowBytes {
    key(ANNOTATION, &[&number.to_be_bytes(), &seq.to_be_bytes(), &[kind], user.as_bytes()])
}

/// The key of `Annotated` of the message at this position.
pub(crate) fn annotated(number: u64, seq: u64) -> RowBytes {
    annotation(number, seq, OF_MESSAGE, "")
}

pub(crate) fn reactions(number: u64, seq: u64, user: &str) -> RowBytes {
    annotation(number, seq, REACTIONS, user)
}

pub(crate) fn votes(number: u64, seq: u64, user: &str) -> RowBytes {
    annotation(number, seq, VOTES, user)
}

/// `peer`: the other user of a direct conversation; empty in a group.
pub(crate) fn pins(number: u64, peer: &str) -> RowBytes {
    annotation(number, 0, PINS, peer)
}

/// `user`: a member of the group; empty: everybody.
pub(crate) fn mentioned(number: u64, user: &str) -> RowBytes {
    annotation(number, 0, MENTIONED, user)
}

/// The range of all rows of the messages from `first` on that stand before `end`.
pub(crate) fn annotations_between(number: u64, first: u64, end: u64) -> std::ops::RangeInclusive<RowBytes> {
    let bound = |seq: u64| key(ANNOTATION, &[&number.to_be_bytes(), &seq.to_be_bytes()]);
    bound(first)..=bound(end)
}

/// A key of `ANNOTATION`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnnotationKey<'a> {
    OfMessage { seq: u64 },
    Reactions { seq: u64, user: &'a str },
    Votes { seq: u64, user: &'a str },
    Pins { peer: &'a str },
    Mentioned { user: &'a str },
}

impl AnnotationKey<'_> {
    /// The position of the message; 0 for rows of a whole conversation.
    pub(crate) fn seq(self) -> u64 {
        match self {
            Self::OfMessage { seq } | Self::Reactions { seq, .. } | Self::Votes { seq, .. } => seq,
            Self::Pins { .. } | Self::Mentioned { .. } => 0,
        }
    }
}

pub(crate) fn annotation_of(key: &[u8]) -> io::Result<AnnotationKey<'_>> {
    let parse = || {
        let [ANNOTATION, rest @ ..] = key else { return None };
        let (_, rest) = rest.split_first_chunk::<8>()?;
        let (seq, rest) = rest.split_first_chunk()?;
        let (kind, user) = rest.split_first()?;
        let (seq, user) = (u64::from_be_bytes(*seq), str::from_utf8(user).ok()?);
        match *kind {
            OF_MESSAGE if user.is_empty() => Some(AnnotationKey::OfMessage { seq }),
            REACTIONS => Some(AnnotationKey::Reactions { seq, user }),
            VOTES => Some(AnnotationKey::Votes { seq, user }),
            PINS if seq == 0 => Some(AnnotationKey::Pins { peer: user }),
            MENTIONED if seq == 0 => Some(AnnotationKey::Mentioned { user }),
            _ => None,
        }
    };
    parse().ok_or_else(|| broken("key of what messages have made of another one"))
}
