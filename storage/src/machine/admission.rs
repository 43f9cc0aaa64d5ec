//! What a router asks for, on its way into the log: checked, and as the shard's level has it.

use bytes::Bytes;
use carillon_proto::{
    Level, ShardId, ShardMap,
    pb::store::{DirectoryCommand, Rejected, TimelineCommand, rejected::Reason, timeline_command::Op},
};
use prost::Message as _;

use super::{check_directory, check_timeline, directory_level, timeline_level};

/// The command as it is proposed in a shard of this level, or why it must not be proposed.
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
        // No sender is ended in a shard below level 1, so it makes no difference who has sent it. `level` is what this node has
        // applied. So while the level rises, an append that waits for its place, or that a new leader takes, may lose its sender
        // although it comes to stand after the rise: in that moment alone an append can get past the end of its sender.
        append.sender = Bytes::new();
        append.sender_generation = 0;
    }
    check_level(command.op.as_ref().map(timeline_level), level)?;
    Ok(command.encode_to_vec().into())
}

/// The same of a directory shard.
pub(crate) fn admit_directory(
    shard: ShardId,
    map: ShardMap,
    level: Level,
    command: &DirectoryCommand,
) -> Result<Bytes, Rejected> {
    check_directory(shard, map, command)?;
    check_level(command.op.as_ref().map(directory_level), level)?;
    Ok(command.encode_to_vec().into())
}

fn check_level(needs: Option<Level>, level: Level) -> Result<(), Rejected> {
    match needs.filter(|needs| *needs > level) {
        None => Ok(()),
        Some(needs) => Err(Rejected {
            reason: Reason::Level.into(),
            detail: format!(
                "the shard is at level {level}, and this needs level {needs}: not all storage nodes can read it yet"
            ),
        }),
    }
}
