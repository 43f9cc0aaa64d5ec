//! The namespaces of prefixes at a place (Namespaces in XML 1.0).

use std::{ops::Deref, sync::Arc};

use super::chars;
use crate::{
    error::{StreamCondition, StreamError},
    ns,
};

/// The declaration of a namespace. The prefix is empty in that of the default namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    pub prefix: String,
    pub uri: Arc<str>,
}

/// The name of a namespace; "" if there is none.
///
/// All elements and attributes that a declaration holds for share its name: thousands of them may stand for one declaration.
#[derive(Debug, Clone, Eq)]
pub(crate) enum NamespaceName {
    Constant(&'static str),
    Declared(Arc<str>),
}

impl Deref for NamespaceName {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Constant(name) => name,
            Self::Declared(name) => name,
        }
    }
}

impl PartialEq for NamespaceName {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl PartialEq<&str> for NamespaceName {
    fn eq(&self, other: &&str) -> bool {
        **self == **other
    }
}

/// The declarations that hold at a place of an element.
pub(crate) struct Scope<'t> {
    /// The declarations of the element and of the elements in it.
    inner: Vec<Inner<'t>>,
    /// The declarations around the element, which its text does not have, each prefix once.
    outer: &'t [Declaration],
    /// For each of `outer`, whether the element uses it. One entry more is for a default namespace without a declaration.
    used: Vec<bool>,
    max: usize,
}

struct Inner<'t> {
    prefix: &'t str,
    uri: Arc<str>,
    depth: usize,
}

impl<'t> Scope<'t> {
    pub(crate) fn new(outer: &'t [Declaration], max: usize) -> Self {
        Self { inner: Vec::new(), outer, used: Vec::new(), max }
    }

    /// Declares a prefix for the element that is opened as the `depth`th.
    pub(crate) fn declare(&mut self, prefix: &'t str, uri: &str, depth: usize) -> Result<(), StreamError> {
        let reserved = matches!(uri, ns::XML | ns::XMLNS);
        match prefix {
            "xml" if uri == ns::XML => return Ok(()),
            "xml" | "xmlns" => return Err(wrong("a prefix is reserved")),
            _ if reserved => return Err(wrong("a namespace is reserved")),
            _ if uri.is_empty() && !prefix.is_empty() => return Err(wrong("a prefix is declared without a namespace")),
            _ => {}
        }
        if self.inner.len() >= self.max {
            let policy = StreamError::new(StreamCondition::PolicyViolation);
            return Err(policy.with_text("too many namespaces are declared"));
        }
        self.inner.push(Inner { prefix, uri: uri.into(), depth });
        Ok(())
    }

    /// Forgets what was declared by elements that are deeper than `depth`.
    pub(crate) fn close(&mut self, depth: usize) {
        while self.inner.last().is_some_and(|inner| inner.depth > depth) {
            self.inner.pop();
        }
    }

    /// The namespace of an element; "" is none.
    pub(crate) fn element(&mut self, prefix: &str) -> Result<NamespaceName, StreamError> {
        if prefix.is_empty() { Ok(self.find("").unwrap_or(NamespaceName::Constant(""))) } else { self.prefixed(prefix) }
    }

    /// The namespace of an attribute; "" is none.
    pub(crate) fn attribute(&mut self, prefix: &str) -> Result<NamespaceName, StreamError> {
        if prefix.is_empty() { Ok(NamespaceName::Constant("")) } else { self.prefixed(prefix) }
    }

    fn prefixed(&mut self, prefix: &str) -> Result<NamespaceName, StreamError> {
        match prefix {
            "xml" => Ok(NamespaceName::Constant(ns::XML)),
            _ => self.find(prefix).ok_or_else(|| wrong("a prefix is not declared")),
        }
    }

    fn find(&mut self, prefix: &str) -> Option<NamespaceName> {
        if let Some(inner) = self.inner.iter().rev().find(|inner| inner.prefix == prefix) {
            return Some(NamespaceName::Declared(inner.uri.clone()));
        }
        let at = self.outer.iter().position(|declaration| declaration.prefix == prefix);
        if at.is_some() || prefix.is_empty() {
            self.used.resize(self.outer.len() + 1, false);
            self.used[at.unwrap_or(self.outer.len())] = true;
        }
        at.map(|at| NamespaceName::Declared(self.outer[at].uri.clone()))
    }

    /// The declarations of the element that is opened, each prefix once.
    pub(crate) fn declarations(&self) -> Vec<Declaration> {
        let declaration = |inner: &Inner<'_>| Declaration { prefix: inner.prefix.to_owned(), uri: inner.uri.clone() };
        self.inner.iter().map(declaration).collect()
    }

    /// Whether the element that is opened declares the default namespace.
    pub(crate) fn declares_default(&self) -> bool {
        self.inner.iter().any(|inner| inner.prefix.is_empty())
    }

    /// The declarations around the element that are used in it. `None` is a default namespace that nobody has declared.
    pub(crate) fn used(&self) -> impl Iterator<Item = Option<&'t Declaration>> {
        self.used.iter().enumerate().filter(|(_, used)| **used).map(|(at, _)| self.outer.get(at))
    }
}

/// The prefix and the local part of a name.
pub(crate) fn split(name: &str) -> Result<(&str, &str), StreamError> {
    let (prefix, local) = match name.split_once(':') {
        Some((prefix, local)) if chars::is_name(prefix) => (prefix, local),
        Some(_) => return Err(wrong("a name is not valid")),
        None => ("", name),
    };
    if chars::is_name(local) { Ok((prefix, local)) } else { Err(wrong("a name is not valid")) }
}

fn wrong(text: &'static str) -> StreamError {
    StreamError::new(StreamCondition::NotWellFormed).with_text(text)
}
