//! Decides which envelopes and cursors have been kept long enough. Ages are counted by the shard's own clock (see
//! `AdvanceClock`): no wall clock decides what is removed.

use std::{collections::BTreeMap, io};

use carillon_proto::{
    domain_of, narrowed,
    pb::store::{
        Conversation, Membership, MessageRequest, Trim, member::Standing,
        sweep_conversations::Seen as SeenConversation, sweep_cursors::Seen, sweep_memberships::Seen as SeenMembership,
    },
};
use prost::Message as _;

use super::{
    Ages, broken, conversations,
    keys::{self, Cursor, GroupCursor, Stored},
    outbox_reader::first_untold,
    timeline::TimelineState,
    timeline_reader::is_group,
};
use crate::engine::fjall::TimelineView;

/// Most envelopes that one command removes: it bounds the time of one command.
pub(crate) const TRIM_ENVELOPES: u32 = 256;
/// Most cursors that one command removes.
pub(crate) const SWEEP_CURSORS: usize = 256;
/// Most rows of groups that users have left that one command removes.
pub(crate) const SWEEP_MEMBERSHIPS: usize = 256;
/// Most conversations that one command removes.
pub(crate) const SWEEP_CONVERSATIONS: usize = 256;
/// How long rows of groups that users have left are kept: longer than an older change may be on its way.
const LEFT_KEPT_MS: u64 = 24 * 3_600_000;
/// Most timelines, cursors or memberships that one call looks at.
pub(super) const LOOKED_AT: usize = 4096;

/// How long envelopes are kept. An envelope beyond either limit is due, unless it is younger than the duplicate window.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Retention {
    /// 0: any age.
    pub(crate) max_age_ms: u64,
    /// Per timeline. 0: any number.
    pub(crate) max_count: u64,
    /// How long a repeated send is recognised.
    pub(crate) duplicate_window_ms: u64,
    /// A device that has not taken envelopes for this long is gone. 0: never.
    pub(crate) cursor_age_ms: u64,
    /// A report is kept for so long, resolved or not. 0: any age.
    pub(crate) report_age_ms: u64,
    /// How long a file is kept to which nothing refers. 0: as long as its owner has an account.
    pub(crate) unreferenced_media_ms: u64,
    /// Records carry the clock of its last advance, which may be this old: they seem older than they are by as much.
    pub(crate) slack_ms: u64,
}

impl Retention {
    /// True if envelopes are removed at all.
    pub(crate) fn trims(&self) -> bool {
        self.max_age_ms != 0 || self.max_count != 0
    }

    pub(crate) fn needs_clock(&self) -> bool {
        self.trims() || [self.cursor_age_ms, self.report_age_ms, self.unreferenced_media_ms] != [0; 3]
    }

    /// The least age that it can have.
    pub(super) fn age_ms(&self, clock_ms: u64, written_ms: u64) -> u64 {
        clock_ms.saturating_sub(written_ms).saturating_sub(self.slack_ms)
    }
}

/// The time for which something of this user or group is kept: that of the domain, if it is shorter than the cluster's. 0: for ever.
pub(super) fn age_of(of_cluster: u64, ages: &Ages, id: &str) -> u64 {
    match (of_cluster, ages.get(domain_of(id)).copied().unwrap_or(0)) {
        (0, of_domain) => of_domain,
        (of_cluster, of_domain) => narrowed(of_cluster, of_domain),
    }
}

/// Up to `limit` trims of the timelines after the key `after`, and the key to continue after; empty at the end.
pub(crate) fn due(
    view: &TimelineView<'_>,
    after: &[u8],
    retention: &Retention,
    ages: &Ages,
    limit: usize,
) -> io::Result<(Vec<Trim>, Vec<u8>)> {
    if !retention.trims() && ages.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let clock_ms = clock(view)?;
    let begin = if after.is_empty() { keys::timelines() } else { keys::after(after) };
    let (mut trims, mut next) = (Vec::new(), Vec::new());
    for (looked_at, record) in (1..).zip(view.range(begin..=keys::after_timelines())) {
        let (key, value) = record?;
        // The owner stands behind the first byte and the kind.
        let owner = str::from_utf8(key.get(2..).unwrap_or_default()).unwrap_or_default();
        let max_age_ms = age_of(retention.max_age_ms, ages, owner);
        let retention = Retention { max_age_ms, ..*retention };
        let (first, before_seq) = first_and_first_kept(view, &value, clock_ms, &retention)?;
        if before_seq > first {
            let ([number, epoch, ..], _) = keys::timeline_numbers(&value)?;
            let timeline = Some(keys::timeline_of(&key)?);
            trims.push((number, first, Trim { timeline, before_seq, limit: TRIM_ENVELOPES, epoch }));
        }
        if trims.len() >= limit || looked_at >= LOOKED_AT {
            next = key.to_vec();
            break;
        }
    }
    Ok((without_untold(view, trims)?, next))
}

/// The trims without changes of groups that the outbox has to tell yet, and all behind these. Each comes with the timeline's number and first
/// position.
fn without_untold(view: &TimelineView<'_>, trims: Vec<(u64, u64, Trim)>) -> io::Result<Vec<Trim>> {
    let is_of_group = |trim: &Trim| trim.timeline.as_ref().is_some_and(is_group);
    let untold = match trims.iter().any(|(_, _, trim)| is_of_group(trim)) {
        true => first_untold(view)?,
        false => BTreeMap::new(),
    };
    let trims = trims.into_iter().filter_map(|(number, first, trim)| {
        let before_seq = untold.get(&number).map_or(trim.before_seq, |seq| trim.before_seq.min(*seq));
        (before_seq > first).then_some(Trim { before_seq, ..trim })
    });
    Ok(trims.collect())
}

/// The same for cursors of devices that are gone.
pub(crate) fn gone(
    view: &TimelineView<'_>,
    after: &[u8],
    retention: &Retention,
    limit: usize,
) -> io::Result<(Vec<Seen>, Vec<u8>)> {
    let mut gone = Vec::new();
    if retention.cursor_age_ms == 0 {
        return Ok((gone, Vec::new()));
    }
    let clock_ms = clock(view)?;
    let begin = if after.is_empty() { keys::cursors() } else { keys::after(after) };
    let in_inboxes = Some(begin.clone()..=keys::after_cursors()).filter(|range| !range.is_empty());
    let in_groups = begin.max(keys::group_cursors())..=keys::after_group_cursors();
    let rows = in_inboxes.into_iter().chain([in_groups]).flat_map(|range| view.range(range));
    for (looked_at, row) in (1..).zip(rows) {
        let (key, value) = row?;
        gone.extend(gone_at(view, &key, &value, clock_ms, retention)?);
        if gone.len() >= limit || looked_at >= LOOKED_AT {
            return Ok((gone, key.to_vec()));
        }
    }
    Ok((gone, Vec::new()))
}

/// The same for rows of groups that users have left.
pub(crate) fn left(
    view: &TimelineView<'_>,
    after: &[u8],
    retention: &Retention,
    limit: usize,
) -> io::Result<(Vec<SeenMembership>, Vec<u8>)> {
    let mut left = Vec::new();
    let clock_ms = clock(view)?;
    let (begin, end) = keys::all_memberships().into_inner();
    let begin = if after.is_empty() { begin } else { keys::after(after) };
    for (looked_at, row) in (1..).zip(view.range(begin..=end)) {
        let (key, value) = row?;
        let row = Membership::decode(&*value).map_err(|_| broken("row of a group"))?;
        let stands = matches!(row.standing(), Standing::Member | Standing::Invited);
        if !stands && retention.age_ms(clock_ms, row.changed_ms) > LEFT_KEPT_MS {
            let (number, group) = keys::membership_of(&key)?;
            let Membership { incarnation, seq, .. } = row;
            left.push(SeenMembership { number, group: Some(group), incarnation, seq });
        }
        if left.len() >= limit || looked_at >= LOOKED_AT {
            return Ok((left, key.to_vec()));
        }
    }
    Ok((left, Vec::new()))
}

/// The same for conversations with users of which no message is kept, and which have no settings.
pub(crate) fn ended(
    view: &TimelineView<'_>,
    after: &[u8],
    limit: usize,
) -> io::Result<(Vec<SeenConversation>, Vec<u8>)> {
    let mut ended = Vec::new();
    let (begin, end) = keys::all_conversations().into_inner();
    let begin = if after.is_empty() { begin } else { keys::after(after) };
    // The first position that the inbox of this number keeps.
    let mut inbox: Option<(u64, Option<u64>)> = None;
    for (looked_at, row) in (1..).zip(view.range(begin..=end)) {
        let (key, value) = row?;
        let (number, with) = keys::conversation_of(&key)?;
        let row = conversations::decode(&value)?;
        let first = match inbox.filter(|(of, _)| *of == number) {
            Some((_, first)) => first,
            None => first_of(view, number)?,
        };
        inbox = Some((number, first));
        // A conversation in a group ends with the membership, and one that was declined with the inbox.
        let is_declined = row.request() == MessageRequest::Declined;
        if row.last_seq != 0 && !is_declined && row.settings.is_none() && first.is_none_or(|first| row.last_seq < first)
        {
            let Conversation { last_seq, version, .. } = row;
            ended.push(SeenConversation { number, conversation: Some(with), last_seq, version });
        }
        if ended.len() >= limit || looked_at >= LOOKED_AT {
            return Ok((ended, key.to_vec()));
        }
    }
    Ok((ended, Vec::new()))
}

fn first_of(view: &TimelineView<'_>, number: u64) -> io::Result<Option<u64>> {
    let first = view.range(keys::record(number, 0)..=keys::record(number, u64::MAX)).next();
    first.map(|record| keys::seq_of(&record?.0)).transpose()
}

/// The cursor of this row, if its device is gone.
fn gone_at(
    view: &TimelineView<'_>,
    key: &[u8],
    value: &[u8],
    clock_ms: u64,
    retention: &Retention,
) -> io::Result<Option<Seen>> {
    if key < &*keys::group_cursors() {
        let (number, device) = keys::cursor_of(key)?;
        let cursor = Cursor::decode(value)?;
        let is_gone = is_gone(view, number, cursor, clock_ms, retention)?;
        let seen = || Seen { number, device: device.to_owned(), seq: cursor.seq, ..Seen::default() };
        return Ok(is_gone.then(seen));
    }
    let GroupCursor { epoch, seq, moved_ms } = GroupCursor::decode(value)?;
    // Envelopes that came for the device since then are in the group's shard.
    if retention.age_ms(clock_ms, moved_ms) <= retention.cursor_age_ms.saturating_mul(2) {
        return Ok(None);
    }
    let (number, device, group) = keys::group_cursor_of(key)?;
    Ok(Some(Seen { number, device: device.to_owned(), seq, group: Some(group), epoch }))
}

/// A device that has taken everything may well still exist, however long nothing has come for it. So a device is gone
/// when the first envelope that it has not taken is too old. A device for which nothing comes is given up after twice
/// the time, so that devices that were used only once do not add up.
fn is_gone(
    view: &TimelineView<'_>,
    number: u64,
    cursor: Cursor,
    clock_ms: u64,
    retention: &Retention,
) -> io::Result<bool> {
    let age_ms = retention.age_ms(clock_ms, cursor.moved_ms);
    if age_ms <= retention.cursor_age_ms {
        return Ok(false);
    }
    let next = keys::record(number, cursor.seq.saturating_add(1))..=keys::record(number, u64::MAX);
    match view.range(next).next() {
        Some(record) => {
            let written_ms = Stored::decode(&record?.1)?.clock_ms;
            Ok(retention.age_ms(clock_ms, written_ms) > retention.cursor_age_ms)
        }
        None => Ok(age_ms > retention.cursor_age_ms.saturating_mul(2)),
    }
}

pub(super) fn clock(view: &TimelineView<'_>) -> io::Result<u64> {
    view.get(keys::CLOCK)?.map_or(Ok(0), |value| keys::number_of(&value))
}

/// For a timeline with this value: the first position, and the first position to keep.
fn first_and_first_kept(
    view: &TimelineView<'_>,
    value: &[u8],
    clock_ms: u64,
    retention: &Retention,
) -> io::Result<(u64, u64)> {
    let ([number, _, first, _], _) = keys::timeline_numbers(value)?;
    let too_many = if retention.max_count == 0 {
        0
    } else {
        let state = TimelineState::of_value(view, value, false)?;
        (state.last + 1 - first).saturating_sub(retention.max_count)
    };
    if too_many == 0 && retention.max_age_ms == 0 {
        return Ok((first, first));
    }
    let mut kept = first;
    let records = view.range(keys::record(number, first)..=keys::record(number, u64::MAX));
    for record in records.take(TRIM_ENVELOPES as usize) {
        let (_, value) = record?;
        let age_ms = retention.age_ms(clock_ms, Stored::decode(&value)?.clock_ms);
        let too_old = retention.max_age_ms != 0 && age_ms > retention.max_age_ms;
        if age_ms <= retention.duplicate_window_ms || !(too_old || kept - first < too_many) {
            break;
        }
        kept += 1;
    }
    Ok((first, kept))
}
