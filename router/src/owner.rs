//! What the owner of a part of the users does with each input: no waiting, no clock.

mod messages;
mod sessions;
mod timelines;
mod users;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use carillon_proto::{
    LeaseId, ShardId, TimelineId, UserId,
    pb::{
        client,
        link::{self, Heads, Push, SessionOpened, TimelineHead, evict, router_request},
        store::{
            self, Account, DirectoryCommand, PutAccount, ReadUser, Session, SetCursor, TimelineCommand,
            directory_command, put_account, store_request, timeline_command,
        },
    },
};
use tokio::time::Instant;

use crate::{
    config::UnknownRecipient,
    cursors::Cursors,
    directory::Directory,
    metrics,
    reply::{Answer, Failure, ReplySlot, Request},
    send::{Parts, Sending},
    store::{Place, StoreAnswer, StoreFailure},
    topology::Topology,
};

/// How long reading a user may take; those who wait for it may give up earlier.
const READ_USER: Duration = Duration::from_secs(5);
/// How long a write that nobody waits for is tried.
const UNATTENDED: Duration = Duration::from_secs(5);
/// Most entries of one page.
const MAX_PAGE: u32 = 1000;

/// To be performed in order.
pub(crate) enum Effect {
    /// Ask the store; its answer comes back with the token.
    Store {
        token: u64,
        shard: ShardId,
        op: store_request::Op,
        traceparent: String,
        deadline: Instant,
        place: Place,
    },
    Answer(ReplySlot, Answer),
    Push(LeaseId, Push),
    Evict {
        gateway: LeaseId,
        connection: u64,
        why: evict::Why,
    },
    /// To the owner of its user, which may be this router or another one.
    Deliver(Delivery),
}

/// One of the user's connections may not know this envelope yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Delivery {
    pub(crate) user: UserId,
    /// Of the account whose inbox it is.
    pub(crate) incarnation: u64,
    pub(crate) position: client::Position,
    pub(crate) envelope: Bytes,
    pub(crate) traceparent: String,
    /// Lease and connection of the session that knows it; zeros if none.
    pub(crate) except: (u64, u64),
}

pub(crate) struct Owner {
    topology: Arc<Topology>,
    directory: Directory<Waiter>,
    cursors: Cursors<ReplySlot>,
    asked: HashMap<u64, Asked>,
    next_token: u64,
    unknown_recipient: UnknownRecipient,
    max_devices_per_user: u32,
    /// When the log was last told that the store's data was put back from a copy.
    restored_told: Option<Instant>,
    pub(crate) effects: Vec<Effect>,
}

/// What goes on when a user has been read.
enum Waiter {
    Send(Box<Sending>),
    Deliver(Delivery),
    Announce(Box<(Session, ReplySlot, Instant)>),
    /// Reading is all that was wanted.
    Nobody,
}

/// What goes on when the store has answered.
enum Asked {
    User(UserId),
    /// An account without an owner was made for a message.
    Reserved(UserId),
    Account(UserId, ReplySlot),
    Ensured(UserId, ReplySlot),
    Session {
        user: UserId,
        session: Session,
        slot: ReplySlot,
        deadline: Instant,
    },
    SessionHead {
        user: UserId,
        incarnation: u64,
        generation: u64,
        slot: ReplySlot,
    },
    Closed(ReplySlot),
    Heads(UserId, ReplySlot),
    Timeline(ReplySlot),
    Cursor(Vec<ReplySlot>),
    /// Whether it was sent before.
    Repeated(Box<Sending>),
    FirstAppend(Box<Sending>),
    SecondAppend(Box<Sending>),
    Nothing,
}

impl Owner {
    pub(crate) fn new(
        topology: Arc<Topology>,
        entries: usize,
        entry_ttl: Duration,
        cursor_pause: Duration,
        unknown_recipient: UnknownRecipient,
        max_devices_per_user: u32,
    ) -> Self {
        Self {
            topology,
            directory: Directory::new(entries, entry_ttl),
            cursors: Cursors::new(cursor_pause),
            asked: HashMap::new(),
            next_token: 0,
            unknown_recipient,
            max_devices_per_user,
            restored_told: None,
            effects: Vec::new(),
        }
    }

    pub(crate) fn entries(&self) -> usize {
        self.directory.len()
    }

    /// Entries that this router did not own all the time since the last ring are old.
    pub(crate) fn follow(&mut self, topology: Arc<Topology>) {
        let before = std::mem::replace(&mut self.topology, topology);
        if before.ring.version() != self.topology.ring.version() {
            self.directory.retain(|user| before.owns(user.as_str()) && self.topology.owns(user.as_str()));
        }
    }

    pub(crate) fn request(&mut self, request: Request, now: Instant, time_ms: u64) {
        use router_request::Op;
        let (op, parts) = Parts::of(request);
        match op {
            Op::Send(send) => self.send(send, parts, now, time_ms),
            Op::Acknowledge(acknowledge) => self.acknowledge(acknowledge, parts, now),
            Op::Read(read) => self.read_timeline(read, parts),
            Op::ReadHeads(read) => {
                let asked = Asked::Heads(parts.user.clone(), parts.slot);
                self.read_head(&parts.user, read.incarnation, read.device, parts.deadline, asked);
            }
            Op::OpenSession(link::OpenSession { session }) => match session {
                Some(session) => self.put_session(parts.user, session, false, parts.slot, parts.deadline),
                None => self.refuse(parts.slot, &Failure::Invalid("session is missing")),
            },
            Op::Announce(link::Announce { session }) => match session {
                Some(session) => self.announce(session, parts, now),
                None => self.refuse(parts.slot, &Failure::Invalid("session is missing")),
            },
            Op::CloseSession(link::CloseSession { session }) => match session {
                Some(session) => {
                    self.directory.remove(&parts.user, &session);
                    self.cursors.hurry(now);
                    let deadline = parts.deadline;
                    self.delete_session(&parts.user, &session, deadline, Asked::Closed(parts.slot));
                }
                None => self.refuse(parts.slot, &Failure::Invalid("session is missing")),
            },
            // Credentials may have changed through another router: always from the store.
            Op::LookUpAccount(_) => {
                let asked = Asked::Account(parts.user.clone(), parts.slot);
                self.read_user(&parts.user, parts.deadline, asked);
            }
            Op::EnsureAccount(link::EnsureAccount { revive, .. }) => {
                let user = parts.user.as_str().to_owned();
                let account = Account { user, created_ms: time_ms, ..Account::default() };
                let mode = put_account::Mode::Ensure.into();
                let put = PutAccount { account: Some(account), mode, numbered: true, revive };
                let asked = Asked::Ensured(parts.user.clone(), parts.slot);
                self.directory_write(&parts.user, directory_command::Op::PutAccount(put), parts.deadline, asked);
            }
        }
    }

    pub(crate) fn deliver(&mut self, delivery: Delivery, now: Instant) {
        let Some(known) = self.directory.user(&delivery.user, now) else {
            metrics::directory_lookup(false);
            let user = delivery.user.clone();
            self.wait(&user, Waiter::Deliver(delivery), now);
            return;
        };
        metrics::directory_lookup(true);
        // Devices of one user are few.
        let mut gateways: Vec<(u64, Vec<u64>)> = Vec::new();
        // A message to or of another owner of the name is nothing to these sessions, or to some of them: generations begin
        // with the incarnation. Whoever is meant and not known here hears of it with the heartbeat.
        let sessions = known.sessions.iter().filter(|session| session.generation >= delivery.incarnation);
        let sessions = sessions.filter(|_| known.incarnation == delivery.incarnation);
        for session in sessions {
            if (session.lease, session.connection) == delivery.except || self.topology.has_ended(LeaseId(session.lease))
            {
                continue;
            }
            match gateways.iter_mut().find(|(lease, _)| *lease == session.lease) {
                Some((_, connections)) => connections.push(session.connection),
                None => gateways.push((session.lease, vec![session.connection])),
            }
        }
        for (lease, connections) in gateways {
            let (sender_lease, sender_connection) = delivery.except;
            let push = Push {
                connections,
                timeline: Some(TimelineId::Inbox(delivery.user.clone()).to_client()),
                position: Some(delivery.position),
                envelope: delivery.envelope.clone(),
                traceparent: delivery.traceparent.clone(),
                incarnation: delivery.incarnation,
                sender_connection: if sender_lease == lease { sender_connection } else { 0 },
            };
            self.effects.push(Effect::Push(LeaseId(lease), push));
        }
    }

    /// When `flush_cursors` is due.
    pub(crate) fn cursors_due(&self) -> Option<Instant> {
        self.cursors.due()
    }

    pub(crate) fn flush_cursors(&mut self) {
        for (key, cursor) in self.cursors.take() {
            let timeline = TimelineId::Inbox(key.user);
            let set = SetCursor {
                timeline: Some(timeline.to_key()),
                device: key.device.as_str().to_owned(),
                epoch: key.epoch.0,
                seq: cursor.seq,
            };
            let op = store_request::Op::Timeline(TimelineCommand { op: Some(timeline_command::Op::SetCursor(set)) });
            let shard = self.topology.shards.timeline_of(&timeline);
            self.ask(shard, op, String::new(), cursor.deadline, Asked::Cursor(cursor.waiters));
        }
    }

    pub(crate) fn answer(&mut self, token: u64, answer: Result<StoreAnswer, StoreFailure>, now: Instant, time_ms: u64) {
        // Tokens are given once and answered once.
        let Some(asked) = self.asked.remove(&token) else { return };
        match asked {
            Asked::User(user) => self.user_read(user, answer, now, time_ms),
            Asked::Reserved(user) => self.reserved(user, answer, now, time_ms),
            Asked::Account(user, slot) => self.account_read(&user, slot, answer),
            Asked::Ensured(user, slot) => {
                // It may have another owner now.
                self.directory.forget(&user);
                self.end(slot, done(answer));
            }
            Asked::Session { user, session, slot, deadline } => self.session_put(user, session, slot, deadline, answer),
            Asked::SessionHead { user, incarnation, generation, slot } => {
                let opened = |head| SessionOpened { heads: vec![head], replaced: false, incarnation, generation };
                let opened = head(&user, answer).map(|head| Answer::SessionOpened(opened(head)));
                // The session is stored: whatever is wrong now, "nothing was done" would not be true.
                self.end(slot, opened.map_err(Failure::after_the_session));
            }
            Asked::Closed(slot) => self.end(slot, done(answer)),
            Asked::Heads(user, slot) => {
                let heads = head(&user, answer).map(|head| Answer::Heads(Heads { heads: vec![head] }));
                self.end(slot, heads);
            }
            Asked::Timeline(slot) => {
                let read = match answer {
                    Ok(StoreAnswer::TimelineRead(read)) => Ok(Answer::TimelineRead(read)),
                    other => Err(unexpected(other)),
                };
                self.end(slot, read);
            }
            Asked::Cursor(slots) => {
                let answer = done(answer);
                for slot in slots {
                    self.end(slot, answer.clone());
                }
            }
            Asked::Repeated(sending) => self.looked_for_first(sending, answer, now),
            Asked::FirstAppend(sending) => self.first_appended(sending, answer, now),
            Asked::SecondAppend(sending) => self.second_appended(sending, answer, now),
            Asked::Nothing => {}
        }
    }

    fn read_user(&mut self, user: &UserId, deadline: Instant, asked: Asked) {
        let op = store_request::Op::ReadUser(ReadUser { user: user.as_str().to_owned() });
        let shard = self.topology.shards.directory_of(user);
        self.ask(shard, op, String::new(), deadline, asked);
    }

    fn directory_write(&mut self, user: &UserId, op: directory_command::Op, deadline: Instant, asked: Asked) {
        let op = store_request::Op::Directory(DirectoryCommand { op: Some(op) });
        let shard = self.topology.shards.directory_of(user);
        self.ask(shard, op, String::new(), deadline, asked);
    }

    fn ask(&mut self, shard: ShardId, op: store_request::Op, traceparent: String, deadline: Instant, asked: Asked) {
        let token = self.token(asked);
        self.effects.push(Effect::Store { token, shard, op, traceparent, deadline, place: Place::Own });
    }

    /// Names what goes on with the answer.
    fn token(&mut self, asked: Asked) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.asked.insert(token, asked);
        token
    }

    fn end(&mut self, slot: ReplySlot, answer: Result<Answer, Failure>) {
        self.effects.push(Effect::Answer(slot, answer.unwrap_or_else(Answer::from)));
    }

    fn refuse(&mut self, slot: ReplySlot, failure: &Failure) {
        self.effects.push(Effect::Answer(slot, Answer::Refusal(failure.to_refusal())));
    }
}

fn appended(answer: Result<StoreAnswer, StoreFailure>) -> Result<store::Appended, Failure> {
    match answer {
        Ok(StoreAnswer::Appended(appended)) => Ok(appended),
        other => Err(unexpected(other)),
    }
}

fn head(user: &UserId, answer: Result<StoreAnswer, StoreFailure>) -> Result<TimelineHead, Failure> {
    match answer {
        Ok(StoreAnswer::Head(head)) => {
            let timeline = Some(TimelineId::Inbox(user.clone()).to_client());
            Ok(TimelineHead { timeline, head: Some(head) })
        }
        other => Err(unexpected(other)),
    }
}

fn done(answer: Result<StoreAnswer, StoreFailure>) -> Result<Answer, Failure> {
    match answer {
        Ok(StoreAnswer::Done(_)) => Ok(Answer::Done(link::Done {})),
        other => Err(unexpected(other)),
    }
}

/// The failure, or that the answer is of another kind than the question.
fn unexpected(answer: Result<StoreAnswer, StoreFailure>) -> Failure {
    Failure::Store(answer.err().unwrap_or(StoreFailure::Unexpected))
}

#[cfg(test)]
mod tests;
