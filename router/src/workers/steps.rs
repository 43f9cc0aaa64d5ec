//! The commands that rows of the outbox ask for.

use bytes::Bytes;
use carillon_proto::{
    DuplicateKey, Epoch, GroupId, InvalidId, ShardId, ShardMap, TimelineId, UserId, group_change_envelope,
    pb::{
        client::{self, Position, group_change::What as Changed, members_change::Kind},
        store::{
            Append, Appended, ChangeGroup, ChangeMembers, Membership, Person, Role, SetMembership, TimelineCommand,
            change_group::Change, change_members, member::Standing, store_request::Op, timeline_command,
        },
    },
};

use crate::store::{StoreAnswer, StoreFailure};

/// One command for one user.
#[derive(Debug, Clone)]
pub(super) struct Step {
    /// The row that the step belongs to, by its place in the page.
    pub(super) row: usize,
    pub(super) user: UserId,
    /// Of the user's account.
    pub(super) incarnation: u64,
    pub(super) group: GroupId,
    pub(super) what: What,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    /// The user's inbox is told of the change at this position of the group's timeline.
    Tell {
        of_group: u64,
        seq: u64,
        time_ms: u64,
        standing: Standing,
        role: Role,
        envelope: Bytes,
        /// As in `TellMembers`.
        sender_generation: u64,
    },
    /// The account has ended, so the user leaves the group. `after`: the position of the change that has made the user a member, if it is
    /// known. The user may have been a member more than once.
    Leave { after: u64 },
}

/// The envelope that a step appends, for those who follow the timeline.
pub(super) struct Appending {
    pub(super) timeline: TimelineId,
    pub(super) incarnation: u64,
    pub(super) envelope: Bytes,
}

impl Step {
    pub(super) fn new(row: usize, person: &Person, group: &GroupId, what: What) -> Result<Self, InvalidId> {
        let Person { user, incarnation } = person;
        Ok(Self { row, user: UserId::new(user)?, incarnation: *incarnation, group: group.clone(), what })
    }

    /// The shard that carries the step out, the command, and the envelope that it appends. `time_ms`: now.
    pub(super) fn command(&self, shards: ShardMap, time_ms: u64) -> (ShardId, Box<Op>, Appending) {
        let appending = self.appending(time_ms);
        let of_group = TimelineId::Group(self.group.clone());
        let append = Append {
            timeline: Some(appending.timeline.to_key()),
            envelope: appending.envelope.clone(),
            new_epoch: Epoch::random().0,
            ..Append::default()
        };
        let op = match &self.what {
            What::Tell { of_group: incarnation, seq, time_ms, standing, role, sender_generation, .. } => {
                let key = DuplicateKey::of_membership(&self.group, *incarnation, *seq);
                let (duplicate_key, incarnation_of_user) = (key.0.to_vec().into(), self.incarnation);
                let membership = Membership {
                    incarnation: *incarnation,
                    seq: *seq,
                    standing: (*standing).into(),
                    role: (*role).into(),
                    changed_ms: 0,
                };
                timeline_command::Op::SetMembership(SetMembership {
                    append: Some(Append {
                        duplicate_key,
                        time_ms: *time_ms,
                        incarnation: incarnation_of_user,
                        sender_generation: *sender_generation,
                        ..append
                    }),
                    group: Some(of_group.to_key()),
                    membership: Some(membership),
                })
            }
            What::Leave { .. } => {
                let person = Person { user: self.user.as_str().to_owned(), incarnation: self.incarnation };
                let change = change_members::Change::Leave.into();
                let leave = ChangeMembers { change, users: vec![person], ..ChangeMembers::default() };
                timeline_command::Op::ChangeGroup(ChangeGroup {
                    append: Some(Append { duplicate_key: self.leaving().0.to_vec().into(), time_ms, ..append }),
                    by_operator: true,
                    most_members: 0,
                    change: Some(Change::Members(leave)),
                })
            }
        };
        let shard = shards.timeline_of(&appending.timeline);
        (shard, Box::new(Op::Timeline(TimelineCommand { op: Some(op) })), appending)
    }

    fn appending(&self, time_ms: u64) -> Appending {
        match &self.what {
            What::Tell { envelope, .. } => Appending {
                timeline: TimelineId::Inbox(self.user.clone()),
                incarnation: self.incarnation,
                envelope: envelope.clone(),
            },
            What::Leave { .. } => Appending {
                timeline: TimelineId::Group(self.group.clone()),
                incarnation: 0,
                envelope: self.left(time_ms),
            },
        }
    }

    /// The key of the envelope that tells of the leaving.
    fn leaving(&self) -> DuplicateKey {
        let after = if let What::Leave { after } = self.what { after } else { 0 };
        DuplicateKey::of_leaving(&self.group, &self.user, self.incarnation, after)
    }

    /// The envelope that tells the group. No session has sent it.
    fn left(&self, time_ms: u64) -> Bytes {
        let kind = Kind::Left.into();
        let users = vec![self.user.as_str().to_owned()];
        let members = client::MembersChange { kind, users, account_ended: true, ..client::MembersChange::default() };
        let change = client::GroupChange { what: Some(Changed::Members(members)) };
        group_change_envelope(self.group.as_str(), self.user.as_str(), self.leaving(), time_ms, &change)
    }
}

/// The outcome of a step.
pub(super) enum Outcome {
    Done,
    /// The step has appended these envelopes to its timeline, and they are to be delivered.
    Appended(Vec<(Position, Bytes)>),
    Instead(What),
    Refused(String),
    Waits,
}

pub(super) fn came_to(step: &Step, appending: &Appending, answer: Result<StoreAnswer, StoreFailure>) -> Outcome {
    match (&step.what, answer) {
        // The router that has carried the change out has delivered it.
        (What::Tell { .. }, Ok(StoreAnswer::Appended(appended))) if !appended.first_envelope.is_empty() => {
            Outcome::Done
        }
        // Only workers do this. The one whose step it was first may have died before it delivered anything.
        (_, Ok(StoreAnswer::Appended(appended))) => {
            let Appended { epoch, seq, first_envelope, heir_envelope, .. } = appended;
            let own = if first_envelope.is_empty() { appending.envelope.clone() } else { first_envelope };
            let all = [(seq, own), (seq + 1, heir_envelope)].into_iter().filter(|(_, envelope)| !envelope.is_empty());
            Outcome::Appended(all.map(|(seq, envelope)| (Position { epoch, seq }, envelope)).collect())
        }
        // A later change is there already.
        (What::Tell { .. }, Ok(StoreAnswer::Done(_))) => Outcome::Done,
        // Nobody is told any more; and the group must not keep somebody who does not exist.
        (What::Tell { standing: Standing::Member | Standing::Invited, seq, .. }, Err(StoreFailure::Gone { .. })) => {
            Outcome::Instead(What::Leave { after: *seq })
        }
        (What::Tell { .. }, Err(StoreFailure::Gone { .. })) => Outcome::Done,
        // The user is not in the group any more, or there is no such group.
        (What::Leave { .. }, Err(StoreFailure::NotFound { .. })) => Outcome::Done,
        (_, Err(failure)) if is_temporary(&failure) => Outcome::Waits,
        (_, Err(failure)) => Outcome::Refused(failure.to_string()),
        (_, Ok(_)) => Outcome::Refused(StoreFailure::Unexpected.to_string()),
    }
}

/// True if the same command may succeed later.
pub(super) fn is_temporary(failure: &StoreFailure) -> bool {
    matches!(
        failure,
        StoreFailure::Overloaded { .. }
            | StoreFailure::Full { .. }
            | StoreFailure::Expired { .. }
            | StoreFailure::Level { .. }
            | StoreFailure::Stopping
    )
}
