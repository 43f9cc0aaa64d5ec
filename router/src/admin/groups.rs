//! Groups, for the operator and the administrators of their domains. See docs/adr/0025-groups.md.

use carillon_proto::{
    DuplicateKey, EnvelopeParts, EnvelopeTo, Epoch, GroupId, Level, MessageId, ShardId, ShardKind, TimelineId, UserId,
    now_ms,
    pb::{
        admin::{
            DeleteGroupReply, DeleteGroupRequest, ListGroupsReply, ListGroupsRequest, ListMembersReply,
            ListMembersRequest, RemoveMemberReply, RemoveMemberRequest, SetMemberRoleReply, SetMemberRoleRequest,
            ShowGroupReply,
        },
        client::Position,
        store::{
            Append, ChangeGroup, ChangeMembers, DeleteGroup, GroupList, ListGroups, Member, MembersRead, Person,
            ReadGroup, ReadMembers, Role, TimelineCommand, change_group::Change, change_members::Change as OfMembers,
            group_list, member::Standing, store_request::Op, timeline_command,
        },
    },
};
use futures_util::future::try_join_all;
use prost::Message as _;
use tonic::{Code, Status};

use super::{Admin, PAGE, failed, scope::Scope, user_id};
use crate::{
    delivery::Delivery,
    group_changes::told,
    store::{StoreAnswer, StoreFailure},
};

impl Admin {
    pub(super) async fn groups(&self, scope: &Scope, request: ListGroupsRequest) -> Result<ListGroupsReply, Status> {
        self.has_groups()?;
        let ListGroupsRequest { domain, after, limit } = request;
        let domain = match scope.domain() {
            None => domain,
            Some(own) if domain.as_ref().is_none_or(|domain| domain == own) => Some(own.to_owned()),
            Some(_) => return Err(Status::permission_denied("the token is another domain's")),
        };
        if !after.is_empty() {
            group_id(&after)?;
        }
        let limit = if limit == 0 { PAGE } else { limit.min(PAGE) };
        let shards = self.shards()?.all().filter(|shard| shard.kind == ShardKind::Timeline);
        let reads = shards.map(|shard| {
            let list = ListGroups { domain: domain.clone(), after: after.clone(), limit };
            async move {
                match self.call(shard, Op::ListGroups(list)).await {
                    Ok(StoreAnswer::GroupList(list)) => Ok(list),
                    other => Err(failed(other)),
                }
            }
        });
        Ok(merged(try_join_all(reads).await?, limit as usize))
    }

    pub(super) async fn group(&self, group: &str) -> Result<ShowGroupReply, Status> {
        let group = self.known_group(group)?;
        let (shard, timeline) = self.place(&group)?;
        let read = ReadGroup { timeline: Some(timeline.to_key()), ..ReadGroup::default() };
        let read = match self.call(shard, Op::ReadGroup(read)).await {
            Ok(StoreAnswer::GroupRead(read)) => read,
            Err(StoreFailure::NotFound { .. }) => return Err(no_group(&group)),
            other => return Err(failed(other)),
        };
        let mut row = read.group.unwrap_or_default();
        let link = row.settings.as_mut().map(|settings| std::mem::take(&mut settings.link)).unwrap_or_default();
        Ok(ShowGroupReply { group: Some(row), has_link: !link.is_empty(), head: read.head })
    }

    pub(super) async fn members(&self, request: ListMembersRequest) -> Result<ListMembersReply, Status> {
        let ListMembersRequest { group, others, after: after_user, limit } = request;
        let group = self.known_group(&group)?;
        if !after_user.is_empty() {
            user_id(&after_user)?;
        }
        let limit = if limit == 0 { PAGE } else { limit.min(PAGE) };
        let read = ReadMembers { others, after_user, limit, ..ReadMembers::default() };
        let MembersRead { members, complete } = self.read_members(&group, read).await?;
        let next = members.last().filter(|_| !complete).map(|last| last.user.clone()).unwrap_or_default();
        Ok(ListMembersReply { members, next })
    }

    pub(super) async fn give_role(
        &self,
        scope: &Scope,
        request: SetMemberRoleRequest,
    ) -> Result<SetMemberRoleReply, Status> {
        let (role, SetMemberRoleRequest { group, user, key, .. }) = (request.role(), request);
        let (group, user) = (self.known_group(&group)?, user_id(&user)?);
        if role == Role::Unspecified {
            return Err(Status::invalid_argument("the role is missing, or unknown to this release"));
        }
        let row = self.row_of(&group, &user).await?.filter(|row| row.standing() == Standing::Member);
        let Some(row) = row else { return Err(no_member(&user, &group)) };
        let talks = self.topology.borrow().domains.allow(user.domain(), group.domain());
        if role > row.role() && !talks {
            let why = format!("{user} is of a domain that the group's does not talk to: it gets no higher role");
            return Err(Status::permission_denied(why));
        }
        let change = ChangeMembers { role: role.into(), ..of_one(OfMembers::Role, &user, &row) };
        self.change_member(&group, &user, &key, change).await?;
        tracing::info!(by = %scope, %group, %user, role = role.as_str_name(), "a member of a group was given a role");
        Ok(SetMemberRoleReply {})
    }

    pub(super) async fn put_out_of_group(
        &self,
        scope: &Scope,
        request: RemoveMemberRequest,
    ) -> Result<RemoveMemberReply, Status> {
        let RemoveMemberRequest { group, user, key } = request;
        let (group, user) = (self.known_group(&group)?, user_id(&user)?);
        // The row is gone when the request is repeated: the store knows its key.
        let row = self.row_of(&group, &user).await?.unwrap_or_default();
        self.change_member(&group, &user, &key, of_one(OfMembers::Remove, &user, &row)).await?;
        tracing::info!(by = %scope, %group, %user, "a member was removed from a group");
        Ok(RemoveMemberReply {})
    }

    pub(super) async fn end_group(
        &self,
        scope: &Scope,
        request: DeleteGroupRequest,
    ) -> Result<DeleteGroupReply, Status> {
        let group = self.known_group(&request.group)?;
        self.change_group(&group, &request.key, Change::Delete(DeleteGroup {})).await?;
        tracing::info!(by = %scope, %group, "group deleted");
        Ok(DeleteGroupReply {})
    }

    /// Carries out a change of one member. NOT_FOUND: the user is none.
    async fn change_member(
        &self,
        group: &GroupId,
        user: &UserId,
        key: &[u8],
        change: ChangeMembers,
    ) -> Result<(), Status> {
        let done = self.change_group(group, key, Change::Members(change)).await;
        done.map_err(|status| match status.code() {
            Code::NotFound => no_member(user, group),
            _ => status,
        })
    }

    /// Carries out a change by the operator, and tells those who follow the group's log. Workers tell the inboxes.
    async fn change_group(&self, group: &GroupId, key: &[u8], change: Change) -> Result<(), Status> {
        let named = key.try_into().map_err(|_| Status::invalid_argument("the key of the request has not 16 bytes"))?;
        let key = DuplicateKey::of_operator(group, named);
        let time_ms = now_ms();
        let id = MessageId::of(time_ms, key).to_string();
        let encoded = told(&change).encode_to_vec();
        let parts = EnvelopeParts {
            id: &id,
            sender: "",
            sender_device: "",
            recipient: EnvelopeTo::Group(group.as_str()),
            client_id: "",
            time_ms,
            content: &[],
            change: &encoded,
            expires_at_ms: 0,
        };
        let mut envelope = Vec::with_capacity(parts.encoded_len());
        parts.encode(&mut envelope);
        let (shard, timeline) = self.place(group)?;
        let append = Append {
            timeline: Some(timeline.to_key()),
            duplicate_key: key.0.to_vec().into(),
            time_ms,
            envelope: envelope.into(),
            new_epoch: Epoch::random().0,
            ..Append::default()
        };
        let envelope = append.envelope.clone();
        let op = ChangeGroup { append: Some(append), by_operator: true, change: Some(change), most_members: 0 };
        let op = Op::Timeline(TimelineCommand { op: Some(timeline_command::Op::ChangeGroup(op)) });
        match self.call(shard, op).await {
            Ok(StoreAnswer::Appended(appended)) => {
                self.nudges.nudge(shard);
                let first = appended.first_envelope;
                self.tell_group(Delivery {
                    timeline,
                    incarnation: 0,
                    position: Position { epoch: appended.epoch, seq: appended.seq },
                    envelope: if first.is_empty() { envelope } else { first },
                    traceparent: String::new(),
                    except: None,
                    passed_on: false,
                });
                Ok(())
            }
            Err(StoreFailure::NotFound { .. }) => Err(no_group(group)),
            other => Err(failed(other)),
        }
    }

    fn tell_group(&self, delivery: Delivery) {
        let topology = self.topology.borrow().clone();
        match topology.elsewhere(delivery.timeline.owner()) {
            Some(address) => self.put_out.peers.hint(address, delivery),
            None => self.put_out.partitions.deliver(delivery),
        }
    }

    /// The row that a group has of a user, who may also be invited or banned.
    async fn row_of(&self, group: &GroupId, user: &UserId) -> Result<Option<Member>, Status> {
        let read = ReadMembers { others: true, only: vec![user.as_str().to_owned()], ..ReadMembers::default() };
        let read = self.read_members(group, read).await?;
        Ok(read.members.into_iter().next().and_then(|row| row.member))
    }

    async fn read_members(&self, group: &GroupId, read: ReadMembers) -> Result<MembersRead, Status> {
        let (shard, timeline) = self.place(group)?;
        let read = ReadMembers { timeline: Some(timeline.to_key()), ..read };
        match self.call(shard, Op::ReadMembers(read)).await {
            Ok(StoreAnswer::MembersRead(read)) => Ok(read),
            Err(StoreFailure::NotFound { .. }) => Err(no_group(group)),
            other => Err(failed(other)),
        }
    }

    fn known_group(&self, group: &str) -> Result<GroupId, Status> {
        self.has_groups()?;
        group_id(group)
    }

    fn place(&self, group: &GroupId) -> Result<(ShardId, TimelineId), Status> {
        let timeline = TimelineId::Group(group.clone());
        Ok((self.shards()?.timeline_of(&timeline), timeline))
    }

    fn has_groups(&self) -> Result<(), Status> {
        let (level, needed) = (Level(self.topology.borrow().view.level), Level::GROUPS);
        if level >= needed {
            return Ok(());
        }
        Err(Status::failed_precondition(format!("the cluster is at level {level}; groups need level {needed}")))
    }
}

/// A change of the user whose row this is: the name may have another owner at any moment.
fn of_one(change: OfMembers, user: &UserId, row: &Member) -> ChangeMembers {
    let person = Person { user: user.as_str().to_owned(), incarnation: row.incarnation };
    ChangeMembers { change: change.into(), users: vec![person], ..ChangeMembers::default() }
}

/// The first groups of all shards, each of which has told its first ones.
fn merged(read: Vec<GroupList>, limit: usize) -> ListGroupsReply {
    let all_complete = read.iter().all(|list| list.complete);
    let mut groups: Vec<group_list::Row> = read.into_iter().flat_map(|list| list.groups).collect();
    groups.sort_unstable_by(|one, other| order(&one.group).cmp(&order(&other.group)));
    let complete = all_complete && groups.len() <= limit;
    groups.truncate(limit);
    let next = groups.last().filter(|_| !complete).map(|last| last.group.clone()).unwrap_or_default();
    ListGroupsReply { groups, next }
}

/// By domain, and then by name.
fn order(group: &str) -> (&str, &str) {
    (group.split_once('@').map_or("", |(_, domain)| domain), group)
}

fn no_member(user: &UserId, group: &GroupId) -> Status {
    Status::not_found(format!("{user} is no member of {group}"))
}

fn no_group(group: &GroupId) -> Status {
    Status::not_found(format!("there is no group {group}"))
}

fn group_id(group: &str) -> Result<GroupId, Status> {
    GroupId::new(group).map_err(|error| Status::invalid_argument(error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn pages_of_all_shards_have_each_group_once_in_order(
            shards in proptest::collection::vec(proptest::collection::btree_set(0..60u32, 0..20), 1..4), limit in 1..6usize,
        ) {
            let name = |number: u32, shard: usize| match number % 3 {
                0 => format!("g{number}.{shard}"),
                domain => format!("g{number}.{shard}@d{domain}.example"),
            };
            let names: Vec<Vec<String>> = shards.iter().enumerate().map(|(shard, numbers)| {
                let mut names: Vec<_> = numbers.iter().map(|number| name(*number, shard)).collect();
                names.sort_by(|one, other| order(one).cmp(&order(other)));
                names
            }).collect();
            let mut all = names.concat();
            all.sort_by(|one, other| order(one).cmp(&order(other)));
            let (mut listed, mut after) = (Vec::<String>::new(), String::new());
            loop {
                let read = names.iter().map(|names| {
                    let rest: Vec<_> = names.iter().filter(|name| after.is_empty() || order(name) > order(&after)).collect();
                    let row = |name: &&String| group_list::Row { group: (*name).clone(), row: None };
                    GroupList { groups: rest.iter().take(limit).map(row).collect(), complete: rest.len() <= limit }
                });
                let page = merged(read.collect(), limit);
                prop_assert!(page.groups.len() <= limit);
                listed.extend(page.groups.into_iter().map(|row| row.group));
                if page.next.is_empty() {
                    break;
                }
                after = page.next;
            }
            prop_assert_eq!(listed, all);
        }
    }
}
