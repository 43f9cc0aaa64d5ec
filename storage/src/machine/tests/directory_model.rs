//! A directory shard in memory, as it should be.

mod commands;
mod play;

use std::{cmp::Ordering, collections::BTreeMap};

use carillon_proto::{
    ShardId,
    pb::store::{
        Account, AccountChanged, DirectoryCommand, Done, Erasure, NodeKind, PutAccount, RegisterNode, Registered,
        RevokedToken, Session, SessionPut, directory_command::Op, put_account::Mode, rejected::Reason,
        store_error::Why,
    },
    sessions::over,
};

use crate::machine::Outcome;

const SHARD: ShardId = ShardId::REGISTRY;
const MINUTE_MS: u64 = 60_000;
const USERS: [&str; 3] = ["a", "ab", "b"];
const TOKENS: [&str; 3] = ["", "t1", "t2"];

#[derive(Default)]
struct Model {
    users: BTreeMap<String, (Account, BTreeMap<String, Session>)>,
    endings: BTreeMap<String, u64>,
    erasures: BTreeMap<String, Erasure>,
    /// Registration, lease, when it ends.
    nodes: Vec<(RegisterNode, u64, u64)>,
    /// Of the ring, by number.
    slots: Vec<Slot>,
    clock: u64,
    version: u64,
    ring_version: u64,
}

/// Of a slot of the ring.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Slot {
    None,
    Vacant,
    Held(u64),
}

/// An outcome without its texts.
#[derive(Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "few at a time")]
enum Answer {
    Rejected(Reason),
    Other(Outcome),
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Error(error) => match error.why {
                Some(Why::Rejected(rejected)) => Self::Rejected(rejected.reason()),
                other => panic!("a machine answers {other:?}"),
            },
            other => Self::Other(other),
        }
    }
}

impl Model {
    fn apply(&mut self, at: u64, command: &DirectoryCommand) -> Answer {
        match command.op.as_ref().expect("an operation") {
            Op::PutAccount(op) => return self.put_account(at, op),
            Op::DeleteAccount(op) => {
                let Some((account, _)) = self.users.get_mut(&op.user) else {
                    return if op.time_ms == 0 { done() } else { Answer::Rejected(Reason::NotFound) };
                };
                match (op.time_ms, account.deleted) {
                    (0, _) => {
                        self.users.remove(&op.user);
                        return done();
                    }
                    (time_ms, true) if time_ms != account.deleted_ms => return Answer::Rejected(Reason::Gone),
                    (_, true) => {}
                    (deleted_ms, false) => {
                        account.scram = None;
                        account.last_seen_ms = 0;
                        account.remade = false;
                        account.reserved = false;
                        (account.incarnation, account.generation) = (at, at);
                        (account.deleted, account.deleted_ms) = (true, deleted_ms);
                        self.endings.insert(op.user.clone(), at);
                    }
                }
                return self.account_changed(&op.user);
            }
            Op::EraseAccount(op) => {
                let Some((account, _)) = self.users.get_mut(&op.user) else {
                    return Answer::Rejected(Reason::NotFound);
                };
                let is_new = self.erasures.get(&op.user).is_none_or(|of| of.incarnation != account.incarnation);
                if is_new {
                    if !account.deleted {
                        account.scram = None;
                        account.last_seen_ms = 0;
                        account.remade = false;
                        account.reserved = false;
                        (account.incarnation, account.generation) = (at, at);
                        (account.deleted, account.deleted_ms) = (true, op.time_ms);
                    }
                    let (user, incarnation) = (op.user.clone(), account.incarnation);
                    self.endings.insert(user.clone(), incarnation);
                    let erasure = Erasure { user: user.clone(), incarnation, ordered_ms: op.time_ms, done: false };
                    self.erasures.insert(user, erasure);
                }
                return self.account_changed(&op.user);
            }
            Op::AccountErased(op) => {
                if let Some(erasure) = self.erasures.get_mut(&op.user)
                    && (erasure.incarnation, erasure.done) == (op.incarnation, false)
                {
                    erasure.done = true;
                    self.endings.remove(&op.user);
                }
            }
            Op::RevokeTokens(op) => {
                let account = match self.account(&op.user) {
                    Ok(account) => account,
                    Err(reason) => return Answer::Rejected(reason),
                };
                account.tokens_from_ms = account.tokens_from_ms.max(op.before_ms);
                account.revoked.retain(|token| token.expires_ms > op.time_ms && token.id != op.id);
                if !op.id.is_empty() {
                    account.revoked.push(RevokedToken { id: op.id.clone(), expires_ms: op.expires_ms });
                }
                return self.account_changed(&op.user);
            }
            Op::EndSessions(op) => {
                let account = match self.account(&op.user) {
                    Ok(account) => account,
                    Err(reason) => return Answer::Rejected(reason),
                };
                if op.lease == 0 {
                    account.generation = at;
                    return self.account_changed(&op.user);
                }
                let sessions = self.users.get_mut(&op.user).map(|(_, sessions)| sessions).expect("seen above");
                let found = sessions.values_mut().find(|s| (s.lease, s.connection) == (op.lease, op.connection));
                let Some(session) = found else { return Answer::Rejected(Reason::NotFound) };
                session.ended = true;
                return self.account_changed(&op.user);
            }
            Op::InboxEnded(op) => {
                let is_erasing = self.is_erasing(&op.user);
                if !is_erasing && self.endings.get(&op.user).is_some_and(|ending| *ending <= op.incarnation) {
                    self.endings.remove(&op.user);
                }
            }
            Op::PutSession(op) => {
                let mut session = op.session.clone().expect("a session");
                let Some((account, sessions)) = self.users.get_mut(&session.user) else {
                    return Answer::Rejected(Reason::NotFound);
                };
                if account.reserved {
                    return Answer::Rejected(Reason::NotFound);
                }
                if session.by_token && !op.announced {
                    session.generation = account.generation;
                }
                let age = |session: &Session| (session.since_ms, session.lease, session.connection);
                let is_known = |session: &Session| session.instance != 0;
                let handle = |session: &Session| (session.lease, session.connection);
                let existing = sessions.get(&session.device).cloned();
                if over(account, &session).is_some() {
                    return Answer::Rejected(Reason::Gone);
                }
                let newer = existing.as_ref().is_none_or(|existing| {
                    let by_time = age(existing) <= age(&session)
                        || !op.announced && existing.since_ms > session.since_ms + MINUTE_MS;
                    let by_client = is_known(existing) && existing.instance == session.instance;
                    over(account, existing).is_some()
                        || match existing.attempt.cmp(&session.attempt) {
                            Ordering::Less if by_client => true,
                            Ordering::Greater if by_client => false,
                            _ => by_time,
                        }
                });
                let same = existing.as_ref().is_some_and(|existing| handle(existing) == handle(&session));
                if newer && same && existing.as_ref().is_some_and(|existing| existing.ended) {
                    return Answer::Rejected(Reason::Gone);
                }
                let bound = op.max_sessions as usize;
                if existing.is_none() && !op.announced && bound != 0 && sessions.len() >= bound {
                    return Answer::Rejected(Reason::Full);
                }
                if newer {
                    sessions.insert(session.device.clone(), session.clone());
                }
                let other = existing.filter(|_| !same);
                let (replaced, kept) = if newer { (other, None) } else { (None, other) };
                let (incarnation, generation) = (account.incarnation, session.generation);
                return Answer::Other(Outcome::SessionPut(SessionPut { replaced, kept, incarnation, generation }));
            }
            Op::DeleteSession(op) => {
                if let Some((account, sessions)) = self.users.get_mut(&op.user) {
                    let is_it = |s: &&Session| (s.lease, s.connection) == (op.lease, op.connection);
                    let ended = sessions.get(&op.device).filter(is_it).cloned();
                    if ended.is_some() {
                        sessions.remove(&op.device);
                    }
                    let minute = |ms: u64| ms / MINUTE_MS * MINUTE_MS;
                    let of_it = |generation: u64| !account.deleted && generation >= account.incarnation;
                    match ended {
                        _ if op.time_ms >= MINUTE_MS && of_it(op.generation) => account.last_seen_ms = minute(op.time_ms),
                        Some(ended) if op.time_ms == 0 && of_it(ended.generation) => {
                            account.last_seen_ms = account.last_seen_ms.max(minute(ended.since_ms));
                        }
                        _ => {}
                    }
                }
            }
            Op::RegisterNode(op) => {
                let mut same =
                    self.nodes.iter().filter(|(node, _, _)| (node.kind, &node.nonce) == (op.kind, &op.nonce));
                if let Some((_, lease, _)) = same.find(|(node, _, _)| node.address == op.address) {
                    return Answer::Other(Outcome::Registered(Registered { lease: *lease }));
                }
                self.remove(at, |(node, _, _)| {
                    !op.address.is_empty() && (node.kind, &node.address) == (op.kind, &op.address)
                });
                self.nodes.push((op.clone(), at, self.clock + u64::from(op.ttl_ms)));
                self.changed(at, op.kind());
                if op.kind() == NodeKind::Router {
                    let first = self.slots.iter().all(|slot| *slot == Slot::None);
                    if let Some(vacant) = self.slots.iter().position(|slot| *slot == Slot::Vacant) {
                        self.slots[vacant] = Slot::Held(at);
                    } else if first {
                        self.add_slot(at);
                    }
                }
                return Answer::Other(Outcome::Registered(Registered { lease: at }));
            }
            Op::RenewLease(op) => {
                let clock = self.clock;
                let Some((node, _, ends)) = self.nodes.iter_mut().find(|(_, lease, _)| *lease == op.lease) else {
                    return Answer::Rejected(Reason::NotFound);
                };
                *ends = clock + u64::from(node.ttl_ms);
            }
            Op::AddRingSlot(op) => {
                if self.waiting().contains(&op.lease) {
                    self.add_slot(op.lease);
                    self.changed(at, NodeKind::Router);
                }
            }
            Op::DropRingSlot(op) => {
                if let Some(slot @ Slot::Vacant) = self.slots.get_mut(op.slot as usize) {
                    *slot = Slot::None;
                    self.version = at;
                }
            }
            Op::DeregisterNode(op) => self.remove(at, |(_, lease, _)| *lease == op.lease),
            Op::AdvanceLeaseClock(op) => {
                self.clock += u64::from(op.elapsed_ms);
                let clock = self.clock;
                self.remove(at, |(_, _, ends)| *ends <= clock);
            }
            // See the tests of levels and of the cluster's rows.
            Op::SetLevel(_)
            | Op::FoundCluster(_)
            | Op::SetStorageNode(_)
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
            | Op::PreferReplica(_)
            // And those of contacts and privacy.
            | Op::ChangeContact(_)
            | Op::SetDomain(_)
            | Op::ChangePrivacy(_) => unreachable!("not generated"),
        }
        done()
    }

    fn is_erasing(&self, user: &str) -> bool {
        self.erasures.get(user).is_some_and(|erasure| !erasure.done)
    }

    fn put_account(&mut self, at: u64, op: &PutAccount) -> Answer {
        let given = op.account.clone().expect("an account");
        if self.is_erasing(&given.user) {
            return Answer::Rejected(Reason::Gone);
        }
        let at = if op.numbered { at } else { 0 };
        let remade = self.users.get(&given.user).is_some_and(|(account, _)| account.deleted);
        let fresh = |tokens_from_ms, revoked| Account {
            user: given.user.clone(),
            scram: given.scram.clone(),
            created_ms: given.created_ms,
            reserved: given.reserved,
            incarnation: at,
            generation: at,
            tokens_from_ms,
            revoked,
            remade,
            ..Account::default()
        };
        let mode = op.mode();
        match self.users.get_mut(&given.user).map(|(account, _)| account) {
            None => {
                self.users.insert(given.user.clone(), (fresh(0, Vec::new()), BTreeMap::new()));
            }
            Some(account) if account.deleted => match mode {
                Mode::Ensure if !op.revive => return Answer::Rejected(Reason::Gone),
                Mode::Ensure => *account = fresh(account.tokens_from_ms, account.revoked.clone()),
                Mode::Create | Mode::Replace => {
                    let from = account.tokens_from_ms.max((given.created_ms / 1000 + 1) * 1000);
                    *account = fresh(from, account.revoked.clone());
                }
            },
            Some(account) => match mode {
                Mode::Ensure => account.reserved &= given.reserved,
                Mode::Create if account.reserved => {
                    account.reserved = false;
                    (account.scram, account.created_ms) = (given.scram.clone(), given.created_ms);
                }
                Mode::Create if (&account.scram, account.created_ms) != (&given.scram, given.created_ms) => {
                    return Answer::Rejected(Reason::Exists);
                }
                Mode::Create => {}
                Mode::Replace => {
                    account.reserved = false;
                    if account.scram != given.scram || given.scram.is_none() {
                        account.scram = given.scram.clone();
                        account.generation = if op.numbered { at } else { account.generation };
                    }
                }
            },
        }
        if mode == Mode::Ensure { done() } else { self.account_changed(&given.user) }
    }

    fn account(&mut self, user: &str) -> Result<&mut Account, Reason> {
        match self.users.get_mut(user) {
            None => Err(Reason::NotFound),
            Some((account, _)) if account.deleted => Err(Reason::Gone),
            Some((account, _)) => Ok(account),
        }
    }

    fn account_changed(&self, user: &str) -> Answer {
        let (account, sessions) = &self.users[user];
        let over = sessions.values().filter(|session| over(account, session).is_some()).cloned().collect();
        Answer::Other(Outcome::AccountChanged(AccountChanged { account: Some(account.clone()), over }))
    }

    fn remove(&mut self, at: u64, which: impl Fn(&(RegisterNode, u64, u64)) -> bool) {
        let gone: Vec<u64> = self.nodes.iter().filter(|node| which(node)).map(|(_, lease, _)| *lease).collect();
        for lease in gone {
            let place = self.nodes.iter().position(|(_, other, _)| *other == lease).expect("found before");
            let (node, ..) = self.nodes.remove(place);
            let heir = self.waiting().first().map_or(Slot::Vacant, |lease| Slot::Held(*lease));
            if let Some(slot) = self.slots.iter_mut().find(|slot| **slot == Slot::Held(lease)) {
                *slot = heir;
            }
            self.changed(at, node.kind());
        }
    }

    /// Routers without a slot, the oldest first.
    fn waiting(&self) -> Vec<u64> {
        let routers = self.nodes.iter().filter(|(node, ..)| node.kind() == NodeKind::Router);
        routers.map(|(_, lease, _)| *lease).filter(|lease| !self.slots.contains(&Slot::Held(*lease))).collect()
    }

    fn add_slot(&mut self, lease: u64) {
        match self.slots.iter_mut().find(|slot| **slot == Slot::None) {
            Some(slot) => *slot = Slot::Held(lease),
            None => self.slots.push(Slot::Held(lease)),
        }
    }

    fn changed(&mut self, at: u64, kind: NodeKind) {
        self.version = at;
        if kind == NodeKind::Router {
            self.ring_version = at;
        }
    }
}

fn done() -> Answer {
    Answer::Other(Outcome::Done(Done {}))
}
