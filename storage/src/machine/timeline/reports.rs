//! What users have reported to the moderators. See docs/adr/0035-reports.md.

use std::io;

use carillon_proto::pb::store::{
    Person, PutReport, RemoveReports, ReportEvidence, ReportPlace, ReportPut, ReportRow, ReportSum, ReportsOfUser,
    SettleReport, rejected::Reason, report_row::Resolution, reports_of_user::Kept,
};
use prost::Message as _;

use super::{Batch, Outcome, done, rejected, timeline_key};
use crate::machine::{
    annotations::EnvelopeHead,
    broken, keys,
    report_reader::{bytes_of, decode},
};

// Replicas with different numbers would diverge: a change needs a new level.

/// Most open reports of a user.
pub(in crate::machine) const OPEN: usize = 20;
/// Most reports of a user that are kept, and the most bytes of their messages.
pub(in crate::machine) const KEPT: usize = 200;
pub(in crate::machine) const KEPT_BYTES: u64 = 4 * 1024 * 1024;
/// Most bytes of the messages of all reports in a shard.
pub(in crate::machine) const SHARD_BYTES: u64 = 1024 * 1024 * 1024;

impl Batch<'_> {
    pub(super) fn put_report(&mut self, op: &PutReport) -> io::Result<Outcome> {
        let user = op.timeline.as_ref().and_then(|inbox| inbox.owner_str().ok()).ok_or_else(|| broken("inbox"))?;
        if self.senders.has_ended(user.as_bytes(), op.sender_generation) {
            return Ok(rejected(Reason::SenderGone, "the session that reports is over"));
        }
        let inbox = self.held(&timeline_key(op.timeline.as_ref())?)?;
        if inbox.is_some_and(|inbox| op.incarnation < inbox.state.incarnation) {
            return Ok(rejected(Reason::Gone, "the account of this user has ended"));
        }
        let mut of_user = self.reports_of(user)?;
        if let Some(known) = of_user.kept.iter().find(|kept| kept.key == op.key) {
            return Ok(Outcome::ReportPut(ReportPut { place: known.place, changed: false }));
        }
        let evidence = op.evidence.as_ref().ok_or_else(|| broken("report without messages"))?;
        let messages = reported(evidence);
        let is_same = |kept: &&Kept| {
            let own = kept.open && kept.incarnation == op.incarnation && !messages.is_empty();
            own && messages.iter().all(|id| kept.messages.contains(id))
        };
        if let Some(known) = of_user.kept.iter().find(is_same) {
            return Ok(Outcome::ReportPut(ReportPut { place: known.place, changed: false }));
        }
        let (mut sum, bytes) = (self.report_sum()?, bytes_of(evidence) as u64);
        if let Some(full) = too_many(&of_user, op.incarnation, &sum, bytes) {
            return Ok(full);
        }
        sum.last_id += 1;
        sum.open += 1;
        sum.bytes += bytes;
        let place = ReportPlace { time_ms: op.time_ms, id: sum.last_id };
        let row = ReportRow {
            reporter: Some(Person { user: user.to_owned(), incarnation: op.incarnation }),
            conversation: op.conversation.clone(),
            reason: op.reason,
            text: op.text.clone(),
            authors: op.authors.clone(),
            messages: evidence.messages.iter().filter(|message| message.reported).count() as u32,
            bytes,
            clock_ms: self.clock_ms,
            key: op.key.clone(),
            resolution: None,
            media: op.media.clone(),
        };
        let (key, incarnation) = (op.key.clone(), op.incarnation);
        of_user.kept.push(Kept { key, place: Some(place), incarnation, open: true, bytes, messages });
        self.changes.put(keys::report(place, false), row.encode_to_vec());
        self.changes.put(keys::report_evidence(place), evidence.encode_to_vec());
        self.hold_media(&op.media)?;
        self.put_reports_of(user, &of_user);
        self.changes.put(keys::report_sum(), sum.encode_to_vec());
        Ok(Outcome::ReportPut(ReportPut { place: Some(place), changed: true }))
    }

    pub(super) fn settle_report(&mut self, op: &SettleReport) -> io::Result<Outcome> {
        let place = op.place.ok_or_else(|| broken("place of a report"))?;
        if op.remove {
            self.drop_report(place)?;
            return Ok(done());
        }
        if let Some(resolved) = self.report(place, true)? {
            let is_repeat = resolved.resolution.is_some_and(|resolution| resolution.note == op.note);
            return Ok(if is_repeat { done() } else { rejected(Reason::Exists, "the report was resolved otherwise") });
        }
        let Some(mut row) = self.report(place, false)? else {
            return Ok(rejected(Reason::NotFound, "there is no such report"));
        };
        row.resolution = Some(Resolution { time_ms: op.time_ms, note: op.note.clone() });
        self.changes.delete(keys::report(place, false));
        self.changes.put(keys::report(place, true), row.encode_to_vec());
        let user = reporter(&row)?;
        let mut of_user = self.reports_of(user)?;
        for kept in of_user.kept.iter_mut().filter(|kept| kept.place == Some(place)) {
            kept.open = false;
            kept.messages.clear();
        }
        self.put_reports_of(user, &of_user);
        let sum = self.report_sum()?;
        let open = sum.open.checked_sub(1).ok_or_else(|| broken("number of open reports"))?;
        self.changes.put(keys::report_sum(), ReportSum { open, ..sum }.encode_to_vec());
        Ok(done())
    }

    pub(super) fn remove_reports(&mut self, op: &RemoveReports) -> io::Result<Outcome> {
        for place in &op.places {
            self.drop_report(*place)?;
        }
        Ok(done())
    }

    /// The reports of a user who is being erased go at once. Messages of the user in the reports of others stay: see the ADR.
    pub(super) fn forget_reports_of(&mut self, user: &str) -> io::Result<()> {
        for kept in self.reports_of(user)?.kept {
            self.drop_report(kept.place.ok_or_else(|| broken("place of a report"))?)?;
        }
        Ok(())
    }

    /// See `planted::recalls_take_evidence`.
    #[cfg(feature = "planted-bugs")]
    pub(super) fn lose_evidence_of(&mut self, user: &str) -> io::Result<()> {
        for place in self.reports_of(user)?.kept.iter().filter_map(|kept| kept.place) {
            self.changes.put(keys::report_evidence(place), Vec::<u8>::new());
        }
        Ok(())
    }

    /// Removes all rows of this report, if there is such a one.
    fn drop_report(&mut self, place: ReportPlace) -> io::Result<()> {
        let (open, row) = match self.report(place, false)? {
            Some(row) => (true, row),
            None => match self.report(place, true)? {
                Some(row) => (false, row),
                None => return Ok(()),
            },
        };
        self.changes.delete(keys::report(place, !open));
        self.changes.delete(keys::report_evidence(place));
        self.release_media(&row.media)?;
        let user = reporter(&row)?;
        let mut of_user = self.reports_of(user)?;
        of_user.kept.retain(|kept| kept.place != Some(place));
        self.put_reports_of(user, &of_user);
        let sum = self.report_sum()?;
        let less = || Some((sum.open.checked_sub(open.into())?, sum.bytes.checked_sub(row.bytes)?));
        let (open, bytes) = less().ok_or_else(|| broken("sum of reports"))?;
        self.changes.put(keys::report_sum(), ReportSum { open, bytes, ..sum }.encode_to_vec());
        Ok(())
    }

    fn report(&self, place: ReportPlace, resolved: bool) -> io::Result<Option<ReportRow>> {
        self.get(&keys::report(place, resolved), decode)
    }

    fn report_sum(&self) -> io::Result<ReportSum> {
        Ok(self.get(&keys::report_sum(), decode)?.unwrap_or_default())
    }

    fn reports_of(&self, user: &str) -> io::Result<ReportsOfUser> {
        Ok(self.get(&keys::reports_of(user.as_bytes()), decode)?.unwrap_or_default())
    }

    fn put_reports_of(&mut self, user: &str, of_user: &ReportsOfUser) {
        let key = keys::reports_of(user.as_bytes());
        match of_user.kept.is_empty() {
            true => self.changes.delete(key),
            false => self.changes.put(key, of_user.encode_to_vec()),
        }
    }
}

/// The ids of the reported messages; empty if one of them has none.
fn reported(evidence: &ReportEvidence) -> Vec<String> {
    let messages = evidence.messages.iter().filter(|message| message.reported);
    let ids = messages.map(|message| EnvelopeHead::decode(message.envelope.clone()).ok().map(|said| said.id));
    ids.map(|id| id.filter(|id| !id.is_empty())).collect::<Option<_>>().unwrap_or_default()
}

fn reporter(row: &ReportRow) -> io::Result<&str> {
    row.reporter.as_ref().map(|reporter| reporter.user.as_str()).ok_or_else(|| broken("report of nobody"))
}

/// The refusal of another report with so many bytes.
fn too_many(of_user: &ReportsOfUser, incarnation: u64, sum: &ReportSum, bytes: u64) -> Option<Outcome> {
    // Those of earlier owners of the name do not count.
    let own = || of_user.kept.iter().filter(|kept| kept.incarnation == incarnation);
    let (open, kept) = (own().filter(|kept| kept.open).count(), own().count());
    let has: u64 = own().map(|kept| kept.bytes).sum();
    let why = if open >= OPEN {
        format!("{open} reports of this user are open, and there may be {OPEN}")
    } else if kept >= KEPT || has + bytes > KEPT_BYTES {
        format!("{kept} reports of this user of {has} bytes are kept, and there may be {KEPT} of {KEPT_BYTES}")
    } else if sum.bytes + bytes > SHARD_BYTES {
        "there is no room for further reports".to_owned()
    } else {
        return None;
    };
    Some(rejected(Reason::Full, &why))
}
