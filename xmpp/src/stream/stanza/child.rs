//! The parts of a child element, without a tree.

use std::borrow::Cow;

use super::Child;
use crate::{
    Element, Jid,
    element::Node,
    ns,
    stream::{Declaration, Limits},
    xml::tag::Tag,
};

impl<'a> Child<'a> {
    pub fn is(&self, name: &str, namespace: &str) -> bool {
        self.name == name && self.namespace == namespace
    }

    /// The value of an attribute without a namespace.
    pub fn attribute(&self, name: &str) -> Option<Cow<'a, str>> {
        Tag::of(self.text).value(name)
    }

    /// The address in an attribute without a namespace. `None`: there is none, or it is malformed.
    pub fn address(&self, name: &str) -> Option<Jid> {
        self.attribute(name).and_then(|address| Jid::new(&address).ok())
    }

    /// The text of an element of the content namespace that has nothing but text. `None` if it has attributes, a language for example, or
    /// elements.
    pub fn plain_text(&self) -> Option<String> {
        // Elements of the content namespace have no prefix, so a declaration in such an element only repeats the one around it.
        if self.namespace != ns::CLIENT || Tag::of(self.text).attributes().any(|attribute| attribute.name != "xmlns") {
            return None;
        }
        let default = [Declaration { prefix: String::new(), uri: ns::CLIENT.into() }];
        let element = Element::parse_in(self.text, &default, &Limits::UNLIMITED).ok()?;
        element.nodes().iter().all(|node| matches!(node, Node::Text(_))).then(|| element.text())
    }
}
