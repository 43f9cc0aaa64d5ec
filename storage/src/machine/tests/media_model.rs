//! Files against a model that keeps them in memory and counts them anew each time.

use std::collections::BTreeMap;

use carillon_proto::{
    Level, MediaId, ShardId, ShardKind,
    pb::store::{
        AdvanceClock, CompleteMedia, CreateMedia, EndSender, EndTimeline, EraseSender, MediaRow, Person, ReadMedia,
        ReadOutbox, RemoveMedia, SetLevel, StoreError, TimelineCommand, TimelineKey, media_row::State,
        outbox_row::Task, rejected::Reason, remove_media::Seen, store_error::Why, timeline_command::Op,
        timeline_key::Kind,
    },
};
use proptest::prelude::*;

use super::*;
use crate::machine::{DueMedia, Outcome, Retention, TimelineMachine, TimelineReader};

const SHARD: ShardId = ShardId { kind: ShardKind::Timeline, index: 1 };
const USERS: [&str; 2] = ["a", "ab"];
const MOST_BYTES: u64 = 10;
const MOST_FILES: u32 = 3;

fn id(number: u8) -> MediaId {
    MediaId::new(SHARD.index, [number; 14])
}

fn inbox(user: &str) -> TimelineKey {
    TimelineKey { kind: Kind::Inbox.into(), owner: user.to_owned().into() }
}

fn set_level() -> TimelineCommand {
    TimelineCommand { op: Some(Op::SetLevel(SetLevel { level: Level::OF_PROGRAM.0 })) }
}

fn person() -> impl Strategy<Value = Person> {
    (0..USERS.len(), prop_oneof![8 => Just(1), 2 => Just(2)])
        .prop_map(|(user, incarnation)| Person { user: USERS[user].to_owned(), incarnation })
}

fn command() -> impl Strategy<Value = TimelineCommand> {
    let create = (person(), 0..8u8, 1..6u64, 1..4u64).prop_map(|(owner, number, size_bytes, sender_generation)| {
        Op::CreateMedia(CreateMedia {
            timeline: Some(inbox(&owner.user)),
            incarnation: owner.incarnation,
            sender_generation,
            id: id(number).as_bytes().to_vec().into(),
            size_bytes,
            media_type: "image/png".to_owned(),
            name: "n".to_owned(),
            most_bytes: MOST_BYTES,
            most_files: MOST_FILES,
        })
    });
    let other = prop_oneof![Just((Vec::new(), 0)), (1..7u64).prop_map(|size_bytes| (vec![9; 32], size_bytes))];
    let complete = (person(), 0..8u8, other).prop_map(|(owner, number, (sha256, size_bytes))| {
        let id = id(number).as_bytes().to_vec().into();
        let (owner, media_type) = (Some(owner), "image/gif".to_owned());
        Op::CompleteMedia(CompleteMedia { owner, id, media_type, sha256: sha256.into(), size_bytes })
    });
    let seen = (0..8u8, any::<bool>(), 0..30u64).prop_map(|(number, complete, changed_ms)| {
        let state = if complete { State::Complete } else { State::Pending };
        Seen { id: id(number).as_bytes().to_vec().into(), state: state.into(), changed_ms: changed_ms / 10 * 10 }
    });
    let remove = proptest::collection::vec(seen, 1..8).prop_map(|files| Op::RemoveMedia(RemoveMedia { files }));
    let user = || (0..USERS.len()).prop_map(|user| USERS[user].to_owned());
    let end = (user(), 1..3u64)
        .prop_map(|(user, incarnation)| Op::EndTimeline(EndTimeline { timeline: Some(inbox(&user)), incarnation }));
    let end_sender = (user(), 1..4u64).prop_map(|(sender, generation)| Op::EndSender(EndSender { sender, generation }));
    let clock = Just(Op::AdvanceClock(AdvanceClock { elapsed_ms: 10 }));
    prop_oneof![8 => create, 4 => complete, 4 => remove, 1 => end, 1 => end_sender, 1 => clock]
        .prop_map(|op| TimelineCommand { op: Some(op) })
}

#[derive(Default)]
struct Model {
    files: BTreeMap<MediaId, MediaRow>,
    /// The last incarnation that has made a file.
    counted: BTreeMap<String, u64>,
    /// Incarnation of each inbox.
    inboxes: BTreeMap<String, u64>,
    ended_senders: BTreeMap<String, u64>,
    /// And whether only what was uploaded.
    removed: Vec<(MediaId, bool)>,
    clock_ms: u64,
}

impl Model {
    /// Number and bytes of the files of this owner.
    fn sum(&self, owner: &Person) -> (u32, u64) {
        let of = self.files.values().filter(|row| row.owner.as_ref() == Some(owner));
        of.fold((0, 0), |(files, bytes), row| (files + 1, bytes + row.size_bytes))
    }

    /// The right answer to the command; `None`: it is done.
    fn expected(&mut self, op: &Op) -> Option<Reason> {
        match op {
            Op::CreateMedia(op) => self.create(op),
            Op::CompleteMedia(op) => {
                let row = self.files.get_mut(&MediaId::from_bytes(&op.id).expect("an id"));
                let Some(row) = row.filter(|row| row.owner == op.owner) else { return Some(Reason::NotFound) };
                if row.state() == State::Pending {
                    (row.state, row.changed_ms) = (State::Complete.into(), self.clock_ms);
                    row.media_type.clone_from(&op.media_type);
                    if !op.sha256.is_empty() {
                        (row.sha256, row.size_bytes) = (op.sha256.clone(), op.size_bytes);
                        let id = MediaId::from_bytes(&op.id).expect("an id");
                        self.removed.push((id, true));
                    }
                }
                None
            }
            Op::RemoveMedia(op) => {
                for seen in &op.files {
                    self.remove(seen);
                }
                None
            }
            Op::EndTimeline(op) => {
                let user = op.timeline.as_ref().and_then(|key| key.owner_str().ok()).expect("a user");
                let now = self.inboxes.entry(user.to_owned()).or_default();
                *now = op.incarnation.max(*now);
                None
            }
            Op::EndSender(op) => {
                let ended = self.ended_senders.entry(op.sender.clone()).or_default();
                *ended = op.generation.max(*ended);
                None
            }
            Op::AdvanceClock(op) => {
                self.clock_ms += u64::from(op.elapsed_ms);
                None
            }
            _ => unreachable!("not among the commands"),
        }
    }

    fn create(&mut self, op: &CreateMedia) -> Option<Reason> {
        let user = op.timeline.as_ref().and_then(|key| key.owner_str().ok()).expect("a user").to_owned();
        let owner = Person { user: user.clone(), incarnation: op.incarnation };
        if self.inboxes.get(&user).is_some_and(|inbox| op.incarnation < *inbox) {
            return Some(Reason::Gone);
        }
        if self.ended_senders.get(&user).is_some_and(|ended| op.sender_generation < *ended) {
            return Some(Reason::SenderGone);
        }
        let id = MediaId::from_bytes(&op.id).expect("an id");
        if let Some(known) = self.files.get(&id) {
            let same = known.owner.as_ref() == Some(&owner) && known.size_bytes == op.size_bytes;
            return (!same).then_some(Reason::Exists);
        }
        if self.counted.get(&user).is_some_and(|counted| op.incarnation < *counted) {
            return Some(Reason::Gone);
        }
        let counts = self.counted.get(&user) == Some(&op.incarnation);
        let (files, bytes) = if counts { self.sum(&owner) } else { (0, 0) };
        if files >= MOST_FILES || bytes + op.size_bytes > MOST_BYTES {
            return Some(Reason::Full);
        }
        self.counted.insert(user, op.incarnation);
        let row = MediaRow {
            owner: Some(owner),
            size_bytes: op.size_bytes,
            media_type: op.media_type.clone(),
            name: op.name.clone(),
            state: State::Pending.into(),
            changed_ms: self.clock_ms,
            sender_generation: op.sender_generation,
            ..MediaRow::default()
        };
        self.files.insert(id, row);
        None
    }

    fn remove(&mut self, seen: &Seen) {
        let id = MediaId::from_bytes(&seen.id).expect("an id");
        let is_same = |row: &MediaRow| (row.state, row.changed_ms) == (seen.state, seen.changed_ms);
        if !self.files.get(&id).is_some_and(is_same) {
            return;
        }
        self.files.remove(&id);
        self.removed.push((id, false));
    }
}

fn reason(outcome: &Outcome) -> Option<Reason> {
    match outcome {
        Outcome::Done(_) => None,
        Outcome::Error(StoreError { why: Some(Why::Rejected(rejected)) }) => Some(rejected.reason()),
        other => panic!("unexpected: {other:?}"),
    }
}

fn check(reader: &TimelineReader, model: &Model) {
    for number in 0..8 {
        let read = reader.media(&ReadMedia { id: id(number).as_bytes().to_vec().into() }).ok();
        assert_eq!(read.and_then(|read| read.row).as_ref(), model.files.get(&id(number)), "file {number}");
    }
    let outbox = reader.outbox(&ReadOutbox::default()).expect("reads");
    assert!(outbox.complete);
    let removed = outbox.rows.iter().flat_map(|row| match row.row.as_ref().and_then(|row| row.task.as_ref()) {
        Some(Task::RemoveObjects(remove)) => {
            remove.ids.iter().filter_map(|id| Some((MediaId::from_bytes(id)?, remove.uploaded)))
        }
        other => panic!("unexpected: {other:?}"),
    });
    assert_eq!(removed.collect::<Vec<_>>(), model.removed);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn files_are_what_their_model_says(
        steps in proptest::collection::vec(step(proptest::collection::vec(proptest::collection::vec(command(), 0..8), 1..4)), 1..25),
    ) {
        let mut shard = OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &set_level());
        let (mut model, mut index) = (Model::default(), 0);
        for step in steps {
            match step {
                Step::Apply(commands) => {
                    let entries: Vec<_> =
                        commands.iter().map(|commands| { index += 1; entry(index, commands) }).collect();
                    let outcomes = shard.machine.apply(&entries, &index.to_be_bytes()).expect("applies");
                    for (command, outcome) in commands.iter().flatten().zip(outcomes.iter().flatten()) {
                        let op = command.op.as_ref().expect("has one");
                        prop_assert_eq!(reason(outcome), model.expected(op), "{:?}", op);
                    }
                }
                Step::Reopen => shard = shard.reopened(),
                Step::SnapshotAndRestore => shard = shard.restored_from_its_snapshot(),
            }
            check(&shard.reader, &model);
        }
    }

    #[test]
    fn batch_boundaries_make_no_difference_to_files(
        commands in proptest::collection::vec(proptest::collection::vec(command(), 0..20), 1..20),
    ) {
        check_batches(|engines| engines.timeline(SHARD).expect("shard").0, &set_level(), commands);
    }
}

#[test]
fn files_that_were_never_whole_and_those_of_erased_users_are_due() {
    let mut shard = OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &set_level());
    let mut index = 0;
    let mut apply = |shard: &mut OpenShard<TimelineMachine, TimelineReader>, op: Op| {
        index += 1;
        let command = TimelineCommand { op: Some(op) };
        shard.machine.apply(&[entry(index, &[command])], &index.to_be_bytes()).expect("applies").remove(0).remove(0)
    };
    let create = |user: &str, number: u8| {
        Op::CreateMedia(CreateMedia {
            timeline: Some(inbox(user)),
            incarnation: 1,
            sender_generation: 1,
            id: id(number).as_bytes().to_vec().into(),
            size_bytes: 1,
            most_bytes: 100,
            most_files: 100,
            ..CreateMedia::default()
        })
    };
    let complete = |user: &str, number: u8| {
        let owner = Some(Person { user: user.to_owned(), incarnation: 1 });
        Op::CompleteMedia(CompleteMedia { owner, id: id(number).as_bytes().to_vec().into(), ..Default::default() })
    };
    let due = |reader: &TimelineReader| {
        let (due, next) = reader.due_media(&[], &Retention::default(), 9).expect("reads");
        assert!(next.is_empty());
        let removed = due.iter().map(|due| match due {
            DueMedia::Removed(seen) => MediaId::from_bytes(&seen.id).expect("an id"),
            DueMedia::Checked(_) => panic!("files are kept"),
        });
        removed.collect::<Vec<_>>()
    };
    for (user, number) in [("a", 1), ("a", 2), ("ab", 3)] {
        apply(&mut shard, create(user, number));
    }
    apply(&mut shard, complete("a", 2));
    apply(&mut shard, complete("ab", 3));
    let of = |reader: &TimelineReader, user: &str, incarnation| {
        let (files, next) = reader.files_of(&Person { user: user.to_owned(), incarnation }, &[]).expect("reads");
        assert!(next.is_empty());
        files.into_iter().map(|file| file.id).collect::<Vec<_>>()
    };
    assert_eq!(of(&shard.reader, "a", 1), [id(1), id(2)]);
    assert_eq!(of(&shard.reader, "a", 2), [], "another owner of the name");
    assert_eq!(shard.reader.files_of(&Person::default(), &[0xff; 99]).expect("reads"), (vec![], vec![]));
    let day = 24 * 3_600_000;
    apply(&mut shard, Op::AdvanceClock(AdvanceClock { elapsed_ms: day }));
    assert_eq!(due(&shard.reader), [], "not longer than a day");
    apply(&mut shard, Op::AdvanceClock(AdvanceClock { elapsed_ms: 1 }));
    assert_eq!(due(&shard.reader), [id(1)]);
    apply(&mut shard, Op::EraseSender(EraseSender { sender: "ab".to_owned(), generation: 2 }));
    assert_eq!(due(&shard.reader), [id(1), id(3)]);
}
