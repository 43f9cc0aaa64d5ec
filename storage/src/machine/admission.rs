//! Prepares a router's command for the log: checks it, and fits it to the shard's level.

use bytes::Bytes;
use carillon_proto::{
    Level, ShardId, ShardMap,
    pb::store::{
        DirectoryCommand, PutAccount, PutSession, Rejected, SetStorageNode, TimelineCommand,
        directory_command::Op as DirectoryOp, rejected::Reason, timeline_command::Op, timeline_key::Kind,
    },
};
use prost::Message as _;

use super::{check_directory, check_timeline, directory_level, timeline_level};

/// The command in the form that is proposed at this level, or why it must not be proposed.
pub(crate) fn admit_timeline(
    shard: ShardId,
    map: ShardMap,
    level: Level,
    mut command: TimelineCommand,
) -> Result<Bytes, Rejected> {
    check_timeline(shard, map, &command)?;
    if level < Level::CLUSTER
        && let Some(Op::Append(append)) = &mut command.op
    {
        // Below level 1 no sender of the shard can be ended, so the field has no effect. `level` is what this node has
        // applied. While the level rises, an append that waits in the queue, or is taken by a new leader, may therefore
        // lose its sender although it is placed after the rise: in that moment alone an append can get past the end of
        // its sender.
        append.sender = Bytes::new();
        append.sender_generation = 0;
    }
    if level < Level::GROUPS
        && let Some(Op::Append(append)) = &mut command.op
    {
        // Below level 7 there are no conversations. One begins with its first message after that.
        (append.peer, append.peer_incarnation) = (Bytes::new(), 0);
    }
    let to_group = |op: &Op| {
        let timeline = if let Op::Append(append) = op { append.timeline.as_ref() } else { None };
        timeline.is_some_and(|timeline| timeline.kind() == Kind::Group)
    };
    // Below this level nobody is a member.
    let needs = command.op.as_ref().map(|op| if to_group(op) { Level::GROUPS } else { timeline_level(op) });
    check_level(needs, level)?;
    Ok(command.encode_to_vec().into())
}

/// The same for a directory shard.
pub(crate) fn admit_directory(
    shard: ShardId,
    map: ShardMap,
    level: Level,
    mut command: DirectoryCommand,
) -> Result<Bytes, Rejected> {
    check_directory(shard, map, &command)?;
    if level < Level::ATTEMPTS
        && let Some(DirectoryOp::PutSession(PutSession { session: Some(session), .. })) = &mut command.op
    {
        // Below level 3 the sign-in that was read later is the newer one.
        (session.instance, session.attempt) = (0, 0);
    }
    if level < Level::GROWTH
        && let Some(DirectoryOp::SetStorageNode(SetStorageNode { node: Some(node) })) = &mut command.op
    {
        // The node reports it again when the level has risen.
        node.zone.clear();
    }
    if level < Level::GROUPS
        && let Some(DirectoryOp::DeleteSession(delete)) = &mut command.op
    {
        // Below level 7 it is not kept when a user was last there.
        (delete.time_ms, delete.generation) = (0, 0);
    }
    let of_domain = |op: &DirectoryOp| match op {
        DirectoryOp::PutAccount(PutAccount { account: Some(account), .. }) => account.user.contains('@'),
        _ => false,
    };
    // Below level 7 the accounts of a domain are not counted.
    let needs = command.op.as_ref().map(|op| if of_domain(op) { Level::GROUPS } else { directory_level(op) });
    check_level(needs, level)?;
    Ok(command.encode_to_vec().into())
}

fn check_level(needs: Option<Level>, level: Level) -> Result<(), Rejected> {
    match needs.filter(|needs| *needs > level) {
        None => Ok(()),
        Some(needs) => Err(Rejected {
            retry_after_ms: 0,
            reason: Reason::Level.into(),
            detail: format!(
                "the shard is at level {level}, and this needs level {needs}: `carillon cluster raise-level` raises it"
            ),
        }),
    }
}
