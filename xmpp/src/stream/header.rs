//! The header of a stream (RFC 6120, section 4.7; RFC 7395, section 3.4).

use std::sync::{Arc, LazyLock};

use crate::{
    error::{StreamCondition, StreamError},
    ns,
    stream::{Declaration, Limits},
    xml::{
        escape,
        read::{Piece, Reader},
    },
};

/// The header of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    pub to: Option<String>,
    pub from: Option<String>,
    pub id: Option<String>,
    pub version: Option<String>,
    /// The language of stanzas that name none. `None` if it is not the name of a language.
    pub lang: Option<String>,
    /// The declarations of the header, each prefix once. There are none over WebSocket, where no element has the header around it.
    pub namespaces: Vec<Declaration>,
    /// The header's name with its prefix, which the closing tag repeats.
    pub(super) tag: String,
}

impl Header {
    /// The namespace of first-level elements that declare none, if the header declares one.
    ///
    /// RFC 6120, section 4.8.2: "the content namespace MUST be other than the stream namespace".
    pub fn content_namespace(&self) -> Option<&str> {
        let default = self.namespaces.iter().find(|declaration| declaration.prefix.is_empty());
        default.map(|declaration| &*declaration.uri).filter(|uri| !uri.is_empty() && *uri != ns::STREAMS)
    }

    /// The major and the minor version. `None` if there is none, or one that is not valid: such streams are of before XMPP 1.0.
    ///
    /// RFC 6120, section 4.7.5: "The major and minor numbers MUST be treated as separate integers".
    pub fn version(&self) -> Option<(u16, u16)> {
        let (major, minor) = self.version.as_deref()?.split_once('.')?;
        let number = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        Some((number(major)?, number(minor)?))
    }

    /// The header of a client's stream with no attribute but the content namespace.
    pub(super) fn of_clients() -> Arc<Self> {
        static HEADER: LazyLock<Arc<Header>> = LazyLock::new(|| {
            let namespaces = vec![Declaration { prefix: String::new(), uri: ns::CLIENT.into() }];
            Arc::new(Header { namespaces, ..Header::default() })
        });
        HEADER.clone()
    }

    /// Reads the start tag of a stream over TCP.
    pub(super) fn read(tag: &str, limits: &Limits) -> Result<Self, StreamError> {
        let mut reader = Reader::new(tag, &[], limits)?;
        let Piece::Start(start) = reader.piece()? else { return Err(StreamCondition::NotWellFormed.into()) };
        // RFC 6120, section 4.8.1: "The root <stream/> element ("stream header") MUST be qualified by the namespace
        // 'http://etherx.jabber.org/streams' [...]. If this rule is violated, the entity that receives the offending stream header
        // MUST close the stream with a stream error, which SHOULD be <invalid-namespace/>".
        if start.namespace != ns::STREAMS {
            return Err(
                StreamError::new(StreamCondition::InvalidNamespace).with_text("the header is not that of a stream")
            );
        }
        if start.local != "stream" {
            return Err(StreamError::new(StreamCondition::BadFormat).with_text("the header is not that of a stream"));
        }
        let namespaces = reader.scope().declarations();
        let name =
            tag[1..].split(|c: char| c.is_ascii_whitespace() || matches!(c, '/' | '>')).next().unwrap_or_default();
        Ok(Self::of(&reader, namespaces, name.to_owned()))
    }

    /// The header that the reader has just read.
    pub(super) fn of(reader: &Reader<'_>, namespaces: Vec<Declaration>, tag: String) -> Self {
        let value = |local| reader.value(local).map(String::from);
        let lang =
            reader.attributes().iter().find(|attribute| attribute.namespace == ns::XML && attribute.local == "lang");
        Self {
            to: value("to"),
            from: value("from"),
            id: value("id"),
            version: value("version"),
            lang: lang.map(|lang| escape::value(lang.raw)).filter(|lang| is_language(lang)).map(String::from),
            namespaces,
            tag,
        }
    }
}

/// RFC 6120, section 4.7.4: "the value of the 'xml:lang' attribute MUST conform to the NMTOKEN datatype (as defined in Section 2.3 of [XML])
/// and MUST conform to the language identifier format defined in [LANGTAGS]". It becomes part of each stanza that names no language,
/// so that it has to be short.
fn is_language(text: &str) -> bool {
    let is_subtag = |tag: &str| (1..=8).contains(&tag.len()) && tag.bytes().all(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 64 && text.split('-').all(is_subtag)
}
