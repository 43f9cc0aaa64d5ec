//! The owner of a part of the users: what each input does. Does not wait and has no clock.

mod answers;
mod chat_states;
mod contacts;
mod conversations;
mod deliveries;
mod direct;
mod domains;
mod group_people;
mod groups;
mod media;
mod messages;
mod moved_marks;
mod presence;
mod privacy;
mod reports;
mod scheduled;
mod sessions;
mod taking_back;
mod timelines;
mod users;
mod watching;

use std::{sync::Arc, time::Duration};

use carillon_proto::{
    KeyedMap, LeaseId, Level, ShardId, TimelineId, UserId,
    pb::{
        admin::WatchEvent,
        client::Presence,
        link::{self, Behind, Directed, Marked, Push, SessionPresence, Signaled, TimelineHead, evict, router_request},
        store::{self, DirectoryCommand, ReadUser, Session, directory_command, store_request},
    },
};
use tokio::time::Instant;

use self::conversations::{Counting, MarksReading};
use self::{answers::Continuation, chat_states::ChatStateTelling, presence::shows};
use crate::{
    accounts::Accounts,
    checks::Checks,
    companions::Companions,
    config::UnknownRecipient,
    cursors::Cursors,
    delivery::Delivery,
    departures::{Departure, Departures},
    followers::Followers,
    group_changes::GroupChanging,
    group_messages::GroupContext,
    marks::{MarkMoves, Marks},
    presence::{
        Presences,
        audience::{Audience, Audiences},
    },
    recent_keys::RecentKeys,
    register::Register,
    reply::{Answer, Failure, ReplySlot, Request},
    said::Said,
    send::{RequestContext, Sending},
    store::{Place, StoreAnswer, StoreFailure},
    teller::Telling,
    topology::Topology,
    undelivered::Undelivered,
    watches::Watches,
    workers::Nudges,
};

/// Deadline for reading a user; waiting requests may give up earlier.
const READ_USER: Duration = Duration::from_secs(5);
/// Most entries of one page.
const MAX_PAGE: u32 = 1000;

/// To be performed in order.
#[expect(clippy::large_enum_variant, reason = "nearly all ask the store, and each is performed at once")]
pub(crate) enum Effect {
    /// Asks the store; its answer comes back with the token.
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
    Behind(LeaseId, Behind),
    Signal(LeaseId, Signaled),
    /// The gateway answers it, at the latest by the deadline.
    Direct {
        gateway: LeaseId,
        directed: Directed,
        slot: ReplySlot,
        deadline: Instant,
    },
    Evict {
        gateway: LeaseId,
        connection: u64,
        why: evict::Why,
    },
    /// For the owner of its user, which may be this router or another one.
    Deliver(Delivery),
    /// For the owner of the user who is told, which may be this router or another one.
    Marked(Marked),
    /// For the owners of other users, which may be this router.
    Say(Said),
    /// Presence of a user, for those who see it.
    Update(Presence, Arc<Audience>),
    /// The contact is told what is new in the row.
    Tell(Telling),
    /// For those who watch the user.
    Watched(UserId, Box<WatchEvent>),
}

pub(crate) struct Owner {
    topology: Arc<Topology>,
    accounts: Accounts<Waiter>,
    register: Register,
    companions: Companions,
    checks: Checks,
    cursors: Cursors<ReplySlot>,
    marks: Marks<ReplySlot>,
    undelivered: Undelivered,
    /// Rows of conversations that wait for what groups say.
    counting: KeyedMap<u64, Counting>,
    reading_marks: KeyedMap<u64, MarksReading>,
    keys: RecentKeys,
    /// Changes of groups under way.
    changing: KeyedMap<u64, GroupChanging>,
    /// Requests to follow groups, whose heads are being read.
    following: KeyedMap<u64, Following>,
    /// Accounts that tokens make.
    registering: KeyedMap<u64, domains::Registering>,
    followers: Followers,
    nudges: Nudges,
    presences: Presences,
    audiences: Audiences,
    departures: Departures,
    asked: KeyedMap<u64, Continuation>,
    next_token: u64,
    unknown_recipient: UnknownRecipient,
    max_devices_per_user: u32,
    /// When restored data was last logged.
    restored_told: Option<Instant>,
    /// `None`, nearly always: nobody watches anybody.
    watches: Option<Box<Watches>>,
    pub(crate) effects: Vec<Effect>,
}

/// Settings of an owner, and what the partitions share.
#[derive(Clone)]
pub(crate) struct OwnerConfig {
    /// Accounts kept in memory.
    pub(crate) accounts: usize,
    pub(crate) cursor_pause: Duration,
    pub(crate) unknown_recipient: UnknownRecipient,
    pub(crate) max_devices_per_user: u32,
    pub(crate) companions: Companions,
    pub(crate) followers: Followers,
    pub(crate) nudges: Nudges,
    /// How often each timeline's head is compared with the store's.
    pub(crate) head_check: Duration,
}

/// What continues when a user has been read.
enum Waiter {
    Send(Box<Sending>),
    /// A mark of the user that has moved, for the other side.
    Mark(Box<Marked>),
    /// Marks of the user that have moved, for the store.
    Marks(Box<MarkMoves<ReplySlot>>),
    /// A chat state of another user, for the devices of this one.
    ChatState(Box<ChatStateTelling>),
    Announce(Box<Announced>),
    /// Only the read was wanted.
    Nobody,
}

/// An announced or opened session, and the request to answer.
struct Announced {
    session: Session,
    /// The presence that the session shows, and its number.
    presence: (Option<Box<SessionPresence>>, u64),
    /// The session is new, and not there since before.
    signs_in: bool,
    link: u64,
    slot: ReplySlot,
    deadline: Instant,
}

/// A request to follow groups.
struct Following {
    slot: ReplySlot,
    heads: Vec<TimelineHead>,
    /// Reads whose answers are still to come.
    waits: usize,
    failed: Option<Failure>,
}

impl Owner {
    pub(crate) fn new(topology: Arc<Topology>, config: OwnerConfig, now: Instant) -> Self {
        let OwnerConfig {
            accounts,
            cursor_pause,
            unknown_recipient,
            max_devices_per_user,
            companions,
            followers,
            nudges,
            head_check,
        } = config;
        Self {
            topology,
            accounts: Accounts::new(accounts),
            register: Register::new(companions.clone()),
            companions,
            checks: Checks::new(head_check, now),
            cursors: Cursors::new(cursor_pause),
            marks: Marks::new(cursor_pause),
            undelivered: Undelivered::default(),
            counting: KeyedMap::default(),
            reading_marks: KeyedMap::default(),
            keys: RecentKeys::new(),
            changing: KeyedMap::default(),
            following: KeyedMap::default(),
            registering: KeyedMap::default(),
            followers,
            nudges,
            presences: Presences::default(),
            audiences: Audiences::default(),
            departures: Departures::default(),
            asked: KeyedMap::default(),
            next_token: 0,
            unknown_recipient,
            max_devices_per_user,
            restored_told: None,
            watches: None,
            effects: Vec::new(),
        }
    }

    /// Numbers of accounts and sessions in memory, and of gateways that have not announced all their sessions.
    pub(crate) fn sizes(&self) -> (usize, usize, usize) {
        (self.accounts.len(), self.register.len(), self.missing())
    }

    /// Accounts that this router has not owned without interruption since the last ring are outdated. Sessions stay
    /// until their gateway closes them or ends: it may not have seen this router's ring.
    pub(crate) fn follow(&mut self, topology: Arc<Topology>, now: Instant) {
        let before = std::mem::replace(&mut self.topology, topology);
        if before.ring.version() != self.topology.ring.version() {
            self.accounts.retain(|user| before.owns(user.as_str()) && self.topology.owns(user.as_str()));
            self.checks.ring_changed(now);
            self.audiences.clear();
            self.presences.retain(|user| self.topology.owns(user.as_str()));
            // Sessions may have stayed here while the ring was another one.
            let (topology, presences) = (&self.topology, &self.presences);
            self.register.touch(|user| topology.owns(user.as_str()) && presences.incarnation(user).is_none());
            self.presence_settles(now);
            self.presences_in_doubt(now);
        } else if !before.domains.have_same_crossings(&self.topology.domains) {
            // Who sees whom is found out anew.
            self.audiences.clear();
            self.presences_in_doubt(now);
        }
        if self.watches.is_some() {
            self.watch_topology(|user| before.owns(user.as_str()));
        }
        let gone = self.register.end_leases(|lease| self.topology.has_ended(lease));
        if Level(self.topology.view.level) >= Level::GROUPS {
            for (user, session) in gone {
                self.departures.add(Departure::new(user, session, now), now);
            }
        }
    }

    /// The gateway has announced, on this link, all of its sessions that this router owns by this ring.
    pub(crate) fn announced_all(&mut self, gateway: LeaseId, link: u64, ring_version: u64) {
        if !self.topology.has_ended(gateway) {
            self.register.announced_all(gateway, link, ring_version);
        }
    }

    /// The session belongs to another router now.
    pub(crate) fn forget(&mut self, user: &UserId, gateway: LeaseId, connection: u64, link: u64) {
        self.register.forget(user, gateway, connection, link);
    }

    pub(crate) fn request(&mut self, request: Request, now: Instant, time_ms: u64) {
        use router_request::Op;
        let Request { of, op, lease, link, deadline, span, slot } = request;
        let user = match of {
            TimelineId::Inbox(user) => user,
            TimelineId::Group(group) => {
                return self.group_request(op, GroupContext { group, lease, deadline, span, slot }, now, time_ms);
            }
        };
        let parts = RequestContext { user, lease, link, deadline, span, slot };
        match op {
            Op::Send(send) => self.send(send, parts, now, time_ms),
            Op::Acknowledge(acknowledge) => self.acknowledge(acknowledge, parts, now),
            Op::Read(read) => self.read_timeline(read, parts),
            Op::ReadHeads(read) => {
                let asked = Continuation::Heads(parts.user.clone(), parts.slot);
                self.read_head(&parts.user, read.incarnation, read.device, parts.deadline, asked);
            }
            Op::OpenSession(link::OpenSession { session }) => match session {
                Some(session) => {
                    let RequestContext { user, link, slot, deadline, .. } = parts;
                    let asked = Announced { session, presence: (None, 0), signs_in: true, link, slot, deadline };
                    self.put_session(user, asked, false);
                }
                None => self.refuse(parts.slot, &Failure::Invalid("session is missing")),
            },
            Op::Announce(link::Announce { session, presence }) => match session {
                Some(session) => self.announce(session, shows(presence), parts, now),
                None => self.refuse(parts.slot, &Failure::Invalid("session is missing")),
            },
            Op::CloseSession(link::CloseSession { session }) => match session {
                Some(session) => self.close_session(&session, parts, now, time_ms),
                None => self.refuse(parts.slot, &Failure::Invalid("session is missing")),
            },
            Op::Direct(direct) => self.direct(direct, parts),
            Op::ReadMemberships(read) => self.read_memberships(&read, parts),
            Op::MoveMarks(moves) => self.gather_marks(moves, parts, now),
            Op::SetConversation(set) => self.set_conversation(set, parts),
            Op::ReadConversations(read) => self.read_conversations(read, parts),
            Op::ReadMarks(read) => self.read_marks(read, parts),
            Op::ChangeContact(change) => self.change_contact(*change, parts),
            Op::ReadContacts(read) => self.read_contacts(read, parts),
            Op::SetPresence(set) => self.set_presence(set, parts, now),
            Op::ChangePrivacy(change) => self.change_privacy(change, parts),
            Op::ReadPrivacy(read) => self.read_privacy(&read, parts),
            Op::TellChatState(tell) => self.tell_chat_state(tell, parts, now),
            Op::CreateMedia(create) => self.create_media(*create, parts),
            Op::CompleteMedia(complete) => self.complete_media(complete, parts),
            Op::ReadMedia(read) => self.read_media(read, parts),
            Op::Schedule(schedule) => self.schedule(*schedule, parts),
            Op::ChangeScheduled(change) => self.change_scheduled(change, parts),
            Op::ReadScheduled(read) => self.read_scheduled(read, parts),
            Op::Report(report) => self.report(*report, parts, time_ms),
            Op::ChangeGroup(_) | Op::Follow(_) | Op::ReadGroup(_) | Op::ReadMembers(_) => {
                self.refuse(parts.slot, &Failure::Invalid("a user is no group"))
            }
            // Another router may have changed the credentials: they are always read from the store.
            Op::LookUpAccount(_) => {
                let asked = Continuation::Account(parts.user.clone(), parts.slot);
                self.read_user(&parts.user, parts.deadline, asked);
            }
            Op::EnsureAccount(link::EnsureAccount { revive, .. }) => self.ensure_account(revive, parts, time_ms),
        }
    }

    /// When `flush_cursors` is due.
    pub(crate) fn cursors_due(&self) -> Option<Instant> {
        [self.cursors.due(), self.marks.due()].into_iter().flatten().min()
    }

    pub(crate) fn flush_cursors(&mut self, now: Instant) {
        for moves in self.cursors.take() {
            self.move_cursors(moves);
        }
        for moves in self.marks.take() {
            self.move_marks(moves, now);
        }
    }

    fn read_user(&mut self, user: &UserId, deadline: Instant, asked: Continuation) {
        let op = store_request::Op::ReadUser(ReadUser { user: user.as_str().to_owned(), by: None });
        let shard = self.topology.shards.directory_of(user);
        self.ask(shard, op, String::new(), deadline, asked);
    }

    fn directory_write(&mut self, user: &UserId, op: directory_command::Op, deadline: Instant, asked: Continuation) {
        let op = store_request::Op::Directory(DirectoryCommand { op: Some(op) });
        let shard = self.topology.shards.directory_of(user);
        self.ask(shard, op, String::new(), deadline, asked);
    }

    fn ask(
        &mut self,
        shard: ShardId,
        op: store_request::Op,
        traceparent: String,
        deadline: Instant,
        asked: Continuation,
    ) {
        let token = self.token(asked);
        self.effects.push(Effect::Store { token, shard, op, traceparent, deadline, place: Place::Own });
    }

    /// Makes the token that the answer will carry.
    fn token(&mut self, asked: Continuation) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.asked.insert(token, asked);
        token
    }

    fn end(&mut self, slot: ReplySlot, answer: Result<Answer, Failure>) {
        self.effects.push(Effect::Answer(slot, answer.unwrap_or_else(Answer::from)));
    }

    fn end_all(&mut self, slots: impl IntoIterator<Item = ReplySlot>, answer: &Result<Answer, Failure>) {
        slots.into_iter().for_each(|slot| self.end(slot, answer.clone()));
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

/// The failure, or that the answer does not fit the question.
fn unexpected(answer: Result<StoreAnswer, StoreFailure>) -> Failure {
    Failure::Store(answer.err().unwrap_or(StoreFailure::Unexpected))
}

#[cfg(test)]
mod tests;
