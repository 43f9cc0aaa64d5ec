//! Questions and answers (RFC 6120, section 8.2.3).

use super::Stanza;
use crate::error::StanzaCondition;

/// The type of an `<iq/>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IqType {
    Get,
    Set,
    Result,
    Error,
}

impl Stanza {
    /// The type of an `<iq/>` that keeps to the rules. The error is for its sender.
    ///
    /// RFC 6120, section 8.2.3: "The 'id' attribute is REQUIRED for IQ stanzas." "The value MUST be one of the following; if not, the
    /// recipient or an intermediate router MUST return a \<bad-request/\> stanza error". "An IQ stanza of type "get" or "set" MUST
    /// contain exactly one child element". "An IQ stanza of type "result" MUST include zero or one child elements." "An IQ stanza of type
    /// "error" MAY include the child element contained in the associated "get" or "set" and MUST include an \<error/\> child".
    pub fn iq_type(&self) -> Result<IqType, StanzaCondition> {
        let children = self.children().len();
        let found = match self.stanza_type() {
            Some("get") if children == 1 => IqType::Get,
            Some("set") if children == 1 => IqType::Set,
            Some("result") if children <= 1 => IqType::Result,
            Some("error")
                if self.children().any(|child| child.name == "error" && child.namespace == self.namespace()) =>
            {
                IqType::Error
            }
            _ => return Err(StanzaCondition::BadRequest),
        };
        self.id().map(|_| found).ok_or(StanzaCondition::BadRequest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Limits, read_stanza};

    /// RFC 6120, section 8.2.3: "if not, the recipient or an intermediate router MUST return a \<bad-request/\> stanza error".
    #[test]
    fn questions_have_one_child_and_a_type() {
        let of = |text: &str| read_stanza(text, &Limits::default()).expect("valid").iq_type();
        for (text, expected) in [
            ("<iq id='1' type='get'><q xmlns='x'/></iq>", IqType::Get),
            ("<iq id='' type='set'> <q xmlns='x'/> </iq>", IqType::Set),
            ("<iq id='1' type='result'/>", IqType::Result),
            ("<iq id='1' type='result'><q xmlns='x'/></iq>", IqType::Result),
            ("<iq id='1' type='error'><q xmlns='x'/><error type='cancel'/></iq>", IqType::Error),
        ] {
            assert_eq!(of(text), Ok(expected), "{text}");
        }
        for text in [
            "<iq type='get'><q xmlns='x'/></iq>",
            "<iq id='1'><q xmlns='x'/></iq>",
            "<iq id='1' type='subscribe'><q xmlns='x'/></iq>",
            "<iq id='1' type='get'/>",
            "<iq id='1' type='set'><q xmlns='x'/><q xmlns='x'/></iq>",
            "<iq id='1' type='result'><q xmlns='x'/><q xmlns='x'/></iq>",
            "<iq id='1' type='error'/>",
            "<iq id='1' type='error'><error xmlns='x'/></iq>",
        ] {
            assert_eq!(of(text), Err(StanzaCondition::BadRequest), "{text}");
        }
    }
}
