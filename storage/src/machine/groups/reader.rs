//! Reads of groups, for their members, and of the groups of a user.

use std::{
    io,
    iter::{self, Peekable},
};

use carillon_proto::pb::store::{
    Group, GroupList, GroupRead, GroupSettings, Head, ListGroups, Member, MembersRead, Membership, MembershipsRead,
    Person, ReadGroup, ReadMembers, ReadMemberships, Rejected, TimelineKey, group_list, member::Standing, members_read,
    memberships_read, rejected::Reason,
};
use prost::Message;

use super::{Refused, no_group, rules};
use crate::{
    engine::fjall::{TimelineView, Value},
    machine::{
        TimelineReader, TimelineState, Unread, broken,
        keys::{self, GroupCursor},
        timeline_reader::{head, load},
    },
};

/// Most rows that one read returns, whatever it asks for.
const MAX_ROWS: usize = 1024;

/// A group that there is, and the row of who reads.
pub(in crate::machine) struct Readable {
    state: TimelineState,
    group: Group,
    reader: Option<Member>,
    by_service: bool,
}

impl Readable {
    /// `deleted`: the incarnation of a group that was deleted, which is read by the service alone.
    pub(in crate::machine) fn load(
        view: &TimelineView<'_>,
        timeline: Option<&TimelineKey>,
        reader: Option<&Person>,
        deleted: Option<u64>,
    ) -> Result<Self, Unread> {
        let key = timeline.map(keys::timeline).ok_or_else(|| broken("timeline of a read"))?;
        let state = TimelineState::load(view, &key)?.filter(|state| state.number != 0);
        let Some(state) = state else { return Err(no_group().into()) };
        let group = view.get(&keys::group(state.number))?.map(|row| decode::<Group>(&row)).transpose()?;
        let is_wanted = |group: &Group| match deleted.filter(|_| reader.is_none()) {
            Some(incarnation) => group.deleted && state.incarnation == incarnation,
            None => !group.deleted,
        };
        let Some(group) = group.filter(is_wanted) else { return Err(no_group().into()) };
        let row = match reader {
            Some(person) => {
                let row = view.get(&keys::member(state.number, &person.user))?;
                row.map(|row| decode::<Member>(&row)).transpose()?.filter(|row| row.incarnation == person.incarnation)
            }
            None => None,
        };
        Ok(Self { state, group, reader: row, by_service: reader.is_none() })
    }

    /// The timeline as far as the reader may read it.
    pub(in crate::machine) fn seen(&self) -> Result<TimelineState, Unread> {
        let from = match self.by_service {
            true => 0,
            false => rules::readable_from(&self.group.settings.clone().unwrap_or_default(), self.reader.as_ref())?,
        };
        Ok(TimelineState { first: self.state.first.max(from), ..self.state })
    }

    /// The whole timeline, and the row of who reads.
    pub(in crate::machine) fn into_parts(self) -> (TimelineState, Option<Member>) {
        (self.state, self.reader)
    }
}

impl TimelineReader {
    pub(crate) fn group(&self, op: &ReadGroup) -> Result<GroupRead, Unread> {
        let view = self.shard.view();
        let read = Readable::load(&view, op.timeline.as_ref(), op.reader.as_ref(), None)?;
        let Readable { state, mut group, reader, by_service } = read;
        let settings = group.settings.get_or_insert_default();
        if !by_service && !rules::shows_itself(settings, reader.as_ref()) {
            return Err(no_group().into());
        }
        let is_member = reader.as_ref().is_some_and(|row| row.standing() == Standing::Member);
        let writes = op.writes_at_ms != 0 && rules::writer(settings, reader.as_ref(), op.writes_at_ms).is_ok();
        if !by_service && !rules::sees_all(reader.as_ref()) {
            settings.link = Default::default();
            group.others = 0;
        }
        // Others are not told how much is written.
        let head = if by_service || is_member { head(Some(&state)) } else { Head::default() };
        Ok(GroupRead { group: Some(group), incarnation: state.incarnation, head: Some(head), reader, writes })
    }

    pub(crate) fn members(&self, op: &ReadMembers) -> Result<MembersRead, Unread> {
        let view = self.shard.view();
        let read = Readable::load(&view, op.timeline.as_ref(), op.reader.as_ref(), op.deleted)?;
        read.seen()?;
        if op.others && !read.by_service && !rules::sees_all(read.reader.as_ref()) {
            return Err(rules::refused(Reason::Forbidden, "only admins and owners see who is invited or banned").into());
        }
        let number = read.state.number;
        let shown = |member: &Member| op.others || member.standing() == Standing::Member;
        let mut members = Vec::new();
        for user in &op.only {
            let row = view.get(&keys::member(number, user))?.map(|row| decode::<Member>(&row)).transpose()?;
            if let Some(member) = row.filter(shown) {
                members.push(members_read::Row { user: user.clone(), member: Some(member) });
            }
        }
        if !op.only.is_empty() {
            return Ok(MembersRead { members, complete: true });
        }
        let begin = keys::member(number, &op.after_user);
        let begin = if op.after_user.is_empty() { begin } else { keys::after(&begin) };
        let limit = limit(op.limit);
        let mut complete = true;
        for row in view.range(begin..=keys::after_members(number)) {
            let (key, value) = row?;
            let member = decode::<Member>(&value)?;
            if !shown(&member) {
                continue;
            }
            if members.len() == limit {
                complete = false;
                break;
            }
            let (_, user) = keys::member_of(&key)?;
            members.push(members_read::Row { user: user.to_owned(), member: Some(member) });
        }
        Ok(MembersRead { members, complete })
    }

    pub(crate) fn groups(&self, op: &ListGroups) -> Result<GroupList, Unread> {
        let view = self.shard.view();
        let (begin, end) = keys::domain_groups(op.domain.as_deref()).into_inner();
        let begin = if op.after.is_empty() { begin } else { begin.max(keys::after(&keys::domain_group(&op.after))) };
        let mut list = GroupList { groups: Vec::new(), complete: true };
        let limit = limit(op.limit);
        if begin > end {
            return Ok(list);
        }
        for row in view.range(begin..=end) {
            let (key, value) = row?;
            if list.groups.len() == limit {
                list.complete = false;
                break;
            }
            let group = view.get(&keys::group(keys::number_of(&value)?))?;
            let mut group: Group = decode(&group.ok_or_else(|| broken("group of a domain without its row"))?)?;
            let settings = group.settings.take().unwrap_or_default();
            group.settings = Some(GroupSettings { name: settings.name, ..GroupSettings::default() });
            list.groups.push(group_list::Row { group: keys::domain_group_of(&key)?, row: Some(group) });
        }
        Ok(list)
    }

    pub(crate) fn memberships(&self, op: &ReadMemberships) -> Result<MembershipsRead, Unread> {
        let view = self.shard.view();
        let mut read = MembershipsRead { memberships: Vec::new(), complete: true };
        let Some(state) = load(&view, op.timeline.as_ref(), op.incarnation)? else { return Ok(read) };
        let (begin, end) = keys::memberships_of(state.number).into_inner();
        let begin = op.after.as_ref().map_or(begin, |after| keys::after(&keys::membership(state.number, after)));
        let limit = limit(op.limit);
        let mut cursors = GroupCursors::after(&view, state.number, op);
        for row in view.range(begin..=end) {
            let (key, value) = row?;
            let membership = decode::<Membership>(&value)?;
            if !matches!(membership.standing(), Standing::Member | Standing::Invited) {
                continue;
            }
            if read.memberships.len() == limit {
                read.complete = false;
                break;
            }
            let (_, group) = keys::membership_of(&key)?;
            let cursor = cursors.of(keys::name_of_membership(&key)?)?;
            read.memberships.push(memberships_read::Row {
                group: Some(group),
                membership: Some(membership),
                epoch: cursor.map(|cursor| cursor.epoch),
                seq: cursor.map_or(0, |cursor| cursor.seq),
            });
        }
        Ok(read)
    }
}

/// The cursors of a device in groups, which are in the order of the memberships.
struct GroupCursors<I: Iterator> {
    rows: Peekable<I>,
    device: String,
}

impl<'a> GroupCursors<Box<dyn Iterator<Item = io::Result<(Value, Value)>> + 'a>> {
    /// Cursors of the device that the read names, in the groups of its page.
    fn after(view: &'a TimelineView<'_>, number: u64, op: &ReadMemberships) -> Self {
        let device = op.device.clone();
        if device.is_empty() {
            let none: Box<dyn Iterator<Item = _>> = Box::new(iter::empty());
            return Self { rows: none.peekable(), device };
        }
        let (first, last) = keys::group_cursors_of(number, &device).into_inner();
        let first = op.after.as_ref().map_or(first, |after| keys::after(&keys::group_cursor(number, &device, after)));
        let rows: Box<dyn Iterator<Item = _>> = Box::new(view.range(first..=last));
        Self { rows: rows.peekable(), device }
    }

    /// The cursor in this group. `name`: kind and owner, as they stand in keys. Each group is after the one before.
    fn of(&mut self, name: &[u8]) -> io::Result<Option<GroupCursor>> {
        let device = self.device.as_str();
        let is_before = |row: &io::Result<(Value, Value)>| match row {
            Ok((key, _)) => keys::name_of_group_cursor(key, device).is_some_and(|known| known < name),
            Err(_) => false,
        };
        while self.rows.next_if(is_before).is_some() {}
        let is_here = |row: &io::Result<(Value, Value)>| match row {
            Ok((key, _)) => keys::name_of_group_cursor(key, device) == Some(name),
            Err(_) => true,
        };
        match self.rows.next_if(is_here).transpose()? {
            Some((_, value)) => GroupCursor::decode(&value).map(Some),
            None => Ok(None),
        }
    }
}

impl From<Refused> for Unread {
    fn from(Refused { reason, detail, retry_after_ms }: Refused) -> Self {
        Self::Rejected(Rejected { reason: reason.into(), detail, retry_after_ms })
    }
}

fn limit(given: u32) -> usize {
    if given == 0 { MAX_ROWS } else { MAX_ROWS.min(given as usize) }
}

fn decode<M: Message + Default>(value: &[u8]) -> std::io::Result<M> {
    M::decode(value).map_err(|_| broken("row of a group"))
}
