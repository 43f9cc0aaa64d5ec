//! Periodic removal: envelopes beyond retention, cursors of devices that are gone, rows of groups that users have left, conversations of
//! which nothing is kept, files that nobody needs, counts of files to which nothing refers, contents of messages whose time is over, and old reports.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use carillon_proto::{
    Level, ShardId,
    limits::MEDIA_AT_ONCE,
    pb::store::{
        CheckMedia, ForgetReleasedMedia, RemoveMedia, RemoveReports, StoreError, SweepConversations, SweepCursors,
        SweepMemberships, TimelineCommand, timeline_command::Op,
    },
};
use prost::Message as _;
use tokio::time::sleep;

use crate::{
    cluster::Serving,
    machine::{
        Ages, DueMedia, Outcome, REMOVED_MEDIA, REMOVED_REPORTS, Retention, SWEEP_CONVERSATIONS, SWEEP_CURSORS,
        SWEEP_MEMBERSHIPS, TimelineReader,
    },
    metrics as names,
    rounds::Rounds,
    shard::{Reader, Shard},
};

const RETENTION_INTERVAL: Duration = Duration::from_secs(5);
/// Most trims that one look finds.
const TRIMS: usize = 16;
/// Looks at one shard before the next shard has its turn.
const LOOKS: usize = 32;

/// Proposes the due trims and sweeps in the timeline shards that this node leads.
pub(crate) async fn retain(serving: Arc<Serving>, retention: Retention) {
    let Some(cluster) = serving.get() else { return };
    let mut rounds: HashMap<ShardId, [Rounds; 8]> = HashMap::new();
    loop {
        sleep(RETENTION_INTERVAL).await;
        let ages = cluster.domain_ages();
        for shard in cluster.shards().values() {
            let Reader::Timeline(reader) = shard.reader() else { continue };
            if !shard.group().leads() {
                rounds.remove(&shard.id());
                continue;
            }
            let [expired, trims, sweeps, left, conversations, media, reports, released] =
                rounds.entry(shard.id()).or_default();
            expire(shard, reader, retention, expired).await;
            trim(shard, reader, retention, &ages.messages, trims).await;
            if !retention.needs_clock() && ages.is_empty() {
                continue;
            }
            sweep(shard, reader, retention, sweeps).await;
            sweep_left(shard, reader, retention, left).await;
            sweep_conversations(shard, reader, conversations).await;
            remove_media(shard, reader, retention, media).await;
            remove_reports(shard, reader, retention, &ages.reports, reports).await;
            forget_released_media(shard, reader, retention, released).await;
        }
    }
}

async fn expire(shard: &Shard, reader: &TimelineReader, retention: Retention, rounds: &mut Rounds) {
    if reader.level() < Level::GROUPS {
        return;
    }
    for _ in 0..LOOKS {
        let look =
            move |reader: &TimelineReader, _: &[u8]| Ok((Vec::from_iter(reader.due_messages(&retention)?), Vec::new()));
        let Some((expire, count)) = look_for(shard, reader, rounds, look).await.pop() else { return };
        if !carry_out(shard, Op::ExpireMessages(expire)).await {
            return;
        }
        metrics::counter!(names::MESSAGES_EXPIRED).increment(count as u64);
    }
}

async fn trim(shard: &Shard, reader: &TimelineReader, retention: Retention, ages: &Ages, rounds: &mut Rounds) {
    if !retention.trims() && ages.is_empty() {
        return;
    }
    for _ in 0..LOOKS {
        let ages = Arc::clone(ages);
        let look = move |reader: &TimelineReader, after: &[u8]| reader.due_trims(after, &retention, &ages, TRIMS);
        let due = look_for(shard, reader, rounds, look).await;
        if due.is_empty() {
            return;
        }
        for trim in due {
            if !carry_out(shard, Op::Trim(trim)).await {
                return;
            }
        }
    }
}

/// One look each time: sweeping is not urgent.
async fn sweep(shard: &Shard, reader: &TimelineReader, retention: Retention, rounds: &mut Rounds) {
    let look = move |reader: &TimelineReader, after: &[u8]| reader.gone_cursors(after, &retention, SWEEP_CURSORS);
    let cursors = look_for(shard, reader, rounds, look).await;
    if cursors.is_empty() {
        return;
    }
    let count = cursors.len() as u64;
    if carry_out(shard, Op::SweepCursors(SweepCursors { cursors })).await {
        metrics::counter!(names::CURSORS_SWEPT).increment(count);
    }
}

/// The same for rows of groups that users have left.
async fn sweep_left(shard: &Shard, reader: &TimelineReader, retention: Retention, rounds: &mut Rounds) {
    if reader.level() < Level::GROUPS {
        return;
    }
    let look = move |reader: &TimelineReader, after: &[u8]| reader.left_groups(after, &retention, SWEEP_MEMBERSHIPS);
    let rows = look_for(shard, reader, rounds, look).await;
    if !rows.is_empty() {
        carry_out(shard, Op::SweepMemberships(SweepMemberships { rows })).await;
    }
}

/// The same for conversations of which no message is kept.
async fn sweep_conversations(shard: &Shard, reader: &TimelineReader, rounds: &mut Rounds) {
    if reader.level() < Level::GROUPS {
        return;
    }
    let look = |reader: &TimelineReader, after: &[u8]| reader.ended_conversations(after, SWEEP_CONVERSATIONS);
    let rows = look_for(shard, reader, rounds, look).await;
    if !rows.is_empty() {
        carry_out(shard, Op::SweepConversations(SweepConversations { rows })).await;
    }
}

/// The same for files that nobody needs: the outbox says that their bytes are to be removed, or that somebody has to find out whether they are
/// needed.
async fn remove_media(shard: &Shard, reader: &TimelineReader, retention: Retention, rounds: &mut Rounds) {
    if reader.level() < Level::GROUPS {
        return;
    }
    let look = move |reader: &TimelineReader, after: &[u8]| reader.due_media(after, &retention, REMOVED_MEDIA);
    let (mut files, mut ids) = (Vec::new(), Vec::new());
    for due in look_for(shard, reader, rounds, look).await {
        match due {
            DueMedia::Removed(seen) => files.push(seen),
            DueMedia::Checked(id) => ids.push(id),
        }
    }
    let count = files.len() as u64;
    if count > 0 && carry_out(shard, Op::RemoveMedia(RemoveMedia { files })).await {
        metrics::counter!(names::MEDIA_REMOVED).increment(count);
    }
    if !ids.is_empty() {
        carry_out(shard, Op::CheckMedia(CheckMedia { ids })).await;
    }
}

/// The same for counts of files to which nothing in the shard has referred for long. The outbox says that the files' shards are to be told.
async fn forget_released_media(shard: &Shard, reader: &TimelineReader, retention: Retention, rounds: &mut Rounds) {
    if reader.level() < Level::GROUPS {
        return;
    }
    let look =
        move |reader: &TimelineReader, _: &[u8]| Ok((reader.released_media(&retention, MEDIA_AT_ONCE)?, Vec::new()));
    let files = look_for(shard, reader, rounds, look).await;
    if !files.is_empty() {
        carry_out(shard, Op::ForgetReleasedMedia(ForgetReleasedMedia { files })).await;
    }
}

/// The same for reports that have been kept long enough.
async fn remove_reports(
    shard: &Shard,
    reader: &TimelineReader,
    retention: Retention,
    ages: &Ages,
    rounds: &mut Rounds,
) {
    if retention.report_age_ms == 0 && ages.is_empty() || reader.level() < Level::GROUPS {
        return;
    }
    let ages = Arc::clone(ages);
    let look =
        move |reader: &TimelineReader, after: &[u8]| reader.old_reports(after, &retention, &ages, REMOVED_REPORTS);
    let places = look_for(shard, reader, rounds, look).await;
    if !places.is_empty() {
        carry_out(shard, Op::RemoveReports(RemoveReports { places })).await;
    }
}

/// Does the next look of the round. Nothing is found if this node does not lead, or can't read.
async fn look_for<T: Send + 'static>(
    shard: &Shard,
    reader: &TimelineReader,
    rounds: &mut Rounds,
    look: impl FnOnce(&TimelineReader, &[u8]) -> io::Result<(Vec<T>, Vec<u8>)> + Send + 'static,
) -> Vec<T> {
    if !shard.group().leads() || !rounds.go_on(shard.group().applied()) {
        return Vec::new();
    }
    let (reader, after) = (reader.clone(), rounds.after().to_vec());
    match tokio::task::spawn_blocking(move || look(&reader, &after)).await {
        Ok(Ok((found, next))) => {
            rounds.looked(!found.is_empty(), next);
            return found;
        }
        Ok(Err(error)) => {
            tracing::error!(shard = %shard.id(), %error, "timelines can't be read");
            shard.alarm().note(format_args!("shard {}", shard.id()), &error);
        }
        Err(error) => tracing::error!(shard = %shard.id(), %error, "retention panicked"),
    }
    Vec::new()
}

async fn carry_out(shard: &Shard, op: Op) -> bool {
    let command = TimelineCommand { op: Some(op) }.encode_to_vec();
    match shard.write(command.into()).await {
        Outcome::Error(StoreError { why }) => {
            tracing::debug!(shard = %shard.id(), ?why, "nothing was removed");
            false
        }
        _ => true,
    }
}
