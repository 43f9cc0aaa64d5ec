//! Start tags of elements that were read before.

use std::borrow::Cow;

use quick_xml::events::attributes::Attributes;

use super::{chars, escape, read::slice};

/// The start tag at the beginning of an element that is well-formed.
pub(crate) struct Tag<'t> {
    /// The tag without its brackets.
    inside: &'t str,
    name_length: usize,
    /// The offset behind the tag in the element.
    pub(crate) end: usize,
    /// The tag is the whole element.
    pub(crate) is_empty: bool,
}

/// An attribute or a declaration of a namespace.
pub(crate) struct TagAttribute<'t> {
    /// The name with its prefix.
    pub(crate) name: &'t str,
    /// The text between the quotes.
    raw: &'t str,
    /// The attribute with the white space before it.
    pub(crate) text: &'t str,
}

impl<'t> Tag<'t> {
    pub(crate) fn of(element: &'t str) -> Self {
        let bytes = element.as_bytes();
        let (mut at, mut end) = (0, element.len());
        while let Some(found) = memchr::memchr3(b'>', b'\'', b'"', &bytes[at..]) {
            let found = at + found;
            if bytes[found] == b'>' {
                end = found + 1;
                break;
            }
            // A value ends with the quote with which it begins.
            match memchr::memchr(bytes[found], &bytes[found + 1..]) {
                Some(length) => at = found + 1 + length + 1,
                None => break,
            }
        }
        let tag = &element[..end];
        let is_empty = tag.ends_with("/>");
        let inside = tag.strip_suffix('>').unwrap_or(tag);
        let inside = if is_empty { &inside[..inside.len() - 1] } else { inside };
        let inside = inside.strip_prefix('<').unwrap_or(inside);
        let name_length = inside.bytes().position(chars::is_space).unwrap_or(inside.len());
        Self { inside, name_length, end, is_empty }
    }

    pub(crate) fn attributes(&self) -> impl Iterator<Item = TagAttribute<'t>> + use<'t> {
        let inside = self.inside;
        let mut end = self.name_length;
        Attributes::new(inside, self.name_length).map_while(Result::ok).map(move |found| {
            let name = slice(inside, found.key.into_inner());
            let raw = slice(inside, &found.value);
            let begin = end;
            // Behind the closing quote.
            end = raw.end + 1;
            TagAttribute { name: &inside[name], raw: &inside[raw], text: &inside[begin..end] }
        })
    }

    /// The value of the attribute of this name, which has no prefix.
    pub(crate) fn value(&self, name: &str) -> Option<Cow<'t, str>> {
        self.attributes().find(|attribute| attribute.name == name).map(|attribute| escape::value(attribute.raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_ends_behind_its_values() {
        for (element, end, is_empty) in [
            ("<a>x</a>", 3, false),
            ("<a/>", 4, true),
            ("<a b='>' c=\"'/>\">x</a>", 17, false),
            ("<a b = '/'\n/>", 13, true),
            ("<p:a b='\"' ><c d='e'/></p:a>", 12, false),
        ] {
            let tag = Tag::of(element);
            assert_eq!((tag.end, tag.is_empty), (end, is_empty), "{element}");
        }
        let tag = Tag::of("<p:a x='1'\n xmlns:p = \"u\" p:x='2'  y='&amp;\t>'/>");
        let attributes: Vec<_> = tag.attributes().map(|attribute| (attribute.name, attribute.text)).collect();
        let expected =
            [("x", " x='1'"), ("xmlns:p", "\n xmlns:p = \"u\""), ("p:x", " p:x='2'"), ("y", "  y='&amp;\t>'")];
        assert_eq!(attributes, expected);
        assert_eq!((tag.value("x").as_deref(), tag.value("y").as_deref()), (Some("1"), Some("& >")));
        assert_eq!(tag.value("z"), None);
    }
}
