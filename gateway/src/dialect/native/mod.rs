//! The native protocol: encodes and decodes frames, and converts them to asks and from tells.

mod chat_states;
mod client;
mod contacts;
mod conversations;
mod groups;
mod hear;
mod json;
mod media;
mod privacy;
pub(crate) mod raw;
mod reports;
mod scheduled;
mod tell;
pub(crate) mod varint;

use std::{convert::Infallible, sync::Arc};

use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use carillon_proto::pb::client::{
    Deliver, Entry, Envelope, MessageState, Page, ServerFrame, refused::What, server_frame::Body,
};
use prost::Message as _;

#[cfg(any(test, fuzzing))]
pub(crate) use client::Body as Said;
pub(crate) use client::ClientFrame;
#[cfg(test)]
pub(crate) use client::Send;
pub(crate) use raw::RawPage;
use scheduled::{RawScheduledFrame, RawScheduledMessages};

use crate::{
    feeds::{self, Form},
    presences::PresenceNews,
};

/// A frame of a client can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("frame is not protobuf: {0}")]
    Protobuf(#[from] prost::DecodeError),
    #[error(transparent)]
    Json(#[from] json::JsonError),
}

impl DecodeError {
    /// The id of the frame's send or request, if that part can be read.
    pub(crate) fn what(&self) -> Option<What> {
        match self {
            Self::Json(error) => error.what.clone(),
            Self::Protobuf(_) => None,
        }
    }
}

/// Frames from a session to its client. Envelopes stay encoded as they came.
#[derive(Debug, Clone)]
pub(crate) enum Outgoing {
    Frame(Box<ServerFrame>),
    Entry(Arc<feeds::Entry>),
    Page(RawPage),
    Scheduled(RawScheduledMessages),
    Presences(Vec<Arc<PresenceNews>>),
}

impl From<Body> for Outgoing {
    fn from(body: Body) -> Self {
        Self::Frame(Box::new(ServerFrame { body: Some(body) }))
    }
}

impl Outgoing {
    /// Appends the frame as protobuf, without a length prefix.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Frame(frame) => append(&**frame, out),
            Self::Entry(entry) => match entry.as_rendered(Form::Protobuf) {
                Some(rendered) => out.put_slice(rendered),
                None => {
                    let timeline = entry.timeline.as_protobuf(|id| id.to_client().encode_to_vec().into());
                    raw::deliver(timeline, entry.position.into(), &entry.envelope, out);
                }
            },
            Self::Page(page) => append(&raw::page_frame(page), out),
            Self::Scheduled(list) => append(&RawScheduledFrame { scheduled: Some(list.clone()) }, out),
            Self::Presences(news) => contacts::put_presences(news, out),
        }
    }

    /// Approximate encoded size, in bytes.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Frame(frame) => frame.encoded_len(),
            Self::Entry(entry) => entry.size(),
            Self::Page(page) => page.entries.iter().map(raw::RawEntry::size).sum::<usize>() + 64,
            Self::Scheduled(list) => list.size(),
            Self::Presences(news) => news.iter().map(|news| news.size()).sum::<usize>() + 16,
        }
    }

    /// The frame with everything decoded.
    pub(crate) fn into_frame(self) -> Result<ServerFrame, prost::DecodeError> {
        let body = match self {
            Self::Frame(frame) => return Ok(*frame),
            Self::Scheduled(list) => {
                return ServerFrame::decode(&*RawScheduledFrame { scheduled: Some(list) }.encode_to_vec());
            }
            Self::Presences(news) => contacts::told_presences(&news),
            Self::Entry(entry) => Body::Deliver(Deliver {
                timeline: Some(entry.timeline.id.to_client()),
                position: Some(entry.position.into()),
                envelope: Some(Envelope::decode(entry.envelope.clone())?),
            }),
            Self::Page(page) => {
                let entry = |raw: raw::RawEntry| {
                    let state = raw.state.map(MessageState::decode).transpose()?.map(Box::new);
                    Ok(Entry { seq: raw.seq, envelope: Some(Envelope::decode(raw.envelope)?), state })
                };
                Body::Page(Page {
                    request: page.request,
                    timeline: page.timeline,
                    epoch: page.epoch,
                    entries: page.entries.into_iter().map(entry).collect::<Result<_, prost::DecodeError>>()?,
                    first: page.first,
                    last: page.last,
                    complete: page.complete,
                })
            }
        };
        Ok(ServerFrame { body: Some(body) })
    }

    /// Encodes as protobuf, without a length prefix. An entry or a presence is encoded once for all clients of this format.
    pub(crate) fn to_protobuf(&self) -> Bytes {
        let encoded = || {
            let mut bytes = BytesMut::with_capacity(self.size());
            self.encode(&mut bytes);
            bytes.freeze()
        };
        match self {
            Self::Entry(entry) => match entry.rendered(Form::Protobuf, || Ok::<_, Infallible>(encoded())) {
                Ok(rendered) => rendered.clone(),
                Err(never) => match never {},
            },
            Self::Frame(_) | Self::Page(_) | Self::Scheduled(_) | Self::Presences(_) => encoded(),
        }
    }

    /// Protobuf's canonical JSON, which is UTF-8. An entry or a presence is encoded once for all clients of this format.
    pub(crate) fn into_json(self) -> Result<Bytes, String> {
        match &self {
            Self::Entry(entry) => entry.rendered(Form::Json, || self.clone().write_json()).cloned(),
            Self::Presences(news) => Ok(contacts::presences_as_json(news)),
            Self::Frame(_) | Self::Page(_) | Self::Scheduled(_) => self.write_json(),
        }
    }

    fn write_json(self) -> Result<Bytes, String> {
        let frame = self.into_frame().map_err(|error| error.to_string())?;
        serde_json::to_vec(&frame).map(Bytes::from).map_err(|error| error.to_string())
    }
}

pub(crate) fn decode(frame: impl Buf) -> Result<ClientFrame, DecodeError> {
    Ok(ClientFrame::decode(frame)?)
}

pub(crate) fn decode_json(frame: &str) -> Result<ClientFrame, DecodeError> {
    Ok(json::decode(frame)?.into())
}

/// The frame with its content decoded.
pub(crate) fn read_json(frame: &str) -> Result<carillon_proto::pb::client::ClientFrame, DecodeError> {
    Ok(json::decode(frame)?)
}

#[cfg(any(test, fuzzing))]
pub(crate) use json::decode_by_schema as decode_json_by_schema;

fn append(message: &impl prost::Message, out: &mut BytesMut) {
    out.reserve(message.encoded_len());
    // Fails only without room, and BytesMut grows.
    message.encode(out).expect("BytesMut grows");
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::{
        Epoch, Position, TimelineId, UserId,
        pb::client::{Content, Presence, Presences, Text, Timeline, content, timeline::Owner},
    };
    use proptest::prelude::*;

    use crate::feeds::{Came, FeedId, TimelineName};

    fn envelope(body: &str, time_ms: u64) -> Envelope {
        let content = Content { body: Some(content::Body::Text(Text { body: body.to_owned() })), ..Default::default() };
        Envelope {
            id: "01J".to_owned(),
            sender: "bob".to_owned(),
            time_ms,
            content: Some(content),
            ..Default::default()
        }
    }

    fn entry(epoch: u64, seq: u64, envelope: Bytes) -> Outgoing {
        let alice = TimelineId::Inbox(UserId::new("alice").expect("valid"));
        let (timeline, position) = (Arc::new(TimelineName::new(alice)), Position { epoch: Epoch(epoch), seq });
        Outgoing::Entry(Arc::new(feeds::Entry::new(FeedId(1), timeline, position, envelope, Came::Push)))
    }

    fn encoded(outgoing: &Outgoing) -> BytesMut {
        let mut out = BytesMut::new();
        outgoing.encode(&mut out);
        out
    }

    proptest! {
        #[test]
        fn what_stays_encoded_is_byte_for_byte_the_frame(body: String, time: u64, epoch: u64, seq: u64) {
            let bytes = Bytes::from(envelope(&body, time).encode_to_vec());
            let deliver = entry(epoch, seq, bytes.clone());
            let frame = deliver.clone().into_frame().expect("decodes");
            prop_assert_eq!(&encoded(&deliver)[..], &frame.encode_to_vec()[..]);
            prop_assert_eq!(&deliver.to_protobuf()[..], &frame.encode_to_vec()[..]);
            prop_assert_eq!(&encoded(&deliver)[..], &frame.encode_to_vec()[..], "as it was rendered");

            let state = MessageState { edit: Some(envelope(&body, time)), pinned: true, ..MessageState::default() };
            let page = Outgoing::Page(RawPage {
                request: 7,
                timeline: Some(Timeline { owner: Some(Owner::Inbox("alice".to_owned())) }),
                epoch,
                entries: vec![
                    raw::RawEntry { seq, envelope: bytes.clone(), state: None },
                    raw::RawEntry { seq: 1, envelope: bytes, state: Some(state.encode_to_vec().into()) },
                ],
                first: 1,
                last: seq,
                complete: true,
            });
            let frame = page.clone().into_frame().expect("decodes");
            prop_assert_eq!(&encoded(&page)[..], &frame.encode_to_vec()[..]);
            let json: ServerFrame = serde_json::from_slice(&page.into_json().expect("encodes")).expect("decodes");
            prop_assert_eq!(json, frame);
        }

        #[test]
        fn presences_are_byte_for_byte_the_frame(
            presences in proptest::collection::vec((any::<String>(), 0..5i32, any::<String>(), any::<[u64; 3]>()), 0..5)
        ) {
            let presence = |(user, show, status, [era, number, last_seen_ms]): (_, _, _, [u64; 3])| {
                Presence { user, show, status, era, number, last_seen_ms }
            };
            let presences: Vec<Presence> = presences.into_iter().map(presence).collect();
            let news = presences.iter().map(|presence| Arc::new(PresenceNews::new(presence.clone())));
            let told = Outgoing::Presences(news.collect());
            let frame = ServerFrame { body: Some(Body::Presences(Presences { presences })) };
            for _ in 0..2 {
                prop_assert_eq!(&encoded(&told)[..], &frame.encode_to_vec()[..]);
                prop_assert_eq!(&told.to_protobuf()[..], &frame.encode_to_vec()[..]);
                prop_assert_eq!(told.clone().into_frame().expect("decodes"), frame.clone());
                let json = serde_json::to_vec(&frame).expect("encodes");
                prop_assert_eq!(&told.clone().into_json().expect("encodes")[..], &json[..]);
            }
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, text in "[\\{\\}\\[\\]\":,a-z0-9_ ]{0,60}") {
            let _ = decode(&bytes[..]);
            let _ = decode_json(&text);
        }
    }

    #[test]
    fn a_presence_of_a_later_release_costs_nobody_the_others() {
        let presence = |user: &str, show| Presence { user: user.to_owned(), show, ..Presence::default() };
        let told = [presence("alice", 99), presence("bob", 1), presence("carol", 99)];
        let told = Outgoing::Presences(told.map(|told| Arc::new(PresenceNews::new(told))).to_vec());
        let json = told.clone().into_json().expect("encodes");
        let only = Body::Presences(Presences { presences: vec![presence("bob", 1)] });
        assert_eq!(serde_json::from_slice::<ServerFrame>(&json).expect("decodes"), ServerFrame { body: Some(only) });
        assert_eq!(ServerFrame::decode(told.to_protobuf()).expect("decodes"), told.into_frame().expect("decodes"));
    }

    #[test]
    fn json_is_canonical() {
        let frame = json::decode(r#"{"send":{"clientId":"1","to":{"user":"bob"},"content":{"text":{"body":"hi"}}}}"#);
        let again = serde_json::to_string(&frame.expect("decodes")).expect("encodes");
        assert_eq!(again, r#"{"send":{"clientId":"1","to":{"user":"bob"},"content":{"text":{"body":"hi"}}}}"#);
        assert_eq!(decode_json(r#"{"sned":{}}"#).expect("unknown fields are ignored").body, None);
    }
}
