//! The steps that rows of the outbox ask for.

use bytes::Bytes;
use carillon_proto::{
    GroupId, TimelineId,
    pb::store::{
        LeaveGroups, Person, Role, TellMembers, TimelineKey, member::Standing, outbox_read::Row, outbox_row::Task,
        tell_members::Told,
    },
};

use super::{
    outbox::{Lane, RowPlace},
    steps::{Step, What},
};

/// A row that is being carried out.
pub(super) struct Begun {
    pub(super) place: RowPlace,
    pub(super) refused: Option<String>,
    /// Some step of the row is not known to be done.
    pub(super) waits: bool,
    pub(super) ends: Option<Ends>,
}

/// The group of the row was deleted.
pub(super) struct Ends {
    pub(super) tell: TellMembers,
    pub(super) group: GroupId,
    pub(super) time_ms: u64,
    pub(super) envelope: Bytes,
    /// The last member who was read.
    pub(super) after_user: String,
    pub(super) next: Next,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    ReadMembers,
    EndTimeline,
    Nothing,
}

pub(super) fn plan_tell(
    at: usize,
    tell: TellMembers,
    time_ms: u64,
    envelope: Bytes,
    begun: &mut Begun,
) -> Result<Vec<(Lane, Step)>, String> {
    if envelope.is_empty() {
        return Err("the envelope that tells of it was removed by retention".to_owned());
    }
    let group = group_of(tell.group.as_ref())?;
    let steps = tell.told.iter().map(|told| {
        let Told { person, .. } = told;
        let what = tells(&tell, time_ms, &envelope, told.standing(), told.role());
        in_lane(at, person.as_ref(), &group, what)
    });
    let steps = steps.collect::<Result<Vec<_>, String>>()?;
    if tell.ends {
        let next = Next::ReadMembers;
        begun.ends = Some(Ends { tell, group, time_ms, envelope, after_user: String::new(), next });
    }
    Ok(steps)
}

pub(super) fn plan_leave(at: usize, leave: &LeaveGroups) -> Result<Vec<(Lane, Step)>, String> {
    let steps = leave.groups.iter().map(|key| {
        let group = group_of(Some(key))?;
        let ((user, _), step) = in_lane(at, leave.person.as_ref(), &group, What::Leave { after: 0 })?;
        Ok(((user, Some(group)), step))
    });
    steps.collect()
}

pub(super) fn tells(tell: &TellMembers, time_ms: u64, envelope: &Bytes, standing: Standing, role: Role) -> What {
    let TellMembers { incarnation: of_group, seq, sender_generation, .. } = *tell;
    What::Tell { of_group, seq, time_ms, standing, role, envelope: envelope.clone(), sender_generation }
}

pub(super) fn in_lane(at: usize, person: Option<&Person>, group: &GroupId, what: What) -> Result<(Lane, Step), String> {
    let person = person.ok_or("it names nobody")?;
    let step = Step::new(at, person, group, what).map_err(|invalid| invalid.to_string())?;
    Ok(((person.user.clone(), None), step))
}

pub(super) fn is_end(row: &Row) -> bool {
    matches!(row.row.as_ref().and_then(|row| row.task.as_ref()), Some(Task::Tell(tell)) if tell.ends)
}

pub(super) fn group_of(key: Option<&TimelineKey>) -> Result<GroupId, String> {
    match key.map(TimelineId::from_key) {
        Some(Ok(Some(TimelineId::Group(group)))) => Ok(group),
        Some(Err(invalid)) => Err(invalid.to_string()),
        _ => Err("it is of no group".to_owned()),
    }
}
