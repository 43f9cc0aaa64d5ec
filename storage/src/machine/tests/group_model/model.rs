//! A shard with groups in memory, as it should be.

use std::collections::BTreeMap;

use bytes::Bytes;
use carillon_proto::{
    DuplicateKey, MessageId,
    pb::{
        client::{
            self, Envelope, GroupChange, MembersChange, Recipient, group_change::What, members_change::Kind,
            recipient::To,
        },
        store::{
            Append, Appended, ChangeGroup, ChangeMembers, EndTimeline, GroupSettings, Person, Role, SetMembership,
            SweepMemberships, TellMembers, TimelineCommand, TimelineKey, change_group::Change,
            change_members::Change as OfMembers, member::Standing, rejected::Reason, tell_members::Told,
            timeline_command::Op, timeline_key,
        },
    },
};
use prost::Message as _;

use super::{commands::key, outbox::Outbox, reason};
use crate::machine::Outcome;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) incarnation: u64,
    pub(super) standing: Standing,
    pub(super) role: Role,
    pub(super) since: u64,
    muted_until_ms: u64,
    wrote_ms: u64,
    /// An invitation of which the user was not told.
    untold: bool,
}

#[derive(Default, Clone)]
pub(super) struct Group {
    pub(super) incarnation: u64,
    /// 0: there is none.
    pub(super) epoch: u64,
    pub(super) last: u64,
    pub(super) settings: GroupSettings,
    pub(super) rows: BTreeMap<String, Row>,
    /// In the keys of the shard.
    pub(super) number: u64,
    pub(super) known: BTreeMap<Vec<u8>, u64>,
    /// Envelopes that made somebody the owner, by the keys of the changes before them.
    heirs: BTreeMap<Vec<u8>, Bytes>,
    pub(super) deleted: bool,
}

#[derive(Default)]
pub(super) struct Inbox {
    pub(super) incarnation: u64,
    /// 0: there is none.
    number: u64,
    pub(super) last: u64,
    known: BTreeMap<Vec<u8>, u64>,
    /// By group: incarnation, position and standing.
    pub(super) memberships: BTreeMap<String, (u64, u64, Standing)>,
}

#[derive(Default)]
pub(super) struct Model {
    groups: BTreeMap<String, Group>,
    pub(super) inboxes: BTreeMap<String, Inbox>,
    pub(super) outbox: Outbox,
    /// Timelines that have begun.
    numbers: u64,
}

impl Group {
    pub(super) fn lives(&self) -> bool {
        self.epoch != 0 && !self.deleted
    }

    pub(super) fn row(&self, person: &Person) -> Option<&Row> {
        self.rows.get(&person.user).filter(|row| row.incarnation == person.incarnation)
    }

    /// Slow mode aside.
    pub(super) fn refuses_to_write(&self, row: Option<&Row>, time_ms: u64) -> Option<Reason> {
        match row.filter(|row| row.standing == Standing::Member) {
            None => Some(Reason::NotFound),
            Some(row) if row.role == Role::Reader => Some(Reason::Forbidden),
            Some(row) if row.role == Role::Member && self.settings.announcements => Some(Reason::Forbidden),
            Some(row) if time_ms < row.muted_until_ms => Some(Reason::Forbidden),
            Some(_) => None,
        }
    }

    fn member(&self, person: &Person) -> Option<&Row> {
        self.row(person).filter(|row| row.standing == Standing::Member)
    }

    /// The member to whom the group falls.
    fn heir(&self, time_ms: u64) -> String {
        let place = |row: &Row| match row.role {
            Role::Admin => 0,
            Role::Member if row.muted_until_ms <= time_ms => 1,
            _ => 2,
        };
        let members = self.rows.iter().filter(|(_, row)| row.standing == Standing::Member);
        let mut members: Vec<_> = members.map(|(user, row)| (place(row), row.since, user.clone())).collect();
        members.sort();
        members.remove(0).2
    }

    fn falls_to(&mut self, heir: &str, append: &Append, outcome: &Outcome) {
        self.rows.get_mut(heir).expect("a member").role = Role::Owner;
        let Outcome::Appended(appended) = outcome else { panic!("{outcome:?}") };
        let key = DuplicateKey(append.duplicate_key.to_vec().try_into().expect("16 bytes"));
        let envelope = Envelope::decode(appended.heir_envelope.clone()).expect("decodes");
        let (kind, role) = (Kind::Role.into(), client::Role::Owner.into());
        let told = MembersChange { kind, role, users: vec![heir.to_owned()], ..MembersChange::default() };
        let to = Some(Recipient { to: Some(To::Group(name_of(&append.timeline))) });
        let expected = Envelope {
            id: MessageId::of(append.time_ms, key.of_heir()).to_string(),
            to,
            time_ms: append.time_ms,
            change: Some(Box::new(GroupChange { what: Some(What::Members(told)) })),
            ..Envelope::default()
        };
        assert_eq!(envelope, expected);
        self.last += 1;
        self.known.insert(key.of_heir().0.to_vec(), self.last);
        self.heirs.insert(append.duplicate_key.to_vec(), appended.heir_envelope.clone());
    }

    fn owners(&self) -> usize {
        self.rows.values().filter(|row| row.standing == Standing::Member && row.role == Role::Owner).count()
    }
}

impl Model {
    pub(super) fn get(&self, name: &str) -> Option<&Group> {
        self.groups.get(name).filter(|group| group.epoch != 0)
    }

    /// Checks what was answered, and follows what was done.
    pub(super) fn follow(&mut self, index: u64, command: &TimelineCommand, outcome: &Outcome) {
        self.outbox.is_at(index);
        match command.op.as_ref().expect("an operation") {
            Op::Append(op) => self.message(op, outcome),
            Op::ChangeGroup(op) => self.change(op, outcome),
            Op::SetMembership(op) => self.membership(op, outcome),
            Op::SettleOutbox(op) => self.outbox.settle(op),
            Op::SweepMemberships(op) => self.sweep(op),
            Op::EndTimeline(op) if op.timeline.as_ref().is_some_and(|key| key.kind() == timeline_key::Kind::Inbox) => {
                self.end_inbox(op);
            }
            Op::EndTimeline(op) => {
                let group = self.groups.entry(name_of(&op.timeline)).or_default();
                if group.incarnation < op.incarnation {
                    *group = Group { incarnation: op.incarnation, ..Group::default() };
                }
            }
            _ => {}
        }
    }

    /// True if this was said before, and answered as then.
    fn is_repeated(group: &Group, op: &Append, is_change: bool, outcome: &Outcome) -> bool {
        let Some(seq) = group.known.get(&*op.duplicate_key) else { return false };
        let first_envelope = vec![op.duplicate_key[0]; 8].into();
        let heir_envelope = group.heirs.get(&*op.duplicate_key).filter(|_| is_change).cloned().unwrap_or_default();
        let incarnation = if is_change { group.incarnation } else { 0 };
        let (epoch, seq) = (group.epoch, *seq);
        let expected = Appended { epoch, seq, first_envelope, incarnation, heir_envelope, ..Appended::default() };
        assert_eq!(*outcome, Outcome::Appended(expected));
        true
    }

    fn message(&mut self, op: &Append, outcome: &Outcome) {
        let group = self.groups.entry(name_of(&op.timeline)).or_default();
        if group.epoch != 0 && Self::is_repeated(group, op, false, outcome) {
            return;
        }
        let writer = sender_of(op);
        let row = group.member(&writer).filter(|_| group.lives());
        let slow_mode_ms = group.settings.slow_mode_ms;
        let expected = match row {
            _ if op.only_repeat => Some(Reason::NotFound),
            _ if op.group_incarnation.is_some_and(|wanted| wanted != group.incarnation) => Some(Reason::NotFound),
            row if group.refuses_to_write(row, op.time_ms).is_some() => group.refuses_to_write(row, op.time_ms),
            Some(row) if row.role == Role::Member && row.wrote_ms.abs_diff(op.time_ms) < slow_mode_ms.into() => {
                Some(Reason::TooEarly)
            }
            _ => None,
        };
        assert_eq!(reason(outcome), expected, "{op:?} to {:?}", group.rows);
        if expected.is_some() {
            return;
        }
        if slow_mode_ms > 0
            && let Some(row) = group.rows.get_mut(&writer.user).filter(|row| row.role == Role::Member)
        {
            row.wrote_ms = op.time_ms;
        }
        appended(group, op, 0, outcome);
    }

    fn change(&mut self, op: &ChangeGroup, outcome: &Outcome) {
        let append = op.append.as_ref().expect("has one");
        let group = self.groups.entry(name_of(&append.timeline)).or_default();
        if group.epoch != 0 && Self::is_repeated(group, append, true, outcome) {
            return;
        }
        let done = matches!(outcome, Outcome::Appended(_));
        let actor = sender_of(append);
        let change = op.change.as_ref().expect("has one");
        assert!(!append.only_repeat || !done);
        if let Change::Create(create) = change {
            let expected = if append.only_repeat { Some(Reason::NotFound) } else { Some(Reason::Exists) };
            let expected = expected.filter(|_| append.only_repeat || group.epoch != 0);
            assert_eq!(reason(outcome), expected);
            if expected.is_none() {
                self.numbers += 1;
                *group = Group { incarnation: group.incarnation, number: self.numbers, ..Group::default() };
                group.settings = create.settings.clone().expect("has some");
                let owner = (!op.by_operator).then_some((&actor, Role::Owner));
                let members = create.members.iter().map(|member| (member, Role::Member));
                let mut told = Vec::new();
                for (person, role) in owner.into_iter().chain(members) {
                    let (incarnation, standing) = (person.incarnation, Standing::Member);
                    let row =
                        Row { incarnation, standing, role, since: 1, muted_until_ms: 0, wrote_ms: 0, untold: false };
                    told.push(of(person, standing, role));
                    group.rows.insert(person.user.clone(), row);
                }
                let incarnation = group.incarnation;
                appended(group, append, incarnation, outcome);
                self.outbox.tell(tells(group, append, told), append.time_ms);
            }
            return;
        }
        assert!(!done || group.lives(), "{op:?}");
        let least = match change {
            Change::Set(_) => Role::Admin,
            Change::Delete(_) => Role::Owner,
            Change::Members(_) | Change::Create(_) => Role::Unspecified,
        };
        let rank = group.member(&actor).map(|row| row.role);
        let (mut told, mut heir) = (Vec::new(), None);
        if let Change::Members(members) = change {
            let mut after = Group { last: group.last + 1, ..group.clone() };
            members.users.iter().for_each(|person| stand(&mut after, members, person));
            after.last = group.last;
            let is_empty = after.rows.values().all(|row| row.standing != Standing::Member);
            let has_lost_its_owners = group.owners() > 0 && after.owners() == 0 && !is_empty;
            let is_of_ended = |person: &Person| {
                let row = group.rows.get(&person.user);
                row.is_some_and(|row| row.role == Role::Owner && row.incarnation < person.incarnation)
            };
            let owner_has_ended =
                members.users.iter().any(is_of_ended) || op.by_operator && members.change() == OfMembers::Leave;
            let has_owner = !has_lost_its_owners || owner_has_ended;
            let allowed = group.lives() && has_owner && may(group, members, &actor, op.by_operator);
            assert_eq!(done, allowed && !append.only_repeat, "{op:?} in {:?}: {outcome:?}", group.rows);
            if done {
                let takes_away = [OfMembers::Leave, OfMembers::Remove, OfMembers::Ban];
                after.deleted = is_empty && takes_away.contains(&members.change());
                if has_lost_its_owners && owner_has_ended {
                    heir = Some(after.heir(append.time_ms));
                }
                let before = std::mem::replace(group, after);
                told = who_is_told(&before, group, members);
            }
        } else if !append.only_repeat && group.lives() {
            assert_eq!(done, op.by_operator || rank >= Some(least), "{op:?} in {:?}", group.rows);
            if done {
                match change {
                    Change::Set(set) => crate::machine::groups::set(&mut group.settings, set),
                    _ => group.deleted = true,
                }
            }
        }
        if done {
            let incarnation = group.incarnation;
            appended_with(group, append, incarnation, outcome, heir.is_some());
            self.outbox.tell(tells(group, append, told), append.time_ms);
            if let Some(heir) = heir {
                group.falls_to(&heir, append, outcome);
            }
        }
    }

    fn membership(&mut self, op: &SetMembership, outcome: &Outcome) {
        let (append, membership) = (op.append.as_ref().expect("has one"), op.membership.expect("has one"));
        let (user, group) = (name_of(&append.timeline), name_of(&op.group));
        let inbox = self.inboxes.entry(user.clone()).or_default();
        if append.incarnation < inbox.incarnation {
            return assert_eq!(reason(outcome), Some(Reason::Gone));
        }
        let now = (membership.incarnation, membership.seq, membership.standing());
        if inbox.number == 0 || inbox.incarnation != append.incarnation {
            let left = std::mem::take(inbox);
            self.outbox.leave(&user, left.incarnation, left.memberships);
            self.numbers += 1;
            (inbox.number, inbox.incarnation) = (self.numbers, append.incarnation);
        }
        let before = inbox.memberships.get(&group).map(|known| (known.0, known.1));
        let is_later = before.is_none_or(|before| before < (now.0, now.1));
        if let Some(seq) = inbox.known.get(&*append.duplicate_key) {
            assert!(matches!(outcome, Outcome::Appended(appended) if appended.seq == *seq));
            if before.is_some() && is_later {
                inbox.memberships.insert(group, now);
            }
            return;
        }
        if !is_later {
            return assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
        }
        inbox.last += 1;
        assert!(matches!(outcome, Outcome::Appended(appended) if appended.seq == inbox.last), "{outcome:?}");
        inbox.known.insert(append.duplicate_key.to_vec(), inbox.last);
        inbox.memberships.insert(group, now);
    }

    fn end_inbox(&mut self, op: &EndTimeline) {
        let user = name_of(&op.timeline);
        let inbox = self.inboxes.entry(user.clone()).or_default();
        if inbox.incarnation < op.incarnation {
            let ended = std::mem::replace(inbox, Inbox { incarnation: op.incarnation, ..Inbox::default() });
            self.outbox.leave(&user, ended.incarnation, ended.memberships);
        }
    }

    fn sweep(&mut self, op: &SweepMemberships) {
        for seen in &op.rows {
            let group = name_of(&seen.group);
            for inbox in self.inboxes.values_mut().filter(|inbox| inbox.number == seen.number) {
                inbox.memberships.retain(|of, (incarnation, seq, standing)| {
                    let is_it = *of == group && (*incarnation, *seq) == (seen.incarnation, seen.seq);
                    !is_it || *standing == Standing::Member
                });
            }
        }
    }
}

fn of(person: &Person, standing: Standing, role: Role) -> Told {
    Told { person: Some(person.clone()), standing: standing.into(), role: role.into() }
}

/// As the rows are after the change. Changes of members' roles and muting are read in the group.
fn who_is_told(before: &Group, group: &Group, op: &ChangeMembers) -> Vec<Told> {
    if matches!(op.change(), OfMembers::Role | OfMembers::Mute) {
        return Vec::new();
    }
    let told = |person: &Person| {
        let row = group.rows.get(&person.user);
        let (standing, role) = row.map_or((Standing::Left, Role::Unspecified), |row| (row.standing, row.role));
        of(person, standing, role)
    };
    let does_hear = |person: &&Person| {
        let row = before.row(person);
        let has = |standing| row.is_some_and(|row| row.standing == standing);
        if op.change() == OfMembers::Join || has(Standing::Member) {
            return true;
        }
        let ends_invitation =
            has(Standing::Invited) && matches!(op.change(), OfMembers::Leave | OfMembers::Remove | OfMembers::Ban);
        if ends_invitation { row.is_some_and(|row| !row.untold) } else { !op.unwanted.contains(&person.user) }
    };
    op.users.iter().filter(does_hear).map(told).collect()
}

fn tells(group: &Group, append: &Append, told: Vec<Told>) -> TellMembers {
    let Group { number, incarnation, last, deleted, .. } = group;
    let group = Some(key(&name_of(&append.timeline)));
    TellMembers {
        group,
        number: *number,
        incarnation: *incarnation,
        seq: *last,
        told,
        ends: *deleted,
        sender_generation: append.sender_generation,
    }
}

fn appended(group: &mut Group, op: &Append, incarnation: u64, outcome: &Outcome) {
    appended_with(group, op, incarnation, outcome, false);
}

/// `heir`: behind it stands the envelope that makes another member the owner.
fn appended_with(group: &mut Group, op: &Append, incarnation: u64, outcome: &Outcome, heir: bool) {
    if group.epoch == 0 {
        group.epoch = op.new_epoch;
    }
    group.last += 1;
    group.known.insert(op.duplicate_key.to_vec(), group.last);
    let heir_envelope = match outcome {
        Outcome::Appended(appended) if heir => appended.heir_envelope.clone(),
        _ => Bytes::new(),
    };
    let (epoch, seq) = (group.epoch, group.last);
    let expected = Appended { epoch, seq, incarnation, heir_envelope, ..Appended::default() };
    assert_eq!(*outcome, Outcome::Appended(expected));
}

/// docs/protocol.md, "Groups": who may do what.
fn may(group: &Group, op: &ChangeMembers, actor: &Person, by_operator: bool) -> bool {
    let own = group.member(actor).map_or(Role::Unspecified, |row| row.role);
    let is_admin = own >= Role::Admin || by_operator;
    op.users.iter().all(|person| {
        let row = group.row(person);
        let standing = row.map_or(Standing::Unspecified, |row| row.standing);
        let role = group.member(person).map(|row| row.role);
        let is_below = by_operator || role.is_none_or(|role| role < own);
        let is_new = !matches!(standing, Standing::Member | Standing::Banned);
        match op.change() {
            OfMembers::Unspecified => false,
            OfMembers::Join => {
                let has_link = !group.settings.link.is_empty() && op.link == group.settings.link;
                person == actor && is_new && (standing == Standing::Invited || group.settings.open || has_link)
            }
            OfMembers::Leave => {
                (person == actor || by_operator) && matches!(standing, Standing::Member | Standing::Invited)
            }
            OfMembers::Add => is_new && (is_admin || group.settings.members_add && own >= Role::Member),
            OfMembers::Invite => {
                let adds = is_admin || group.settings.members_add && own >= Role::Member;
                is_new && standing != Standing::Invited && adds
            }
            OfMembers::Remove => is_admin && is_below && matches!(standing, Standing::Member | Standing::Invited),
            OfMembers::Ban => is_admin && is_below && standing != Standing::Banned,
            OfMembers::Pardon => is_admin && standing == Standing::Banned,
            OfMembers::Role => {
                let may = own == Role::Owner || by_operator || is_admin && is_below && op.role() < Role::Admin;
                role.is_some() && may
            }
            OfMembers::Mute => is_admin && is_below && role.is_some(),
        }
    })
}

/// Changes the standing of a user.
fn stand(group: &mut Group, op: &ChangeMembers, person: &Person) {
    let before = group.row(person).cloned();
    let (muted_until_ms, wrote_ms) = before.as_ref().map_or((0, 0), |row| (row.muted_until_ms, row.wrote_ms));
    let since = group.last;
    let row = |standing, role| {
        Some(Row { incarnation: person.incarnation, standing, role, since, muted_until_ms, wrote_ms, untold: false })
    };
    let gone = || if muted_until_ms == 0 { None } else { row(Standing::Left, Role::Unspecified) };
    let after = match op.change() {
        OfMembers::Join => row(Standing::Member, Role::Member),
        OfMembers::Add if op.role() == Role::Reader => row(Standing::Member, Role::Reader),
        OfMembers::Add => row(Standing::Member, Role::Member),
        OfMembers::Invite => row(Standing::Invited, Role::Unspecified)
            .map(|row| Row { untold: op.unwanted.contains(&person.user), ..row }),
        OfMembers::Ban => row(Standing::Banned, Role::Unspecified),
        OfMembers::Leave | OfMembers::Remove | OfMembers::Pardon => gone(),
        OfMembers::Role => before.map(|row| Row { role: op.role(), ..row }),
        OfMembers::Mute => before.map(|row| Row { muted_until_ms: op.muted_until_ms, ..row }),
        OfMembers::Unspecified => None,
    };
    match after {
        Some(row) => drop(group.rows.insert(person.user.clone(), row)),
        None => drop(group.rows.remove(&person.user)),
    }
}

fn sender_of(op: &Append) -> Person {
    Person { user: String::from_utf8(op.sender.to_vec()).expect("text"), incarnation: op.sender_incarnation }
}

fn name_of(timeline: &Option<TimelineKey>) -> String {
    let owner = timeline.as_ref().expect("a timeline").owner.to_vec();
    String::from_utf8(owner).expect("text")
}
