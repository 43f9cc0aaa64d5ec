//! The state machine of a directory shard: accounts and sessions, and in the first shard the registry.

use std::io;

use carillon_proto::{
    Level, ShardId,
    limits::ENTRY_COMMANDS,
    pb::link::evict,
    pb::store::{
        Account, DeleteSession, DirectoryCommand, Done, PutSession, Registered, Rejected, ReplicaPlaced, Session,
        SessionPut, StoreError, directory_command::Op, rejected::Reason, store_error::Why,
    },
    sessions,
};
use prost::Message;
use tokio::sync::watch;

use super::{
    DirectoryReader, EntryCommands, Machine, Outcome, Record, broken,
    cluster::{ClusterRows, NoChange},
    directory_level, keys,
    level::{Reading, ShardLevel},
    registry::{Registry, RegistryState},
};
use crate::engine::{Changes, sled::DirectoryShard};

/// When a user was last there is kept to the minute: a device that comes and goes each second changes it once a minute.
const LAST_SEEN_MS: u64 = 60_000;

pub(crate) struct DirectoryMachine {
    shard: DirectoryShard,
    registry: Registry,
    reading: Reading,
    level: ShardLevel,
    published: watch::Sender<RegistryState>,
}

impl DirectoryMachine {
    /// `known`: the highest level that this program reads.
    pub(crate) fn open(shard: DirectoryShard, known: Level) -> io::Result<(Self, DirectoryReader)> {
        let registry = Registry::load(&shard)?;
        let reading = Reading::load(shard.get(keys::LEVEL)?.as_deref(), known)?;
        let level = ShardLevel::default();
        level.set(reading.level);
        let (published, watching) = watch::channel(registry.state());
        let reader = DirectoryReader::new(shard.clone(), watching, level.clone());
        Ok((Self { shard, registry, reading, level, published }, reader))
    }

    fn publish(&self) {
        let state = self.registry.state();
        self.published.send_if_modified(|published| {
            let modified = *published != state;
            *published = state;
            modified
        });
    }
}

impl Machine for DirectoryMachine {
    fn applied(&self) -> io::Result<Option<Vec<u8>>> {
        self.shard.applied()
    }

    fn apply(&mut self, entries: &[EntryCommands], applied: &[u8]) -> io::Result<Vec<Vec<Outcome>>> {
        let version = self.registry.version();
        let mut batch = Batch {
            shard: &self.shard,
            registry: self.registry.clone(),
            reading: self.reading,
            changes: Changes::default(),
        };
        let outcomes = entries.iter().map(|entry| batch.entry(entry)).collect::<io::Result<_>>()?;
        let Batch { registry, reading, changes, .. } = batch;
        self.shard.commit(changes, applied)?;
        (self.registry, self.reading) = (registry, reading);
        self.level.set(reading.level);
        if self.registry.version() != version {
            self.publish();
        }
        Ok(outcomes)
    }

    fn syncer(&self) -> Box<dyn Fn() -> io::Result<()> + Send + Sync> {
        let shard = self.shard.clone();
        Box::new(move || shard.sync())
    }

    fn snapshot(&mut self) -> io::Result<Box<dyn Iterator<Item = Record> + Send>> {
        Ok(Box::new(self.shard.records()))
    }

    fn restore(&mut self, records: &mut dyn Iterator<Item = Record>, applied: &[u8]) -> io::Result<()> {
        // If the restore fails, the shard is empty.
        self.registry = Registry::default();
        self.shard.restore(records, applied)?;
        self.registry = Registry::load(&self.shard)?;
        self.reading = Reading::load(self.shard.get(keys::LEVEL)?.as_deref(), self.reading.known)?;
        self.level.set(self.reading.level);
        self.publish();
        Ok(())
    }
}

/// The result of the entries of one batch.
pub(super) struct Batch<'a> {
    pub(super) shard: &'a DirectoryShard,
    registry: Registry,
    pub(super) reading: Reading,
    pub(super) changes: Changes,
}

impl Batch<'_> {
    fn entry(&mut self, entry: &EntryCommands) -> io::Result<Vec<Outcome>> {
        if entry.commands.len() > ENTRY_COMMANDS {
            // Otherwise two commands would have one name.
            return Err(broken("number of commands in an entry"));
        }
        let commands = entry.commands.iter().enumerate();
        commands.map(|(place, command)| self.command(name(entry.index, place), command.clone())).collect()
    }

    fn command(&mut self, at: u64, command: bytes::Bytes) -> io::Result<Outcome> {
        let command: DirectoryCommand = self.reading.decode(command)?;
        let op = command.op.ok_or_else(|| broken("command without an operation"))?;
        self.reading.check(directory_level(&op))?;
        Ok(match op {
            Op::PutAccount(op) => self.put_account(at, op)?,
            Op::DeleteAccount(op) => self.delete_account(at, &op)?,
            Op::RevokeTokens(op) => self.revoke_tokens(op)?,
            Op::EndSessions(op) => self.end_sessions(at, &op)?,
            Op::InboxEnded(op) => self.inbox_ended(&op)?,
            Op::EraseAccount(op) => self.erase_account(at, &op)?,
            Op::AccountErased(op) => self.account_erased(at, &op)?,
            Op::ChangeContact(op) => self.change_contact(op)?,
            Op::ChangePrivacy(op) => self.change_privacy(op)?,
            Op::PutSession(op) => self.put_session(op)?,
            Op::DeleteSession(op) => self.delete_session(&op)?,
            Op::RegisterNode(op) => {
                Outcome::Registered(Registered { lease: self.registry.register(at, &op, &mut self.changes)? })
            }
            Op::RenewLease(op) if self.registry.renew(op.lease, &mut self.changes) => done(),
            Op::RenewLease(op) => not_found(format!("lease {} has ended: register anew", op.lease)),
            Op::DeregisterNode(op) => {
                self.registry.deregister(at, op.lease, &mut self.changes);
                done()
            }
            Op::AdvanceLeaseClock(op) => {
                self.registry.advance(at, op.elapsed_ms, &mut self.changes);
                done()
            }
            Op::AddRingSlot(op) => {
                self.registry.add_slot(at, op.lease, &mut self.changes);
                done()
            }
            Op::DropRingSlot(op) => {
                self.registry.drop_slot(at, op.slot, &mut self.changes);
                done()
            }
            Op::SetLevel(op) => {
                self.reading.set(&op, &mut self.changes)?;
                self.registry.level_rises(at, self.reading.level, &mut self.changes);
                done()
            }
            Op::FoundCluster(op) => {
                self.registry.found(at, &op, &mut self.changes)?;
                done()
            }
            Op::SetDomain(op) => match self.registry.set_domain(at, &op, &mut self.changes) {
                Ok(()) => done(),
                Err((reason, why)) => rejected(reason, why),
            },
            op @ (Op::SetStorageNode(_)
            | Op::RaiseLevel(_)
            | Op::PlaceReplica(_)
            | Op::RemoveReplica(_)
            | Op::ForgetReplica(_)
            | Op::AddStorageNode(_)
            | Op::SetStorageNodeState(_)
            | Op::MoveReplica(_)
            | Op::ReplicaJoined(_)
            | Op::SetReplicaVotes(_)
            | Op::DropStorageNode(_)
            | Op::Rebalance(_)
            | Op::PreferReplica(_)) => self.change_cluster(at, op)?,
        })
    }

    fn change_cluster(&mut self, at: u64, op: Op) -> io::Result<Outcome> {
        let shard = |group| ShardId::from_group(group).ok_or_else(|| broken("shard in a command"));
        let (registry, changes) = (&mut self.registry, &mut self.changes);
        let changed = match op {
            Op::SetStorageNode(op) => {
                let node = op.node.ok_or_else(|| broken("SetStorageNode"))?;
                registry.change_cluster(at, changes, |rows, changes| rows.set_node(&node, changes)).map(drop)
            }
            Op::RaiseLevel(op) => {
                registry.change_cluster(at, changes, |rows, changes| rows.raise(Level(op.level), changes)).map(drop)
            }
            Op::PlaceReplica(op) => {
                let shard = shard(op.group)?;
                let placed =
                    registry.change_cluster(at, changes, |rows, changes| rows.place(at, shard, op.node, changes));
                return Ok(match placed {
                    Ok(replica) => Outcome::ReplicaPlaced(ReplicaPlaced { replica }),
                    Err(why) => unchanged(why),
                });
            }
            Op::RemoveReplica(op) => {
                let shard = shard(op.group)?;
                registry.change_cluster(at, changes, |rows, changes| rows.remove(shard, op.replica, changes)).map(drop)
            }
            Op::ForgetReplica(op) => {
                let shard = shard(op.group)?;
                registry.change_cluster(at, changes, |rows, changes| rows.forget(shard, op.replica, changes)).map(drop)
            }
            Op::AddStorageNode(op) => {
                let node = op.node.ok_or_else(|| broken("AddStorageNode"))?;
                let added = registry.change_cluster(at, changes, |rows, changes| rows.add_node(at, &node, changes));
                return Ok(added.map_or_else(unchanged, Outcome::NodeAdded));
            }
            Op::SetStorageNodeState(op) => {
                let state = op.state();
                registry.change_cluster(at, changes, |rows, changes| rows.set_state(op.node, state, changes)).map(drop)
            }
            Op::MoveReplica(op) => {
                let shard = shard(op.group)?;
                let moved = registry.change_cluster(at, changes, |rows, changes| {
                    rows.move_replica(at, shard, op.replica, op.node, changes)
                });
                return Ok(moved.map_or_else(unchanged, |replica| Outcome::ReplicaPlaced(ReplicaPlaced { replica })));
            }
            Op::ReplicaJoined(op) => {
                let shard = shard(op.group)?;
                registry.change_cluster(at, changes, |rows, changes| rows.joined(shard, op.replica, changes)).map(drop)
            }
            Op::SetReplicaVotes(op) => {
                let change = |rows: &mut ClusterRows, changes: &mut _| rows.set_votes(op.replica, op.votes, changes);
                registry.change_cluster(at, changes, change).map(drop)
            }
            Op::DropStorageNode(op) => {
                registry.change_cluster(at, changes, |rows, changes| rows.drop_node(op.node, changes)).map(drop)
            }
            Op::Rebalance(op) => {
                registry.change_cluster(at, changes, |rows, changes| rows.rebalance(op.on, changes)).map(drop)
            }
            Op::PreferReplica(op) => {
                let shard = shard(op.group)?;
                registry.change_cluster(at, changes, |rows, changes| rows.prefer(shard, op.replica, changes)).map(drop)
            }
            _ => return Err(broken("command on the cluster")),
        };
        Ok(changed.map_or_else(unchanged, |()| done()))
    }

    fn put_session(&mut self, op: PutSession) -> io::Result<Outcome> {
        let PutSession { session, announced, max_sessions } = op;
        let mut session = session.ok_or_else(|| broken("PutSession"))?;
        let account = match self.get::<Account>(&keys::account(&session.user), "account")? {
            // A reserved name has no owner yet.
            None | Some(Account { reserved: true, .. }) => {
                return Ok(not_found(format!("there is no user {:?}", session.user)));
            }
            Some(account) => account,
        };
        session.ended = false;
        if session.by_token && !announced && !account.deleted {
            session.generation = account.generation;
        }
        if let Some(why) = sessions::over(&account, &session) {
            return Ok(rejected(Reason::Gone, sessions::told_of(&account, &session, why).to_owned()));
        }
        let overtook = |existing: &Session| {
            sessions::over(&account, existing).is_none() && sessions::overtook(existing, &session, announced)
        };
        let handle = |session: &Session| (session.lease, session.connection);
        let key = keys::session(&session.user, &session.device);
        let mut answer =
            SessionPut { incarnation: account.incarnation, generation: session.generation, ..SessionPut::default() };
        match self.get::<Session>(&key, "session")? {
            Some(existing) if overtook(&existing) => {
                if handle(&existing) != handle(&session) {
                    answer.kept = Some(existing);
                }
                return Ok(Outcome::SessionPut(answer));
            }
            Some(existing) if handle(&existing) != handle(&session) => answer.replaced = Some(existing),
            Some(existing) if existing.ended => return Ok(gone(evict::Why::Operator)),
            Some(_) => {}
            None if !announced && max_sessions != 0 => {
                let sessions = self.sessions_of(&session.user)?.len();
                if sessions >= max_sessions as usize {
                    let why = format!("this user has {sessions} of {max_sessions} devices signed in already");
                    return Ok(rejected(Reason::Full, why));
                }
            }
            None => {}
        }
        self.changes.put(key, session.encode_to_vec());
        Ok(Outcome::SessionPut(answer))
    }

    fn delete_session(&mut self, op: &DeleteSession) -> io::Result<Outcome> {
        let key = keys::session(&op.user, &op.device);
        let existing = self.get::<Session>(&key, "session")?;
        let is_it = |existing: &Session| (existing.lease, existing.connection) == (op.lease, op.connection);
        let session = existing.filter(is_it);
        if session.is_some() {
            self.changes.delete(key);
        }
        match session {
            // The last command counts, not the highest time: a clock that was ahead does no lasting harm.
            _ if op.time_ms != 0 => self.note_last_seen(&op.user, op.generation, |_| op.time_ms)?,
            // Nobody has seen how it ended: it is known when it began.
            Some(Session { generation, since_ms, .. }) if self.reading.level >= Level::GROUPS => {
                self.note_last_seen(&op.user, generation, |before| since_ms.max(before))?;
            }
            _ => {}
        }
        Ok(done())
    }

    /// A session of this generation has ended. `when`: by the time that was noted before.
    fn note_last_seen(&mut self, user: &str, generation: u64, when: impl Fn(u64) -> u64) -> io::Result<()> {
        let key = keys::account(user);
        // A session that is older than the account was of the name's previous owner.
        let is_of_it = |account: &Account| !account.deleted && generation >= account.incarnation;
        let Some(account) = self.get::<Account>(&key, "account")?.filter(is_of_it) else { return Ok(()) };
        let time_ms = when(account.last_seen_ms);
        let last_seen_ms = time_ms - time_ms % LAST_SEEN_MS;
        if last_seen_ms != 0 && last_seen_ms != account.last_seen_ms {
            self.changes.put(key, Account { last_seen_ms, ..account }.encode_to_vec());
        }
        Ok(())
    }

    pub(super) fn get<M: Message + Default>(&self, key: &[u8], what: &str) -> io::Result<Option<M>> {
        match self.changes.get(key) {
            Some(value) => value.map(|value| decode(value, what)).transpose(),
            None => self.shard.get(key)?.map(|value| decode(&value, what)).transpose(),
        }
    }
}

/// The name of a log command: it grows from command to command, because an entry has at most 64 of them.
fn name(index: u64, place: usize) -> u64 {
    index * ENTRY_COMMANDS as u64 + place as u64
}

pub(super) fn decode<M: Message + Default>(bytes: &[u8], what: &str) -> io::Result<M> {
    M::decode(bytes).map_err(|_| broken(what))
}

pub(super) fn done() -> Outcome {
    Outcome::Done(Done {})
}

pub(super) fn not_found(detail: String) -> Outcome {
    rejected(Reason::NotFound, detail)
}

fn unchanged(why: NoChange) -> Outcome {
    let reason = match why {
        NoChange::NotFound(_) => Reason::NotFound,
        NoChange::Refused(_) => Reason::Invalid,
    };
    rejected(reason, why.to_string())
}

fn gone(why: evict::Why) -> Outcome {
    rejected(Reason::Gone, sessions::told(why).to_owned())
}

pub(super) fn rejected(reason: Reason, detail: String) -> Outcome {
    Outcome::Error(StoreError {
        why: Some(Why::Rejected(Rejected { reason: reason.into(), detail, ..Rejected::default() })),
    })
}
