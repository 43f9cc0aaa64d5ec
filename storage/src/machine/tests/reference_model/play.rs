//! People who write and refer to each other's messages, and a router that brings it into their timelines.

mod references;

use std::collections::BTreeMap;

use carillon_proto::{
    ClientId, DeviceId, DuplicateKey, GroupId, Level, MessageId, ShardId, ShardKind, UserId,
    pb::{
        client::{Content, Envelope, Recipient, Text, content::Body, recipient::To},
        store::{
            Append, EraseSender, Header, Mentions, PollRules, Redact, Reference, Role, SenderErased, SetGroup,
            SetLevel, StoreError, TimelineCommand, TimelineKey, Trim, change_group::Change, rejected::Reason,
            store_error::Why, timeline_command::Op, timeline_key::Kind as KeyKind,
        },
    },
};
use prost::Message as _;

use super::{
    acts::Act,
    model::{Coming, Entry, Member, Members, Timeline},
};
use crate::machine::{
    Machine as _, Outcome, TimelineMachine, TimelineReader,
    tests::{OpenShard, entry},
};

pub(super) const SHARD: ShardId = ShardId { kind: ShardKind::Timeline, index: 1 };
pub(super) const USERS: [&str; 3] = ["a", "b", "c"];
pub(super) const GROUP: &str = "@g";
pub(super) const EPOCH: u64 = 7;
const WINDOW_MS: u64 = 50_000;

/// A message, as who has it may name it.
struct Said {
    id: MessageId,
    sender: String,
    client_id: String,
    incarnation: u64,
    /// A user or the group.
    to: String,
    /// In the group.
    seq: u64,
}

/// An append in the sender's own inbox that has still to come.
struct Copy {
    owner: String,
    recipient: String,
    append: Append,
    entry: Entry,
    reference: Option<(Reference, u64)>,
}

pub(super) struct Play {
    pub(super) shard: OpenShard<TimelineMachine, TimelineReader>,
    pub(super) commands: Vec<TimelineCommand>,
    now_ms: u64,
    pub(super) sent: u64,
    said: Vec<Said>,
    copies: Vec<Copy>,
    pub(super) timelines: BTreeMap<String, Timeline>,
    pub(super) members: Members,
    earlier_history: bool,
    generations: BTreeMap<String, u64>,
}

pub(super) fn set_level() -> TimelineCommand {
    TimelineCommand { op: Some(Op::SetLevel(SetLevel { level: Level::OF_PROGRAM.0 })) }
}

pub(super) fn key(name: &str) -> TimelineKey {
    let kind = if name == GROUP { KeyKind::Group } else { KeyKind::Inbox };
    TimelineKey { kind: kind.into(), owner: name.trim_start_matches('@').to_owned().into() }
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("valid")
}

pub(super) fn duplicate(sender: &str, client_id: &str, incarnation: u64) -> DuplicateKey {
    let (device, client_id) = (DeviceId::new("phone").expect("valid"), ClientId::new(client_id).expect("valid"));
    DuplicateKey::new(&user(sender), &device, &client_id).of_incarnation(incarnation)
}

fn mentions(choice: u8) -> Option<Mentions> {
    let of = |users: &[&str]| users.iter().map(|user| (*user).to_owned()).collect();
    match choice % 7 {
        0 => Some(Mentions { users: of(&["a", "b", "a"]), ..Mentions::default() }),
        1 => Some(Mentions { users: of(&["c", "nobody"]), ..Mentions::default() }),
        2 => Some(Mentions { users: of(&["b"]), all: true, here: false }),
        3 => Some(Mentions { here: true, ..Mentions::default() }),
        _ => None,
    }
}

/// The file to which a message refers.
fn file(choice: u8) -> Vec<bytes::Bytes> {
    if choice.is_multiple_of(2) { vec![vec![choice % 6; 16].into()] } else { Vec::new() }
}

fn reason(outcome: &Outcome) -> Option<Reason> {
    match outcome {
        Outcome::Error(StoreError { why: Some(Why::Rejected(rejected)) }) => Some(rejected.reason()),
        _ => None,
    }
}

impl Play {
    pub(super) fn new() -> Self {
        let shard = OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &set_level());
        let timeline = |name: &str| {
            let owner = (name != GROUP).then(|| name.to_owned());
            (name.to_owned(), Timeline { owner, first: 1, entries: Vec::new() })
        };
        Self {
            shard,
            commands: Vec::new(),
            now_ms: 1_000_000,
            sent: 0,
            said: Vec::new(),
            copies: Vec::new(),
            timelines: USERS.into_iter().chain([GROUP]).map(timeline).collect(),
            members: Members::new(),
            earlier_history: true,
            generations: BTreeMap::new(),
        }
    }

    pub(super) fn act(&mut self, act: Act) {
        match act {
            Act::Say { who, to, poll, again, later_ms } => {
                self.now_ms += u64::from(later_ms);
                let (who, to) = (USERS[usize::from(who)], if to == 3 { GROUP } else { USERS[usize::from(to)] });
                let (mentions, choice) = (mentions(poll), poll);
                let poll = poll.is_multiple_of(3).then(|| PollRules {
                    options: 2 + u32::from(poll % 2),
                    multiple: poll % 4 > 1,
                    until_ms: if poll % 5 == 0 { self.now_ms + 20_000 } else { 0 },
                });
                let media = file(choice);
                let header = Header { poll, mentions, media, ..Header { countable: true, ..Header::default() } };
                let header = (header != Header { countable: true, ..Header::default() }).then_some(header);
                self.send(who, 1, to, header, None, again, 0);
            }
            Act::Refer { who, second, message, kind, choice, lie, later_ms, skew_ms } => {
                self.now_ms += u64::from(later_ms);
                if !self.said.is_empty() {
                    let message = message as usize % self.said.len();
                    // The sender of a message knows its id once it is in the own inbox, too.
                    if self.said[message].sender == USERS[usize::from(who)] {
                        self.act(Act::CopiesArrive);
                    }
                    self.refer(
                        USERS[usize::from(who)],
                        1 + u64::from(second),
                        message,
                        kind,
                        choice,
                        lie,
                        skew_ms.into(),
                    );
                }
            }
            Act::CopyArrives(_) if self.copies.is_empty() => {}
            Act::CopyArrives(which) => {
                let copy = self.copies.remove(usize::from(which) % self.copies.len());
                self.arrive(copy);
            }
            Act::CopiesArrive => std::mem::take(&mut self.copies).into_iter().for_each(|copy| self.arrive(copy)),
            Act::Member { who, second, what } => self.member(USERS[usize::from(who)], 1 + u64::from(second), what),
            Act::EarlierHistory(earlier) if self.group_exists() => {
                let set = SetGroup { earlier_history: Some(earlier), ..SetGroup::default() };
                self.change(Change::Set(set));
                self.earlier_history = earlier;
            }
            Act::EarlierHistory(_) => {}
            Act::Trim { timeline, many } => {
                let name = if timeline == 3 { GROUP } else { USERS[usize::from(timeline)] };
                self.trims(name, many.into());
            }
            Act::Erase { who } => self.erase(USERS[usize::from(who)]),
            Act::Reopen => self.renew(OpenShard::reopened),
            Act::SnapshotAndRestore => self.renew(OpenShard::restored_from_its_snapshot),
        }
    }

    fn renew(
        &mut self,
        how: impl FnOnce(OpenShard<TimelineMachine, TimelineReader>) -> OpenShard<TimelineMachine, TimelineReader>,
    ) {
        let empty = OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &set_level());
        let shard = std::mem::replace(&mut self.shard, empty);
        self.shard = how(shard);
    }

    pub(super) fn apply(&mut self, op: Op) -> Outcome {
        let command = TimelineCommand { op: Some(op) };
        self.commands.push(command.clone());
        let index = self.commands.len() as u64;
        let outcomes = self.shard.machine.apply(&[entry(index, &[command])], &index.to_be_bytes()).expect("applies");
        outcomes.into_iter().flatten().next().expect("one")
    }

    /// A plain message of somebody to a user or the group.
    pub(super) fn says(&mut self, who: &str, to: &str) -> usize {
        self.says_to(who, to, None)
    }

    /// A message that mentions, if any are given.
    pub(super) fn says_to(&mut self, who: &str, to: &str, mentions: Option<Mentions>) -> usize {
        self.now_ms += 1000;
        let header = mentions.map(|mentions| Header { countable: true, mentions: Some(mentions), ..Header::default() });
        assert_eq!(self.send(who, 1, to, header, None, false, 0), None);
        self.said.len() - 1
    }

    /// Brings a message to the timeline that decides, and checks its answer.
    #[expect(clippy::too_many_arguments, reason = "as a router gets it")]
    fn send(
        &mut self,
        who: &str,
        incarnation: u64,
        to: &str,
        header: Option<Header>,
        reference: Option<(Reference, u64)>,
        again: bool,
        skew_ms: u64,
    ) -> Option<Reason> {
        self.sent += 1;
        let last =
            self.said.iter().rev().find(|said| said.sender == who && said.to != to && said.incarnation == incarnation);
        // A client may use an id for two recipients.
        let client_id = match last.filter(|_| again && to != who && to != GROUP) {
            Some(said)
                if !self
                    .said
                    .iter()
                    .any(|other| other.sender == who && other.to == to && other.client_id == said.client_id) =>
            {
                said.client_id.clone()
            }
            _ => self.sent.to_string(),
        };
        let time_ms = self.now_ms - skew_ms;
        let in_group = to == GROUP;
        let duplicate = duplicate(who, &client_id, if in_group { incarnation } else { 0 });
        let group = GroupId::new("g").expect("valid");
        let id = MessageId::of(time_ms, if in_group { duplicate.to_group(&group) } else { duplicate.to(&user(to)) });
        let recipient = if in_group { To::Group("g".into()) } else { To::User(to.into()) };
        let text = Text { body: format!("{who} {}", self.sent) };
        let envelope = Envelope {
            id: id.to_string(),
            sender: who.to_owned(),
            sender_device: "phone".into(),
            to: Some(Recipient { to: Some(recipient) }),
            client_id: client_id.clone(),
            time_ms,
            content: Some(Content { body: Some(Body::Text(text)), ..Content::default() }),
            ..Envelope::default()
        };
        let generation = self.generations.get(who).copied().unwrap_or(1);
        let append = Append {
            timeline: Some(key(to)),
            duplicate_key: duplicate.0.to_vec().into(),
            time_ms,
            envelope: envelope.encode_to_vec().into(),
            new_epoch: EPOCH,
            sender: who.to_owned().into(),
            sender_generation: generation,
            sender_incarnation: if in_group { incarnation } else { 0 },
            header: header.clone().map(Box::new),
            ..Append::default()
        };
        let header = header.unwrap_or_default();
        let mentioned = self.mentioned(&header);
        let entry = Entry { envelope, header, incarnation, target: None, mentioned };
        let expected = self.decide(to, &entry, reference.as_ref());
        let outcome = self.apply(Op::Append(append.clone()));
        assert_eq!(
            reason(&outcome),
            expected,
            "{entry_header:?} of {who} to {to}: {outcome:?}",
            entry_header = entry.header
        );
        if expected.is_some() {
            return expected;
        }
        self.append(to, &entry, reference.as_ref());
        let seq = self.timelines[to].last();
        self.said.push(Said { id, sender: who.to_owned(), client_id, incarnation, to: to.to_owned(), seq });
        if !in_group && to != who {
            let append =
                Append { timeline: Some(key(who)), sender: Default::default(), sender_generation: 0, ..append };
            self.copies.push(Copy { owner: who.to_owned(), recipient: to.to_owned(), append, entry, reference });
        }
        None
    }

    /// Mentioned users who are members now.
    fn mentioned(&self, header: &Header) -> Vec<(String, u64)> {
        let users = header.mentions.iter().flat_map(|mentions| &mentions.users);
        users.filter_map(|user| Some((user.clone(), self.members.get(user)?.incarnation))).collect()
    }

    fn decide(&self, timeline: &str, entry: &Entry, reference: Option<&(Reference, u64)>) -> Option<Reason> {
        let timeline = &self.timelines[timeline];
        if timeline.owner.is_none() && !self.members.contains_key(&entry.envelope.sender) && reference.is_none() {
            return Some(Reason::NotFound);
        }
        match reference {
            Some(reference) => timeline.decide(&Coming::of(entry, Some(reference)), &self.seen_members()).err(),
            None if timeline.owner.is_some() => None,
            None => {
                let member = self.members[&entry.envelope.sender];
                match member.role {
                    _ if member.incarnation != entry.incarnation => Some(Reason::NotFound),
                    Role::Reader => Some(Reason::Forbidden),
                    _ => None,
                }
            }
        }
    }

    /// With the positions from which they read.
    pub(super) fn seen_members(&self) -> Members {
        let since = |member: &Member| if self.earlier_history { 0 } else { member.since };
        self.members.iter().map(|(user, member)| (user.clone(), Member { since: since(member), ..*member })).collect()
    }

    pub(super) fn append(&mut self, timeline: &str, entry: &Entry, reference: Option<&(Reference, u64)>) {
        let timeline = self.timelines.get_mut(timeline).expect("known");
        timeline.append(&Coming::of(entry, reference));
    }

    /// The router repeats the copy with another key if the sender has used the client id for somebody else.
    fn arrive(&mut self, copy: Copy) {
        let Copy { owner, recipient, append, entry, reference } = copy;
        let outcome = self.apply(Op::Append(append.clone()));
        let Outcome::Appended(appended) = &outcome else { panic!("{outcome:?}") };
        if !appended.first_envelope.is_empty() {
            let key = DuplicateKey(append.duplicate_key[..].try_into().expect("16 bytes")).to(&user(&recipient));
            let outcome = self.apply(Op::Append(Append { duplicate_key: key.0.to_vec().into(), ..append }));
            assert!(
                matches!(&outcome, Outcome::Appended(appended) if appended.first_envelope.is_empty()),
                "{outcome:?}"
            );
        }
        self.append(&owner, &entry, reference.as_ref());
    }

    pub(super) fn trims(&mut self, name: &str, many: u64) {
        self.trim_once(name, many);
        let timeline = self.timelines.get_mut(name).expect("known");
        timeline.first = (timeline.first + many).min(timeline.last() + 1);
    }

    pub(super) fn trim_once(&mut self, name: &str, many: u64) {
        let before_seq = self.timelines[name].first + many;
        self.apply(Op::Trim(Trim { timeline: Some(key(name)), before_seq, limit: 256, epoch: 0 }));
    }

    fn erase(&mut self, who: &str) {
        self.act(Act::CopiesArrive);
        let generation = self.generations.get(who).copied().unwrap_or(1) + 1;
        self.generations.insert(who.to_owned(), generation);
        self.apply(Op::EraseSender(EraseSender { sender: who.to_owned(), generation }));
        let users = [who.to_owned()].into();
        let (found, _) = self.shard.reader.sent_by(&users, &[]).expect("reads");
        let messages: Vec<_> = found.into_iter().map(|(_, message)| message).collect();
        for messages in messages.chunks(7) {
            let messages = messages.to_vec();
            self.apply(Op::Redact(Redact { sender: who.to_owned(), generation, messages }));
        }
        self.apply(Op::SenderErased(SenderErased { sender: who.to_owned(), generation }));
        for timeline in self.timelines.values_mut() {
            for seq in timeline.first..=timeline.last() {
                if timeline.at(seq).is_some_and(|entry| entry.envelope.sender == who) {
                    timeline.erase(seq);
                }
            }
        }
    }

    pub(super) fn position(&self, message: usize) -> u64 {
        self.said[message].seq
    }
}
