//! First-level elements: their text as it came, and what routing needs of it.

mod child;
mod edit;
mod pieces;

use std::sync::Arc;

pub use pieces::{Forwardable, Head, InvalidPieces, Pieces};

use super::{Framing, Header, Limits};
use crate::{
    Element,
    error::{StreamCondition, StreamError},
    ns,
    xml::{
        escape,
        read::{Attribute, Piece, Reader, Start},
        scope::{Declaration, NamespaceName},
    },
};

/// The stanzas of RFC 6120, section 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StanzaKind {
    Message,
    Presence,
    Iq,
}

impl StanzaKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Presence => "presence",
            Self::Iq => "iq",
        }
    }
}

/// A first-level element.
///
/// The text is that of the peer, byte by byte. It can stand in every stream with the same content namespace: declarations of the
/// stream's header that it needs were put into it.
///
/// RFC 6120, section 4.8.5: "an entity MUST ensure that such namespaces are properly declared (according to this section) when routing
/// or delivering stanzas from an input stream to an output stream".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stanza {
    text: String,
    places: Places,
    /// The header of the stream: its language and its content namespace hold for the stanza.
    header: Arc<Header>,
}

/// The places of what routing needs in the text of a stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Places {
    name: Span,
    namespace: Namespace,
    /// The offset behind the name in the start tag: where attributes are inserted.
    insert: usize,
    /// The attributes that a server sets, with the white space before them.
    to: Option<(Span, Value)>,
    from: Option<(Span, Value)>,
    id: Option<Value>,
    stanza_type: Option<Value>,
    lang: Option<Value>,
    declares_default: bool,
    children: Vec<ChildPlaces>,
}

/// A place in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    begin: usize,
    end: usize,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    /// The place of the value, if it stands in the text as it is.
    In(Span),
    /// The value whose text has references or white space that stand for something else.
    Of(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Namespace {
    /// The content namespace of the stream.
    Content,
    Of(NamespaceName),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ChildPlaces {
    whole: Span,
    name: Span,
    namespace: Namespace,
}

/// An element directly in a stanza.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child<'a> {
    /// The name without its prefix.
    pub name: &'a str,
    /// The name of the namespace; "" if there is none.
    pub namespace: &'a str,
    /// The text of the element in the stanza. Namespaces that it uses may be declared in the stanza's start tag.
    pub text: &'a str,
}

/// A stanza on its way to its recipients: what stands before and behind the value of `to`, which is another for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routed {
    /// The text up to the end of the name.
    head: String,
    /// The text behind `to`.
    tail: String,
}

impl Routed {
    /// Appends the stanza for this recipient. `None`: it has no `to`.
    pub fn write(&self, to: Option<&str>, out: &mut String) {
        out.push_str(&self.head);
        if let Some(to) = to {
            escape::push_attribute("to", to, out);
        }
        out.push_str(&self.tail);
    }

    pub fn text(&self, to: Option<&str>) -> String {
        let mut text = String::with_capacity(self.head.len() + self.tail.len() + to.map_or(0, str::len) + 8);
        self.write(to, &mut text);
        text
    }
}

impl Stanza {
    /// The element as it came, with declarations that it had from the stream's header.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The same text, without a copy.
    pub fn into_text(self) -> String {
        self.text
    }

    /// The name without its prefix.
    pub fn name(&self) -> &str {
        self.of(self.places.name)
    }

    /// The name of the namespace; "" if there is none.
    pub fn namespace(&self) -> &str {
        self.namespace_of(&self.places.namespace)
    }

    /// `None` if the element is not a stanza of clients: only one of `jabber:client` is such in the streams to which it goes.
    pub fn kind(&self) -> Option<StanzaKind> {
        if self.namespace() != ns::CLIENT {
            return None;
        }
        match self.name() {
            "message" => Some(StanzaKind::Message),
            "presence" => Some(StanzaKind::Presence),
            "iq" => Some(StanzaKind::Iq),
            _ => None,
        }
    }

    pub fn to(&self) -> Option<&str> {
        self.places.to.as_ref().map(|(_, value)| self.value(value))
    }

    /// The sender's address as the peer gives it. A server sets it anew.
    pub fn from(&self) -> Option<&str> {
        self.places.from.as_ref().map(|(_, value)| self.value(value))
    }

    pub fn id(&self) -> Option<&str> {
        self.places.id.as_ref().map(|value| self.value(value))
    }

    /// The attribute `type`.
    pub fn stanza_type(&self) -> Option<&str> {
        self.places.stanza_type.as_ref().map(|value| self.value(value))
    }

    /// The language of the stanza; that of its stream, if it names none.
    ///
    /// RFC 6120, section 8.1.5: "If an inbound stanza received by a client or server does not possess an 'xml:lang' attribute, an
    /// implementation MUST assume that the default language is that specified for the entity's input stream".
    pub fn lang(&self) -> Option<&str> {
        self.places.lang.as_ref().map_or(self.header.lang.as_deref(), |value| Some(self.value(value)))
    }

    /// The child elements, in their order.
    pub fn children(&self) -> impl ExactSizeIterator<Item = Child<'_>> {
        self.places.children.iter().map(|child| Child {
            name: self.of(child.name),
            namespace: self.namespace_of(&child.namespace),
            text: self.of(child.whole),
        })
    }

    pub fn has_child(&self, name: &str, namespace: &str) -> bool {
        self.children().any(|child| child.is(name, namespace))
    }

    /// The whole element as a tree.
    pub fn element(&self) -> Element {
        let default = [Declaration { prefix: String::new(), uri: self.content_namespace().into() }];
        // The text was read by the same rules, and limits that were met then do not matter now.
        Element::parse_in(&self.text, &default, &Limits::UNLIMITED).expect("read before")
    }

    /// The stanza from this sender, for streams of this kind with the content namespace `jabber:client`. Everything but `to`, `from` and
    /// a missing `xml:lang` stays as it came.
    ///
    /// RFC 6120, section 8.1.2.1: "When a server receives an XML stanza from a connected client, the server MUST add a 'from' attribute
    /// to the stanza or override the 'from' attribute specified by the client". Section 8.1.5: "If an outbound stanza generated by a
    /// client does not possess an 'xml:lang' attribute, the client's server SHOULD add an 'xml:lang' attribute"; "A server MUST NOT
    /// modify or delete 'xml:lang' attributes on stanzas it receives from other entities."
    pub fn route(&self, from: &str, framing: Framing) -> Routed {
        let head = self.text[..self.places.insert].to_owned();
        let mut tail = String::with_capacity(self.text.len() + from.len() + 48);
        escape::push_attribute("from", from, &mut tail);
        if self.places.lang.is_none()
            && let Some(lang) = &self.header.lang
        {
            escape::push_attribute("xml:lang", lang, &mut tail);
        }
        if framing == Framing::WebSocket && !self.places.declares_default {
            escape::push_attribute("xmlns", ns::CLIENT, &mut tail);
        }
        let mut cuts = [&self.places.to, &self.places.from].map(|found| found.as_ref().map(|(place, _)| *place));
        cuts.sort_by_key(|cut| cut.map(|cut| cut.begin));
        let mut done = self.places.insert;
        for cut in cuts.into_iter().flatten() {
            tail.push_str(&self.text[done..cut.begin]);
            done = cut.end;
        }
        tail.push_str(&self.text[done..]);
        Routed { head, tail }
    }

    /// Reads an element of a stream with this header.
    pub(super) fn read(text: String, header: &Arc<Header>, limits: &Limits) -> Result<Self, StreamError> {
        let (places, adopted) = Places::read(&text, header, limits)?;
        if adopted.is_empty() {
            return Ok(Self { text, places, header: header.clone() });
        }
        // Few stanzas need a declaration of the header: these are read twice.
        let mut whole = String::with_capacity(text.len() + adopted.len());
        whole.push_str(&text[..places.insert]);
        whole.push_str(&adopted);
        whole.push_str(&text[places.insert..]);
        let (places, _) = Places::read(&whole, header, limits)?;
        Ok(Self { text: whole, places, header: header.clone() })
    }

    fn of(&self, span: Span) -> &str {
        &self.text[span.begin..span.end]
    }

    fn value<'a>(&'a self, value: &'a Value) -> &'a str {
        match value {
            Value::In(span) => self.of(*span),
            Value::Of(value) => value,
        }
    }

    fn namespace_of<'a>(&'a self, namespace: &'a Namespace) -> &'a str {
        match namespace {
            Namespace::Content => self.content_namespace(),
            Namespace::Of(uri) => uri,
        }
    }

    fn content_namespace(&self) -> &str {
        self.header.content_namespace().unwrap_or_default()
    }
}

/// Reads one stanza as it stands in a stream of a client, for tests and for what was stored.
pub fn read_stanza(text: &str, limits: &Limits) -> Result<Stanza, StreamError> {
    Stanza::read(text.to_owned(), &Header::of_clients(), limits)
}

impl Places {
    /// Finds the places, and the declarations that the text lacks, as attributes.
    fn read(text: &str, header: &Header, limits: &Limits) -> Result<(Self, String), StreamError> {
        let content = header.content_namespace();
        let mut reader = Reader::new(text, &header.namespaces, limits)?;
        let Piece::Start(start) = reader.piece()? else { return Err(StreamCondition::NotWellFormed.into()) };
        check_prefix(&start)?;
        let mut places = Self {
            name: name_of(&start),
            namespace: namespace_of(&start, content),
            insert: name_of(&start).end,
            to: None,
            from: None,
            id: None,
            stanza_type: None,
            lang: None,
            declares_default: reader.scope().declares_default(),
            children: Vec::new(),
        };
        for attribute in reader.attributes() {
            let place = Span { begin: attribute.begin, end: attribute.end };
            match (&*attribute.namespace, attribute.local) {
                ("", "to") => places.to = Some((place, value_of(attribute))),
                ("", "from") => places.from = Some((place, value_of(attribute))),
                ("", "id") => places.id = Some(value_of(attribute)),
                ("", "type") => places.stanza_type = Some(value_of(attribute)),
                (ns::XML, "lang") => places.lang = Some(value_of(attribute)),
                _ => {}
            }
        }
        // Elements that are open in the stanza.
        let mut depth = 1;
        while depth > 0 {
            match reader.piece()? {
                Piece::Start(start) => {
                    check_prefix(&start)?;
                    if depth == 1 {
                        let whole = Span { begin: start.begin, end: start.end };
                        let namespace = namespace_of(&start, content);
                        places.children.push(ChildPlaces { whole, name: name_of(&start), namespace });
                    }
                    depth += 1;
                }
                Piece::End(end) => {
                    depth -= 1;
                    if depth == 1
                        && let Some(child) = places.children.last_mut()
                    {
                        child.whole.end = end;
                    }
                }
                Piece::Text(_) | Piece::Character(_) => {}
            }
        }
        reader.finish()?;
        Ok((places, adopted(&reader, content)?))
    }
}

/// The declarations of the stream's header that an element uses, as attributes.
fn adopted(reader: &Reader<'_>, content: Option<&str>) -> Result<String, StreamError> {
    let mut adopted = String::new();
    for used in reader.scope().used() {
        match used {
            // The content namespace is that of the other stream, too.
            Some(Declaration { prefix, uri }) if prefix.is_empty() && Some(&**uri) == content => {}
            Some(Declaration { prefix, uri }) if prefix.is_empty() => {
                escape::push_attribute("xmlns", uri, &mut adopted)
            }
            Some(Declaration { prefix, uri }) => escape::push_attribute(&format!("xmlns:{prefix}"), uri, &mut adopted),
            None => escape::push_attribute("xmlns", "", &mut adopted),
        }
    }
    // RFC 6120, section 4.8.5: "namespaces for extended content within such stanzas MUST NOT be declared in that stream header". "If
    // either party to a stream declares such namespaces, the other party to the stream SHOULD close the stream with an
    // <invalid-namespace/> stream error". Short ones are taken: clients that declare some exist.
    if adopted.len() > Limits::ADOPTED_BYTES {
        let wrong = StreamError::new(StreamCondition::InvalidNamespace);
        return Err(wrong.with_text("namespaces of stanzas are declared in the stream's header"));
    }
    Ok(adopted)
}

/// RFC 6120, section 4.8.5: "An implementation MUST NOT generate namespace prefixes for elements qualified by the content namespace [...] if
/// the content namespace is 'jabber:client' or 'jabber:server'." "An XMPP entity SHOULD NOT accept data that violates this rule (in
/// particular, an XMPP server MUST NOT route or deliver such data to another entity without first correcting the error); instead it
/// SHOULD either ignore the data or close the stream with a stream error, which SHOULD be \<bad-namespace-prefix/\>".
fn check_prefix(start: &Start<'_>) -> Result<(), StreamError> {
    if start.prefix.is_empty() || !matches!(&*start.namespace, ns::CLIENT | ns::SERVER) {
        return Ok(());
    }
    Err(StreamError::new(StreamCondition::BadNamespacePrefix)
        .with_text("an element of the content namespace has a prefix"))
}

/// The local part of the name.
fn name_of(start: &Start<'_>) -> Span {
    let prefix = if start.prefix.is_empty() { 0 } else { start.prefix.len() + 1 };
    let begin = start.begin + 1 + prefix;
    Span { begin, end: begin + start.local.len() }
}

fn namespace_of(start: &Start<'_>, content: Option<&str>) -> Namespace {
    if start.namespace == content.unwrap_or_default() {
        Namespace::Content
    } else {
        Namespace::Of(start.namespace.clone())
    }
}

fn value_of(attribute: &Attribute<'_>) -> Value {
    // The closing quote is the last byte.
    let end = attribute.end - 1;
    match escape::value(attribute.raw) {
        std::borrow::Cow::Borrowed(raw) => Value::In(Span { begin: end - raw.len(), end }),
        std::borrow::Cow::Owned(value) => Value::Of(value.into()),
    }
}
