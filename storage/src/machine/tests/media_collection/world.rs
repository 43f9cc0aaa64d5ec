//! Shards, and users who write to each other in them.

mod messages;
mod reports;
mod workers;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use carillon_proto::{
    MediaId,
    pb::store::{
        AdvanceClock, CancelScheduled, ChangeScheduled, CollectGarbage, CompleteMedia, CreateMedia, Header, Person,
        ReadMedia, Schedule, SendScheduledNow, SetScheduled, TimelineCommand, change_scheduled::Change, header::Kind,
        timeline_command::Op,
    },
};

use self::{reports::Reported, workers::Asking};
use super::{
    SHARD,
    acts::{Act, EndOfReport, KEPT_MS, SENDERS, SHARDS, USERS},
    check_holds, inbox, set_level,
};
use crate::machine::{
    Machine as _, Outcome, Retention, TimelineMachine, TimelineReader, keys,
    tests::{OpenShard, at_level, entry, open, records},
};

/// The most that a check takes. Who forwards a file has so much less time for it.
const CHECK_MS: u64 = 900;

fn retention() -> Retention {
    Retention { unreferenced_media_ms: KEPT_MS, ..Retention::default() }
}

/// A message that can be read.
#[derive(Debug, Clone)]
struct Said {
    shard: usize,
    user: usize,
    sender: usize,
    seq: u64,
    id: String,
    key: Bytes,
    media: Vec<MediaId>,
    /// The key of the message that it edits.
    edits: Option<Bytes>,
}

struct Planned {
    shard: usize,
    user: usize,
    id: u64,
    media: Vec<MediaId>,
    is_sending: bool,
}

#[derive(Default, Clone, Copy)]
struct Inbox {
    incarnation: u64,
    first: u64,
    last: u64,
}

pub(super) struct World {
    shards: Vec<OpenShard<TimelineMachine, TimelineReader>>,
    /// The commands of each shard.
    logs: Vec<Vec<TimelineCommand>>,
    now_ms: u64,
    number: u64,
    /// When something last referred to the file, or it was uploaded.
    files: BTreeMap<MediaId, u64>,
    inboxes: BTreeMap<(usize, usize), Inbox>,
    generations: [u64; SENDERS.len()],
    said: Vec<Said>,
    recalled: Vec<Said>,
    planned: Vec<Planned>,
    reports: Vec<Reported>,
    asking: Vec<Asking>,
    /// Commands on their way, each with the time by which it arrives if it does.
    late: Vec<(usize, Op, u64)>,
    removed: BTreeSet<MediaId>,
}

fn bytes(id: &MediaId) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

fn header(media: &[MediaId]) -> Option<Box<Header>> {
    let media: Vec<Bytes> = media.iter().map(bytes).collect();
    (!media.is_empty()).then(|| Box::new(Header { countable: true, media, ..Header::default() }))
}

/// The shard of the file's row.
fn home(id: &MediaId) -> usize {
    usize::from(u16::from_be_bytes([id.as_bytes()[0], id.as_bytes()[1]]))
}

impl World {
    pub(super) fn new() -> Self {
        let shard = |_| OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &set_level());
        Self {
            shards: (0..SHARDS).map(shard).collect(),
            logs: vec![Vec::new(); SHARDS],
            now_ms: 1_000_000,
            number: 0,
            files: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            generations: [1; SENDERS.len()],
            said: Vec::new(),
            recalled: Vec::new(),
            planned: Vec::new(),
            reports: Vec::new(),
            asking: Vec::new(),
            late: Vec::new(),
            removed: BTreeSet::new(),
        }
    }

    fn apply(&mut self, shard: usize, op: Op) -> Outcome {
        let command = TimelineCommand { op: Some(op) };
        self.logs[shard].push(command.clone());
        let index = self.logs[shard].len() as u64;
        let outcomes = self.shards[shard].machine.apply(&[entry(index, &[command])], &index.to_be_bytes());
        outcomes.expect("applies").remove(0).remove(0)
    }

    pub(super) fn act(&mut self, act: Act) {
        match act {
            Act::Upload(shard) => self.upload(shard),
            Act::Say { shard, user, sender, files } => {
                let mut media: Vec<_> = files.into_iter().flatten().filter_map(|file| self.file(file)).collect();
                media.dedup();
                self.say(shard, user, sender, media);
            }
            Act::Edit { message, file } => {
                let originals: Vec<_> = self.said.iter().filter(|said| said.edits.is_none()).cloned().collect();
                let Some(said) = pick(&originals, message).cloned() else { return };
                let media = file.and_then(|file| self.file(file)).into_iter().collect();
                self.about(&said, Kind::Edit, false, media, false);
            }
            Act::Recall { message, for_good } => {
                let originals: Vec<_> = self.said.iter().filter(|said| said.edits.is_none()).cloned().collect();
                let Some(said) = pick(&originals, message).cloned() else { return };
                let is_done = self.about(&said, Kind::Recall, for_good, Vec::new(), false);
                if is_done && for_good {
                    self.goes(|other| other.key == said.key || other.edits.as_ref() == Some(&said.key));
                    self.recalled.push(said);
                }
            }
            Act::Move { message, shard, user } => {
                let with_files: Vec<_> = (0..self.said.len()).filter(|at| !self.said[*at].media.is_empty()).collect();
                let Some(at) = pick(&with_files, message).copied() else { return };
                let Said { sender, media, seq, shard: from, user: of, .. } = self.said[at].clone();
                self.say(shard, user, sender, media);
                let first = self.inboxes[&(from, of)].first;
                self.trim(from, of, seq + 1 - first);
            }
            Act::LateEdit { message, file } => {
                let Some(said) = pick(&self.recalled, message).cloned() else { return };
                let media: Vec<_> = self.file(file).into_iter().collect();
                self.about(&said, Kind::Edit, false, media, true);
            }
            Act::Trim { shard, user, many } => self.trim(shard, user, many),
            Act::End { shard, user } => self.end(shard, user),
            Act::Erase(sender) => self.erase(sender),
            Act::Garbage(shard) => {
                if let Some(garbage) = self.shards[shard].reader.garbage(1).expect("reads").pop() {
                    self.apply(shard, Op::CollectGarbage(CollectGarbage { limit: 3, ..garbage }));
                }
            }
            Act::Schedule { shard, user, file } => self.schedule(shard, user, file),
            Act::ChangeScheduled { which, file } => {
                let media: Vec<_> = file.and_then(|file| self.file(file)).into_iter().collect();
                let set = SetScheduled { content: Some("c".into()), header: header(&media), ..SetScheduled::default() };
                self.change_scheduled(which, Change::Set(set), |planned| planned.media = media);
            }
            Act::Cancel(which) => {
                self.change_scheduled(which, Change::Cancel(CancelScheduled {}), |planned| planned.media.clear());
            }
            Act::SendNow(which) => {
                let now = Change::Now(SendScheduledNow { time_ms: 1 });
                self.change_scheduled(which, now, |planned| planned.is_sending = true);
            }
            Act::Report { message, shard, by } => self.report(message, shard, by),
            Act::EndReport { which, how } => self.end_report(which, how),
            Act::Advance { ms, leads } => {
                self.now_ms += ms;
                for shard in (0..SHARDS).filter(|shard| leads[*shard]) {
                    self.apply(shard, Op::AdvanceClock(AdvanceClock { elapsed_ms: ms as u32 }));
                }
            }
            Act::Sweep { shard, limit } => self.sweep(shard, limit),
            Act::Work { shard, row, again, dies } => {
                let rows = self.outbox(shard);
                if let Some((place, row)) = pick(&rows, row) {
                    self.work(shard, *place, row.clone(), again, dies);
                }
            }
            Act::Ask { check, again } if !self.asking.is_empty() => {
                let check = usize::from(check) % self.asking.len();
                self.ask(check, again);
            }
            Act::Ask { .. } => {}
            Act::Arrive(which) if !self.late.is_empty() => {
                let (shard, op, until_ms) = self.late.remove(usize::from(which) % self.late.len());
                if self.now_ms <= until_ms {
                    self.apply(shard, op);
                }
            }
            Act::Arrive(_) => {}
            Act::Reopen(shard) => self.renew(shard, OpenShard::reopened),
            Act::Restore(shard) => self.renew(shard, OpenShard::restored_from_its_snapshot),
        }
    }

    fn renew(
        &mut self,
        shard: usize,
        how: impl FnOnce(OpenShard<TimelineMachine, TimelineReader>) -> OpenShard<TimelineMachine, TimelineReader>,
    ) {
        let old = self.shards.remove(shard);
        self.shards.insert(shard, how(old));
    }

    fn upload(&mut self, shard: usize) {
        self.number += 1;
        let mut tail = [0; 14];
        tail[..8].copy_from_slice(&self.number.to_be_bytes());
        let id = MediaId::new(shard as u16, tail);
        let create = CreateMedia {
            timeline: Some(inbox("owner")),
            incarnation: 1,
            id: bytes(&id),
            size_bytes: 1,
            most_bytes: 1000,
            most_files: 1000,
            ..CreateMedia::default()
        };
        assert!(matches!(self.apply(shard, Op::CreateMedia(create)), Outcome::Done(_)));
        let owner = Some(Person { user: "owner".to_owned(), incarnation: 1 });
        self.apply(shard, Op::CompleteMedia(CompleteMedia { owner, id: bytes(&id), ..CompleteMedia::default() }));
        self.files.insert(id, self.now_ms);
    }

    /// A file that somebody may send: one that is there, or one that nobody has ever had.
    fn file(&self, which: u8) -> Option<MediaId> {
        if which == 0 {
            return Some(MediaId::new(2, [0; 14]));
        }
        let id = self.files.keys().rev().nth(usize::from(which - 1) % self.files.len().max(1)).copied()?;
        let may_send = self.is_referred_to(&id) || self.now_ms <= self.files[&id] + KEPT_MS - CHECK_MS;
        may_send.then_some(id)
    }

    fn is_referred_to(&self, id: &MediaId) -> bool {
        let said = self.said.iter().map(|said| &said.media);
        let others = self.planned.iter().map(|planned| &planned.media);
        said.chain(others).chain(self.reports.iter().map(|report| &report.media)).any(|media| media.contains(id))
    }

    /// These messages can't be read any more.
    fn goes(&mut self, is_gone: impl Fn(&Said) -> bool) {
        let (gone, kept) = std::mem::take(&mut self.said).into_iter().partition(|said| is_gone(said));
        self.said = kept;
        let gone: Vec<Said> = gone;
        self.released(gone.iter().flat_map(|said| said.media.clone()).collect());
    }

    fn released(&mut self, media: Vec<MediaId>) {
        for id in media {
            if let Some(last_ms) = self.files.get_mut(&id) {
                *last_ms = self.now_ms;
            }
        }
    }

    fn schedule(&mut self, shard: usize, user: usize, file: u8) {
        let Some(file) = self.file(file) else { return };
        self.number += 1;
        let incarnation = self.inboxes.entry((shard, user)).or_default().incarnation;
        let schedule = Schedule {
            timeline: Some(inbox(USERS[user])),
            incarnation,
            sender_generation: 1,
            new_epoch: 7,
            duplicate_key: [&self.number.to_be_bytes()[..], &[9; 8]].concat().into(),
            to: Some(inbox("w")),
            content: "c".into(),
            at_ms: 5,
            header: header(&[file]),
            ..Schedule::default()
        };
        let Outcome::ScheduledChanged(changed) = self.apply(shard, Op::Schedule(schedule)) else { return };
        self.planned.push(Planned { shard, user, id: changed.id, media: vec![file], is_sending: false });
    }

    fn change_scheduled(&mut self, which: u8, change: Change, then: impl FnOnce(&mut Planned)) {
        let waiting: Vec<_> = (0..self.planned.len()).filter(|at| !self.planned[*at].is_sending).collect();
        let Some(at) = pick(&waiting, which).copied() else { return };
        let Planned { shard, user, id, .. } = self.planned[at];
        let is_cancelled = matches!(change, Change::Cancel(_));
        let incarnation = self.inboxes[&(shard, user)].incarnation;
        let timeline = Some(inbox(USERS[user]));
        let op = Op::ChangeScheduled(ChangeScheduled { timeline, incarnation, id, change: Some(change) });
        assert!(matches!(self.apply(shard, op), Outcome::ScheduledChanged(_)));
        let before = self.planned[at].media.clone();
        then(&mut self.planned[at]);
        self.released(before);
        if is_cancelled {
            self.planned.remove(at);
        }
    }

    pub(super) fn check(&self) {
        for id in self.files.keys().filter(|id| self.is_referred_to(id)) {
            let row = self.shards[home(id)].reader.media(&ReadMedia { id: bytes(id) }).ok();
            assert!(row.is_some() && !self.removed.contains(id), "{id} is gone, and something refers to it");
        }
    }

    pub(super) fn check_counts(&mut self) {
        self.shards.iter_mut().for_each(|shard| check_holds(&records(&mut shard.machine)));
    }

    /// All messages and reports go, and all workers do what is to be done.
    pub(super) fn end_everything(&mut self) {
        while !self.reports.is_empty() {
            self.end_report(0, EndOfReport::Old);
        }
        for shard in 0..SHARDS {
            for user in 0..USERS.len() {
                self.end(shard, user);
            }
            while let Some(garbage) = self.shards[shard].reader.garbage(1).expect("reads").pop() {
                self.apply(shard, Op::CollectGarbage(garbage));
            }
        }
        for _ in 0..4 {
            self.act(Act::Advance { ms: 2 * KEPT_MS, leads: [true; SHARDS] });
            (0..SHARDS).for_each(|shard| self.sweep(shard, 256));
            self.asking.clear();
            for shard in 0..SHARDS {
                for (place, row) in self.outbox(shard) {
                    self.work(shard, place, row, false, false);
                }
            }
            while !self.asking.is_empty() {
                self.ask(0, false);
            }
            (0..=u8::MAX).for_each(|which| self.act(Act::Arrive(which)));
        }
        for (at, shard) in self.shards.iter_mut().enumerate() {
            let rows = records(&mut shard.machine);
            let is_left = |key: &[u8]| {
                keys::media_of(key).is_ok() || keys::media_hold_of(key).is_ok() || keys::media_released_of(key).is_ok()
            };
            let left: Vec<_> = rows.iter().filter(|(key, _)| is_left(key) || keys::outbox_of(key).is_ok()).collect();
            assert!(left.is_empty(), "shard {at}: {left:?}");
        }
        assert!(self.files.keys().all(|id| self.removed.contains(id)), "bytes are left");
    }

    pub(super) fn check_that_batches_make_no_difference(&mut self) {
        for (shard, log) in self.shards.iter_mut().zip(&self.logs) {
            let dir = tempfile::tempdir().expect("folder");
            let engines = open(dir.path());
            let mut all = at_level(engines.timeline(SHARD).expect("shard").0, &set_level());
            let entries: Vec<_> =
                log.iter().zip(1..).map(|(command, index)| entry(index, std::slice::from_ref(command))).collect();
            all.apply(&entries, &[0; 8]).expect("applies");
            assert_eq!(records(&mut all), records(&mut shard.machine));
        }
    }
}

fn pick<T>(from: &[T], which: u8) -> Option<&T> {
    from.get(usize::from(which) % from.len().max(1))
}
