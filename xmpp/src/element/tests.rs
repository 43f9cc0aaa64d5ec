use proptest::prelude::*;

use super::*;
use crate::{
    Framing,
    error::StreamCondition,
    stream::{Declaration, Limits},
};

fn parse(text: &str) -> Result<Element, StreamCondition> {
    Element::parse(text, &Limits::default()).map_err(|error| error.condition)
}

#[test]
fn an_element_is_written_with_the_namespaces_that_it_needs() {
    let query = Element::new("query", "jabber:iq:roster")
        .with("ver", "<'&\">\n")
        .with_child(Element::new("item", "jabber:iq:roster").with("jid", "a@b").with_text("x < y & z > 0 ]]>"))
        .with_child(Element::new("message", ns::CLIENT).with_lang("de"));
    let iq = Element::new("iq", ns::CLIENT).with("type", "get").with("type", "result").with_child(query);
    let tail = " type='result'><query xmlns='jabber:iq:roster' ver='&lt;&apos;&amp;\"&gt;&#10;'>\
        <item jid='a@b'>x &lt; y &amp; z &gt; 0 ]]&gt;</item><message xmlns='jabber:client' xml:lang='de'/></query></iq>";
    assert_eq!(iq.text_for(Framing::Tcp), format!("<iq{tail}"));
    assert_eq!(iq.text_for(Framing::WebSocket), format!("<iq xmlns='jabber:client'{tail}"));
    assert_eq!(parse(&iq.to_string()), Ok(iq.clone()));
    assert_eq!(iq.child("query", "jabber:iq:roster").and_then(|query| query.attribute("ver")), Some("<'&\">\n"));
    assert_eq!(iq.child("query", ns::CLIENT), None);
    let features = Element::new("features", ns::STREAMS).with_child(Element::new("bind", "urn:x"));
    assert_eq!(features.text_for(Framing::Tcp), "<stream:features><bind xmlns='urn:x'/></stream:features>");
    assert_eq!(
        features.text_for(Framing::WebSocket),
        "<stream:features xmlns:stream='http://etherx.jabber.org/streams'><bind xmlns='urn:x'/></stream:features>"
    );
}

#[test]
fn an_element_is_read_with_its_namespaces_and_characters() {
    let element = parse(
        "<a:x xmlns:a='urn:a' xmlns='urn:d' y='1' a:y='2' xml:lang='de'>\r\n t&#x20;&amp;<![CDATA[<&>]]>\
         <z/><z xmlns=''/><a:z/></a:x >",
    )
    .expect("valid");
    assert!(element.is("x", "urn:a"));
    assert_eq!(
        (element.attribute("y"), element.lang(), element.text()),
        (Some("1"), Some("de"), "\n t &<&>".to_owned())
    );
    let names: Vec<_> = element.children().map(|child| (child.name(), child.namespace())).collect();
    assert_eq!(names, [("z", "urn:d"), ("z", ""), ("z", "urn:a")]);
    assert_eq!(element.value("urn:a", "y"), Some("2"));
    let around = [Declaration { prefix: "p".into(), uri: "urn:p".into() }];
    let element = Element::parse_in("<p:x p:a='1'/>", &around, &Limits::default()).expect("valid");
    assert_eq!(element.to_string(), "<x xmlns='urn:p' xmlns:a0='urn:p' a0:a='1'/>");
    for beside in ["", " <a/>", "<a/> ", "<a/><b/>", "a", "<a>", "</a>", "<a></b>"] {
        assert_eq!(parse(beside), Err(StreamCondition::NotWellFormed), "{beside}");
    }
}

fn any_element() -> impl Strategy<Value = Element> {
    let name = prop::sample::select(vec!["a", "b", "query", "é"]);
    let namespace = prop::sample::select(vec!["", ns::CLIENT, ns::STREAMS, "urn:a", "urn:b&'"]);
    let attributes =
        prop::collection::vec((prop::sample::select(vec!["x", "y", "z"]), any::<String>(), 0..3usize), 0..4);
    let leaf = (name, namespace, attributes, any::<String>()).prop_map(|(name, namespace, attributes, text)| {
        let mut element = Element::new(name, namespace).with_text(text);
        for (name, value, of) in attributes {
            element = element.with_attribute(["", "urn:a", ns::XML][of], name, value.into());
        }
        element
    });
    leaf.prop_recursive(4, 24, 4, |inner| {
        (inner.clone(), prop::collection::vec(inner, 0..4), any::<String>())
            .prop_map(|(outer, children, text)| outer.with_children(children).with_text(text))
    })
}

/// The text that is written instead of characters that XML does not have.
fn allowed(element: &Element) -> Element {
    let text = |text: &str| text.replace(|c| !crate::xml::chars::is_allowed(c), "\u{fffd}");
    let mut allowed = element.clone();
    for attribute in &mut allowed.attributes {
        attribute.value = text(&attribute.value).into();
    }
    for node in &mut allowed.nodes {
        match node {
            Node::Element(child) => *child = self::allowed(child),
            Node::Text(given) => *given = text(given),
        }
    }
    allowed
}

proptest! {
    /// RFC 6120, section 11.3: "An XMPP entity MUST NOT generate data that is not XML-well-formed." "An XMPP entity MUST NOT generate
    /// data that is not namespace-well-formed."
    #[test]
    fn what_is_written_is_read_as_it_was(element in any_element()) {
        prop_assert_eq!(parse(&element.to_string()), Ok(allowed(&element)));
        let in_stream = [
            Declaration { prefix: String::new(), uri: ns::CLIENT.into() },
            Declaration { prefix: "stream".into(), uri: ns::STREAMS.into() },
        ];
        let read = Element::parse_in(&element.text_for(Framing::Tcp), &in_stream, &Limits::default());
        prop_assert_eq!(read, Ok(allowed(&element)));
    }
}
