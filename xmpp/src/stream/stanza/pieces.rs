//! Stanzas that are put together of pieces: messages that were stored, and stanzas that carry others.

use std::borrow::Cow;

use super::{Child, Routed, Stanza, StanzaKind, read_stanza};
use crate::{
    Element, Framing,
    element::Around,
    error::{StreamCondition, StreamError},
    ns,
    stream::Limits,
    xml::{escape, tag::Tag},
};

/// A message as it is stored: the body apart from the rest, which stands there as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pieces<'a> {
    attributes: Cow<'a, str>,
    children: Cow<'a, str>,
    body: Option<Cow<'a, str>>,
    body_at: usize,
}

/// Pieces that are not those of a message.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidPieces {
    #[error("the pieces make no element: {0}")]
    Element(#[from] StreamError),
    #[error("the attributes are not those of a start tag, or have one that the service sets")]
    Attributes,
    #[error("the place of the body is not behind one of the children")]
    Body,
}

impl<'a> Pieces<'a> {
    /// Takes pieces that [`Stanza::pieces`] has made, or that were checked before.
    pub fn stored(attributes: &'a str, children: &'a str, body: Option<&'a str>, body_at: usize) -> Self {
        Self { attributes: attributes.into(), children: children.into(), body: body.map(Cow::Borrowed), body_at }
    }

    /// Checks pieces of somebody else by reading them: nothing but one message can be made of pieces that are taken.
    pub fn checked(
        attributes: &'a str,
        children: &'a str,
        body: Option<&'a str>,
        body_at: usize,
        limits: &Limits,
    ) -> Result<Self, InvalidPieces> {
        let text = format!("<message{attributes}>{children}</message>");
        if text.len() > limits.bytes {
            let error = StreamError::new(StreamCondition::PolicyViolation);
            return Err(error.with_text("an element is too long").into());
        }
        let stanza = read_stanza(&text, limits)?;
        let places = &stanza.places;
        let begin = "<message".len() + attributes.len() + ">".len();
        let is_set = places.to.is_some()
            || places.from.is_some()
            || places.id.is_some()
            || places.stanza_type.is_some()
            || places.lang.is_some()
            || places.declares_default;
        if stanza.kind() != Some(StanzaKind::Message) || stanza.content().begin != begin || is_set {
            return Err(InvalidPieces::Attributes);
        }
        let is_behind_child = places.children.iter().any(|child| child.whole.end - begin == body_at);
        if body_at != 0 && !is_behind_child {
            return Err(InvalidPieces::Body);
        }
        Ok(Self::stored(attributes, children, body, body_at))
    }

    /// The attributes and the declarations of the start tag, with the white space before each, but for `to`, `from`, `id`, `type`,
    /// `xml:lang` and the default namespace. Most messages have none.
    pub fn attributes(&self) -> &str {
        &self.attributes
    }

    /// The content of the message without the body.
    pub fn children(&self) -> &str {
        &self.children
    }

    /// The text of the body.
    pub fn body(&self) -> Option<&str> {
        self.body.as_deref()
    }

    /// The place of the body in [`Self::children`], in bytes.
    pub fn body_at(&self) -> usize {
        self.body_at
    }

    /// The message with this start and with `behind` after its children.
    ///
    /// Nothing is read: it takes a time in proportion to the text.
    pub fn route(&self, head: &Head<'_>, behind: &[Element], framing: Framing) -> Routed {
        let length = self.attributes.len() + self.children.len() + self.body().map_or(0, str::len);
        let mut tail = head.tail(framing, length + 96 * behind.len());
        tail.push_str(&self.attributes);
        tail.push('>');
        // The body comes first if its place is damaged.
        let (before, after) = self.children.split_at_checked(self.body_at).unwrap_or(("", &self.children));
        tail.push_str(before);
        if let Some(body) = &self.body {
            tail.push_str("<body>");
            escape::push_text(body, &mut tail);
            tail.push_str("</body>");
        }
        tail.push_str(after);
        for element in behind {
            element.write_in(Around::IN_STANZA, &mut tail);
        }
        head.routed(tail)
    }

    /// The message for another one to carry it.
    pub fn forwardable(&self, head: &Head<'_>, to: Option<&str>, behind: &[Element]) -> Forwardable {
        Forwardable(self.route(head, behind, Framing::WebSocket).text(to))
    }
}

/// The start of a stanza that the service writes: all but `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    pub kind: StanzaKind,
    pub from: &'a str,
    pub id: Option<&'a str>,
    /// The attribute `type`.
    pub stanza_type: Option<&'a str>,
    pub lang: Option<&'a str>,
}

impl Head<'_> {
    /// The attributes, with room for `length` more bytes.
    fn tail(&self, framing: Framing, length: usize) -> String {
        let mut tail = String::with_capacity(length + self.from.len() + self.id.map_or(0, str::len) + 96);
        escape::push_attribute("from", self.from, &mut tail);
        for (name, value) in [("id", self.id), ("type", self.stanza_type), ("xml:lang", self.lang)] {
            if let Some(value) = value {
                escape::push_attribute(name, value, &mut tail);
            }
        }
        if framing == Framing::WebSocket {
            escape::push_attribute("xmlns", ns::CLIENT, &mut tail);
        }
        tail
    }

    /// `tail`: all behind `to`, but for the end tag.
    fn routed(&self, mut tail: String) -> Routed {
        let name = self.kind.name();
        tail.push_str("</");
        tail.push_str(name);
        tail.push('>');
        Routed { head: format!("<{name}"), tail }
    }
}

/// The text of a stanza that another one can carry: it declares its namespace.
///
/// XEP-0297, section 3.2: "The namespace of the forwarded stanza MUST be preserved (this is typically 'jabber:client')."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwardable(String);

impl Forwardable {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Stanza {
    /// A message in pieces, without the children that `keep` refuses. The body is the first one that has no language and no elements. It
    /// stays among the children if `takes_body` is false. `None` if the element is no message.
    pub fn pieces(&self, mut keep: impl FnMut(&Child<'_>) -> bool, takes_body: bool) -> Option<Pieces<'static>> {
        if self.kind() != Some(StanzaKind::Message) {
            return None;
        }
        let (mut body, mut before) = (None, 0);
        let mut children = String::with_capacity(self.text.len());
        let keeps = |child: &Child<'_>| {
            if !keep(child) {
                return false;
            }
            if takes_body && body.is_none() {
                body = Some(child).filter(|child| child.name == "body").and_then(Child::plain_text);
                before += usize::from(body.is_none());
                return body.is_none();
            }
            true
        };
        let kept = self.push_content(keeps, &mut children);
        // The body stood behind the last child before it; white space between the two does not matter.
        let body_at = before.checked_sub(1).and_then(|last| kept.get(last)).map_or(0, |child| child.whole.end);
        let is_set = |name: &str| matches!(name, "to" | "from" | "id" | "type" | "xml:lang" | "xmlns");
        let mut attributes = String::new();
        for attribute in Tag::of(&self.text).attributes().filter(|attribute| !is_set(attribute.name)) {
            attributes.push_str(attribute.text);
        }
        Some(Pieces {
            attributes: attributes.into(),
            children: children.into(),
            body_at: if body.is_some() { body_at } else { 0 },
            body: body.map(Cow::Owned),
        })
    }

    /// The stanza from this sender, for another one to carry it.
    pub fn forwardable(&self, from: &str, to: Option<&str>) -> Forwardable {
        Forwardable(self.route(from, Framing::WebSocket).text(to))
    }
}

impl Routed {
    /// A stanza that carries another one: `around` are elements of which each is in the one before it, behind the children that it has;
    /// the stanza is in the last one.
    pub fn around(head: &Head<'_>, around: &[Element], stanza: &Forwardable, framing: Framing) -> Self {
        let mut tail = head.tail(framing, stanza.0.len() + 160 * around.len());
        tail.push('>');
        let mut inside = Around::IN_STANZA;
        for element in around {
            inside = element.write_begin(inside, &mut tail);
        }
        tail.push_str(&stanza.0);
        for element in around.iter().rev() {
            element.write_end(&mut tail);
        }
        head.routed(tail)
    }
}

#[cfg(test)]
mod tests;
