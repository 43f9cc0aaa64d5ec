//! Encodes envelopes from borrowed parts.

use std::ops::Range;

use bytes::Bytes;
use prost::{
    Message as _,
    bytes::BufMut as _,
    encoding::{
        DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, encoded_len_varint, key_len,
        skip_field,
    },
};

use crate::{
    DuplicateKey, MessageId,
    pb::client::{Content, Envelope, GroupChange, Text, content::Body},
};

/// The parts of an envelope. Encoded as [`RawEnvelope`](crate::pb::link::RawEnvelope) is.
#[derive(Debug, Clone, Copy)]
pub struct EnvelopeParts<'a> {
    pub id: &'a str,
    pub sender: &'a str,
    pub sender_device: &'a str,
    pub recipient: EnvelopeTo<'a>,
    pub client_id: &'a str,
    pub time_ms: u64,
    /// An encoded `carillon.client.v1.Content`.
    pub content: &'a [u8],
    /// An encoded `carillon.client.v1.GroupChange`; empty: none.
    pub change: &'a [u8],
    /// 0: it does not expire.
    pub expires_at_ms: u64,
}

#[derive(Debug, Clone, Copy)]
pub enum EnvelopeTo<'a> {
    User(&'a str),
    Group(&'a str),
}

impl<'a> EnvelopeTo<'a> {
    /// The number of its field in `Recipient`, and the name.
    fn parts(self) -> (u32, &'a str) {
        match self {
            Self::User(user) => (1, user),
            Self::Group(group) => (2, group),
        }
    }
}

/// Where the names of sender and recipient stand in an encoded envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedNames {
    pub sender: Range<usize>,
    pub recipient: Range<usize>,
}

// Field numbers of `RawEnvelope`.
const ID: u32 = 1;
const SENDER: u32 = 2;
const SENDER_DEVICE: u32 = 3;
const TO: u32 = 4;
const CLIENT_ID: u32 = 5;
const TIME_MS: u32 = 6;
const CONTENT: u32 = 7;
const ERASED: u32 = 9;
const CHANGE: u32 = 10;
const EXPIRES_AT_MS: u32 = 100;
/// Of `Content`.
const RECALL: u32 = 51;

impl EnvelopeParts<'_> {
    pub fn encoded_len(&self) -> usize {
        let texts =
            [(ID, self.id), (SENDER, self.sender), (SENDER_DEVICE, self.sender_device), (CLIENT_ID, self.client_id)];
        texts.iter().map(|(field, text)| len_unless_empty(*field, text.as_bytes())).sum::<usize>()
            + len(TO, self.recipient_len())
            + len_unless_zero(TIME_MS, self.time_ms)
            + len_unless_empty(CONTENT, self.content)
            + len_unless_empty(CHANGE, self.change)
            + len_unless_zero(EXPIRES_AT_MS, self.expires_at_ms)
    }

    fn recipient_len(&self) -> usize {
        let (field, name) = self.recipient.parts();
        len(field, name.len())
    }

    /// Appends the encoded envelope. Names are those within `out`.
    pub fn encode(&self, out: &mut Vec<u8>) -> EncodedNames {
        put_unless_empty(ID, self.id.as_bytes(), out);
        let sender = put_unless_empty(SENDER, self.sender.as_bytes(), out);
        put_unless_empty(SENDER_DEVICE, self.sender_device.as_bytes(), out);
        encode_key(TO, WireType::LengthDelimited, out);
        encode_varint(self.recipient_len() as u64, out);
        let (field, name) = self.recipient.parts();
        let recipient = put(field, name.as_bytes(), out);
        put_unless_empty(CLIENT_ID, self.client_id.as_bytes(), out);
        put_unless_zero(TIME_MS, self.time_ms, out);
        put_unless_empty(CONTENT, self.content, out);
        put_unless_empty(CHANGE, self.change, out);
        put_unless_zero(EXPIRES_AT_MS, self.expires_at_ms, out);
        EncodedNames { sender, recipient }
    }
}

/// The encoded envelope of a change of a group that no session has made. `key`: in the group's timeline. `sender`: the user of whom it is; empty:
/// of none. State machines use it: the same arguments always give the same bytes.
pub fn group_change_envelope(
    group: &str,
    sender: &str,
    key: DuplicateKey,
    time_ms: u64,
    change: &GroupChange,
) -> Bytes {
    let id = MessageId::of(time_ms, key).to_string();
    let parts = EnvelopeParts {
        id: &id,
        sender,
        sender_device: "",
        recipient: EnvelopeTo::Group(group),
        client_id: "",
        time_ms,
        content: &[],
        change: &change.encode_to_vec(),
        expires_at_ms: 0,
    };
    let mut encoded = Vec::with_capacity(parts.encoded_len());
    parts.encode(&mut encoded);
    encoded.into()
}

/// The time in an encoded `RawEnvelope`, if it has one.
pub fn time_of_envelope(mut encoded: &[u8]) -> Option<u64> {
    let context = DecodeContext::default();
    while !encoded.is_empty() {
        let (field, wire) = decode_key(&mut encoded).ok()?;
        if field == TIME_MS && wire == WireType::Varint {
            return decode_varint(&mut encoded).ok();
        }
        skip_field(wire, field, &mut encoded, context.clone()).ok()?;
    }
    None
}

/// The fields of an encoded envelope that decide how it is given out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EnvelopeMarks<'a> {
    /// An encoded `carillon.client.v1.GroupChange`.
    pub change: Option<&'a [u8]>,
    /// When the service received the message; 0: it is not said.
    pub time_ms: u64,
    /// 0: it does not expire.
    pub expires_at_ms: u64,
    pub erased: bool,
    /// The message recalls another one.
    pub recalls: bool,
}

impl<'a> EnvelopeMarks<'a> {
    /// Those up to where the envelope can be read.
    pub fn of(mut encoded: &'a [u8]) -> Self {
        let mut marks = Self::default();
        while !encoded.is_empty() && marks.read_field(&mut encoded).is_some() {}
        marks
    }

    fn read_field(&mut self, encoded: &mut &'a [u8]) -> Option<()> {
        let (field, wire) = decode_key(encoded).ok()?;
        match (field, wire) {
            (CHANGE, WireType::LengthDelimited) => {
                let length = usize::try_from(decode_varint(encoded).ok()?).ok()?;
                let (change, rest) = encoded.split_at_checked(length)?;
                (self.change, *encoded) = (Some(change), rest);
            }
            (CONTENT, WireType::LengthDelimited) => {
                let length = usize::try_from(decode_varint(encoded).ok()?).ok()?;
                let (content, rest) = encoded.split_at_checked(length)?;
                (self.recalls, *encoded) = (has_field(content, RECALL), rest);
            }
            (TIME_MS, WireType::Varint) => self.time_ms = decode_varint(encoded).ok()?,
            (EXPIRES_AT_MS, WireType::Varint) => self.expires_at_ms = decode_varint(encoded).ok()?,
            (ERASED, WireType::Varint) => self.erased = decode_varint(encoded).ok()? != 0,
            _ => skip_field(wire, field, encoded, DecodeContext::default()).ok()?,
        }
        Some(())
    }

    /// True if the content must not be given out any more.
    pub fn has_expired(&self, now_ms: u64) -> bool {
        self.expires_at_ms != 0 && self.expires_at_ms <= now_ms
    }
}

/// True if the encoded message has this field, up to where it can be read.
fn has_field(mut encoded: &[u8], wanted: u32) -> bool {
    while !encoded.is_empty() {
        let Ok((field, wire)) = decode_key(&mut encoded) else { return false };
        if field == wanted {
            return true;
        }
        if skip_field(wire, field, &mut encoded, DecodeContext::default()).is_err() {
            return false;
        }
    }
    false
}

/// The encoded envelope as it is given out at this time; `None`: as it is.
pub fn expired_envelope(encoded: &[u8], now_ms: u64) -> Option<Vec<u8>> {
    let marks = EnvelopeMarks::of(encoded);
    if marks.erased || !marks.has_expired(now_ms) {
        return None;
    }
    // One that can't be read has no content that could.
    Some(Envelope::decode(encoded).unwrap_or_default().without_content().encode_to_vec())
}

/// The encoded envelope of a recalled message as it is given out; `None`: as it is.
pub fn recalled_envelope(encoded: &[u8]) -> Option<Vec<u8>> {
    if EnvelopeMarks::of(encoded).erased {
        return None;
    }
    // One that can't be read has no content that could.
    Some(Envelope::decode(encoded).unwrap_or_default().recalled().encode_to_vec())
}

/// The encoded envelope with this end instead of its own one. State machines use it: the result for the same bytes never changes.
/// `None`: it can't be read.
pub fn expiring_at(encoded: &[u8], expires_at_ms: u64) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(encoded.len() + key_len(EXPIRES_AT_MS) + encoded_len_varint(expires_at_ms));
    let mut rest = encoded;
    while !rest.is_empty() {
        let begin = rest;
        let (field, wire) = decode_key(&mut rest).ok()?;
        skip_field(wire, field, &mut rest, DecodeContext::default()).ok()?;
        if field != EXPIRES_AT_MS {
            out.extend_from_slice(&begin[..begin.len() - rest.len()]);
        }
    }
    put_unless_zero(EXPIRES_AT_MS, expires_at_ms, &mut out);
    Some(out)
}

impl Envelope {
    /// The message after its content is gone.
    pub fn without_content(self) -> Self {
        let Self { id, sender, to, time_ms, expires_at_ms, .. } = self;
        let content = Some(Content { body: Some(Body::Text(Text::default())), ..Content::default() });
        Self { id, sender, to, time_ms, content, expires_at_ms, erased: true, ..Self::default() }
    }

    /// The message as it is shown after a recall: its author can still name it, and recall it for good.
    pub fn recalled(self) -> Self {
        let Self { sender_device, client_id, .. } = &self;
        let (sender_device, client_id) = (sender_device.clone(), client_id.clone());
        Self { sender_device, client_id, ..self.without_content() }
    }
}

/// The length of a field with this many bytes in it.
fn len(field: u32, bytes: usize) -> usize {
    key_len(field) + encoded_len_varint(bytes as u64) + bytes
}

/// As protobuf encodes a field without presence: not at all if it is empty.
fn len_unless_empty(field: u32, bytes: &[u8]) -> usize {
    if bytes.is_empty() { 0 } else { len(field, bytes.len()) }
}

/// Returns where the bytes stand.
fn put(field: u32, bytes: &[u8], out: &mut Vec<u8>) -> Range<usize> {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    let start = out.len();
    out.put_slice(bytes);
    start..out.len()
}

fn len_unless_zero(field: u32, number: u64) -> usize {
    if number == 0 { 0 } else { key_len(field) + encoded_len_varint(number) }
}

fn put_unless_zero(field: u32, number: u64, out: &mut Vec<u8>) {
    if number != 0 {
        encode_key(field, WireType::Varint, out);
        encode_varint(number, out);
    }
}

fn put_unless_empty(field: u32, bytes: &[u8], out: &mut Vec<u8>) -> Range<usize> {
    if bytes.is_empty() { 0..0 } else { put(field, bytes, out) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::client::Recall;

    #[test]
    fn the_time_is_found_in_an_envelope() {
        let time_of = |time_ms| {
            let mut encoded = Vec::new();
            let parts = EnvelopeParts {
                id: "id",
                sender: "alice",
                sender_device: "",
                recipient: EnvelopeTo::User("bob"),
                client_id: "1",
                time_ms,
                content: b"content",
                change: b"",
                expires_at_ms: 0,
            };
            parts.encode(&mut encoded);
            time_of_envelope(&encoded)
        };
        assert_eq!(time_of(1_800_000_000_123), Some(1_800_000_000_123));
        assert_eq!(time_of(0), None);
        assert_eq!(time_of_envelope(b"\x0a\xff\x01"), None, "cut off");
    }

    #[test]
    fn the_change_is_found_in_an_envelope() {
        let encoded = |change| {
            let mut encoded = Vec::new();
            let parts = EnvelopeParts {
                id: "id",
                sender: "alice",
                sender_device: "",
                recipient: EnvelopeTo::Group("club"),
                client_id: "1",
                time_ms: 1,
                content: b"",
                change,
                expires_at_ms: 7,
            };
            parts.encode(&mut encoded);
            encoded
        };
        assert_eq!(EnvelopeMarks::of(&encoded(b"change")).change, Some(&b"change"[..]));
        assert_eq!(EnvelopeMarks::of(&encoded(b"")).change, None);
        assert!(!EnvelopeMarks::of(&encoded(b"")).recalls);
        let whole = encoded(b"change");
        assert_eq!(EnvelopeMarks::of(&whole[..whole.len() - 4]).change, None, "cut off");
    }

    #[test]
    fn a_recall_is_known_by_its_envelope() {
        let recalls = |body| {
            let content = Some(Content { body: Some(body), ..Content::default() });
            EnvelopeMarks::of(&Envelope { content, ..Envelope::default() }.encode_to_vec()).recalls
        };
        assert!(recalls(Body::Recall(Recall::default())));
        assert!(!recalls(Body::Text(Text { body: "recall".into() })) && !recalls(Body::Edit(Box::default())));
    }

    #[test]
    fn an_envelope_gets_another_end_and_keeps_all_else() {
        let content = Some(Content { body: Some(Body::Text(Text { body: "hi".into() })), ..Content::default() });
        let said = Envelope { id: "01".into(), time_ms: 5, content, ..Envelope::default() };
        let with = |expires_at_ms| Envelope { expires_at_ms, ..said.clone() }.encode_to_vec();
        for before in [0, 9, u64::MAX] {
            assert_eq!(expiring_at(&with(before), 7), Some(with(7)));
        }
        // What only a later release knows stays, too.
        let unknown = [&with(9)[..], &[0xda, 0x3e, 1, 7]].concat();
        let ended = expiring_at(&unknown, 7).expect("can be read");
        assert!(ended.windows(4).any(|part| part == [0xda, 0x3e, 1, 7]));
        assert_eq!(Envelope::decode(&*ended).expect("decodes").expires_at_ms, 7);
        assert_eq!(expiring_at(&with(0)[..3], 7), None, "cut off");
    }

    #[test]
    fn a_recalled_envelope_says_who_when_and_which_and_nothing_else() {
        let content = Some(Content { body: Some(Body::Text(Text { body: "secret".into() })), ..Content::default() });
        let [id, sender, sender_device, client_id] = ["01", "alice", "phone", "c"].map(str::to_owned);
        let said = Envelope { id, sender, sender_device, client_id, time_ms: 5, content, ..Envelope::default() };
        let left = recalled_envelope(&said.encode_to_vec()).expect("has content");
        assert!(!left.windows(6).any(|part| part == b"secret"));
        let shown = Envelope::decode(&*left).expect("decodes");
        assert!(shown.erased);
        assert_eq!(Envelope { content: said.content.clone(), erased: false, ..shown }, said);
        assert_eq!(recalled_envelope(&left), None, "nothing more goes");
    }

    #[test]
    fn an_envelope_has_its_content_until_it_expires() {
        let content = Some(Content { body: Some(Body::Text(Text { body: "secret".into() })), ..Content::default() });
        let (id, sender, client_id) = ("01".to_owned(), "alice".to_owned(), "c".to_owned());
        let said = Envelope { id, sender, client_id, time_ms: 5, content, expires_at_ms: 9, ..Envelope::default() };
        let encoded = said.encode_to_vec();
        assert_eq!(expired_envelope(&encoded, 8), None);
        let left = Envelope::decode(&*expired_envelope(&encoded, 9).expect("has expired")).expect("decodes");
        assert_eq!((&left.id, &left.sender, left.time_ms, left.expires_at_ms), (&said.id, &said.sender, 5, 9));
        assert!(left.erased && left.client_id.is_empty());
        assert!(!left.encode_to_vec().windows(6).any(|part| part == b"secret"));
        assert_eq!(expired_envelope(&left.encode_to_vec(), 10), None, "nothing more goes");
        let for_ever = Envelope { expires_at_ms: 0, ..said }.encode_to_vec();
        assert_eq!(expired_envelope(&for_ever, u64::MAX), None);
    }
}
