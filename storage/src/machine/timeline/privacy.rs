//! Messages that do not enter an inbox, because its owner does not want them. See docs/adr/0032-privacy.md.

use std::io;

use carillon_proto::{
    Level,
    pb::store::{
        Append, Appended, Conversation, MessageRequest, TimelineKey, append::Admission, rejected::Reason,
        timeline_key::Kind,
    },
};

use super::{Batch, CachedTimeline, Outcome, rejected};
use crate::machine::{broken, keys};

const KEY_BYTES: usize = 16;
/// Keys of withheld messages that are kept, of one conversation. Replicas with different numbers would diverge.
const WITHHELD: usize = 16;
/// Most open requests of an inbox; the same holds.
const REQUESTS: u64 = 200;

/// Whether the owner of the inbox takes messages of the sender. An unknown value must not be taken for a known one.
pub(super) fn admission(op: &Append) -> io::Result<Admission> {
    Admission::try_from(op.admission).map_err(|_| broken("admission of a message"))
}

impl Batch<'_> {
    /// True if the message before this one was withheld, or this one is to be: who is blocked does not learn of it by the order.
    pub(super) fn follows_withheld(
        &mut self,
        held: Option<&CachedTimeline>,
        op: &Append,
        admission: Admission,
    ) -> io::Result<bool> {
        if admission == Admission::Withheld {
            return Ok(true);
        }
        let row = self.row_with_peer(held, op)?;
        Ok(row.is_some_and(|row| is_declined(&row, op, admission) || was_withheld(&row, &op.after_key)))
    }

    /// True if this message will not enter the inbox.
    pub(super) fn is_kept_out(
        &mut self,
        held: Option<&CachedTimeline>,
        op: &Append,
        admission: Admission,
        duplicate: &[u8; 16],
    ) -> io::Result<bool> {
        if admission == Admission::Withheld {
            return Ok(true);
        }
        let row = self.row_with_peer(held, op)?;
        let requests = self.open_requests(held.map(|held| held.state.number), admission)?;
        Ok(fate(row.as_ref(), op, admission, duplicate, requests) != Fate::Enters)
    }

    /// True if an earlier attempt of this message was withheld.
    pub(super) fn was_withheld_before(
        &mut self,
        held: &CachedTimeline,
        op: &Append,
        duplicate: &[u8; 16],
    ) -> io::Result<bool> {
        Ok(self.row_with_peer(Some(held), op)?.is_some_and(|row| was_withheld(&row, duplicate)))
    }

    /// How many requests of this inbox are open, if it matters.
    pub(super) fn open_requests(&self, number: Option<u64>, admission: Admission) -> io::Result<u64> {
        match number {
            Some(number) if admission == Admission::Request => Ok(self.versions(number)?.requests()),
            _ => Ok(0),
        }
    }

    /// True if the message of this sender is part of a request.
    pub(super) fn is_in_request(
        &mut self,
        held: Option<&CachedTimeline>,
        op: &Append,
        admission: Admission,
    ) -> io::Result<bool> {
        if admission != Admission::Request {
            return Ok(false);
        }
        Ok(self.row_with_peer(held, op)?.is_some_and(|row| row.request() != MessageRequest::Unspecified))
    }

    fn row_with_peer(&mut self, held: Option<&CachedTimeline>, op: &Append) -> io::Result<Option<Conversation>> {
        let peer = if op.peer.is_empty() { &op.sender } else { &op.peer };
        let Some(held) = held.filter(|_| self.reading.level >= Level::GROUPS && !peer.is_empty()) else {
            return Ok(None);
        };
        let with = TimelineKey { kind: Kind::Inbox.into(), owner: peer.clone() };
        self.conversation(&keys::conversation(held.state.number, &with))
    }
}

/// The fate of a message that comes to the inbox for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Enters,
    /// Its sender does not notice. `is_noted`: so was an earlier attempt.
    Withheld {
        is_noted: bool,
    },
    Refused,
}

/// `row`: the conversation with the sender, if there is one. `requests`: how many are open.
pub(super) fn fate(
    row: Option<&Conversation>,
    op: &Append,
    admission: Admission,
    duplicate: &[u8; 16],
    requests: u64,
) -> Fate {
    // Nearly always.
    if admission == Admission::Unspecified && row.is_none_or(|row| row.withheld.is_empty()) {
        return Fate::Enters;
    }
    if row.is_some_and(|row| was_withheld(row, duplicate)) {
        return Fate::Withheld { is_noted: true };
    }
    let begins = row.is_none_or(|row| begins(row, op));
    match admission {
        Admission::Withheld => Fate::Withheld { is_noted: false },
        Admission::Request if row.is_some_and(|row| is_declined(row, op, admission)) => {
            Fate::Withheld { is_noted: false }
        }
        Admission::Request if begins && requests >= REQUESTS => Fate::Refused,
        _ if is_refused(row, op, admission) => Fate::Refused,
        _ => Fate::Enters,
    }
}

/// True if the message is the first one of a conversation with this account.
pub(super) fn begins(row: &Conversation, op: &Append) -> bool {
    row.last_seq == 0 || row.peer_incarnation < op.peer_incarnation
}

/// The state of the conversation's request after this message.
pub(super) fn request_after(row: &Conversation, op: &Append, admission: Admission, is_own: bool) -> MessageRequest {
    match admission {
        Admission::Request if is_own => MessageRequest::Unspecified,
        Admission::Request if begins(row, op) => MessageRequest::Open,
        Admission::Request => row.request(),
        // The owner of the inbox has written, or lets the sender write.
        _ => MessageRequest::Unspecified,
    }
}

fn is_declined(row: &Conversation, op: &Append, admission: Admission) -> bool {
    admission == Admission::Request && row.request() == MessageRequest::Declined && !begins(row, op)
}

/// `row`: the conversation with the sender, if there is one.
pub(super) fn is_refused(row: Option<&Conversation>, op: &Append, admission: Admission) -> bool {
    match admission {
        Admission::Unspecified | Admission::Withheld | Admission::Request => false,
        Admission::WriteBack => !row.is_some_and(|row| row.written && row.peer_incarnation == op.peer_incarnation),
        Admission::Refused => true,
    }
}

pub(super) fn withheld(epoch: u64) -> Outcome {
    Outcome::Appended(Appended { epoch, withheld: true, ..Appended::default() })
}

pub(super) fn refused() -> Outcome {
    rejected(Reason::Forbidden, "the user takes messages of its contacts only, or of nobody")
}

fn was_withheld(row: &Conversation, duplicate: &[u8]) -> bool {
    row.withheld.chunks(KEY_BYTES).any(|key| key == duplicate)
}

pub(super) fn withhold(row: &mut Conversation, duplicate: &[u8; 16]) {
    let over = (row.withheld.len() + KEY_BYTES).saturating_sub(WITHHELD * KEY_BYTES);
    row.withheld = [&row.withheld[over..], duplicate].concat().into();
}
