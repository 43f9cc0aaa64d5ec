//! Checks of changes of groups.

use std::collections::HashSet;

use carillon_proto::{
    ShardId, ShardMap, duration,
    limits::EXPIRES_AFTER_MS,
    pb::store::{
        ChangeGroup, ChangeMembers, CreateGroup, GroupSettings, Person, Rejected, Role, SetGroup, SetMembership,
        SettleOutbox, change_group::Change, change_members::Change as OfMembers, member::Standing,
        settle_outbox::Verdict, timeline_key::Kind,
    },
};

use crate::machine::outbox_reader::OUTBOX_ROWS;

use super::{check_any_timeline, check_any_user, check_append, invalid};

const MAX_NAME_BYTES: usize = 256;
const MAX_DESCRIPTION_BYTES: usize = 4096;
const MAX_PICTURE_BYTES: usize = 2048;
/// Of the secret of a link.
const LINK_BYTES: std::ops::RangeInclusive<usize> = 16..=64;
const MAX_SLOW_MODE_MS: u32 = 24 * 3_600_000;
/// Of the reason for a refusal.
const MAX_WHY_BYTES: usize = 512;
/// Most users that one command changes: it bounds the time of one command.
const CHANGED: usize = 256;

pub(super) fn check_change(shard: ShardId, map: ShardMap, op: &ChangeGroup) -> Result<(), Rejected> {
    let append = op.append.as_ref().ok_or_else(|| invalid("envelope is missing"))?;
    if check_append(shard, map, append)? != Kind::Group {
        return Err(invalid("an inbox has no members"));
    }
    if append.header.is_some() {
        return Err(invalid("a change of a group refers to no message"));
    }
    if append.incarnation != 0 || append.group_incarnation.is_some() || !append.after_key.is_empty() {
        return Err(invalid("a change of a group names no incarnation of the group, and no message before it"));
    }
    if op.by_operator != append.sender.is_empty() {
        return Err(invalid("a change is either the operator's or a user's"));
    }
    match op.change.as_ref().ok_or_else(|| invalid("change is missing"))? {
        Change::Create(create) => check_create(create, append.sender.as_ref()),
        Change::Set(set) => check_set(set),
        Change::Members(members) => check_members(members, append.sender.as_ref(), append.sender_incarnation),
        Change::Delete(_) => Ok(()),
    }
}

fn check_create(op: &CreateGroup, sender: &[u8]) -> Result<(), Rejected> {
    if op.owner.is_some() && !sender.is_empty() {
        return Err(invalid("who makes a group is its owner"));
    }
    check_settings(op.settings.as_ref().ok_or_else(|| invalid("settings are missing"))?)?;
    let owner = op.owner.as_ref().map_or(sender, |owner| owner.user.as_bytes());
    if op.members.iter().any(|member| member.user.as_bytes() == owner) {
        return Err(invalid("the owner is a member anyway"));
    }
    if let Some(owner) = &op.owner {
        check_any_user(&owner.user)?;
    }
    check_people(&op.members)
}

fn check_settings(settings: &GroupSettings) -> Result<(), Rejected> {
    let GroupSettings { name, description, picture, link, slow_mode_ms, expire_after_ms, .. } = settings;
    check_length("name", name.len(), MAX_NAME_BYTES)?;
    check_length("description", description.len(), MAX_DESCRIPTION_BYTES)?;
    check_length("picture", picture.len(), MAX_PICTURE_BYTES)?;
    if !link.is_empty() && !LINK_BYTES.contains(&link.len()) {
        return Err(invalid(format!("secret of a link has {} bytes, not 16 to 64", link.len())));
    }
    if *slow_mode_ms > MAX_SLOW_MODE_MS {
        let [asked, most] = [*slow_mode_ms, MAX_SLOW_MODE_MS].map(|ms| duration::ms_in_words(ms.into()));
        return Err(invalid(format!("slow mode of {asked}, not up to {most}")));
    }
    if *expire_after_ms != 0 && !EXPIRES_AFTER_MS.contains(expire_after_ms) {
        let [asked, least, most] =
            [*expire_after_ms, *EXPIRES_AFTER_MS.start(), *EXPIRES_AFTER_MS.end()].map(duration::ms_in_words);
        return Err(invalid(format!("messages expire after {asked}, not 0 (never) or {least} to {most}")));
    }
    Ok(())
}

fn check_set(set: &SetGroup) -> Result<(), Rejected> {
    if *set == SetGroup::default() {
        return Err(invalid("nothing is to be set"));
    }
    let mut settings = GroupSettings::default();
    crate::machine::groups::set(&mut settings, set);
    check_settings(&settings)
}

fn check_members(op: &ChangeMembers, sender: &[u8], incarnation: u64) -> Result<(), Rejected> {
    let kind = OfMembers::try_from(op.change).unwrap_or_default();
    let role = Role::try_from(op.role).map_err(|_| invalid("role is unknown"))?;
    if op.users.is_empty() {
        return Err(invalid("nobody is to be changed"));
    }
    check_people(&op.users)?;
    let alone =
        |who: &[Person]| matches!(who, [one] if one.user.as_bytes() == sender && one.incarnation == incarnation);
    match kind {
        OfMembers::Unspecified => return Err(invalid("change of members without a kind")),
        OfMembers::Join | OfMembers::Leave if !sender.is_empty() && !alone(&op.users) => {
            return Err(invalid("users join and leave by themselves"));
        }
        OfMembers::Join if sender.is_empty() => return Err(invalid("the operator adds users")),
        OfMembers::Role if role == Role::Unspecified => return Err(invalid("new role is missing")),
        OfMembers::Add if !matches!(role, Role::Unspecified | Role::Reader) => {
            return Err(invalid("a new member is one, or reads only"));
        }
        _ => {}
    }
    let fits = (role == Role::Unspecified || matches!(kind, OfMembers::Role | OfMembers::Add))
        && (op.muted_until_ms == 0 || kind == OfMembers::Mute)
        && (op.link.is_empty() || kind == OfMembers::Join)
        && op.unwanted.len() <= op.users.len();
    if fits { Ok(()) } else { Err(invalid("a field does not belong to this change of members")) }
}

/// Users of any shard, each once.
fn check_people(people: &[Person]) -> Result<(), Rejected> {
    if people.len() > CHANGED {
        return Err(invalid(format!("{} users are to be changed, not up to {CHANGED}", people.len())));
    }
    let mut seen = HashSet::new();
    people.iter().try_for_each(|person| {
        check_any_user(&person.user)?;
        if seen.insert(&person.user) { Ok(()) } else { Err(invalid(format!("{} is named twice", person.user))) }
    })
}

pub(super) fn check_membership(shard: ShardId, map: ShardMap, op: &SetMembership) -> Result<(), Rejected> {
    let append = op.append.as_ref().ok_or_else(|| invalid("envelope is missing"))?;
    if check_append(shard, map, append)? != Kind::Inbox {
        return Err(invalid("memberships stand in inboxes"));
    }
    if !append.sender.is_empty() || append.only_repeat || !append.after_key.is_empty() {
        return Err(invalid("a membership is appended by the service, behind nothing"));
    }
    if append.header.is_some() {
        return Err(invalid("a membership refers to no message"));
    }
    let (kind, _) = check_any_timeline(op.group.as_ref())?;
    if kind != Kind::Group {
        return Err(invalid("an inbox has no members"));
    }
    let membership = op.membership.as_ref().ok_or_else(|| invalid("membership is missing"))?;
    if membership.seq == 0 || membership.changed_ms != 0 {
        return Err(invalid("a membership is of a position in the group, and its time is the shard's"));
    }
    let known = Standing::try_from(membership.standing).is_ok_and(|standing| standing != Standing::Unspecified);
    if known && Role::try_from(membership.role).is_ok() { Ok(()) } else { Err(invalid("standing is unknown")) }
}

pub(super) fn check_settled(op: &SettleOutbox) -> Result<(), Rejected> {
    if !(1..=OUTBOX_ROWS).contains(&op.rows.len()) {
        return Err(invalid(format!("{} rows are to be settled, not 1 to {OUTBOX_ROWS}", op.rows.len())));
    }
    op.rows.iter().try_for_each(|row| {
        check_length("reason", row.why.len(), MAX_WHY_BYTES)?;
        let known = Verdict::try_from(row.verdict).is_ok_and(|verdict| verdict != Verdict::Unspecified);
        if known { Ok(()) } else { Err(invalid("what became of a row is unknown")) }
    })
}

fn check_length(what: &str, bytes: usize, most: usize) -> Result<(), Rejected> {
    if bytes <= most { Ok(()) } else { Err(invalid(format!("{what} has {bytes} bytes, not up to {most}"))) }
}
