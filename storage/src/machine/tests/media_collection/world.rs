//! Shards, users who write to each other in them, and workers.

mod reports;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use carillon_proto::{
    ClientId, DeviceId, DuplicateKey, MediaId, MessageId, UserId,
    pb::{
        client::{Content, Envelope, Recipient, Text, content::Body, recipient::To},
        store::{
            AdvanceClock, Append, CancelScheduled, ChangeScheduled, CheckMedia, CollectGarbage, CollectMedia,
            CompleteMedia, CreateMedia, EndTimeline, EraseSender, FindMediaHolders, ForgetReleasedMedia, Header,
            NoteReleasedMedia, OutboxRow, Person, ReadHeldMedia, ReadMedia, ReadOutbox, Redact, Reference, RemoveMedia,
            Schedule, SendScheduledNow, SenderErased, SetScheduled, SettleOutbox, SettleScheduled, TimelineCommand,
            Trim,
            change_scheduled::Change,
            header::Kind,
            outbox_row::Task,
            settle_outbox::{Settled, Verdict},
            timeline_command::Op,
        },
    },
};
use proptest::prelude::*;
use prost::Message as _;

use self::reports::{EndOfReport, Reported};
use super::{SHARD, check_holds, inbox, set_level};
use crate::machine::{
    DueMedia, Machine as _, Outcome, Retention, TimelineMachine, TimelineReader, keys,
    tests::{OpenShard, at_level, entry, open, records},
};

const SHARDS: usize = 3;
const USERS: [&str; 2] = ["u", "v"];
const SENDERS: [&str; 2] = ["s", "t"];
pub(super) const KEPT_MS: u64 = 6400;
/// The most that a check takes. Who forwards a file has so much less time for it.
const CHECK_MS: u64 = 900;

fn retention() -> Retention {
    Retention { unreferenced_media_ms: KEPT_MS, ..Retention::default() }
}

#[derive(Debug, Clone)]
pub(super) enum Act {
    Upload(usize),
    Say {
        shard: usize,
        user: usize,
        sender: usize,
        files: [Option<u8>; 2],
    },
    Edit {
        message: u8,
        file: Option<u8>,
    },
    Recall {
        message: u8,
        for_good: bool,
    },
    /// Forwards the files of a message, which then goes by age.
    Move {
        message: u8,
        shard: usize,
        user: usize,
    },
    /// The copy of an edit reaches the inbox after the message was recalled for good.
    LateEdit {
        message: u8,
        file: u8,
    },
    Trim {
        shard: usize,
        user: usize,
        many: u64,
    },
    End {
        shard: usize,
        user: usize,
    },
    Erase(usize),
    Garbage(usize),
    Schedule {
        shard: usize,
        user: usize,
        file: u8,
    },
    ChangeScheduled {
        which: u8,
        file: Option<u8>,
    },
    Cancel(u8),
    SendNow(u8),
    /// A user reports a message, in the shard of its own inbox.
    Report {
        message: u8,
        shard: usize,
        by: usize,
    },
    /// A moderator resolves a report or removes it, or it has been kept long enough.
    EndReport {
        which: u8,
        how: EndOfReport,
    },
    /// The clocks of the shards that have no leader stand still.
    Advance {
        ms: u64,
        leads: [bool; SHARDS],
    },
    Sweep {
        shard: usize,
        limit: usize,
    },
    /// A worker carries out a row of the outbox, and may do so twice or die before it says so.
    Work {
        shard: usize,
        row: u8,
        again: bool,
        dies: bool,
    },
    /// A worker asks the next shard.
    Ask {
        check: u8,
        again: bool,
    },
    /// A command that was on its way for long arrives.
    Arrive(u8),
    Reopen(usize),
    Restore(usize),
}

pub(super) fn act() -> impl Strategy<Value = Act> {
    let shard = || 0..SHARDS;
    let user = || 0..USERS.len();
    let file = || 0..12u8;
    let maybe = move || proptest::option::weighted(0.7, file());
    prop_oneof![
        5 => shard().prop_map(Act::Upload),
        12 => (shard(), user(), 0..SENDERS.len(), [maybe(), proptest::option::weighted(0.2, file())])
            .prop_map(|(shard, user, sender, files)| Act::Say { shard, user, sender, files }),
        3 => (any::<u8>(), maybe()).prop_map(|(message, file)| Act::Edit { message, file }),
        4 => (any::<u8>(), any::<bool>()).prop_map(|(message, for_good)| Act::Recall { message, for_good }),
        10 => (any::<u8>(), shard(), user()).prop_map(|(message, shard, user)| Act::Move { message, shard, user }),
        1 => (any::<u8>(), file()).prop_map(|(message, file)| Act::LateEdit { message, file }),
        5 => (shard(), user(), 1..5u64).prop_map(|(shard, user, many)| Act::Trim { shard, user, many }),
        1 => (shard(), user()).prop_map(|(shard, user)| Act::End { shard, user }),
        1 => (0..SENDERS.len()).prop_map(Act::Erase),
        2 => shard().prop_map(Act::Garbage),
        2 => (shard(), user(), file()).prop_map(|(shard, user, file)| Act::Schedule { shard, user, file }),
        1 => (any::<u8>(), maybe()).prop_map(|(which, file)| Act::ChangeScheduled { which, file }),
        1 => any::<u8>().prop_map(Act::Cancel),
        1 => any::<u8>().prop_map(Act::SendNow),
        4 => (any::<u8>(), shard(), 0..SENDERS.len())
            .prop_map(|(message, shard, by)| Act::Report { message, shard, by }),
        3 => (any::<u8>(), prop_oneof![Just(EndOfReport::Resolved), Just(EndOfReport::Removed), Just(EndOfReport::Old)])
            .prop_map(|(which, how)| Act::EndReport { which, how }),
        8 => (prop_oneof![1..400u64, 2000..KEPT_MS + 1000], proptest::array::uniform(prop_oneof![1 => Just(false), 5 => Just(true)]))
            .prop_map(|(ms, leads)| Act::Advance { ms, leads }),
        8 => (shard(), 1..6usize).prop_map(|(shard, limit)| Act::Sweep { shard, limit }),
        10 => (shard(), any::<u8>(), any::<bool>(), any::<bool>())
            .prop_map(|(shard, row, again, dies)| Act::Work { shard, row, again, dies }),
        14 => (any::<u8>(), any::<bool>()).prop_map(|(check, again)| Act::Ask { check, again }),
        3 => any::<u8>().prop_map(Act::Arrive),
        1 => shard().prop_map(Act::Reopen),
        1 => shard().prop_map(Act::Restore),
    ]
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

/// A worker that finds out who holds files.
struct Asking {
    home: usize,
    place: (u64, u32),
    check: u64,
    unheld: BTreeSet<Bytes>,
    held: Vec<Bytes>,
    asked: usize,
    began_ms: u64,
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

    fn envelope(&mut self, user: usize, sender: usize) -> (String, Bytes, Bytes) {
        self.number += 1;
        let user_id = |name: &str| UserId::new(name).expect("valid");
        let (device, client_id) = (DeviceId::new("d").expect("valid"), self.number.to_string());
        let key = DuplicateKey::new(&user_id(SENDERS[sender]), &device, &ClientId::new(&client_id).expect("valid"));
        let id = MessageId::of(self.now_ms, key.to(&user_id(USERS[user]))).to_string();
        let envelope = Envelope {
            id: id.clone(),
            sender: SENDERS[sender].to_owned(),
            sender_device: "d".to_owned(),
            to: Some(Recipient { to: Some(To::User(USERS[user].to_owned())) }),
            client_id,
            time_ms: self.now_ms,
            content: Some(Content { body: Some(Body::Text(Text { body: "b".to_owned() })), ..Content::default() }),
            ..Envelope::default()
        };
        (id, key.0.to_vec().into(), envelope.encode_to_vec().into())
    }

    fn append(
        &mut self,
        shard: usize,
        user: usize,
        sender: usize,
        header: Option<Box<Header>>,
        is_copy: bool,
    ) -> Option<Said> {
        let (id, key, envelope) = self.envelope(user, sender);
        let (of, generation) = match is_copy {
            true => (Bytes::new(), 0),
            false => (Bytes::from_static(SENDERS[sender].as_bytes()), self.generations[sender]),
        };
        let incarnation = self.inboxes.entry((shard, user)).or_default().incarnation;
        let append = Append {
            timeline: Some(inbox(USERS[user])),
            duplicate_key: key.clone(),
            time_ms: self.now_ms,
            envelope,
            new_epoch: 7,
            incarnation,
            sender: of,
            sender_generation: generation,
            header,
            ..Append::default()
        };
        let outcome = self.apply(shard, Op::Append(append.clone()));
        let Outcome::Appended(appended) = outcome else { return None };
        // A repeat holds nothing more.
        self.apply(shard, Op::Append(append));
        let held = self.inboxes.entry((shard, user)).or_default();
        held.first = held.first.max(1);
        held.last = appended.seq;
        Some(Said { shard, user, sender, seq: appended.seq, id, key, media: Vec::new(), edits: None })
    }

    fn say(&mut self, shard: usize, user: usize, sender: usize, media: Vec<MediaId>) {
        let said = self.append(shard, user, sender, header(&media), false).expect("appended");
        self.said.push(Said { media, ..said });
    }

    /// A message of the author about its message. True if it was accepted.
    fn about(&mut self, said: &Said, kind: Kind, erase: bool, media: Vec<MediaId>, is_late: bool) -> bool {
        let refers_to = Some(Reference { id: said.id.clone(), key: said.key.clone(), by_sender: true, seq: 0 });
        let ids = media.iter().map(bytes).collect();
        let header = Header { kind: kind.into(), erase, refers_to, media: ids, ..Header::default() };
        let Some(about) = self.append(said.shard, said.user, said.sender, Some(Box::new(header)), is_late) else {
            return false;
        };
        if !is_late {
            let edits = (kind == Kind::Edit).then(|| said.key.clone());
            self.said.push(Said { media, edits: edits.or_else(|| Some(Bytes::new())), ..about });
        }
        true
    }

    fn trim(&mut self, shard: usize, user: usize, many: u64) {
        let Some(held) = self.inboxes.get_mut(&(shard, user)) else { return };
        held.first = (held.first + many).min(held.last + 1);
        let before_seq = held.first;
        let gone = |said: &Said| (said.shard, said.user) == (shard, user) && said.seq < before_seq;
        self.recalled.retain(|said| !gone(said));
        let trim = Trim { timeline: Some(inbox(USERS[user])), before_seq, limit: 256, epoch: 0 };
        self.apply(shard, Op::Trim(trim));
        self.goes(gone);
    }

    fn end(&mut self, shard: usize, user: usize) {
        let held = self.inboxes.entry((shard, user)).or_default();
        let incarnation = held.incarnation + 1;
        *held = Inbox { incarnation, ..Inbox::default() };
        self.apply(shard, Op::EndTimeline(EndTimeline { timeline: Some(inbox(USERS[user])), incarnation }));
        self.recalled.retain(|said| (said.shard, said.user) != (shard, user));
        self.goes(|said| (said.shard, said.user) == (shard, user));
        let is_gone = |planned: &Planned| (planned.shard, planned.user) == (shard, user);
        let gone = self.planned.iter().filter(|planned| is_gone(planned)).flat_map(|planned| planned.media.clone());
        let gone = gone.collect();
        self.planned.retain(|planned| !is_gone(planned));
        self.released(gone);
    }

    fn erase(&mut self, sender: usize) {
        self.generations[sender] += 1;
        let (user, generation) = (SENDERS[sender].to_owned(), self.generations[sender]);
        for shard in 0..SHARDS {
            self.apply(shard, Op::EraseSender(EraseSender { sender: user.clone(), generation }));
            let users = [user.clone()].into();
            let (found, _) = self.shards[shard].reader.sent_by(&users, &[]).expect("reads");
            let messages: Vec<_> = found.into_iter().map(|(_, message)| message).collect();
            for messages in messages.chunks(2) {
                let redact = Redact { sender: user.clone(), generation, messages: messages.to_vec() };
                self.apply(shard, Op::Redact(redact.clone()));
                self.apply(shard, Op::Redact(redact));
            }
            self.apply(shard, Op::SenderErased(SenderErased { sender: user.clone(), generation }));
        }
        self.recalled.retain(|said| said.sender != sender);
        self.goes(|said| said.sender == sender);
        self.reports_go(|report| report.by == sender);
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

    fn sweep(&mut self, shard: usize, limit: usize) {
        let reader = &self.shards[shard].reader;
        let (due, _) = reader.due_media(&[], &retention(), limit).expect("reads");
        let released = reader.released_media(&retention(), limit).expect("reads");
        let (mut files, mut ids) = (Vec::new(), Vec::new());
        for due in due {
            match due {
                DueMedia::Removed(seen) => files.push(seen),
                DueMedia::Checked(id) => ids.push(id),
            }
        }
        if !files.is_empty() {
            self.apply(shard, Op::RemoveMedia(RemoveMedia { files }));
        }
        if !ids.is_empty() {
            self.apply(shard, Op::CheckMedia(CheckMedia { ids }));
        }
        if !released.is_empty() {
            self.apply(shard, Op::ForgetReleasedMedia(ForgetReleasedMedia { files: released }));
        }
    }

    fn outbox(&self, shard: usize) -> Vec<((u64, u32), OutboxRow)> {
        let rows = self.shards[shard].reader.outbox(&ReadOutbox::default()).expect("reads").rows;
        rows.into_iter().map(|row| ((row.index, row.number), row.row.expect("has one"))).collect()
    }

    fn settle(&mut self, shard: usize, (index, number): (u64, u32)) {
        let done = Settled { index, number, verdict: Verdict::Done.into(), why: String::new() };
        self.apply(shard, Op::SettleOutbox(SettleOutbox { rows: vec![done] }));
    }

    fn work(&mut self, shard: usize, place: (u64, u32), row: OutboxRow, again: bool, dies: bool) {
        match row.task.expect("a task") {
            Task::RemoveObjects(remove) => {
                self.removed.extend(remove.ids.iter().filter_map(|id| MediaId::from_bytes(id)));
            }
            Task::MediaReleased(released) => {
                let mut of_shard: BTreeMap<usize, Vec<Bytes>> = BTreeMap::new();
                for id in released.ids {
                    of_shard.entry(home(&MediaId::from_bytes(&id).expect("an id"))).or_default().push(id);
                }
                for (home, ids) in of_shard {
                    let op = Op::NoteReleasedMedia(NoteReleasedMedia { ids });
                    self.apply(home, op.clone());
                    if again {
                        self.late.push((home, op, u64::MAX));
                    }
                }
            }
            Task::FindMediaHolders(FindMediaHolders { ids, check }) => {
                let unheld = ids.into_iter().collect();
                let (held, began_ms) = (Vec::new(), self.now_ms);
                self.asking.push(Asking { home: shard, place, check, unheld, held, asked: 0, began_ms });
                return;
            }
            Task::SendScheduled(send) => {
                let settle = SettleScheduled { number: send.number, id: send.id, failed: String::new() };
                let user = send.sender.expect("a user").user;
                let outcome = self.apply(shard, Op::SettleScheduled(settle));
                if matches!(outcome, Outcome::ScheduledChanged(changed) if changed.changed) {
                    let is_sent = |planned: &Planned| {
                        planned.shard == shard
                            && USERS[planned.user] == user
                            && planned.id == send.id
                            && planned.is_sending
                    };
                    let gone = self.planned.iter().filter(|planned| is_sent(planned));
                    let gone = gone.flat_map(|planned| planned.media.clone()).collect();
                    self.planned.retain(|planned| !is_sent(planned));
                    self.released(gone);
                }
            }
            other => panic!("unexpected: {other:?}"),
        }
        if !dies {
            self.settle(shard, place);
        }
    }

    fn ask(&mut self, at: usize, again: bool) {
        // The calls of a worker have deadlines.
        if self.now_ms > self.asking[at].began_ms + CHECK_MS {
            self.asking.remove(at);
            return;
        }
        let asking = &mut self.asking[at];
        let shard = (asking.home + asking.asked) % SHARDS;
        let read = ReadHeldMedia { ids: asking.unheld.iter().cloned().collect() };
        let held = self.shards[shard].reader.held_media(&read).expect("reads").ids;
        asking.held.extend(held.into_iter().filter(|id| asking.unheld.remove(id)));
        asking.asked += 1;
        if asking.asked < SHARDS && !asking.unheld.is_empty() {
            return;
        }
        let Asking { home, place, check, unheld, held, began_ms, .. } = self.asking.remove(at);
        let op = Op::CollectMedia(CollectMedia { check, held, unheld: unheld.into_iter().collect() });
        if again {
            self.late.push((home, op.clone(), began_ms + CHECK_MS));
        }
        assert!(matches!(self.apply(home, op), Outcome::Done(_)));
        self.settle(home, place);
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
