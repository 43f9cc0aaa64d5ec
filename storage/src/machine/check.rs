//! Checks commands before they enter the log. The machines rely on it: to them a malformed command is a broken
//! invariant.

mod contacts;
mod conversations;
mod domains;
mod groups;
mod headers;
mod media;
mod privacy;
mod reports;
mod scheduled;

use std::fmt::Display;

use carillon_proto::{
    DeviceId, ShardId, ShardKind, ShardMap, UserId,
    address::check_reachable,
    credentials,
    limits::{MAX_FRAME_BYTES, MOVED_CURSORS},
    pb::store::{
        Account, Append, ChangeContact, DirectoryCommand, MoveCursors, NodeKind, RegisterNode, Rejected, StorageNode,
        TimelineCommand, TimelineKey, change_contact::Change, directory_command::Op as DirectoryOp, put_account::Mode,
        rejected::Reason, storage_node::State, timeline_command::Op as TimelineOp, timeline_key::Kind,
    },
};

use super::{
    FOUNDERS,
    erasure::REDACTED,
    retention::{SWEEP_CURSORS, SWEEP_MEMBERSHIPS, TRIM_ENVELOPES},
    timeline_reader::COLLECTED_KEYS,
};

/// The largest frame plus what the service adds: id, sender and time.
const MAX_ENVELOPE_BYTES: usize = MAX_FRAME_BYTES + 1024;
/// A host name of 253 bytes, a colon and a port.
const MAX_ADDRESS_BYTES: usize = 259;
pub(crate) const MAX_ZONE_BYTES: usize = 64;
const MAX_SALT_BYTES: usize = 64;
/// Longest `jti` of a token.
const MAX_TOKEN_ID_BYTES: usize = 128;
const LEASE_TTL_MS: std::ops::RangeInclusive<u32> = 100..=600_000;

/// Checks that this command may enter the log of this shard.
pub(crate) fn check_directory(shard: ShardId, map: ShardMap, command: &DirectoryCommand) -> Result<(), Rejected> {
    match command.op.as_ref().ok_or_else(|| invalid("command has no operation"))? {
        DirectoryOp::PutAccount(op) => {
            if Mode::try_from(op.mode).is_err() {
                return Err(invalid("mode is not one of create, ensure and replace"));
            }
            let account = op.account.as_ref().ok_or_else(|| invalid("account is missing"))?;
            check_user(shard, map, &account.user)?;
            check_credentials(account)
        }
        DirectoryOp::DeleteAccount(op) => check_user(shard, map, &op.user),
        DirectoryOp::RevokeTokens(op) => {
            check_user(shard, map, &op.user)?;
            match (op.before_ms, op.id.is_empty(), op.time_ms) {
                (0, true, _) => Err(invalid("revocation names neither a time nor a token")),
                (_, _, 0) => Err(invalid("revocation has no time")),
                _ => check_token_id(&op.id),
            }
        }
        DirectoryOp::EndSessions(op) => check_user(shard, map, &op.user),
        DirectoryOp::InboxEnded(op) => check_user(shard, map, &op.user),
        DirectoryOp::EraseAccount(op) => {
            check_user(shard, map, &op.user)?;
            if op.time_ms == 0 { Err(invalid("erasure has no time")) } else { Ok(()) }
        }
        DirectoryOp::AccountErased(op) => check_user(shard, map, &op.user),
        DirectoryOp::ChangeContact(op) => contacts::check_change(shard, map, op),
        DirectoryOp::ChangePrivacy(op) => privacy::check_change(shard, map, op),
        DirectoryOp::SetDomain(op) => {
            check_registry(shard)?;
            domains::check_set(op)
        }
        DirectoryOp::PutSession(op) => {
            let session = op.session.as_ref().ok_or_else(|| invalid("session is missing"))?;
            check_user(shard, map, &session.user)?;
            check_device(&session.device)?;
            check_token_id(&session.token_id)?;
            if session.lease == 0 { Err(invalid("session has lease 0")) } else { Ok(()) }
        }
        DirectoryOp::DeleteSession(op) => {
            check_user(shard, map, &op.user)?;
            check_device(&op.device)
        }
        DirectoryOp::RegisterNode(op) => {
            check_registry(shard)?;
            check_node(op)
        }
        DirectoryOp::RenewLease(_)
        | DirectoryOp::DeregisterNode(_)
        | DirectoryOp::AdvanceLeaseClock(_)
        | DirectoryOp::AddRingSlot(_)
        | DirectoryOp::DropRingSlot(_) => check_registry(shard),
        DirectoryOp::SetLevel(_) => Ok(()),
        DirectoryOp::FoundCluster(op) => {
            check_registry(shard)?;
            if op.members.is_empty() || op.members.len() >= FOUNDERS as usize {
                return Err(invalid(format!("cluster of {} members, not 1 to {}", op.members.len(), FOUNDERS - 1)));
            }
            op.members.iter().try_for_each(|member| match member.node {
                1..FOUNDERS => check_storage_node(member),
                node => Err(invalid(format!("member {node}, not 1 to {}", FOUNDERS - 1))),
            })?;
            if (op.directory_shards, op.timeline_shards) == (map.directory.into(), map.timeline.into()) {
                Ok(())
            } else {
                Err(invalid("numbers of shards are not those of the cluster"))
            }
        }
        DirectoryOp::SetStorageNode(op) => {
            check_registry(shard)?;
            check_storage_node(op.node.as_ref().ok_or_else(|| invalid("storage node is missing"))?)
        }
        DirectoryOp::AddStorageNode(op) => {
            check_registry(shard)?;
            let node = op.node.as_ref().ok_or_else(|| invalid("storage node is missing"))?;
            if node.node != 0 {
                return Err(invalid("a new storage node has no id yet"));
            }
            check_storage_node(node)
        }
        DirectoryOp::SetStorageNodeState(op) => {
            check_registry(shard)?;
            State::try_from(op.state).map(drop).map_err(|_| invalid("state of a storage node is unknown"))
        }
        DirectoryOp::MoveReplica(op) => {
            check_registry(shard)?;
            check_group(map, op.group)?;
            if op.group == ShardId::REGISTRY.group() {
                return Err(invalid("the registry's shard is on all storage nodes"));
            }
            Ok(())
        }
        DirectoryOp::ReplicaJoined(op) => {
            check_registry(shard)?;
            check_group(map, op.group)
        }
        DirectoryOp::PreferReplica(op) => {
            check_registry(shard)?;
            check_group(map, op.group)
        }
        DirectoryOp::SetReplicaVotes(_) | DirectoryOp::DropStorageNode(_) | DirectoryOp::Rebalance(_) => {
            check_registry(shard)
        }
        DirectoryOp::RaiseLevel(_) => check_registry(shard),
        DirectoryOp::PlaceReplica(op) => {
            check_registry(shard)?;
            check_group(map, op.group)
        }
        DirectoryOp::RemoveReplica(op) => {
            check_registry(shard)?;
            check_group(map, op.group)
        }
        DirectoryOp::ForgetReplica(op) => {
            check_registry(shard)?;
            check_group(map, op.group)
        }
    }
}

/// True for commands that only storage nodes may issue: they change the cluster, or decide what is removed.
pub(crate) fn is_the_nodes(command: &DirectoryCommand) -> bool {
    matches!(
        command.op,
        Some(
            DirectoryOp::ChangeContact(ChangeContact { change: Some(Change::Sweep(_)), .. })
                | DirectoryOp::SetLevel(_)
                | DirectoryOp::FoundCluster(_)
                | DirectoryOp::SetStorageNode(_)
                | DirectoryOp::RaiseLevel(_)
                | DirectoryOp::PlaceReplica(_)
                | DirectoryOp::RemoveReplica(_)
                | DirectoryOp::ForgetReplica(_)
                | DirectoryOp::AddStorageNode(_)
                | DirectoryOp::SetStorageNodeState(_)
                | DirectoryOp::MoveReplica(_)
                | DirectoryOp::ReplicaJoined(_)
                | DirectoryOp::SetReplicaVotes(_)
                | DirectoryOp::DropStorageNode(_)
                | DirectoryOp::Rebalance(_)
                | DirectoryOp::PreferReplica(_)
                | DirectoryOp::AddRingSlot(_)
                | DirectoryOp::DropRingSlot(_)
        )
    )
}

/// True for commands that only the shard's leader may issue: they decide what is removed.
pub(crate) fn is_the_leaders(command: &TimelineCommand) -> bool {
    matches!(
        command.op,
        Some(
            TimelineOp::Trim(_)
                | TimelineOp::AdvanceClock(_)
                | TimelineOp::SweepCursors(_)
                | TimelineOp::SweepMemberships(_)
                | TimelineOp::SweepConversations(_)
                | TimelineOp::RemoveMedia(_)
                | TimelineOp::RemoveReports(_)
                | TimelineOp::ForgetReleasedMedia(_)
                | TimelineOp::CheckMedia(_)
                | TimelineOp::ExpireMessages(_)
                | TimelineOp::CollectGarbage(_)
                | TimelineOp::Redact(_)
                | TimelineOp::SenderErased(_)
                | TimelineOp::SetLevel(_)
        )
    )
}

/// Checks that this command may enter the log of this shard.
pub(crate) fn check_timeline(shard: ShardId, map: ShardMap, command: &TimelineCommand) -> Result<(), Rejected> {
    match command.op.as_ref().ok_or_else(|| invalid("command has no operation"))? {
        TimelineOp::Append(op) => check_append(shard, map, op).map(drop),
        TimelineOp::SetCursor(op) => match check_timeline_key(shard, map, op.timeline.as_ref())? {
            Kind::Inbox => check_device(&op.device),
            Kind::Group | Kind::Unspecified => {
                Err(invalid("a cursor in a group stands in the shard of its user's inbox"))
            }
        },
        TimelineOp::MoveCursors(op) => check_moves(shard, map, op),
        TimelineOp::Trim(op) => {
            check_timeline_key(shard, map, op.timeline.as_ref())?;
            match op.limit {
                1..=TRIM_ENVELOPES => Ok(()),
                limit => Err(invalid(format!("trim of {limit} envelopes, not 1 to {TRIM_ENVELOPES}"))),
            }
        }
        TimelineOp::RenewEpoch(op) => {
            check_timeline_key(shard, map, op.timeline.as_ref())?;
            if op.new_epoch == 0 { Err(invalid("new epoch is 0")) } else { Ok(()) }
        }
        TimelineOp::AdvanceClock(_) => Ok(()),
        TimelineOp::SweepCursors(op) => match op.cursors.len() {
            0..=SWEEP_CURSORS => Ok(()),
            count => Err(invalid(format!("sweep of {count} cursors, not at most {SWEEP_CURSORS}"))),
        },
        TimelineOp::EndTimeline(op) => {
            check_timeline_key(shard, map, op.timeline.as_ref())?;
            if op.incarnation == 0 { Err(invalid("a timeline ends for incarnation 0")) } else { Ok(()) }
        }
        // Any user: the sender may write to any shard.
        TimelineOp::EndSender(op) => {
            check_any_user(&op.sender)?;
            if op.generation == 0 { Err(invalid("a sender ends for generation 0")) } else { Ok(()) }
        }
        TimelineOp::EraseSender(op) => {
            check_any_user(&op.sender)?;
            if op.generation == 0 { Err(invalid("a sender is erased for generation 0")) } else { Ok(()) }
        }
        TimelineOp::Redact(op) => match op.messages.len() {
            1..=REDACTED => check_any_user(&op.sender),
            count => Err(invalid(format!("{count} messages are to be replaced, not 1 to {REDACTED}"))),
        },
        TimelineOp::SenderErased(op) => check_any_user(&op.sender),
        TimelineOp::CollectGarbage(op) => match op.limit {
            1..=COLLECTED_KEYS => Ok(()),
            limit => Err(invalid(format!("removal of {limit} records, not 1 to {COLLECTED_KEYS}"))),
        },
        TimelineOp::ChangeGroup(op) => groups::check_change(shard, map, op),
        TimelineOp::SetMembership(op) => groups::check_membership(shard, map, op),
        TimelineOp::SettleOutbox(op) => groups::check_settled(op),
        TimelineOp::SweepMemberships(op) => match op.rows.len() {
            0..=SWEEP_MEMBERSHIPS => {
                op.rows.iter().try_for_each(|row| check_any_timeline(row.group.as_ref()).map(drop))
            }
            count => Err(invalid(format!("sweep of {count} memberships, not at most {SWEEP_MEMBERSHIPS}"))),
        },
        TimelineOp::MoveMarks(op) => conversations::check_marks(shard, map, op),
        TimelineOp::SetConversation(op) => conversations::check_settings(shard, map, op),
        TimelineOp::SweepConversations(op) => conversations::check_swept(op),
        TimelineOp::CreateMedia(op) => media::check_created(shard, map, op),
        TimelineOp::CompleteMedia(op) => media::check_completed(shard, map, op),
        TimelineOp::RemoveMedia(op) => media::check_removed(op),
        TimelineOp::ForgetReleasedMedia(op) => media::check_forgotten(op),
        TimelineOp::NoteReleasedMedia(op) => media::check_released(shard, map, op),
        TimelineOp::CheckMedia(op) => media::check_looked_for(shard, map, op),
        TimelineOp::CollectMedia(op) => media::check_collected(shard, map, op),
        TimelineOp::Schedule(op) => scheduled::check_scheduled(shard, map, op),
        TimelineOp::ChangeScheduled(op) => scheduled::check_change(shard, map, op),
        TimelineOp::ReleaseScheduled(op) => scheduled::check_released(op),
        TimelineOp::SettleScheduled(op) => scheduled::check_settled(op),
        TimelineOp::PutReport(op) => reports::check_put(shard, map, op),
        TimelineOp::SettleReport(op) => reports::check_settled(op),
        TimelineOp::RemoveReports(op) => reports::check_removed(op),
        // Its time is bounded by the shard's clock.
        TimelineOp::ExpireMessages(_) => Ok(()),
        TimelineOp::SetLevel(_) => Ok(()),
    }
}

fn check_append(shard: ShardId, map: ShardMap, op: &Append) -> Result<Kind, Rejected> {
    let kind = check_timeline_key(shard, map, op.timeline.as_ref())?;
    if op.duplicate_key.len() != 16 {
        return Err(invalid(format!("duplicate key has {} bytes, not 16", op.duplicate_key.len())));
    }
    if !matches!(op.after_key.len(), 0 | 16) {
        return Err(invalid(format!("key of the message before has {} bytes, not 16", op.after_key.len())));
    }
    if op.new_epoch == 0 {
        return Err(invalid("new epoch is 0"));
    }
    // Empty for the copy in the sender's own inbox.
    if !op.sender.is_empty() {
        check_any_user(std::str::from_utf8(&op.sender).map_err(|_| invalid("sender is not UTF-8"))?)?;
    }
    conversations::check_peer(kind, op)?;
    privacy::check_admission(kind, op)?;
    if kind == Kind::Inbox && op.sender_incarnation != 0 {
        return Err(invalid("the sender's incarnation is for groups"));
    }
    if kind == Kind::Inbox && op.group_incarnation.is_some() {
        return Err(invalid("an inbox is no group"));
    }
    if let Some(header) = &op.header {
        headers::check(kind, header, &op.envelope)?;
        headers::check_expiry(header, op.time_ms, &op.envelope)?;
    }
    match op.envelope.len() {
        1..=MAX_ENVELOPE_BYTES => Ok(kind),
        bytes => Err(invalid(format!("envelope has {bytes} bytes, not 1 to {MAX_ENVELOPE_BYTES}"))),
    }
}

/// Returns the timeline's kind.
fn check_timeline_key(shard: ShardId, map: ShardMap, key: Option<&TimelineKey>) -> Result<Kind, Rejected> {
    let (kind, owner) = check_any_timeline(key)?;
    check_shard(shard, map.timeline_of_owner(owner), &owner)?;
    Ok(kind)
}

/// A timeline of any shard. Returns its kind and owner.
fn check_any_timeline(key: Option<&TimelineKey>) -> Result<(Kind, &str), Rejected> {
    let key = key.ok_or_else(|| invalid("timeline is missing"))?;
    let owner = key.check().map_err(invalid)?.ok_or_else(|| invalid("timeline has no kind"))?;
    Ok((key.kind(), owner))
}

fn check_moves(shard: ShardId, map: ShardMap, op: &MoveCursors) -> Result<(), Rejected> {
    let inbox = check_timeline_key(shard, map, op.timeline.as_ref())?;
    if inbox != Kind::Inbox {
        return Err(invalid("cursors stand in the shard of their user's inbox, and not in that of a group"));
    }
    check_device(&op.device)?;
    if !(1..=MOVED_CURSORS).contains(&op.moved.len()) {
        return Err(invalid(format!("moves of {} cursors, not 1 to {MOVED_CURSORS}", op.moved.len())));
    }
    op.moved.iter().try_for_each(|moved| match check_any_timeline(moved.timeline.as_ref())? {
        _ if moved.epoch == 0 => Err(invalid("cursor of epoch 0")),
        (Kind::Inbox, _) if op.timeline != moved.timeline => Err(invalid("cursor in somebody else's inbox")),
        _ => Ok(()),
    })
}

fn check_user(shard: ShardId, map: ShardMap, user: &str) -> Result<(), Rejected> {
    let user = UserId::new(user).map_err(invalid)?;
    check_shard(shard, map.directory_of(&user), &user)
}

/// A user of any shard.
fn check_any_user(given: &str) -> Result<(), Rejected> {
    UserId::check(given).map_err(invalid)
}

fn check_device(given: &str) -> Result<(), Rejected> {
    DeviceId::check(given).map_err(invalid)
}

fn check_token_id(id: &str) -> Result<(), Rejected> {
    match id.len() {
        0..=MAX_TOKEN_ID_BYTES => Ok(()),
        bytes => Err(invalid(format!("id of a token has {bytes} bytes, not up to {MAX_TOKEN_ID_BYTES}"))),
    }
}

fn check_shard(shard: ShardId, right: ShardId, what: &dyn Display) -> Result<(), Rejected> {
    if shard == right {
        return Ok(());
    }
    Err(Rejected {
        reason: Reason::WrongShard.into(),
        detail: format!("{what} is in shard {right}, not {shard}"),
        ..Rejected::default()
    })
}

fn check_registry(shard: ShardId) -> Result<(), Rejected> {
    debug_assert_eq!(ShardId::REGISTRY.kind, ShardKind::Directory);
    check_shard(shard, ShardId::REGISTRY, &"the registry")
}

fn check_credentials(account: &Account) -> Result<(), Rejected> {
    let Some(scram) = &account.scram else { return Ok(()) };
    let right = (1..=MAX_SALT_BYTES).contains(&scram.salt.len())
        && (1..=credentials::MAX_ITERATIONS).contains(&scram.iterations)
        && scram.stored_key.len() == 32
        && scram.server_key.len() == 32;
    if right { Ok(()) } else { Err(invalid("credentials are not those of SCRAM-SHA-256")) }
}

fn check_node(node: &RegisterNode) -> Result<(), Rejected> {
    match node.kind() {
        NodeKind::Gateway => {}
        NodeKind::Router if node.address.is_empty() => return Err(invalid("router has no address")),
        NodeKind::Router => {}
        NodeKind::Unspecified | NodeKind::Storage => {
            return Err(invalid("only gateways and routers are registered"));
        }
    }
    if node.address.len() > MAX_ADDRESS_BYTES || node.address.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(invalid(format!("address is not host:port of at most {MAX_ADDRESS_BYTES} bytes")));
    }
    if node.nonce.len() != 16 {
        return Err(invalid(format!("nonce has {} bytes, not 16", node.nonce.len())));
    }
    if !LEASE_TTL_MS.contains(&node.ttl_ms) {
        let (least, most) = (LEASE_TTL_MS.start(), LEASE_TTL_MS.end());
        return Err(invalid(format!("lease of {} ms, not {least} to {most}", node.ttl_ms)));
    }
    Ok(())
}

fn check_group(map: ShardMap, group: u64) -> Result<(), Rejected> {
    match ShardId::from_group(group).filter(|shard| map.has(*shard)) {
        Some(_) => Ok(()),
        None => Err(invalid(format!("the cluster has no Raft group {group}"))),
    }
}

fn check_storage_node(node: &StorageNode) -> Result<(), Rejected> {
    if node.disk.len() != 16 {
        return Err(invalid(format!("id of a disk has {} bytes, not 16", node.disk.len())));
    }
    if node.address.len() > MAX_ADDRESS_BYTES || check_reachable(&node.address).is_err() {
        return Err(invalid(format!("address is not host:port of at most {MAX_ADDRESS_BYTES} bytes")));
    }
    if node.zone.len() > MAX_ZONE_BYTES || node.zone.chars().any(char::is_control) {
        return Err(invalid(format!("zone has more than {MAX_ZONE_BYTES} bytes, or control characters")));
    }
    if node.state != 0 {
        return Err(invalid("a storage node does not set its own state"));
    }
    Ok(())
}

fn invalid(detail: impl Display) -> Rejected {
    Rejected { reason: Reason::Invalid.into(), detail: detail.to_string(), ..Rejected::default() }
}

#[cfg(test)]
mod tests;
