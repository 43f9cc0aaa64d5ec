//! Answers and news for a client, independent of the protocol. A dialect writes them in the order in which they are
//! told.

use std::sync::Arc;

use bytes::Bytes;
use carillon_proto::{
    Position, TimelineId,
    pb::{
        client::{self, Code, Limits, TimelineState},
        link::{Marked, Refusal, evict::Why},
        store::{
            ConversationsMoved, ConversationsRead, GroupRead, MarksRead, MembersRead, MembershipsRead,
            ScramCredentials, StoredEntry,
        },
    },
};

use super::{
    ChatStateTell, ContactTell, PrivacyTell, ScheduledTell,
    ask::AskId,
    media::{SlotTell, UrlTell},
};
use crate::feeds::{Entry, TimelineName};

#[derive(Debug, Clone)]
pub(crate) enum Tell {
    /// The next message of the authentication exchange.
    Challenge(Bytes),
    /// The keys of the user who was looked up. Made up if there is no such user, or none with a password: no password fits these.
    Keys(Box<ScramCredentials>),
    SignedIn(Box<Welcome>),
    /// The states of timelines that SignedIn did not name, at the beginning of their delivery.
    Timelines(Vec<TimelineState>),
    Accepted(Placed),
    /// A request was not carried out.
    Refused {
        asked: AskId,
        why: Refusal,
    },
    Entry(Arc<Entry>),
    /// Entries before `first` are no longer kept.
    Trimmed {
        timeline: Arc<TimelineName>,
        first: Position,
    },
    Page(Box<Page>),
    Group(Box<GroupTell>),
    Members {
        request: u32,
        group: String,
        read: MembersRead,
    },
    /// The user's groups.
    Groups {
        request: u32,
        read: MembershipsRead,
    },
    Conversations {
        request: u32,
        read: ConversationsRead,
    },
    /// Conversations have changed; request 0: nobody asked here.
    ConversationsMoved {
        request: u32,
        moved: Box<ConversationsMoved>,
    },
    /// How far others have read; of these users, in this group if one is named.
    Marks {
        request: u32,
        group: String,
        users: Vec<String>,
        read: MarksRead,
    },
    /// Another user has just read or received.
    Marked(Box<Marked>),
    Contact(Box<ContactTell>),
    Privacy(Box<PrivacyTell>),
    ChatState(Box<ChatStateTell>),
    MediaSlot(Box<SlotTell>),
    MediaUrl(Box<UrlTell>),
    Scheduled(Box<ScheduledTell>),
    /// A report is stored.
    Reported {
        request: u32,
    },
    /// How far the followed timelines reach; of groups, those of which the client has not everything yet.
    Heads {
        nonce: u64,
        heads: Vec<(TimelineId, Position)>,
    },
    Renewed {
        request: u32,
        expires_ms: u64,
        /// The ticket, as in [`Welcome`].
        ticket: Bytes,
    },
    /// Ends the connection; nothing is told after it.
    Bye {
        code: Code,
        reason: String,
        /// The delay after which it may reconnect; `None` if reconnecting is of no use.
        again_ms: Option<u32>,
        /// The cause, if the session was ended by somebody else than its client.
        ended: Option<Why>,
    },
}

/// A group, as its reader sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GroupTell {
    pub(crate) request: u32,
    pub(crate) group: String,
    /// The user who reads.
    pub(crate) reader: String,
    pub(crate) read: GroupRead,
}

/// The contents of SignedIn, for each dialect. Units as in carillon.client.v1.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Welcome {
    pub(crate) handle: String,
    pub(crate) user: String,
    pub(crate) device: String,
    /// Proves to the client that the service knows its password; empty for a token.
    pub(crate) verdict: Bytes,
    pub(crate) limits: Limits,
    pub(crate) heartbeat_ms: u32,
    pub(crate) timelines: Vec<TimelineState>,
    /// When the session ends; 0 if it has no end.
    pub(crate) expires_ms: u64,
    pub(crate) features: Vec<String>,
    /// The ticket by which the device signs in next time, as it was sealed; empty if there are none.
    pub(crate) ticket: Bytes,
}

#[cfg(any(test, fuzzing))]
impl Welcome {
    /// The contents for a session without timelines.
    pub(crate) fn simple(user: &str, device: &str) -> Self {
        Self {
            handle: String::new(),
            user: user.to_owned(),
            device: device.to_owned(),
            verdict: Bytes::new(),
            limits: Limits::default(),
            heartbeat_ms: 1,
            timelines: Vec::new(),
            expires_ms: 0,
            features: Vec::new(),
            ticket: Bytes::new(),
        }
    }
}

/// The position of the client's own message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Placed {
    pub(crate) client_id: String,
    pub(crate) message_id: String,
    pub(crate) timeline: Option<client::Timeline>,
    pub(crate) position: Option<client::Position>,
    pub(crate) time_ms: u64,
    /// 0: it does not expire.
    pub(crate) expires_at_ms: u64,
}

/// A page of a timeline's history.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Page {
    pub(crate) request: u32,
    pub(crate) timeline: TimelineId,
    pub(crate) epoch: u64,
    /// In the direction of the request.
    pub(crate) entries: Vec<StoredEntry>,
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// True if the timeline has no further entries in this direction.
    pub(crate) complete: bool,
}
