//! How far this machine's clock is from those of other nodes: by what they answer when they are asked for it, or else by the `date` of their
//! answers, which is in whole seconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{super::date, report::Check};

/// From here on it is noticed. Leases stand any difference: each node counts them by a clock of its own that does not jump. But the times of
/// messages are those of gateways, and `carillon_gateway_delivery_latency_seconds`, which has an alert at this length, compares two of them.
const NOTICED: Duration = Duration::from_millis(250);

/// All looks at the clock of one other node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) peer: String,
    /// Empty if the answers did not tell the time.
    pub(super) looks: Vec<Look>,
}

/// One look at the clock of another node: it is ahead of this one by something between these two, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    least: i64,
    most: i64,
}

impl Look {
    /// The other clock showed `time_us`, in microseconds since 1970, at a moment between `asked` and `heard`.
    pub(super) fn at(asked: SystemTime, heard: SystemTime, time_us: u64) -> Option<Self> {
        Self::within(asked, heard, time_us, 0)
    }

    /// The other clock showed a time within this second since 1970.
    pub(super) fn at_date(asked: SystemTime, heard: SystemTime, seconds: u64) -> Option<Self> {
        Self::within(asked, heard, seconds.checked_mul(1_000_000)?, 1_000_000)
    }

    fn within(asked: SystemTime, heard: SystemTime, time_us: u64, span_us: i64) -> Option<Self> {
        let us = |time: SystemTime| i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_micros()).ok();
        let time = i64::try_from(time_us).ok()?;
        Some(Self { least: time.checked_sub(us(heard)?)?, most: time.checked_add(span_us)?.checked_sub(us(asked)?)? })
    }

    /// The middle of what is possible, and how far from it the truth may be.
    fn middle(self) -> (Duration, Duration) {
        let middle = self.least.midpoint(self.most);
        (
            Duration::from_micros(middle.unsigned_abs()),
            Duration::from_micros(self.least.abs_diff(self.most).div_ceil(2)),
        )
    }

    /// As near to 0 as it may be.
    fn nearest(self) -> i64 {
        if self.least > 0 { self.least } else { self.most.min(0) }
    }
}

/// `leeway_s`: how far the clock of who issues users' tokens may be ahead.
pub(super) fn examine(check: &mut Check<'_>, answers: &[Answered], leeway_s: u64) {
    const WHY: &str =
        "it counts for the times of messages, for how long tokens and certificates are valid, and in metrics and logs";
    if answers.is_empty() {
        return check.not_checked("clock", "no other node has answered, so there is no clock to compare with");
    }
    for Answered { peer, looks } in answers {
        // The sharpest.
        let Some(look) = looks.iter().min_by_key(|look| look.least.abs_diff(look.most)) else {
            check.not_checked(format!("clock of {peer}"), "its answer did not tell the time");
            continue;
        };
        let nearest = look.nearest();
        let off = Duration::from_micros(nearest.unsigned_abs());
        let which = if nearest > 0 { "ahead of" } else { "behind" };
        let (middle, error) = look.middle();
        let (seconds, error) = (middle.as_secs_f64(), error.as_secs_f64());
        let found = format!("the clock of {peer} is {seconds:.3} s {which} this one, give or take {error:.3} s: {WHY}");
        let remedy = "synchronise the clocks (NTP); find out which one is wrong";
        if off >= Duration::from_secs(leeway_s).max(NOTICED) {
            check.fault(found, remedy);
        } else if off >= NOTICED {
            check.warning(found, remedy);
        } else {
            let within = Duration::from_micros(look.least.unsigned_abs().max(look.most.unsigned_abs()));
            check.ok(format!("the clock of {peer} agrees with this one within {:.3} s", within.as_secs_f64()));
        }
    }
}

/// Seconds since 1970 of a date as HTTP has it (RFC 9110 section 5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(super) fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.split_once(", ")?;
    let words: Vec<&str> = rest.split(' ').collect();
    let [day, month, year, time, "GMT"] = words.as_slice() else { return None };
    let month = MONTHS.iter().position(|name| name == month)? + 1;
    date::parse(&format!("{year}-{month:02}-{day}T{time}Z")).map(|ms| ms / 1000)
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::{Report, Severity},
        *,
    };

    #[test]
    fn dates_of_http_are_read() {
        for (text, seconds) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Tue, 29 Feb 2028 23:59:59 GMT", 1_835_481_599),
            ("Fri, 01 Mar 2024 00:00:00 GMT", 1_709_251_200),
        ] {
            assert_eq!(http_date(text), Some(seconds), "{text}");
        }
        for wrong in
            ["", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun, 06 Nov 1994 08:49 GMT", "Sun, 99 Nov 1994 08:49:37 GMT"]
        {
            assert_eq!(http_date(wrong), None, "{wrong}");
        }
    }

    fn at(us: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(us)
    }

    fn examined(looks: Vec<Option<Look>>) -> (Severity, String) {
        let mut report = Report::default();
        let looks = looks.into_iter().map(|look| look.expect("after 1970")).collect();
        examine(&mut report.check("clock"), &[Answered { peer: "a:1".into(), looks }], 30);
        (report.worst(), report.to_string())
    }

    #[test]
    fn of_whole_seconds_only_what_is_certainly_wrong_is_told() {
        // Asked at 1000.9 s, heard at 1001.2 s.
        let date = |seconds| Look::at_date(at(1_000_900_000), at(1_001_200_000), seconds);
        for well in [1000, 1001] {
            assert_eq!(examined(vec![date(well)]).0, Severity::Ok, "{well}");
        }
        let (severity, text) = examined(vec![date(1005)]);
        assert!(
            severity == Severity::Warning && text.contains("4.450 s ahead of this one, give or take 0.650 s"),
            "{text}"
        );
        let (severity, text) = examined(vec![date(900)]);
        assert!(severity == Severity::Fault && text.contains("100.550 s behind"), "{text}");
        assert_eq!(examined(vec![]).0, Severity::NotChecked);
        let mut report = Report::default();
        examine(&mut report.check("clock"), &[], 30);
        assert_eq!(report.worst(), Severity::NotChecked);
    }

    #[test]
    fn the_sharpest_of_several_looks_counts() {
        let look = |took_us: u64, ahead_us: i64| {
            let (asked, heard) = (5_000_000_000, 5_000_000_000 + took_us);
            // In the middle of the time that it took.
            Look::at(at(asked), at(heard), (asked + took_us / 2).saturating_add_signed(ahead_us))
        };
        let (severity, text) = examined(vec![look(40_000, 0), look(2_000, 0), look(90_000, 0)]);
        assert!(severity == Severity::Ok && text.contains("agrees with this one within 0.001 s"), "{text}");
        let (severity, text) = examined(vec![look(900_000, -312_000), look(4_000, -312_000)]);
        let said = "0.312 s behind this one, give or take 0.002 s";
        assert!(severity == Severity::Warning && text.contains(said), "{text}");
        assert_eq!(examined(vec![look(4_000, 249_000)]).0, Severity::Ok);
        assert_eq!(examined(vec![look(4_000, 31_000_000)]).0, Severity::Fault);
        // Slow answers prove less.
        assert_eq!(examined(vec![look(900_000, -312_000)]).0, Severity::Ok);
    }
}
