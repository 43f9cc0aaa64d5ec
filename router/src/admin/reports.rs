//! Reports of users, for moderators. See docs/adr/0035-reports.md.

use std::fmt;

use carillon_media::{
    Version,
    pass::{Pass, PassKeys, Purpose, Whose},
};
use carillon_proto::{
    Level, MediaId, ShardId, ShardKind, now_ms,
    pb::{
        admin::{
            ListReportsReply, ListReportsRequest, ReadReportFileReply, ReadReportFileRequest, ReadReportReply,
            ReadReportRequest, ReportId, ResolveReportReply, ResolveReportRequest, list_reports_reply::Row,
        },
        store::{
            MediaRow, ReadMedia, ReadReport, ReadReports, ReportPlace, ReportRead, ReportsRead, SettleReport,
            TimelineCommand, media_row::State, store_request::Op, timeline_command,
        },
    },
};
use futures_util::future::join_all;
use tonic::Status;

use super::{Admin, PAGE, failed, scope::Scope};
use crate::store::{StoreAnswer, StoreFailure};

/// Reports of all shards stand in the order of these: time, shard, id.
type Order = (u64, u16, u64);

impl Admin {
    pub(super) async fn reports(&self, scope: &Scope, request: ListReportsRequest) -> Result<ListReportsReply, Status> {
        self.has_reports()?;
        let ListReportsRequest { after, limit, resolved, domain } = request;
        let domain = match scope.domain() {
            None => domain,
            Some(own) if domain.as_ref().is_none_or(|domain| domain == own) => Some(own.to_owned()),
            Some(_) => return Err(Status::permission_denied("the token is another domain's")),
        };
        let limit = if limit == 0 { PAGE } else { limit.min(PAGE) };
        let after = after.as_ref().map(named).transpose()?.map(|(shard, place)| order(shard, place));
        let shards = self.shards()?.all().filter(|shard| shard.kind == ShardKind::Timeline);
        let reads = shards.map(|shard| {
            let after = after.and_then(|after| after_in(shard, after));
            let read = ReadReports { after, limit, resolved, domain: domain.clone() };
            async move {
                match self.call(shard, Op::ReadReports(read)).await {
                    Ok(StoreAnswer::ReportsRead(read)) => Ok((shard, read)),
                    other => Err(failed(other)),
                }
            }
        });
        let read = join_all(reads).await.into_iter().collect::<Result<Vec<_>, Status>>()?;
        Ok(merged(read, limit as usize))
    }

    pub(super) async fn report(&self, scope: &Scope, request: ReadReportRequest) -> Result<ReadReportReply, Status> {
        self.has_reports()?;
        let (shard, place) = self.known(request.id.as_ref())?;
        let ReportRead { row, evidence } = self.read_report_at(scope, shard, place).await?;
        Ok(ReadReportReply { row, evidence })
    }

    /// Where a file can be downloaded to which a message of the report refers.
    pub(super) async fn reported_file(
        &self,
        scope: &Scope,
        request: &ReadReportFileRequest,
    ) -> Result<ReadReportFileReply, Status> {
        self.has_reports()?;
        let (shard, place) = self.known(request.id.as_ref())?;
        let row = self.read_report_at(scope, shard, place).await?.row.unwrap_or_default();
        let no_file = |why: &str| Status::not_found(why);
        if !row.media.contains(&request.file) {
            return Err(no_file("the report refers to no such file"));
        }
        let no_place =
            || Status::failed_precondition("this router does not know where files are: media.place is not set");
        let media = self.media.as_ref().ok_or_else(no_place)?;
        let shards = self.shards()?;
        let named = MediaId::from_bytes(&request.file).and_then(|id| Some((id, id.shard(shards)?)));
        let (id, home) = named.ok_or_else(|| no_file("there is no such file"))?;
        let file = match self.call(home, Op::ReadMedia(ReadMedia { id: request.file.clone() })).await {
            Ok(StoreAnswer::MediaRead(read)) => read.row.unwrap_or_default(),
            Err(StoreFailure::NotFound { .. }) => return Err(no_file("the file went with its owner")),
            other => return Err(failed(other)),
        };
        let is_whole = file.state() == State::Complete;
        let MediaRow { size_bytes, media_type, name, sha256, .. } = file;
        let version = Version::of_row(&sha256).filter(|_| is_whole);
        let version = version.ok_or_else(|| no_file("the file has never been whole"))?;
        let expires_ms = now_ms().saturating_add(u64::from(media.download_url_s) * 1000);
        let whose = Whose::MODERATORS;
        let to = Purpose::Download { version, media_type: media_type.clone(), name: name.clone(), whose };
        let url = PassKeys::of(&self.security).url(&media.url, &Pass { id, size_bytes, expires_ms, to });
        let url = url.ok_or_else(|| Status::failed_precondition("this router does not know the gateways' token"))?;
        tracing::info!(by = %scope, report = %Named(shard, place), file = %id, "a moderator got the address of a reported file");
        Ok(ReadReportFileReply { url, expires_ms, size_bytes, media_type, name })
    }

    pub(super) async fn resolve(
        &self,
        scope: &Scope,
        request: ResolveReportRequest,
    ) -> Result<ResolveReportReply, Status> {
        self.has_reports()?;
        let (shard, place) = self.known(request.id.as_ref())?;
        let ResolveReportRequest { note, remove, .. } = request;
        if remove || *scope != Scope::Operator {
            // To the store, one that is not there is removed already.
            self.read_report_at(scope, shard, place).await?;
        }
        let settle = SettleReport { place: Some(place), time_ms: now_ms(), note, remove };
        let op = timeline_command::Op::SettleReport(settle);
        match self.call(shard, Op::Timeline(TimelineCommand { op: Some(op) })).await {
            Ok(StoreAnswer::Done(_)) => {
                tracing::info!(by = %scope, report = %Named(shard, place), remove, "a moderator has settled a report");
                // The worker counts again.
                self.nudges.nudge(shard);
                Ok(ResolveReportReply {})
            }
            other => Err(failed(other)),
        }
    }

    /// A report of a user whom the caller administers.
    async fn read_report_at(&self, scope: &Scope, shard: ShardId, place: ReportPlace) -> Result<ReportRead, Status> {
        let read = match self.call(shard, Op::ReadReport(ReadReport { place: Some(place) })).await {
            Ok(StoreAnswer::ReportRead(read)) => *read,
            other => return Err(failed(other)),
        };
        let reporter = read.row.as_ref().and_then(|row| row.reporter.as_ref());
        if *scope == Scope::Operator || reporter.is_some_and(|reporter| scope.has(&reporter.user)) {
            return Ok(read);
        }
        Err(Status::not_found("there is no such report of the domain of this token"))
    }

    fn known(&self, id: Option<&ReportId>) -> Result<(ShardId, ReportPlace), Status> {
        let (shard, place) = named(id.unwrap_or(&ReportId::default()))?;
        match self.shards()?.all().any(|known| known == shard) {
            true => Ok((shard, place)),
            false => Err(Status::not_found(format!("there is no shard {shard}"))),
        }
    }

    fn has_reports(&self) -> Result<(), Status> {
        let (level, needed) = (Level(self.topology.borrow().view.level), Level::GROUPS);
        if level >= needed {
            return Ok(());
        }
        Err(Status::failed_precondition(format!("the cluster is at level {level}; reports need level {needed}")))
    }
}

/// The first reports of all shards, in order. What stands behind the place up to which a shard was read waits for the next page: others of
/// that shard may belong before it.
fn merged(read: Vec<(ShardId, ReportsRead)>, limit: usize) -> ListReportsReply {
    let ends = read.iter().filter_map(|(shard, read)| Some(order(*shard, read.next?)));
    let end: Option<Order> = ends.min();
    let rows = read.into_iter().flat_map(|(shard, read)| {
        let named = |row: carillon_proto::pb::store::reports_read::Row| Some((order(shard, row.place?), row.row));
        read.reports.into_iter().filter_map(named).collect::<Vec<_>>()
    });
    let mut rows: Vec<_> = rows.filter(|(at, _)| end.is_none_or(|end| *at <= end)).collect();
    rows.sort_by_key(|(at, _)| *at);
    let cut = rows.len() > limit;
    rows.truncate(limit);
    let next = if cut { rows.last().map(|(at, _)| *at) } else { end };
    let reports = rows.into_iter().map(|(at, row)| Row { id: Some(id(at)), row }).collect();
    ListReportsReply { reports, next: next.map(id) }
}

/// A report as `carillon reports` shows it.
struct Named(ShardId, ReportPlace);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(shard, ReportPlace { time_ms, id }) = self;
        write!(f, "{shard}/{time_ms}/{id}")
    }
}

fn order(shard: ShardId, ReportPlace { time_ms, id }: ReportPlace) -> Order {
    (time_ms, shard.index, id)
}

fn id((time_ms, index, id): Order) -> ReportId {
    let shard = ShardId { kind: ShardKind::Timeline, index };
    ReportId { shard: Some(shard.to_pb()), place: Some(ReportPlace { time_ms, id }) }
}

/// Where the reports of this shard go on behind the one that is named; `None`: at the first.
fn after_in(shard: ShardId, (time_ms, index, id): Order) -> Option<ReportPlace> {
    match shard.index.cmp(&index) {
        std::cmp::Ordering::Less => Some(ReportPlace { time_ms, id: u64::MAX }),
        std::cmp::Ordering::Equal => Some(ReportPlace { time_ms, id }),
        std::cmp::Ordering::Greater => time_ms.checked_sub(1).map(|time_ms| ReportPlace { time_ms, id: u64::MAX }),
    }
}

fn named(id: &ReportId) -> Result<(ShardId, ReportPlace), Status> {
    let shard = id.shard.as_ref().and_then(ShardId::from_pb).filter(|shard| shard.kind == ShardKind::Timeline);
    let named = shard.zip(id.place);
    named.ok_or_else(|| Status::invalid_argument("the request names no report"))
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::store::{ReportRow, reports_read};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever the shards hold, and wherever their reads end.
        #[test]
        fn pages_of_all_shards_have_each_report_once_in_the_order_of_their_times(
            times in proptest::collection::vec(proptest::collection::vec(0..9u64, 0..12), 1..4), limit in 1..6usize, looks in 1..5usize,
        ) {
            let mut all: Vec<Order> = Vec::new();
            for (index, times) in (0..).zip(&times) {
                all.extend((1..).zip(times).map(|(id, time_ms)| (*time_ms, index, id)));
            }
            all.sort_unstable();
            let mut listed: Vec<Order> = Vec::new();
            let mut after: Option<Order> = None;
            for _ in 0..1000 {
                let read = (0..times.len() as u16).map(|index| {
                    let shard = ShardId { kind: ShardKind::Timeline, index };
                    let begin = after.and_then(|after| after_in(shard, after)).map(|place| order(shard, place));
                    let of = all.iter().filter(|at| at.1 == index && begin.is_none_or(|begin| **at > begin));
                    let places: Vec<_> = of.map(|at| ReportPlace { time_ms: at.0, id: at.2 }).collect();
                    let next = places.get(looks - 1).copied();
                    // Some are of another domain.
                    let shown = places.into_iter().take(looks).filter(|place| place.id % 3 != 0);
                    let row = |place| reports_read::Row { place: Some(place), row: Some(ReportRow::default()) };
                    (shard, ReportsRead { reports: shown.map(row).collect(), next })
                });
                let page = merged(read.collect(), limit);
                prop_assert!(page.reports.len() <= limit);
                let of = |id: &ReportId| named(id).map(|(shard, place)| order(shard, place)).expect("names one");
                listed.extend(page.reports.iter().map(|row| of(row.id.as_ref().expect("some"))));
                let next = page.next.as_ref().map(of);
                prop_assert!(next.is_none() || next > after, "it goes on");
                after = next;
                if after.is_none() {
                    break;
                }
            }
            prop_assert!(after.is_none(), "it ends");
            all.retain(|at| at.2 % 3 != 0);
            prop_assert_eq!(listed, all);
        }
    }
}
