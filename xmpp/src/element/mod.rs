//! A small tree of elements, for what the server reads in full and for what it writes.

mod read;
mod write;

use std::borrow::Cow;

pub(crate) use write::Around;

use crate::{ns, xml::scope::NamespaceName};

/// An element. Names that a program gives are constants of it, so that nothing of a client can become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    name: Cow<'static, str>,
    namespace: NamespaceName,
    attributes: Vec<Attribute>,
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Attribute {
    namespace: NamespaceName,
    name: Cow<'static, str>,
    value: Cow<'static, str>,
}

/// A part of an element's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    Element(Element),
    Text(String),
}

impl Element {
    pub fn new(name: &'static str, namespace: &'static str) -> Self {
        let namespace = NamespaceName::Constant(namespace);
        Self { name: name.into(), namespace, attributes: Vec::new(), nodes: Vec::new() }
    }

    /// Sets an attribute without a namespace.
    pub fn with(self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.with_attribute("", name, value.into())
    }

    /// Sets `xml:lang`, the language of the text.
    pub fn with_lang(self, lang: impl Into<Cow<'static, str>>) -> Self {
        self.with_attribute(ns::XML, "lang", lang.into())
    }

    fn with_attribute(mut self, namespace: &'static str, name: &'static str, value: Cow<'static, str>) -> Self {
        self.attributes.retain(|attribute| attribute.namespace != namespace || attribute.name != name);
        self.attributes.push(Attribute { namespace: NamespaceName::Constant(namespace), name: name.into(), value });
        self
    }

    pub fn with_child(mut self, child: Self) -> Self {
        self.nodes.push(Node::Element(child));
        self
    }

    pub fn with_children(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.nodes.extend(children.into_iter().map(Node::Element));
        self
    }

    pub fn with_text(mut self, text: impl Into<String>) -> Self {
        self.push_text(text.into());
        self
    }

    /// Appends text. Text behind text becomes one node with it.
    fn push_text(&mut self, text: String) {
        match self.nodes.last_mut() {
            Some(Node::Text(before)) => before.push_str(&text),
            _ if text.is_empty() => {}
            _ => self.nodes.push(Node::Text(text)),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the namespace; "" if there is none.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn namespace_name(&self) -> &NamespaceName {
        &self.namespace
    }

    pub fn is(&self, name: &str, namespace: &str) -> bool {
        self.name == name && self.namespace == namespace
    }

    /// Namespaces ("" if there is none), names and values of the attributes.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.attributes.iter().map(|attribute| (&*attribute.namespace, &*attribute.name, &*attribute.value))
    }

    /// The value of an attribute without a namespace.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.value("", name)
    }

    /// The value of `xml:lang`.
    pub fn lang(&self) -> Option<&str> {
        self.value(ns::XML, "lang")
    }

    fn value(&self, namespace: &str, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|attribute| attribute.namespace == namespace && attribute.name == name);
        found.map(|attribute| &*attribute.value)
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The child elements.
    pub fn children(&self) -> impl Iterator<Item = &Self> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Element(child) => Some(child),
            Node::Text(_) => None,
        })
    }

    /// The first child element of this name.
    pub fn child(&self, name: &str, namespace: &str) -> Option<&Self> {
        self.children().find(|child| child.is(name, namespace))
    }

    /// The text beside the child elements, joined.
    pub fn text(&self) -> String {
        let texts = self.nodes.iter().filter_map(|node| match node {
            Node::Text(text) => Some(text.as_str()),
            Node::Element(_) => None,
        });
        texts.collect()
    }
}

#[cfg(test)]
mod tests;
