//! Frames about scheduled messages, as asks and from tells. Contents stay as their clients wrote them: the encodings are those of the messages of the
//! same names in carillon.client.v1, which a test compares.

use bytes::Bytes;
use carillon_proto::pb::{
    client::{
        self, CancelScheduled, ReadScheduled, Recipient, ScheduledChanged, SendScheduledNow, recipient::To,
        server_frame::Body,
    },
    link::ScheduledNews,
    store::{self, scheduled_read::Row, timeline_key::Kind},
};
use prost::{Message, Oneof};

use super::Outgoing;
use crate::conversation::{Ask, ScheduledAsk, ScheduledChange, ScheduledQuery, ScheduledTell};

/// carillon.client.v1.Schedule.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Schedule {
    #[prost(uint32, tag = "1")]
    pub(crate) request: u32,
    #[prost(string, tag = "2")]
    pub(crate) client_id: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) to: Option<Recipient>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub(crate) content: Option<Bytes>,
    #[prost(uint64, tag = "5")]
    pub(crate) at_ms: u64,
    #[prost(uint64, tag = "100")]
    pub(crate) expires_after_ms: u64,
}

/// carillon.client.v1.ChangeScheduled.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ChangeScheduled {
    #[prost(uint32, tag = "1")]
    pub(crate) request: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) id: u64,
    #[prost(oneof = "Change", tags = "3, 4, 5")]
    pub(crate) change: Option<Change>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Change {
    #[prost(message, tag = "3")]
    Set(SetScheduled),
    #[prost(message, tag = "4")]
    Cancel(CancelScheduled),
    #[prost(message, tag = "5")]
    Now(SendScheduledNow),
}

/// carillon.client.v1.SetScheduled.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SetScheduled {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) content: Option<Bytes>,
    #[prost(uint64, optional, tag = "2")]
    pub(crate) at_ms: Option<u64>,
}

/// carillon.client.v1.ServerFrame with scheduled messages.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RawScheduledFrame {
    #[prost(message, optional, tag = "91")]
    pub(crate) scheduled: Option<RawScheduledMessages>,
}

/// carillon.client.v1.ScheduledMessages.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RawScheduledMessages {
    #[prost(uint32, tag = "1")]
    request: u32,
    #[prost(uint64, tag = "2")]
    version: u64,
    #[prost(message, repeated, tag = "3")]
    messages: Vec<RawScheduledMessage>,
    #[prost(bool, tag = "4")]
    complete: bool,
}

/// carillon.client.v1.ScheduledMessage.
#[derive(Clone, PartialEq, Message)]
struct RawScheduledMessage {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    client_id: String,
    #[prost(message, optional, tag = "3")]
    to: Option<Recipient>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    content: Option<Bytes>,
    #[prost(uint64, tag = "5")]
    at_ms: u64,
    #[prost(int32, tag = "6")]
    state: i32,
    #[prost(string, tag = "7")]
    why: String,
    #[prost(uint64, tag = "100")]
    expires_after_ms: u64,
}

impl From<client::Schedule> for Schedule {
    fn from(client::Schedule { request, client_id, to, content, at_ms, expires_after_ms }: client::Schedule) -> Self {
        Self { request, client_id, to, content: content.map(encoded), at_ms, expires_after_ms }
    }
}

impl From<client::ChangeScheduled> for ChangeScheduled {
    fn from(client::ChangeScheduled { request, id, change }: client::ChangeScheduled) -> Self {
        use client::change_scheduled::Change as Typed;
        let change = change.map(|change| match change {
            Typed::Set(client::SetScheduled { content, at_ms }) => {
                Change::Set(SetScheduled { content: content.map(encoded), at_ms })
            }
            Typed::Cancel(cancel) => Change::Cancel(cancel),
            Typed::Now(now) => Change::Now(now),
        });
        Self { request, id, change }
    }
}

fn encoded(content: client::Content) -> Bytes {
    content.encode_to_vec().into()
}

impl From<Schedule> for Ask {
    fn from(Schedule { request, client_id, to, content, at_ms, expires_after_ms }: Schedule) -> Self {
        ask(request, ScheduledQuery::Schedule { client_id, to, content, at_ms, expires_after_ms })
    }
}

impl From<ChangeScheduled> for Ask {
    fn from(ChangeScheduled { request, id, change }: ChangeScheduled) -> Self {
        let change = change.map(|change| match change {
            Change::Set(SetScheduled { content, at_ms }) => ScheduledChange::Set { content, at_ms },
            Change::Cancel(CancelScheduled {}) => ScheduledChange::Cancel,
            Change::Now(SendScheduledNow {}) => ScheduledChange::Now,
        });
        ask(request, ScheduledQuery::Change { id, change })
    }
}

impl From<ReadScheduled> for Ask {
    fn from(ReadScheduled { request, after }: ReadScheduled) -> Self {
        ask(request, ScheduledQuery::Read { after })
    }
}

fn ask(request: u32, query: ScheduledQuery) -> Ask {
    Ask::Scheduled(Box::new(ScheduledAsk { request, query }))
}

impl From<ScheduledTell> for Outgoing {
    fn from(told: ScheduledTell) -> Self {
        let changed = match told {
            ScheduledTell::Changed { request, changed: store::ScheduledChanged { version, id, .. } } => {
                ScheduledChanged { request, version, id, failed: false }
            }
            ScheduledTell::News(ScheduledNews { version, id, failed, .. }) => {
                ScheduledChanged { request: 0, version, id, failed }
            }
            ScheduledTell::Messages { request, read } => {
                let store::ScheduledRead { version, messages, complete } = read;
                let messages = messages.into_iter().map(told_message).collect();
                return Self::Scheduled(RawScheduledMessages { request, version, messages, complete });
            }
        };
        Body::ScheduledChanged(changed).into()
    }
}

/// The states have the same numbers.
fn told_message(Row { id, row }: Row) -> RawScheduledMessage {
    let store::ScheduledRow { client_id, to, content, at_ms, state, why, expires_after_ms, .. } =
        row.unwrap_or_default();
    let to = to.and_then(|to| {
        let owner = to.owner_str().ok()?.to_owned();
        Some(if to.kind() == Kind::Group { To::Group(owner) } else { To::User(owner) })
    });
    let to = to.map(|to| Recipient { to: Some(to) });
    RawScheduledMessage { id, client_id, to, content: Some(content), at_ms, state, why, expires_after_ms }
}

impl RawScheduledMessages {
    /// Approximate encoded size, in bytes.
    pub(crate) fn size(&self) -> usize {
        let bytes = |message: &RawScheduledMessage| message.content.as_ref().map_or(0, Bytes::len) + 512;
        self.messages.iter().map(bytes).sum::<usize>() + 64
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::{
        client::{
            Content, ServerFrame, Text, change_scheduled::Change as Typed, client_frame::Body as TypedBody, content,
            scheduled_message::State,
        },
        store::{ScheduledRead, ScheduledRow, TimelineKey, scheduled_row},
    };

    use super::*;
    use crate::dialect::native::{ClientFrame, Said};

    /// A text, and field 99 with the text "new".
    fn content() -> (Content, Vec<u8>) {
        let content =
            Content { body: Some(content::Body::Text(Text { body: "hello".to_owned() })), ..Content::default() };
        let mut bytes = content.encode_to_vec();
        bytes.extend([0x9a, 0x06, 3, b'n', b'e', b'w']);
        (content, bytes)
    }

    #[test]
    fn what_nobody_knows_stays_in_the_content() {
        let (content, unknown) = content();
        let to = Some(Recipient { to: Some(To::User("bob".to_owned())) });
        let (client_id, content_of) = ("c".to_owned(), Some(content.clone()));
        let schedule =
            client::Schedule { request: 1, client_id, to, content: content_of, at_ms: 7, expires_after_ms: 5000 };
        let set = client::SetScheduled { content: Some(content), at_ms: Some(8) };
        let change = client::ChangeScheduled { request: 2, id: 3, change: Some(Typed::Set(set)) };
        for body in [TypedBody::Schedule(schedule), TypedBody::ChangeScheduled(change)] {
            let typed = client::ClientFrame { body: Some(body) };
            let read = ClientFrame::decode(&*typed.encode_to_vec()).expect("decodes");
            assert_eq!(read, ClientFrame::from(typed.clone()));
            assert_eq!(read.encode_to_vec(), typed.encode_to_vec());
            let with_unknown = match read.body.expect("has one") {
                Said::Schedule(schedule) => {
                    Said::Schedule(Schedule { content: Some(unknown.clone().into()), ..schedule })
                }
                Said::ChangeScheduled(change) => {
                    let set = SetScheduled { content: Some(unknown.clone().into()), at_ms: None };
                    Said::ChangeScheduled(ChangeScheduled { change: Some(Change::Set(set)), ..change })
                }
                other => panic!("{other:?}"),
            };
            let frame = ClientFrame { body: Some(with_unknown) };
            let bytes = frame.encode_to_vec();
            client::ClientFrame::decode(&*bytes).expect("a frame of a newer release is a frame");
            assert_eq!(ClientFrame::decode(&*bytes).expect("decodes"), frame);
        }
    }

    #[test]
    fn a_list_is_byte_for_byte_the_frame() {
        let (content, unknown) = content();
        let row = |content: Vec<u8>, kind: Kind, state: scheduled_row::State| ScheduledRow {
            client_id: "c".to_owned(),
            to: Some(TimelineKey { kind: kind.into(), owner: "bob".into() }),
            content: content.into(),
            at_ms: 7,
            state: state.into(),
            why: "why".to_owned(),
            expires_after_ms: 5000,
            ..ScheduledRow::default()
        };
        let rows = [
            row(content.encode_to_vec(), Kind::Inbox, scheduled_row::State::Waiting),
            row(content.encode_to_vec(), Kind::Group, scheduled_row::State::Failed),
        ];
        let messages = rows.into_iter().zip(1..).map(|(row, id)| Row { id, row: Some(row) }).collect();
        let read = ScheduledRead { version: 4, messages, complete: true };
        let told = |read| Outgoing::from(ScheduledTell::Messages { request: 9, read });
        let frame = told(read.clone()).into_frame().expect("decodes");
        assert_eq!(told(read.clone()).to_protobuf(), frame.encode_to_vec());
        let Some(Body::ScheduledMessages(list)) = &frame.body else { panic!("{frame:?}") };
        assert_eq!((list.request, list.version, list.complete), (9, 4, true));
        let states: Vec<_> = list.messages.iter().map(client::ScheduledMessage::state).collect();
        assert_eq!(states, [State::Waiting, State::Failed]);
        assert_eq!(list.messages[0].content.as_ref(), Some(&content));
        let json: ServerFrame = serde_json::from_slice(&told(read).into_json().expect("encodes")).expect("decodes");
        assert_eq!(json, frame);
        let row = row(unknown.clone(), Kind::Inbox, scheduled_row::State::Sending);
        let read = ScheduledRead { messages: vec![Row { id: 1, row: Some(row) }], ..ScheduledRead::default() };
        let bytes = told(read).to_protobuf();
        assert!(bytes.windows(unknown.len()).any(|part| part == unknown), "with what nobody knows");
    }
}
