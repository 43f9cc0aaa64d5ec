//! Text of trees.

use std::fmt;

use super::{Attribute, Element, Node};
use crate::{Framing, ns, xml::escape};

/// The namespaces that are declared around an element.
#[derive(Clone, Copy)]
pub(crate) struct Around<'a> {
    default: &'a str,
    /// The prefix `stream` is that of streams.
    has_stream_prefix: bool,
}

impl Around<'static> {
    /// The namespaces in a stanza of clients, whatever its stream declares.
    pub(crate) const IN_STANZA: Self = Around { default: ns::CLIENT, has_stream_prefix: false };
}

impl Element {
    /// The text of the element, as it stands directly in a stream of a client.
    ///
    /// RFC 6120, section 4.8.5: "An implementation MUST NOT generate namespace prefixes for elements qualified by the content namespace":
    /// only elements of streams have a prefix. RFC 7395, section 3.3.3: "the stream prefix MUST be declared or use an unprefixed form".
    pub fn text_for(&self, framing: Framing) -> String {
        let mut text = String::new();
        self.write(framing, &mut text);
        text
    }

    /// Appends [`Self::text_for`].
    pub fn write(&self, framing: Framing, out: &mut String) {
        let around = match framing {
            Framing::Tcp => Around { default: ns::CLIENT, has_stream_prefix: true },
            Framing::WebSocket => Around { default: "", has_stream_prefix: false },
        };
        self.write_in(around, out);
    }

    /// The element as the header of a stream over TCP: its start tag, which declares the namespaces of what follows.
    ///
    /// RFC 6120, section 4.8.5: "The stream header needs to contain a namespace declaration for both the content namespace and the stream
    /// namespace." Section 11.5: "Before sending a stream header, an implementation SHOULD send an XML declaration".
    pub(crate) fn open_stream(&self) -> String {
        let mut out = "<?xml version='1.0'?><stream:".to_owned();
        out.push_str(&self.name);
        for (at, attribute) in self.attributes.iter().enumerate() {
            attribute.write(at, &mut out);
        }
        escape::push_attribute("xmlns", ns::CLIENT, &mut out);
        escape::push_attribute("xmlns:stream", ns::STREAMS, &mut out);
        out.push('>');
        out
    }

    /// Appends the text of the element as it stands at such a place.
    pub(crate) fn write_in(&self, around: Around<'_>, out: &mut String) {
        let inside = self.begin_tag(around, out);
        if self.nodes.is_empty() {
            out.push_str("/>");
            return;
        }
        self.write_nodes(inside, out);
        self.write_end(out);
    }

    /// Appends the start tag and the nodes, but not the end tag. Returns the namespaces that hold for more children.
    pub(crate) fn write_begin<'a>(&'a self, around: Around<'a>, out: &mut String) -> Around<'a> {
        let inside = self.begin_tag(around, out);
        self.write_nodes(inside, out);
        inside
    }

    /// Appends the end tag.
    pub(crate) fn write_end(&self, out: &mut String) {
        out.push_str("</");
        out.push_str(self.prefix());
        out.push_str(&self.name);
        out.push('>');
    }

    /// The prefix with its colon.
    pub(crate) fn prefix(&self) -> &'static str {
        if self.namespace == ns::STREAMS { "stream:" } else { "" }
    }

    /// Appends the start tag up to its closing bracket.
    fn begin_tag<'a>(&'a self, around: Around<'a>, out: &mut String) -> Around<'a> {
        let mut inside = around;
        let prefix = self.prefix();
        out.push('<');
        out.push_str(prefix);
        out.push_str(&self.name);
        if !prefix.is_empty() && !around.has_stream_prefix {
            inside.has_stream_prefix = true;
            escape::push_attribute("xmlns:stream", ns::STREAMS, out);
        } else if prefix.is_empty() && self.namespace != around.default {
            inside.default = &self.namespace;
            escape::push_attribute("xmlns", &self.namespace, out);
        }
        for (at, attribute) in self.attributes.iter().enumerate() {
            attribute.write(at, out);
        }
        inside
    }

    /// Appends the closing bracket of the start tag and the nodes.
    fn write_nodes(&self, inside: Around<'_>, out: &mut String) {
        out.push('>');
        for node in &self.nodes {
            match node {
                Node::Element(child) => child.write_in(inside, out),
                Node::Text(text) => escape::push_text(text, out),
            }
        }
    }
}

impl Attribute {
    /// `at`: its place among the element's attributes. It makes a prefix that no other one has.
    fn write(&self, at: usize, out: &mut String) {
        match &*self.namespace {
            "" => escape::push_attribute(&self.name, &self.value, out),
            ns::XML => escape::push_attribute(&format!("xml:{}", self.name), &self.value, out),
            namespace => {
                escape::push_attribute(&format!("xmlns:a{at}"), namespace, out);
                escape::push_attribute(&format!("a{at}:{}", self.name), &self.value, out);
            }
        }
    }
}

/// The element as a document of its own.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text_for(Framing::WebSocket))
    }
}
