//! Messages that are shown for a time only. Whatever the store still has of one whose time is over, nobody is given it. See
//! docs/adr/0034-expiring.md.

use std::sync::Arc;

use carillon_proto::{
    EnvelopeMarks, expired_envelope, limits,
    pb::{
        client::Code,
        link::Refusal,
        store::{Header, StoredEntry, header::Kind},
    },
};

use super::{Now, Rules};
use crate::{feeds::Entry, outcome::refusal};

/// The entry as it is given out now.
pub(super) fn shown(entry: Arc<Entry>, now: Now) -> Arc<Entry> {
    entry.expired(now.unix_ms).map_or(entry, Arc::new)
}

/// The entry of a page as it may be shown now. An edit ends with its message, so that the edits of an expired entry are left out, too.
pub(super) fn shown_in_page(entry: StoredEntry, now: Now) -> StoredEntry {
    match expired_envelope(&entry.envelope, now.unix_ms) {
        Some(left) => StoredEntry { seq: entry.seq, envelope: left.into(), ..StoredEntry::default() },
        None => entry,
    }
}

/// Until when the content may be given out; `None`: it may not be any more.
pub(super) fn shown_until(envelope: &[u8], now: Now) -> Option<u64> {
    match EnvelopeMarks::of(envelope) {
        marks if marks.has_expired(now.unix_ms) => None,
        EnvelopeMarks { expires_at_ms: 0, .. } => Some(u64::MAX),
        EnvelopeMarks { expires_at_ms, .. } => Some(expires_at_ms),
    }
}

/// Checks for how long a message with this header is to be shown; 0: without end.
pub(super) fn check_after(rules: &Rules, after_ms: u64, header: Option<&Header>) -> Result<(), Refusal> {
    if after_ms == 0 {
        return Ok(());
    }
    // Groups have come with the same level.
    if !rules.has_groups() {
        return Err(refusal(Code::Unsupported, "this service has no messages that expire", 0));
    }
    let (least, most) = (limits::EXPIRES_AFTER_MS.start(), limits::EXPIRES_AFTER_MS.end());
    if !limits::EXPIRES_AFTER_MS.contains(&after_ms) {
        let why = format!("expires_after_ms is {after_ms} but must be 0, or {least} to {most}: 5 seconds to 366 days");
        return Err(refusal(Code::Invalid, &why, 0));
    }
    if header.is_some_and(|header| header.kind() != Kind::Message) {
        let why = "expires_after_ms is for messages that say something themselves: an edit ends with its message";
        return Err(refusal(Code::Invalid, why, 0));
    }
    Ok(())
}
