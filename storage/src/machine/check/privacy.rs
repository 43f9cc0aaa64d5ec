//! Checks of changes of privacy.

use carillon_proto::{
    ShardId, ShardMap,
    pb::store::{
        Append, Audience, BlockedUser, ChangePrivacy, Rejected, SetPrivacy, append::Admission, change_privacy::Change,
        timeline_key::Kind,
    },
};

use super::{check_any_user, check_user, invalid};

pub(super) fn check_change(shard: ShardId, map: ShardMap, op: &ChangePrivacy) -> Result<(), Rejected> {
    check_user(shard, map, &op.user)?;
    match op.change.as_ref().ok_or_else(|| invalid("change of privacy says nothing"))? {
        Change::Set(set) => check_set(set),
        Change::Block(BlockedUser { user, .. }) | Change::Unblock(BlockedUser { user, .. }) => {
            check_any_user(user)?;
            if *user == op.user { Err(invalid("a user can't be blocked by itself")) } else { Ok(()) }
        }
    }
}

/// Checks what the command says of the sender's admission to the inbox.
pub(super) fn check_admission(kind: Kind, op: &Append) -> Result<(), Rejected> {
    match Admission::try_from(op.admission) {
        Ok(Admission::Unspecified) => Ok(()),
        Err(_) => Err(invalid("admission of a message is unknown")),
        Ok(_) if op.sender.is_empty() => Err(invalid("a message that has no sender needs no admission")),
        Ok(admission) if kind == Kind::Group && admission != Admission::Refused => {
            Err(invalid("a group has members, and refuses or admits nobody else"))
        }
        Ok(_) => Ok(()),
    }
}

/// An unknown audience must not be taken for a known one.
fn check_set(set: &SetPrivacy) -> Result<(), Rejected> {
    let SetPrivacy { write, groups, read_marks, presence, last_seen } = set;
    for audience in [write, groups, read_marks, presence, last_seen].into_iter().flatten() {
        Audience::try_from(*audience).map_err(|_| invalid("audience is not one of everyone, contacts and nobody"))?;
    }
    let requests = Some(i32::from(Audience::Requests));
    if [groups, read_marks, presence, last_seen].into_iter().any(|audience| *audience == requests) {
        return Err(invalid("requests are for who may write"));
    }
    if [presence, last_seen].into_iter().flatten().any(|shown| *shown == i32::from(Audience::Everyone)) {
        return Err(invalid("presence, and when a user was last there, are shown to contacts or to nobody"));
    }
    Ok(())
}
