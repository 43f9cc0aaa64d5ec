//! Files, what refers to them in several shards, and their collection. The test is the routers: it carries out what is in the outboxes late, twice, and in
//! another order, and gives up in the middle.

mod acts;
mod world;

use std::collections::BTreeMap;

use carillon_proto::{
    Level, MediaId, ShardId, ShardKind,
    pb::{
        client::Envelope,
        store::{
            AdvanceClock, Append, CheckMedia, CollectMedia, CompleteMedia, CreateMedia, Header, MediaHold, MediaRow,
            NoteReleasedMedia, Person, ReadMedia, ReadOutbox, ReportRow, ScheduledRow, SetLevel, TimelineCommand,
            TimelineKey, Trim, media_row::State, outbox_row::Task, timeline_command::Op, timeline_key::Kind,
        },
    },
};
use proptest::prelude::*;

use self::{
    acts::{Act, KEPT_MS, act},
    world::World,
};
use super::*;
use crate::machine::{
    DueMedia, Retention, TimelineMachine, TimelineReader,
    keys::{self, ReportKey},
};

const SHARD: ShardId = ShardId { kind: ShardKind::Timeline, index: 1 };

fn set_level() -> TimelineCommand {
    TimelineCommand { op: Some(Op::SetLevel(SetLevel { level: Level::OF_PROGRAM.0 })) }
}

/// The counts of a shard are those of what refers to files in it, and nothing that was erased refers to one.
pub(super) fn check_holds(records: &Records) {
    let mut counts: BTreeMap<MediaId, u64> = BTreeMap::new();
    let mut holds = |media: &[bytes::Bytes]| {
        for id in media {
            *counts.entry(MediaId::from_bytes(id).expect("an id")).or_default() += 1;
        }
    };
    let (mut kept, mut released) = (BTreeMap::new(), BTreeMap::new());
    for (key, value) in records {
        if keys::is_record(key) {
            let stored = keys::Stored::decode(value).expect("decodes");
            let message = stored.header.message.as_deref();
            let is_erased = Envelope::decode(stored.envelope).is_ok_and(|envelope| envelope.erased);
            assert!(!is_erased || message.is_none_or(|message| message.media.is_empty()), "{message:?}");
            holds(message.map_or(&[], |message| &message.media[..]));
        } else if let Ok((_, Some(_))) = keys::scheduled_of(key) {
            holds(&ScheduledRow::decode(&**value).expect("decodes").header.unwrap_or_default().media);
        } else if let Ok(ReportKey::Open(_) | ReportKey::Resolved(_)) = keys::report_of(key) {
            holds(&ReportRow::decode(&**value).expect("decodes").media);
        } else if let Ok(id) = keys::media_hold_of(key) {
            let hold = MediaHold::decode(&**value).expect("decodes");
            assert_eq!(hold.count == 0, hold.released_ms != 0, "{hold:?}");
            kept.insert(id, hold);
        } else if let Ok((at_ms, id)) = keys::media_released_of(key) {
            assert_eq!(released.insert(id, at_ms), None, "a file is released once");
        }
    }
    let found: BTreeMap<_, _> =
        kept.iter().map(|(id, hold)| (*id, hold.count)).filter(|(_, count)| *count > 0).collect();
    assert_eq!(found, counts);
    let unheld = kept.iter().filter(|(_, hold)| hold.count == 0);
    assert_eq!(released, unheld.map(|(id, hold)| (*id, hold.released_ms)).collect());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_file_stays_while_something_refers_to_it_and_goes_with_all_its_rows_when_nothing_does(
        acts in proptest::collection::vec(act(), 1..150),
    ) {
        let mut world = World::new();
        for (at, act) in acts.into_iter().enumerate() {
            world.act(act);
            world.check();
            if at % 8 == 7 {
                world.check_counts();
            }
        }
        world.check_counts();
        world.end_everything();
        world.check_counts();
        world.check_that_batches_make_no_difference();
    }
}

#[test]
fn a_file_that_is_forwarded_to_a_shard_that_has_said_no_stays() {
    let mut world = World::new();
    let all = [true; 3];
    world.act(Act::Upload(0));
    world.act(Act::Say { shard: 2, user: 0, sender: 0, files: [Some(1), None] });
    world.act(Act::Advance { ms: 2 * KEPT_MS, leads: all });
    world.act(Act::Sweep { shard: 0, limit: 9 });
    world.act(Act::Work { shard: 0, row: 0, again: false, dies: false });
    let asks = |world: &mut World| world.act(Act::Ask { check: 0, again: false });
    asks(&mut world);
    asks(&mut world);
    // To the last one that was asked, from the one that has not been asked yet.
    world.act(Act::Move { message: 0, shard: 1, user: 0 });
    asks(&mut world);
    world.check();
    world.check_counts();
    world.end_everything();
}

/// A shard that is asked directly.
struct Single {
    shard: OpenShard<TimelineMachine, TimelineReader>,
    index: u64,
}

impl Single {
    fn new() -> Self {
        Self { shard: OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &set_level()), index: 0 }
    }

    fn apply(&mut self, op: Op) {
        self.index += 1;
        let command = TimelineCommand { op: Some(op) };
        self.shard.machine.apply(&[entry(self.index, &[command])], &self.index.to_be_bytes()).expect("applies");
    }

    fn upload(&mut self, number: u8) {
        self.apply(Op::CreateMedia(CreateMedia {
            timeline: Some(inbox("owner")),
            incarnation: 1,
            id: id(number).as_bytes().to_vec().into(),
            size_bytes: 1,
            most_bytes: 1000,
            most_files: 1000,
            ..CreateMedia::default()
        }));
        let owner = Some(Person { user: "owner".to_owned(), incarnation: 1 });
        self.apply(Op::CompleteMedia(CompleteMedia { owner, id: bytes(number), ..CompleteMedia::default() }));
    }

    fn advance(&mut self, elapsed_ms: u64) {
        let (whole, rest) = (elapsed_ms / u64::from(u32::MAX), elapsed_ms % u64::from(u32::MAX));
        let steps = std::iter::repeat_n(u32::MAX, whole as usize).chain([rest as u32]);
        steps.for_each(|elapsed_ms| self.apply(Op::AdvanceClock(AdvanceClock { elapsed_ms })));
    }

    /// The files to be looked for.
    fn checked(&self, retention: &Retention) -> Vec<MediaId> {
        let (due, _) = self.shard.reader.due_media(&[], retention, 100).expect("reads");
        let id = |due: &DueMedia| match due {
            DueMedia::Checked(id) => MediaId::from_bytes(id).expect("an id"),
            DueMedia::Removed(_) => panic!("all are whole"),
        };
        due.iter().map(id).collect()
    }

    fn row(&self, number: u8) -> Option<MediaRow> {
        self.shard.reader.media(&ReadMedia { id: bytes(number) }).ok()?.row
    }
}

fn id(number: u8) -> MediaId {
    MediaId::new(SHARD.index, [number; 14])
}

fn bytes(number: u8) -> bytes::Bytes {
    id(number).as_bytes().to_vec().into()
}

fn inbox(user: &str) -> TimelineKey {
    TimelineKey { kind: Kind::Inbox.into(), owner: user.to_owned().into() }
}

#[test]
fn files_are_looked_for_when_they_had_time_to_be_sent_when_they_are_released_and_once_a_quarter() {
    let retention = Retention { unreferenced_media_ms: 6400, ..Retention::default() };
    let mut single = Single::new();
    single.upload(1);
    single.advance(6400);
    assert_eq!(single.checked(&retention), [], "not longer than it is kept");
    single.advance(100);
    assert_eq!(single.checked(&retention), [], "it waits for others for a while");
    single.advance(1);
    assert_eq!(single.checked(&retention), [id(1)]);
    assert_eq!(single.checked(&Retention { slack_ms: 102, ..retention }), [], "it may be so much younger");
    assert_eq!(single.checked(&Retention::default()), [], "files are kept as long as their owners");
    let check = |single: &mut Single| {
        single.apply(Op::CheckMedia(CheckMedia { ids: vec![bytes(1)] }));
        single.index
    };
    let number = check(&mut single);
    assert_eq!(single.checked(&retention), [], "somebody does");
    let held = |check| Op::CollectMedia(CollectMedia { check, held: vec![bytes(1)], unheld: Vec::new() });
    single.apply(held(number - 1));
    assert_eq!(single.row(1).expect("stays").check, number, "the outcome of another check");
    single.apply(held(number));
    assert_eq!((single.row(1).expect("stays").check, single.checked(&retention)), (0, vec![]));
    single.advance(90 * 24 * 3_600_000);
    assert_eq!(single.checked(&retention), []);
    single.advance(90 * 24 * 3_600_000 / 64 + 1);
    assert_eq!(single.checked(&retention), [id(1)], "it may have been released unheard");
    let number = check(&mut single);
    single.apply(held(number));
    single.apply(Op::NoteReleasedMedia(NoteReleasedMedia { ids: vec![bytes(1), bytes(2)] }));
    assert_eq!(single.checked(&retention), [], "it waits for others for a while");
    single.advance(101);
    assert_eq!(single.checked(&retention), [id(1)]);
    // Released once more while it is looked for.
    let unheld = |check| Op::CollectMedia(CollectMedia { check, held: Vec::new(), unheld: vec![bytes(1)] });
    let number = check(&mut single);
    single.apply(Op::NoteReleasedMedia(NoteReleasedMedia { ids: vec![bytes(1)] }));
    single.apply(unheld(number));
    let row = single.row(1).expect("stays");
    assert!(row.check == 0 && row.released_ms != 0 && row.state() == State::Complete);
    // The result of the first check was discarded.
    let discarded = check(&mut single);
    single.advance(24 * 3_600_000);
    assert_eq!((single.checked(&retention), check(&mut single)), (vec![], discarded + 2));
    assert_eq!(single.row(1).expect("stays").check, discarded, "it is under way");
    single.advance(1);
    assert_eq!(single.checked(&retention), [id(1)]);
    let number = check(&mut single);
    single.apply(unheld(discarded));
    single.apply(unheld(number));
    assert_eq!(single.row(1), None);
    let rows = single.shard.reader.outbox(&ReadOutbox::default()).expect("reads").rows;
    let removes = rows.iter().filter_map(|row| match row.row.as_ref()?.task.as_ref()? {
        Task::RemoveObjects(remove) => Some(remove.ids.clone()),
        _ => None,
    });
    assert_eq!(removes.collect::<Vec<_>>(), [vec![bytes(1)]]);
}

#[test]
fn a_plain_message_writes_no_row_more() {
    let mut single = Single::new();
    let append = |number: u8, media: Vec<bytes::Bytes>| {
        let header = Header { countable: true, media, ..Header::default() };
        Op::Append(Append {
            timeline: Some(inbox("u")),
            duplicate_key: vec![number; 16].into(),
            envelope: "e".into(),
            new_epoch: 7,
            header: (!header.media.is_empty()).then(|| Box::new(header)),
            ..Append::default()
        })
    };
    single.apply(append(1, Vec::new()));
    let before = records(&mut single.shard.machine).len();
    single.apply(append(2, Vec::new()));
    let plain = records(&mut single.shard.machine).len();
    assert_eq!(plain - before, 2, "the record and its duplicate key");
    single.apply(append(3, vec![bytes(1)]));
    assert_eq!(records(&mut single.shard.machine).len() - plain, 3);
    single.apply(append(3, vec![bytes(1)]));
    check_holds(&records(&mut single.shard.machine));
    let trim = Trim { timeline: Some(inbox("u")), before_seq: 9, limit: 256, epoch: 0 };
    single.apply(Op::Trim(trim));
    check_holds(&records(&mut single.shard.machine));
}
