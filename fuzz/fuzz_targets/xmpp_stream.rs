#![no_main]
//! A stream over TCP, and its content as a message over WebSocket. The first byte is how the bytes come.

use carillon_xmpp::{
    Element, Framing,
    stream::{Child, Declaration, Event, Limits, Pieces, TcpParser, WebSocketParser, read_stanza},
};

const HEADER: &[u8] = b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' xmlns:p='urn:p'>";

fn events(parts: usize, bytes: &[u8], limits: &Limits) -> Vec<Event> {
    let mut parser = TcpParser::new(limits.clone());
    let mut events = Vec::new();
    for part in bytes.chunks(parts) {
        let mut input = part;
        while let Some(event) = parser.feed(&mut input) {
            events.push(event);
        }
        assert!(input.is_empty() && parser.buffered() <= limits.bytes);
    }
    events
}

libfuzzer_sys::fuzz_target!(|given: (u8, &[u8])| {
    let (kind, content) = given;
    let limits = match kind % 2 {
        0 => Limits::default(),
        _ => Limits { bytes: 300, depth: 4, elements: 9, attributes: 4, name_bytes: 100, namespaces: 4 },
    };
    let bytes = if kind & 2 == 0 { [HEADER, content].concat() } else { content.to_vec() };
    let whole = events(usize::MAX, &bytes, &limits);
    assert!(events(1, &bytes, &limits) == whole && events(usize::from(kind >> 2) + 1, &bytes, &limits) == whole);
    let default = [Declaration { prefix: String::new(), uri: "jabber:client".into() }];
    for event in &whole {
        let Event::Stanza(stanza) = event else { continue };
        let element = stanza.element();
        let again = read_stanza(stanza.text(), &Limits::default()).map(|stanza| (stanza.text().to_owned(), stanza.element()));
        // A stanza by large limits fits into the ones after sign-in.
        assert_eq!(again.ok(), Some((stanza.text().to_owned(), element.clone())));
        // A stanza without some children is what its text would be read as.
        let mut at = 0;
        let keep = |_: &Child<'_>| {
            at += 1;
            kind >> (at % 8) & 1 == 0
        };
        let edited = stanza.edited(keep, &[Element::new("n", "urn:n")]);
        let large = Limits { bytes: 2 * 1024 * 1024, elements: 20_000, ..Limits::default() };
        let again = read_stanza(edited.text(), &large).expect("an edited stanza is well-formed");
        assert!(again.element() == edited.element() && again.children().eq(edited.children()));
        if let Some(pieces) = stanza.pieces(|_| true, true) {
            let (attributes, children) = (pieces.attributes(), pieces.children());
            let checked = Pieces::checked(attributes, children, pieces.body(), pieces.body_at(), &large);
            assert_eq!(checked.as_ref(), Ok(&pieces));
        }
        for framing in [Framing::Tcp, Framing::WebSocket] {
            let routed = stanza.route("a@b/'&", framing).text(Some("c@d"));
            let around = if framing == Framing::Tcp { &default[..] } else { &[] };
            let limits = Limits { attributes: 200, ..Limits::default() };
            let seen = Element::parse_in(&routed, around, &limits).expect("a routed stanza is well-formed");
            assert_eq!((seen.attribute("from"), seen.attribute("to")), (Some("a@b/'&"), Some("c@d")));
            if stanza.kind().is_some() {
                assert_eq!((seen.name(), seen.nodes()), (element.name(), element.nodes()));
            }
        }
    }
    let mut parser = WebSocketParser::new(limits);
    parser.message(b"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>");
    if let Some(Event::Stanza(stanza)) = parser.message(content) {
        stanza.element();
    }
});
