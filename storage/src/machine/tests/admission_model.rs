//! Messages that the owner of an inbox does not want, against a model that remembers them all.

use carillon_proto::{
    Level, ShardId, ShardKind,
    pb::store::{
        Append, MessageRequest, MoveMarks, ReadConversations, ReadMarks, Rejected, RequestAnswer, SetConversation,
        SetLevel, StoreError, SweepConversations, TimelineCommand, TimelineKey, Trim, append::Admission,
        marks_read::Mark, move_marks, read_marks::Read, rejected::Reason, store_error::Why, timeline_command::Op,
        timeline_key::Kind,
    },
};
use proptest::prelude::*;

use super::*;
use crate::machine::{Outcome, TimelineMachine, TimelineReader, keys};

const SHARD: ShardId = ShardId { kind: ShardKind::Timeline, index: 1 };
const PEERS: [&str; 2] = ["bob", "cy"];
const EPOCH: u64 = 7;
const ADMISSIONS: [Admission; 5] =
    [Admission::Unspecified, Admission::Withheld, Admission::WriteBack, Admission::Refused, Admission::Request];

fn inbox() -> TimelineKey {
    TimelineKey { kind: Kind::Inbox.into(), owner: "ann".into() }
}

fn duplicate_key(number: usize) -> bytes::Bytes {
    [&(number as u64).to_be_bytes()[..], &[0; 8]].concat().into()
}

fn set_level() -> TimelineCommand {
    TimelineCommand { op: Some(Op::SetLevel(SetLevel { level: Level::GROUPS.0 })) }
}

#[derive(Debug, Clone)]
enum Act {
    /// A message of the peer; `after`: how many messages before.
    Message { peer: usize, incarnation: u64, admission: usize, after: Option<usize> },
    /// A message that was sent before is sent again, although by now another thing is allowed.
    Again { which: usize, admission: usize },
    /// The owner of the inbox writes to the peer.
    Own { peer: usize, incarnation: u64 },
    /// The owner accepts or declines what the peer has begun.
    Answer { peer: usize, accepts: bool },
}

fn act() -> impl Strategy<Value = Act> {
    let admission = || prop_oneof![3 => Just(0usize), 4 => Just(1), 1 => Just(2), 1 => Just(3), 6 => Just(4)];
    let incarnation = || prop_oneof![9 => Just(3u64), 1 => Just(4u64)];
    prop_oneof![
        8 => (0..PEERS.len(), incarnation(), admission(), proptest::option::of(0..4usize))
            .prop_map(|(peer, incarnation, admission, after)| Act::Message { peer, incarnation, admission, after }),
        3 => (any::<usize>(), admission()).prop_map(|(which, admission)| Act::Again { which, admission }),
        2 => (0..PEERS.len(), incarnation()).prop_map(|(peer, incarnation)| Act::Own { peer, incarnation }),
        4 => (0..PEERS.len(), any::<bool>()).prop_map(|(peer, accepts)| Act::Answer { peer, accepts }),
    ]
}

/// The fate of a message.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// With a position; whether the conversation is a request.
    At(u64, bool),
    Answered,
    Withheld,
    Rejected(Reason),
}

struct Sent {
    peer: usize,
    incarnation: u64,
    fate: Fate,
}

#[derive(Default)]
struct Model {
    sent: Vec<Sent>,
    last: u64,
    /// Of each peer: the highest incarnation of a message, and whether the owner has written to that one.
    written: [(u64, bool); PEERS.len()],
    unread: [u64; PEERS.len()],
    requests: [MessageRequest; PEERS.len()],
    /// Of each peer: the withheld messages that are known, the last withheld at the end.
    withheld: [Vec<usize>; PEERS.len()],
}

/// Withheld messages of a peer that are known.
const WITHHELD: usize = 16;

impl Model {
    fn append(&mut self, peer: usize, incarnation: u64, admission: Admission, number: usize) -> Append {
        Append {
            timeline: Some(inbox()),
            duplicate_key: duplicate_key(number),
            envelope: vec![1; 8].into(),
            new_epoch: EPOCH,
            incarnation: 1,
            sender: PEERS[peer].into(),
            peer_incarnation: incarnation,
            admission: admission.into(),
            ..Append::default()
        }
    }

    fn is_withheld(&self, peer: usize, number: usize) -> bool {
        self.withheld[peer].contains(&number)
    }

    fn withholds(&mut self, peer: usize, number: usize) -> Fate {
        let withheld = &mut self.withheld[peer];
        withheld.push(number);
        withheld.drain(..withheld.len().saturating_sub(WITHHELD));
        Fate::Withheld
    }

    fn arrives(&mut self, peer: usize, incarnation: u64) -> Fate {
        self.last += 1;
        if self.begins(peer, incarnation) {
            self.written[peer] = (incarnation, false);
        }
        Fate::At(self.last, self.requests[peer] != MessageRequest::Unspecified)
    }

    fn begins(&self, peer: usize, incarnation: u64) -> bool {
        self.written[peer].0 < incarnation
    }

    fn is_declined(&self, peer: usize, incarnation: u64, admission: Admission) -> bool {
        let is_declined = self.requests[peer] == MessageRequest::Declined && !self.begins(peer, incarnation);
        admission == Admission::Request && is_declined
    }

    fn decides(&mut self, peer: usize, incarnation: u64, admission: Admission, number: usize) -> Fate {
        match admission {
            _ if self.is_declined(peer, incarnation, admission) => self.withholds(peer, number),
            Admission::Withheld => self.withholds(peer, number),
            Admission::WriteBack if self.written[peer] != (incarnation, true) => Fate::Rejected(Reason::Forbidden),
            Admission::Refused => Fate::Rejected(Reason::Forbidden),
            Admission::WriteBack | Admission::Unspecified | Admission::Request => {
                self.requests[peer] = match admission {
                    Admission::Request if self.begins(peer, incarnation) => MessageRequest::Open,
                    Admission::Request => self.requests[peer],
                    _ => MessageRequest::Unspecified,
                };
                self.unread[peer] += 1;
                self.arrives(peer, incarnation)
            }
        }
    }

    fn answers(&mut self, peer: usize, accepts: bool) -> (TimelineCommand, Fate) {
        let is_there = self.written[peer].0 != 0 || !self.withheld[peer].is_empty();
        let answer = if accepts { RequestAnswer::Accept } else { RequestAnswer::Decline };
        self.requests[peer] = match self.requests[peer] {
            MessageRequest::Open | MessageRequest::Declined if !accepts => MessageRequest::Declined,
            _ => MessageRequest::Unspecified,
        };
        let set = SetConversation {
            timeline: Some(inbox()),
            incarnation: 1,
            conversation: Some(TimelineKey { owner: PEERS[peer].into(), ..inbox() }),
            new_epoch: EPOCH,
            answer: answer.into(),
            ..SetConversation::default()
        };
        let fate = if is_there { Fate::Answered } else { Fate::Rejected(Reason::NotFound) };
        (TimelineCommand { op: Some(Op::SetConversation(set)) }, fate)
    }

    fn act(&mut self, act: &Act) -> Option<(TimelineCommand, Fate)> {
        let (append, fate) = match *act {
            Act::Message { peer, incarnation, admission, after } => {
                let number = self.sent.len();
                let admission = ADMISSIONS[admission];
                let before = after.and_then(|back| number.checked_sub(back + 1));
                let mut append = self.append(peer, incarnation, admission, number);
                let follows = before.is_none_or(|before| {
                    append.after_key = duplicate_key(before);
                    let is_there = matches!(self.sent[before].fate, Fate::At(..));
                    let is_unwanted =
                        admission == Admission::Withheld || self.is_declined(peer, incarnation, admission);
                    is_there || self.is_withheld(peer, before) || is_unwanted
                });
                let fate = match follows {
                    true => self.decides(peer, incarnation, admission, number),
                    false => Fate::Rejected(Reason::OutOfOrder),
                };
                self.sent.push(Sent { peer, incarnation, fate });
                (append, fate)
            }
            Act::Again { which, admission } if !self.sent.is_empty() => {
                let number = which % self.sent.len();
                let Sent { peer, incarnation, fate } = self.sent[number];
                let admission = ADMISSIONS[admission];
                let fate = match fate {
                    Fate::At(seq, _) => {
                        let is_request = self.requests[peer] != MessageRequest::Unspecified;
                        Fate::At(seq, is_request && admission == Admission::Request)
                    }
                    Fate::Withheld if self.is_withheld(peer, number) => fate,
                    // So late that it is not known any more, or refused: it is decided anew.
                    Fate::Withheld | Fate::Rejected(_) | Fate::Answered => {
                        self.decides(peer, incarnation, admission, number)
                    }
                };
                self.sent[number].fate = fate;
                (self.append(peer, incarnation, admission, number), fate)
            }
            Act::Again { .. } => return None,
            Act::Own { peer, incarnation } => {
                let append = self.append(peer, incarnation, Admission::Unspecified, self.sent.len());
                let (sender, name) = (bytes::Bytes::new(), PEERS[peer].into());
                self.requests[peer] = MessageRequest::Unspecified;
                let fate = self.arrives(peer, incarnation);
                self.written[peer].1 = true;
                // As the other side's: keys are of one space.
                self.sent.push(Sent { peer, incarnation, fate });
                (Append { sender, peer: name, ..append }, fate)
            }
            Act::Answer { peer, accepts } => return Some(self.answers(peer, accepts)),
        };
        Some((TimelineCommand { op: Some(Op::Append(append)) }, fate))
    }
}

fn fate_of(outcome: &Outcome) -> Fate {
    match outcome {
        Outcome::Appended(appended) if appended.withheld => {
            assert_eq!((appended.seq, appended.first_envelope.len()), (0, 0));
            Fate::Withheld
        }
        Outcome::Appended(appended) => Fate::At(appended.seq, appended.request),
        Outcome::ConversationsMoved(_) => Fate::Answered,
        Outcome::Error(StoreError { why: Some(Why::Rejected(rejected)) }) => Fate::Rejected(rejected.reason()),
        other => panic!("{other:?}"),
    }
}

fn check(shard: &mut OpenShard<TimelineMachine, TimelineReader>, model: &Model) {
    let numbers = records(&mut shard.machine).into_iter().find(|(key, _)| {
        // The first byte is that of `CONVERSATION_CHANGE`.
        key[0] == 0x1a && keys::conversation_change_of(key).expect("a key").is_none()
    });
    let numbers = numbers.map(|(_, value)| keys::ConversationNumbers::decode(&value).expect("decodes"));
    let open = model.requests.iter().filter(|request| **request == MessageRequest::Open).count();
    assert_eq!(numbers.unwrap_or_default().requests, open as u64);
    let reader = &shard.reader;
    let read = ReadConversations { timeline: Some(inbox()), incarnation: 1, ..ReadConversations::default() };
    let read = reader.conversations(&read).expect("reads");
    let all = ReadConversations { declined: true, timeline: Some(inbox()), incarnation: 1, ..Default::default() };
    let all = reader.conversations(&all).expect("reads").rows.len();
    assert_eq!(all, model.written.iter().filter(|(of, _)| *of != 0).count(), "with those that were declined");
    let seen = |peer: &str| {
        let row = read.rows.iter().find(|row| row.conversation.as_ref().is_some_and(|with| with.owner == peer));
        row.and_then(|row| row.row.as_ref()).map(|row| (row.counted, row.request()))
    };
    for (at, peer) in PEERS.iter().enumerate() {
        let is_listed = model.written[at].0 != 0 && model.requests[at] != MessageRequest::Declined;
        assert_eq!(seen(peer), is_listed.then_some((model.unread[at], model.requests[at])), "{peer}");
        let read = store_reads(peer, model.written[at].0);
        let mark = reader.marks(&read).expect("reads").marks.remove(0);
        if model.requests[at] != MessageRequest::Unspecified {
            assert_eq!(mark, Mark::default(), "nothing is told to {peer}");
        }
    }
}

/// The peer's question for the marks of the owner of the inbox.
fn store_reads(peer: &str, incarnation: u64) -> ReadMarks {
    let conversation = Some(TimelineKey { owner: peer.to_owned().into(), ..inbox() });
    let read = Read { timeline: Some(inbox()), conversation, peer_incarnation: incarnation, by_contact: false };
    ReadMarks { reads: vec![read] }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn who_is_not_wanted_is_kept_out_once_and_for_all(
        steps in proptest::collection::vec(step(proptest::collection::vec(proptest::collection::vec(act(), 0..8), 1..4)), 1..20),
    ) {
        let mut shard: OpenShard<TimelineMachine, TimelineReader> =
            OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &set_level());
        let (mut model, mut index) = (Model::default(), 0u64);
        for step in steps {
            match step {
                Step::Apply(entries) => {
                    let (mut all, mut fates) = (Vec::new(), Vec::new());
                    for acts in entries {
                        let (commands, expected): (Vec<_>, Vec<_>) = acts.iter().filter_map(|act| model.act(act)).unzip();
                        index += 1;
                        all.push(entry(index, &commands));
                        fates.extend(expected);
                    }
                    let outcomes = shard.machine.apply(&all, &index.to_be_bytes()).expect("applies");
                    let outcomes: Vec<_> = outcomes.into_iter().flatten().map(|outcome| fate_of(&outcome)).collect();
                    prop_assert_eq!(outcomes, fates);
                }
                Step::Reopen => shard = shard.reopened(),
                Step::SnapshotAndRestore => shard = shard.restored_from_its_snapshot(),
            }
            check(&mut shard, &model);
        }
    }
}

#[test]
fn a_refused_message_makes_no_inbox() {
    let mut shard: OpenShard<TimelineMachine, TimelineReader> =
        OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &set_level());
    let before = records(&mut shard.machine);
    let mut model = Model::default();
    let refused = Act::Message { peer: 0, incarnation: 3, admission: 3, after: None };
    let (command, _) = model.act(&refused).expect("a command");
    let outcomes = shard.machine.apply(&[entry(1, &[command])], &1u64.to_be_bytes()).expect("applies");
    match &outcomes[0][0] {
        Outcome::Error(StoreError { why: Some(Why::Rejected(Rejected { reason, .. })) }) => {
            assert_eq!(*reason, i32::from(Reason::Forbidden));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(records(&mut shard.machine), before);
}

/// A message of somebody whom the owner of the inbox does not know.
fn stranger(name: usize, number: usize) -> TimelineCommand {
    let append = Append {
        timeline: Some(inbox()),
        duplicate_key: duplicate_key(number),
        envelope: vec![1; 8].into(),
        new_epoch: EPOCH,
        incarnation: 1,
        sender: format!("s{name}").into(),
        peer_incarnation: 3,
        admission: Admission::Request.into(),
        ..Append::default()
    };
    TimelineCommand { op: Some(Op::Append(append)) }
}

fn answer(name: usize, answer: RequestAnswer) -> TimelineCommand {
    let set = SetConversation {
        timeline: Some(inbox()),
        incarnation: 1,
        conversation: Some(TimelineKey { owner: format!("s{name}").into(), ..inbox() }),
        new_epoch: EPOCH,
        answer: answer.into(),
        ..SetConversation::default()
    };
    TimelineCommand { op: Some(Op::SetConversation(set)) }
}

#[test]
fn so_many_requests_are_open_and_further_strangers_are_refused_until_one_is_answered() {
    let mut shard: OpenShard<TimelineMachine, TimelineReader> =
        OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &set_level());
    let mut index = 0;
    let mut apply = |shard: &mut OpenShard<TimelineMachine, TimelineReader>, command| {
        index += 1;
        let outcomes = shard.machine.apply(&[entry(index, &[command])], &index.to_be_bytes()).expect("applies");
        fate_of(&outcomes[0][0])
    };
    for name in 0..200 {
        assert_eq!(apply(&mut shard, stranger(name, name)), Fate::At(name as u64 + 1, true));
    }
    assert_eq!(apply(&mut shard, stranger(200, 200)), Fate::Rejected(Reason::Forbidden));
    assert_eq!(apply(&mut shard, stranger(7, 201)), Fate::At(201, true), "a request that is open goes on");
    // The owner's reading of a request is not told.
    let conversation = Some(TimelineKey { owner: "s7".into(), ..inbox() });
    let marks = vec![move_marks::Mark { conversation, epoch: EPOCH, seq: 201 }];
    let moves = MoveMarks { timeline: Some(inbox()), incarnation: 1, marks, ..MoveMarks::default() };
    assert_eq!(apply(&mut shard, TimelineCommand { op: Some(Op::MoveMarks(moves)) }), Fate::Answered);
    assert_eq!(shard.reader.marks(&store_reads("s7", 3)).expect("reads").marks, [Mark::default()]);

    assert_eq!(apply(&mut shard, answer(7, RequestAnswer::Decline)), Fate::Answered);
    assert_eq!(apply(&mut shard, stranger(7, 202)), Fate::Withheld);
    assert_eq!(apply(&mut shard, stranger(200, 203)), Fate::At(202, true));
    assert_eq!(apply(&mut shard, stranger(201, 204)), Fate::Rejected(Reason::Forbidden));
    assert_eq!(apply(&mut shard, answer(8, RequestAnswer::Accept)), Fate::Answered);
    assert_eq!(apply(&mut shard, stranger(8, 205)), Fate::At(203, false));
    assert_eq!(apply(&mut shard, stranger(201, 206)), Fate::At(204, true));
    let mut shard = shard.reopened();

    // Requests of which nothing is kept do not count; what was declined stays so.
    let trim = Trim { timeline: Some(inbox()), before_seq: 300, limit: 1000, epoch: 0 };
    apply_any(&mut shard, 1_000, Op::Trim(trim));
    let (rows, _) = shard.reader.ended_conversations(&[], 1_000).expect("reads");
    assert_eq!(rows.len(), 201, "200 open ones, and one that was accepted");
    apply_any(&mut shard, 1_001, Op::SweepConversations(SweepConversations { rows }));
    let rest = records(&mut shard.machine).into_iter().filter(|(key, _)| key[0] == 0x1b).count();
    assert_eq!(rest, 1);
    let numbers = records(&mut shard.machine).into_iter().find(|(key, _)| key[0] == 0x1a && key.len() == 9);
    let numbers = keys::ConversationNumbers::decode(&numbers.expect("numbers").1).expect("decodes");
    assert_eq!(numbers.requests, 0);
}

fn apply_any(shard: &mut OpenShard<TimelineMachine, TimelineReader>, index: u64, op: Op) {
    let command = TimelineCommand { op: Some(op) };
    let outcomes = shard.machine.apply(&[entry(index, &[command])], &index.to_be_bytes()).expect("applies");
    assert!(matches!(outcomes[0][0], Outcome::Done(_)), "{:?}", outcomes[0][0]);
}
