//! The outputs of a session.

use carillon_proto::{GroupId, TimelineId, pb::link::router_request::Op};

use super::{
    ContactTag, PrivacyTag, Tell,
    conversations::AskedMarks,
    media::{SlotPending, UrlPending},
    renewal::Renewal,
    sending::Sent,
};
use crate::feeds::{FeedAsk, FeedId};

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "each is performed at once")]
pub(crate) enum Effect {
    Tell(Tell),
    /// The answer comes back with the tag.
    Request {
        tag: Tag,
        op: Op,
        traceparent: String,
    },
    Feed(FeedAsk),
    /// Ask the client for a sign of life.
    Ping,
    /// The client has signed in: larger frames are allowed from now on.
    SignedIn,
    /// Write the pending output, then close.
    Close,
}

/// The purpose of a request to the routers.
#[derive(Debug)]
pub(crate) enum Tag {
    Account,
    Ensure,
    Open,
    Send(Sent),
    /// A page that the session itself lacks.
    Gap(TimelineId),
    /// A page that a feed lacks: no session gets the answer.
    Feed(TimelineId, FeedId),
    /// `pinned`: of pinned messages alone.
    Fetch {
        request: u32,
        timeline: TimelineId,
        pinned: bool,
    },
    /// A change of a group, which is answered as a send is.
    Group(Sent),
    /// A client's question about groups.
    GroupRead {
        request: u32,
        /// The group, if one was named.
        group: String,
    },
    /// A client's question about conversations.
    Conversations {
        request: u32,
        asked: AskedMarks,
    },
    Contact(ContactTag),
    Privacy(PrivacyTag),
    /// With the number of the request, and the group in which it is told; empty: to a user.
    ChatState(u32, String),
    /// A request of the client about scheduled messages, with its number.
    Scheduled(u32),
    /// With the number of the request.
    Report(u32),
    /// A place for a file.
    MediaSlot(SlotPending),
    /// The message that refers to a file.
    MediaMessage(UrlPending),
    /// The row of a file of which the URL is asked.
    MediaRow(UrlPending),
    /// An upload is whole: no session gets the answer.
    MediaComplete,
    /// The groups that the user is in.
    Memberships,
    /// Whether the user is in this group.
    Membership(GroupId),
    Renew(Renewal),
    Ack(TimelineId),
    Close,
}
