//! What a command must be before it may enter the log. The machines rely on it: for them a malformed command is a
//! broken invariant.

use std::fmt::Display;

use carillon_proto::{
    DeviceId, ShardId, ShardKind, ShardMap, TimelineId, UserId,
    address::check_reachable,
    credentials,
    limits::{MAX_FRAME_BYTES, MOVED_CURSORS},
    pb::store::{
        Account, DirectoryCommand, MoveCursors, NodeKind, RegisterNode, Rejected, StorageNode, TimelineCommand,
        TimelineKey, directory_command::Op as DirectoryOp, put_account::Mode, rejected::Reason,
        timeline_command::Op as TimelineOp,
    },
};

use super::{
    FOUNDERS,
    retention::{SWEEP_CURSORS, TRIM_ENVELOPES},
    timeline_reader::COLLECTED_KEYS,
};

/// The largest frame and what the service adds to it: id, sender and time.
const MAX_ENVELOPE_BYTES: usize = MAX_FRAME_BYTES + 1024;
/// A host name of 253 bytes, a colon and a port.
const MAX_ADDRESS_BYTES: usize = 259;
const MAX_SALT_BYTES: usize = 64;
/// Of a token's `jti`.
const MAX_TOKEN_ID_BYTES: usize = 128;
const LEASE_TTL_MS: std::ops::RangeInclusive<u32> = 100..=600_000;

/// May this enter the log of this shard?
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
        DirectoryOp::RenewLease(_) | DirectoryOp::DeregisterNode(_) | DirectoryOp::AdvanceLeaseClock(_) => {
            check_registry(shard)
        }
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

/// Storage nodes alone make this command: it changes the cluster.
pub(crate) fn is_the_nodes(command: &DirectoryCommand) -> bool {
    matches!(
        command.op,
        Some(
            DirectoryOp::SetLevel(_)
                | DirectoryOp::FoundCluster(_)
                | DirectoryOp::SetStorageNode(_)
                | DirectoryOp::RaiseLevel(_)
                | DirectoryOp::PlaceReplica(_)
                | DirectoryOp::RemoveReplica(_)
                | DirectoryOp::ForgetReplica(_)
        )
    )
}

/// The shard's leader alone makes this command: it decides what is removed.
pub(crate) fn is_the_leaders(command: &TimelineCommand) -> bool {
    matches!(
        command.op,
        Some(
            TimelineOp::Trim(_)
                | TimelineOp::AdvanceClock(_)
                | TimelineOp::SweepCursors(_)
                | TimelineOp::CollectGarbage(_)
                | TimelineOp::SetLevel(_)
        )
    )
}

/// May this enter the log of this shard?
pub(crate) fn check_timeline(shard: ShardId, map: ShardMap, command: &TimelineCommand) -> Result<(), Rejected> {
    match command.op.as_ref().ok_or_else(|| invalid("command has no operation"))? {
        TimelineOp::Append(op) => {
            check_timeline_key(shard, map, op.timeline.as_ref())?;
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
                parse_user(std::str::from_utf8(&op.sender).map_err(|_| invalid("sender is not UTF-8"))?)?;
            }
            match op.envelope.len() {
                1..=MAX_ENVELOPE_BYTES => Ok(()),
                bytes => Err(invalid(format!("envelope has {bytes} bytes, not 1 to {MAX_ENVELOPE_BYTES}"))),
            }
        }
        TimelineOp::SetCursor(op) => match check_timeline_key(shard, map, op.timeline.as_ref())? {
            TimelineId::Inbox(_) => check_device(&op.device),
            TimelineId::Group(_) => Err(invalid("a cursor in a group stands in the shard of its user's inbox")),
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
        // Of any user: what it sends may be for any shard.
        TimelineOp::EndSender(op) => {
            parse_user(&op.sender)?;
            if op.generation == 0 { Err(invalid("a sender ends for generation 0")) } else { Ok(()) }
        }
        TimelineOp::CollectGarbage(op) => match op.limit {
            1..=COLLECTED_KEYS => Ok(()),
            limit => Err(invalid(format!("removal of {limit} records, not 1 to {COLLECTED_KEYS}"))),
        },
        TimelineOp::SetLevel(_) => Ok(()),
    }
}

fn check_timeline_key(shard: ShardId, map: ShardMap, key: Option<&TimelineKey>) -> Result<TimelineId, Rejected> {
    let timeline = parse_timeline(key)?;
    check_shard(shard, map.timeline_of(&timeline), &timeline)?;
    Ok(timeline)
}

/// Of any shard.
fn parse_timeline(key: Option<&TimelineKey>) -> Result<TimelineId, Rejected> {
    let key = key.ok_or_else(|| invalid("timeline is missing"))?;
    let timeline = TimelineId::from_key(key).map_err(invalid)?.ok_or_else(|| invalid("timeline has no kind"))?;
    check_normalised("owner", &key.owner, timeline.owner())?;
    Ok(timeline)
}

fn check_moves(shard: ShardId, map: ShardMap, op: &MoveCursors) -> Result<(), Rejected> {
    let inbox = check_timeline_key(shard, map, op.timeline.as_ref())?;
    if !matches!(inbox, TimelineId::Inbox(_)) {
        return Err(invalid("cursors stand in the shard of their user's inbox, and not in that of a group"));
    }
    check_device(&op.device)?;
    if !(1..=MOVED_CURSORS).contains(&op.moved.len()) {
        return Err(invalid(format!("moves of {} cursors, not 1 to {MOVED_CURSORS}", op.moved.len())));
    }
    op.moved.iter().try_for_each(|moved| match parse_timeline(moved.timeline.as_ref())? {
        _ if moved.epoch == 0 => Err(invalid("cursor of epoch 0")),
        TimelineId::Inbox(_) if op.timeline != moved.timeline => Err(invalid("cursor in somebody else's inbox")),
        TimelineId::Inbox(_) | TimelineId::Group(_) => Ok(()),
    })
}

fn check_user(shard: ShardId, map: ShardMap, user: &str) -> Result<(), Rejected> {
    let user = parse_user(user)?;
    check_shard(shard, map.directory_of(&user), &user)
}

fn parse_user(given: &str) -> Result<UserId, Rejected> {
    let user = UserId::new(given).map_err(invalid)?;
    check_normalised("user", given, user.as_str())?;
    Ok(user)
}

fn check_device(given: &str) -> Result<(), Rejected> {
    let device = DeviceId::new(given).map_err(invalid)?;
    check_normalised("device", given, device.as_str())
}

fn check_token_id(id: &str) -> Result<(), Rejected> {
    match id.len() {
        0..=MAX_TOKEN_ID_BYTES => Ok(()),
        bytes => Err(invalid(format!("id of a token has {bytes} bytes, not up to {MAX_TOKEN_ID_BYTES}"))),
    }
}

fn check_normalised(what: &str, given: &str, right: &str) -> Result<(), Rejected> {
    if given == right { Ok(()) } else { Err(invalid(format!("{what} {given:?} is not normalised: {right:?}"))) }
}

fn check_shard(shard: ShardId, right: ShardId, what: &dyn Display) -> Result<(), Rejected> {
    if shard == right {
        return Ok(());
    }
    Err(Rejected { reason: Reason::WrongShard.into(), detail: format!("{what} is in shard {right}, not {shard}") })
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
    Ok(())
}

fn invalid(detail: impl Display) -> Rejected {
    Rejected { reason: Reason::Invalid.into(), detail: detail.to_string() }
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::store::{
        AdvanceLeaseClock, Append, CollectGarbage, EndSender, EndTimeline, PutAccount, RevokeTokens, ScramCredentials,
        SetCursor, Trim, move_cursors::Moved, timeline_key::Kind,
    };

    use super::*;

    const MAP: ShardMap = ShardMap { directory: 8, timeline: 16 };

    fn alices(kind: ShardKind) -> ShardId {
        // As the golden test of the shard map has it.
        ShardId { kind, index: 1 }
    }

    fn key(kind: Kind, owner: &str) -> Option<TimelineKey> {
        Some(TimelineKey { kind: kind.into(), owner: owner.into() })
    }

    fn timeline(op: TimelineOp) -> Result<(), (Reason, String)> {
        check_timeline(alices(ShardKind::Timeline), MAP, &TimelineCommand { op: Some(op) })
            .map_err(|rejected| (rejected.reason(), rejected.detail))
    }

    fn directory(shard: ShardId, op: DirectoryOp) -> Result<(), (Reason, String)> {
        check_directory(shard, MAP, &DirectoryCommand { op: Some(op) })
            .map_err(|rejected| (rejected.reason(), rejected.detail))
    }

    fn append() -> Append {
        Append {
            timeline: key(Kind::Inbox, "alice"),
            duplicate_key: vec![1; 16].into(),
            time_ms: 1,
            envelope: vec![1].into(),
            new_epoch: 1,
            after_key: Default::default(),
            incarnation: 0,
            ..Append::default()
        }
    }

    #[test]
    fn malformed_appends_are_refused() {
        assert_eq!(timeline(TimelineOp::Append(append())), Ok(()));
        type Change = fn(&mut Append);
        let wrong: [(&str, Change); 11] = [
            ("missing", |op| op.timeline = None),
            ("kind", |op| op.timeline = key(Kind::Unspecified, "alice")),
            ("normal form is \"alice\"", |op| op.timeline = key(Kind::Inbox, "Alice")),
            ("not valid", |op| op.timeline = key(Kind::Inbox, "a b")),
            ("not 16", |op| op.duplicate_key = vec![1; 15].into()),
            ("before has 3", |op| op.after_key = vec![1; 3].into()),
            ("epoch", |op| op.new_epoch = 0),
            ("envelope", |op| op.envelope = vec![0; MAX_ENVELOPE_BYTES + 1].into()),
            ("normal form is \"bob\"", |op| op.sender = "Bob".into()),
            ("not valid", |op| op.sender = "a b".into()),
            ("sender is not UTF-8", |op| op.sender = vec![0xff].into()),
        ];
        for (why, change) in wrong {
            let mut op = append();
            change(&mut op);
            let (reason, detail) = timeline(TimelineOp::Append(op)).expect_err(why);
            assert!(reason == Reason::Invalid && detail.contains(why), "{why}: {detail}");
        }
        let op = Append { timeline: key(Kind::Inbox, "bob"), ..append() };
        assert_eq!(timeline(TimelineOp::Append(op)).expect_err("bob's shard").0, Reason::WrongShard);
    }

    #[test]
    fn malformed_cursors_and_trims_are_refused() {
        let cursor = |kind, device: &str| {
            let timeline = key(kind, "alice");
            TimelineOp::SetCursor(SetCursor { timeline, device: device.into(), epoch: 1, seq: 1 })
        };
        assert_eq!(timeline(cursor(Kind::Inbox, "phone")), Ok(()));
        for (kind, device) in [(Kind::Inbox, ""), (Kind::Inbox, "\u{0}"), (Kind::Group, "phone")] {
            assert!(timeline(cursor(kind, device)).is_err(), "{device:?}");
        }
        let trim =
            |limit| TimelineOp::Trim(Trim { timeline: key(Kind::Inbox, "alice"), before_seq: 2, limit, epoch: 0 });
        assert_eq!(timeline(trim(TRIM_ENVELOPES)), Ok(()));
        assert!(timeline(trim(0)).is_err() && timeline(trim(TRIM_ENVELOPES + 1)).is_err());
    }

    #[test]
    fn malformed_moves_are_refused() {
        let moved = |kind, owner: &str| Moved { timeline: key(kind, owner), epoch: 1, seq: 1 };
        let good = MoveCursors {
            timeline: key(Kind::Inbox, "alice"),
            device: "phone".into(),
            // Wherever the group's own shard is.
            moved: [moved(Kind::Inbox, "alice")]
                .into_iter()
                .chain((1..MOVED_CURSORS).map(|n| moved(Kind::Group, &format!("group{n}"))))
                .collect(),
            incarnation: 0,
        };
        assert_eq!(timeline(TimelineOp::MoveCursors(good.clone())), Ok(()));
        type Change = fn(&mut MoveCursors);
        let wrong: [(&str, Change); 9] = [
            ("and not in that of a group", |op| op.timeline = key(Kind::Group, "alice")),
            ("device", |op| op.device = String::new()),
            ("moves of 0 cursors", |op| op.moved.clear()),
            ("moves of 257 cursors", |op| op.moved.push(op.moved[1].clone())),
            ("timeline is missing", |op| op.moved[1].timeline = None),
            ("timeline has no kind", |op| op.moved[1].timeline = key(Kind::Unspecified, "group")),
            ("normal form is \"group\"", |op| op.moved[1].timeline = key(Kind::Group, "Group")),
            ("somebody else's inbox", |op| op.moved[1].timeline = key(Kind::Inbox, "bob")),
            ("epoch 0", |op| op.moved[0].epoch = 0),
        ];
        for (why, change) in wrong {
            let mut op = good.clone();
            change(&mut op);
            let (reason, detail) = timeline(TimelineOp::MoveCursors(op)).expect_err(why);
            assert!(reason == Reason::Invalid && detail.contains(why), "{why}: {detail}");
        }
        let bobs = MoveCursors { timeline: key(Kind::Inbox, "bob"), ..good };
        assert_eq!(timeline(TimelineOp::MoveCursors(bobs)).expect_err("bob's shard").0, Reason::WrongShard);
    }

    #[test]
    fn malformed_accounts_are_refused() {
        let shard = alices(ShardKind::Directory);
        let put = |user: &str, scram| {
            let account = Some(Account { user: user.into(), scram, created_ms: 1, ..Account::default() });
            DirectoryOp::PutAccount(PutAccount { account, mode: Mode::Create.into(), ..PutAccount::default() })
        };
        let scram = ScramCredentials {
            salt: vec![1; 16].into(),
            iterations: 4096,
            stored_key: vec![2; 32].into(),
            server_key: vec![3; 32].into(),
        };
        assert_eq!(directory(shard, put("alice", None)), Ok(()));
        assert_eq!(directory(shard, put("alice", Some(scram.clone()))), Ok(()));
        let short = ScramCredentials { stored_key: vec![2; 31].into(), ..scram };
        assert!(directory(shard, put("alice", Some(short))).is_err());
        assert!(directory(shard, put("ALICE", None)).is_err());
        assert_eq!(directory(shard, put("bob", None)).expect_err("bob's shard").0, Reason::WrongShard);
    }

    #[test]
    fn malformed_endings_are_refused() {
        let end =
            |incarnation| TimelineOp::EndTimeline(EndTimeline { timeline: key(Kind::Inbox, "alice"), incarnation });
        assert_eq!(timeline(end(1)), Ok(()));
        timeline(end(0)).expect_err("every timeline has at least incarnation 0");
        let end =
            |sender: &str, generation| timeline(TimelineOp::EndSender(EndSender { sender: sender.into(), generation }));
        assert_eq!(end("bob", 1), Ok(()), "in every shard");
        for (sender, generation) in [("bob", 0), ("Bob", 1), ("", 1)] {
            end(sender, generation).expect_err("malformed");
        }
        let collect = |limit| TimelineOp::CollectGarbage(CollectGarbage { number: 1, limit });
        assert_eq!(timeline(collect(COLLECTED_KEYS)), Ok(()));
        assert!(timeline(collect(0)).is_err() && timeline(collect(COLLECTED_KEYS + 1)).is_err());
    }

    #[test]
    fn malformed_revocations_are_refused() {
        let revoke = |before_ms, id: &str, time_ms| {
            let (user, id) = ("alice".into(), id.into());
            let op = RevokeTokens { user, before_ms, id, expires_ms: 0, time_ms };
            directory(alices(ShardKind::Directory), DirectoryOp::RevokeTokens(op))
        };
        assert_eq!(revoke(1, "", 1), Ok(()));
        assert_eq!(revoke(0, &"x".repeat(MAX_TOKEN_ID_BYTES), 1), Ok(()));
        for (before_ms, id, time_ms) in [(0, "", 1), (1, "", 0), (0, &*"x".repeat(MAX_TOKEN_ID_BYTES + 1), 1)] {
            revoke(before_ms, id, time_ms).expect_err("malformed");
        }
    }

    #[test]
    fn the_registry_is_in_the_first_directory_shard_only() {
        let advance = || DirectoryOp::AdvanceLeaseClock(AdvanceLeaseClock { elapsed_ms: 1 });
        assert_eq!(directory(ShardId::REGISTRY, advance()), Ok(()));
        let elsewhere = directory(alices(ShardKind::Directory), advance()).expect_err("refused");
        assert_eq!(elsewhere.0, Reason::WrongShard);
    }

    #[test]
    fn malformed_registrations_are_refused() {
        let node = RegisterNode {
            kind: NodeKind::Router.into(),
            address: "router-0:7402".into(),
            ttl_ms: 3000,
            nonce: vec![1; 16].into(),
        };
        let check = |node: &RegisterNode| directory(ShardId::REGISTRY, DirectoryOp::RegisterNode(node.clone()));
        assert_eq!(check(&node), Ok(()));
        let wrong = [
            RegisterNode { kind: NodeKind::Storage.into(), ..node.clone() },
            RegisterNode { kind: 99, ..node.clone() },
            RegisterNode { address: String::new(), ..node.clone() },
            RegisterNode { address: "a b".into(), ..node.clone() },
            RegisterNode { ttl_ms: 0, ..node.clone() },
            RegisterNode { nonce: vec![1; 8].into(), ..node.clone() },
        ];
        for node in wrong {
            assert!(check(&node).is_err(), "{node:?}");
        }
    }
}
