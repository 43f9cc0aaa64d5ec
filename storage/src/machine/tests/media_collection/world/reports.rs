//! Reports, which refer to the files of their messages.

use carillon_proto::{
    MediaId,
    pb::store::{
        PutReport, RemoveReports, ReportEvidence, ReportPlace, ReportReason, SettleReport,
        report_evidence::Message as Evidence, timeline_command::Op,
    },
};

use super::{
    super::acts::{EndOfReport, SENDERS, USERS},
    World, bytes, inbox, pick,
};
use crate::machine::Outcome;

/// A report that is kept.
pub(super) struct Reported {
    shard: usize,
    pub(super) by: usize,
    place: ReportPlace,
    pub(super) media: Vec<MediaId>,
}

impl World {
    pub(super) fn report(&mut self, message: u8, shard: usize, by: usize) {
        let Some(said) = pick(&self.said, message).cloned() else { return };
        self.number += 1;
        let mut media = said.media;
        media.sort_unstable();
        media.dedup();
        let evidence = Evidence { seq: said.seq, envelope: "e".into(), reported: true, ..Evidence::default() };
        let put = PutReport {
            timeline: Some(inbox(SENDERS[by])),
            sender_generation: self.generations[by],
            key: [&self.number.to_be_bytes()[..], &[8; 8]].concat().into(),
            time_ms: self.now_ms,
            conversation: Some(inbox(USERS[said.user])),
            reason: ReportReason::Spam.into(),
            evidence: Some(ReportEvidence { messages: vec![evidence] }),
            authors: vec![SENDERS[said.sender].to_owned()],
            media: media.iter().map(bytes).collect(),
            ..PutReport::default()
        };
        // A user who has too many open ones is refused.
        let Outcome::ReportPut(done) = self.apply(shard, Op::PutReport(Box::new(put.clone()))) else { return };
        // A repeat holds nothing more.
        self.apply(shard, Op::PutReport(Box::new(put)));
        self.reports.push(Reported { shard, by, place: done.place.expect("one"), media });
    }

    pub(super) fn end_report(&mut self, which: u8, how: EndOfReport) {
        let Some(Reported { shard, place, .. }) = pick(&self.reports, which) else { return };
        let (shard, place) = (*shard, *place);
        let remove = matches!(how, EndOfReport::Removed);
        let op = match how {
            EndOfReport::Old => Op::RemoveReports(RemoveReports { places: vec![place] }),
            EndOfReport::Resolved | EndOfReport::Removed => {
                Op::SettleReport(SettleReport { place: Some(place), time_ms: 9, note: String::new(), remove })
            }
        };
        // Also when it is repeated.
        for _ in 0..2 {
            assert!(matches!(self.apply(shard, op.clone()), Outcome::Done(_)));
        }
        if !matches!(how, EndOfReport::Resolved) {
            self.reports_go(|report| (report.shard, report.place) == (shard, place));
        }
    }

    pub(super) fn reports_go(&mut self, is_gone: impl Fn(&Reported) -> bool) {
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.reports).into_iter().partition(is_gone);
        self.reports = kept;
        self.released(gone.into_iter().flat_map(|report| report.media).collect());
    }
}
