//! The header and the end of the server's own stream.

use super::{Framing, Header};
use crate::{Element, Jid, ns};

/// The server's answer to a client's header.
///
/// RFC 6120, section 4.9.1.2: "If the error is triggered by the initial stream header, the receiving entity MUST still send the opening
/// \<stream\> tag, include the \<error/\> element as a child of the stream element, and send the closing \</stream\> tag".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening<'a> {
    /// The domain of the header. One of the server's own, or "", if the client has named none that is known.
    ///
    /// RFC 6120, section 4.9.1.3: it "MUST be either an authoritative FQDN for the receiving entity or the empty string".
    pub from: &'a str,
    /// RFC 6120, section 4.7.3: "The stream ID MUST be both unpredictable and non-repeating".
    pub id: &'a str,
    /// The language of the server's texts.
    pub lang: &'a str,
}

impl Opening<'_> {
    /// `header`: that of the client, if it could be read.
    pub fn text(&self, header: Option<&Header>, framing: Framing) -> String {
        // RFC 6120, section 4.7.1: "the receiving entity MUST include the 'from' attribute". Section 4.7.3: "the receiving entity MUST
        // include the 'id' attribute". Section 4.7.4: "the receiving entity MUST include the 'xml:lang' attribute".
        let (name, namespace) = match framing {
            Framing::Tcp => ("stream", ns::STREAMS),
            Framing::WebSocket => ("open", ns::FRAMING),
        };
        let mut opening =
            Element::new(name, namespace).with("from", self.from.to_owned()).with("id", self.id.to_owned());
        // RFC 6120, section 4.7.2: "if the client included a 'from' attribute in the initial stream header then the server MUST include a
        // 'to' attribute in the response stream header and MUST set its value to the bare JID specified in the 'from' attribute of the
        // initial stream header. If the client did not include a 'from' attribute in the initial stream header then the server MUST NOT
        // include a 'to' attribute in the response stream header."
        let from = header.and_then(|header| header.from.as_deref()).and_then(|from| Jid::new(from).ok());
        if let Some(from) = from {
            opening = opening.with("to", from.bare().to_owned());
        }
        // RFC 6120, section 4.7.5: "If either entity receives a stream header with no 'version' attribute, the entity MUST consider the
        // version supported by the other entity to be "0.9" and SHOULD NOT include a 'version' attribute in the response stream header."
        // Section 4.7.5 also has that the value is "either the value supplied by the initiating entity or the highest version number
        // supported by the receiving entity, whichever is lower": no version below 1.0 has a number of its own.
        if header.is_none_or(|header| header.version.is_some()) {
            opening = opening.with("version", "1.0");
        }
        opening = opening.with_lang(self.lang.to_owned());
        match framing {
            Framing::WebSocket => opening.text_for(framing),
            Framing::Tcp => opening.open_stream(),
        }
    }
}

/// The end of the server's stream.
pub fn closing(framing: Framing) -> &'static str {
    match framing {
        Framing::Tcp => "</stream:stream>",
        Framing::WebSocket => "<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Event, Limits, TcpParser, WebSocketParser};

    const OPENING: Opening<'static> =
        Opening { from: "im.example.com", id: "++TR84Sm6A3hnt3Q065SnAbbk3Y=", lang: "en" };

    /// RFC 6120, section 4.7.2: "the server MUST include a 'to' attribute in the response stream header and MUST set its value to the bare
    /// JID specified in the 'from' attribute"; otherwise it "MUST NOT include a 'to' attribute". Section 4.7.1: "the receiving entity
    /// MUST include the 'from' attribute". Section 4.7.3: "the receiving entity MUST include the 'id' attribute". Section 4.7.4: "the
    /// receiving entity MUST include the 'xml:lang' attribute".
    #[test]
    fn a_header_is_answered_by_one() {
        let version = Some("1.0".to_owned());
        let named = Header { from: Some("Juliet@im.example.com/x".to_owned()), version, ..Header::default() };
        let text = OPENING.text(Some(&named), Framing::Tcp);
        assert_eq!(
            text,
            "<?xml version='1.0'?><stream:stream from='im.example.com' id='++TR84Sm6A3hnt3Q065SnAbbk3Y=' to='juliet@im.example.com' \
             version='1.0' xml:lang='en' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
        );
        assert_eq!(
            OPENING.text(Some(&Header::default()), Framing::WebSocket),
            "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' from='im.example.com' id='++TR84Sm6A3hnt3Q065SnAbbk3Y=' xml:lang='en'/>"
        );
        // Headers of the server can be read.
        let mut tcp = TcpParser::new(Limits::default());
        let whole = format!("{text}{}", closing(Framing::Tcp));
        let mut input = whole.as_bytes();
        assert!(
            matches!(tcp.feed(&mut input), Some(Event::Opened(header)) if header.from.as_deref() == Some("im.example.com"))
        );
        assert_eq!(tcp.feed(&mut input), Some(Event::Closed));
        let mut websocket = WebSocketParser::new(Limits::default());
        let opened = websocket.message(OPENING.text(None, Framing::WebSocket).as_bytes());
        assert!(matches!(opened, Some(Event::Opened(header)) if header.version() == Some((1, 0))));
        assert_eq!(websocket.message(closing(Framing::WebSocket).as_bytes()), Some(Event::Closed));
    }
}
