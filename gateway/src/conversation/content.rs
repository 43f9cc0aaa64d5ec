//! Validates the content of a message, which is then passed on unchanged.

use carillon_proto::{
    MediaReference, limits,
    pb::client::{Code, Content, Media, content::Body},
};
use prost::{
    DecodeError, Message as _,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};

/// Why content is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ContentError {
    #[error("content is {size} bytes but at most {max} are allowed")]
    TooLarge { size: usize, max: usize },
    #[error("content has no body but must have exactly one")]
    NoBody,
    #[error("content is not protobuf: {0}")]
    Malformed(#[from] DecodeError),
    #[error("content has a field of wire type group but unknown fields must have another one")]
    Group,
    #[error("target is a message that is gone, erased or expired: nothing can be said about it any more")]
    Gone,
    #[error("{what} {why}")]
    Wrong { what: &'static str, why: String },
}

impl ContentError {
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::TooLarge { .. } => Code::TooLarge,
            Self::Gone => Code::NotFound,
            Self::NoBody | Self::Malformed(_) | Self::Group | Self::Wrong { .. } => Code::Invalid,
        }
    }
}

/// Checks encoded content. Unknown fields are ignored, except that groups are refused: the parsers of recipients reject
/// a whole frame in which groups are nested too deeply.
pub(crate) fn check(encoded: &[u8], max_bytes: usize) -> Result<Content, ContentError> {
    let size = encoded.len();
    if size > max_bytes {
        return Err(ContentError::TooLarge { size, max: max_bytes });
    }
    let content = Content::decode(encoded)?;
    if has_group(encoded, Within::Content)? {
        return Err(ContentError::Group);
    }
    check_body(&content)?;
    Ok(content)
}

/// Checks what the body says. What it and the rest say about other messages is checked with them.
pub(super) fn check_body(content: &Content) -> Result<(), ContentError> {
    match content.body.as_ref().ok_or(ContentError::NoBody)? {
        Body::Edit(_) | Body::Recall(_) | Body::Reaction(_) | Body::Pin(_) | Body::Poll(_) | Body::Vote(_) => Ok(()),
        Body::Text(text) if text.body.is_empty() => Err(wrong("text.body", "is empty but must say something")),
        Body::Text(_) => Ok(()),
        Body::Image(media) | Body::Audio(media) | Body::Video(media) | Body::File(media) => check_media(media),
        Body::Location(location) => {
            in_range("location.latitude", location.latitude, 90.0)?;
            in_range("location.longitude", location.longitude, 180.0)?;
            at_most("location.label", location.label.len(), limits::MAX_LABEL_BYTES)
        }
        Body::Custom(custom) => {
            if custom.r#type.is_empty() || custom.r#type.chars().any(char::is_control) {
                return Err(wrong("custom.type", "must be 1 to 128 bytes without control characters"));
            }
            at_most("custom.type", custom.r#type.len(), 128)
        }
    }
}

/// The message whose fields `has_group` scans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    Content,
    Edit,
    /// A message whose first field is one without messages in it.
    About,
    /// A message without messages in it.
    Leaf,
}

impl Within {
    /// The message in this field; `None`: there is none in it.
    fn child(self, field: u32) -> Option<Self> {
        match (self, field) {
            (Self::Content, 50) => Some(Self::Edit),
            (Self::Content, 51..=53 | 55 | 56) => Some(Self::About),
            (Self::Content, 1..=7 | 54 | 57..=59) => Some(Self::Leaf),
            (Self::Edit, 2) => Some(Self::Content),
            (Self::Edit | Self::About, 1) => Some(Self::Leaf),
            _ => None,
        }
    }
}

fn has_group(mut fields: &[u8], within: Within) -> Result<bool, DecodeError> {
    while !fields.is_empty() {
        let (tag, wire_type) = decode_key(&mut fields)?;
        match (wire_type, within.child(tag)) {
            (WireType::StartGroup | WireType::EndGroup, _) => return Ok(true),
            (WireType::LengthDelimited, Some(child)) => {
                let len = decode_varint(&mut fields)?;
                // The content was decoded before, so that this field ends where the fields do, or earlier.
                let (body, rest) = fields.split_at(fields.len().min(usize::try_from(len).unwrap_or(usize::MAX)));
                if has_group(body, child)? {
                    return Ok(true);
                }
                fields = rest;
            }
            _ => skip_field(wire_type, tag, &mut fields, DecodeContext::default())?,
        }
    }
    Ok(false)
}

fn check_media(media: &Media) -> Result<(), ContentError> {
    match (media.id.len(), media.url.is_empty()) {
        (0, _) => check_url(&media.url)?,
        (MediaReference::BYTES, true) => {}
        (MediaReference::BYTES, false) => return Err(wrong("url", "must be empty where there is an id")),
        (bytes, _) => return Err(wrong("id", format!("is {bytes} bytes but must be 0 or {}", MediaReference::BYTES))),
    }
    at_most("media_type", media.media_type.len(), limits::MAX_LABEL_BYTES)?;
    at_most("name", media.name.len(), limits::MAX_LABEL_BYTES)?;
    if media.name.contains(['/', '\\', '\0']) {
        return Err(wrong("name", "has a path but must be a name alone"));
    }
    if !matches!(media.sha256.len(), 0 | 32) {
        return Err(wrong("sha256", format!("is {} bytes but must be 0 or 32", media.sha256.len())));
    }
    at_most("waveform", media.waveform.len(), limits::MAX_WAVEFORM_BYTES)?;
    at_most("preview", media.preview.len(), limits::MAX_PREVIEW_BYTES)
}

/// Checks for an absolute http or https URL with a host (RFC 3986), in visible ASCII.
pub(super) fn check_url(url: &str) -> Result<(), ContentError> {
    at_most("url", url.len(), limits::MAX_URL_BYTES)?;
    let scheme_end = url.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = url.split_at(scheme_end);
    if !scheme.eq_ignore_ascii_case("https://") && !scheme.eq_ignore_ascii_case("http://") {
        return Err(wrong("url", "must begin with https:// or http://"));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host.is_empty() || host.starts_with(':') {
        return Err(wrong("url", "has no host but must be absolute"));
    }
    if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong("url", "has spaces, control or non-ASCII characters, which must be percent-encoded"));
    }
    Ok(())
}

fn in_range(what: &'static str, degrees: f64, most: f64) -> Result<(), ContentError> {
    // False for NaN, too.
    if degrees.abs() <= most { Ok(()) } else { Err(wrong(what, format!("is {degrees} but must be -{most} to {most}"))) }
}

pub(super) fn at_most(what: &'static str, size: usize, max: usize) -> Result<(), ContentError> {
    if size <= max { Ok(()) } else { Err(wrong(what, format!("is {size} bytes but must be at most {max}"))) }
}

pub(super) fn wrong(what: &'static str, why: impl Into<String>) -> ContentError {
    ContentError::Wrong { what, why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::pb::{
        DESCRIPTORS,
        client::{Custom, Location, Text},
    };
    use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};

    fn text(body: &str) -> Content {
        Content { body: Some(Body::Text(Text { body: body.to_owned() })), ..Default::default() }
    }

    fn image(change: impl FnOnce(&mut Media)) -> Content {
        let mut media = Media { url: "https://example.org/a.png".to_owned(), ..Default::default() };
        change(&mut media);
        Content { body: Some(Body::Image(media)), ..Default::default() }
    }

    fn place(latitude: f64, longitude: f64) -> Content {
        Content {
            body: Some(Body::Location(Location { latitude, longitude, label: String::new() })),
            ..Default::default()
        }
    }

    #[test]
    fn good_content_passes() {
        let custom = Custom { r#type: "a/b".to_owned(), data: vec![0; 100].into() };
        for content in [
            text("hello"),
            image(|_| {}),
            image(|media| media.url = "HTTP://u@[::1]:8080/x?y#z".to_owned()),
            image(|media| media.sha256 = vec![1; 32].into()),
            image(|media| (media.url, media.id) = (String::new(), vec![1; 24].into())),
            place(-90.0, 180.0),
            Content { body: Some(Body::Custom(custom)), ..Default::default() },
        ] {
            check(&content.encode_to_vec(), 65_536).expect("good");
        }
    }

    #[test]
    fn groups_are_refused_wherever_they_are() {
        let hello = text("hello").encode_to_vec();
        for depth in [1, 97, 98, 100] {
            let groups = groups(depth);
            let behind = [&hello[..], &groups[..]].concat();
            assert_eq!(check(&behind, 65_536).expect_err("refused").code(), Code::Invalid, "{depth}");
            // In a text, too.
            let body = [&hello[2..], &groups[..]].concat();
            let within = [&[0x0a][..], &varint(body.len()), &body].concat();
            assert_eq!(check(&within, 65_536).expect_err("refused").code(), Code::Invalid, "{depth}");
            // The same bytes as an unknown text.
            let unread = [&hello[..], &[0x9a, 0x06], &varint(groups.len()), &groups].concat();
            check(&unread, 65_536).expect("nobody reads them");
        }
        let hidden = Content {
            body: Some(Body::Custom(Custom { r#type: "a/b".to_owned(), data: groups(3).into() })),
            ..Default::default()
        };
        check(&hidden.encode_to_vec(), 65_536).expect("nobody reads them");
    }

    /// `has_group` relies on it.
    #[test]
    fn all_messages_within_content_are_known() {
        let files = FileDescriptorSet::decode(DESCRIPTORS).expect("decodes");
        let all = || files.file.iter().filter(|file| file.package() == "carillon.client.v1");
        let named = |name: &str| -> &DescriptorProto {
            let mut messages = all().flat_map(|file| &file.message_type);
            messages.find(|message| message.name() == name).expect("a message")
        };
        let mut seen = Vec::new();
        let mut waits = vec![("Content", Within::Content)];
        while let Some((name, within)) = waits.pop() {
            seen.push((name, within));
            for field in &named(name).field {
                let child = within.child(field.number() as u32);
                assert_eq!(field.r#type() == Type::Message, child.is_some(), "{name}.{}", field.name());
                let child = child.map(|child| (field.type_name().rsplit('.').next().expect("a name"), child));
                waits.extend(child.filter(|child| !seen.contains(child)));
            }
        }
        assert!(seen.contains(&("MessageRef", Within::Leaf)), "{seen:?}");
    }

    /// Field 99, so many groups one in the other.
    fn groups(depth: usize) -> Vec<u8> {
        [[0x9b, 0x06].repeat(depth), [0x9c, 0x06].repeat(depth)].concat()
    }

    fn varint(number: usize) -> Vec<u8> {
        let mut out = Vec::new();
        prost::encoding::encode_varint(number as u64, &mut out);
        out
    }

    #[test]
    fn bad_content_is_refused_by_name() {
        let custom = |r#type: &str| Custom { r#type: r#type.to_owned(), data: Default::default() };
        for (content, says) in [
            (Content { body: None, ..Default::default() }, "no body"),
            (text(""), "text.body"),
            (image(|media| media.url.clear()), "url"),
            (image(|media| media.url = "ftp://example.org/a".to_owned()), "url"),
            (image(|media| media.url = "/a.png".to_owned()), "url"),
            (image(|media| media.url = "https:///a.png".to_owned()), "no host"),
            (image(|media| media.url = "https://a b/".to_owned()), "url"),
            (image(|media| media.url = format!("https://a/{}", "x".repeat(2048))), "url"),
            (image(|media| media.sha256 = vec![1; 31].into()), "sha256"),
            (image(|media| (media.url, media.id) = (String::new(), vec![1; 23].into())), "id"),
            (image(|media| media.id = vec![1; 24].into()), "url"),
            (image(|media| media.name = "../etc/passwd".to_owned()), "name"),
            (image(|media| media.waveform = vec![0; limits::MAX_WAVEFORM_BYTES + 1].into()), "waveform"),
            (image(|media| media.preview = vec![0; limits::MAX_PREVIEW_BYTES + 1].into()), "preview"),
            (place(90.1, 0.0), "latitude"),
            (place(0.0, f64::NAN), "longitude"),
            (place(0.0, f64::INFINITY), "longitude"),
            (Content { body: Some(Body::Custom(custom(""))), ..Default::default() }, "custom.type"),
            (Content { body: Some(Body::Custom(custom(&"x".repeat(129)))), ..Default::default() }, "custom.type"),
        ] {
            let error = check(&content.encode_to_vec(), 65_536).expect_err("refused");
            assert_eq!(error.code(), Code::Invalid);
            assert!(error.to_string().contains(says), "{error} does not say {says}");
        }
        let long = text(&"x".repeat(100)).encode_to_vec();
        assert_eq!(check(&long, 100).expect_err("too large").code(), Code::TooLarge);
        // A text that ends before its length.
        let error = check(&[0x0a, 9, 1], 100).expect_err("refused");
        assert!(error.code() == Code::Invalid && error.to_string().contains("not protobuf"), "{error}");
    }
}
