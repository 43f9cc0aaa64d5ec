//! Characters and names (XML 1.0, sections 2.2 and 2.3; Namespaces in XML 1.0, section 3).

/// Whether the text has only characters that XML has (production `Char`).
pub(crate) fn all_allowed(text: &str) -> bool {
    // Control characters are single bytes in UTF-8; the two forbidden characters above them are EF BF BE and EF BF BF.
    let control = text.bytes().any(|byte| byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r'));
    !control
        && !memchr::memchr_iter(0xef, text.as_bytes())
            .any(|at| matches!(text.as_bytes()[at..], [0xef, 0xbf, 0xbe | 0xbf, ..]))
}

pub(crate) fn is_allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

pub(crate) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// A name without a colon (production `NCName`).
pub(crate) fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    match bytes.first() {
        Some(first) if first.is_ascii_alphabetic() && bytes.iter().all(|byte| plain(*byte)) => true,
        Some(_) => {
            let mut chars = text.chars();
            chars.next().is_some_and(starts_name) && chars.all(|c| starts_name(c) || continues_name(c))
        }
        None => false,
    }
}

/// Production `NameStartChar` without the colon.
fn starts_name(c: char) -> bool {
    matches!(c,
        'A'..='Z' | '_' | 'a'..='z' | '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}' | '\u{f8}'..='\u{2ff}'
        | '\u{370}'..='\u{37d}' | '\u{37f}'..='\u{1fff}' | '\u{200c}'..='\u{200d}' | '\u{2070}'..='\u{218f}'
        | '\u{2c00}'..='\u{2fef}' | '\u{3001}'..='\u{d7ff}' | '\u{f900}'..='\u{fdcf}' | '\u{fdf0}'..='\u{fffd}'
        | '\u{10000}'..='\u{effff}')
}

/// What `NameChar` has in addition.
fn continues_name(c: char) -> bool {
    matches!(c, '-' | '.' | '0'..='9' | '\u{b7}' | '\u{300}'..='\u{36f}' | '\u{203f}'..='\u{2040}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_allowed_is_is_allowed_of_each() {
        for c in (0..=0x10ffff).filter_map(char::from_u32) {
            assert_eq!(all_allowed(&format!("a{c}b")), is_allowed(c), "{:x}", u32::from(c));
        }
    }

    #[test]
    fn names_have_no_colon_and_begin_with_a_letter() {
        for name in ["a", "_", "a-1.b_c", "é", "元素", "aé·"] {
            assert!(is_name(name), "{name}");
        }
        for not in ["", "1a", "-a", ".a", "a:b", ":", "a b", "·a", "a/", "a\u{d7}", "a=", "\u{f0000}", "a\u{37e}"] {
            assert!(!is_name(not), "{not}");
        }
    }
}
