//! Messages that do not enter an inbox, because its owner does not want them. See docs/adr/0032-privacy.md.

use std::io;

use carillon_proto::{
    Level,
    pb::store::{Append, Appended, Conversation, TimelineKey, append::Admission, rejected::Reason, timeline_key::Kind},
};

use super::{Batch, CachedTimeline, Outcome, rejected};
use crate::machine::{broken, keys};

const KEY_BYTES: usize = 16;
/// Keys of withheld messages that are kept, of one conversation. Replicas with different numbers would diverge.
const WITHHELD: usize = 16;

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
        Ok(self.row_with_peer(held, op)?.is_some_and(|row| was_withheld(&row, &op.after_key)))
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
        Ok(row.as_ref().is_some_and(|row| was_withheld(row, duplicate)) || is_refused(row.as_ref(), op, admission))
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

/// The answer to a message that does not enter the inbox, and true if the row has changed by it.
pub(super) fn keeps_out(
    row: &mut Conversation,
    op: &Append,
    admission: Admission,
    duplicate: &[u8; 16],
    epoch: u64,
) -> Option<(Outcome, bool)> {
    // Nearly always.
    if admission == Admission::Unspecified && row.withheld.is_empty() {
        return None;
    }
    let withheld = Outcome::Appended(Appended { epoch, withheld: true, ..Appended::default() });
    if was_withheld(row, duplicate) {
        return Some((withheld, false));
    }
    if admission == Admission::Withheld {
        withhold(row, duplicate);
        return Some((withheld, true));
    }
    is_refused(Some(row), op, admission).then(|| (refused(), false))
}

/// `row`: the conversation with the sender, if there is one.
pub(super) fn is_refused(row: Option<&Conversation>, op: &Append, admission: Admission) -> bool {
    match admission {
        Admission::Unspecified | Admission::Withheld => false,
        Admission::WriteBack => !row.is_some_and(|row| row.written && row.peer_incarnation == op.peer_incarnation),
        Admission::Refused => true,
    }
}

pub(super) fn refused() -> Outcome {
    rejected(Reason::Forbidden, "the user takes messages of its contacts only, or of nobody")
}

fn was_withheld(row: &Conversation, duplicate: &[u8]) -> bool {
    row.withheld.chunks(KEY_BYTES).any(|key| key == duplicate)
}

fn withhold(row: &mut Conversation, duplicate: &[u8; 16]) {
    let over = (row.withheld.len() + KEY_BYTES).saturating_sub(WITHHELD * KEY_BYTES);
    row.withheld = [&row.withheld[over..], duplicate].concat().into();
}
