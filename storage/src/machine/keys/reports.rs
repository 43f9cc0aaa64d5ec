//! Keys of reports in timeline shards.

use std::{io, ops::RangeInclusive};

use carillon_proto::pb::store::ReportPlace;

use super::{REPORT, RowBytes, broken, key, number_of};

const SUM: u8 = 1;
const OPEN: u8 = 2;
const RESOLVED: u8 = 3;
const EVIDENCE: u8 = 4;
const OF_USER: u8 = 5;

/// The parts of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReportKey<'a> {
    Sum,
    Open(ReportPlace),
    Resolved(ReportPlace),
    Evidence(ReportPlace),
    OfUser(&'a str),
}

/// The key of what the shard's reports come to.
pub(crate) fn report_sum() -> RowBytes {
    key(REPORT, &[&[SUM]])
}

pub(crate) fn report(place: ReportPlace, resolved: bool) -> RowBytes {
    at(if resolved { RESOLVED } else { OPEN }, place)
}

/// The range of reports that are open, or resolved, after this one; `None`: all.
pub(crate) fn reports_after(after: Option<ReportPlace>, resolved: bool) -> RangeInclusive<RowBytes> {
    let begin =
        after.map_or_else(|| report(ReportPlace::default(), resolved), |after| super::after(&report(after, resolved)));
    begin..=report(ReportPlace { time_ms: u64::MAX, id: u64::MAX }, resolved)
}

/// The range of all reports without their messages: the open ones, then the resolved ones.
pub(crate) fn all_reports() -> RangeInclusive<RowBytes> {
    key(REPORT, &[&[OPEN]])..=key(REPORT, &[&[EVIDENCE]])
}

/// The key of the messages of a report.
pub(crate) fn report_evidence(place: ReportPlace) -> RowBytes {
    at(EVIDENCE, place)
}

/// The key of the reports of a user.
pub(crate) fn reports_of(user: &[u8]) -> RowBytes {
    key(REPORT, &[&[OF_USER], user])
}

fn at(kind: u8, ReportPlace { time_ms, id }: ReportPlace) -> RowBytes {
    key(REPORT, &[&[kind], &time_ms.to_be_bytes(), &id.to_be_bytes()])
}

pub(crate) fn report_of(key: &[u8]) -> io::Result<ReportKey<'_>> {
    let broken = || broken("key of a report");
    let place = |rest: &[u8]| match rest.len() {
        16 => Ok(ReportPlace { time_ms: number_of(&rest[..8])?, id: number_of(&rest[8..])? }),
        _ => Err(broken()),
    };
    match key {
        [REPORT, SUM] => Ok(ReportKey::Sum),
        [REPORT, OPEN, rest @ ..] => place(rest).map(ReportKey::Open),
        [REPORT, RESOLVED, rest @ ..] => place(rest).map(ReportKey::Resolved),
        [REPORT, EVIDENCE, rest @ ..] => place(rest).map(ReportKey::Evidence),
        [REPORT, OF_USER, user @ ..] if !user.is_empty() => {
            std::str::from_utf8(user).map(ReportKey::OfUser).map_err(|_| broken())
        }
        _ => Err(broken()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::machine::keys::all_ended_senders;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn keys_of_reports_are_read_back_and_stand_in_the_order_of_their_times(
            user in "[a-z0-9é.]{1,20}", a in any::<(u64, u64)>(), b in any::<(u64, u64)>(), resolved in any::<bool>(),
        ) {
            let [one, other] = [a, b].map(|(time_ms, id)| ReportPlace { time_ms, id });
            let read = |key: &RowBytes| report_of(key).map(|read| format!("{read:?}"));
            let of = if resolved { ReportKey::Resolved(one) } else { ReportKey::Open(one) };
            prop_assert_eq!(read(&report(one, resolved)).expect("reads"), format!("{of:?}"));
            let of = format!("{:?}", ReportKey::Evidence(one));
            prop_assert_eq!(read(&report_evidence(one)).expect("reads"), of);
            let of = format!("{:?}", ReportKey::OfUser(&user));
            prop_assert_eq!(read(&reports_of(user.as_bytes())).expect("reads"), of);
            prop_assert_eq!(read(&report_sum()).expect("reads"), format!("{:?}", ReportKey::Sum));
            prop_assert_eq!(report(one, resolved).cmp(&report(other, resolved)), a.cmp(&b));
            prop_assert_eq!(reports_after(Some(one), resolved).contains(&report(other, resolved)), b > a);
            prop_assert!(reports_after(None, resolved).contains(&report(one, resolved)));
            prop_assert!(!reports_after(None, resolved).contains(&report(one, !resolved)));
            prop_assert!(all_reports().contains(&report(one, resolved)));
            for row in [report(one, resolved), report_evidence(one), reports_of(user.as_bytes()), report_sum()] {
                prop_assert!(!all_ended_senders().contains(&row));
                prop_assert!(report_of(&[&*row, b"\xff"].concat()).is_err());
            }
            prop_assert!(!all_reports().contains(&report_evidence(one)) && !all_reports().contains(&report_sum()));
        }

        #[test]
        fn other_bytes_are_no_key_of_a_report(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if bytes.first() != Some(&REPORT) {
                prop_assert!(report_of(&bytes).is_err());
            }
        }
    }

    #[test]
    fn layouts_never_change() {
        let place = ReportPlace { time_ms: 1, id: 2 };
        let rest = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2];
        assert_eq!(*report_sum(), [0x18, 1]);
        assert_eq!(*report(place, false), [&[0x18, 2][..], &rest].concat());
        assert_eq!(*report(place, true), [&[0x18, 3][..], &rest].concat());
        assert_eq!(*report_evidence(place), [&[0x18, 4][..], &rest].concat());
        assert_eq!(*reports_of(b"al"), [0x18, 5, b'a', b'l']);
    }
}
