//! Messages that the owner of an inbox does not want, against a model that remembers them all.

use carillon_proto::{
    Level, ShardId, ShardKind,
    pb::store::{
        Append, ReadConversations, Rejected, SetLevel, StoreError, TimelineCommand, TimelineKey, append::Admission,
        rejected::Reason, store_error::Why, timeline_command::Op, timeline_key::Kind,
    },
};
use proptest::prelude::*;

use super::*;
use crate::machine::{Outcome, TimelineMachine, TimelineReader};

const SHARD: ShardId = ShardId { kind: ShardKind::Timeline, index: 1 };
const PEERS: [&str; 2] = ["bob", "cy"];
const EPOCH: u64 = 7;
const ADMISSIONS: [Admission; 4] =
    [Admission::Unspecified, Admission::Withheld, Admission::WriteBack, Admission::Refused];

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
}

fn act() -> impl Strategy<Value = Act> {
    let admission = || prop_oneof![4 => Just(0usize), 4 => Just(1), 1 => Just(2), 1 => Just(3)];
    let incarnation = || prop_oneof![9 => Just(3u64), 1 => Just(4u64)];
    prop_oneof![
        8 => (0..PEERS.len(), incarnation(), admission(), proptest::option::of(0..4usize))
            .prop_map(|(peer, incarnation, admission, after)| Act::Message { peer, incarnation, admission, after }),
        3 => (any::<usize>(), admission()).prop_map(|(which, admission)| Act::Again { which, admission }),
        2 => (0..PEERS.len(), incarnation()).prop_map(|(peer, incarnation)| Act::Own { peer, incarnation }),
    ]
}

/// What has become of a message.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    At(u64),
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
        if self.written[peer].0 < incarnation {
            self.written[peer] = (incarnation, false);
        }
        Fate::At(self.last)
    }

    fn decides(&mut self, peer: usize, incarnation: u64, admission: Admission, number: usize) -> Fate {
        match admission {
            Admission::Withheld => self.withholds(peer, number),
            Admission::WriteBack if self.written[peer] != (incarnation, true) => Fate::Rejected(Reason::Forbidden),
            Admission::Refused => Fate::Rejected(Reason::Forbidden),
            Admission::WriteBack | Admission::Unspecified => {
                self.unread[peer] += 1;
                self.arrives(peer, incarnation)
            }
        }
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
                    let is_there = matches!(self.sent[before].fate, Fate::At(_));
                    is_there || self.is_withheld(peer, before) || admission == Admission::Withheld
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
                    Fate::At(_) => fate,
                    Fate::Withheld if self.is_withheld(peer, number) => fate,
                    // So late that it is not known any more, or refused: it is decided anew.
                    Fate::Withheld | Fate::Rejected(_) => self.decides(peer, incarnation, admission, number),
                };
                self.sent[number].fate = fate;
                (self.append(peer, incarnation, admission, number), fate)
            }
            Act::Again { .. } => return None,
            Act::Own { peer, incarnation } => {
                let append = self.append(peer, incarnation, Admission::Unspecified, self.sent.len());
                let (sender, name) = (bytes::Bytes::new(), PEERS[peer].into());
                let fate = self.arrives(peer, incarnation);
                self.written[peer].1 = true;
                // As the other side's: keys are of one space.
                self.sent.push(Sent { peer, incarnation, fate });
                (Append { sender, peer: name, ..append }, fate)
            }
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
        Outcome::Appended(appended) => Fate::At(appended.seq),
        Outcome::Error(StoreError { why: Some(Why::Rejected(rejected)) }) => Fate::Rejected(rejected.reason()),
        other => panic!("{other:?}"),
    }
}

fn check(reader: &TimelineReader, model: &Model) {
    let read = ReadConversations { timeline: Some(inbox()), incarnation: 1, ..ReadConversations::default() };
    let read = reader.conversations(&read).expect("reads");
    let unread = |peer: &str| {
        let row = read.rows.iter().find(|row| row.conversation.as_ref().is_some_and(|with| with.owner == peer));
        row.map(|row| row.row.as_ref().expect("a row").counted)
    };
    for (at, peer) in PEERS.iter().enumerate() {
        let has_any = model.written[at].0 != 0;
        assert_eq!(unread(peer), has_any.then_some(model.unread[at]), "{peer}");
    }
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
            check(&shard.reader, &model);
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
