//! Asks and tells of groups, from and to frames.

use carillon_proto::pb::{
    client::{
        ChangeMembers, CreateGroup, DeleteGroup, Group, GroupRequest, GroupSettings, Groups, Member, Members,
        Membership, ReadGroup, ReadGroups, ReadMembers, Role, Standing, group_request::Change, members_change::Kind,
    },
    store::{self, change_members, member, members_read, memberships_read},
};

use crate::conversation::{Ask, GroupAsk, GroupChangeAsk, GroupQuery, GroupReadAsk, GroupTell, MembersAsk};

impl From<GroupRequest> for Ask {
    fn from(GroupRequest { client_id, group, change }: GroupRequest) -> Self {
        let change = change.map(|change| match change {
            Change::Create(create) => asked_to_create(create),
            Change::Set(settings) => asked_to_set(settings),
            Change::Members(members) => asked_of_members(members),
            Change::Delete(DeleteGroup {}) => GroupChangeAsk::Delete,
        });
        Self::Group(Box::new(GroupAsk { client_id, group, change }))
    }
}

fn asked_to_create(CreateGroup { settings, members }: CreateGroup) -> GroupChangeAsk {
    let given = settings.unwrap_or_default();
    let settings = store::GroupSettings {
        name: given.name.unwrap_or_default(),
        description: given.description.unwrap_or_default(),
        picture: given.picture.unwrap_or_default(),
        open: given.open.unwrap_or_default(),
        link: given.link.unwrap_or_default(),
        earlier_history: given.earlier_history.unwrap_or_default(),
        announcements: given.announcements.unwrap_or_default(),
        slow_mode_ms: given.slow_mode_ms.unwrap_or_default(),
        members_add: given.members_add.unwrap_or_default(),
        expire_after_ms: given.expire_after_ms.unwrap_or_default(),
    };
    GroupChangeAsk::Create { settings, members }
}

fn asked_to_set(given: GroupSettings) -> GroupChangeAsk {
    let GroupSettings {
        name,
        description,
        picture,
        open,
        earlier_history,
        announcements,
        slow_mode_ms,
        members_add,
        link,
        expire_after_ms,
    } = given;
    GroupChangeAsk::Set(store::SetGroup {
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
    })
}

fn asked_of_members(asked: ChangeMembers) -> GroupChangeAsk {
    use change_members::Change as Of;
    let change = match asked.kind() {
        Kind::Unspecified => Of::Unspecified,
        Kind::Joined => Of::Join,
        Kind::Left => Of::Leave,
        Kind::Added => Of::Add,
        Kind::Invited => Of::Invite,
        Kind::Removed => Of::Remove,
        Kind::Banned => Of::Ban,
        Kind::Pardoned => Of::Pardon,
        Kind::Role => Of::Role,
        Kind::Muted => Of::Mute,
    };
    let role = match asked.role() {
        Role::Unspecified => store::Role::Unspecified,
        Role::Reader => store::Role::Reader,
        Role::Member => store::Role::Member,
        Role::Admin => store::Role::Admin,
        Role::Owner => store::Role::Owner,
    };
    let ChangeMembers { users, muted_until_ms, link, .. } = asked;
    GroupChangeAsk::Members(MembersAsk { change, users, role, muted_until_ms, link })
}

impl From<ReadGroup> for Ask {
    fn from(ReadGroup { request, group }: ReadGroup) -> Self {
        Self::GroupRead(Box::new(GroupReadAsk { request, query: GroupQuery::Group(group) }))
    }
}

impl From<ReadMembers> for Ask {
    fn from(ReadMembers { request, group, others, after_user, limit, only }: ReadMembers) -> Self {
        let query = GroupQuery::Members { group, others, after_user, limit, only };
        Self::GroupRead(Box::new(GroupReadAsk { request, query }))
    }
}

impl From<ReadGroups> for Ask {
    fn from(ReadGroups { request, after_group, limit }: ReadGroups) -> Self {
        Self::GroupRead(Box::new(GroupReadAsk { request, query: GroupQuery::Groups { after_group, limit } }))
    }
}

pub(super) fn told_group(GroupTell { request, group: named, reader, read }: GroupTell) -> Group {
    let store::GroupRead { group, head, reader: row, .. } = read;
    let store::Group { settings, members, .. } = group.unwrap_or_default();
    let settings = settings.unwrap_or_default();
    let head = head.unwrap_or_default();
    Group {
        request,
        group: named,
        settings: Some(GroupSettings {
            name: Some(settings.name),
            description: Some(settings.description),
            picture: Some(settings.picture),
            open: Some(settings.open),
            earlier_history: Some(settings.earlier_history),
            announcements: Some(settings.announcements),
            slow_mode_ms: Some(settings.slow_mode_ms),
            members_add: Some(settings.members_add),
            link: (!settings.link.is_empty()).then_some(settings.link),
            expire_after_ms: Some(settings.expire_after_ms),
        }),
        members,
        own: row.map(|member| told_member(members_read::Row { user: reader, member: Some(member) })),
        epoch: head.epoch,
        first: head.first,
        last: head.last,
    }
}

pub(super) fn told_members(request: u32, group: String, read: store::MembersRead) -> Members {
    let store::MembersRead { members, complete } = read;
    Members { request, group, members: members.into_iter().map(told_member).collect(), complete }
}

pub(super) fn told_groups(request: u32, read: store::MembershipsRead) -> Groups {
    let store::MembershipsRead { memberships, complete } = read;
    Groups { request, groups: memberships.into_iter().filter_map(told_membership).collect(), complete }
}

fn told_member(members_read::Row { user, member }: members_read::Row) -> Member {
    let member = member.unwrap_or_default();
    Member {
        user,
        standing: told_standing(member.standing()).into(),
        role: told_role(member.role()).into(),
        since_seq: member.since_seq,
        muted_until_ms: member.muted_until_ms,
    }
}

fn told_membership(row: memberships_read::Row) -> Option<Membership> {
    let membership = row.membership?;
    Some(Membership {
        group: row.group?.owner_str().ok()?.to_owned(),
        standing: told_standing(membership.standing()).into(),
        role: told_role(membership.role()).into(),
        since_seq: membership.seq,
    })
}

fn told_standing(standing: member::Standing) -> Standing {
    match standing {
        member::Standing::Unspecified => Standing::Unspecified,
        member::Standing::Member => Standing::Member,
        member::Standing::Invited => Standing::Invited,
        member::Standing::Banned => Standing::Banned,
        member::Standing::Left => Standing::Left,
    }
}

fn told_role(role: store::Role) -> Role {
    match role {
        store::Role::Unspecified => Role::Unspecified,
        store::Role::Reader => Role::Reader,
        store::Role::Member => Role::Member,
        store::Role::Admin => Role::Admin,
        store::Role::Owner => Role::Owner,
    }
}
