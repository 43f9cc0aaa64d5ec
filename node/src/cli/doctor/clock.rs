//! How far this machine's clock is from those of other nodes, by the `date` of their answers, which is in whole seconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{super::date, report::Check};

/// From here on people notice it, in the times of messages.
const NOTICED: Duration = Duration::from_secs(3);

/// One answer of another node: it was made between `asked` and `heard`, at a moment within the second `date`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) peer: String,
    pub(super) asked: SystemTime,
    pub(super) heard: SystemTime,
    /// Seconds since 1970; `None` if the answer did not tell it.
    pub(super) date: Option<u64>,
}

/// How far the other clock is ahead, in milliseconds: between these two.
type Ahead = (i64, i64);

/// `leeway_s`: how far the clock of who issues users' tokens may be ahead.
pub(super) fn examine(check: &mut Check<'_>, answers: &[Answered], leeway_s: u64) {
    const WHY: &str =
        "it counts for the times of messages, for how long tokens and certificates are valid, and in logs";
    if answers.is_empty() {
        return check.not_checked("clock", "no other node has answered, so there is no clock to compare with");
    }
    for answer in answers {
        let Some((least, most)) = ahead(answer) else {
            check.not_checked(format!("clock of {}", answer.peer), "its answer did not tell the time");
            continue;
        };
        // As near to 0 as it may be.
        let nearest = if least > 0 { least } else { most.min(0) };
        let off = Duration::from_millis(nearest.unsigned_abs());
        let which = if nearest > 0 { "ahead of" } else { "behind" };
        let seconds = off.as_secs_f64();
        let found = format!("the clock of {} is {seconds:.1} s {which} this one: {WHY}", answer.peer);
        let remedy = "synchronise the clocks (NTP); find out which one is wrong";
        if off >= Duration::from_secs(leeway_s).max(NOTICED) {
            check.fault(found, remedy);
        } else if off >= NOTICED {
            check.warning(found, remedy);
        } else {
            let within = (least.unsigned_abs().max(most.unsigned_abs())).div_ceil(1000);
            check.ok(format!("the clock of {} agrees with this one within {within} s", answer.peer));
        }
    }
}

fn ahead(answer: &Answered) -> Option<Ahead> {
    let ms = |time: SystemTime| Some(time.duration_since(UNIX_EPOCH).ok()?.as_millis() as i64);
    let date = i64::try_from(answer.date?).ok()?.checked_mul(1000)?;
    Some((date.checked_sub(ms(answer.heard)?)?, date.checked_add(1000)?.checked_sub(ms(answer.asked)?)?))
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

    #[test]
    fn only_what_is_certainly_wrong_is_told() {
        let at = |ms: u64| UNIX_EPOCH + Duration::from_millis(ms);
        let worst = |date: Option<u64>| {
            let mut report = Report::default();
            // Asked at 1000.9 s, heard at 1001.2 s.
            let answer = Answered { peer: "a:1".into(), asked: at(1_000_900), heard: at(1_001_200), date };
            examine(&mut report.check("clock"), &[answer], 30);
            (report.worst(), report.to_string())
        };
        for well in [1000, 1001, 1003, 998] {
            assert_eq!(worst(Some(well)).0, Severity::Ok, "{well}");
        }
        let (severity, text) = worst(Some(1005));
        assert!(severity == Severity::Warning && text.contains("3.8 s ahead of"), "{text}");
        let (severity, text) = worst(Some(900));
        assert!(severity == Severity::Fault && text.contains("99.9 s behind"), "{text}");
        assert_eq!(worst(None).0, Severity::NotChecked);
        let mut report = Report::default();
        examine(&mut report.check("clock"), &[], 30);
        assert_eq!(report.worst(), Severity::NotChecked);
    }
}
