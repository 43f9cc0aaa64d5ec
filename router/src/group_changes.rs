//! A change of a group that is being carried out, and the users whom it names.

use carillon_proto::{
    DuplicateKey, Epoch, TimelineId, UserId,
    pb::{
        client::{self, group_change::What, members_change::Kind},
        link,
        store::{
            self, Append, ChangeGroup, CreateGroup, DeleteGroup, Membership, Person, Role, SetMembership,
            change_group::Change, change_members::Change as OfMembers, member::Standing,
        },
    },
};
use tokio::time::Instant;

use crate::{group_messages::GroupMessage, reply::Failure};

/// A change on its way.
pub(crate) struct GroupChanging {
    pub(crate) message: GroupMessage,
    change: Change,
    /// As in `ChangeGroup.most_members`.
    pub(crate) most_members: u32,
    /// The number of groups that the user may have made, if that is still to be looked at.
    pub(crate) most_groups: Option<u32>,
    /// Groups of the user that have been counted for that.
    pub(crate) own_groups: u32,
    /// The reason why the user may not make the group: only a repeat gets its first answer.
    pub(crate) not_allowed: Option<String>,
    /// Answers of the store that are still to come.
    pub(crate) waits: usize,
    /// The reason why the change could not be carried out as a whole.
    pub(crate) failed: Option<Failure>,
    /// The position of the change in the group's timeline, once it has one.
    pub(crate) position: client::Position,
}

impl GroupChanging {
    pub(crate) fn new(message: GroupMessage, change: Change) -> Self {
        Self {
            message,
            change,
            most_members: 0,
            most_groups: None,
            own_groups: 0,
            not_allowed: None,
            waits: 0,
            failed: None,
            position: client::Position::default(),
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.message.deadline
    }

    /// The users whom the change names.
    pub(crate) fn people_mut(&mut self) -> &mut [Person] {
        match &mut self.change {
            Change::Create(CreateGroup { members, .. }) => members,
            Change::Members(members) => &mut members.users,
            Change::Set(_) | Change::Delete(_) => &mut [],
        }
    }

    pub(crate) fn bans(&self) -> bool {
        matches!(&self.change, Change::Members(op) if op.change() == OfMembers::Ban)
    }

    /// True if the change takes something from the users whom it names and gives them nothing, so that they may be of a domain to which the group's
    /// no longer talks. Whether a role does is for their present one to say.
    pub(crate) fn takes_away(&self) -> bool {
        let Change::Members(op) = &self.change else { return false };
        match op.change() {
            OfMembers::Leave | OfMembers::Remove | OfMembers::Ban | OfMembers::Role => true,
            OfMembers::Mute => op.muted_until_ms != 0,
            OfMembers::Unspecified | OfMembers::Join | OfMembers::Add | OfMembers::Invite | OfMembers::Pardon => false,
        }
    }

    /// The role that the change gives to the users whom it names.
    pub(crate) fn role(&self) -> Option<Role> {
        match &self.change {
            Change::Members(op) if op.change() == OfMembers::Role => Some(op.role()),
            _ => None,
        }
    }

    /// A user who wants nothing of the sender in groups: is not added, and is not told of other changes.
    pub(crate) fn is_unwanted(&mut self, user: String) -> Result<(), Failure> {
        match &mut self.change {
            Change::Members(op) if op.change() != OfMembers::Add => {
                op.unwanted.push(user);
                Ok(())
            }
            _ => Err(Failure::Unwanted(user)),
        }
    }

    pub(crate) fn command(&self) -> ChangeGroup {
        let append = Append { only_repeat: self.not_allowed.is_some(), ..self.message.append() };
        ChangeGroup {
            append: Some(append),
            by_operator: false,
            change: Some(self.change.clone()),
            most_members: self.most_members,
        }
    }

    pub(crate) fn makes_a_group(&self) -> bool {
        matches!(self.change, Change::Create(_))
    }

    /// The users whose membership changes, with the commands for their inboxes. `incarnation`: of the group's timeline.
    pub(crate) fn memberships(&self, incarnation: u64) -> Vec<(UserId, SetMembership)> {
        let of = |person: &Person, standing: Standing, role: Role| {
            let user = UserId::new(&person.user).ok()?;
            let membership = Membership {
                incarnation,
                seq: self.position.seq,
                standing: standing.into(),
                role: role.into(),
                changed_ms: 0,
            };
            let key = DuplicateKey::of_membership(&self.message.group, incarnation, self.position.seq);
            let append = Append {
                timeline: Some(TimelineId::Inbox(user.clone()).to_key()),
                duplicate_key: key.0.to_vec().into(),
                time_ms: self.message.time_ms,
                envelope: self.message.envelope.clone(),
                new_epoch: Epoch::random().0,
                incarnation: person.incarnation,
                sender_generation: self.message.generation,
                ..Append::default()
            };
            let group = Some(self.message.timeline().to_key());
            Some((user, SetMembership { append: Some(append), group, membership: Some(membership) }))
        };
        match &self.change {
            Change::Create(CreateGroup { members, .. }) => {
                let owner =
                    Person { user: self.message.sender.as_str().to_owned(), incarnation: self.message.incarnation };
                let members = members.iter().map(|person| (person, Role::Member));
                let all = std::iter::once((&owner, Role::Owner)).chain(members);
                all.filter_map(|(person, role)| of(person, Standing::Member, role)).collect()
            }
            Change::Members(op) => {
                let (standing, role) = match op.change() {
                    OfMembers::Join => (Standing::Member, Role::Member),
                    OfMembers::Add if op.role() == Role::Reader => (Standing::Member, Role::Reader),
                    OfMembers::Add => (Standing::Member, Role::Member),
                    OfMembers::Leave | OfMembers::Remove | OfMembers::Pardon => (Standing::Left, Role::Unspecified),
                    OfMembers::Invite => (Standing::Invited, Role::Unspecified),
                    OfMembers::Ban => (Standing::Banned, Role::Unspecified),
                    // Users who stay members read of it in the group.
                    OfMembers::Role | OfMembers::Mute | OfMembers::Unspecified => return Vec::new(),
                };
                // The store decides whether the others are told, and the worker tells them.
                let wanted = op.users.iter().filter(|person| !op.unwanted.contains(&person.user));
                wanted.filter_map(|person| of(person, standing, role)).collect()
            }
            Change::Set(_) | Change::Delete(_) => Vec::new(),
        }
    }
}

/// The change in a request.
pub(crate) fn asked(change: Option<link::change_group::Change>) -> Result<Change, Failure> {
    use link::change_group::Change as Asked;
    Ok(match change.ok_or(Failure::Invalid("change is missing"))? {
        Asked::Create(create) => Change::Create(create),
        Asked::Set(set) => Change::Set(set),
        Asked::Members(members) => Change::Members(members),
        Asked::Delete(DeleteGroup {}) => Change::Delete(DeleteGroup {}),
    })
}

/// True if the change lets its sender out of the group.
pub(crate) fn leaves(change: &Change) -> bool {
    matches!(change, Change::Members(op) if op.change() == OfMembers::Leave)
}

/// The change as the envelope tells it.
pub(crate) fn told(change: &Change) -> client::GroupChange {
    let users = |people: &[Person]| people.iter().map(|person| person.user.clone()).collect();
    let what = match change {
        Change::Create(CreateGroup { settings, members, .. }) => {
            let settings = settings.clone().unwrap_or_default();
            let settings = client::GroupSettingsChange {
                name: Some(settings.name),
                description: Some(settings.description),
                picture: Some(settings.picture),
                open: Some(settings.open),
                earlier_history: Some(settings.earlier_history),
                announcements: Some(settings.announcements),
                slow_mode_ms: Some(settings.slow_mode_ms),
                members_add: Some(settings.members_add),
                link: !settings.link.is_empty(),
                expire_after_ms: Some(settings.expire_after_ms),
            };
            What::Created(client::GroupCreated { settings: Some(settings), members: users(members) })
        }
        Change::Set(store::SetGroup {
            name,
            description,
            picture,
            open,
            link,
            earlier_history,
            announcements,
            slow_mode_ms,
            members_add,
            expire_after_ms,
        }) => What::Set(client::GroupSettingsChange {
            name: name.clone(),
            description: description.clone(),
            picture: picture.clone(),
            open: *open,
            earlier_history: *earlier_history,
            announcements: *announcements,
            slow_mode_ms: *slow_mode_ms,
            members_add: *members_add,
            link: link.is_some(),
            expire_after_ms: *expire_after_ms,
        }),
        Change::Members(op) => {
            let kind = match op.change() {
                OfMembers::Unspecified => Kind::Unspecified,
                OfMembers::Join => Kind::Joined,
                OfMembers::Leave => Kind::Left,
                OfMembers::Add => Kind::Added,
                OfMembers::Invite => Kind::Invited,
                OfMembers::Remove => Kind::Removed,
                OfMembers::Ban => Kind::Banned,
                OfMembers::Pardon => Kind::Pardoned,
                OfMembers::Role => Kind::Role,
                OfMembers::Mute => Kind::Muted,
            };
            What::Members(client::MembersChange {
                kind: kind.into(),
                users: users(&op.users),
                role: op.role,
                muted_until_ms: op.muted_until_ms,
                account_ended: false,
            })
        }
        Change::Delete(_) => What::Deleted(client::GroupDeleted {}),
    };
    client::GroupChange { what: Some(what) }
}
