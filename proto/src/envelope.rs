//! Encodes envelopes from borrowed parts.

use std::ops::Range;

use prost::{
    bytes::BufMut as _,
    encoding::{
        DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, encoded_len_varint, key_len,
        skip_field,
    },
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
const CHANGE: u32 = 10;

impl EnvelopeParts<'_> {
    pub fn encoded_len(&self) -> usize {
        let texts =
            [(ID, self.id), (SENDER, self.sender), (SENDER_DEVICE, self.sender_device), (CLIENT_ID, self.client_id)];
        let time = if self.time_ms == 0 { 0 } else { key_len(TIME_MS) + encoded_len_varint(self.time_ms) };
        texts.iter().map(|(field, text)| len_unless_empty(*field, text.as_bytes())).sum::<usize>()
            + len(TO, self.recipient_len())
            + time
            + len_unless_empty(CONTENT, self.content)
            + len_unless_empty(CHANGE, self.change)
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
        if self.time_ms != 0 {
            encode_key(TIME_MS, WireType::Varint, out);
            encode_varint(self.time_ms, out);
        }
        put_unless_empty(CONTENT, self.content, out);
        put_unless_empty(CHANGE, self.change, out);
        EncodedNames { sender, recipient }
    }
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

/// What an encoded envelope says of a change of a group, still encoded; `None`: nothing.
pub fn change_of_envelope(mut encoded: &[u8]) -> Option<&[u8]> {
    let context = DecodeContext::default();
    while !encoded.is_empty() {
        let (field, wire) = decode_key(&mut encoded).ok()?;
        if field == CHANGE && wire == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut encoded).ok()?).ok()?;
            return encoded.get(..length);
        }
        skip_field(wire, field, &mut encoded, context.clone()).ok()?;
    }
    None
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

fn put_unless_empty(field: u32, bytes: &[u8], out: &mut Vec<u8>) -> Range<usize> {
    if bytes.is_empty() { 0..0 } else { put(field, bytes, out) }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            };
            parts.encode(&mut encoded);
            encoded
        };
        assert_eq!(change_of_envelope(&encoded(b"change")), Some(&b"change"[..]));
        assert_eq!(change_of_envelope(&encoded(b"")), None);
        let whole = encoded(b"change");
        assert_eq!(change_of_envelope(&whole[..whole.len() - 1]), None, "cut off");
    }
}
