//! The news of an envelope for those who follow its timeline, sent by the owner or through another router.

use bytes::Bytes;
use carillon_proto::{
    GroupId, LeaseId, TimelineId, UserId,
    pb::{client, link::Hint},
};

/// A new envelope, or only its position, for the sessions of a user, or for the gateways that follow a group.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Delivery {
    pub(crate) timeline: TimelineId,
    /// The incarnation of the account that owns the inbox; 0 for a group.
    pub(crate) incarnation: u64,
    pub(crate) position: client::Position,
    /// Empty if it was dropped on the way: then only the position is sent.
    pub(crate) envelope: Bytes,
    pub(crate) traceparent: String,
    /// The session that sent the message, which needs no push.
    pub(crate) except: Option<(LeaseId, u64)>,
    /// Another router took this one for the owner. It is not passed on again.
    pub(crate) passed_on: bool,
}

impl Delivery {
    pub(crate) fn into_hint(self) -> Hint {
        let (except_lease, except_connection) = self.except.map_or((0, 0), |(lease, of)| (lease.0, of));
        let (user, group) = match &self.timeline {
            TimelineId::Inbox(user) => (user.as_str().to_owned(), String::new()),
            TimelineId::Group(group) => (String::new(), group.as_str().to_owned()),
        };
        Hint {
            user,
            group,
            position: Some(self.position),
            envelope: self.envelope,
            traceparent: self.traceparent,
            except_lease,
            except_connection,
            incarnation: self.incarnation,
            passed_on: self.passed_on,
        }
    }

    /// What remains of a delivery that had to be dropped.
    pub(crate) fn without_envelope(self) -> Self {
        Self { envelope: Bytes::new(), ..self }
    }

    /// `None` if the timeline or the position is missing.
    pub(crate) fn of_hint(hint: Hint) -> Option<Self> {
        let Hint { user, group, position, envelope, traceparent, incarnation, passed_on, .. } = hint;
        let (except_lease, except_connection) = (hint.except_lease, hint.except_connection);
        let timeline = match group.is_empty() {
            true => TimelineId::Inbox(UserId::new(&user).ok()?),
            false => TimelineId::Group(GroupId::new(&group).ok()?),
        };
        let position = position?;
        let except = (except_lease != 0).then_some((LeaseId(except_lease), except_connection));
        Some(Self { timeline, incarnation, position, envelope, traceparent, except, passed_on })
    }
}
