mod namespaces;
pub(super) mod oracle;
pub(super) mod properties;
mod rules;
mod websocket;

use super::*;
use crate::error::StreamCondition;

/// The beginning of a client's stream.
const HEADER: &str = "<?xml version='1.0'?><stream:stream to='im.example.com' version='1.0' xml:lang='en' xmlns='jabber:client' \
     xmlns:stream='http://etherx.jabber.org/streams'>";

/// All events of the bytes, which come in parts of so many.
fn events_in(parts: usize, bytes: &[u8], limits: &Limits) -> Vec<Event> {
    let mut parser = TcpParser::new(limits.clone());
    let mut events = Vec::new();
    for part in bytes.chunks(parts.max(1)) {
        let mut input = part;
        while let Some(event) = parser.feed(&mut input) {
            events.push(event);
        }
        assert!(input.is_empty(), "all is taken");
        assert!(parser.buffered() <= limits.bytes, "{} of {} bytes are kept", parser.buffered(), limits.bytes);
    }
    events
}

fn events(text: &str) -> Vec<Event> {
    events_in(usize::MAX, text.as_bytes(), &Limits::default())
}

/// The stanza in a client's stream, or how the stream ends.
fn stanza(text: &str) -> Result<Stanza, StreamCondition> {
    stanza_by(text, &Limits::default())
}

fn stanza_by(text: &str, limits: &Limits) -> Result<Stanza, StreamCondition> {
    match &mut *events_in(usize::MAX, format!("{HEADER}{text}").as_bytes(), limits) {
        [Event::Opened(_), Event::Stanza(stanza)] => Ok(stanza.clone()),
        [Event::Opened(_), Event::Error(error)] => Err(error.condition),
        other => panic!("{text}: {other:?}"),
    }
}
