//! Reads an element piece by piece. The library finds tags, text and references; what XML and XMPP demand beyond that is
//! checked here, so that each reader of pieces sees well-formed ones.

use std::borrow::Cow;

use quick_xml::{
    Reader as Lexer,
    events::{Event, attributes::Attributes},
};

use super::{
    chars, escape,
    scope::{self, Declaration, NamespaceName, Scope},
};
use crate::{
    error::{StreamCondition, StreamError},
    stream::Limits,
};

/// The pieces of one element.
pub(crate) struct Reader<'t> {
    text: &'t str,
    lexer: Lexer<&'t [u8]>,
    scope: Scope<'t>,
    limits: &'t Limits,
    /// Elements that are open.
    depth: usize,
    /// Elements that were found.
    elements: usize,
    /// The last element was an empty one, whose end is still to be told.
    is_empty: bool,
    attributes: Vec<Attribute<'t>>,
}

pub(crate) enum Piece<'t> {
    Start(Start<'t>),
    Text(Cow<'t, str>),
    /// The character of a reference.
    Character(char),
    /// The offset behind the element.
    End(usize),
}

/// A start tag. Its attributes are [`Reader::attributes`].
pub(crate) struct Start<'t> {
    pub(crate) prefix: &'t str,
    pub(crate) local: &'t str,
    pub(crate) namespace: NamespaceName,
    /// The offset of its `<`.
    pub(crate) begin: usize,
    /// The offset behind its `>`.
    pub(crate) end: usize,
}

/// An attribute that declares no namespace.
pub(crate) struct Attribute<'t> {
    prefix: &'t str,
    pub(crate) local: &'t str,
    pub(crate) namespace: NamespaceName,
    /// Between the quotes.
    pub(crate) raw: &'t str,
    /// The offset of the white space before its name.
    pub(crate) begin: usize,
    /// The offset behind its closing quote.
    pub(crate) end: usize,
}

impl<'t> Reader<'t> {
    /// `text` begins with the `<` of the element. `outer`: the namespaces that are declared around it.
    ///
    /// RFC 6120, section 11.3: "An XMPP entity MUST NOT accept data that is not XML-well-formed; instead it MUST close the stream
    /// over which the data was received with a <not-well-formed/> stream error".
    pub(crate) fn new(text: &'t str, outer: &'t [Declaration], limits: &'t Limits) -> Result<Self, StreamError> {
        if !chars::all_allowed(text) {
            return Err(wrong("a character is not allowed in XML"));
        }
        Ok(Self {
            text,
            lexer: Lexer::from_str(text),
            scope: Scope::new(outer, limits.namespaces),
            limits,
            depth: 0,
            elements: 0,
            is_empty: false,
            attributes: Vec::new(),
        })
    }

    /// The attributes of the last start tag, without declarations of namespaces.
    pub(crate) fn attributes(&self) -> &[Attribute<'t>] {
        &self.attributes
    }

    /// The value of an attribute without a namespace.
    pub(crate) fn value(&self, local: &str) -> Option<Cow<'t, str>> {
        let found = self.attributes.iter().find(|attribute| attribute.namespace.is_empty() && attribute.local == local);
        found.map(|attribute| escape::value(attribute.raw))
    }

    pub(crate) fn scope(&self) -> &Scope<'t> {
        &self.scope
    }

    /// The next piece. There is none behind the end of the element.
    pub(crate) fn piece(&mut self) -> Result<Piece<'t>, StreamError> {
        let begin = self.offset();
        if std::mem::take(&mut self.is_empty) {
            return Ok(self.close(begin));
        }
        let event = self.lexer.read_event().map_err(|_| wrong("the XML is not well-formed"))?;
        let raw = &self.text[begin..self.offset()];
        match event {
            Event::Start(_) => self.open(begin, raw, false).map(Piece::Start),
            Event::Empty(_) => self.open(begin, raw, true).map(Piece::Start),
            Event::End(_) if self.depth > 0 => Ok(self.close(self.offset())),
            // Only white space is outside of elements, and that not here.
            _ if self.depth == 0 => Err(wrong("there is something beside the element")),
            Event::Text(_) if memchr::memmem::find(raw.as_bytes(), b"]]>").is_some() => {
                Err(wrong("text has the end of a CDATA section"))
            }
            Event::Text(_) => Ok(Piece::Text(escape::lines(raw))),
            Event::CData(_) => Ok(Piece::Text(escape::lines(&raw["<![CDATA[".len()..raw.len() - "]]>".len()]))),
            Event::GeneralRef(_) => escape::character(&raw[1..raw.len() - 1]).map(Piece::Character),
            Event::Eof => Err(wrong("an element has no end")),
            _ => Err(StreamError::new(StreamCondition::RestrictedXml)
                .with_text("comments, processing instructions and document types are prohibited")),
        }
    }

    /// Reads what is left of the element. Nothing may follow it.
    pub(crate) fn finish(&mut self) -> Result<(), StreamError> {
        while self.depth > 0 {
            self.piece()?;
        }
        if self.offset() == self.text.len() { Ok(()) } else { Err(wrong("there is something beside the element")) }
    }

    fn offset(&self) -> usize {
        // The text is in memory.
        self.lexer.buffer_position() as usize
    }

    fn close(&mut self, end: usize) -> Piece<'t> {
        self.depth -= 1;
        self.scope.close(self.depth);
        Piece::End(end)
    }

    fn open(&mut self, begin: usize, raw: &'t str, is_empty: bool) -> Result<Start<'t>, StreamError> {
        self.depth += 1;
        self.is_empty = is_empty;
        if self.depth > self.limits.depth {
            return Err(policy("elements are nested too deep"));
        }
        self.elements += 1;
        if self.elements > self.limits.elements {
            return Err(policy("there are too many elements in one"));
        }
        let inside = &raw[1..raw.len() - if is_empty { 2 } else { 1 }];
        let name_length = inside.bytes().position(chars::is_space).unwrap_or(inside.len());
        let (prefix, local) = self.name(&inside[..name_length])?;
        // Elements may not have this prefix; declarations of namespaces have it.
        if prefix == "xmlns" {
            return Err(wrong("a prefix is reserved"));
        }
        self.read_attributes(begin + 1, inside, name_length)?;
        let namespace = self.scope.element(prefix)?;
        Ok(Start { prefix, local, namespace, begin, end: begin + raw.len() })
    }

    fn name(&self, name: &'t str) -> Result<(&'t str, &'t str), StreamError> {
        if name.len() > self.limits.name_bytes {
            return Err(policy("a name is too long"));
        }
        let parts = scope::split(name)?;
        // A recipient whose parser does not know the name would end its own stream: one user could keep another one away.
        if chars::is_old_name(name) {
            Ok(parts)
        } else {
            Err(policy("a name has characters that not all readers of XML know"))
        }
    }

    /// `inside`: a tag without its brackets; `base`: the offset of it.
    fn read_attributes(&mut self, base: usize, inside: &'t str, name_length: usize) -> Result<(), StreamError> {
        self.attributes.clear();
        let (mut count, mut end) = (0, name_length);
        // Names that are there twice are refused by it.
        for found in Attributes::new(inside, name_length) {
            let found = found.map_err(|_| wrong("an attribute is not well-formed"))?;
            count += 1;
            if count > self.limits.attributes {
                return Err(policy("an element has too many attributes"));
            }
            let name = slice(inside, found.key.into_inner());
            let raw = slice(inside, &found.value);
            if name.start == end {
                return Err(wrong("there is no space between attributes"));
            }
            let begin = end;
            // Behind the closing quote.
            end = raw.end + 1;
            let (name, raw) = (&inside[name], &inside[raw]);
            let (prefix, local) = self.name(name)?;
            escape::check_value(raw)?;
            match (prefix, local) {
                ("", "xmlns") => self.declare("", raw)?,
                ("xmlns", _) => self.declare(local, raw)?,
                _ => self.attributes.push(Attribute {
                    prefix,
                    local,
                    namespace: NamespaceName::Constant(""),
                    raw,
                    begin: base + begin,
                    end: base + end,
                }),
            }
        }
        self.resolve()
    }

    fn declare(&mut self, prefix: &'t str, raw: &'t str) -> Result<(), StreamError> {
        if raw.len() > self.limits.name_bytes {
            return Err(policy("the name of a namespace is too long"));
        }
        let uri = escape::value(raw);
        if !chars::is_uri(&uri) {
            return Err(policy("the name of a namespace has characters that URIs do not have"));
        }
        self.scope.declare(prefix, &uri, self.depth)
    }

    /// Finds the namespaces of attributes, once all are declared.
    fn resolve(&mut self) -> Result<(), StreamError> {
        let mut prefixed = 0;
        for attribute in &mut self.attributes {
            attribute.namespace = self.scope.attribute(attribute.prefix)?;
            prefixed += usize::from(!attribute.prefix.is_empty());
        }
        if prefixed < 2 {
            return Ok(());
        }
        // Two prefixes may mean one namespace.
        for (at, attribute) in self.attributes.iter().enumerate().filter(|(_, attribute)| !attribute.prefix.is_empty())
        {
            // The names come first: namespaces may be long and alike.
            let is_same =
                |other: &Attribute<'_>| (other.local, &other.namespace) == (attribute.local, &attribute.namespace);
            if self.attributes[..at].iter().any(is_same) {
                return Err(wrong("an attribute is there twice"));
            }
        }
        Ok(())
    }
}

/// The place of `part` in `whole`. The library gives names and values as slices of the text.
pub(super) fn slice(whole: &str, part: &[u8]) -> std::ops::Range<usize> {
    let begin = part.as_ptr() as usize - whole.as_ptr() as usize;
    begin..begin + part.len()
}

fn wrong(text: &'static str) -> StreamError {
    StreamError::new(StreamCondition::NotWellFormed).with_text(text)
}

fn policy(text: &'static str) -> StreamError {
    StreamError::new(StreamCondition::PolicyViolation).with_text(text)
}
