//! Properties that hold for any bytes.

use proptest::prelude::*;

use super::*;
use crate::Element;

/// Pieces of which texts are made that are nearly XML.
pub(super) const TOKENS: &[&str] = &[
    "<message>",
    "</message>",
    "<message to='a@b' id=\"1\">",
    "<a>",
    "</a>",
    "<a/>",
    "<p:a xmlns:p='u'>",
    "</p:a>",
    "<p:a/>",
    "<stream:a/>",
    " xmlns='v'",
    " b='1'",
    " p:b='2'",
    " xmlns:p='u'",
    " xmlns:q='u' q:b='3'",
    " xml:lang='de'",
    "<",
    ">",
    "/>",
    "'",
    "\"",
    "=",
    " ",
    "\n",
    "\r\n",
    "\t",
    "&amp;",
    "&lt;",
    "&#65;",
    "&#x1F600;",
    "&#0;",
    "&x;",
    "&",
    ";",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "]]",
    "]",
    "<?x ?>",
    "<!",
    "text",
    "é",
    "·",
    "\u{1}",
    "\u{ffff}",
    "\u{feff}",
    ":",
    "-",
    "1",
    "x",
];

/// A document that is well-formed but for a few places.
pub(in crate::stream) fn nearly_xml() -> impl Strategy<Value = String> {
    let token = || prop::sample::select(TOKENS);
    let name = prop::sample::select(vec!["a", "b", "p:a", "message", "é", "stream:a"]);
    let attributes = prop::collection::vec(
        prop::sample::select(vec![
            " x='1'",
            " y = \"a'b\"",
            " xmlns:p='u'",
            " p:x='2'",
            " xmlns='w'",
            " xml:lang='en'",
            " xmlns=''",
            " z='&amp;\t&#10;\r\n'",
            " xmlns:q='u' q:x='3'",
        ]),
        0..4,
    );
    let text =
        prop::sample::select(vec!["", "x", "a &lt; b", " \r\n ", "<![CDATA[<&]]>", "&#233;", "]]", "\u{10fffd}"]);
    let leaf = (name, attributes, text, any::<bool>()).prop_map(|(name, attributes, text, is_empty)| {
        let attributes = attributes.concat();
        if is_empty { format!("<{name}{attributes}/>") } else { format!("<{name}{attributes}>{text}</{name}>") }
    });
    let element = leaf.prop_recursive(3, 12, 3, |inner| {
        (prop::collection::vec(inner, 1..4), prop::sample::select(vec!["", " xmlns:p='v'", " x='1'"]))
            .prop_map(|(children, attributes)| format!("<b{attributes}>{}</b>", children.concat()))
    });
    let changes = prop::collection::vec((any::<prop::sample::Index>(), token(), 0..3usize), 0..3);
    (prop::collection::vec(element, 1..3), changes).prop_map(|(elements, changes)| {
        let mut text: Vec<char> = elements.concat().chars().collect();
        for (at, token, cut) in changes {
            let at = at.index(text.len() + 1);
            let end = (at + cut).min(text.len());
            text.splice(at..end, token.chars());
        }
        text.into_iter().collect()
    })
}

fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let tokens = prop::collection::vec(prop::sample::select(TOKENS), 0..30).prop_map(|tokens| tokens.concat());
    let bytes = prop::collection::vec(any::<u8>(), 0..60);
    let end = prop::sample::select(vec!["", "</stream:stream>", "</stream:stream >\n"]);
    let content = prop_oneof![nearly_xml().prop_map(String::into_bytes), tokens.prop_map(String::into_bytes), bytes];
    (prop::sample::select(vec![HEADER, "", " ", &HEADER[21..]]), content, end)
        .prop_map(|(header, content, end)| [header.as_bytes(), &content, end.as_bytes()].concat())
}

proptest! {
    #[test]
    fn events_do_not_depend_on_how_the_bytes_come(bytes in any_stream(), parts in 1..9usize, small: bool) {
        let limits = if small { Limits { bytes: 200, depth: 3, attributes: 3, ..Limits::default() } } else { Limits::default() };
        let whole = events_in(usize::MAX, &bytes, &limits);
        prop_assert_eq!(&events_in(parts, &bytes, &limits), &whole);
        prop_assert_eq!(&events_in(1, &bytes, &limits), &whole);
    }

    #[test]
    fn a_stanza_means_the_same_wherever_it_goes(text in nearly_xml(), to in "[a-z&'<]{1,5}") {
        let around = "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' xmlns:p='urn:p'>";
        let document = format!("{around}{text}</stream:stream>");
        let default = [Declaration { prefix: String::new(), uri: "jabber:client".into() }];
        let events = events(&document);
        for event in &events {
            let Event::Stanza(stanza) = event else { continue };
            // An element in the stream has the same parts as the element alone.
            let element = stanza.element();
            let again = read_stanza(stanza.text(), &Limits::default()).expect("valid");
            prop_assert_eq!(again.text(), stanza.text());
            prop_assert_eq!(&again.element(), &element);
            for (child, of_tree) in stanza.children().zip(element.children()) {
                prop_assert_eq!((child.name, child.namespace), (of_tree.name(), of_tree.namespace()));
            }
            prop_assert_eq!(stanza.children().len(), element.children().count());
            for framing in [Framing::Tcp, Framing::WebSocket] {
                let routed = stanza.route("x@y/'&", framing).text(Some(&to));
                let seen = match framing {
                    Framing::Tcp => Element::parse_in(&routed, &default, &Limits::default()),
                    Framing::WebSocket => Element::parse(&routed, &Limits::default()),
                };
                let seen = seen.expect("valid");
                prop_assert_eq!((seen.attribute("from"), seen.attribute("to")), (Some("x@y/'&"), Some(&*to)));
                prop_assert_eq!(seen.attribute("id"), stanza.id());
                prop_assert_eq!((seen.name(), seen.namespace()), (stanza.name(), stanza.namespace()));
                prop_assert_eq!(seen.nodes(), element.nodes());
            }
        }
    }

    #[test]
    fn no_message_over_websocket_panics(text in nearly_xml(), bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut parser = WebSocketParser::new(Limits::default());
        parser.message(b"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>");
        parser.message(text.as_bytes());
        parser.message(&bytes);
        WebSocketParser::new(Limits::default()).message(text.as_bytes());
    }
}
