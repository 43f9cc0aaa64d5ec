//! Changes and reads of groups that a client asks for: validity, rate, and outcome.

use bytes::Bytes;
use carillon_proto::{
    ClientId, DuplicateKey, GroupId, UserId, limits,
    pb::{
        client::{self, Code, members_change::Kind},
        link::{self, ChangeGroup, Refusal, change_group::Change, router_reply::Result as Reply, router_request::Op},
        store::{
            self, GroupRead, MembersRead, MembershipsRead, Person, change_members, member, members_read,
            memberships_read,
        },
    },
    trace,
};

use super::{
    AskId, Effect, GroupAsk, GroupChangeAsk, GroupQuery, GroupReadAsk, Identity, Now, Rules, Tag, Tell,
    content::check_url,
    live::Live,
    sending::{NO_GROUPS, Sent, in_one_buffer, refused},
};
use crate::{metrics, outcome::refusal};

/// Most users in one change.
const MAX_USERS: usize = 256;
const MAX_NAME_BYTES: usize = 256;
const MAX_DESCRIPTION_BYTES: usize = 4096;
/// Bytes of a link's secret, if there is one.
const LINK_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

impl Live {
    pub(super) fn change_group(&mut self, rules: &Rules, now: Now, ask: GroupAsk, out: &mut Vec<Effect>) {
        metrics::send();
        let GroupAsk { client_id, group, change } = ask;
        let checked = self.admit_now(rules, now, &client_id, "").and_then(|admitted| {
            self.check_change(rules, &client_id, &group, change).map(|(group, change)| (group, change, admitted))
        });
        match checked {
            Err(why) => out.push(refused(AskId::Send(client_id), why)),
            Ok((group, change, admitted)) => {
                self.pending_sends += 1;
                let span = tracing::info_span!("change_group", sender = %self.who.user, client_id);
                let traceparent = trace::traceparent(&span);
                let ids = [self.who.user.as_str(), self.who.device.as_str(), group.as_str(), &client_id];
                let [sender, sender_device, group, client_id_bytes] = in_one_buffer(ids);
                let op = Op::ChangeGroup(Box::new(ChangeGroup {
                    sender,
                    sender_device,
                    client_id: client_id_bytes,
                    // The change is delivered to this connection, too.
                    connection: 0,
                    incarnation: self.incarnation,
                    generation: self.generation,
                    time_ms: now.unix_ms,
                    group,
                    change: Some(change),
                }));
                let tag = Tag::Group(Sent::new(client_id, None, admitted, now.instant, span));
                out.push(Effect::Request { tag, op, traceparent });
            }
        }
    }

    fn check_change(
        &self,
        rules: &Rules,
        client_id: &str,
        group: &str,
        change: Option<GroupChangeAsk>,
    ) -> Result<(GroupId, Change), Refusal> {
        if !rules.has_groups() {
            return Err(refusal(Code::Unsupported, NO_GROUPS, 0));
        }
        let id = ClientId::new(client_id).map_err(|error| invalid(&error))?;
        let change = change.ok_or_else(|| invalid(&"the request has no change"))?;
        let group = match (&change, group) {
            (GroupChangeAsk::Create(_), "") => self.made_up(&id)?,
            (_, group) => GroupId::new(group).map_err(|error| invalid(&error))?,
        };
        Ok((group, asked(change, &self.who)?))
    }

    /// The id of a new group, the same in each repeat of the request.
    fn made_up(&self, client_id: &ClientId) -> Result<GroupId, Refusal> {
        use std::fmt::Write as _;
        let key = DuplicateKey::new(&self.who.user, &self.who.device, client_id).of_incarnation(self.incarnation);
        let mut name = String::with_capacity(32);
        for byte in key.0 {
            let _ = write!(name, "{byte:02x}");
        }
        GroupId::new(&name).map_err(|error| invalid(&error))
    }

    pub(super) fn read_group(&mut self, rules: &Rules, now: Now, ask: GroupReadAsk, out: &mut Vec<Effect>) {
        let GroupReadAsk { request, query } = ask;
        let group = match &query {
            GroupQuery::Group(group) | GroupQuery::Members { group, .. } => Some(group.clone()),
            GroupQuery::Groups { .. } => None,
        };
        match self.read_group_op(rules, now, query) {
            Ok(op) => {
                self.history.waiting += 1;
                let group = group.unwrap_or_default();
                out.push(Effect::Request { tag: Tag::GroupRead { request, group }, op, traceparent: String::new() });
            }
            Err(why) => out.push(refused(AskId::Request(request), why)),
        }
    }

    fn read_group_op(&mut self, rules: &Rules, now: Now, query: GroupQuery) -> Result<Op, Refusal> {
        if !rules.has_groups() {
            return Err(refusal(Code::Unsupported, NO_GROUPS, 0));
        }
        let group = match &query {
            GroupQuery::Group(group) | GroupQuery::Members { group, .. } => Some(group),
            GroupQuery::Groups { after_group, .. } => Some(after_group).filter(|after| !after.is_empty()),
        };
        if let Some(group) = group {
            GroupId::check(group).map_err(|error| invalid(&error))?;
        }
        self.history.begin(rules, now)?;
        Ok(match query {
            GroupQuery::Group(group) => Op::ReadGroup(link::ReadGroup { group, reader: Some(self.person()) }),
            GroupQuery::Members { group, others, after_user, limit, only } => {
                if only.len() > MAX_USERS {
                    return Err(invalid(&"only names more than 256 users"));
                }
                let reader = Some(self.person());
                Op::ReadMembers(link::ReadMembers { group, reader, others, after_user, limit, only })
            }
            GroupQuery::Groups { after_group, limit } => self.read_memberships(after_group, limit, String::new()),
        })
    }

    /// `device`: whose cursors are read, too; empty: none.
    pub(super) fn read_memberships(&self, after_group: String, limit: u32, device: String) -> Op {
        let (user, incarnation) = (self.who.user.as_str().to_owned(), self.incarnation);
        Op::ReadMemberships(link::ReadMemberships { user, incarnation, device, after_group, limit })
    }

    /// The user, as groups know members.
    pub(super) fn person(&self) -> Person {
        Person { user: self.who.user.as_str().to_owned(), incarnation: self.incarnation }
    }

    pub(super) fn group_was_read(
        &mut self,
        request: u32,
        group: String,
        result: Result<Reply, Refusal>,
        out: &mut Vec<Effect>,
    ) {
        self.history.waiting = self.history.waiting.saturating_sub(1);
        out.push(match result {
            Ok(Reply::GroupRead(read)) => {
                Effect::Tell(Tell::Group(Box::new(told_group(request, group, *read, &self.who))))
            }
            Ok(Reply::MembersRead(MembersRead { members, complete })) => {
                let members = members.into_iter().map(told_member).collect();
                Effect::Tell(Tell::Members(Box::new(client::Members { request, group, members, complete })))
            }
            Ok(Reply::MembershipsRead(MembershipsRead { memberships, complete })) => {
                let groups = memberships.into_iter().filter_map(told_membership).collect();
                Effect::Tell(Tell::Groups(Box::new(client::Groups { request, groups, complete })))
            }
            Ok(_) => {
                let why = refusal(Code::Internal, "the service gave an answer of the wrong kind", 100);
                refused(AskId::Request(request), why)
            }
            Err(why) => refused(AskId::Request(request), why),
        });
    }
}

fn asked(change: GroupChangeAsk, who: &Identity) -> Result<Change, Refusal> {
    Ok(match change {
        GroupChangeAsk::Create(client::CreateGroup { settings, members }) => {
            let given = settings.unwrap_or_default();
            check_settings(&given)?;
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
            };
            let members = people(members, 0)?;
            if members.iter().any(|person| person.user == who.user.as_str()) {
                return Err(invalid(&"members names the user, who is the owner"));
            }
            Change::Create(store::CreateGroup { settings: Some(settings), members, owner: None })
        }
        GroupChangeAsk::Set(given) => {
            check_settings(&given)?;
            let client::GroupSettings {
                name,
                description,
                picture,
                open,
                earlier_history,
                announcements,
                slow_mode_ms,
                members_add,
                link,
            } = given;
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
            })
        }
        GroupChangeAsk::Members(asked) => Change::Members(members(asked, who)?),
        GroupChangeAsk::Delete => Change::Delete(store::DeleteGroup {}),
    })
}

fn members(asked: client::ChangeMembers, who: &Identity) -> Result<store::ChangeMembers, Refusal> {
    use change_members::Change as Of;
    let change = match asked.kind() {
        Kind::Unspecified => return Err(invalid(&"members has no kind of change")),
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
    let role = match (change, asked.role()) {
        (Of::Role, client::Role::Unspecified) => return Err(invalid(&"the change has no role")),
        (Of::Role, role) | (Of::Add, role @ (client::Role::Unspecified | client::Role::Reader)) => role,
        (Of::Add, _) => return Err(invalid(&"who is added gets no role, or that of a reader")),
        (_, client::Role::Unspecified) => client::Role::Unspecified,
        _ => return Err(invalid(&"only changes of roles, and who is added, have a role")),
    };
    if asked.muted_until_ms != 0 && change != Of::Mute {
        return Err(invalid(&"muted_until_ms belongs to KIND_MUTED"));
    }
    if !asked.link.is_empty() && (change != Of::Join || asked.link.len() > *LINK_BYTES.end()) {
        return Err(invalid(&"link belongs to KIND_JOINED, and has at most 64 bytes"));
    }
    let own = matches!(change, Of::Join | Of::Leave);
    let users = match asked.users {
        users if own && users.iter().any(|user| user != who.user.as_str()) => {
            return Err(invalid(&"users join and leave by themselves"));
        }
        _ if own => vec![who.user.as_str().to_owned()],
        users => users,
    };
    Ok(store::ChangeMembers {
        change: change.into(),
        users: people(users, 1)?,
        role: role_stored(role).into(),
        muted_until_ms: asked.muted_until_ms,
        link: asked.link,
    })
}

/// The router finds out who they are.
fn people(users: Vec<String>, least: usize) -> Result<Vec<Person>, Refusal> {
    if !(least..=MAX_USERS).contains(&users.len()) {
        return Err(invalid(&format!("the change names {} users, but must name {least} to {MAX_USERS}", users.len())));
    }
    let mut sorted: Vec<&String> = users.iter().collect();
    sorted.sort_unstable();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(invalid(&format!("the change names {:?} twice", twice[0])));
    }
    for user in &users {
        UserId::check(user).map_err(|error| invalid(&error))?;
    }
    Ok(users.into_iter().map(|user| Person { user, incarnation: 0 }).collect())
}

fn check_settings(given: &client::GroupSettings) -> Result<(), Refusal> {
    let at_most = |what: &str, text: Option<&String>, max: usize| match text.map_or(0, String::len) {
        bytes if bytes > max => Err(invalid(&format!("{what} is {bytes} bytes but must be at most {max}"))),
        _ => Ok(()),
    };
    at_most("name", given.name.as_ref(), MAX_NAME_BYTES)?;
    at_most("description", given.description.as_ref(), MAX_DESCRIPTION_BYTES)?;
    at_most("picture", given.picture.as_ref(), limits::MAX_URL_BYTES)?;
    if let Some(picture) = given.picture.as_ref().filter(|picture| !picture.is_empty()) {
        check_url(picture).map_err(|error| invalid(&format!("picture: {error}")))?;
    }
    match given.link.as_ref().map_or(0, Bytes::len) {
        0 => Ok(()),
        bytes if LINK_BYTES.contains(&bytes) => Ok(()),
        bytes => Err(invalid(&format!("link is {bytes} bytes but must be 16 to 64, or empty"))),
    }
}

fn told_group(request: u32, named: String, read: GroupRead, who: &Identity) -> client::Group {
    let GroupRead { group, head, reader, .. } = read;
    let store::Group { settings, members, .. } = group.unwrap_or_default();
    let settings = settings.unwrap_or_default();
    let head = head.unwrap_or_default();
    client::Group {
        request,
        group: named,
        settings: Some(client::GroupSettings {
            name: Some(settings.name),
            description: Some(settings.description),
            picture: Some(settings.picture),
            open: Some(settings.open),
            earlier_history: Some(settings.earlier_history),
            announcements: Some(settings.announcements),
            slow_mode_ms: Some(settings.slow_mode_ms),
            members_add: Some(settings.members_add),
            link: (!settings.link.is_empty()).then_some(settings.link),
        }),
        members,
        own: reader
            .map(|member| told_member(members_read::Row { user: who.user.as_str().to_owned(), member: Some(member) })),
        epoch: head.epoch,
        first: head.first,
        last: head.last,
    }
}

fn told_member(members_read::Row { user, member }: members_read::Row) -> client::Member {
    let member = member.unwrap_or_default();
    client::Member {
        user,
        standing: told_standing(member.standing()).into(),
        role: told_role(member.role()).into(),
        since_seq: member.since_seq,
        muted_until_ms: member.muted_until_ms,
    }
}

fn told_membership(row: memberships_read::Row) -> Option<client::Membership> {
    let membership = row.membership?;
    Some(client::Membership {
        group: row.group?.owner_str().ok()?.to_owned(),
        standing: told_standing(membership.standing()).into(),
        role: told_role(membership.role()).into(),
        since_seq: membership.seq,
    })
}

fn told_standing(standing: member::Standing) -> client::Standing {
    match standing {
        member::Standing::Unspecified => client::Standing::Unspecified,
        member::Standing::Member => client::Standing::Member,
        member::Standing::Invited => client::Standing::Invited,
        member::Standing::Banned => client::Standing::Banned,
        member::Standing::Left => client::Standing::Left,
    }
}

fn told_role(role: store::Role) -> client::Role {
    match role {
        store::Role::Unspecified => client::Role::Unspecified,
        store::Role::Reader => client::Role::Reader,
        store::Role::Member => client::Role::Member,
        store::Role::Admin => client::Role::Admin,
        store::Role::Owner => client::Role::Owner,
    }
}

fn role_stored(role: client::Role) -> store::Role {
    match role {
        client::Role::Unspecified => store::Role::Unspecified,
        client::Role::Reader => store::Role::Reader,
        client::Role::Member => store::Role::Member,
        client::Role::Admin => store::Role::Admin,
        client::Role::Owner => store::Role::Owner,
    }
}

fn invalid(why: &dyn ToString) -> Refusal {
    refusal(Code::Invalid, &why.to_string(), 0)
}
