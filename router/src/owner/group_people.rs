//! Users whom a change of a group names: their accounts, and the roles of those from beyond the border of the group's domain.

use carillon_proto::pb::store::{self, Person, User, members_read, store_request};

use super::{Continuation, Owner, unexpected};
use crate::{
    reply::Failure,
    store::{StoreAnswer, StoreFailure},
};

impl Owner {
    pub(super) fn person_read(&mut self, number: u64, at: usize, answer: Result<StoreAnswer, StoreFailure>) {
        let Some(changing) = self.changing.get_mut(&number) else { return };
        let (group, bans, takes_away) = (changing.message.group.clone(), changing.bans(), changing.takes_away());
        let Some(person) = changing.people_mut().get_mut(at) else { return };
        let name = person.user.clone();
        let is_beyond = takes_away && !self.topology.domains.allow_ids(&name, group.as_str());
        // Users who were never in the group hear nothing from beyond the border of their domain.
        let hears = !(is_beyond && bans);
        let failed = match answer {
            Ok(StoreAnswer::User(User { account: Some(account), allowed, .. })) if !account.deleted => {
                person.incarnation = account.incarnation;
                // A node of the release before says nothing of it.
                let opens = allowed.is_none_or(|allowed| allowed.groups);
                if opens && hears { None } else { changing.is_unwanted(name).err() }
            }
            // The answer is the same whether there is such a user beyond the border or not: the rows of the group decide.
            Ok(StoreAnswer::User(_)) if is_beyond && hears => None,
            Ok(StoreAnswer::User(_)) if is_beyond => changing.is_unwanted(name).err(),
            Ok(StoreAnswer::User(_)) => Some(Failure::NoUser(name)),
            other => Some(unexpected(other)),
        };
        self.read_for_change(number, failed);
    }

    /// Reads the present roles of these members, who may get no higher one. The sender learns no more by it than by reading the members.
    pub(super) fn read_roles(&mut self, number: u64, only: Vec<String>) {
        let Some(changing) = self.changing.get_mut(&number) else { return };
        changing.waits += 1;
        let (timeline, deadline) = (changing.message.timeline(), changing.deadline());
        let message = &changing.message;
        let reader = Person { user: message.sender.as_str().to_owned(), incarnation: message.incarnation };
        let (key, reader) = (Some(timeline.to_key()), Some(reader));
        let op = store::ReadMembers { timeline: key, reader, only, ..store::ReadMembers::default() };
        let shard = self.topology.shards.timeline_of(&timeline);
        let op = store_request::Op::ReadMembers(op);
        self.ask(shard, op, String::new(), deadline, Continuation::Roles(number));
    }

    pub(super) fn roles_read(&mut self, number: u64, answer: Result<StoreAnswer, StoreFailure>) {
        let Some(changing) = self.changing.get(&number) else { return };
        let role = changing.role();
        let gets_higher = |row: &members_read::Row| row.member.is_some_and(|member| role > Some(member.role()));
        let failed = match answer {
            Ok(StoreAnswer::MembersRead(read)) => {
                read.members.into_iter().find(gets_higher).map(|row| Failure::OtherDomain(row.user))
            }
            other => Some(unexpected(other)),
        };
        self.read_for_change(number, failed);
    }

    /// Notes that one of the reads for a change has its answer. After the last one the change goes on, or is refused.
    fn read_for_change(&mut self, number: u64, failed: Option<Failure>) {
        let Some(changing) = self.changing.get_mut(&number) else { return };
        changing.waits -= 1;
        changing.failed = changing.failed.take().or(failed);
        if changing.waits > 0 {
            return;
        }
        match changing.failed.take() {
            None => self.append_change(number),
            Some(failure) => {
                if let Some(changing) = self.changing.remove(&number) {
                    self.refuse(changing.message.slot, &failure);
                }
            }
        }
    }
}
