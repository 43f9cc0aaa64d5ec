//! Frames around encoded envelopes. The encoding is that of the messages of the same names in carillon.client.v1; a
//! test compares them.

use bytes::{BufMut as _, Bytes, BytesMut};
use carillon_proto::pb::client::{Position, Timeline};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

/// carillon.client.v1.Page.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RawPage {
    #[prost(uint32, tag = "1")]
    pub(crate) request: u32,
    #[prost(message, optional, tag = "2")]
    pub(crate) timeline: Option<Timeline>,
    #[prost(uint64, tag = "3")]
    pub(crate) epoch: u64,
    #[prost(message, repeated, tag = "4")]
    pub(crate) entries: Vec<RawEntry>,
    #[prost(uint64, tag = "5")]
    pub(crate) first: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) last: u64,
    #[prost(bool, tag = "7")]
    pub(crate) complete: bool,
}

/// carillon.client.v1.Entry.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RawEntry {
    #[prost(uint64, tag = "1")]
    pub(crate) seq: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) envelope: Bytes,
    #[prost(bytes = "bytes", optional, tag = "50")]
    pub(crate) state: Option<Bytes>,
}

impl RawEntry {
    /// Approximate encoded size, in bytes.
    pub(super) fn size(&self) -> usize {
        self.envelope.len() + self.state.as_ref().map_or(0, Bytes::len) + 16
    }
}

/// carillon.client.v1.ServerFrame with a page.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RawPageFrame {
    #[prost(message, optional, tag = "7")]
    page: Option<RawPage>,
}

pub(crate) fn page_frame(page: &RawPage) -> RawPageFrame {
    // Envelopes are reference-counted, so the clone is cheap.
    RawPageFrame { page: Some(page.clone()) }
}

/// Appends a carillon.client.v1.ServerFrame with a Deliver.
pub(crate) fn deliver(timeline: &[u8], position: Position, envelope: &[u8], out: &mut BytesMut) {
    const FRAME_DELIVER: u32 = 5;
    const TIMELINE: u32 = 1;
    const POSITION: u32 = 2;
    const ENVELOPE: u32 = 3;
    let field = |tag: u32, len: usize| key_len(tag) + encoded_len_varint(len as u64) + len;
    let position_len = position.encoded_len();
    let len = field(TIMELINE, timeline.len()) + field(POSITION, position_len) + field(ENVELOPE, envelope.len());
    out.reserve(field(FRAME_DELIVER, len));
    begin(FRAME_DELIVER, len, out);
    begin(TIMELINE, timeline.len(), out);
    out.put_slice(timeline);
    begin(POSITION, position_len, out);
    position.encode_raw(out);
    begin(ENVELOPE, envelope.len(), out);
    out.put_slice(envelope);
}

/// Appends a carillon.client.v1.ServerFrame with Presences; each of them is an encoded carillon.client.v1.Presence.
pub(crate) fn presences<'a>(presences: impl Iterator<Item = &'a [u8]> + Clone, out: &mut BytesMut) {
    const FRAME_PRESENCES: u32 = 32;
    const PRESENCES: u32 = 1;
    let field = |tag: u32, len: usize| key_len(tag) + encoded_len_varint(len as u64) + len;
    let len = presences.clone().map(|presence| field(PRESENCES, presence.len())).sum();
    out.reserve(field(FRAME_PRESENCES, len));
    begin(FRAME_PRESENCES, len, out);
    for presence in presences {
        begin(PRESENCES, presence.len(), out);
        out.put_slice(presence);
    }
}

fn begin(tag: u32, len: usize, out: &mut BytesMut) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}
