//! Stanzas that go from one stream to another.

use std::collections::BTreeSet;

use super::*;
use crate::Element;

/// The stanza of a stream with this header.
fn from(header: &str, text: &str) -> Result<Stanza, StreamCondition> {
    let mut events = events(&format!("{header}{text}"));
    match events.pop() {
        Some(Event::Stanza(stanza)) => Ok(stanza),
        Some(Event::Error(error)) => Err(error.condition),
        other => panic!("{other:?}"),
    }
}

fn header(more: &str) -> String {
    format!("<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' {more}>")
}

/// The element as a client reads it, on a stream that declares nothing else.
fn seen(text: &str, framing: Framing) -> Element {
    match framing {
        Framing::Tcp => {
            let default = [Declaration { prefix: String::new(), uri: "jabber:client".into() }];
            Element::parse_in(text, &default, &Limits::default()).expect("valid")
        }
        Framing::WebSocket => Element::parse(text, &Limits::default()).expect("valid"),
    }
}

/// RFC 6120, section 4.8.5: "Namespaces declared in a stream header MUST apply only to that stream". "In any case, an entity MUST ensure that such
/// namespaces are properly declared (according to this section) when routing or delivering stanzas from an input stream to an output stream."
#[test]
fn declarations_of_the_header_go_with_the_stanza() {
    let header = header("xmlns:x='urn:x&amp;y' xmlns:unused='urn:unused'");
    let text = "<message id='1'><x:a x:b='1'><stream:c/></x:a><x:d xmlns:x='urn:other'/></message>";
    let stanza = from(&header, text).expect("valid");
    assert_eq!(
        stanza.text(),
        "<message xmlns:stream='http://etherx.jabber.org/streams' xmlns:x='urn:x&amp;y' id='1'>\
         <x:a x:b='1'><stream:c/></x:a><x:d xmlns:x='urn:other'/></message>"
    );
    let children: Vec<_> = stanza.children().map(|child| (child.name, child.namespace, child.text)).collect();
    assert_eq!(
        children,
        [("a", "urn:x&y", "<x:a x:b='1'><stream:c/></x:a>"), ("d", "urn:other", "<x:d xmlns:x='urn:other'/>")]
    );
    assert_eq!(stanza.id(), Some("1"));
    let element = stanza.element();
    for framing in [Framing::Tcp, Framing::WebSocket] {
        let routed = seen(&stanza.route("juliet@im.example.com/1", framing).text(None), framing);
        assert_eq!(routed.nodes(), element.nodes());
        assert_eq!(routed.namespace(), "jabber:client");
    }
    // A stanza that needs none is as it came.
    assert_eq!(
        from(&header, "<presence><a x='x:a'/></presence>").expect("valid").text(),
        "<presence><a x='x:a'/></presence>"
    );
}

/// RFC 6120, section 4.8.5: a peer that declares namespaces of stanzas in its header has its stream closed "with an \<invalid-namespace/\> stream
/// error".
#[test]
fn long_declarations_of_the_header_do_not_make_short_stanzas_long() {
    let uri = |length: usize| format!("xmlns:x='urn:{}'", "x".repeat(length));
    let text = from(&header(&uri(900)), "<message><x:a/></message>").expect("valid").into_text();
    assert!(text.len() > 900);
    assert_eq!(from(&header(&uri(1010)), "<message><x:a/></message>"), Err(StreamCondition::InvalidNamespace));
    assert!(from(&header(&uri(1010)), "<message><a/></message>").is_ok());
}

/// RFC 6120, section 4.8.2: "so-called "prefix-free canonicalization"".
#[test]
fn streams_without_a_content_namespace_are_as_good() {
    let header = "<stream xmlns='http://etherx.jabber.org/streams'>";
    let stanza = from(header, "<message xmlns='jabber:client'><body>hi</body></message>").expect("valid");
    assert_eq!((stanza.kind(), stanza.namespace()), (Some(StanzaKind::Message), "jabber:client"));
    assert!(stanza.has_child("body", "jabber:client"));
    let routed = stanza.route("a@b/c", Framing::WebSocket).text(Some("d@e"));
    assert_eq!(routed, "<message to='d@e' from='a@b/c' xmlns='jabber:client'><body>hi</body></message>");
    // The element is in the namespace of streams, and is so wherever its text goes.
    let error = from(header, "<error><x/></error>").expect("valid");
    assert_eq!((error.kind(), error.namespace()), (None, "http://etherx.jabber.org/streams"));
    assert_eq!(error.text(), "<error xmlns='http://etherx.jabber.org/streams'><x/></error>");
    let none = from("<s:stream xmlns:s='http://etherx.jabber.org/streams'>", "<message><x/></message>").expect("valid");
    assert_eq!((none.kind(), none.namespace(), none.text()), (None, "", "<message xmlns=''><x/></message>"));
}

/// Otherwise 10,000 elements of a stanza of 64 KiB could hold a name of 1 KiB each.
#[test]
fn the_elements_of_a_declaration_share_its_name() {
    let children = "<x:a x:b=''/>".repeat(1000);
    let declared = format!("xmlns:x='urn:&amp;{}'", "x".repeat(900));
    for (header, stanza) in [
        (header(""), format!("<message {declared}>{children}</message>")),
        (header(&declared), format!("<message>{children}</message>")),
    ] {
        let stanza = from(&header, &stanza).expect("valid");
        let names: BTreeSet<_> = stanza.children().map(|child| child.namespace.as_ptr()).collect();
        assert_eq!((stanza.children().len(), names.len()), (1000, 1), "of the stanza");
        let tree = stanza.element();
        let attributes = tree.children().flat_map(Element::attributes).map(|(namespace, ..)| namespace);
        let names: BTreeSet<_> = tree.children().map(Element::namespace).chain(attributes).map(str::as_ptr).collect();
        assert_eq!(names.len(), 1, "of the tree");
    }
}

/// A stanza of another namespace would be none for its recipients, or end their streams.
#[test]
fn stanzas_are_those_of_clients() {
    for namespace in ["jabber:server", "urn:x"] {
        let own = from(&header(""), &format!("<message xmlns='{namespace}'/>")).expect("valid");
        assert_eq!((own.kind(), own.namespace()), (None, namespace));
        let header = format!("<s:stream xmlns='{namespace}' xmlns:s='http://etherx.jabber.org/streams'>");
        let of_stream = from(&header, "<message><body/></message>").expect("valid");
        assert_eq!((of_stream.kind(), of_stream.namespace()), (None, namespace));
        let named = from(&header, "<message xmlns='jabber:client'><body/></message>").expect("valid");
        assert_eq!(named.kind(), Some(StanzaKind::Message));
        assert!(named.route("a@b", Framing::Tcp).text(None).contains(" xmlns='jabber:client'"));
    }
}

/// RFC 6120, section 4.8.5: "an XMPP server MUST NOT route or deliver such data to another entity without first correcting the error"; the stream
/// error "SHOULD be \<bad-namespace-prefix/\>".
#[test]
fn prefixes_of_the_content_namespace_end_the_stream() {
    for text in [
        "<foo:message xmlns:foo='jabber:client'><foo:body>foo</foo:body></foo:message>",
        "<message><foo:body xmlns:foo='jabber:client'/></message>",
        "<message><x xmlns='urn:x'><foo:message xmlns:foo='jabber:server'/></x></message>",
    ] {
        assert_eq!(from(&header(""), text), Err(StreamCondition::BadNamespacePrefix), "{text}");
    }
    assert!(from(&header(""), "<message><x xmlns='urn:x'><message xmlns='jabber:client'/></x></message>").is_ok());
}

/// RFC 6120, section 8.1.2.1: "the server MUST add a 'from' attribute to the stanza or override the 'from' attribute specified by the client".
#[test]
fn a_routed_stanza_is_from_who_has_sent_it() {
    let route = |text: &str, to: Option<&str>| {
        let stanza = stanza(text).expect("valid");
        stanza.route("juliet@im.example.com/o'neill", Framing::Tcp).text(to)
    };
    let from = "from='juliet@im.example.com/o&apos;neill'";
    assert_eq!(
        route(
            "<message  to='nurse' id=\"1\"\n from = 'eve@x' type='chat'><body>hi</body></message>",
            Some("romeo@example.net/a&b")
        ),
        format!(
            "<message to='romeo@example.net/a&amp;b' {from} xml:lang='en' id=\"1\" type='chat'><body>hi</body></message>"
        )
    );
    assert_eq!(route("<presence from='eve@x' to='y'/>", None), format!("<presence {from} xml:lang='en'/>"));
    // Attributes of other namespaces are others.
    assert_eq!(
        route("<presence x:from='1' xmlns:x='urn:x' xml:lang=''/>", None),
        format!("<presence {from} x:from='1' xmlns:x='urn:x' xml:lang=''/>")
    );
}

/// RFC 7395, section 3.3.3: frames "MUST be parsable as standalone XML documents, complete with all relevant namespace and language
/// declarations".
#[test]
fn a_stanza_of_tcp_stands_alone_over_websocket() {
    let stanza = stanza("<message><body>hi</body><x xmlns='urn:x'/></message>").expect("valid");
    assert_eq!(
        stanza.route("a@b/c", Framing::WebSocket).text(Some("d@e")),
        "<message to='d@e' from='a@b/c' xml:lang='en' xmlns='jabber:client'><body>hi</body><x xmlns='urn:x'/></message>"
    );
}
