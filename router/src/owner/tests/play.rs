//! One input, then the effects.

pub(super) use bytes::Bytes;
pub(super) use carillon_proto::pb::{
    client::{self, Position},
    link::{
        Acknowledge, Announce, ChangeGroup, OpenSession, RawEnvelope, Send, SendTo, change_group, router_request::Op,
        send_to,
    },
    store::{Account, Appended, Done, Head, SessionPut, User, put_account, timeline_command, timeline_key::Kind},
};
pub(super) use carillon_proto::{GroupId, Level};
pub(super) use prost::Message as _;

pub(super) use super::super::*;
pub(super) use crate::session;
pub(super) use crate::topology::tests::topology;
use crate::{companions::Companions, reply::tests::Replies};

pub(super) const GATEWAYS: [u64; 3] = [10, 20, 30];

pub(super) struct Play {
    pub(super) owner: Owner,
    pub(super) replies: Replies,
    pub(super) now: Instant,
    pub(super) next_id: u64,
    /// Of all appends, in order.
    pub(super) headers: Vec<Option<Box<store::Header>>>,
    /// The sender that the last append names; empty in the copy of what the recipient's inbox has decided.
    pub(super) appends_as: Bytes,
    /// Sessions of which the store was told that they have ended.
    pub(super) deleted: Vec<store::DeleteSession>,
    /// All accounts that were to be made.
    pub(super) puts: Vec<store::PutAccount>,
}

impl Play {
    pub(super) fn new() -> Self {
        Self::with(UnknownRecipient::Refuse)
    }

    pub(super) fn with(unknown: UnknownRecipient) -> Self {
        let topology = Arc::new(topology(1, "here:1", &["here:1"], &GATEWAYS));
        let config = OwnerConfig {
            accounts: 100,
            cursor_pause: Duration::from_millis(100),
            unknown_recipient: unknown,
            max_devices_per_user: 256,
            companions: Companions::default(),
            followers: Default::default(),
            nudges: Default::default(),
            head_check: Duration::from_secs(60),
        };
        let now = Instant::now();
        Self {
            owner: Owner::new(topology, config, now),
            replies: Replies::new(),
            now,
            next_id: 0,
            headers: vec![],
            appends_as: Bytes::new(),
            deleted: vec![],
            puts: vec![],
        }
    }

    /// Users without a session whose accounts are in memory.
    pub(super) fn knowing(users: &[&str]) -> Self {
        let mut play = Self::new();
        users.iter().for_each(|user| play.knows(user, &[]));
        play
    }

    /// As after the cluster's level has risen to this one.
    pub(super) fn level_rises(&mut self, level: Level) {
        let topology = topology(1, "here:1", &["here:1"], &GATEWAYS);
        let view =
            store::RegistryView { version: topology.view.version + 1, level: level.0, ..(*topology.view).clone() };
        self.owner.follow(Arc::new(topology.followed_by(view).expect("newer")), self.now);
    }

    /// As after another ring has come, at the level of groups.
    pub(super) fn ring_comes(&mut self, ring_version: u64, routers: &[&str]) {
        let topology = topology(ring_version, "here:1", routers, &GATEWAYS);
        let (version, level) = (topology.view.version + 1, Level::GROUPS.0);
        let view = store::RegistryView { version, level, ..(*topology.view).clone() };
        self.owner.follow(Arc::new(topology.followed_by(view).expect("newer")), self.now);
    }

    /// As after the operator has decided this, at the level of groups.
    pub(super) fn decides(&mut self, domains: Vec<store::Domain>) {
        let topology = topology(1, "here:1", &["here:1"], &GATEWAYS);
        let (version, level) = (self.owner.topology.view.version + 1, Level::GROUPS.0);
        let view = store::RegistryView { version, level, domains, ..(*topology.view).clone() };
        self.owner.follow(Arc::new(topology.followed_by(view).expect("newer")), self.now);
    }

    /// As from gateway 10; the request's id is the number of the request, from 1.
    pub(super) fn request(&mut self, op: Op) -> Vec<Did> {
        self.next_id += 1;
        let slot = self.replies.slot(self.next_id);
        let of = crate::reply::routed_by(&op).expect("routed");
        let deadline = self.now + Duration::from_secs(10);
        let request = Request { of, op, lease: LeaseId(10), link: 1, deadline, span: None, slot };
        self.owner.request(request, self.now, 1_000);
        self.effects()
    }

    pub(super) fn answer(&mut self, token: u64, answer: StoreAnswer) -> Vec<Did> {
        self.owner.answer(token, Ok(answer), self.now, 1_000);
        self.effects()
    }

    pub(super) fn fails(&mut self, token: u64, failure: StoreFailure) -> Vec<Did> {
        self.owner.answer(token, Err(failure), self.now, 1_000);
        self.effects()
    }

    /// A request of which nothing comes but an append.
    pub(super) fn appends(&mut self, op: Op) -> Appending {
        one_append(self.request(op))
    }

    pub(super) fn effects(&mut self) -> Vec<Did> {
        std::mem::take(&mut self.owner.effects).into_iter().map(|effect| self.perform(effect)).collect()
    }

    fn perform(&mut self, effect: Effect) -> Did {
        match effect {
            Effect::Store { token, shard, op, .. } => match op {
                store_request::Op::ReadUser(read) => Did::ReadUser(token, read.user),
                store_request::Op::ReadHead(read) => Did::ReadHead(token, owner(read.timeline), read.device),
                store_request::Op::ReadHeads(read) => {
                    let of = |read: store::ReadHead| owner(read.timeline);
                    Did::ReadHeads(token, read.reads.into_iter().map(of).collect())
                }
                store_request::Op::ReadMedia(read) => Did::ReadMedia(token, shard, read.id),
                store_request::Op::ReadScheduled(read) => Did::ReadScheduled(token, read),
                store_request::Op::ReadTimeline(read) if read.states => Did::ReadReported(token, shard, read),
                store_request::Op::ReadTimeline(read) => Did::ReadTimeline(token, read.limit),
                store_request::Op::ReadConversations(read) => Did::ReadConversations(token, read),
                store_request::Op::ReadGroup(read) => Did::ReadGroup(token, read),
                store_request::Op::ReadMembers(read) => Did::ReadMembers(token, read),
                store_request::Op::CountAccounts(count) => Did::CountAccounts(token, shard, count.domain),
                store_request::Op::ReadMemberships(read) => Did::ReadMemberships(token, read),
                store_request::Op::ReadMarks(read) => {
                    let of = read.reads.iter().map(|read| owner(read.timeline.clone())).collect();
                    Did::ReadMarks(token, of, read)
                }
                store_request::Op::ReadAllowed(read) => {
                    Did::ReadAllowed(token, read.by.map(|by| by.user).unwrap_or_default(), read.users)
                }
                store_request::Op::ReadPrivacy(read) => Did::ReadPrivacy(token, read.user),
                store_request::Op::ReadContacts(read) => {
                    Did::ReadContacts(token, read.user, read.subscribed, (read.known, read.known_privacy))
                }
                store_request::Op::Directory(command) => match command.op.expect("set") {
                    directory_command::Op::PutSession(put) => Did::PutSession(token, put.session.expect("set")),
                    directory_command::Op::DeleteSession(delete) => {
                        let connection = delete.connection;
                        self.deleted.push(delete);
                        Did::DeleteSession(token, connection)
                    }
                    directory_command::Op::ChangeContact(change) => Did::ChangeContact(token, change),
                    directory_command::Op::ChangePrivacy(change) => Did::ChangePrivacy(token, change),
                    directory_command::Op::PutAccount(put) => {
                        let mode = put.mode();
                        self.puts.push(put);
                        Did::PutAccount(token, mode)
                    }
                    other => panic!("unexpected {other:?}"),
                },
                store_request::Op::Timeline(command) => match command.op.expect("set") {
                    timeline_command::Op::Append(append) => {
                        assert!((1..=i64::MAX as u64).contains(&append.new_epoch), "{}", append.new_epoch);
                        let is_group = append.timeline.as_ref().is_some_and(|key| key.kind() == Kind::Group);
                        let owner = owner(append.timeline);
                        self.headers.push(append.header);
                        self.appends_as = append.sender.clone();
                        if append.only_repeat {
                            return Did::LookFor(token, owner);
                        }
                        if is_group {
                            assert_eq!((&*append.sender, append.sender_generation), (&b"alice"[..], 3));
                        }
                        if let Ok(admission @ 1..) = u8::try_from(append.admission) {
                            let admission = store::append::Admission::try_from(i32::from(admission));
                            return Did::AppendIf(token, owner, admission.expect("known"));
                        }
                        // In whose inbox it is not the sender's own copy, the sender's session is named.
                        assert!(owner == "alice" || append.sender == "alice" && append.sender_generation == 3);
                        Did::Append(token, owner, append.envelope)
                    }
                    timeline_command::Op::MoveCursors(moves) => {
                        let to = |moved: store::move_cursors::Moved| (owner(moved.timeline), moved.epoch, moved.seq);
                        let moved = moves.moved.into_iter().map(to).collect();
                        Did::MoveCursors(token, owner(moves.timeline), moves.device, moves.incarnation, moved)
                    }
                    timeline_command::Op::MoveMarks(moves) => Did::MoveMarks(token, moves),
                    timeline_command::Op::SetConversation(set) => Did::SetConversation(token, set),
                    op @ (timeline_command::Op::CreateMedia(_) | timeline_command::Op::CompleteMedia(_)) => {
                        Did::Media(token, shard, Box::new(op))
                    }
                    op @ (timeline_command::Op::Schedule(_) | timeline_command::Op::ChangeScheduled(_)) => {
                        Did::Scheduled(token, shard, Box::new(op))
                    }
                    timeline_command::Op::PutReport(put) => Did::PutReport(token, shard, put),
                    timeline_command::Op::ChangeGroup(change) => Did::ChangeGroup(token, change),
                    timeline_command::Op::SetMembership(set) => Did::SetMembership(token, set),
                    timeline_command::Op::SetCursor(set) => Did::SetCursor(token, set.device, set.seq),
                    timeline_command::Op::RenewEpoch(renew) => {
                        assert!((1..=i64::MAX as u64).contains(&renew.new_epoch), "{}", renew.new_epoch);
                        Did::RenewEpoch(token, renew.epoch, renew.seq)
                    }
                    other => panic!("unexpected {other:?}"),
                },
                other => panic!("unexpected {other:?}"),
            },
            Effect::Answer(slot, answer) => {
                slot.answer(answer);
                let (id, answer) = self.replies.next().expect("answered");
                Did::Answer(id, answer)
            }
            Effect::Push(lease, push) => Did::Push(lease.0, push.position.expect("set").seq),
            Effect::Signal(lease, link::Signaled { connections, notice: Some(notice), .. }) => {
                Did::Notice(lease.0, connections, notice)
            }
            Effect::Signal(lease, signal) => Did::Signal(lease.0, signal.connections, signal.body),
            Effect::Marked(marked) => Did::Marked(marked),
            Effect::Direct { gateway, directed, slot, .. } => {
                drop(slot);
                Did::Direct(gateway.0, directed.connection, directed.body)
            }
            Effect::Behind(lease, behind) => Did::Behind(lease.0, behind.position.expect("set").seq),
            Effect::Evict { gateway, connection, .. } => Did::Evict(gateway.0, connection),
            Effect::Say(said) => Did::Says(said),
            Effect::Update(presence, audience) => {
                let mut to = audience.persons();
                to.sort_by(|one, other| one.user.cmp(&other.user));
                Did::Says(Said::Presences(link::Presences { presences: vec![presence], to, asked: false }))
            }
            Effect::Tell(telling) => Did::Tell(telling.contact.as_str().to_owned(), telling.row),
            Effect::Deliver(delivery) => Did::Deliver(delivery),
            Effect::Watched(user, event) => Did::Watched(user.as_str().to_owned(), *event),
        }
    }

    /// Makes a user known who is signed in with these sessions.
    pub(super) fn knows(&mut self, user: &str, sessions: &[Session]) {
        let user = UserId::new(user).expect("valid");
        self.owner.changed(&user, self.now);
        let effects = self.effects();
        let [Did::ReadUser(token, _)] = effects[..] else { panic!("{effects:?}") };
        self.answer(token, found(user.as_str(), sessions));
        for session in sessions {
            self.owner.register.put(&user, 0, session::Session::new(session, 1));
            self.owner.checks.add(&TimelineId::Inbox(user.clone()), self.owner.inbox_shard(&user));
        }
    }

    /// The same, of somebody who is not open to everybody.
    pub(super) fn knows_privacy(&mut self, user: &str, privacy: store::Privacy) {
        let user = UserId::new(user).expect("valid");
        self.owner.changed(&user, self.now);
        let effects = self.effects();
        let [Did::ReadUser(token, _)] = effects[..] else { panic!("{effects:?}") };
        let StoreAnswer::User(found) = found(user.as_str(), &[]) else { unreachable!("a user") };
        self.answer(token, StoreAnswer::User(User { privacy: Some(privacy), ..found }));
    }

    /// To which gateways a message to this user is pushed. The user is known.
    pub(super) fn pushes(&mut self, to: &str) -> Vec<u64> {
        let token = self.appends(send(to, "1")).token;
        let effects = self.answer(token, appended(1, &Bytes::new()));
        let push = |did| match did {
            Did::Push(gateway, _) => Some(gateway),
            _ => None,
        };
        effects.into_iter().filter_map(push).collect()
    }

    /// The connections of this user that are here, by gateway: those that a signal goes to.
    pub(super) fn connections(&mut self, of: &str) -> Vec<(u64, Vec<u64>)> {
        self.owner.signal(link::Signal { user: of.to_owned(), ..link::Signal::default() });
        let signaled = |did| match did {
            Did::Signal(gateway, connections, _) => (gateway, connections),
            other => panic!("unexpected {other:?}"),
        };
        self.effects().into_iter().map(signaled).collect()
    }
}

/// What the store is asked to append.
pub(super) struct Appending {
    pub(super) token: u64,
    pub(super) owner: String,
    pub(super) envelope: Bytes,
}

pub(super) fn one_append(effects: Vec<Did>) -> Appending {
    match <[Did; 1]>::try_from(effects) {
        Ok([Did::Append(token, owner, envelope)]) => Appending { token, owner, envelope },
        other => panic!("not one append: {other:?}"),
    }
}

#[derive(Debug, PartialEq)]
pub(super) enum Did {
    Media(u64, ShardId, Box<timeline_command::Op>),
    ReadMedia(u64, ShardId, Bytes),
    Scheduled(u64, ShardId, Box<timeline_command::Op>),
    ReadScheduled(u64, store::ReadScheduled),
    ReadUser(u64, String),
    ReadHead(u64, String, String),
    ReadTimeline(u64, u32),
    ReadReported(u64, ShardId, store::ReadTimeline),
    PutReport(u64, ShardId, Box<store::PutReport>),
    PutSession(u64, Session),
    DeleteSession(u64, u64),
    PutAccount(u64, put_account::Mode),
    CountAccounts(u64, ShardId, String),
    ReadMemberships(u64, store::ReadMemberships),
    Append(u64, String, Bytes),
    ChangeGroup(u64, store::ChangeGroup),
    SetMembership(u64, store::SetMembership),
    LookFor(u64, String),
    SetCursor(u64, String, u64),
    /// Token, user, device, incarnation; of each timeline the owner, epoch and position.
    MoveCursors(u64, String, String, u64, Vec<(String, u64, u64)>),
    RenewEpoch(u64, u64, u64),
    Answer(u64, Answer),
    Push(u64, u64),
    Behind(u64, u64),
    ReadHeads(u64, Vec<String>),
    Signal(u64, Vec<u64>, Bytes),
    Notice(u64, Vec<u64>, link::signaled::Notice),
    Marked(link::Marked),
    MoveMarks(u64, store::MoveMarks),
    SetConversation(u64, store::SetConversation),
    ReadConversations(u64, store::ReadConversations),
    ReadGroup(u64, store::ReadGroup),
    ReadMembers(u64, store::ReadMembers),
    /// Of each mark the user whose it is.
    ReadMarks(u64, Vec<String>, store::ReadMarks),
    Says(crate::said::Said),
    Tell(String, store::Contact),
    /// With the versions that are known.
    ReadContacts(u64, String, bool, (u64, u64)),
    ChangeContact(u64, store::ChangeContact),
    ChangePrivacy(u64, store::ChangePrivacy),
    ReadPrivacy(u64, String),
    /// By whom, and of whom.
    ReadAllowed(u64, String, Vec<String>),
    /// An append that is not let in without conditions.
    AppendIf(u64, String, store::append::Admission),
    Direct(u64, u64, Bytes),
    Evict(u64, u64),
    Deliver(Delivery),
    Watched(String, WatchEvent),
}

pub(super) fn session(user: &str, device: &str, lease: u64, connection: u64) -> Session {
    Session { user: user.into(), device: device.into(), lease, connection, ..Session::default() }
}

pub(super) fn found(user: &str, sessions: &[Session]) -> StoreAnswer {
    let account = Some(Account { user: user.into(), ..Account::default() });
    StoreAnswer::User(User { account, sessions: sessions.to_vec(), ..User::default() })
}

pub(super) fn send(to: &str, client_id: &str) -> Op {
    Op::Send(Send {
        incarnation: 0,
        generation: 3,
        after: Bytes::new(),
        sender: "alice".into(),
        sender_device: "phone".into(),
        to: Some(SendTo { to: Some(send_to::To::User(to.to_owned().into())) }),
        client_id: client_id.to_owned().into(),
        content: Bytes::from_static(b"content"),
        connection: 1,
        time_ms: 0,
        wants_marks: false,
        header: None,
        expires_after_ms: 0,
        to_incarnation: None,
    })
}

pub(super) fn change_group(sender: &str, group: &str, change: change_group::Change) -> Op {
    Op::ChangeGroup(Box::new(ChangeGroup {
        sender: sender.to_owned().into(),
        sender_device: "phone".into(),
        client_id: "c".into(),
        connection: 1,
        incarnation: 9,
        generation: 3,
        time_ms: 0,
        group: group.to_owned().into(),
        change: Some(change),
    }))
}

pub(super) fn appended(seq: u64, first: &Bytes) -> StoreAnswer {
    StoreAnswer::Appended(Appended { epoch: 7, seq, first_envelope: first.clone(), ..Appended::default() })
}

pub(super) fn refusal(did: &Did) -> &link::Refusal {
    match did {
        Did::Answer(_, Answer::Refusal(refusal)) => refusal,
        other => panic!("not a refusal: {other:?}"),
    }
}

/// As `found`, of an account with this incarnation.
pub(super) fn found_as(incarnation: u64, account: Account, sessions: &[Session]) -> StoreAnswer {
    let account = Some(Account { user: "bob".into(), incarnation, generation: incarnation, ..account });
    StoreAnswer::User(User { account, sessions: sessions.to_vec(), ..User::default() })
}

pub(super) fn gone(play: &mut Play, token: u64) -> Vec<Did> {
    let gone = StoreFailure::Gone { detail: "the inbox of this user has ended".into() };
    play.fails(token, gone)
}

fn owner(timeline: Option<store::TimelineKey>) -> String {
    timeline.expect("set").owner_str().expect("UTF-8").to_owned()
}
