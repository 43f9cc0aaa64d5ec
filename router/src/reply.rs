//! Answers to requests of a link, and how failures are reported.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use carillon_proto::{
    GroupId, InvalidId, LeaseId, TimelineId, UserId, id_text,
    pb::{
        client::Code,
        link::{self, Refusal, RouterReply, router_reply},
        store::Session,
    },
};
use tokio::{
    sync::mpsc::OwnedPermit,
    time::{Duration, Instant},
};
use tracing::Span;

use crate::{metrics, store::StoreFailure};

pub(crate) type Answer = router_reply::Result;

/// A reserved place for one answer in the link's queue of replies, taken before the request is carried out: the answer
/// is never dropped and never waits. If the slot is dropped without an answer, the caller's deadline ends the request.
pub(crate) struct ReplySlot {
    pub(crate) id: u64,
    pub(crate) place: OwnedPermit<RouterReply>,
    /// The operation's name in metrics.
    pub(crate) op: &'static str,
    pub(crate) since: Instant,
    pub(crate) _counted: Counted,
}

/// The number of requests in flight; a stopping router waits for them.
#[derive(Clone, Default)]
pub(crate) struct InFlight(Arc<AtomicUsize>);

/// Counts as one until it is dropped.
pub(crate) struct Counted(InFlight);

impl InFlight {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn enter(&self) -> Counted {
        self.0.fetch_add(1, Ordering::AcqRel);
        Counted(self.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl ReplySlot {
    pub(crate) fn answer(self, answer: Answer) {
        let outcome = match &answer {
            router_reply::Result::Refusal(refusal) => match refusal.code() {
                Code::Overloaded => "overloaded",
                Code::Unavailable => "unavailable",
                _ => "refused",
            },
            router_reply::Result::NotOwner(_) => "not_owner",
            _ => "ok",
        };
        metrics::request(self.op, outcome, self.since.elapsed());
        self.place.send(RouterReply { id: self.id, result: Some(answer) });
    }
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Store(#[from] StoreFailure),
    #[error(transparent)]
    Id(#[from] InvalidId),
    #[error("{0}")]
    Invalid(&'static str),
    #[error("content is {bytes} bytes, but must be at most {max}")]
    TooLarge { bytes: usize, max: usize },
    #[error("groups are not supported")]
    Groups,
    #[error("this service keeps no conversations yet")]
    Conversations,
    #[error("contacts are not supported yet")]
    Contacts,
    #[error("privacy can't be set yet")]
    Privacy,
    #[error("chat states are told in groups of up to {0} members")]
    LargeGroup(u32),
    #[error("{0} does not let everybody add it to groups: invite it")]
    Unwanted(String),
    #[error("{0}")]
    NoRoom(String),
    #[error("the user has too many requests")]
    Requests,
    #[error("files are not supported")]
    Media,
    #[error("messages can't be scheduled yet")]
    Scheduled,
    #[error("reports are not supported yet")]
    NoReports,
    #[error("{0}")]
    TooManyReports(String),
    #[error("{0}")]
    Quota(String),
    /// The settings of the domain do not allow it.
    #[error("{0}")]
    OfDomain(String),
    #[error("there is no user {0:?}")]
    NoUser(String),
    #[error("the account of {0} for which the message was scheduled has ended")]
    RecipientEnded(String),
    #[error("the timeline belongs to somebody else")]
    Forbidden,
    #[error("{0} is of a domain that this one does not talk to")]
    OtherDomain(String),
    #[error("too many requests wait for this user")]
    Crowded,
    #[error("too many requests wait for the gateway of the device")]
    GatewayCrowded,
    /// A directed request's answer is too large; the gateway of the session should have refused it.
    #[error("the answer of the device is {bytes} bytes, but must be at most {max}")]
    LargeAnswer { bytes: usize, max: usize },
    #[error("the client id was used for another message")]
    Reused,
    #[error("the client id was used for a message to somebody else")]
    ReusedElsewhere,
    /// The message may be in an inbox already: a repeat of the same frame finds it there.
    #[error("it is not known whether it was done: {why}")]
    Halfway { why: String, retry_after_ms: u32 },
    #[error("the account of the recipient is just being changed")]
    Changing,
    #[error("{0}")]
    Devices(String),
    #[error("the device is not signed in")]
    NotSignedIn,
    #[error("the session is not announced here yet")]
    NotAnnounced,
    /// The session of a directed request was not reached for certain: it may exist, and may have received it.
    #[error("the device can't be reached now")]
    Unreached,
}

impl Failure {
    pub(crate) fn to_refusal(&self) -> Refusal {
        let (code, retry, retry_after_ms) = match self {
            Self::Store(StoreFailure::Overloaded { retry_after_ms, .. }) => (Code::Overloaded, true, *retry_after_ms),
            Self::Store(StoreFailure::Full { retry_after_ms, .. }) => (Code::Overloaded, true, *retry_after_ms),
            Self::Store(StoreFailure::Expired { .. }) => (Code::Unavailable, true, 200),
            Self::Store(StoreFailure::Stopping) => (Code::Unavailable, true, 500),
            Self::Store(StoreFailure::Level { .. }) => (Code::Unavailable, true, 1000),
            Self::Store(StoreFailure::NotFound { .. }) => (Code::NotFound, false, 0),
            Self::Store(StoreFailure::Forbidden { .. }) => (Code::Forbidden, false, 0),
            Self::Store(StoreFailure::TooLate { .. }) => (Code::TooLate, false, 0),
            Self::Store(StoreFailure::TooEarly { retry_after_ms, .. }) => (Code::RateLimited, true, *retry_after_ms),
            Self::Store(StoreFailure::Gone { .. } | StoreFailure::SenderGone { .. }) => {
                (Code::Unauthenticated, false, 0)
            }
            Self::Store(StoreFailure::Exists { .. }) => (Code::Exists, false, 0),
            Self::Store(StoreFailure::Rejected { .. } | StoreFailure::NoRoom { .. }) => (Code::Invalid, false, 0),
            Self::Store(StoreFailure::OutOfOrder { .. }) => (Code::OutOfOrder, true, 0),
            Self::Store(StoreFailure::Unexpected) | Self::LargeAnswer { .. } => (Code::Internal, false, 0),
            Self::Id(_) | Self::Invalid(_) => (Code::Invalid, false, 0),
            Self::Groups
            | Self::Conversations
            | Self::Contacts
            | Self::Privacy
            | Self::Media
            | Self::Scheduled
            | Self::NoReports
            | Self::LargeGroup(_) => (Code::Unsupported, false, 0),
            Self::TooManyReports(_) => (Code::RateLimited, false, 0),
            Self::NoRoom(_) | Self::Requests => (Code::Overloaded, true, 60_000),
            Self::TooLarge { .. } | Self::Quota(_) => (Code::TooLarge, false, 0),
            Self::NoUser(_) | Self::RecipientEnded(_) => (Code::NotFound, false, 0),
            Self::Forbidden | Self::OtherDomain(_) | Self::Unwanted(_) | Self::OfDomain(_) => {
                (Code::Forbidden, false, 0)
            }
            Self::Crowded | Self::GatewayCrowded => (Code::Overloaded, true, 200),
            Self::Reused | Self::ReusedElsewhere => (Code::Invalid, false, 0),
            Self::Halfway { retry_after_ms, .. } => (Code::Unavailable, true, *retry_after_ms),
            Self::Changing | Self::NotAnnounced => (Code::Unavailable, true, 200),
            Self::NotSignedIn => (Code::NotFound, false, 0),
            Self::Unreached => (Code::Unavailable, true, 500),
            Self::Devices(_) => (Code::Overloaded, true, 60_000),
        };
        Refusal { code: code.into(), reason: self.to_string(), retry, retry_after_ms }
    }

    /// The same failure for something that may have been done: a refusal would say that it was not.
    pub(crate) fn halfway(self) -> Self {
        let retry_after_ms = self.to_refusal().retry_after_ms.max(200);
        Self::Halfway { why: self.to_string(), retry_after_ms }
    }

    /// The same failure for a session that is already stored: the caller can't know what it can rely on.
    pub(crate) fn after_the_session(self) -> Self {
        match self {
            gone @ Self::Store(StoreFailure::Gone { .. }) => gone,
            Self::Store(StoreFailure::Overloaded { shard, .. }) => Self::Store(StoreFailure::Expired { shard }),
            other => other,
        }
    }
}

impl From<Failure> for Answer {
    fn from(failure: Failure) -> Self {
        Self::Refusal(failure.to_refusal())
    }
}

/// A request of a link, ready to be carried out.
pub(crate) struct Request {
    /// The owner of this inbox's user, or of this group, carries it out.
    pub(crate) of: TimelineId,
    pub(crate) op: link::router_request::Op,
    /// The caller's lease, and the link on which it asks.
    pub(crate) lease: LeaseId,
    pub(crate) link: u64,
    pub(crate) deadline: Instant,
    /// Only if the caller traces it.
    pub(crate) span: Option<Span>,
    pub(crate) slot: ReplySlot,
}

/// The caller's deadline, but no longer than this router's own.
pub(crate) fn deadline(now: Instant, asked_ms: u32, longest: Duration) -> Instant {
    let asked = if asked_ms == 0 { longest } else { Duration::from_millis(asked_ms.into()).min(longest) };
    now + asked
}

/// The operation's name in metrics.
pub(crate) fn op_name(op: &link::router_request::Op) -> &'static str {
    use link::router_request::Op;
    match op {
        Op::LookUpAccount(_) => "look_up_account",
        Op::EnsureAccount(_) => "ensure_account",
        Op::OpenSession(_) => "open_session",
        Op::Announce(_) => "announce",
        Op::CloseSession(_) => "close_session",
        Op::Acknowledge(_) => "acknowledge",
        Op::Read(_) => "read",
        Op::ReadHeads(_) => "read_heads",
        Op::Send(_) => "send",
        Op::Direct(_) => "direct",
        Op::ChangeGroup(_) => "change_group",
        Op::Follow(_) => "follow",
        Op::ReadGroup(_) => "read_group",
        Op::ReadMembers(_) => "read_members",
        Op::ReadMemberships(_) => "read_memberships",
        Op::MoveMarks(_) => "move_marks",
        Op::SetConversation(_) => "set_conversation",
        Op::ReadConversations(_) => "read_conversations",
        Op::ReadMarks(_) => "read_marks",
        Op::ChangeContact(_) => "change_contact",
        Op::ReadContacts(_) => "read_contacts",
        Op::SetPresence(_) => "set_presence",
        Op::ChangePrivacy(_) => "change_privacy",
        Op::ReadPrivacy(_) => "read_privacy",
        Op::TellChatState(_) => "tell_chat_state",
        Op::CreateMedia(_) => "create_media",
        Op::CompleteMedia(_) => "complete_media",
        Op::ReadMedia(_) => "read_media",
        Op::Schedule(_) => "schedule",
        Op::ChangeScheduled(_) => "change_scheduled",
        Op::ReadScheduled(_) => "read_scheduled",
        Op::Report(_) => "report",
    }
}

/// Whose owner must carry it out.
pub(crate) fn routed_by(op: &link::router_request::Op) -> Result<TimelineId, Failure> {
    use carillon_proto::pb::client::timeline::Owner;
    use link::{router_request::Op, send_to::To};
    let of_user = |user: &str| Ok(TimelineId::Inbox(UserId::new(user)?));
    let of_session =
        |session: &Option<Session>| of_user(&session.as_ref().ok_or(Failure::Invalid("session is missing"))?.user);
    let of_group = |group: &[u8]| Ok(TimelineId::Group(GroupId::new(id_text("group", group)?)?));
    match op {
        Op::LookUpAccount(op) => of_user(&op.user),
        Op::EnsureAccount(op) => of_user(&op.user),
        Op::OpenSession(op) => of_session(&op.session),
        Op::Announce(op) => of_session(&op.session),
        Op::CloseSession(op) => of_session(&op.session),
        Op::Acknowledge(op) => of_user(&op.user),
        Op::Read(op) => match op.timeline.as_ref().and_then(|timeline| timeline.owner.as_ref()) {
            Some(Owner::Group(group)) => of_group(group.as_bytes()),
            Some(Owner::Inbox(_)) | None => of_user(&op.user),
        },
        Op::ReadGroup(op) => of_group(op.group.as_bytes()),
        Op::ReadMembers(op) => of_group(op.group.as_bytes()),
        Op::ReadMemberships(op) => of_user(&op.user),
        Op::MoveMarks(op) => of_user(&op.user),
        Op::SetConversation(op) => of_user(&op.user),
        Op::ReadConversations(op) => of_user(&op.user),
        Op::ReadMarks(op) => of_user(&op.user),
        Op::ChangeContact(op) => of_user(&op.user),
        Op::ReadContacts(op) => of_user(&op.user),
        Op::SetPresence(op) => of_user(&op.user),
        Op::ChangePrivacy(op) => of_user(&op.user),
        Op::ReadPrivacy(op) => of_user(&op.user),
        Op::TellChatState(op) if !op.group.is_empty() => of_group(op.group.as_bytes()),
        Op::TellChatState(op) => of_user(&op.user),
        Op::CreateMedia(op) => of_user(&op.user),
        Op::CompleteMedia(op) => of_user(&op.user),
        Op::ReadMedia(op) => of_user(&op.user),
        Op::Schedule(op) => of_user(&op.user),
        Op::ChangeScheduled(op) => of_user(&op.user),
        Op::ReadScheduled(op) => of_user(&op.user),
        Op::Report(op) => of_user(&op.user),
        Op::ReadHeads(op) => of_user(&op.user),
        Op::Direct(op) => of_user(&op.user),
        Op::ChangeGroup(op) => of_group(&op.group),
        Op::Follow(op) => {
            let group = op.groups.first().or(op.unfollow.first()).ok_or(Failure::Invalid("group is missing"))?;
            of_group(group.as_bytes())
        }
        Op::Send(op) => match op.to.as_ref().and_then(|to| to.to.as_ref()) {
            Some(To::User(user)) => of_user(id_text("recipient", user)?),
            Some(To::Group(group)) => of_group(group),
            None => Err(Failure::Invalid("recipient is missing")),
        },
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use tokio::sync::mpsc;

    /// A queue of replies, and slots in it.
    pub(crate) struct Replies {
        tx: mpsc::Sender<RouterReply>,
        rx: mpsc::Receiver<RouterReply>,
    }

    impl Replies {
        pub(crate) fn new() -> Self {
            let (tx, rx) = mpsc::channel(2000);
            Self { tx, rx }
        }

        pub(crate) fn slot(&self, id: u64) -> ReplySlot {
            let place = self.tx.clone().try_reserve_owned().expect("room");
            ReplySlot { id, place, op: "test", since: Instant::now(), _counted: InFlight::default().enter() }
        }

        pub(crate) fn next(&mut self) -> Option<(u64, Answer)> {
            self.rx.try_recv().ok().map(|reply| (reply.id, reply.result.expect("set")))
        }
    }

    #[test]
    fn what_may_succeed_later_says_when() {
        let overloaded = StoreFailure::Overloaded { shard: carillon_proto::ShardId::REGISTRY, retry_after_ms: 70 };
        let refusal = Failure::Store(overloaded).to_refusal();
        assert_eq!((refusal.code(), refusal.retry, refusal.retry_after_ms), (Code::Overloaded, true, 70));
        let refusal = Failure::NoUser("bob".into()).to_refusal();
        assert_eq!((refusal.code(), refusal.retry), (Code::NotFound, false));
        assert_eq!(refusal.reason, "there is no user \"bob\"");
    }
}
