//! The parts of a child element, without a tree.

use std::borrow::Cow;

use super::Child;
use crate::{
    Element,
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

    /// The text of an element of the content namespace that has nothing but text. `None` if it has attributes, a language for example, or
    /// elements.
    pub fn plain_text(&self) -> Option<String> {
        // Such an element has no prefix, so that the only declaration that matters is the one that it repeats.
        if self.namespace != ns::CLIENT || Tag::of(self.text).attributes().any(|attribute| attribute.name != "xmlns") {
            return None;
        }
        let default = [Declaration { prefix: String::new(), uri: ns::CLIENT.to_owned() }];
        let element = Element::parse_in(self.text, &default, &Limits::UNLIMITED).ok()?;
        element.nodes().iter().all(|node| matches!(node, Node::Text(_))).then(|| element.text())
    }
}
