//! Times as people write them: RFC 3339, in UTC, to the second.

/// Days in 400 years.
const ERA_DAYS: i64 = 146_097;

/// The first time, in milliseconds since 1970, whose year has five digits. [`parse`] reads only years of four digits.
pub const YEAR_10_000_MS: u64 = 253_402_300_800_000;

/// The text of a time in milliseconds since 1970.
pub fn format(ms: u64) -> String {
    let seconds = ms / 1000;
    let (day, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, date) = civil(i64::try_from(day).unwrap_or(i64::MAX / ERA_DAYS));
    format!("{year:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// "until" this time in milliseconds since 1970, or "for ever" if no clock will come so far.
pub fn until(ms: u64) -> String {
    if ms < YEAR_10_000_MS { format!("until {}", format(ms)) } else { "for ever".to_owned() }
}

/// The time in milliseconds since 1970. `None` if the text is not such a time, or the time is before 1970.
pub fn parse(text: &str) -> Option<u64> {
    let (day, clock) = text.strip_suffix('Z')?.split_once('T')?;
    let [year, month, date] = numbers(day, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let days = days(year, month, date);
    let is_one = civil(days) == (year, month, date) && hour < 24 && minute < 60 && second < 60;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    u64::try_from(seconds).ok().filter(|_| is_one).map(|seconds| seconds * 1000)
}

/// Three numbers with this many digits each.
fn numbers(text: &str, between: char, digits: [usize; 3]) -> Option<[i64; 3]> {
    let mut parts = text.split(between);
    let mut numbers = [0; 3];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part =
            parts.next().filter(|part| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit()))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

/// Days since 1970-01-01. Years begin in March here, so that the leap day is the last one of its year; see Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms".
fn days(year: i64, month: i64, date: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + date - 1;
    era * ERA_DAYS + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month and day of the month.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_700_000_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59Z"),
        ] {
            assert_eq!((format(ms).as_str(), parse(text)), (text, Some(ms)));
        }
        for day in 0..60_000 {
            let ms = day * 86_400_000 + 3_723_000;
            assert_eq!(parse(&format(ms)), Some(ms));
        }
        for wrong in [
            "",
            "2100-02-29T00:00:00Z",
            "2023-13-01T00:00:00Z",
            "2023-00-10T00:00:00Z",
            "2023-11-14T24:00:00Z",
            "2023-11-14 22:13:20Z",
            "2023-11-14T22:13:20",
            "2023-11-14T22:13:20.5Z",
            "1969-12-31T23:59:59Z",
            "02023-11-14T22:13:20Z",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        format(u64::MAX);
        assert_eq!(until(253_402_300_799_999), "until 9999-12-31T23:59:59Z");
        assert_eq!((until(253_402_300_800_000), until(u64::MAX)), ("for ever".to_owned(), "for ever".to_owned()));
    }
}
