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
const LOOKED_AT: usize = 1024;

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
    view: &TimelineView,
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
        let state = TimelineState::of_value(view, &value)?;
        let before_seq = first_kept(view, &state, now_ms, retention)?;
        if before_seq > state.first {
            trims.push(Trim { timeline: Some(keys::timeline_of(&key)?), before_seq, limit: TRIM_ENVELOPES });
        }
        looked_at += 1;
        if trims.len() >= limit || looked_at >= LOOKED_AT {
            return Ok((trims, key.to_vec()));
        }
    }
    Ok((trims, Vec::new()))
}

fn first_kept(view: &TimelineView, state: &TimelineState, now_ms: u64, retention: &Retention) -> io::Result<u64> {
    let count = state.last + 1 - state.first;
    let over = if retention.max_count == 0 { 0 } else { count.saturating_sub(retention.max_count) };
    if count == 0 || (over == 0 && retention.max_age_ms == 0) {
        return Ok(state.first);
    }
    let range = keys::record(state.number, state.first)..=keys::record(state.number, state.last);
    let mut kept = state.first;
    for record in view.range(range).take(TRIM_ENVELOPES as usize) {
        let (_, value) = record?;
        let age_ms = now_ms.saturating_sub(Stored::decode(&value)?.time_ms);
        let too_many = kept - state.first < over;
        let too_old = retention.max_age_ms != 0 && age_ms > retention.max_age_ms;
        if age_ms <= retention.duplicate_window_ms || !(too_many || too_old) {
            break;
        }
        kept += 1;
    }
    Ok(kept)
}
