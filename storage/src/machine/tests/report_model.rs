//! Reports against a model that keeps them in memory and counts them anew each time.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use carillon_proto::{
    Level, MediaId, ShardId, ShardKind,
    pb::store::{
        AdvanceClock, EndSender, EndTimeline, EraseSender, Person, PutReport, ReadOutbox, ReadReport, ReadReports,
        RemoveReports, ReportEvidence, ReportPlace, ReportPut, ReportReason, ReportRow, SetLevel, SettleReport,
        StoreError, TimelineCommand, TimelineKey, rejected::Reason, report_evidence::Message as Reported,
        report_row::Resolution, store_error::Why, timeline_command::Op, timeline_key::Kind,
    },
};
use proptest::prelude::*;

use super::*;
use crate::machine::{
    Ages, Outcome, Retention, TimelineMachine, TimelineReader,
    annotations::EnvelopeHead,
    check_timeline, keys,
    timeline::reports::{KEPT, KEPT_BYTES, OPEN},
};

const SHARD: ShardId = ShardId { kind: ShardKind::Timeline, index: 1 };
const USERS: [&str; 3] = ["a", "ab", "a@b"];
const AGE_MS: u64 = 20;

fn inbox(user: &str) -> TimelineKey {
    TimelineKey { kind: Kind::Inbox.into(), owner: user.to_owned().into() }
}

fn set_level() -> TimelineCommand {
    TimelineCommand { op: Some(Op::SetLevel(SetLevel { level: Level::OF_PROGRAM.0 })) }
}

fn put(user: &str, incarnation: u64, sender_generation: u64, number: u8, size: usize) -> PutReport {
    let message = |seq, reported| Reported { seq, envelope: vec![7; size].into(), reported, ..Reported::default() };
    PutReport {
        timeline: Some(inbox(user)),
        incarnation,
        sender_generation,
        // As a router makes it.
        key: [vec![number; 8], incarnation.to_be_bytes().to_vec()].concat().into(),
        time_ms: 1000 - u64::from(number),
        conversation: Some(inbox("eve")),
        reason: ReportReason::Spam.into(),
        text: "look at this".to_owned(),
        evidence: Some(ReportEvidence { messages: vec![message(3, false), message(4, true)] }),
        authors: vec!["eve".to_owned()],
        media: media(number),
    }
}

/// The files of the report with this number: none, one, or two, some of which other reports name, too.
fn media(number: u8) -> Vec<Bytes> {
    let of = |tail: u8| Bytes::copy_from_slice(MediaId::new(1, [tail; 14]).as_bytes());
    (0..number % 3).map(|more| of(number % 2 + more)).collect()
}

fn command() -> impl Strategy<Value = Op> {
    let user = || (0..USERS.len()).prop_map(|user| USERS[user]);
    let incarnation = || prop_oneof![9 => Just(1u64), 1 => 0..3u64];
    let place = || (0..8u64, 1..20u64).prop_map(|(number, id)| ReportPlace { time_ms: 1000 - number, id });
    let put = (user(), incarnation(), 1..4u64, 0..8u8, 1..9usize).prop_map(
        |(user, incarnation, generation, number, size)| {
            Op::PutReport(Box::new(put(user, incarnation, generation, number, size)))
        },
    );
    let note = prop_oneof![Just("spam"), Just("no spam")].prop_map(str::to_owned);
    let settle = (place(), note, prop_oneof![3 => Just(false), 1 => Just(true)]).prop_map(|(place, note, remove)| {
        Op::SettleReport(SettleReport { place: Some(place), time_ms: 9, note, remove })
    });
    let remove =
        proptest::collection::vec(place(), 1..4).prop_map(|places| Op::RemoveReports(RemoveReports { places }));
    let end = (user(), 1..3u64)
        .prop_map(|(user, incarnation)| Op::EndTimeline(EndTimeline { timeline: Some(inbox(user)), incarnation }));
    let end_sender = (user(), 1..3u64)
        .prop_map(|(user, generation)| Op::EndSender(EndSender { sender: user.to_owned(), generation }));
    let erase = (user(), 1..3u64)
        .prop_map(|(user, generation)| Op::EraseSender(EraseSender { sender: user.to_owned(), generation }));
    let clock = (1..30u32).prop_map(|elapsed_ms| Op::AdvanceClock(AdvanceClock { elapsed_ms }));
    prop_oneof![10 => put, 8 => settle, 2 => remove, 1 => end, 1 => end_sender, 1 => erase, 2 => clock]
}

#[derive(Default)]
struct Model {
    /// By time and id.
    reports: BTreeMap<(u64, u64), (ReportRow, ReportEvidence)>,
    last_id: u64,
    inboxes: BTreeMap<String, u64>,
    generations: BTreeMap<String, u64>,
    clock_ms: u64,
}

#[derive(Debug, PartialEq)]
enum Answer {
    Put(ReportPut),
    Done,
    Refused(Reason),
}

impl Model {
    fn expected(&mut self, op: &Op) -> Answer {
        match op {
            Op::PutReport(op) => return self.put(op),
            Op::SettleReport(op) => return self.settle(op),
            Op::RemoveReports(op) => op.places.iter().for_each(|place| self.remove(*place)),
            Op::EndTimeline(op) => {
                let user = op.timeline.as_ref().and_then(|key| key.owner_str().ok()).expect("a user");
                let now = self.inboxes.entry(user.to_owned()).or_default();
                *now = op.incarnation.max(*now);
            }
            Op::EndSender(op) => self.end_sender(&op.sender, op.generation),
            Op::EraseSender(op) => {
                self.end_sender(&op.sender, op.generation);
                self.reports.retain(|_, (row, _)| user_of(row) != op.sender);
            }
            Op::AdvanceClock(op) => self.clock_ms += u64::from(op.elapsed_ms),
            _ => unreachable!("not among the commands"),
        }
        Answer::Done
    }

    fn end_sender(&mut self, user: &str, generation: u64) {
        let ended = self.generations.entry(user.to_owned()).or_default();
        *ended = generation.max(*ended);
    }

    fn put(&mut self, op: &PutReport) -> Answer {
        let user = op.timeline.as_ref().and_then(|key| key.owner_str().ok()).expect("a user").to_owned();
        if self.generations.get(&user).is_some_and(|ended| op.sender_generation < *ended) {
            return Answer::Refused(Reason::SenderGone);
        }
        if self.inboxes.get(&user).is_some_and(|inbox| op.incarnation < *inbox) {
            return Answer::Refused(Reason::Gone);
        }
        let known = self.reports.iter().find(|(_, (row, _))| row.key == op.key && user_of(row) == user);
        if let Some(((time_ms, id), _)) = known {
            return Answer::Put(ReportPut { place: Some(ReportPlace { time_ms: *time_ms, id: *id }), changed: false });
        }
        self.last_id += 1;
        let place = ReportPlace { time_ms: op.time_ms, id: self.last_id };
        let evidence = op.evidence.clone().expect("some");
        let row = ReportRow {
            reporter: Some(Person { user, incarnation: op.incarnation }),
            conversation: op.conversation.clone(),
            reason: op.reason,
            text: op.text.clone(),
            authors: op.authors.clone(),
            messages: 1,
            bytes: evidence.messages.iter().map(|message| message.envelope.len() as u64).sum(),
            clock_ms: self.clock_ms,
            key: op.key.clone(),
            resolution: None,
            media: op.media.clone(),
        };
        self.reports.insert((op.time_ms, self.last_id), (row, evidence));
        Answer::Put(ReportPut { place: Some(place), changed: true })
    }

    fn settle(&mut self, op: &SettleReport) -> Answer {
        let place = op.place.expect("named");
        if op.remove {
            self.remove(place);
            return Answer::Done;
        }
        let Some((row, _)) = self.reports.get_mut(&(place.time_ms, place.id)) else {
            return Answer::Refused(Reason::NotFound);
        };
        match &row.resolution {
            Some(resolution) if resolution.note == op.note => Answer::Done,
            Some(_) => Answer::Refused(Reason::Exists),
            None => {
                row.resolution = Some(Resolution { time_ms: op.time_ms, note: op.note.clone() });
                Answer::Done
            }
        }
    }

    fn remove(&mut self, place: ReportPlace) {
        self.reports.remove(&(place.time_ms, place.id));
    }

    fn listed(&self, resolved: bool, domain: Option<&str>) -> Vec<((u64, u64), ReportRow)> {
        let is_of = |row: &ReportRow| match domain {
            Some("") => !user_of(row).contains('@'),
            Some(domain) => user_of(row).ends_with(&format!("@{domain}")),
            None => true,
        };
        let all = self.reports.iter().filter(|(_, (row, _))| row.resolution.is_some() == resolved && is_of(row));
        all.map(|(place, (row, _))| (*place, row.clone())).collect()
    }
}

fn user_of(row: &ReportRow) -> &str {
    &row.reporter.as_ref().expect("somebody").user
}

fn answer(outcome: &Outcome) -> Answer {
    match outcome {
        Outcome::ReportPut(put) => Answer::Put(*put),
        Outcome::Done(_) | Outcome::SenderErasure(_) => Answer::Done,
        Outcome::Error(StoreError { why: Some(Why::Rejected(rejected)) }) => Answer::Refused(rejected.reason()),
        other => panic!("unexpected: {other:?}"),
    }
}

/// All pages.
fn listed(reader: &TimelineReader, resolved: bool, domain: Option<&str>) -> Vec<((u64, u64), ReportRow)> {
    let mut read = ReadReports { limit: 2, resolved, domain: domain.map(str::to_owned), ..ReadReports::default() };
    let mut all = Vec::new();
    loop {
        let page = reader.reports(&read).expect("reads");
        let rows = page.reports.into_iter().map(|row| (row.place.expect("one"), row.row.expect("one")));
        all.extend(rows.map(|(place, row)| ((place.time_ms, place.id), row)));
        read.after = page.next;
        if page.next.is_none() {
            return all;
        }
    }
}

fn check(reader: &TimelineReader, model: &Model) {
    for (resolved, domain) in [(false, None), (true, None), (false, Some("")), (false, Some("b")), (true, Some("c"))] {
        assert_eq!(listed(reader, resolved, domain), model.listed(resolved, domain), "{resolved} {domain:?}");
    }
    for ((time_ms, id), (row, evidence)) in &model.reports {
        let read = reader.report(&ReadReport { place: Some(ReportPlace { time_ms: *time_ms, id: *id }) });
        let read = read.expect("is there");
        assert_eq!((read.row.as_ref(), read.evidence.as_ref()), (Some(row), Some(evidence)));
    }
    assert!(reader.report(&ReadReport { place: Some(ReportPlace { time_ms: 1, id: 99 }) }).is_err());
    for user in USERS {
        let by = Person { user: user.to_owned(), incarnation: 1 };
        let read = reader.reports_by(&by).expect("reads").reports;
        let ids: Vec<_> = read.iter().map(|row| row.place.expect("one").id).collect();
        assert!(ids.is_sorted(), "in the order in which they came");
        let own = model.reports.iter().filter(|(_, (row, _))| row.reporter.as_ref() == Some(&by));
        let mut expected: Vec<_> = own.map(|((_, id), _)| *id).collect();
        expected.sort_unstable();
        assert_eq!(ids, expected);
    }
    let outbox = reader.outbox(&ReadOutbox::default()).expect("reads");
    let open = model.listed(false, None);
    assert_eq!(outbox.open_reports, open.len() as u64);
    assert_eq!(outbox.first_report_ms, open.first().map_or(0, |((time_ms, _), _)| *time_ms));
    let retention = Retention { report_age_ms: AGE_MS, ..Retention::default() };
    let never = Retention { report_age_ms: 0, ..retention };
    // Of users of the domains "" and "b" as the cluster keeps them, and as they do: for a shorter time, never for a longer one.
    for (retention, ages, expected) in [
        (retention, vec![], [AGE_MS, AGE_MS]),
        (retention, vec![("b", AGE_MS / 2)], [AGE_MS, AGE_MS / 2]),
        (retention, vec![("", AGE_MS / 2), ("b", 2 * AGE_MS)], [AGE_MS / 2, AGE_MS]),
        (never, vec![("b", AGE_MS)], [u64::MAX, AGE_MS]),
        (never, vec![], [u64::MAX; 2]),
    ] {
        let ages: Ages = Arc::new(ages.into_iter().map(|(name, age_ms)| (name.to_owned(), age_ms)).collect());
        let (mut old, mut after) = (Vec::new(), Vec::new());
        loop {
            let (found, next) = reader.old_reports(&after, &retention, &ages, 2).expect("reads");
            old.extend(found.into_iter().map(|place| (place.time_ms, place.id)));
            after = next;
            if after.is_empty() {
                break;
            }
        }
        old.sort_unstable();
        let kept_ms = |row: &ReportRow| expected[usize::from(user_of(row).contains('@'))];
        let is_old = |(row, _): &(ReportRow, _)| model.clock_ms - row.clock_ms > kept_ms(row);
        let expected = model.reports.iter().filter(|(_, report)| is_old(report)).map(|(place, _)| *place);
        assert_eq!(old, expected.collect::<Vec<_>>(), "{ages:?}");
    }
}

fn as_commands(ops: &[Op]) -> Vec<TimelineCommand> {
    ops.iter().map(|op| TimelineCommand { op: Some(op.clone()) }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reports_are_what_their_model_says(
        steps in proptest::collection::vec(step(proptest::collection::vec(proptest::collection::vec(command(), 0..8), 1..4)), 1..25),
    ) {
        let mut shard = OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &set_level());
        let (mut model, mut index) = (Model::default(), 0);
        for step in steps {
            match step {
                Step::Apply(ops) => {
                    let entries: Vec<_> =
                        ops.iter().map(|ops| { index += 1; entry(index, &as_commands(ops)) }).collect();
                    let outcomes = shard.machine.apply(&entries, &index.to_be_bytes()).expect("applies");
                    for (op, outcome) in ops.iter().flatten().zip(outcomes.iter().flatten()) {
                        prop_assert_eq!(answer(outcome), model.expected(op), "{:?}", op);
                    }
                }
                Step::Reopen => shard = shard.reopened(),
                Step::SnapshotAndRestore => shard = shard.restored_from_its_snapshot(),
            }
            check(&shard.reader, &model);
            media_collection::check_holds(&records(&mut shard.machine));
        }
        // When the last one goes, nothing is left but the sum.
        let places = model.reports.keys().map(|(time_ms, id)| ReportPlace { time_ms: *time_ms, id: *id }).collect();
        let last = entry(index + 1, &as_commands(&[Op::RemoveReports(RemoveReports { places })]));
        shard.machine.apply(&[last], &(index + 1).to_be_bytes()).expect("applies");
        let left: Vec<_> = records(&mut shard.machine).into_iter().filter(|(key, _)| key[0] == 0x18).collect();
        prop_assert!(left.iter().all(|(key, _)| **key == *keys::report_sum()), "{:?}", left);
        media_collection::check_holds(&records(&mut shard.machine));
    }

    #[test]
    fn batch_boundaries_make_no_difference_to_reports(
        ops in proptest::collection::vec(proptest::collection::vec(command(), 0..20), 1..20),
    ) {
        let entries = ops.iter().map(|ops| as_commands(ops));
        check_batches(|engines| engines.timeline(SHARD).expect("shard").0, &set_level(), entries);
    }
}

struct World {
    shard: OpenShard<TimelineMachine, TimelineReader>,
    index: u64,
}

impl World {
    fn new() -> Self {
        Self { shard: OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &set_level()), index: 0 }
    }

    fn apply(&mut self, op: Op) -> Answer {
        self.index += 1;
        let entries = [entry(self.index, &as_commands(&[op]))];
        answer(&self.shard.machine.apply(&entries, &self.index.to_be_bytes()).expect("applies")[0][0])
    }

    fn puts(&mut self, user: &str, incarnation: u64, number: u8, size: usize) -> Option<ReportPlace> {
        match self.apply(Op::PutReport(Box::new(put(user, incarnation, 1, number, size)))) {
            Answer::Put(put) => put.place,
            Answer::Refused(Reason::Full) => None,
            other => panic!("{other:?}"),
        }
    }

    fn resolves(&mut self, place: ReportPlace) {
        let settle = SettleReport { place: Some(place), time_ms: 9, note: "seen".to_owned(), remove: false };
        assert_eq!(self.apply(Op::SettleReport(settle)), Answer::Done);
    }
}

#[test]
fn a_user_has_a_bounded_number_of_open_reports_and_of_all() {
    let mut world = World::new();
    let mut places: Vec<_> = (0..OPEN as u8).map(|number| world.puts("a", 1, number, 1).expect("has room")).collect();
    assert_eq!(world.puts("a", 1, 99, 1), None);
    assert_eq!(world.puts("a", 1, 3, 1), Some(places[3]), "a repeat is no further one");
    assert!(world.puts("ab", 1, 1, 1).is_some() && world.puts("a", 2, 1, 1).is_some(), "others have room");
    for number in OPEN as u8..KEPT as u8 {
        world.resolves(places[usize::from(number) - OPEN]);
        let mut put = put("a", 1, 1, number, 1);
        put.time_ms = 5;
        match world.apply(Op::PutReport(Box::new(put))) {
            Answer::Put(put) => places.push(put.place.expect("one")),
            other => panic!("{other:?}"),
        }
    }
    places[KEPT - OPEN..].iter().for_each(|place| world.resolves(*place));
    let again = PutReport { key: vec![250; 16].into(), ..put("a", 1, 1, 1, 1) };
    assert_eq!(world.apply(Op::PutReport(Box::new(again.clone()))), Answer::Refused(Reason::Full));
    assert_eq!(world.apply(Op::RemoveReports(RemoveReports { places: vec![places[7]] })), Answer::Done);
    assert!(matches!(world.apply(Op::PutReport(Box::new(again))), Answer::Put(_)), "there is room for one again");
}

#[test]
fn messages_that_are_all_in_an_open_report_of_the_user_are_not_reported_again() {
    let mut world = World::new();
    let mut number = 0;
    let mut put = |world: &mut World, user: &str, incarnation: u64, ids: &[&str]| {
        number += 1;
        let mut op = put(user, incarnation, 1, number, 1);
        let said = |id: &str| EnvelopeHead { id: id.to_owned(), ..EnvelopeHead::default() }.encode_to_vec();
        let message =
            |(seq, id): (u64, &&str)| Reported { seq, envelope: said(id).into(), reported: true, ..Default::default() };
        op.evidence = Some(ReportEvidence { messages: (1..).zip(ids).map(message).collect() });
        match world.apply(Op::PutReport(Box::new(op))) {
            Answer::Put(put) => (put.place.expect("a place"), put.changed),
            other => panic!("{other:?}"),
        }
    };
    let (first, is_new) = put(&mut world, "a", 1, &["m1", "m2"]);
    assert!(is_new);
    for again in [&["m1"][..], &["m2"], &["m1", "m2"]] {
        assert_eq!(put(&mut world, "a", 1, again), (first, false), "{again:?}");
    }
    let (second, is_new) = put(&mut world, "a", 1, &["m1", "m3"]);
    assert!(is_new && second != first, "one of them is new");
    assert!(put(&mut world, "ab", 1, &["m1"]).1, "another user");
    world.resolves(first);
    world.resolves(second);
    assert!(put(&mut world, "a", 1, &["m1"]).1, "moderators may look at it anew");
    assert!(put(&mut world, "a", 2, &["m1"]).1, "the next owner of the name");
}

#[test]
fn the_messages_of_a_users_reports_have_a_bounded_size() {
    let mut world = World::new();
    let size = 120 * 1024;
    let fit = KEPT_BYTES as usize / (2 * size);
    for number in 0..fit as u8 {
        assert!(world.puts("a", 1, number, size).is_some(), "{number}");
    }
    assert_eq!(world.puts("a", 1, 99, size), None);
    assert!(world.puts("a", 1, 99, 1).is_some());
}

#[test]
fn what_is_no_report_does_not_enter_the_log() {
    let is_refused = |change: fn(&mut PutReport)| {
        let mut op = put(&user(), 1, 1, 1, 10);
        change(&mut op);
        check_timeline(SHARD, MAP, &TimelineCommand { op: Some(Op::PutReport(Box::new(op))) }).is_err()
    };
    assert!(!is_refused(|_| {}));
    fn messages(op: &mut PutReport) -> &mut Vec<Reported> {
        &mut op.evidence.as_mut().expect("some").messages
    }
    let wrong: [fn(&mut PutReport); 18] = [
        |op| op.timeline = None,
        |op| op.timeline.as_mut().expect("some").kind = Kind::Group.into(),
        |op| op.key = Bytes::new(),
        |op| op.time_ms = 0,
        |op| op.conversation = None,
        |op| op.reason = 0,
        |op| op.reason = 99,
        |op| op.text = "x".repeat(1001),
        |op| op.evidence = None,
        |op| op.authors.clear(),
        |op| op.authors = vec!["\u{7}".to_owned()],
        |op| messages(op).iter_mut().for_each(|message| message.reported = false),
        |op| messages(op).reverse(),
        |op| messages(op)[0].envelope = vec![0; 256 * 1024].into(),
        |op| op.media = vec![vec![1; 15].into()],
        |op| op.media = vec![media(1)[0].clone(), media(1)[0].clone()],
        |op| op.media = media(2).into_iter().rev().collect(),
        |op| op.media = (0..100).map(|number| vec![number; 16].into()).collect(),
    ];
    for (number, change) in wrong.into_iter().enumerate() {
        assert!(is_refused(change), "{number}");
    }
    let around = |op: &mut PutReport| {
        let more = (5..40).map(|seq| Reported { seq, ..Reported::default() });
        messages(op).extend(more);
    };
    assert!(is_refused(around), "too many messages around it");
    let settle = |place, time_ms, note: usize| {
        let op = Op::SettleReport(SettleReport { place, time_ms, note: "x".repeat(note), remove: false });
        check_timeline(SHARD, MAP, &TimelineCommand { op: Some(op) })
    };
    assert!(settle(Some(ReportPlace::default()), 1, 1000).is_ok());
    for (place, time_ms, note) in
        [(None, 1, 1), (Some(ReportPlace::default()), 0, 1), (Some(ReportPlace::default()), 1, 1001)]
    {
        assert!(settle(place, time_ms, note).is_err());
    }
}

/// A user whose inbox is in the shard.
fn user() -> String {
    let is_here = |user: &String| MAP.timeline_of_owner(user) == SHARD;
    (0..).map(|number| format!("user{number}")).find(is_here).expect("there is one")
}
