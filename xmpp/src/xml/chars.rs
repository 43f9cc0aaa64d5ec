//! Characters and names (XML 1.0, sections 2.2 and 2.3; Namespaces in XML 1.0, section 3).

/// Whether the text has only characters that XML has (production `Char`).
pub(crate) fn all_allowed(text: &str) -> bool {
    // Control characters are single bytes in UTF-8; the two forbidden characters above them are EF BF BE and EF BF BF.
    // Looks at all bytes, so that the compiler can take many at once.
    let is_control = |byte: u8| (byte < 0x20) & (byte != b'\t') & (byte != b'\n') & (byte != b'\r');
    let control = text.bytes().fold(false, |found, byte| found | is_control(byte));
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

/// The characters of production `NameChar` that are not in `NameStartChar`.
fn continues_name(c: char) -> bool {
    matches!(c, '-' | '.' | '0'..='9' | '\u{b7}' | '\u{300}'..='\u{36f}' | '\u{203f}'..='\u{2040}')
}

/// Whether readers of the fourth edition of XML 1.0, too, take the name for one: those of the fifth edition allow more characters. Expat,
/// on which many clients stand, has the fourth edition. Of its letters beyond ASCII these are the common ones.
pub(crate) fn is_old_name(name: &str) -> bool {
    name.is_ascii()
        || name.chars().all(|c| {
            c.is_ascii()
                || matches!(c,
                    '\u{b7}' | '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}' | '\u{f8}'..='\u{131}' | '\u{388}'..='\u{38a}'
                    | '\u{38c}' | '\u{38e}'..='\u{3a1}' | '\u{3a3}'..='\u{3ce}' | '\u{401}'..='\u{40c}' | '\u{40e}'..='\u{44f}'
                    | '\u{451}'..='\u{45c}' | '\u{5d0}'..='\u{5ea}' | '\u{621}'..='\u{63a}' | '\u{3041}'..='\u{3094}'
                    | '\u{30a1}'..='\u{30fa}' | '\u{4e00}'..='\u{9fa5}' | '\u{ac00}'..='\u{d7a3}')
        })
}

/// Whether the name of a namespace has, of ASCII, only characters of URIs (RFC 3986, section 2). Expat refuses others that its user has
/// chosen to stand between a namespace and a name: spaces, line feeds, brackets.
pub(crate) fn is_uri(name: &str) -> bool {
    name.bytes()
        .all(|byte| !byte.is_ascii() || byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte))
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

    #[test]
    fn names_that_only_some_readers_know_are_told_apart() {
        for name in ["message", "é-1·", "Ω", "я", "元素", "한"] {
            assert!(is_name(name) && is_old_name(name), "{name}");
        }
        for name in ["a\u{feff}", "\u{10000}", "\u{2c00}", "\u{37f}", "\u{220}", "a\u{203f}"] {
            assert!(is_name(name) && !is_old_name(name), "{name}");
        }
        assert!(is_uri("http://jabber.org/protocol/muc#user?a=b&c='%20'") && is_uri("urn:bücher") && is_uri(""));
        for name in ["a b", "a\nb", "a}b", "a|b", "a\u{7f}b", "{a}", "a^", "a\"", "<"] {
            assert!(!is_uri(name), "{name}");
        }
    }
}
