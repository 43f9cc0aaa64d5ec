use proptest::prelude::*;

use super::*;
use crate::stream::{Declaration, stanza::edit::tests::any_stanzas, tests::oracle::compare};

const HEAD: Head<'static> = Head {
    kind: StanzaKind::Message,
    from: "juliet@im.example.com/o'neill",
    id: Some("1&"),
    stanza_type: Some("chat"),
    lang: None,
};

fn pieces(text: &str) -> Pieces<'static> {
    let stanza = read_stanza(text, &Limits::default()).expect("valid");
    stanza.pieces(|child| child.name != "cut", true).expect("a message")
}

/// A stanza as a client of a stream with no other declarations sees it.
fn seen(text: &str, framing: Framing) -> Element {
    match framing {
        Framing::Tcp => {
            let default = [Declaration { prefix: String::new(), uri: ns::CLIENT.into() }];
            Element::parse_in(text, &default, &Limits::default()).expect("valid")
        }
        Framing::WebSocket => Element::parse(text, &Limits::default()).expect("valid"),
    }
}

#[test]
fn the_body_is_apart_from_the_rest() {
    for (text, attributes, children, body, body_at) in [
        ("<message/>", "", "", None, 0),
        (
            "<message to='a' id='1' type='chat' xml:lang='de'> <body>a &amp; b</body> </message>",
            "",
            "  ",
            Some("a & b"),
            0,
        ),
        ("<message><a/> <body><![CDATA[<]]>&#65;</body><b/></message>", "", "<a/> <b/>", Some("<A"), 4),
        // Other bodies stay as they came.
        (
            "<message><body xml:lang='de'>hallo</body><body xmlns='jabber:client'>hello</body><body>hi</body></message>",
            "",
            "<body xml:lang='de'>hallo</body><body>hi</body>",
            Some("hello"),
            32,
        ),
        (
            "<message><body><x/></body><body xmlns='urn:x'>x</body></message>",
            "",
            "<body><x/></body><body xmlns='urn:x'>x</body>",
            None,
            0,
        ),
        ("<message><cut/><a/><cut/><body/></message>", "", "<a/>", Some(""), 4),
        (
            "<message xmlns='jabber:client' xmlns:p = \"urn:p\"\nto='x' p:a='1' b='2' ><p:c/></message>",
            " xmlns:p = \"urn:p\" p:a='1' b='2'",
            "<p:c/>",
            None,
            0,
        ),
    ] {
        let pieces = pieces(text);
        let found = (pieces.attributes(), pieces.children(), pieces.body(), pieces.body_at());
        assert_eq!(found, (attributes, children, body, body_at), "{text}");
        let stored = Pieces::stored(attributes, children, body, body_at);
        assert_eq!(Pieces::checked(attributes, children, body, body_at, &Limits::default()), Ok(stored), "{text}");
    }
    let stanza = read_stanza("<message><a/><body>hi</body></message>", &Limits::default()).expect("valid");
    let whole = stanza.pieces(|_| true, false).expect("a message");
    assert_eq!((whole.children(), whole.body(), whole.body_at()), ("<a/><body>hi</body>", None, 0));
    let presence = read_stanza("<presence/>", &Limits::default()).expect("valid");
    assert_eq!(presence.pieces(|_| true, true), None);
}

#[test]
fn a_stored_message_goes_to_every_stream() {
    let pieces =
        pieces("<message xmlns:p='urn:p' id='0'><p:a/><body>a &lt; b\u{7f}</body><c xmlns='urn:c'/></message>");
    let behind = [Element::new("stanza-id", "urn:xmpp:sid:0").with("id", "7").with("by", "a@b")];
    let tail = " xmlns:p='urn:p'><p:a/><body>a &lt; b\u{7f}</body><c xmlns='urn:c'/>\
                <stanza-id xmlns='urn:xmpp:sid:0' id='7' by='a@b'/></message>";
    let head = "<message to='x' from='juliet@im.example.com/o&apos;neill' id='1&amp;' type='chat'";
    assert_eq!(pieces.route(&HEAD, &behind, Framing::Tcp).text(Some("x")), format!("{head}{tail}"));
    let websocket = format!("{head} xmlns='jabber:client'{tail}");
    assert_eq!(pieces.route(&HEAD, &behind, Framing::WebSocket).text(Some("x")), websocket);
    assert_eq!(pieces.forwardable(&HEAD, Some("x"), &behind).as_str(), websocket);
    // A native client's text may have what XML does not have.
    let native = Pieces::stored("", "", Some("\0]]>"), 0);
    let head = Head { id: None, stanza_type: None, lang: Some("de"), from: "a@b", ..HEAD };
    assert_eq!(
        native.route(&head, &[], Framing::Tcp).text(None),
        "<message from='a@b' xml:lang='de'><body>\u{fffd}]]&gt;</body></message>"
    );
    // The place of the body is lost, and the message is not.
    let damaged = Pieces::stored("", "<é/>", Some("x"), 2);
    assert!(damaged.route(&head, &[], Framing::Tcp).text(None).ends_with("><body>x</body><é/></message>"));
}

#[test]
fn pieces_of_somebody_else_make_one_message() {
    let check = |attributes: &str, children: &str, body_at| {
        Pieces::checked(attributes, children, Some("x"), body_at, &Limits::default()).map(|_| ())
    };
    assert_eq!(check(" a='1' xmlns:p='u'", "text<p:a/> <b>&amp;</b>", 10), Ok(()));
    for (attributes, children) in [
        ("", "</message><message>"),
        ("", "</message></stream:stream>"),
        ("", "<a>"),
        ("", "</a>"),
        ("", "<![CDATA["),
        ("", "<!--"),
        ("", "<p:a/>"),
        ("", "&x;"),
        ("", "]]>"),
        ("", "\0"),
        ("/", ""),
        (" a='", "'></message>"),
        (" a='1' a='2'", ""),
        ("x", ""),
        (" a", ""),
        ("", "<p:body xmlns:p='jabber:client'/>"),
    ] {
        let found = check(attributes, children, 0);
        assert!(matches!(found, Err(InvalidPieces::Element(_))), "{attributes} {children}: {found:?}");
    }
    for attributes in [
        "><x",
        " a='1'><x",
        " to='a'",
        " from='a'",
        " id='a'",
        " type='a'",
        " xml:lang='a'",
        " xmlns='jabber:client'",
        " xmlns='urn:x'",
    ] {
        let children = if attributes.ends_with("<x") { "</x>" } else { "" };
        assert_eq!(check(attributes, children, 0), Err(InvalidPieces::Attributes), "{attributes}");
    }
    for body_at in [1, 3, 5, 6, 99] {
        assert_eq!(check("", "<a/>x<b/>", body_at), Err(InvalidPieces::Body), "{body_at}");
    }
    let long = "x".repeat(300_000);
    assert!(matches!(check("", &long, 0), Err(InvalidPieces::Element(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// A message that is taken apart, stored and put together is the same for its recipients.
    #[test]
    fn a_message_of_pieces_means_the_same(stanzas in any_stanzas(), with_body in any::<bool>(), takes_body: bool, kept: u8) {
        let mut at = 0;
        let mut at_random = || { at += 1; kept >> (at % 8) & 1 == 1 };
        for stanza in stanzas {
            let given = if with_body { stanza.edited(|_| true, &[Element::new("body", ns::CLIENT).with_text("a & b")]) } else { stanza };
            let Some(pieces) = given.pieces(|_| true, takes_body) else { continue };
            let stored = Pieces::stored(pieces.attributes(), pieces.children(), pieces.body(), pieces.body_at());
            let checked = Pieces::checked(stored.attributes(), stored.children(), stored.body(), stored.body_at(), &Limits::default());
            prop_assert_eq!(checked.as_ref(), Ok(&stored));
            prop_assert!(!with_body || pieces.body().is_some() == takes_body);
            let head = Head { kind: StanzaKind::Message, from: "x@y", id: given.id(), stanza_type: given.stanza_type(), lang: given.lang() };
            for framing in [Framing::Tcp, Framing::WebSocket] {
                let element = seen(&stored.route(&head, &[], framing).text(given.to()), framing);
                let routed = seen(&given.route("x@y", framing).text(given.to()), framing);
                prop_assert_eq!(element.children().collect::<Vec<_>>(), routed.children().collect::<Vec<_>>());
                let sorted = |element: &Element| {
                    let mut attributes: Vec<_> = element.attributes().map(|(n, a, v)| format!("{n} {a} {v}")).collect();
                    attributes.sort();
                    attributes
                };
                prop_assert_eq!(sorted(&element), sorted(&routed));
                // Another stanza carries it.
                let behind = [Element::new("n", "urn:n").with_text("]]>")];
                let inner = stored.forwardable(&head, given.to(), &behind);
                let around = [Element::new("sent", "urn:xmpp:carbons:2"), Element::new("forwarded", "urn:xmpp:forward:0")];
                let carried = Routed::around(&HEAD, &around, &inner, framing).text(Some("z"));
                // Another parser finds the same in all that is put together.
                for text in [&carried, &given.edited(|_| at_random(), &behind).route("x@y", framing).text(None)] {
                    compare(text);
                }
                let carried = seen(&carried, framing);
                let found = carried.child("sent", "urn:xmpp:carbons:2").and_then(|sent| sent.child("forwarded", "urn:xmpp:forward:0"));
                let found = found.and_then(|forwarded| forwarded.child("message", ns::CLIENT));
                prop_assert_eq!(found.map(|found| &found.nodes()[..element.nodes().len()]), Some(element.nodes()));
                let behind = found.and_then(|found| found.child("n", "urn:n")).map(Element::text);
                prop_assert_eq!(behind.as_deref(), Some("]]>"));
                prop_assert_eq!((carried.attribute("to"), carried.nodes().len()), (Some("z"), 1));
            }
        }
    }
}
