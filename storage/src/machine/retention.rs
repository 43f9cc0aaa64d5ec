//! Which envelopes have been kept long enough.

use std::io;

use carillon_proto::pb::store::Trim;

use super::{
    keys::{self, Stored},
    timeline::TimelineState,
};
use crate::engine::fjall::TimelineView;

/// Envelopes that one command removes at most: what the state machine does at once stays short.
pub(crate) const TRIM_ENVELOPES: u32 = 256;
/// Timelines that one call looks at.
const LOOKED_AT: usize = 4096;

/// How long envelopes are kept. What either limit ends is due, unless it is younger than the duplicate window.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Retention {
    /// 0: of any age.
    pub(crate) max_age_ms: u64,
    /// Per timeline. 0: any number.
    pub(crate) max_count: u64,
    /// For so long a repeated send is recognised.
    pub(crate) duplicate_window_ms: u64,
}

/// At most `limit` trims of the timelines after the key `after`, and the key after which to go on; empty at the end.
pub(crate) fn due(
    view: &TimelineView<'_>,
    after: &[u8],
    now_ms: u64,
    retention: &Retention,
    limit: usize,
) -> io::Result<(Vec<Trim>, Vec<u8>)> {
    let mut trims = Vec::new();
    if retention.max_age_ms == 0 && retention.max_count == 0 {
        return Ok((trims, Vec::new()));
    }
    let begin = if after.is_empty() { keys::timelines() } else { [after, &[0]].concat() };
    let mut looked_at = 0;
    for record in view.range(begin..=keys::after_timelines()) {
        let (key, value) = record?;
        let (first, before_seq) = first_and_first_kept(view, &value, now_ms, retention)?;
        if before_seq > first {
            trims.push(Trim { timeline: Some(keys::timeline_of(&key)?), before_seq, limit: TRIM_ENVELOPES });
        }
        looked_at += 1;
        if trims.len() >= limit || looked_at >= LOOKED_AT {
            return Ok((trims, key.to_vec()));
        }
    }
    Ok((trims, Vec::new()))
}

/// Of the timeline with this value: the first position, and the first that is to be kept.
fn first_and_first_kept(
    view: &TimelineView<'_>,
    value: &[u8],
    now_ms: u64,
    retention: &Retention,
) -> io::Result<(u64, u64)> {
    let [number, _, first, _] = keys::numbers_of(value)?;
    let too_many = if retention.max_count == 0 {
        0
    } else {
        let state = TimelineState::of_value(view, value)?;
        (state.last + 1 - first).saturating_sub(retention.max_count)
    };
    if too_many == 0 && retention.max_age_ms == 0 {
        return Ok((first, first));
    }
    let mut kept = first;
    let records = view.range(keys::record(number, first)..=keys::record(number, u64::MAX));
    for record in records.take(TRIM_ENVELOPES as usize) {
        let (_, value) = record?;
        let age_ms = now_ms.saturating_sub(Stored::decode(&value)?.time_ms);
        let too_old = retention.max_age_ms != 0 && age_ms > retention.max_age_ms;
        if age_ms <= retention.duplicate_window_ms || !(too_old || kept - first < too_many) {
            break;
        }
        kept += 1;
    }
    Ok((first, kept))
}
