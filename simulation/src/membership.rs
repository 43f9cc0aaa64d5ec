//! What groups promise, and what has been seen of it.

use std::collections::BTreeMap;

use carillon_proto::{
    GroupId, ShardKind, TimelineId, UserId,
    pb::{
        client::{Envelope, Role, group_change::What},
        link,
        store::{
            self, Append, Appended, ChangeGroup, EndTimeline, OutboxRow, Person, ReadMembers, ReadMemberships,
            ReadOutbox, ReadTimeline, StoredEntry, change_group::Change, change_members::Change as OfMembers,
            member::Standing, members_read, outbox_row::Task, store_reply::Result as Outcome, store_request::Op,
        },
    },
};
use prost::{Message as _, bytes::Bytes};

use crate::{
    audience::Members,
    clients::user_name,
    model::{Entry, owner_of},
    recalls,
    store::MAP,
    world::World,
};

/// A group that there is, or what is left of one that was deleted.
#[derive(Default)]
pub(crate) struct Group {
    pub(crate) epoch: u64,
    incarnation: u64,
    is_deleted: bool,
    pub(crate) entries: Vec<Entry>,
    /// The members after each entry.
    pub(crate) members_after: Vec<Members>,
    /// Members and banned users, each with its account and the position since which that is so.
    people: BTreeMap<String, (Standing, u64, u64)>,
}

impl Group {
    /// Somebody else, if this user is banned.
    pub(crate) fn instead_of(&self, user: &str) -> Option<Person> {
        self.people.get(user).filter(|row| row.0 == Standing::Banned)?;
        let (user, row) = self.people.iter().find(|(_, row)| row.0 == Standing::Member)?;
        Some(Person { user: user.clone(), incarnation: row.1 })
    }

    /// True if the user may be an admin when this entry comes: it has made the group, or who has done so has left meanwhile and passed it on.
    pub(crate) fn may_lead(&self, seq: u64, user: &str) -> bool {
        let Some(founder) = self.entries.first().map(|entry| (entry.envelope.sender.clone(), entry.by)) else {
            return false;
        };
        let stays = self.members_after[..seq as usize - 1].iter().all(|members| members.contains(&founder));
        !stays || founder.0 == user
    }

    pub(crate) fn is_member(&self, user: &str) -> bool {
        !self.is_deleted && self.people.get(user).is_some_and(|row| row.0 == Standing::Member)
    }

    /// The append has this place; it may be a repetition.
    fn takes(&mut self, append: &Append, appended: &Appended) -> Result<bool, String> {
        let name = owner_of(append.timeline.as_ref());
        let Appended { epoch, seq, first_envelope, .. } = appended;
        if *epoch != self.epoch {
            return Err(format!("{name} is of epoch {epoch} after {}", self.epoch));
        }
        if !first_envelope.is_empty() {
            let is = |seq: u64, envelope: &Bytes| {
                self.entries.get(seq as usize - 1).is_some_and(|entry| entry.was_answered(envelope))
            };
            let heir = &appended.heir_envelope;
            return if is(*seq, first_envelope) && (heir.is_empty() || is(*seq + 1, heir)) {
                Ok(false)
            } else {
                Err(format!("{name} was answered with another message"))
            };
        }
        if *seq != self.entries.len() as u64 + 1 {
            return Err(format!("{name} has position {seq} after {}", self.entries.len()));
        }
        let envelope = Envelope::decode(append.envelope.clone()).map_err(|error| error.to_string())?;
        let is_double = |entry: &Entry| {
            !envelope.sender.is_empty()
                && (&entry.envelope.sender, &entry.envelope.client_id) == (&envelope.sender, &envelope.client_id)
        };
        // Numbers of an earlier owner of the name come again.
        if self.entries.iter().any(|entry| is_double(entry) && entry.envelope.id == envelope.id) {
            return Err(format!("{} of {} is in {name} twice", envelope.client_id, envelope.sender));
        }
        let (by, envelope_sender) = (append.sender_incarnation, envelope.sender.clone());
        self.entries.push(Entry {
            envelope,
            bytes: append.envelope.clone(),
            by,
            is_gone: false,
            is_recalled: false,
            media: Vec::new(),
        });
        let leads = self.may_lead(*seq, &envelope_sender);
        recalls::note(&mut self.entries, leads);
        let members = self.members_after.last().cloned().unwrap_or_default();
        self.members_after.push(members);
        Ok(true)
    }

    /// The account of the last owner has ended, and this envelope behind that of the change makes another member the owner.
    fn falls_to(&mut self, envelope: &Bytes) -> Result<(), String> {
        let heir = Envelope::decode(envelope.clone()).map_err(|error| error.to_string())?;
        let users = match heir.change.as_ref().and_then(|change| change.what.as_ref()) {
            Some(What::Members(members)) if members.role() == Role::Owner => &members.users[..],
            _ => &[],
        };
        let [user] = users else { return Err(format!("{heir:?} makes nobody an owner")) };
        if !self.is_member(user) {
            return Err(format!("{user}, who is no member, is made an owner"));
        }
        self.entries.push(Entry {
            envelope: heir,
            bytes: envelope.clone(),
            by: 0,
            is_gone: false,
            is_recalled: false,
            media: Vec::new(),
        });
        self.members_after.push(self.members_after.last().cloned().unwrap_or_default());
        Ok(())
    }

    /// The last entry has changed who is a member.
    fn members_changed(&mut self) {
        let members = self.people.iter().filter(|(_, row)| row.0 == Standing::Member && !self.is_deleted);
        let members = members.map(|(user, row)| (user.clone(), row.1)).collect();
        if let Some(last) = self.members_after.last_mut() {
            *last = members;
        }
    }
}

/// Groups by their names, and those that had the names before, with their epochs.
#[derive(Default)]
pub(crate) struct Groups(pub(crate) BTreeMap<String, Group>, BTreeMap<(String, u64), Group>);

impl Groups {
    pub(crate) fn of_epoch(&self, name: &str, epoch: u64) -> Option<&Group> {
        let now = self.0.get(name).filter(|group| group.epoch == epoch);
        now.or_else(|| self.1.get(&(name.to_owned(), epoch)))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = ((&str, u64), &Group)> {
        let now = self.0.iter().map(|(name, group)| ((name.as_str(), group.epoch), group));
        now.chain(self.1.iter().map(|((name, epoch), group)| ((name.as_str(), *epoch), group)))
    }

    pub(crate) fn message(&mut self, append: &Append, appended: &Appended) -> Result<(), String> {
        let name = owner_of(append.timeline.as_ref()).to_owned();
        let group = self.0.get_mut(&name).ok_or_else(|| format!("{name} has a message, and was never made"))?;
        if group.takes(append, appended)? {
            let sender = &group.entries.last().expect("was taken").envelope.sender;
            if !group.is_member(sender) {
                return Err(format!("a message of {sender}, who is no member, stands in {name}: {:?}", group.people));
            }
        }
        Ok(())
    }

    pub(crate) fn change(&mut self, op: &ChangeGroup, appended: &Appended) -> Result<(), String> {
        let append = op.append.as_ref().ok_or("a change without an envelope")?;
        let name = owner_of(append.timeline.as_ref()).to_owned();
        let change = op.change.as_ref().ok_or("a change without a change")?;
        let is_new = matches!(change, Change::Create(_)) && appended.first_envelope.is_empty();
        if is_new {
            let (epoch, incarnation) = (appended.epoch, appended.incarnation);
            let before = self.0.insert(name.clone(), Group { epoch, incarnation, ..Group::default() });
            self.1.extend(before.map(|before| ((name.clone(), before.epoch), before)));
        }
        let group = self.0.get_mut(&name).ok_or_else(|| format!("{name} was changed, and was never made"))?;
        if !group.takes(append, appended)? {
            return Ok(());
        }
        let sender = Person {
            user: String::from_utf8_lossy(&append.sender).into_owned(),
            incarnation: append.sender_incarnation,
        };
        if !op.by_operator
            && !is_new
            && !matches!(change, Change::Members(op) if op.change() == OfMembers::Join)
            && !group.is_member(&sender.user)
        {
            return Err(format!("{name} was changed by {}, who is no member", sender.user));
        }
        let seq = appended.seq;
        let mut stand = |person: &Person, standing| {
            group.people.insert(person.user.clone(), (standing, person.incarnation, seq));
        };
        match change {
            Change::Create(create) => {
                create.members.iter().chain([&sender]).for_each(|person| stand(person, Standing::Member));
            }
            Change::Members(op) => {
                for person in &op.users {
                    let was_banned = matches!(group.people.get(&person.user), Some((Standing::Banned, of, _)) if *of == person.incarnation);
                    match op.change() {
                        OfMembers::Join | OfMembers::Add if was_banned => {
                            return Err(format!("{} is banned from {name}, and came in", person.user));
                        }
                        OfMembers::Join | OfMembers::Add => {
                            group.people.insert(person.user.clone(), (Standing::Member, person.incarnation, seq));
                        }
                        OfMembers::Ban => {
                            group.people.insert(person.user.clone(), (Standing::Banned, person.incarnation, seq));
                        }
                        OfMembers::Leave | OfMembers::Remove | OfMembers::Pardon => {
                            group.people.remove(&person.user);
                        }
                        // The model has no invitations and no roles.
                        OfMembers::Invite | OfMembers::Role | OfMembers::Mute | OfMembers::Unspecified => {}
                    }
                }
                group.is_deleted = group.people.values().all(|row| row.0 != Standing::Member);
            }
            Change::Delete(_) => group.is_deleted = true,
            Change::Set(_) => {}
        }
        group.members_changed();
        if appended.heir_envelope.is_empty() { Ok(()) } else { group.falls_to(&appended.heir_envelope) }
    }

    /// The remains of a deleted group go.
    pub(crate) fn ends(&self, op: &EndTimeline) -> Result<(), String> {
        let name = owner_of(op.timeline.as_ref());
        match self.0.get(name) {
            Some(group) if group.incarnation < op.incarnation && !group.is_deleted => {
                Err(format!("{name} ended, and was not deleted"))
            }
            _ => Ok(()),
        }
    }

    /// A router says that a message to a group is accepted, or a change of one.
    pub(crate) fn accepted(&self, group: &GroupId, accepted: &link::Accepted) -> Result<(), String> {
        let position = accepted.position.unwrap_or_default();
        let Some(known) = self.0.get(group.as_str()) else { return Err(format!("{group} does not exist")) };
        let entry = known.entries.get((position.seq as usize).wrapping_sub(1));
        match entry {
            // Another group bears the name by now.
            _ if known.epoch != position.epoch => Ok(()),
            Some(entry) if entry.envelope.id == accepted.message_id => Ok(()),
            _ => Err(format!("{group} has something else at {}", position.seq)),
        }
    }
}

impl World<'_> {
    /// The first row that workers have not done yet.
    pub(crate) fn outboxes(&self) -> Option<String> {
        let timelines = MAP.all().filter(|shard| shard.kind == ShardKind::Timeline);
        let waiting = timelines.filter_map(|shard| {
            let read = self.cluster.read(shard, &Op::ReadOutbox(ReadOutbox { limit: 1000, ..ReadOutbox::default() }));
            let Outcome::OutboxRead(read) = read else { return None };
            // There is no place for bytes: those rows wait for ever, and hold up no other ones.
            let is_removal = |row: &OutboxRow| matches!(row.task, Some(Task::RemoveObjects(_)));
            let row = read.rows.iter().filter_map(|row| row.row.as_ref()).find(|row| !is_removal(row))?;
            Some(format!("the outbox of {shard} is not empty: {:?}, {} failures {}", row.task, row.failures, row.why))
        });
        waiting.reduce(|all, next| format!("{all}, {next}"))
    }

    /// Rows of groups and of inboxes say the same, nobody is a member who does not exist, and each member reads everything from its
    /// joining on.
    pub(crate) fn check_groups(&self) -> Result<(), String> {
        for (name, group) in &self.model.groups.0 {
            let timeline = TimelineId::Group(GroupId::new(name).expect("valid"));
            let shard = MAP.timeline_of(&timeline);
            let read = ReadMembers { timeline: Some(timeline.to_key()), ..ReadMembers::default() };
            let found = match self.cluster.read(shard, &Op::ReadMembers(read)) {
                Outcome::MembersRead(read) => read.members,
                _ => Vec::new(),
            };
            let is_owner =
                |row: &members_read::Row| row.member.is_some_and(|member| member.role() == store::Role::Owner);
            if !found.is_empty() && !found.iter().any(is_owner) {
                return Err(format!("{name} has members, and no owner: {found:?}"));
            }
            let found: Vec<_> =
                found.into_iter().map(|row| (row.user, row.member.map_or(0, |member| member.incarnation))).collect();
            let members = group.people.iter().filter(|(_, row)| row.0 == Standing::Member && !group.is_deleted);
            let expected: Vec<_> = members.map(|(user, (_, incarnation, _))| (user.clone(), *incarnation)).collect();
            if found != expected {
                return Err(format!("the members of {name} are {found:?}, not {expected:?}"));
            }
            for (user, incarnation) in expected {
                if self.model.owner(&user) != Some(incarnation) {
                    return Err(format!("{user} is a member of {name}, and does not exist any more"));
                }
                let reader = Some(Person { user: user.clone(), incarnation });
                let read = ReadTimeline { timeline: Some(timeline.to_key()), reader, ..ReadTimeline::default() };
                let Outcome::TimelineRead(read) = self.cluster.read(shard, &Op::ReadTimeline(read)) else {
                    return Err(format!("{user} can't read {name}"));
                };
                let since = group.people[&user].2;
                let entries = group.entries.iter().zip(1..).skip(since as usize - 1);
                let expected: Vec<_> = entries
                    .map(|(entry, seq)| StoredEntry { seq, envelope: entry.stored(), ..Default::default() })
                    .collect();
                if read.entries != expected {
                    return Err(format!(
                        "{user} reads something else in {name} than what was written since position {since}"
                    ));
                }
            }
        }
        (0..self.scenario.users).try_for_each(|user| self.check_memberships(&user_name(user)))
    }

    fn check_memberships(&self, user: &str) -> Result<(), String> {
        let incarnation = self.model.owner(user).unwrap_or_default();
        let timeline = TimelineId::Inbox(UserId::new(user).expect("valid"));
        let read = ReadMemberships { timeline: Some(timeline.to_key()), incarnation, ..ReadMemberships::default() };
        let found = match self.cluster.read(MAP.timeline_of(&timeline), &Op::ReadMemberships(read)) {
            Outcome::MembershipsRead(read) => read.memberships,
            _ => Vec::new(),
        };
        let found: Vec<_> = found.iter().map(|row| owner_of(row.group.as_ref()).to_owned()).collect();
        let groups = self.model.groups.0.iter();
        let is_in =
            |group: &Group| group.is_member(user) && group.people.get(user).is_some_and(|row| row.1 == incarnation);
        let expected: Vec<_> = groups.filter(|(_, group)| is_in(group)).map(|(name, _)| name.clone()).collect();
        if found == expected { Ok(()) } else { Err(format!("{user} is told of {found:?}, and is in {expected:?}")) }
    }
}
