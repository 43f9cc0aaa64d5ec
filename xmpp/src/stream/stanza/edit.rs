//! Stanzas with other children.

use super::{Child, ChildPlaces, Namespace, Places, Span, Stanza};
use crate::{Element, element::Around, xml::tag::Tag};

impl Stanza {
    /// The stanza without the children that `keep` refuses, and with `behind` after those that are left. All else stays as it came. A
    /// first-level element that is no stanza of clients stays as it is.
    ///
    /// The result is the one that reading the new text would give. Nothing is read again: it takes a time in proportion to the text.
    pub fn edited(&self, keep: impl FnMut(&Child<'_>) -> bool, behind: &[Element]) -> Self {
        if self.kind().is_none() {
            return self.clone();
        }
        let content = self.content();
        let is_empty = content.begin == self.text.len();
        if is_empty && behind.is_empty() {
            return self.clone();
        }
        let mut text = String::with_capacity(self.text.len() + 96 * behind.len());
        if is_empty {
            // The slash becomes an end tag.
            text.push_str(&self.text[..self.text.len() - "/>".len()]);
            text.push('>');
        } else {
            text.push_str(&self.text[..content.begin]);
        }
        let mut children = self.push_content(keep, &mut text);
        for element in behind {
            children.push(self.push_child(element, &mut text));
        }
        if is_empty {
            // A stanza of clients has no prefix.
            text.push_str("</");
            text.push_str(self.name());
            text.push('>');
        } else {
            text.push_str(&self.text[content.end..]);
        }
        let places = Places { children, ..self.places.clone() };
        Self { text, places, header: self.header.clone() }
    }

    /// The place between the start tag and the end tag. It is at the end of the text, if there is no end tag.
    pub(super) fn content(&self) -> Span {
        let tag = Tag::of(&self.text);
        // An end tag has no other bracket.
        let end = if tag.is_empty { tag.end } else { self.text.rfind('<').unwrap_or(self.text.len()) };
        Span { begin: tag.end, end }
    }

    /// Appends what is in the stanza, without the children that `keep` refuses. Returns the places of the others in `out`.
    pub(super) fn push_content(&self, mut keep: impl FnMut(&Child<'_>) -> bool, out: &mut String) -> Vec<ChildPlaces> {
        let mut kept = Vec::with_capacity(self.places.children.len());
        let content = self.content();
        let mut done = content.begin;
        for (child, places) in self.children().zip(&self.places.children) {
            let ChildPlaces { whole, name, namespace } = places;
            if keep(&child) {
                let moved =
                    |span: &Span| Span { begin: span.begin - done + out.len(), end: span.end - done + out.len() };
                kept.push(ChildPlaces { whole: moved(whole), name: moved(name), namespace: namespace.clone() });
                out.push_str(&self.text[done..whole.end]);
            } else {
                out.push_str(&self.text[done..whole.begin]);
                // Text before and behind the child must not become `]]>`, which text does not have (XML 1.0, section 2.4).
                if out.ends_with(']') {
                    out.push(' ');
                }
            }
            done = whole.end;
        }
        out.push_str(&self.text[done..content.end]);
        kept
    }

    fn push_child(&self, element: &Element, out: &mut String) -> ChildPlaces {
        let begin = out.len();
        element.write_in(Around::IN_STANZA, out);
        let name = begin + "<".len() + element.prefix().len();
        let namespace = if element.namespace() == self.content_namespace() {
            Namespace::Content
        } else {
            Namespace::Of(element.namespace_name().clone())
        };
        ChildPlaces {
            whole: Span { begin, end: out.len() },
            name: Span { begin: name, end: name + element.name().len() },
            namespace,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        Framing, ns,
        stream::{Event, Limits, TcpParser, read_stanza, tests::properties::nearly_xml},
    };

    fn edited(text: &str, without: &[&str], behind: &[Element]) -> String {
        let stanza = read_stanza(text, &Limits::default()).expect("valid");
        let edited = stanza.edited(|child| !without.contains(&child.name), behind);
        assert_eq!(edited, again(&edited), "as it would be read");
        edited.into_text()
    }

    /// The stanza of the same text, read anew.
    fn again(stanza: &Stanza) -> Stanza {
        Stanza::read(stanza.text.clone(), &stanza.header, &Limits::default()).expect("valid")
    }

    #[test]
    fn children_are_cut_out_and_put_behind() {
        let id = Element::new("stanza-id", "urn:xmpp:sid:0").with("id", "1'").with("by", "a@b");
        let thread = Element::new("thread", ns::CLIENT).with_text("t&");
        let error = Element::new("x", ns::STREAMS);
        let end = "<stanza-id xmlns='urn:xmpp:sid:0' id='1&apos;' by='a@b'/><thread>t&amp;</thread>\
                   <stream:x xmlns:stream='http://etherx.jabber.org/streams'/>";
        let behind = [id, thread, error];
        for (text, without, expected) in [
            (
                "<message id='1' >\n<body>&lt;x</body> <p:x xmlns:p='u'><body/></p:x>\n<x/></message >",
                &["x"][..],
                format!("<message id='1' >\n<body>&lt;x</body> \n{end}</message >"),
            ),
            ("<message/>", &[], format!("<message>{end}</message>")),
            ("<presence to='a' />", &["a"], format!("<presence to='a' >{end}</presence>")),
            ("<iq type='>'><a/><b/></iq>", &["a", "b"], format!("<iq type='>'>{end}</iq>")),
            // The text around a child must not become the end of a CDATA section.
            ("<message>]]<a/>></message>", &["a"], format!("<message>]] >{end}</message>")),
            ("<message>]<a/>]<b/>></message>", &["a", "b"], format!("<message>] ] >{end}</message>")),
        ] {
            assert_eq!(edited(text, without, &behind), expected);
        }
        assert_eq!(edited("<message><a/></message>", &["a"], &[]), "<message></message>");
        assert_eq!(edited("<message/>", &["a"], &[]), "<message/>");
        assert_eq!(edited("<foo xmlns='urn:x'><a/></foo>", &["a"], &[]), "<foo xmlns='urn:x'><a/></foo>");
    }

    #[test]
    fn an_edited_stanza_can_be_routed_and_edited_again() {
        let text = "<message type='chat' to='x' xml:lang='de'><a/><body>hi</body></message>";
        let stanza = read_stanza(text, &Limits::default()).expect("valid");
        let mut edited = stanza.clone();
        for round in 1..=3 {
            edited =
                edited.edited(|child| child.name != "a", &[Element::new("n", "urn:n").with_text(round.to_string())]);
        }
        assert_eq!((edited.to(), edited.stanza_type(), edited.lang()), (Some("x"), Some("chat"), Some("de")));
        assert_eq!(
            edited.children().map(|child| child.text.to_owned()).collect::<Vec<_>>()[2],
            "<n xmlns='urn:n'>2</n>"
        );
        assert_eq!(
            edited.route("a@b/c", Framing::WebSocket).text(Some("d")),
            "<message to='d' from='a@b/c' xmlns='jabber:client' type='chat' xml:lang='de'><body>hi</body>\
             <n xmlns='urn:n'>1</n><n xmlns='urn:n'>2</n><n xmlns='urn:n'>3</n></message>"
        );
    }

    /// Stanzas of streams with headers that declare different namespaces.
    pub(in super::super) fn any_stanzas() -> impl Strategy<Value = Vec<Stanza>> {
        let header = prop::sample::select(vec![
            "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' xmlns:p='urn:p'>",
            "<stream:stream xml:lang='de' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>",
            "<stream xmlns='http://etherx.jabber.org/streams'>",
        ]);
        let wrap = prop::sample::select(vec![
            ("<message>", "</message>"),
            ("<message to='a@b' xmlns:q='u' id='&amp;1'\n>", "</message>"),
            ("<message xmlns='jabber:client' q:y='1' xmlns:q='u'>]]", ">]]</message >"),
            ("", ""),
        ]);
        (header, wrap, nearly_xml()).prop_map(|(header, (begin, end), text)| {
            let document = format!("{header}{begin}{text}{end}");
            let (mut parser, mut stanzas) = (TcpParser::new(Limits::default()), Vec::new());
            let mut input = document.as_bytes();
            while let Some(event) = parser.feed(&mut input) {
                if let Event::Stanza(stanza) = event {
                    stanzas.push(stanza);
                }
            }
            stanzas
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn an_edited_stanza_is_as_its_text_would_be_read(stanzas in any_stanzas(), kept: u8, count in 0..3usize) {
            for stanza in stanzas {
                let behind: Vec<_> = (0..count).map(|n| Element::new("n", ["urn:n", ns::CLIENT, ""][n]).with_text("&")).collect();
                let mut at = 0;
                let keep = |child: &Child<'_>| {
                    assert!(child.text.starts_with('<'));
                    at += 1;
                    kept >> (at % 8) & 1 == 1
                };
                let edited = stanza.edited(keep, &behind);
                prop_assert_eq!(&edited, &again(&edited));
                if stanza.kind().is_none() {
                    prop_assert_eq!(edited, stanza);
                    continue;
                }
                let (old, new) = (stanza.element(), edited.element());
                let mut at = 0;
                let kept: Vec<_> = old.children().filter(|_| { at += 1; kept >> (at % 8) & 1 == 1 }).chain(&behind).collect();
                prop_assert_eq!(new.children().collect::<Vec<_>>(), kept);
                prop_assert!(old.attributes().eq(new.attributes()));
                prop_assert!(Arc::ptr_eq(&edited.header, &stanza.header));
            }
        }
    }
}
