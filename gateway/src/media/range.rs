//! Ranges of bytes, as HTTP has them (RFC 9110, section 14).

use std::ops::Range;

/// The part of a file that a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// RFC 9110, section 14.2: a header that can't be read, or asks for several ranges, may be ignored.
    Whole,
    Part(Range<u64>),
    /// Nothing of the file is in the range.
    Outside,
}

/// Reads `Range` for a file of this size, which is not 0.
pub(super) fn asked(header: Option<&str>, size: u64) -> Asked {
    let Some((first, last)) =
        header.and_then(|header| header.trim().strip_prefix("bytes=")).and_then(|range| range.split_once('-'))
    else {
        return Asked::Whole;
    };
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1),
        (Some(first), None) if last.trim().is_empty() => first..size,
        // The last bytes.
        (None, Some(length)) if first.trim().is_empty() => size.saturating_sub(length)..size,
        _ => return Asked::Whole,
    };
    let range = range.start..range.end.min(size);
    if range.is_empty() { Asked::Outside } else { Asked::Part(range) }
}

/// `Content-Range` of an upload: the bytes that follow, and the size of the whole file. `Err` if it can't be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Bytes {
        range: Range<u64>,
        size: u64,
    },
    /// `bytes */SIZE`: none.
    Nothing {
        size: u64,
    },
}

pub(super) fn sent(header: &str) -> Option<Sent> {
    let (range, size) = header.trim().strip_prefix("bytes ")?.split_once('/')?;
    let size = number(size)?;
    if range.trim() == "*" {
        return Some(Sent::Nothing { size });
    }
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last && last < size).then(|| Sent::Bytes { range: first..last + 1, size })
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    // `parse` takes a plus, too.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_given_and_anything_else_is_the_whole_file() {
        for (header, expected) in [
            ("bytes=0-0", Asked::Part(0..1)),
            ("bytes=2-4", Asked::Part(2..5)),
            ("bytes=2-", Asked::Part(2..10)),
            ("bytes=-3", Asked::Part(7..10)),
            ("bytes=-99", Asked::Part(0..10)),
            ("bytes=8-99", Asked::Part(8..10)),
            ("bytes=0-18446744073709551615", Asked::Part(0..10)),
            ("bytes=10-", Asked::Outside),
            ("bytes=10-11", Asked::Outside),
            ("bytes=-0", Asked::Outside),
            ("bytes=4-2", Asked::Whole),
            ("bytes=0-1,3-4", Asked::Whole),
            ("bytes=+1-2", Asked::Whole),
            ("bytes=18446744073709551616-", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("lines=1-2", Asked::Whole),
            ("", Asked::Whole),
        ] {
            assert_eq!(asked(Some(header), 10), expected, "{header}");
        }
        assert_eq!(asked(None, 10), Asked::Whole);
    }

    #[test]
    fn an_upload_says_which_bytes_follow() {
        assert_eq!(sent("bytes 0-9/10"), Some(Sent::Bytes { range: 0..10, size: 10 }));
        assert_eq!(sent("bytes 4-9/10"), Some(Sent::Bytes { range: 4..10, size: 10 }));
        assert_eq!(sent("bytes */10"), Some(Sent::Nothing { size: 10 }));
        for wrong in ["bytes 0-10/10", "bytes 5-4/10", "bytes 0-9/*", "bytes 0-9", "items 0-9/10", "bytes -9/10", ""] {
            assert_eq!(sent(wrong), None, "{wrong}");
        }
    }
}
