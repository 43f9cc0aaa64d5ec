//! The type of a file, by its first bytes, and how it may be shown.

/// Bytes at the beginning by which the type is found.
pub(super) const LOOKED_AT: usize = 8 * 1024;
pub(super) const UNKNOWN: &str = "application/octet-stream";

/// Types that a browser shows without running anything. Everything else is a download.
const SHOWN: [&str; 16] = [
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "image/avif",
    "image/bmp",
    "audio/mpeg",
    "audio/ogg",
    "audio/opus",
    "audio/m4a",
    "audio/aac",
    "audio/x-flac",
    "audio/x-wav",
    "video/mp4",
    "video/webm",
    "video/quicktime",
];

/// The type of a file that begins with these bytes. No name and no claim decides it.
pub(super) fn of_content(first: &[u8]) -> &'static str {
    infer::get(first).map_or(UNKNOWN, |kind| kind.mime_type())
}

/// The type that others are told over HTTP, and whether a browser may show the file. What a browser could run has no type of its own.
pub(super) fn served(media_type: &str) -> (&'static str, bool) {
    match SHOWN.iter().find(|shown| **shown == media_type) {
        Some(shown) => (shown, true),
        None => (UNKNOWN, false),
    }
}

/// `Content-Disposition` (RFC 6266), with the name in both forms: in ASCII, and in UTF-8 (RFC 8187).
pub(super) fn disposition(is_shown: bool, name: &str) -> String {
    use std::fmt::Write as _;
    let kind = if is_shown { "inline" } else { "attachment" };
    if name.is_empty() {
        return kind.to_owned();
    }
    let ascii: String = name.chars().map(|char| if is_plain(char) { char } else { '_' }).collect();
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_') {
            encoded.push(char::from(byte));
        } else {
            // A String takes everything.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    format!("{kind}; filename=\"{ascii}\"; filename*=UTF-8''{encoded}")
}

fn is_plain(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '.' | '-' | '_' | ' ' | '(' | ')' | '+' | ',' | '=')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_content_decides_and_what_could_run_is_a_download() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
        assert_eq!(served(of_content(png)), ("image/png", true));
        for content in [
            &b"<!DOCTYPE html><script>alert(1)</script>"[..],
            b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>",
            b"<?xml version='1.0'?><x/>",
            b"%PDF-1.7",
            b"MZ\x90\0",
            b"hello",
            b"",
        ] {
            assert_eq!(served(of_content(content)), (UNKNOWN, false), "{content:?}");
        }
        for claimed in ["text/html", "image/svg+xml", "image/png; charset=x", "IMAGE/PNG", "image/png\r\nX: y"] {
            assert!(!served(claimed).1, "{claimed}");
        }
    }

    #[test]
    fn names_keep_what_they_say_and_nothing_else() {
        assert_eq!(
            disposition(false, "größe \"x\"\r\nX: 1.png"),
            "attachment; filename=\"gr__e _x___X_ 1.png\"; \
             filename*=UTF-8''gr%C3%B6%C3%9Fe%20%22x%22%0D%0AX%3A%201.png"
        );
        assert_eq!(disposition(true, ""), "inline");
        assert!(!disposition(false, "../../etc/passwd").contains('/'));
    }

    proptest! {
        #[test]
        fn every_name_makes_a_header_of_one_line(name in ".{0,100}") {
            let header = disposition(false, &name);
            prop_assert!(header.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{}", header);
            prop_assert_eq!(header.matches('"').count(), if name.is_empty() { 0 } else { 2 });
        }

        #[test]
        fn any_bytes_have_a_type(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            served(of_content(&bytes));
        }
    }
}
