//! Streams over WebSocket (RFC 7395): each message is one element.

use std::sync::Arc;

use super::{
    Event, Header, Limits, Stanza,
    declaration::{SPACES, check_declaration},
};
use crate::{
    error::{StreamCondition, StreamError},
    ns,
    xml::{
        read::{Piece, Reader},
        scan::{self, Scan, Wanted},
    },
};

/// Reads a stream of RFC 7395, message by message.
#[derive(Debug)]
pub struct WebSocketParser {
    limits: Limits,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    New,
    Open(Arc<Header>),
    Closed,
}

impl WebSocketParser {
    pub fn new(limits: Limits) -> Self {
        Self { limits, phase: Phase::New }
    }

    /// Other limits, from the next message on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Takes one message. `None`: the stream was closed before.
    pub fn message(&mut self, message: &[u8]) -> Option<Event> {
        if matches!(self.phase, Phase::Closed) {
            return None;
        }
        let event = self.read(message).unwrap_or_else(Event::Error);
        match &event {
            Event::Opened(header) => self.phase = Phase::Open(header.clone()),
            Event::Closed | Event::Error(_) => self.phase = Phase::Closed,
            Event::Stanza(_) => {}
        }
        Some(event)
    }

    fn read(&self, message: &[u8]) -> Result<Event, StreamError> {
        if message.len() > self.limits.bytes {
            return Err(StreamError::new(StreamCondition::PolicyViolation).with_text("a message is too long"));
        }
        // RFC 7395, section 3.3.3: "The first character of each frame MUST be a '<' character." Section 3.8: "whitespace keepalives
        // MUST NOT be used."
        if message.first() != Some(&b'<') {
            return Err(
                StreamError::new(StreamCondition::BadFormat).with_text("a message does not begin with an element")
            );
        }
        // RFC 7395, section 3.2: "Data frame messages in the XMPP subprotocol MUST be of the text type and contain UTF-8 encoded
        // data."
        let text = std::str::from_utf8(message).map_err(|_| StreamCondition::UnsupportedEncoding)?;
        let text = element(text)?;
        match Scan::new(Wanted::Content, self.limits.depth).take(text.as_bytes())? {
            Some((scan::Piece::Element, length)) if length == text.len() => {}
            _ => {
                let wrong = StreamError::new(StreamCondition::NotWellFormed);
                return Err(wrong.with_text("a message is not one element"));
            }
        }
        match &self.phase {
            Phase::New => self.open(text),
            Phase::Open(header) => {
                let stanza = Stanza::read(text.to_owned(), header, &self.limits)?;
                match (stanza.namespace(), stanza.name()) {
                    (ns::FRAMING, "close") => Ok(Event::Closed),
                    // RFC 7395, section 3.4: "Clients MUST NOT multiplex XMPP streams over the same WebSocket."
                    (ns::FRAMING, _) => {
                        Err(StreamError::new(StreamCondition::BadFormat).with_text("the stream is open already"))
                    }
                    _ => Ok(Event::Stanza(stanza)),
                }
            }
            Phase::Closed => Err(StreamCondition::NotWellFormed.into()),
        }
    }

    fn open(&self, text: &str) -> Result<Event, StreamError> {
        let mut reader = Reader::new(text, &[], &self.limits)?;
        let Piece::Start(start) = reader.piece()? else { return Err(StreamCondition::NotWellFormed.into()) };
        let header = Header::of(&reader, Vec::new(), String::new());
        reader.finish()?;
        // RFC 7395, section 3.3.2: "The XML stream headers (the <open/> and <close/> elements) MUST be qualified by the namespace
        // 'urn:ietf:params:xml:ns:xmpp-framing' [...]. If this rule is violated, the entity that receives the offending stream
        // header MUST close the stream with an error, which MUST be <invalid-namespace>". Section 3.4: "The first message sent
        // after the WebSocket opening handshake MUST be from the initiating entity and MUST be an <open/> element".
        match (&*start.namespace, start.local) {
            (ns::FRAMING, "open") => Ok(Event::Opened(header.into())),
            (ns::FRAMING, "close") => Ok(Event::Closed),
            _ => Err(StreamError::new(StreamCondition::InvalidNamespace).with_text("a stream begins with its header")),
        }
    }
}

/// The element of a message.
///
/// RFC 7395, section 3.3.3: the frames "MUST be parsable as standalone XML documents". "The inclusion of XML declarations, however, is
/// NOT RECOMMENDED": one is taken.
fn element(message: &str) -> Result<&str, StreamError> {
    let mut element = message;
    if message.starts_with("<?")
        && let Some((scan::Piece::Declaration, length)) = Scan::new(Wanted::Prolog, 0).take(message.as_bytes())?
    {
        check_declaration(&message[..length])?;
        element = message[length..].trim_start_matches(SPACES);
    }
    Ok(element.trim_end_matches(SPACES))
}
