//! Groups of the small router: members and a log, without most of the rules of the real store.

use std::collections::BTreeMap;

use bytes::Bytes;
use carillon_proto::{
    GroupId, TimelineId,
    pb::{
        client::{
            Code, GroupChange, GroupCreated, GroupDeleted, GroupSettingsChange, MembersChange, Position, Recipient,
            Timeline, group_change::What, members_change::Kind, recipient::To, timeline::Owner,
        },
        link::{
            self, Accepted, ChangeGroup, Follow, FromRouter, Heads, Push, RawEnvelope, ReadTimeline, Refusal,
            TimelineHead, change_group::Change, router_reply::Result as Reply,
        },
        store::{
            self, GroupRead, Head, Member, MembersRead, Membership, MembershipsRead, Person, Role, TimelineRead,
            change_members::Change as Of, member::Standing, members_read, memberships_read,
        },
    },
};
use prost::Message as _;

use super::{State, Store, references};

pub(crate) const GROUP_EPOCH: u64 = 9;

#[derive(Default)]
pub(crate) struct Group {
    pub(crate) log: Vec<Bytes>,
    pub(crate) members: BTreeMap<String, Member>,
    settings: store::GroupSettings,
    is_deleted: bool,
}

pub(super) fn is_of_group(read: &ReadTimeline) -> bool {
    matches!(read.timeline.as_ref().and_then(|timeline| timeline.owner.as_ref()), Some(Owner::Group(_)))
}

fn timeline(group: &str) -> Timeline {
    Timeline { owner: Some(Owner::Group(group.to_owned())) }
}

fn refusal(code: Code) -> Reply {
    Reply::Refusal(Refusal { code: code.into(), reason: "refused".to_owned(), ..Refusal::default() })
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

impl Group {
    fn head(&self) -> Head {
        Head { epoch: GROUP_EPOCH, first: 1, last: self.log.len() as u64, ..Head::default() }
    }

    fn is_member(&self, user: &str) -> bool {
        self.members.get(user).is_some_and(|member| member.standing() == Standing::Member)
    }

    fn set(&mut self, user: &str, standing: Standing, role: Role, since_seq: u64) {
        let row = Member { standing: standing.into(), role: role.into(), since_seq, ..Member::default() };
        self.members.insert(user.to_owned(), row);
    }
}

impl Store {
    fn group(&self, name: &str) -> Option<&Group> {
        self.groups.get(name).filter(|group| !group.is_deleted)
    }
}

impl State {
    pub(super) fn follow(&self, lease: u64, follow: Follow) -> Reply {
        let mut store = self.store.lock();
        let followed = store.followed.entry(lease).or_default();
        followed.retain(|group| !follow.unfollow.contains(group));
        followed.extend(follow.groups.iter().cloned());
        let head = |name: &String| {
            let head = Some(store.group(name)?.head());
            Some(TimelineHead { timeline: Some(timeline(name)), head })
        };
        Reply::Heads(Heads { heads: follow.groups.iter().filter_map(head).collect() })
    }

    pub(super) fn send_to_group(&self, group: &Bytes, send: &link::Send) -> Reply {
        let (group, sender) = (text(group), text(&send.sender));
        if self.store.lock().group(&group).is_none_or(|known| !known.is_member(&sender)) {
            return refusal(Code::Forbidden);
        }
        let log = self.store.lock().group(&group).map(|known| known.log.clone()).unwrap_or_default();
        if let Some(refused) = self.refuses_reference(&log, send) {
            return refused;
        }
        let ids = [&send.sender, &send.sender_device, &send.client_id].map(text);
        self.say(&group, ids, send.content.clone(), Bytes::new(), send.connection)
    }

    /// Appends to the group's log, unless it is a repeat, and pushes it.
    fn say(&self, group: &str, ids: [String; 3], content: Bytes, change: Bytes, connection: u64) -> Reply {
        let key = (ids[0].clone(), ids[1].clone(), ids[2].clone());
        let [sender, sender_device, client_id] = ids;
        if let Some(first) = self.store.lock().seen.get(&key) {
            return Reply::Accepted(first.clone());
        }
        let envelope = RawEnvelope {
            id: client_id.clone(),
            sender,
            sender_device,
            to: Some(Recipient { to: Some(To::Group(group.to_owned())) }),
            client_id: client_id.clone(),
            time_ms: 1,
            content,
            change,
            ..Default::default()
        };
        let envelope = Bytes::from(envelope.encode_to_vec());
        let mut store = self.store.lock();
        let log = &mut store.groups.entry(group.to_owned()).or_default().log;
        log.push(envelope.clone());
        let position = Some(Position { epoch: GROUP_EPOCH, seq: log.len() as u64 });
        let accepted =
            Accepted { message_id: client_id, timeline: Some(timeline(group)), position, time_ms: 1, expires_at_ms: 0 };
        store.seen.insert(key, accepted.clone());
        let gateways: Vec<u64> =
            store.followed.iter().filter(|(_, groups)| groups.contains(group)).map(|(lease, _)| *lease).collect();
        drop(store);
        for lease in gateways {
            let push = Push {
                timeline: Some(timeline(group)),
                position,
                envelope: envelope.clone(),
                sender_connection: connection,
                ..Push::default()
            };
            self.tell(lease, FromRouter { pushes: vec![push], ..Default::default() });
        }
        Reply::Accepted(accepted)
    }

    pub(super) fn change_group(&self, asked: ChangeGroup) -> Reply {
        let (group, sender) = (text(&asked.group), text(&asked.sender));
        let change = asked.change.expect("a change");
        let exists = self.store.lock().group(&group).is_some();
        let key = (sender.clone(), text(&asked.sender_device), text(&asked.client_id));
        let repeats = self.store.lock().seen.contains_key(&key);
        match &change {
            Change::Create(_) if exists && !repeats => return refusal(Code::Exists),
            Change::Create(_) => {}
            _ if !exists => return refusal(Code::NotFound),
            Change::Members(members) if matches!(members.change(), Of::Join) => {}
            _ if !self.store.lock().groups[&group].is_member(&sender) => return refusal(Code::NotFound),
            _ => {}
        }
        let told = GroupChange { what: Some(told(&change)) }.encode_to_vec();
        let ids = [&asked.sender, &asked.sender_device, &asked.client_id].map(text);
        let accepted = self.say(&group, ids, Bytes::new(), told.into(), asked.connection);
        let mut store = self.store.lock();
        let known = store.groups.entry(group).or_default();
        let seq = known.log.len() as u64;
        let envelope = known.log.last().cloned().expect("just appended");
        let names = |people: &[Person]| people.iter().map(|person| person.user.clone()).collect::<Vec<_>>();
        let users = match change {
            _ if repeats => Vec::new(),
            Change::Create(create) => {
                known.settings = create.settings.unwrap_or_default();
                known.set(&sender, Standing::Member, Role::Owner, seq);
                let members = names(&create.members);
                members.iter().for_each(|user| known.set(user, Standing::Member, Role::Member, seq));
                [members, vec![sender]].concat()
            }
            Change::Members(members) => {
                let users = names(&members.users);
                for user in &users {
                    match members.change() {
                        Of::Join | Of::Add => known.set(user, Standing::Member, Role::Member, seq),
                        Of::Invite => known.set(user, Standing::Invited, Role::Unspecified, seq),
                        Of::Ban => known.set(user, Standing::Banned, Role::Unspecified, seq),
                        Of::Leave | Of::Remove | Of::Pardon => drop(known.members.remove(user)),
                        Of::Role | Of::Mute | Of::Unspecified => {}
                    }
                }
                users
            }
            Change::Set(_) => Vec::new(),
            Change::Delete(_) => {
                known.is_deleted = true;
                Vec::new()
            }
        };
        drop(store);
        for user in users {
            self.append(&user, &envelope, 0);
        }
        accepted
    }

    pub(super) fn read_group_log(&self, read: &ReadTimeline) -> Reply {
        let Some(Owner::Group(name)) = read.timeline.clone().and_then(|timeline| timeline.owner) else {
            panic!("no group")
        };
        let store = self.store.lock();
        let Some(group) = store.group(&name) else { return refusal(Code::NotFound) };
        let first = match group.members.get(&read.user) {
            _ if read.user.is_empty() => 1,
            Some(member) if member.standing() == Standing::Member && group.settings.earlier_history => 1,
            Some(member) if member.standing() == Standing::Member => member.since_seq,
            _ => return refusal(Code::NotFound),
        };
        let from = read.from_seq.max(first);
        let entries = references::entries(&group.log, read).into_iter().filter(|entry| entry.seq >= from);
        let entries = entries.take(read.limit as usize).collect();
        Reply::TimelineRead(TimelineRead { head: Some(Head { first, ..group.head() }), entries, complete: true })
    }

    pub(super) fn read_group(&self, read: &link::ReadGroup) -> Reply {
        let store = self.store.lock();
        let user = read.reader.as_ref().map_or("", |reader| &reader.user);
        let Some(group) = store.group(&read.group) else { return refusal(Code::NotFound) };
        let Some(row) = group.members.get(user).filter(|row| row.standing() != Standing::Banned) else {
            return refusal(Code::NotFound);
        };
        let members = group.members.values().filter(|row| row.standing() == Standing::Member).count() as u32;
        Reply::GroupRead(Box::new(GroupRead {
            group: Some(store::Group { settings: Some(group.settings.clone()), members, ..Default::default() }),
            incarnation: 0,
            head: Some(group.head()),
            reader: Some(*row),
            writes: false,
        }))
    }

    pub(super) fn read_members(&self, read: &link::ReadMembers) -> Reply {
        let store = self.store.lock();
        let Some(group) = store.group(&read.group) else { return refusal(Code::NotFound) };
        let members = group.members.iter().filter(|(_, row)| row.standing() == Standing::Member);
        let row = |(user, row): (&String, &Member)| members_read::Row { user: user.clone(), member: Some(*row) };
        Reply::MembersRead(MembersRead { members: members.map(row).collect(), complete: true })
    }

    pub(super) fn read_memberships(&self, read: &link::ReadMemberships) -> Reply {
        let store = self.store.lock();
        let mut names: Vec<&String> = store.groups.keys().filter(|name| store.group(name).is_some()).collect();
        names.sort();
        let row = |name: &String| {
            let member = store.groups[name].members.get(&read.user)?;
            let membership = Membership {
                seq: member.since_seq,
                standing: member.standing,
                role: member.role,
                ..Membership::default()
            };
            let cursor = store.group_cursors.get(&(read.user.clone(), read.device.clone(), name.clone()));
            Some(memberships_read::Row {
                group: Some(TimelineId::Group(GroupId::new(name).expect("valid")).to_key()),
                membership: Some(membership),
                epoch: cursor.map(|_| GROUP_EPOCH),
                seq: cursor.copied().unwrap_or(0),
            })
        };
        let memberships = names.into_iter().filter_map(row).collect();
        Reply::MembershipsRead(MembershipsRead { memberships, complete: true })
    }
}

fn told(change: &Change) -> What {
    let names = |people: &[Person]| people.iter().map(|person| person.user.clone()).collect();
    match change {
        Change::Create(create) => What::Created(GroupCreated { settings: None, members: names(&create.members) }),
        Change::Set(set) => What::Set(GroupSettingsChange { name: set.name.clone(), ..Default::default() }),
        Change::Members(members) => {
            let kind = match members.change() {
                Of::Unspecified => Kind::Unspecified,
                Of::Join => Kind::Joined,
                Of::Leave => Kind::Left,
                Of::Add => Kind::Added,
                Of::Invite => Kind::Invited,
                Of::Remove => Kind::Removed,
                Of::Ban => Kind::Banned,
                Of::Pardon => Kind::Pardoned,
                Of::Role => Kind::Role,
                Of::Mute => Kind::Muted,
            };
            What::Members(MembersChange { kind: kind.into(), users: names(&members.users), ..Default::default() })
        }
        Change::Delete(_) => What::Deleted(GroupDeleted {}),
    }
}
