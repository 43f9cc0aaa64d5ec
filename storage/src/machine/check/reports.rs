//! Checks of commands about reports.

use bytes::Bytes;
use carillon_proto::{
    MediaId, ShardId, ShardMap,
    limits::{MAX_REPORT_TEXT_BYTES, REPORT_BYTES, REPORTED, REPORTED_AROUND, REPORTED_EDITS},
    pb::store::{
        PutReport, Rejected, RemoveReports, ReportEvidence, ReportPlace, ReportReason, SettleReport, timeline_key::Kind,
    },
};

use super::{check_any_timeline, check_any_user, check_timeline_key, invalid};
use crate::machine::report_reader::{REMOVED_REPORTS, bytes_of};

/// Most messages of a report.
const MOST_MESSAGES: usize = REPORTED + REPORTED_EDITS + 2 * REPORTED_AROUND;
/// A message may refer to a file, and the edit in its state to another one.
const MOST_FILES: usize = 2 * MOST_MESSAGES;

pub(super) fn check_put(shard: ShardId, map: ShardMap, op: &PutReport) -> Result<(), Rejected> {
    if check_timeline_key(shard, map, op.timeline.as_ref())? != Kind::Inbox {
        return Err(invalid("a report is a user's"));
    }
    check_any_timeline(op.conversation.as_ref())?;
    if op.key.len() != 16 {
        return Err(invalid(format!("key of a report has {} bytes, not 16", op.key.len())));
    }
    if op.time_ms == 0 {
        return Err(invalid("the report has no time"));
    }
    if op.reason() == ReportReason::Unspecified {
        return Err(invalid("the report has no reason, or an unknown one"));
    }
    check_text(&op.text)?;
    check_evidence(op.evidence.as_ref().unwrap_or(&ReportEvidence::default()))?;
    check_media(&op.media)?;
    match op.authors.len() {
        1..=REPORTED => op.authors.iter().try_for_each(|author| check_any_user(author)),
        count => Err(invalid(format!("messages of {count} users, not 1 to {REPORTED}"))),
    }
}

fn check_evidence(evidence: &ReportEvidence) -> Result<(), Rejected> {
    let messages = &evidence.messages;
    let reported = messages.iter().filter(|message| message.reported).count();
    if !(1..=REPORTED).contains(&reported) {
        return Err(invalid(format!("{reported} reported messages, not 1 to {REPORTED}")));
    }
    if messages.len() > reported + REPORTED_EDITS + 2 * REPORTED_AROUND {
        return Err(invalid(format!("{} messages beside those that are reported", messages.len() - reported)));
    }
    if !messages.is_sorted_by(|one, next| one.seq < next.seq) {
        return Err(invalid("messages of a report are not in order"));
    }
    match bytes_of(evidence) {
        bytes if bytes > REPORT_BYTES => {
            Err(invalid(format!("messages of a report are {bytes} bytes, not up to {REPORT_BYTES}")))
        }
        _ => Ok(()),
    }
}

fn check_media(ids: &[Bytes]) -> Result<(), Rejected> {
    if ids.len() > MOST_FILES {
        return Err(invalid(format!("messages of a report refer to {} files, not up to {MOST_FILES}", ids.len())));
    }
    if ids.iter().any(|id| MediaId::from_bytes(id).is_none()) {
        return Err(invalid("a file of a report has no id"));
    }
    if !ids.is_sorted_by(|one, next| one < next) {
        return Err(invalid("files of a report are not each once and in order"));
    }
    Ok(())
}

pub(super) fn check_settled(op: &SettleReport) -> Result<(), Rejected> {
    check_place(op.place.as_ref())?;
    if op.time_ms == 0 {
        return Err(invalid("the resolution has no time"));
    }
    check_text(&op.note)
}

pub(super) fn check_removed(op: &RemoveReports) -> Result<(), Rejected> {
    match op.places.len() {
        1..=REMOVED_REPORTS => Ok(()),
        count => Err(invalid(format!("{count} reports are to be removed, not 1 to {REMOVED_REPORTS}"))),
    }
}

fn check_place(place: Option<&ReportPlace>) -> Result<(), Rejected> {
    if place.is_some() { Ok(()) } else { Err(invalid("no report is named")) }
}

fn check_text(text: &str) -> Result<(), Rejected> {
    match text.len() {
        0..=MAX_REPORT_TEXT_BYTES => Ok(()),
        bytes => Err(invalid(format!("text has {bytes} bytes, not up to {MAX_REPORT_TEXT_BYTES}"))),
    }
}
