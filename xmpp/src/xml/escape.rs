//! Escapes of text and of values.

use std::borrow::Cow;

use super::chars;
use crate::error::{StreamCondition, StreamError};

const DANGLING: &str = "an ampersand begins no reference";

/// The character of a reference; `name` is what is between `&` and `;`.
///
/// RFC 6120, section 11.1, prohibits "internal or external entity references (Section 4.2 therein) with the exception of the
/// predefined entities (Section 4.6 therein)".
pub(crate) fn character(name: &str) -> Result<char, StreamError> {
    let dangling = || StreamError::new(StreamCondition::NotWellFormed).with_text(DANGLING);
    let Some(number) = name.strip_prefix('#') else {
        return match name {
            "amp" => Ok('&'),
            "lt" => Ok('<'),
            "gt" => Ok('>'),
            "apos" => Ok('\''),
            "quot" => Ok('"'),
            _ if name.split(':').all(chars::is_name) => Err(StreamError::new(StreamCondition::RestrictedXml)
                .with_text("there are no entities beyond the predefined ones")),
            _ => Err(dangling()),
        };
    };
    let (digits, radix) = number.strip_prefix('x').map_or((number, 10), |digits| (digits, 16));
    // The standard library would take a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(dangling());
    }
    let c = u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
    c.filter(|c| chars::is_allowed(*c)).ok_or_else(|| {
        StreamError::new(StreamCondition::NotWellFormed).with_text("a reference names no character of XML")
    })
}

/// Checks the value of an attribute, as it stands between its quotes.
pub(crate) fn check_value(raw: &str) -> Result<(), StreamError> {
    // Most have neither.
    if memchr::memchr2(b'&', b'<', raw.as_bytes()).is_none() {
        return Ok(());
    }
    if raw.contains('<') {
        return Err(StreamError::new(StreamCondition::NotWellFormed).with_text("a value has a less-than sign"));
    }
    let mut rest = raw;
    while let Some((name, after)) = reference(rest)? {
        character(name)?;
        rest = after;
    }
    Ok(())
}

/// The value of an attribute (XML 1.0, section 3.3.3): white space is spaces, references are their characters. A value that
/// was not checked before may leave references as they are.
pub(crate) fn value(raw: &str) -> Cow<'_, str> {
    if memchr::memchr2(b'&', b'\n', raw.as_bytes()).is_none() && memchr::memchr2(b'\t', b'\r', raw.as_bytes()).is_none()
    {
        return raw.into();
    }
    let mut plain = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Ok(Some((name, after))) = reference(rest) {
        // The reference begins with its ampersand and ends with its semicolon.
        spaces(&rest[..rest.len() - after.len() - name.len() - 2], &mut plain);
        plain.extend(character(name).ok());
        rest = after;
    }
    spaces(rest, &mut plain);
    plain.into()
}

fn spaces(text: &str, plain: &mut String) {
    // A line's end of two characters is one (XML 1.0, section 2.11).
    let mut last = ' ';
    for c in text.chars() {
        match c {
            '\n' if last == '\r' => {}
            '\t' | '\n' | '\r' => plain.push(' '),
            _ => plain.push(c),
        }
        last = c;
    }
}

/// The name of the first reference, and what follows it.
fn reference(text: &str) -> Result<Option<(&str, &str)>, StreamError> {
    let Some(at) = memchr::memchr(b'&', text.as_bytes()) else { return Ok(None) };
    let found = text[at + 1..].split_once(';');
    found.map(Some).ok_or_else(|| StreamError::new(StreamCondition::NotWellFormed).with_text(DANGLING))
}

/// Text between tags, with its line ends as the reader sees them (XML 1.0, section 2.11).
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n").into() } else { text.into() }
}

/// Appends text as it stands between tags. Characters that XML does not have become U+FFFD.
pub(crate) fn push_text(text: &str, out: &mut String) {
    push(text, out, |c| match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '\r' => Some("&#13;"),
        _ => None,
    });
}

/// Appends a value as it stands between apostrophes. Characters that XML does not have become U+FFFD.
pub(crate) fn push_value(value: &str, out: &mut String) {
    push(value, out, |c| match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '\'' => Some("&apos;"),
        '\t' => Some("&#9;"),
        '\n' => Some("&#10;"),
        '\r' => Some("&#13;"),
        _ => None,
    });
}

/// Appends an attribute, with the space before it.
pub(crate) fn push_attribute(name: &str, value: &str, out: &mut String) {
    out.push(' ');
    out.push_str(name);
    out.push_str("='");
    push_value(value, out);
    out.push('\'');
}

/// RFC 6120, section 11.3: "An XMPP entity MUST NOT generate data that is not XML-well-formed."
fn push(text: &str, out: &mut String, escaped: impl Fn(char) -> Option<&'static str>) {
    let mut done = 0;
    for (at, c) in text.char_indices() {
        let Some(instead) = escaped(c).or((!chars::is_allowed(c)).then_some("\u{fffd}")) else { continue };
        out.push_str(&text[done..at]);
        out.push_str(instead);
        done = at + c.len_utf8();
    }
    out.push_str(&text[done..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_the_five_and_characters() {
        for (name, c) in
            [("amp", '&'), ("quot", '"'), ("#65", 'A'), ("#x41", 'A'), ("#x10FFFD", '\u{10fffd}'), ("#0009", '\t')]
        {
            assert_eq!(character(name), Ok(c), "{name}");
        }
        for name in ["nbsp", "AMP", "a-b", "xml:amp"] {
            assert_eq!(character(name).map_err(|error| error.condition), Err(StreamCondition::RestrictedXml), "{name}");
        }
        for name in [
            "",
            "#",
            "#x",
            "#X41",
            "#0",
            "#x0",
            "#xd800",
            "#xFFFE",
            "#x110000",
            "#99999999999",
            "#+65",
            "#-1",
            "a b",
            "1",
        ] {
            assert_eq!(character(name).map_err(|error| error.condition), Err(StreamCondition::NotWellFormed), "{name}");
        }
    }

    #[test]
    fn values_have_spaces_and_characters() {
        assert_eq!(value("a&amp;b&#10;c\td\r\ne\rf&lt;"), "a&b\nc d e f<");
        assert_eq!(value("plain"), "plain");
        for wrong in ["a<b", "a&b", "&;", "&amp", "& amp;"] {
            assert!(check_value(wrong).is_err(), "{wrong}");
        }
        assert_eq!(check_value("&amp;&#x41;"), Ok(()));
    }

    #[test]
    fn what_xml_cannot_say_is_replaced() {
        let mut out = String::new();
        push_value("a\0'\"\u{ffff}<&>\t", &mut out);
        push_text("\u{1b}'<&>\r\n]]>", &mut out);
        assert_eq!(out, "a\u{fffd}&apos;\"\u{fffd}&lt;&amp;&gt;&#9;\u{fffd}'&lt;&amp;&gt;&#13;\n]]&gt;");
    }
}
