//! The outbox: the tasks that commands give to workers. See docs/adr/0026-workers.md.

use std::{collections::BTreeSet, io};

use carillon_proto::pb::store::{
    ChangeGroup, ChangeMembers, CreateGroup, LeaveGroups, Membership, OutboxRow, Person, Role, SettleOutbox,
    TellMembers, TimelineKey, change_group::Change, change_members::Change as OfMembers, member::Standing,
    outbox_row::Task, settle_outbox::Verdict, tell_members::Told, timeline_key::Kind,
};
use prost::Message as _;

use super::{Batch, Outcome, TimelineState, done};
use crate::{
    engine::fjall::TimelineShard,
    machine::{broken, keys},
};

// Replicas with different numbers would diverge: a change needs a new level.

/// Most rows that wait in a shard: with more, groups are not changed. The rows that follow from users who leave groups, and from the end of
/// inboxes, are written nevertheless: memberships bound their number.
pub(in crate::machine) const WAITING: u64 = 65_536;
const DEAD_LETTERS: u64 = 4096;
/// After so many refusals a row becomes a dead letter.
const REFUSALS: u32 = 8;
/// Groups in one row.
const LEFT_AT_ONCE: usize = 256;

/// The numbers of rows of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutboxCounts {
    waiting: u64,
    dead: u64,
}

impl OutboxCounts {
    pub(super) fn load(shard: &TimelineShard) -> io::Result<Self> {
        let view = shard.view();
        let count = |rows| view.range(rows).try_fold(0, |count, row| row.map(|_| count + 1));
        Ok(Self { waiting: count(keys::outbox_rows())?, dead: count(keys::dead_letters())? })
    }

    pub(super) fn has_room(self) -> bool {
        self.waiting < WAITING
    }
}

impl Batch<'_> {
    /// Writes a row at the next place of the entry.
    pub(super) fn put_outbox(&mut self, row: &OutboxRow) -> io::Result<()> {
        loop {
            let key = keys::outbox(self.index, self.outbox_number);
            self.outbox_number += 1;
            // A shard that was put back from a copy has rows of another log.
            if self.get(&key, |_| Ok(()))?.is_none() {
                self.changes.put(key, row.encode_to_vec());
                self.outbox.waiting += 1;
                return Ok(());
            }
        }
    }

    /// Lets workers tell users of a change, if it concerns any.
    pub(super) fn put_told(&mut self, tell: TellMembers, time_ms: u64) -> io::Result<()> {
        if tell.told.is_empty() && !tell.ends {
            return Ok(());
        }
        self.put_outbox(&OutboxRow { time_ms, task: Some(Task::Tell(tell)), ..OutboxRow::default() })
    }

    /// Lets workers take the user of this inbox, which ends, out of all groups.
    pub(super) fn leave_groups(&mut self, timeline: &TimelineKey, state: &TimelineState) -> io::Result<()> {
        if timeline.kind() != Kind::Inbox {
            return Ok(());
        }
        let groups = self.groups_of(state.number)?;
        let user = timeline.owner_str().map_err(|_| broken("owner of an inbox"))?.to_owned();
        for groups in groups.chunks(LEFT_AT_ONCE) {
            let person = Some(Person { user: user.clone(), incarnation: state.incarnation });
            let leave = LeaveGroups { person, groups: groups.to_vec() };
            self.put_outbox(&OutboxRow { task: Some(Task::Leave(leave)), ..OutboxRow::default() })?;
        }
        Ok(())
    }

    /// The groups that the inbox's user is in or invited to, in their order.
    fn groups_of(&self, number: u64) -> io::Result<Vec<TimelineKey>> {
        let rows = keys::memberships_of(number);
        let stands = |value: &[u8]| {
            let row = Membership::decode(value).map_err(|_| broken("row of a group"))?;
            Ok::<_, io::Error>(matches!(row.standing(), Standing::Member | Standing::Invited))
        };
        let mut found = BTreeSet::new();
        for (key, value) in self.changes.with_prefix(rows.start()) {
            if let Some(value) = value
                && stands(value)?
            {
                found.insert(key.to_vec());
            }
        }
        for row in self.shard.view().range(rows) {
            let (key, value) = row?;
            if self.changes.get(&key).is_none() && stands(&value)? {
                found.insert(key.to_vec());
            }
        }
        found.iter().map(|key| keys::membership_of(key).map(|(_, group)| group)).collect()
    }

    pub(super) fn settle_outbox(&mut self, op: &SettleOutbox) -> io::Result<Outcome> {
        for settled in &op.rows {
            let waiting = keys::outbox(settled.index, settled.number);
            let dead = keys::dead_letter(settled.index, settled.number);
            match settled.verdict() {
                Verdict::Unspecified => return Err(broken("row of the outbox that is settled without a verdict")),
                Verdict::Done => {
                    if self.get(&waiting, |_| Ok(()))?.is_some() {
                        self.changes.delete(waiting);
                        self.outbox.waiting -= 1;
                    }
                }
                Verdict::Refused => {
                    let Some(row) = self.get(&waiting, decode)? else { continue };
                    let failures = row.failures.saturating_add(1);
                    let row = OutboxRow { failures, why: settled.why.clone(), ..row };
                    if failures >= REFUSALS && self.outbox.dead < DEAD_LETTERS {
                        self.changes.delete(waiting);
                        self.changes.put(dead, row.encode_to_vec());
                        (self.outbox.waiting, self.outbox.dead) = (self.outbox.waiting - 1, self.outbox.dead + 1);
                    } else {
                        self.changes.put(waiting, row.encode_to_vec());
                    }
                }
                Verdict::Replay => {
                    // After a restore another row may be in its place. It is replayed when that one is settled.
                    let Some(row) = self.get(&dead, decode)? else { continue };
                    if self.get(&waiting, |_| Ok(()))?.is_none() {
                        self.changes.delete(dead);
                        self.changes.put(waiting, OutboxRow { failures: 0, ..row }.encode_to_vec());
                        (self.outbox.waiting, self.outbox.dead) = (self.outbox.waiting + 1, self.outbox.dead - 1);
                    }
                }
                Verdict::Discard => {
                    if self.get(&dead, |_| Ok(()))?.is_some() {
                        self.changes.delete(dead);
                        self.outbox.dead -= 1;
                    }
                }
            }
        }
        Ok(done())
    }
}

/// The users whose membership the change touches, with their standing after it. Who stays a member reads in the group what has changed.
pub(super) fn told(op: &ChangeGroup, sender: &Person) -> Vec<Told> {
    let told = |person: &Person, standing: Standing, role: Role| Told {
        person: Some(person.clone()),
        standing: standing.into(),
        role: role.into(),
    };
    match &op.change {
        Some(Change::Create(CreateGroup { members, owner, .. })) => {
            let owner = if op.by_operator { owner.as_ref() } else { Some(sender) };
            let owner = owner.map(|owner| told(owner, Standing::Member, Role::Owner));
            let members = members.iter().map(|person| told(person, Standing::Member, Role::Member));
            owner.into_iter().chain(members).collect()
        }
        Some(Change::Members(op)) => of_members(op)
            .map(|(standing, role)| op.users.iter().map(|person| told(person, standing, role)).collect())
            .unwrap_or_default(),
        Some(Change::Set(_) | Change::Delete(_)) | None => Vec::new(),
    }
}

fn of_members(op: &ChangeMembers) -> Option<(Standing, Role)> {
    match op.change() {
        OfMembers::Join => Some((Standing::Member, Role::Member)),
        OfMembers::Add if op.role() == Role::Reader => Some((Standing::Member, Role::Reader)),
        OfMembers::Add => Some((Standing::Member, Role::Member)),
        OfMembers::Invite => Some((Standing::Invited, Role::Unspecified)),
        OfMembers::Leave | OfMembers::Remove | OfMembers::Pardon => Some((Standing::Left, Role::Unspecified)),
        OfMembers::Ban => Some((Standing::Banned, Role::Unspecified)),
        OfMembers::Role | OfMembers::Mute | OfMembers::Unspecified => None,
    }
}

fn decode(value: &[u8]) -> io::Result<OutboxRow> {
    OutboxRow::decode(value).map_err(|_| broken("row of the outbox"))
}
