//! The requests of a client, independent of the protocol. A dialect makes them from frames; only their form has been
//! checked.

use bytes::Bytes;
use carillon_proto::{
    UserId,
    pb::{
        client::{Position, Recipient, Timeline, TimelinePosition},
        store::{GroupSettings, ReadConversations, Role, SetConversation, SetGroup, change_members, move_marks},
    },
};

use super::media::{SlotAsk, UrlAsk};
use super::{ChatStateAsk, ContactAsk, PrivacyAsk, ReportAsk, ScheduledAsk};

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ask {
    SignIn(Box<SignInAsk>),
    /// The client wants to sign in as this user, and the dialect checks the password itself. The answer is `Tell::Keys`.
    LookUp(UserId),
    /// The client knows the password of the user who was looked up last.
    Proven,
    /// The client has given a wrong password, or a name that no user can have.
    NotProven,
    /// The next message of the authentication exchange.
    Prove(Bytes),
    /// Further positions of the device, after those in its sign-in.
    Positions {
        positions: Vec<TimelinePosition>,
        /// More will follow.
        more: bool,
    },
    /// The client signs out. The connection ends when all its earlier requests are answered.
    SignOut,
    Send(SendAsk),
    /// The device has everything up to and including this position.
    Has {
        timeline: Option<Timeline>,
        position: Option<Position>,
    },
    Page(PageAsk),
    /// Asks how far the followed timelines reach. The answer is `Tell::Heads`.
    Heads {
        nonce: u64,
    },
    Group(Box<GroupAsk>),
    GroupRead(Box<GroupReadAsk>),
    Conversation(Box<ConversationAsk>),
    Contact(Box<ContactAsk>),
    Privacy(Box<PrivacyAsk>),
    ChatState(Box<ChatStateAsk>),
    MediaSlot(Box<SlotAsk>),
    MediaUrl(Box<UrlAsk>),
    Scheduled(Box<ScheduledAsk>),
    Report(Box<ReportAsk>),
    /// A new token, sent before the current one expires.
    Renew {
        request: u32,
        token: String,
    },
    /// A request that this release does not know.
    Unknown,
}

impl Ask {
    /// True if it may come while it is not known yet where all timelines begin.
    pub(super) fn may_come_before_positions(&self) -> bool {
        matches!(self, Self::Positions { .. } | Self::Heads { .. } | Self::SignOut)
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct SignInAsk {
    /// Empty if the credential names the user.
    pub(crate) user: String,
    pub(crate) device: String,
    pub(crate) credential: Option<Credential>,
    pub(crate) positions: Vec<TimelinePosition>,
    /// `Ask::Positions` follow.
    pub(crate) more_positions: bool,
    /// Nothing is delivered, of the inbox and of groups.
    pub(crate) holds: bool,
    /// The values of `carillon.client.v1.Start`.
    pub(crate) start: i32,
    /// Name and version of the client program.
    pub(crate) client: String,
    /// Names the running client; 0 if it does not tell.
    pub(crate) instance: u64,
    /// The number of this sign-in among those of the running client; 0 if it does not tell.
    pub(crate) attempt: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Credential {
    /// The first message of SCRAM-SHA-256.
    Scram(Bytes),
    Token(String),
    /// A resume ticket, as it was sealed.
    Ticket(Bytes),
    /// The password that the client has proven to know: `Ask::Proven` came before.
    Proven,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct SendAsk {
    pub(crate) client_id: String,
    pub(crate) to: Option<Recipient>,
    /// An encoded carillon.client.v1.Content, as the client wrote it.
    pub(crate) content: Option<Bytes>,
    /// The client id of the message that must precede this one, or empty.
    pub(crate) after: String,
    /// For how long the message is shown; 0: without end.
    pub(crate) expires_after_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct PageAsk {
    pub(crate) request: u32,
    pub(crate) timeline: Option<Timeline>,
    /// The values of `carillon.client.v1.Direction`.
    pub(crate) direction: i32,
    pub(crate) from_seq: u64,
    /// 0 means `Rules::max_page`.
    pub(crate) limit: u32,
    /// The position of the message whose edits are asked for; 0: all messages are.
    pub(crate) edits_of: u64,
    /// The conversation whose pinned messages are asked for.
    pub(crate) pinned_in: Option<Recipient>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ConversationAsk {
    pub(crate) request: u32,
    pub(crate) query: ConversationQuery,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ConversationQuery {
    /// Without `timeline` and `incarnation`.
    Read(ReadConversations),
    /// The user has read up to there.
    Move(Vec<move_marks::Mark>),
    /// Without what the service knows itself: `timeline`, `incarnation` and `new_epoch`.
    Set(SetConversation),
    /// How far others have read.
    Marks {
        /// Empty: in the conversation with each of the users.
        group: String,
        users: Vec<String>,
    },
}

/// A change of a group.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct GroupAsk {
    pub(crate) client_id: String,
    /// Empty: the service makes up the id of a new group.
    pub(crate) group: String,
    pub(crate) change: Option<GroupChangeAsk>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum GroupChangeAsk {
    Create {
        settings: GroupSettings,
        /// Beside the user, who becomes the owner.
        members: Vec<String>,
    },
    /// Absent settings stay as they are.
    Set(SetGroup),
    Members(MembersAsk),
    Delete,
}

/// Rules as in carillon.client.v1.ChangeMembers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MembersAsk {
    pub(crate) change: change_members::Change,
    pub(crate) users: Vec<String>,
    pub(crate) role: Role,
    pub(crate) muted_until_ms: u64,
    pub(crate) link: Bytes,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GroupReadAsk {
    pub(crate) request: u32,
    pub(crate) query: GroupQuery,
}

/// A question about groups. Limits and marks as in carillon.client.v1.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum GroupQuery {
    Group(String),
    Members {
        group: String,
        others: bool,
        after_user: String,
        limit: u32,
        only: Vec<String>,
    },
    /// The user's groups.
    Groups {
        after_group: String,
        limit: u32,
    },
}

/// Names the send or request that an answer belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AskId {
    /// The send or the change of a group with this client id.
    Send(String),
    /// The page, renewal, read of groups, request about contacts, privacy or scheduled messages, or for media, with this number.
    Request(u32),
    /// The sign-in. Another credential may follow.
    SignIn,
}
