//! Times (XEP-0082, profile DateTime), in milliseconds since 1970.

use carillon_proto::date::{self, YEAR_10_000_MS};

/// The time in UTC. The milliseconds are there only if they are not zero.
pub fn format(ms: u64) -> String {
    let mut text = date::format(ms);
    let fraction = ms % 1000;
    if fraction > 0 {
        // The last character is the zone.
        text.truncate(text.len() - 1);
        text.push_str(&format!(".{fraction:03}Z"));
    }
    text
}

/// The time of `CCYY-MM-DDThh:mm:ss[.sss]TZD`. Digits below a millisecond are cut off. `None` if the text is no such time, or one before
/// 1970 or after 9999 in UTC, which could not be written.
///
/// XEP-0082, section 3.2: "The Time Zone Definition is mandatory and MUST be either UTC (denoted by addition of the character 'Z' to the end
/// of the string) or some offset from UTC (denoted by addition of '[+|-]' and 'hh:mm' to the end of the string). The fractions of a second
/// are optional".
pub fn parse(text: &str) -> Option<u64> {
    // The length is bounded, because a fraction may have any number of digits.
    if text.len() > 64 || !text.is_ascii() {
        return None;
    }
    let (local, behind) = text.split_at_checked("1970-01-01T00:00:00".len())?;
    let whole_seconds = date::parse(&format!("{local}Z"))?;
    let zone = behind.find(['Z', '+', '-'])?;
    let (fraction, zone) = behind.split_at(zone);
    let local = whole_seconds + milliseconds(fraction)?;
    let (sign, offset) = zone.split_at(1);
    let utc = match (sign, offset) {
        ("Z", "") => local,
        ("Z", _) => return None,
        _ => {
            let (hours, minutes) = offset.split_once(':')?;
            let offset = (number(hours, 23)? * 60 + number(minutes, 59)?) * 60_000;
            // A zone in the east is ahead.
            if sign == "+" { local.checked_sub(offset)? } else { local.checked_add(offset)? }
        }
    };
    (utc < YEAR_10_000_MS).then_some(utc)
}

/// The milliseconds of `.sss`.
fn milliseconds(fraction: &str) -> Option<u64> {
    if fraction.is_empty() {
        return Some(0);
    }
    let digits = fraction.strip_prefix('.').filter(|digits| !digits.is_empty())?;
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    format!("{digits:0<3}")[..3].parse().ok()
}

/// A number of two digits.
fn number(text: &str, max: u64) -> Option<u64> {
    let is_number = text.len() == 2 && text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|number| is_number && *number <= max)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// XEP-0082, section 3.2: "The Time Zone Definition is mandatory".
    #[test]
    fn times_are_read_in_every_zone_and_written_in_utc() {
        for (text, ms, written) in [
            ("2002-09-10T23:08:25Z", 1_031_699_305_000, "2002-09-10T23:08:25Z"),
            ("2010-08-07T00:00:00.250Z", 1_281_139_200_250, "2010-08-07T00:00:00.250Z"),
            ("2010-08-07T00:00:00.2Z", 1_281_139_200_200, "2010-08-07T00:00:00.200Z"),
            ("2010-08-07T00:00:00.123456789Z", 1_281_139_200_123, "2010-08-07T00:00:00.123Z"),
            ("2010-08-07T02:30:00+02:30", 1_281_139_200_000, "2010-08-07T00:00:00Z"),
            ("9999-12-31T23:58:59.999-00:01", 253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
            ("2010-08-06T19:00:00.001-05:00", 1_281_139_200_001, "2010-08-07T00:00:00.001Z"),
        ] {
            assert_eq!((parse(text), format(ms).as_str()), (Some(ms), written), "{text}");
        }
        for wrong in [
            "",
            "1969-07-21T02:56:15Z",
            "2010-08-07",
            "2010-08-07T00:00:00",
            "2010-08-07T00:00:00.Z",
            "2010-08-07T00:00:00.1xZ",
            "2010-08-07T00:00:00Zx",
            "2010-08-07T00:00:00+0200",
            "2010-08-07T00:00:00+24:00",
            "2010-08-07T00:00:00+2:000",
            "2010-08-07T00:00:00+02:60",
            "2010-08-07T00:00:00++2:00",
            "2010-13-07T00:00:00Z",
            "20100807T00:00:00",
            "1970-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-00:01",
            "2010-08-07T00:00:00\u{e9}",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert_eq!(parse(&format!("2010-08-07T00:00:00.{}Z", "0".repeat(100))), None);
    }
}
