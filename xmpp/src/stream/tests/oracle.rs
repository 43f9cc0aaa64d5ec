//! Another parser of XMPP's XML, `rxml`, refuses the same texts and finds the same in all others.

use proptest::prelude::*;
use rxml::Parse as _;

use super::{properties::nearly_xml, *};
use crate::{Element, element::Node};

/// The parts of a document, in their order: names with their namespaces, sorted attributes, text.
type Content = Vec<String>;

fn push_text(text: &str, content: &mut Content) {
    match content.last_mut() {
        Some(last) if last.starts_with("text ") => last.push_str(text),
        _ if text.is_empty() => {}
        _ => content.push(format!("text {text}")),
    }
}

fn push_start(namespace: &str, name: &str, attributes: impl Iterator<Item = String>, content: &mut Content) {
    let mut attributes: Vec<_> = attributes.collect();
    attributes.sort();
    content.push(format!("start {{{namespace}}}{name} {attributes:?}"));
}

fn push_element(element: &Element, content: &mut Content) {
    let attributes = element.attributes().map(|(namespace, name, value)| format!("{{{namespace}}}{name}={value}"));
    push_start(element.namespace(), element.name(), attributes, content);
    for node in element.nodes() {
        match node {
            Node::Element(child) => push_element(child, content),
            Node::Text(text) => push_text(text, content),
        }
    }
    content.push("end".to_owned());
}

/// The parts that `rxml` finds in the stream's elements; `None` if it refuses the stream or finds no end.
fn by_rxml(mut bytes: &[u8]) -> Option<Content> {
    let mut parser = rxml::Parser::new();
    let (mut content, mut depth) = (Vec::new(), 0);
    loop {
        match parser.parse(&mut bytes, true).ok()? {
            None => return Some(content),
            Some(rxml::Event::XmlDeclaration(..)) => {}
            Some(rxml::Event::StartElement(_, (namespace, name), attributes)) => {
                depth += 1;
                let attributes = attributes.iter().map(|((of, name), value)| format!("{{{of}}}{name}={value}"));
                if depth > 1 {
                    push_start(&namespace, &name, attributes, &mut content);
                }
            }
            Some(rxml::Event::EndElement(_)) => {
                depth -= 1;
                if depth > 0 {
                    content.push("end".to_owned());
                }
            }
            Some(rxml::Event::Text(_, text)) if depth > 1 => push_text(&text, &mut content),
            Some(rxml::Event::Text(..)) => {}
        }
    }
}

/// The parts that the parser of this crate finds. The error, if it refuses the stream.
fn by_ours(bytes: &[u8]) -> Result<Option<Content>, StreamCondition> {
    let mut content = Vec::new();
    for event in events_in(usize::MAX, bytes, &Limits::default()) {
        match event {
            Event::Opened(_) => {}
            Event::Stanza(stanza) => push_element(&stanza.element(), &mut content),
            Event::Closed => return Ok(Some(content)),
            Event::Error(error) => return Err(error.condition),
        }
    }
    Ok(None)
}

/// Whether `rxml` reads the text in a way of its own: it takes a second declaration of the default namespace, and refuses a carriage return
/// that stands alone before some characters.
fn is_misread(text: &str) -> bool {
    let doubles_default = |tag: &str| {
        let tag: String = tag.split_ascii_whitespace().collect();
        tag.matches("xmlns=").count() > 1
    };
    text.split('<').any(doubles_default) || text.replace("\r\n", "").contains('\r')
}

pub(in crate::stream) fn compare(text: &str) {
    if is_misread(text) {
        return;
    }
    let document = format!("{HEADER}{text}</stream:stream>");
    let theirs = by_rxml(document.as_bytes());
    match by_ours(document.as_bytes()) {
        // Rules of XMPP, of which XML knows nothing.
        Err(StreamCondition::BadFormat | StreamCondition::PolicyViolation | StreamCondition::BadNamespacePrefix) => {}
        Err(condition) => assert_eq!(theirs, None, "refused with {condition:?} by ours: {text:?}"),
        // Behind the end of a stream nothing is read.
        Ok(ours) if text.contains("</stream:stream") => drop(ours),
        Ok(ours) => assert_eq!(ours, theirs, "{text:?}"),
    }
}

#[test]
fn both_refuse_what_is_not_well_formed() {
    for text in [
        "<a b='1'c='2'/>",
        "<a b='<'/>",
        "<a>]]></a>",
        "<a>&#0;</a>",
        "<a>\u{ffff}</a>",
        "<1/>",
        "<a:b:c xmlns:a='x'/>",
        "<p:a/>",
        "<a xmlns:p=''/>",
        "<a xmlns:p='x' xmlns:q='x' p:b='1' q:b='2'/>",
        "<a xmlns:xmlns='x'/>",
        "<a xmlns:xml='x'/>",
        "<a/ >x</a>",
        "<a></a b='1'>",
        "<!-- c -->",
        "<a>&x;</a>",
        "<a b='x' b='y'/>",
        "<a b/>",
        "</>",
        "<a>&#xd800;</a>",
        "<xmlns:a/>",
    ] {
        compare(text);
        let document = format!("{HEADER}{text}</stream:stream>");
        assert!(by_ours(document.as_bytes()).is_err(), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn both_find_the_same_or_refuse(text in nearly_xml()) {
        compare(&text);
    }
}
