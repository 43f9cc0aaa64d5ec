//! Marks and counts of conversations, against a model that keeps every message and counts.

mod in_groups;
mod shown;

use std::collections::BTreeMap;

use carillon_proto::{
    Level, ShardId, ShardKind,
    pb::{
        client::{Content, Envelope, Recipient, recipient::To},
        store::{
            Append, ChangeGroup, ConversationRow, ConversationSettings, ConversationsRead, CreateGroup, EndTimeline,
            GroupSettings, Membership, MoveMarks, Person, ReadConversations, ReadHead, ReadMarks, Rejected,
            SetConversation, SetLevel, SetMembership, StoreError, SweepConversations, TimelineCommand, TimelineKey,
            Trim, UnreadOf, change_group::Change, member::Standing, move_marks::Mark, read_marks::Read,
            rejected::Reason, store_error::Why, timeline_command::Op, timeline_key::Kind,
        },
    },
};
use proptest::prelude::*;

use super::*;
use crate::machine::{Outcome, TimelineMachine, TimelineReader, keys};

const SHARD: ShardId = ShardId { kind: ShardKind::Timeline, index: 1 };
const OWNER: &str = "ann";
/// The owner of the inbox writes to itself, too.
const PEERS: [&str; 4] = ["bob", "bo", "cy@x", OWNER];
const GROUPS: [&str; 2] = ["bob", "g"];
const EPOCH: u64 = 7;

fn inbox(user: &str) -> TimelineKey {
    TimelineKey { kind: Kind::Inbox.into(), owner: user.to_owned().into() }
}

fn group(name: &str) -> TimelineKey {
    TimelineKey { kind: Kind::Group.into(), owner: name.to_owned().into() }
}

fn command(op: Op) -> TimelineCommand {
    TimelineCommand { op: Some(op) }
}

fn set_level() -> TimelineCommand {
    command(Op::SetLevel(SetLevel { level: Level::OF_PROGRAM.0 }))
}

/// A conversation of the model: with a user, or in a group.
fn with(place: usize) -> TimelineKey {
    match PEERS.get(place) {
        Some(peer) => inbox(peer),
        None => group(GROUPS[(place - PEERS.len()) % GROUPS.len()]),
    }
}

#[derive(Debug, Clone)]
enum Act {
    /// A message of the peer, or to it.
    Message {
        peer: usize,
        own: bool,
        incarnation: u64,
    },
    Membership {
        group: usize,
        stands: bool,
    },
    Marks(Vec<(usize, u64, u64)>),
    Set(usize, Option<bool>, Option<String>, Option<bool>),
    Trim(u64),
    /// The next owner of the name.
    End,
    Sweep,
}

fn act() -> impl Strategy<Value = Act> {
    let place = 0..PEERS.len() + GROUPS.len();
    let epoch = prop_oneof![9 => Just(EPOCH), 1 => Just(8u64)];
    let mark = (place.clone(), epoch, prop_oneof![9 => 0..30u64, 1 => Just(u64::MAX)]);
    prop_oneof![
        12 => (0..PEERS.len(), any::<bool>(), prop_oneof![9 => Just(3u64), 1 => 1..6u64])
            .prop_map(|(peer, own, incarnation)| Act::Message { peer, own, incarnation }),
        2 => (0..GROUPS.len(), any::<bool>()).prop_map(|(group, stands)| Act::Membership { group, stands }),
        5 => proptest::collection::vec(mark, 1..4).prop_map(Act::Marks),
        3 => (place, any::<Option<bool>>(), prop_oneof![
                1 => Just(None), 1 => Just(Some(String::new())), 1 => "[a-z]{1,4}".prop_map(Some)
            ], any::<Option<bool>>())
            .prop_map(|(place, pinned, draft, unread)| Act::Set(place, pinned, draft, unread)),
        1 => (0..30u64).prop_map(Act::Trim),
        1 => Just(Act::End),
        2 => Just(Act::Sweep),
    ]
}

#[derive(Default, Clone, Debug, PartialEq)]
struct Conversation {
    incarnation: u64,
    since: u64,
    /// Positions, and whether the owner of the inbox wrote them.
    messages: Vec<(u64, bool)>,
    read: (u64, u64),
    settings: ConversationSettings,
    version: u64,
}

#[derive(Default)]
struct Model {
    /// 0: the inbox does not exist.
    epoch: u64,
    incarnation: u64,
    first: u64,
    last: u64,
    version: u64,
    conversations: BTreeMap<(i32, Vec<u8>), Conversation>,
    memberships: BTreeMap<usize, u64>,
    sent: u64,
}

impl Model {
    fn key(place: usize) -> (i32, Vec<u8>) {
        let with = with(place);
        (with.kind, with.owner.to_vec())
    }

    fn append(&mut self, envelope: &Envelope) -> Append {
        self.sent += 1;
        if self.epoch == 0 {
            (self.epoch, self.first, self.last) = (EPOCH, 1, 0);
        }
        self.last += 1;
        let duplicate_key = [&self.sent.to_be_bytes()[..], &[0; 8]].concat().into();
        let (timeline, envelope) = (Some(inbox(OWNER)), envelope.encode_to_vec().into());
        let incarnation = self.incarnation;
        Append { timeline, duplicate_key, envelope, new_epoch: EPOCH, incarnation, ..Append::default() }
    }

    /// The command, after its effect on the model.
    fn act(&mut self, act: &Act) -> Option<TimelineCommand> {
        Some(command(match act {
            Act::Message { peer, own, incarnation } => {
                let name = PEERS[*peer].to_owned();
                // To oneself the first append is the only one.
                let own = *own && name != OWNER;
                let (from, to) = if own { (OWNER.to_owned(), name.clone()) } else { (name.clone(), OWNER.to_owned()) };
                let id = format!("m{}", self.sent);
                let to = Some(Recipient { to: Some(To::User(to)) });
                let append = self.append(&Envelope { id, sender: from, to, ..Envelope::default() });
                let seq = self.last;
                let row = self.conversations.entry(Self::key(*peer)).or_default();
                let is_next_owner = !row.messages.is_empty() && row.incarnation < *incarnation;
                if is_next_owner && row.settings != ConversationSettings::default() {
                    self.version += 1;
                    (row.settings, row.version) = (ConversationSettings::default(), self.version);
                }
                if row.messages.is_empty() || row.incarnation < *incarnation {
                    (row.incarnation, row.since) = (*incarnation, seq);
                }
                row.messages.push((seq, own || name == OWNER));
                let (sender, peer) = if own { (String::new(), name) } else { (name, String::new()) };
                let (sender, peer, peer_incarnation) = (sender.into(), peer.into(), *incarnation);
                Op::Append(Append { sender, peer, peer_incarnation, ..append })
            }
            Act::Membership { group: number, stands } => {
                let seq = self.sent + 1;
                let append = Some(self.append(&Envelope::default()));
                let standing = if *stands { Standing::Member } else { Standing::Left };
                if *stands {
                    self.memberships.insert(*number, seq);
                } else {
                    self.memberships.remove(number);
                    self.conversations.remove(&Self::key(PEERS.len() + number));
                }
                let membership = Membership { seq, standing: standing.into(), ..Membership::default() };
                let group = Some(group(GROUPS[*number]));
                Op::SetMembership(SetMembership { append, group, membership: Some(membership) })
            }
            Act::Marks(marks) => {
                marks.iter().for_each(|(place, epoch, seq)| self.mark(*place, *epoch, *seq));
                let of = |(place, epoch, seq): &(usize, u64, u64)| Mark {
                    conversation: Some(with(*place)),
                    epoch: *epoch,
                    seq: *seq,
                };
                let (timeline, marks) = (Some(inbox(OWNER)), marks.iter().map(of).collect());
                Op::MoveMarks(MoveMarks { timeline, incarnation: self.incarnation, marks, ..MoveMarks::default() })
            }
            Act::Set(place, pinned, draft, unread) => {
                if (pinned, draft, unread) == (&None, &None, &None) {
                    return None;
                }
                if *place < PEERS.len() && self.epoch == 0 {
                    (self.epoch, self.first, self.last) = (EPOCH, 1, 0);
                }
                self.change(*place, |row| {
                    let settings = &mut row.settings;
                    settings.pinned = pinned.unwrap_or(settings.pinned);
                    settings.draft = draft.clone().unwrap_or(settings.draft.clone());
                    settings.unread = unread.unwrap_or(settings.unread);
                });
                Op::SetConversation(SetConversation {
                    timeline: Some(inbox(OWNER)),
                    incarnation: self.incarnation,
                    conversation: Some(with(*place)),
                    pinned: *pinned,
                    draft: draft.clone(),
                    unread: *unread,
                    new_epoch: EPOCH,
                    ..SetConversation::default()
                })
            }
            Act::Trim(before) => {
                if self.epoch != 0 {
                    self.first = self.first.max(*before.min(&(self.last + 1)));
                }
                Op::Trim(Trim { timeline: Some(inbox(OWNER)), before_seq: *before, limit: 256, epoch: 0 })
            }
            Act::End => {
                let incarnation = self.incarnation + 1;
                *self = Self { incarnation, sent: self.sent, ..Self::default() };
                Op::EndTimeline(EndTimeline { timeline: Some(inbox(OWNER)), incarnation })
            }
            Act::Sweep => return None,
        }))
    }

    fn is_there(&self, place: usize) -> bool {
        match place.checked_sub(PEERS.len()) {
            Some(group) => self.memberships.contains_key(&group),
            None => self.conversations.contains_key(&Self::key(place)),
        }
    }

    fn change(&mut self, place: usize, change: impl Fn(&mut Conversation)) {
        let may_be_new = place < PEERS.len() || self.is_there(place);
        if self.epoch == 0 || !may_be_new {
            return;
        }
        let mut row = self.conversations.get(&Self::key(place)).cloned().unwrap_or_default();
        let before = row.clone();
        change(&mut row);
        if row != before {
            self.version += 1;
            row.version = self.version;
            self.conversations.insert(Self::key(place), row);
        }
    }

    fn mark(&mut self, place: usize, epoch: u64, seq: u64) {
        if !self.is_there(place) {
            return;
        }
        let (first, in_group) = (self.first, place >= PEERS.len());
        self.change(place, |row| {
            if in_group {
                row.settings.unread = false;
                if row.read.0 != epoch || row.read.1 < seq {
                    row.read = (epoch, seq);
                }
                return;
            }
            let last = row.messages.last().map_or(0, |(seq, _)| *seq);
            let seq = seq.min(last);
            let is_kept = |at: &(u64, bool)| at.0 == seq && seq >= first;
            if epoch == EPOCH && (seq == last || row.messages.iter().any(is_kept)) {
                row.settings.unread = false;
                row.read.1 = row.read.1.max(seq);
            }
        });
    }

    /// Nothing is kept of these.
    fn swept(&mut self) {
        let (first, last) = (self.first, self.last);
        self.conversations.retain(|(kind, _), row| {
            let is_with_user = *kind == i32::from(Kind::Inbox) && !row.messages.is_empty();
            let kept = first <= last && row.messages.iter().any(|(seq, _)| *seq >= first);
            !is_with_user || kept || row.settings != ConversationSettings::default()
        });
    }

    fn unread(&self, row: &Conversation) -> u64 {
        if row.messages.last().is_none_or(|(seq, _)| *seq < self.first) {
            return 0;
        }
        row.messages.iter().filter(|(seq, own)| *seq > row.read.1 && !own).count() as u64
    }

    /// With whom, how much is unread, up to where was read, and what is wanted of it.
    fn expected(&self) -> Vec<Seen> {
        let mut all = self.conversations.clone();
        for group in self.memberships.keys() {
            all.entry(Self::key(PEERS.len() + group)).or_default();
        }
        let seen = |((kind, name), row): ((i32, Vec<u8>), Conversation)| Seen {
            with: (kind, name),
            unread: self.unread(&row),
            last: row.messages.last().map_or(0, |(seq, _)| *seq),
            read: row.read,
            settings: row.settings,
            version: row.version,
        };
        all.into_iter().map(seen).collect()
    }
}

#[derive(Debug, PartialEq, Clone)]
struct Seen {
    with: (i32, Vec<u8>),
    unread: u64,
    last: u64,
    read: (u64, u64),
    settings: ConversationSettings,
    version: u64,
}

impl Seen {
    fn of(row: ConversationRow) -> Self {
        let (with, row, unread) = (row.conversation.expect("named"), row.row.expect("has one"), row.unread);
        let with = (with.kind, with.owner.to_vec());
        let settings = row.settings.unwrap_or_default();
        Self { with, unread, last: row.last_seq, read: (row.read_epoch, row.read_seq), settings, version: row.version }
    }
}

/// All pages, of two conversations each, from this version on.
fn read(reader: &TimelineReader, incarnation: u64, since: u64) -> (Vec<Seen>, ConversationsRead) {
    let mut op = ReadConversations {
        timeline: Some(inbox(OWNER)),
        incarnation,
        epoch: EPOCH,
        since,
        limit: 2,
        ..Default::default()
    };
    let mut all = Vec::new();
    loop {
        let page = reader.conversations(&op).expect("reads");
        assert!(page.rows.len() <= 2);
        op.after = page.rows.last().and_then(|row| row.conversation.clone());
        op.since = if page.changes { page.version } else { 0 };
        all.extend(page.rows.clone().into_iter().map(Seen::of));
        if page.complete {
            return (all, page);
        }
    }
}

fn check(reader: &TimelineReader, model: &Model) {
    let expected = model.expected();
    let (all, page) = read(reader, model.incarnation, 0);
    assert_eq!(all, expected);
    assert_eq!((page.epoch, page.version), (model.epoch, model.version));
    for since in 1..=model.version + 1 {
        let (changed, page) = read(reader, model.incarnation, since);
        let is_known = since <= model.version;
        assert_eq!(page.changes, is_known);
        let mut expected = expected.clone();
        if is_known {
            expected.retain(|seen| seen.version > since);
            expected.sort_by_key(|seen| seen.version);
        }
        assert_eq!(changed, expected, "since {since}");
    }
    check_marks(reader, model);
}

/// Checks the marks that the peer is told: only if it is the account that has written, and only of its own time.
fn check_marks(reader: &TimelineReader, model: &Model) {
    for (place, peer) in PEERS.iter().enumerate() {
        let row = model.conversations.get(&Model::key(place)).filter(|row| !row.messages.is_empty());
        for incarnation in 1..6 {
            let (timeline, conversation) = (Some(inbox(OWNER)), Some(inbox(peer)));
            let read = Read { timeline, conversation, peer_incarnation: incarnation, by_contact: false };
            let mark = reader.marks(&ReadMarks { reads: vec![read] }).expect("reads").marks.remove(0);
            let row = row.filter(|row| row.incarnation == incarnation);
            let at = row.map_or(0, |row| if row.read.1 < row.since.max(model.first) { 0 } else { row.read.1 });
            let op = carillon_proto::pb::store::ReadTimeline {
                timeline: Some(inbox(OWNER)),
                incarnation: model.incarnation,
                from_seq: at,
                limit: 1,
                ..Default::default()
            };
            let id = || {
                let entry = reader.read(&op).expect("reads").entries.remove(0);
                Envelope::decode(entry.envelope).expect("decodes").id
            };
            assert_eq!(mark.read_id, if at == 0 { String::new() } else { id() }, "{peer} {incarnation}");
        }
    }
}

fn sweep(reader: &TimelineReader) -> TimelineCommand {
    let (mut rows, mut after) = (Vec::new(), Vec::new());
    loop {
        let (found, next) = reader.ended_conversations(&after, 1).expect("reads");
        rows.extend(found);
        if next.is_empty() {
            return command(Op::SweepConversations(SweepConversations { rows }));
        }
        after = next;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn conversations_are_what_their_model_counts(
        steps in proptest::collection::vec(step(proptest::collection::vec(proptest::collection::vec(act(), 0..8), 1..4)), 1..20),
    ) {
        let mut shard = OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &set_level());
        let (mut model, mut index) = (Model::default(), 0);
        for step in steps {
            match step {
                Step::Apply(entries) => {
                    let mut commands = Vec::new();
                    for acts in entries {
                        let entry: Vec<_> = acts.iter().filter_map(|act| model.act(act)).collect();
                        commands.push(entry);
                        if acts.iter().any(|act| matches!(act, Act::Sweep)) {
                            // The state here is that of all commands before.
                            apply(&mut shard, &mut index, std::mem::take(&mut commands));
                            let sweep = sweep(&shard.reader);
                            apply(&mut shard, &mut index, vec![vec![sweep]]);
                            model.swept();
                        }
                    }
                    apply(&mut shard, &mut index, commands);
                }
                Step::Reopen => shard = shard.reopened(),
                Step::SnapshotAndRestore => shard = shard.restored_from_its_snapshot(),
            }
            check(&shard.reader, &model);
            check_counts(&mut shard.machine);
        }
    }
}

/// Each inbox says how many of its conversations have a version. Of one that has ended, the rows go one after another.
fn check_counts(machine: &mut TimelineMachine) {
    let (mut rows, mut counts, mut ended) = (BTreeMap::<Vec<u8>, u64>::new(), BTreeMap::new(), Vec::new());
    for (key, value) in records(machine) {
        match (key[0], key.len()) {
            (0x1a, 9) => {
                let numbers = keys::ConversationNumbers::decode(&value).expect("decodes");
                counts.insert(key[1..].to_vec(), numbers.changed);
            }
            (0x1a, _) => *rows.entry(key[1..9].to_vec()).or_default() += 1,
            (0x16, _) => ended.push(key[1..].to_vec()),
            _ => {}
        }
    }
    counts.retain(|number, count| *count != 0 && !ended.contains(number));
    rows.retain(|number, _| !ended.contains(number));
    assert_eq!(counts, rows);
}

fn apply(shard: &mut OpenShard<TimelineMachine, TimelineReader>, index: &mut u64, commands: Vec<Vec<TimelineCommand>>) {
    let entries: Vec<_> = commands
        .iter()
        .map(|commands| {
            *index += 1;
            entry(*index, commands)
        })
        .collect();
    let outcomes = shard.machine.apply(&entries, &index.to_be_bytes()).expect("applies");
    for outcome in outcomes.into_iter().flatten() {
        // A mark before the first message, and settings of a group that the user is not in.
        if let Outcome::Error(StoreError { why: Some(Why::Rejected(Rejected { reason, detail, .. })) }) = outcome {
            assert_eq!(reason, i32::from(Reason::NotFound), "{detail}");
        }
    }
}
