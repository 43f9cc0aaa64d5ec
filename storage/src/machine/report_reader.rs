//! Reads of reports, and the search for old ones.

use std::io;

use carillon_proto::{
    domain_of,
    limits::BATCH_BYTES,
    pb::store::{
        Person, ReadReport, ReadReports, ReportEvidence, ReportPlace, ReportRead, ReportRow, ReportSum, ReportsOfUser,
        ReportsRead, rejected::Reason, reports_read::Row,
    },
};
use prost::Message;

use super::{
    Ages, TimelineReader, Unread, broken,
    groups::refused,
    keys::{self, ReportKey},
    retention::{LOOKED_AT, Retention, age_of, clock},
};
use crate::engine::fjall::TimelineView;

/// Most reports that one command removes.
pub(crate) const REMOVED_REPORTS: usize = 256;
/// Most reports that one read returns, whatever it asks for.
const PAGE: usize = 1000;

impl TimelineReader {
    pub(crate) fn reports(&self, op: &ReadReports) -> Result<ReportsRead, Unread> {
        let view = self.shard.view();
        let limit = if op.limit == 0 { PAGE } else { PAGE.min(op.limit as usize) };
        let (mut read, mut bytes) = (ReportsRead::default(), 0);
        for (looked_at, row) in (1..).zip(view.range(keys::reports_after(op.after, op.resolved))) {
            let (key, value) = row?;
            let (place, row) = (place_of(&key)?, decode::<ReportRow>(&value)?);
            if is_of_domain(&row, op.domain.as_deref()) {
                bytes += value.len();
                read.reports.push(Row { place: Some(place), row: Some(row) });
            }
            if read.reports.len() >= limit || bytes >= BATCH_BYTES || looked_at >= LOOKED_AT {
                read.next = Some(place);
                break;
            }
        }
        Ok(read)
    }

    pub(crate) fn report(&self, op: &ReadReport) -> Result<ReportRead, Unread> {
        let view = self.shard.view();
        let place = op.place.unwrap_or_default();
        for resolved in [false, true] {
            if let Some(row) = view.get(&keys::report(place, resolved))? {
                let evidence =
                    view.get(&keys::report_evidence(place))?.ok_or_else(|| broken("report without messages"))?;
                return Ok(ReportRead { row: Some(decode(&row)?), evidence: Some(decode(&evidence)?) });
            }
        }
        Err(refused(Reason::NotFound, "there is no such report").into())
    }

    /// All reports of this user, in the order in which they came. There are not many.
    pub(crate) fn reports_by(&self, reporter: &Person) -> Result<ReportsRead, Unread> {
        let view = self.shard.view();
        let mut read = ReportsRead::default();
        let Some(of_user) = view.get(&keys::reports_of(reporter.user.as_bytes()))? else { return Ok(read) };
        for kept in decode::<ReportsOfUser>(&of_user)?.kept {
            let place = kept.place.ok_or_else(|| broken("place of a report"))?;
            if kept.incarnation == reporter.incarnation
                && let Some(row) = view.get(&keys::report(place, !kept.open))?
            {
                read.reports.push(Row { place: Some(place), row: Some(decode(&row)?) });
            }
        }
        Ok(read)
    }

    /// Up to `limit` reports that have been kept long enough, after the key `after`, and the key to continue after; empty at the end.
    pub(crate) fn old_reports(
        &self,
        after: &[u8],
        retention: &Retention,
        ages: &Ages,
        limit: usize,
    ) -> io::Result<(Vec<ReportPlace>, Vec<u8>)> {
        let view = self.shard.view();
        let clock_ms = clock(&view)?;
        let (begin, end) = keys::all_reports().into_inner();
        let begin = if after.is_empty() { begin } else { keys::after(after) };
        let mut old = Vec::new();
        for (looked_at, found) in (1..).zip(view.range(begin..=end)) {
            let (key, value) = found?;
            let row = decode::<ReportRow>(&value)?;
            let kept_ms = age_of(retention.report_age_ms, ages, reporter(&row));
            if kept_ms != 0 && retention.age_ms(clock_ms, row.clock_ms) > kept_ms {
                old.push(place_of(&key)?);
            }
            if old.len() >= limit || looked_at >= LOOKED_AT {
                return Ok((old, key.to_vec()));
            }
        }
        Ok((old, Vec::new()))
    }
}

/// The number of open reports, and when the first of them came, in milliseconds since 1970; 0: there is none.
pub(super) fn waiting_reports(view: &TimelineView<'_>) -> io::Result<(u64, u64)> {
    let sum = view.get(&keys::report_sum())?.map(|sum| decode::<ReportSum>(&sum)).transpose()?;
    let first = view.range(keys::reports_after(None, false)).next();
    let first = first.map(|row| place_of(&row?.0)).transpose()?;
    Ok((sum.unwrap_or_default().open, first.map_or(0, |place| place.time_ms)))
}

/// What counts against the limits.
pub(super) fn bytes_of(evidence: &ReportEvidence) -> usize {
    evidence.messages.iter().map(|message| message.envelope.len() + message.state.len()).sum()
}

fn is_of_domain(row: &ReportRow, domain: Option<&str>) -> bool {
    domain.is_none_or(|domain| domain_of(reporter(row)) == domain)
}

fn reporter(row: &ReportRow) -> &str {
    row.reporter.as_ref().map_or("", |reporter| &reporter.user)
}

fn place_of(key: &[u8]) -> io::Result<ReportPlace> {
    match keys::report_of(key)? {
        ReportKey::Open(place) | ReportKey::Resolved(place) => Ok(place),
        ReportKey::Sum | ReportKey::Evidence(_) | ReportKey::OfUser(_) => Err(broken("key of a report")),
    }
}

pub(super) fn decode<M: Message + Default>(value: &[u8]) -> io::Result<M> {
    M::decode(value).map_err(|_| broken("row of a report"))
}
