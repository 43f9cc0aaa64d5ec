//! The XML declaration (RFC 6120, section 11.5).

use quick_xml::events::attributes::Attributes;

use crate::error::{StreamCondition, StreamError};

pub(super) const SPACES: [char; 4] = [' ', '\t', '\n', '\r'];

/// Checks `<?xml ...?>`.
///
/// RFC 6120, section 11.5: "Applications MUST follow the rules provided in [XML] regarding the format of the XML declaration". "If an
/// XMPP entity receives an XML declaration containing a standalone document declaration set to a value of "no", the entity MUST
/// either ignore the standalone document declaration or close the stream": it is ignored.
pub(super) fn check_declaration(text: &str) -> Result<(), StreamError> {
    let wrong = || StreamError::new(StreamCondition::NotWellFormed).with_text("the XML declaration is not valid");
    let inside = text.strip_prefix("<?").and_then(|text| text.strip_suffix("?>")).ok_or_else(wrong)?;
    let Some(fields) = inside.strip_prefix("xml").filter(|fields| fields.starts_with(SPACES)) else {
        return Err(
            StreamError::new(StreamCondition::RestrictedXml).with_text("processing instructions are prohibited")
        );
    };
    let mut rest = fields;
    let mut next = "version";
    for field in Attributes::new(fields, 0) {
        let field = field.map_err(|_| wrong())?;
        // Each field has a space before it.
        let (name, value) = (field.key.into_inner(), &*field.value);
        let spaced = rest.trim_start_matches(SPACES);
        if spaced.len() == rest.len() {
            return Err(wrong());
        }
        let end = value.as_ptr() as usize - fields.as_ptr() as usize + value.len() + 1;
        rest = &fields[end..];
        next = match (name, next) {
            (b"version", "version") if value == b"1.0" => "encoding",
            (b"encoding", "encoding") if value.eq_ignore_ascii_case(b"UTF-8") => "standalone",
            (b"encoding", "encoding") => {
                return Err(
                    StreamError::new(StreamCondition::UnsupportedEncoding).with_text("the only encoding is UTF-8")
                );
            }
            (b"standalone", "encoding" | "standalone") if matches!(value, b"yes" | b"no") => "",
            _ => return Err(wrong()),
        };
    }
    if next == "version" { Err(wrong()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(), StreamCondition> {
        check_declaration(text).map_err(|error| error.condition)
    }

    /// RFC 6120, section 11.5: "Applications MUST follow the rules provided in [XML] regarding the format of the XML declaration".
    #[test]
    fn declarations_are_those_of_xml_1_0_in_utf_8() {
        for text in [
            "<?xml version='1.0'?>",
            "<?xml version=\"1.0\" encoding='UTF-8'?>",
            "<?xml version='1.0' encoding='utf-8' standalone='no' ?>",
            "<?xml\tversion = '1.0'\nstandalone='yes'?>",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        for text in [
            "<?xml ?>",
            "<?xml version='1.1'?>",
            "<?xml encoding='UTF-8'?>",
            "<?xml version='1.0'encoding='UTF-8'?>",
            "<?xml version='1.0' standalone='maybe'?>",
            "<?xml version='1.0' standalone='yes' encoding='UTF-8'?>",
            "<?xml version='1.0' version='1.0'?>",
            "<?xml version='1.0' other='1'?>",
            "<?xml version=1.0?>",
            "<?>",
        ] {
            assert_eq!(check(text), Err(StreamCondition::NotWellFormed), "{text}");
        }
        for text in ["<?xml?>", "<?xml-stylesheet href='x'?>", "<?a?>", "<?XML version='1.0'?>"] {
            assert_eq!(check(text), Err(StreamCondition::RestrictedXml), "{text}");
        }
        assert_eq!(check("<?xml version='1.0' encoding='UTF-16'?>"), Err(StreamCondition::UnsupportedEncoding));
    }
}
