//! Trees of text.

use super::{Attribute, Element, Node};
use crate::{
    error::{StreamCondition, StreamError},
    stream::Limits,
    xml::{
        escape,
        read::{Piece, Reader, Start},
        scope::Declaration,
    },
};

impl Element {
    /// Reads an element with nothing around it.
    pub fn parse(text: &str, limits: &Limits) -> Result<Self, StreamError> {
        Self::parse_in(text, &[], limits)
    }

    /// Reads an element with these namespaces declared around it.
    pub fn parse_in(text: &str, around: &[Declaration], limits: &Limits) -> Result<Self, StreamError> {
        if text.len() > limits.bytes {
            return Err(StreamError::new(StreamCondition::PolicyViolation).with_text("an element is too long"));
        }
        if !text.starts_with('<') {
            return Err(
                StreamError::new(StreamCondition::NotWellFormed).with_text("there is something beside the element")
            );
        }
        let mut reader = Reader::new(text, around, limits)?;
        // The elements that are open, the outermost first.
        let mut open: Vec<Self> = Vec::new();
        loop {
            match reader.piece()? {
                Piece::Start(start) => open.push(Self::of(&start, &reader)),
                Piece::Text(text) => {
                    if let Some(element) = open.last_mut() {
                        element.push_text(text.into_owned());
                    }
                }
                Piece::Character(c) => {
                    if let Some(element) = open.last_mut() {
                        element.push_text(c.to_string());
                    }
                }
                Piece::End(_) => {
                    // A reader tells as many ends as starts, and each after its start.
                    let element = open.pop().expect("an open element");
                    match open.last_mut() {
                        Some(parent) => parent.nodes.push(Node::Element(element)),
                        None => {
                            reader.finish()?;
                            return Ok(element);
                        }
                    }
                }
            }
        }
    }

    fn of(start: &Start<'_>, reader: &Reader<'_>) -> Self {
        let attribute = |read: &crate::xml::read::Attribute<'_>| Attribute {
            namespace: read.namespace.clone(),
            name: read.local.to_owned().into(),
            value: escape::value(read.raw).into_owned().into(),
        };
        Self {
            name: start.local.to_owned().into(),
            namespace: start.namespace.clone(),
            attributes: reader.attributes().iter().map(attribute).collect(),
            nodes: Vec::new(),
        }
    }
}
