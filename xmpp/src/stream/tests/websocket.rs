//! The rules of RFC 7395.

use super::*;

fn open(parser: &mut WebSocketParser) {
    let event =
        parser.message(b"<open xmlns=\"urn:ietf:params:xml:ns:xmpp-framing\" to=\"example.com\" version=\"1.0\" />");
    let Some(Event::Opened(header)) = event else { panic!("{event:?}") };
    assert_eq!(
        (header.to.as_deref(), header.version(), header.content_namespace()),
        (Some("example.com"), Some((1, 0)), None)
    );
}

/// How an open stream takes a message.
fn after_open(message: &[u8]) -> Event {
    let mut parser = WebSocketParser::new(Limits::default());
    open(&mut parser);
    parser.message(message).expect("an event")
}

fn condition(event: Option<Event>) -> Option<StreamCondition> {
    match event {
        Some(Event::Error(error)) => Some(error.condition),
        _ => None,
    }
}

#[test]
fn a_stream_is_opened_has_stanzas_and_is_closed() {
    let mut parser = WebSocketParser::new(Limits::default());
    open(&mut parser);
    let text = "<message xmlns=\"jabber:client\" xml:lang=\"en\">\n  <body>Every WebSocket message is parsable by itself.</body>\n</message>";
    let Some(Event::Stanza(stanza)) = parser.message(text.as_bytes()) else { panic!("a stanza") };
    assert_eq!((stanza.kind(), stanza.text(), stanza.lang()), (Some(StanzaKind::Message), text, Some("en")));
    assert!(stanza.has_child("body", "jabber:client"));
    assert_eq!(
        stanza.route("a@b/c", Framing::Tcp).text(None),
        text.replacen("<message", "<message from='a@b/c'", 1),
        "the declaration of its own does no harm"
    );
    assert_eq!(parser.message(b"<close xmlns=\"urn:ietf:params:xml:ns:xmpp-framing\"/>"), Some(Event::Closed));
    assert_eq!(parser.message(b"<presence xmlns='jabber:client'/>"), None);
    // Section 3.3.3: a declaration is not recommended; white space may be behind an element.
    let declared = after_open(b"<?xml version='1.0' encoding='utf-8'?>\n<presence xmlns='jabber:client'/>\r\n");
    assert!(matches!(declared, Event::Stanza(stanza) if stanza.text() == "<presence xmlns='jabber:client'/>"));
}

/// RFC 7395, section 3.3.2: "If this rule is violated, the entity that receives the offending stream header MUST close the stream with an error,
/// which MUST be \<invalid-namespace\>". Section 3.4: "The first message sent after the WebSocket opening handshake MUST be from the initiating
/// entity and MUST be an \<open/\> element".
#[test]
fn a_stream_begins_with_its_header() {
    for message in [
        "<open/>",
        "<open xmlns='urn:x'/>",
        "<stream xmlns='http://etherx.jabber.org/streams'/>",
        "<iq xmlns='jabber:client'/>",
    ] {
        let event = WebSocketParser::new(Limits::default()).message(message.as_bytes());
        assert_eq!(condition(event), Some(StreamCondition::InvalidNamespace), "{message}");
    }
    let again = after_open(b"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>");
    assert_eq!(condition(Some(again)), Some(StreamCondition::BadFormat));
}

/// RFC 7395, section 3.3.3: "The first character of each frame MUST be a '\<' character." "Every XMPP stanza or other XML element (including the
/// stream open and close headers) sent directly over the XML stream MUST be sent in its own frame."
#[test]
fn a_message_is_one_element() {
    for (message, refused) in [
        (&b""[..], StreamCondition::BadFormat),
        (b" ", StreamCondition::BadFormat),
        (b" <a/>", StreamCondition::BadFormat),
        (b"<a/><b/>", StreamCondition::NotWellFormed),
        (b"<a/>x", StreamCondition::NotWellFormed),
        (b"<a>", StreamCondition::NotWellFormed),
        (b"</a>", StreamCondition::NotWellFormed),
        (b"<p:a/>", StreamCondition::NotWellFormed),
        (b"<!-- c --><a/>", StreamCondition::RestrictedXml),
        (b"<!DOCTYPE a><a/>", StreamCondition::RestrictedXml),
        (b"<?php ?><a/>", StreamCondition::RestrictedXml),
        (b"<a>\xff</a>", StreamCondition::UnsupportedEncoding),
    ] {
        assert_eq!(condition(Some(after_open(message))), Some(refused), "{}", String::from_utf8_lossy(message));
    }
    let mut parser = WebSocketParser::new(Limits { bytes: 80, ..Limits::default() });
    let long = format!("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='{}'/>", "x".repeat(100));
    assert_eq!(condition(parser.message(long.as_bytes())), Some(StreamCondition::PolicyViolation));
}
