//! Groups: their members, who may write, and the changes of both. See docs/adr/0025-groups.md.

use std::io;

use carillon_proto::pb::store::{
    Append, Appended, ChangeGroup, ChangeMembers, CreateGroup, Done, Group, Member, Membership, Person, RecordHeader,
    Rejected, Role, SetMembership, StoreError, SweepMemberships, TellMembers, TimelineKey, append::Admission,
    change_group::Change, change_members::Change as OfMembers, member::Standing, rejected::Reason, store_error::Why,
};
use prost::Message as _;

use super::{
    Batch, CachedTimeline, Outcome, TimelineState, done, duplicate_key, outbox, privacy, rejected, timeline_key,
};
use crate::machine::{
    broken,
    groups::{self, Actor, Refused},
    keys,
};

/// Most rows of groups that a user's inbox has, also of those that the user has left. Replicas with different numbers would diverge: a
/// change needs a new level.
pub(in crate::machine) const MEMBERSHIPS: u64 = 8192;

/// The rows of members after a change, and the users who are not told of it.
#[derive(Default)]
struct Rows {
    /// Rows of users; `None`: the row is removed.
    rows: Vec<(String, Option<Member>)>,
    /// Users who are not told.
    untold: Vec<String>,
    /// The account of the last owner has ended: another member becomes the owner.
    needs_heir: bool,
}

impl Batch<'_> {
    pub(super) fn change_group(&mut self, op: &ChangeGroup) -> io::Result<Outcome> {
        let append = op.append.as_ref().ok_or_else(|| broken("change of a group without an envelope"))?;
        if self.senders.has_ended(&append.sender, append.sender_generation) {
            return Ok(rejected(Reason::SenderGone, "the session that has sent it is over"));
        }
        let key = timeline_key(append.timeline.as_ref())?;
        let duplicate = duplicate_key(append)?;
        let before = self.held(&key)?;
        let held = before.filter(|before| before.state.number != 0);
        if let Some(first) = self.repeated(held.as_ref(), &duplicate)? {
            let first = self.with_heir(first, held.as_ref(), duplicate)?;
            return Ok(of_incarnation(first, before.as_ref()));
        }
        if append.only_repeat {
            return Ok(rejected(Reason::NotFound, "the message is not in the timeline"));
        }
        let seq = held.map_or(1, |held| held.state.last + 1);
        let (group, Rows { rows, untold, needs_heir }) = match self.after_change(op, append, held.as_ref(), seq)? {
            Ok(after) => after,
            Err(refused) => return Ok(answer(refused)),
        };
        if !self.outbox.has_room() && !is_leaving(op) {
            return Ok(rejected(Reason::Full, "too many members of groups wait to be told what has become of them"));
        }
        let mut told = outbox::told(op, &sender_of(append)?);
        if !untold.is_empty() {
            told.retain(|told| told.person.as_ref().is_some_and(|person| !untold.contains(&person.user)));
        }
        let held = match held {
            Some(held) => held,
            None => {
                let incarnation = before.map_or(0, |before| before.state.incarnation);
                CachedTimeline::new(self.create(key.clone(), append.new_epoch, incarnation)?)
            }
        };
        let number = held.state.number;
        self.changes.put(keys::group(number), group.encode_to_vec());
        let of_domain = keys::domain_group(name_of(append)?);
        match (&op.change, group.deleted) {
            (_, true) => self.changes.delete(of_domain),
            (Some(Change::Create(_)), false) => self.changes.put(of_domain, keys::number_value(number)),
            (Some(Change::Set(_) | Change::Members(_) | Change::Delete(_)) | None, false) => {}
        }
        for (user, row) in rows {
            if row.as_ref().is_none_or(|row| row.standing() != Standing::Member) {
                self.forget_mentioned(number, &user)?;
            }
            let key = keys::member(number, &user);
            match row {
                Some(row) => self.changes.put(key, row.encode_to_vec()),
                None => self.changes.delete(key),
            }
        }
        let tell = TellMembers {
            group: append.timeline.clone(),
            number,
            incarnation: held.state.incarnation,
            seq,
            told,
            ends: group.deleted,
            sender_generation: append.sender_generation,
        };
        self.put_told(tell, append.time_ms)?;
        let recorded = self.record(key.clone(), held, duplicate, held.header(true), &append.envelope)?;
        let recorded = if needs_heir { self.put_heir(&key, append, group, recorded)? } else { recorded };
        Ok(of_incarnation(recorded, Some(&held)))
    }

    /// The group and the rows of users after the change.
    fn after_change(
        &self,
        op: &ChangeGroup,
        append: &Append,
        held: Option<&CachedTimeline>,
        seq: u64,
    ) -> io::Result<Result<(Group, Rows), Refused>> {
        let change = op.change.as_ref().ok_or_else(|| broken("change of a group without a change"))?;
        let sender = sender_of(append)?;
        if let Change::Create(create) = change {
            let exists = groups::refused(Reason::Exists, "there is such a group");
            return Ok(if held.is_some() { Err(exists) } else { founded(create, &sender, op, append.time_ms) });
        }
        let Some(number) = held.map(|held| held.state.number) else { return Ok(Err(groups::no_group())) };
        let Some(mut group) = self.living_group(number)? else { return Ok(Err(groups::no_group())) };
        let own = self.sender_member(number, append)?;
        let actor = if op.by_operator { Actor::Operator } else { Actor::User(own.as_ref()) };
        let done = match change {
            Change::Create(_) => return Err(broken("creation")),
            Change::Set(set) => groups::may_set(actor).map(|()| {
                groups::set(group.settings.get_or_insert_default(), set);
                Rows::default()
            }),
            Change::Delete(_) => groups::may_delete(actor).map(|()| {
                group.deleted = true;
                Rows::default()
            }),
            Change::Members(members) => self.after_members(members, actor, number, &mut group, seq, op.most_members)?,
        };
        Ok(done.map(|rows| (group, rows)))
    }

    fn after_members(
        &self,
        op: &ChangeMembers,
        actor: Actor<'_>,
        number: u64,
        group: &mut Group,
        seq: u64,
        most: u32,
    ) -> io::Result<Result<Rows, Refused>> {
        let group_before = group.clone();
        let settings = group.settings.clone().unwrap_or_default();
        let mut rows = Rows { rows: Vec::with_capacity(op.users.len()), ..Rows::default() };
        // Workers let the users of ended accounts leave.
        let mut owner_has_ended = matches!(actor, Actor::Operator) && op.change() == OfMembers::Leave;
        for person in &op.users {
            let before = self.member(number, person)?;
            let of_person = of_account(before.as_ref(), person);
            // The account that the row is of has ended, and the name has another owner by now.
            let has_ended = |row: Member| row.incarnation < person.incarnation && row.role() == Role::Owner;
            owner_has_ended |= before.is_some_and(has_ended);
            if !groups::is_told(op, person, of_person) {
                rows.untold.push(person.user.clone());
            }
            let after = match groups::changed(&settings, actor, op, person, of_person, seq) {
                Ok(after) => after,
                Err(refused) => return Ok(Err(refused)),
            };
            let after = groups::counted(group, before.as_ref(), after);
            rows.rows.push((person.user.clone(), after));
        }
        group.members_seq = seq;
        // Nobody could come back to a group without members.
        group.deleted =
            group.members == 0 && matches!(op.change(), OfMembers::Leave | OfMembers::Remove | OfMembers::Ban);
        rows.needs_heir = owner_has_ended && groups::has_lost_its_owners(group, &group_before);
        Ok(groups::stands(group, &group_before, owner_has_ended, most).map(|()| rows))
    }

    /// Whether this message may be written to the group's timeline. If so, its writer's row remembers it, and the answer is when it
    /// expires at the latest by the group's rule; 0: there is none.
    pub(super) fn may_write(
        &mut self,
        held: Option<&CachedTimeline>,
        append: &Append,
    ) -> io::Result<Result<u64, Outcome>> {
        let Some(TimelineState { number, last, .. }) = held.map(|held| held.state) else {
            return Ok(Err(answer(groups::no_group())));
        };
        let Some(group) = self.living_group(number)? else { return Ok(Err(answer(groups::no_group()))) };
        #[cfg(feature = "planted-bugs")]
        if super::planted::anybody_writes() {
            return Ok(Ok(0));
        }
        let row = self.sender_member(number, append)?;
        let settings = group.settings.unwrap_or_default();
        match groups::written(&settings, row.as_ref(), append.time_ms) {
            Ok(row) => {
                let row = Member { wrote_seq: last + 1, ..row };
                self.changes.put(keys::member(number, &sender_of(append)?.user), row.encode_to_vec());
                Ok(Ok(groups::expires_at_ms(&settings, append.time_ms)))
            }
            Err(refused) => Ok(Err(answer(refused))),
        }
    }

    pub(super) fn set_membership(&mut self, op: &SetMembership) -> io::Result<Outcome> {
        let (Some(append), Some(group), Some(membership)) = (&op.append, &op.group, &op.membership) else {
            return Err(broken("membership"));
        };
        let key = timeline_key(append.timeline.as_ref())?;
        let duplicate = duplicate_key(append)?;
        let before = self.held(&key)?;
        if before.is_some_and(|before| append.incarnation < before.state.incarnation) {
            return Ok(rejected(Reason::Gone, "the inbox of this user has ended"));
        }
        let held = before.filter(|held| held.state.number != 0 && held.state.incarnation == append.incarnation);
        let row = Membership { changed_ms: self.clock_ms, ..*membership };
        if let Some(first) = self.repeated(held.as_ref(), &duplicate)? {
            self.renew_membership(held.as_ref(), group, &row)?;
            return Ok(first);
        }
        let known = match held {
            Some(held) => self.get(&keys::membership(held.state.number, group), decode::<Membership>)?,
            None => None,
        };
        if let Some(number) = held.map(|held| held.state.number) {
            match known {
                Some(known) if (known.incarnation, known.seq) >= (membership.incarnation, membership.seq) => {
                    return Ok(Outcome::Done(Done {}));
                }
                Some(_) => {}
                // Nothing is to be forgotten of a group of which nothing is known.
                None if !stands(membership) && self.memberships(number)? >= MEMBERSHIPS => {
                    return Ok(Outcome::Done(Done {}));
                }
                None if self.memberships(number)? >= MEMBERSHIPS => {
                    return Ok(rejected(
                        Reason::Full,
                        &format!("the user has been in {MEMBERSHIPS} groups, which is the most"),
                    ));
                }
                None => {}
            }
        }
        let held = match held {
            Some(held) => held,
            None => {
                self.end(append.timeline.as_ref(), before)?;
                CachedTimeline::new(self.create(key.clone(), append.new_epoch, append.incarnation)?)
            }
        };
        let number = held.state.number;
        self.changes.put(keys::membership(number, group), row.encode_to_vec());
        if known.is_none() {
            let count = self.memberships(number)? + 1;
            self.changes.put(keys::membership_count(number), keys::number_value(count));
        }
        if !stands(&row) {
            self.drop_conversation(number, group)?;
        }
        let left = self.left_of(&append.envelope, append.sender_generation)?;
        let envelope = left.as_ref().unwrap_or(&append.envelope);
        self.record(key, held, duplicate, RecordHeader::default(), envelope)
    }

    /// An older change that came after this one, when this one's row was swept, does not stand.
    fn renew_membership(
        &mut self,
        held: Option<&CachedTimeline>,
        group: &TimelineKey,
        row: &Membership,
    ) -> io::Result<()> {
        let Some(key) = held.map(|held| keys::membership(held.state.number, group)) else { return Ok(()) };
        let known = self.get(&key, decode::<Membership>)?;
        if known.is_some_and(|known| (known.incarnation, known.seq) < (row.incarnation, row.seq)) {
            self.changes.put(key, row.encode_to_vec());
        }
        Ok(())
    }

    pub(super) fn sweep_memberships(&mut self, op: &SweepMemberships) -> io::Result<Outcome> {
        for seen in &op.rows {
            let group = seen.group.as_ref().ok_or_else(|| broken("membership without a group"))?;
            let key = keys::membership(seen.number, group);
            let row = self.get(&key, decode::<Membership>)?;
            if row.is_some_and(|row| (row.incarnation, row.seq) == (seen.incarnation, seen.seq) && !stands(&row)) {
                self.changes.delete(key);
                let rest = self.memberships(seen.number)?.saturating_sub(1);
                self.changes.put(keys::membership_count(seen.number), keys::number_value(rest));
            }
        }
        Ok(done())
    }

    /// The number of rows of the inbox's groups.
    fn memberships(&self, number: u64) -> io::Result<u64> {
        Ok(self.get(&keys::membership_count(number), keys::number_of)?.unwrap_or(0))
    }

    pub(super) fn living_group(&self, number: u64) -> io::Result<Option<Group>> {
        let group = self.get(&keys::group(number), decode::<Group>)?;
        Ok(group.filter(|group| !group.deleted))
    }

    /// The row of this name, of whichever account.
    fn member(&self, number: u64, person: &Person) -> io::Result<Option<Member>> {
        self.member_named(number, &person.user)
    }

    pub(super) fn member_named(&self, number: u64, user: &str) -> io::Result<Option<Member>> {
        self.get(&keys::member(number, user), decode::<Member>)
    }

    /// The row of the account that sends this. A member whose domain does not talk to the group's may do as much as one who only reads.
    pub(super) fn sender_member(&self, number: u64, append: &Append) -> io::Result<Option<Member>> {
        let sender = sender_of(append)?;
        let row = self.member(number, &sender)?.filter(|row| row.incarnation == sender.incarnation);
        let is_beyond = privacy::admission(append)? == Admission::Refused;
        Ok(row.map(|row| if is_beyond { Member { role: Role::Reader.into(), ..row } } else { row }))
    }
}

/// True if users only leave: that is never refused for want of room.
fn is_leaving(op: &ChangeGroup) -> bool {
    matches!(&op.change, Some(Change::Members(members)) if members.change() == OfMembers::Leave)
}

/// True for a user who is in the group, or invited to it. Any other row is there only against older changes that may still come.
pub(super) fn stands(row: &Membership) -> bool {
    matches!(row.standing(), Standing::Member | Standing::Invited)
}

/// The row, if it is of this account and not of another owner of the name.
fn of_account<'a>(row: Option<&'a Member>, person: &Person) -> Option<&'a Member> {
    row.filter(|row| row.incarnation == person.incarnation)
}

/// The answer, with the incarnation of the group's timeline.
fn of_incarnation(outcome: Outcome, held: Option<&CachedTimeline>) -> Outcome {
    match outcome {
        Outcome::Appended(appended) => {
            let incarnation = held.map_or(0, |held| held.state.incarnation);
            Outcome::Appended(Appended { incarnation, ..appended })
        }
        other => other,
    }
}

fn founded(
    op: &CreateGroup,
    sender: &Person,
    command: &ChangeGroup,
    created_ms: u64,
) -> Result<(Group, Rows), Refused> {
    let ChangeGroup { by_operator, most_members, .. } = *command;
    let mut group = Group { settings: op.settings.clone(), members_seq: 1, created_ms, ..Group::default() };
    let owner = if by_operator { op.owner.as_ref() } else { Some(sender) };
    let owner = owner.map(|owner| (owner.user.clone(), groups::founder(owner, Role::Owner)));
    let members = op.members.iter().map(|person| (person.user.clone(), groups::founder(person, Role::Member)));
    let rows: Vec<_> = members.chain(owner).map(|(user, row)| (user, Some(row))).collect();
    for (_, row) in &rows {
        groups::count(&mut group, None, row.as_ref());
    }
    groups::stands(&group, &Group::default(), false, most_members).map(|()| (group, Rows { rows, ..Rows::default() }))
}

fn sender_of(append: &Append) -> io::Result<Person> {
    let user = str::from_utf8(&append.sender).map_err(|_| broken("sender of a command"))?.to_owned();
    Ok(Person { user, incarnation: append.sender_incarnation })
}

/// The name of the group that the command is about.
pub(super) fn name_of(append: &Append) -> io::Result<&str> {
    let name = append.timeline.as_ref().and_then(|timeline| timeline.owner_str().ok());
    name.ok_or_else(|| broken("name of a group"))
}

fn decode<M: prost::Message + Default>(value: &[u8]) -> io::Result<M> {
    M::decode(value).map_err(|_| broken("row of a group"))
}

pub(super) fn answer(refused: Refused) -> Outcome {
    let Refused { reason, detail, retry_after_ms } = refused;
    let why = Why::Rejected(Rejected { reason: reason.into(), detail, retry_after_ms });
    Outcome::Error(StoreError { why: Some(why) })
}
