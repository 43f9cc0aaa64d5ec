//! Lengths of time in words, for people.

use std::time::Duration;

const UNITS: [(u128, &str); 3] = [(86_400_000, "day"), (3_600_000, "hour"), (60_000, "minute")];

/// For example "10 minutes", "1 hour 30 minutes", "1.5 seconds".
pub fn in_words(duration: Duration) -> String {
    let mut rest_ms = duration.as_millis();
    let mut words = Vec::new();
    for (unit_ms, name) in UNITS {
        let count = rest_ms / unit_ms;
        rest_ms %= unit_ms;
        match count {
            0 => {}
            1 => words.push(format!("1 {name}")),
            _ => words.push(format!("{count} {name}s")),
        }
    }
    match (rest_ms / 1000, rest_ms % 1000) {
        (0, 0) if !words.is_empty() => {}
        (1, 0) => words.push("1 second".to_owned()),
        (seconds, 0) => words.push(format!("{seconds} seconds")),
        (seconds, ms) => words.push(format!("{seconds}.{} seconds", format!("{ms:03}").trim_end_matches('0'))),
    }
    words.join(" ")
}

/// The length of so many milliseconds, in the same words.
pub fn ms_in_words(ms: u64) -> String {
    in_words(Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_told_in_units_that_people_use() {
        for (ms, words) in [
            (0, "0 seconds"),
            (1_000, "1 second"),
            (1_500, "1.5 seconds"),
            (50, "0.05 seconds"),
            (30_000, "30 seconds"),
            (60_000, "1 minute"),
            (90_000, "1 minute 30 seconds"),
            (600_000, "10 minutes"),
            (3_600_000, "1 hour"),
            (5_400_000, "1 hour 30 minutes"),
            (2_592_000_000, "30 days"),
        ] {
            assert_eq!(ms_in_words(ms), words);
        }
        in_words(Duration::MAX);
    }
}
