//! Client frames with the content left as the client wrote it, so that fields unknown to this release are kept. The
//! encoding is that of the messages of the same names in carillon.client.v1; a test compares them.

use bytes::Bytes;
use carillon_proto::pb::client::{
    self, Ack, ContactRequest, Fetch, GroupRequest, MoveMarks, Ping, Positions, PrivacyRequest, ReadContacts,
    ReadConversations, ReadGroup, ReadGroups, ReadMarks, ReadMembers, ReadPrivacy, ReadScheduled, Recipient, Renew,
    Report, RequestMediaSlot, RequestMediaUrl, ScramFinal, SetChatState, SetConversation, SetPresence, SignIn, SignOut,
    client_frame::Body as TypedBody,
};
use prost::{Message, Oneof};

use super::scheduled::{ChangeScheduled, Schedule};

/// carillon.client.v1.ClientFrame.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ClientFrame {
    #[prost(
        oneof = "Body",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 30, 31, 32, 40, 41, 42, 43, 60, 61, 80, 81, 82, 90, 91, 92, 110"
    )]
    pub(crate) body: Option<Body>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Body {
    #[prost(message, tag = "1")]
    SignIn(SignIn),
    #[prost(message, tag = "2")]
    ScramFinal(ScramFinal),
    #[prost(message, tag = "3")]
    SignOut(SignOut),
    #[prost(message, tag = "4")]
    Send(Send),
    #[prost(message, tag = "5")]
    Ack(Ack),
    #[prost(message, tag = "6")]
    Fetch(Fetch),
    #[prost(message, tag = "7")]
    Ping(Ping),
    #[prost(message, tag = "8")]
    Renew(Renew),
    #[prost(message, tag = "9")]
    Positions(Positions),
    #[prost(message, tag = "10")]
    Group(GroupRequest),
    #[prost(message, tag = "11")]
    ReadGroup(ReadGroup),
    #[prost(message, tag = "12")]
    ReadMembers(ReadMembers),
    #[prost(message, tag = "13")]
    ReadGroups(ReadGroups),
    #[prost(message, tag = "40")]
    ReadConversations(ReadConversations),
    #[prost(message, tag = "41")]
    MoveMarks(MoveMarks),
    #[prost(message, tag = "42")]
    SetConversation(SetConversation),
    #[prost(message, tag = "43")]
    ReadMarks(ReadMarks),
    #[prost(message, tag = "30")]
    Contact(ContactRequest),
    #[prost(message, tag = "31")]
    ReadContacts(ReadContacts),
    #[prost(message, tag = "32")]
    SetPresence(SetPresence),
    #[prost(message, tag = "60")]
    RequestMediaSlot(RequestMediaSlot),
    #[prost(message, tag = "61")]
    RequestMediaUrl(RequestMediaUrl),
    #[prost(message, tag = "80")]
    Privacy(PrivacyRequest),
    #[prost(message, tag = "81")]
    ReadPrivacy(ReadPrivacy),
    #[prost(message, tag = "82")]
    SetChatState(SetChatState),
    #[prost(message, tag = "90")]
    Schedule(Schedule),
    #[prost(message, tag = "91")]
    ChangeScheduled(ChangeScheduled),
    #[prost(message, tag = "92")]
    ReadScheduled(ReadScheduled),
    #[prost(message, tag = "110")]
    Report(Report),
}

/// carillon.client.v1.Send.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Send {
    #[prost(string, tag = "1")]
    pub(crate) client_id: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) to: Option<Recipient>,
    /// Encoded carillon.client.v1.Content.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(crate) content: Option<Bytes>,
    #[prost(string, tag = "4")]
    pub(crate) after: String,
    #[prost(uint64, tag = "100")]
    pub(crate) expires_after_ms: u64,
}

impl From<client::ClientFrame> for ClientFrame {
    fn from(frame: client::ClientFrame) -> Self {
        Self { body: frame.body.map(Body::from) }
    }
}

impl From<TypedBody> for Body {
    fn from(body: TypedBody) -> Self {
        match body {
            TypedBody::SignIn(body) => Self::SignIn(body),
            TypedBody::ScramFinal(body) => Self::ScramFinal(body),
            TypedBody::SignOut(body) => Self::SignOut(body),
            TypedBody::Send(client::Send { client_id, to, content, after, expires_after_ms }) => {
                let content = content.map(|content| content.encode_to_vec().into());
                Self::Send(Send { client_id, to, content, after, expires_after_ms })
            }
            TypedBody::Ack(body) => Self::Ack(body),
            TypedBody::Fetch(body) => Self::Fetch(body),
            TypedBody::Ping(body) => Self::Ping(body),
            TypedBody::Renew(body) => Self::Renew(body),
            TypedBody::Positions(body) => Self::Positions(body),
            TypedBody::Group(body) => Self::Group(body),
            TypedBody::ReadGroup(body) => Self::ReadGroup(body),
            TypedBody::ReadMembers(body) => Self::ReadMembers(body),
            TypedBody::ReadGroups(body) => Self::ReadGroups(body),
            TypedBody::ReadConversations(body) => Self::ReadConversations(body),
            TypedBody::MoveMarks(body) => Self::MoveMarks(body),
            TypedBody::SetConversation(body) => Self::SetConversation(body),
            TypedBody::ReadMarks(body) => Self::ReadMarks(body),
            TypedBody::Contact(body) => Self::Contact(body),
            TypedBody::ReadContacts(body) => Self::ReadContacts(body),
            TypedBody::SetPresence(body) => Self::SetPresence(body),
            TypedBody::RequestMediaSlot(body) => Self::RequestMediaSlot(body),
            TypedBody::RequestMediaUrl(body) => Self::RequestMediaUrl(body),
            TypedBody::Privacy(body) => Self::Privacy(body),
            TypedBody::ReadPrivacy(body) => Self::ReadPrivacy(body),
            TypedBody::SetChatState(body) => Self::SetChatState(body),
            TypedBody::Schedule(body) => Self::Schedule(body.into()),
            TypedBody::ChangeScheduled(body) => Self::ChangeScheduled(body.into()),
            TypedBody::ReadScheduled(body) => Self::ReadScheduled(body),
            TypedBody::Report(body) => Self::Report(body),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::pb::client::{Content, Text, content, recipient::To};

    #[test]
    fn what_nobody_knows_stays_in_the_content() {
        let content =
            Content { body: Some(content::Body::Text(Text { body: "hello".to_owned() })), ..Default::default() };
        let send = client::Send {
            client_id: "1".to_owned(),
            to: Some(Recipient { to: Some(To::User("bob".to_owned())) }),
            content: Some(content.clone()),
            after: "0".to_owned(),
            expires_after_ms: 5000,
        };
        let typed = client::ClientFrame { body: Some(TypedBody::Send(send)) };
        let read = ClientFrame::decode(&*typed.encode_to_vec()).expect("decodes");
        assert_eq!(read, ClientFrame::from(typed.clone()));
        assert_eq!(read.encode_to_vec(), typed.encode_to_vec());

        let Some(Body::Send(send)) = read.body else { panic!("no send") };
        let mut bytes = content.encode_to_vec();
        // Field 99, the text "new".
        bytes.extend([0x9a, 0x06, 3, b'n', b'e', b'w']);
        let frame = ClientFrame { body: Some(Body::Send(Send { content: Some(bytes.clone().into()), ..send })) };
        let frame = frame.encode_to_vec();
        client::ClientFrame::decode(&*frame).expect("a frame of a newer release is a frame");
        let Some(Body::Send(send)) = ClientFrame::decode(&*frame).expect("decodes").body else { panic!("no send") };
        assert_eq!(send.content, Some(bytes.into()));
    }
}
