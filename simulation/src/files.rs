//! Files: what refers to them, that none goes to which something refers, and that all others go in the end. See docs/adr/0030-media.md.

use std::collections::BTreeMap;

use bytes::Bytes;
use carillon_proto::{
    MediaId, ShardKind,
    pb::{
        client::Envelope,
        link::{CompleteMedia, CreateMedia, Send, router_request::Op},
        store::{
            CollectMedia, Header, ReadMedia, TimelineCommand, store_reply::Result as Outcome,
            store_request::Op as StoreOp, timeline_command,
        },
    },
};
use prost::Message as _;

use crate::{
    clients::user_name,
    expiring::send,
    groups::{DEVICE, Want, What},
    model::{Entry, Model},
    random::Random,
    schedule::{MS, Time},
    store::MAP,
    world::World,
};

/// The time for which a file is kept to which nothing refers.
pub(crate) const KEPT: Time = 1500 * MS;
/// Files of each user, and bytes of each.
const MOST: u32 = 100;
const SIZE: u64 = 10;

/// Files by their ids, and messages that are on their way and refer to one.
#[derive(Default)]
pub(crate) struct Files {
    /// The time of the present event.
    pub(crate) now: Time,
    files: BTreeMap<MediaId, File>,
    /// By sender and client id.
    sending: BTreeMap<(String, String), Right>,
}

#[derive(Default)]
struct File {
    /// The time at which all its bytes were there.
    whole_at: Option<Time>,
    was_held: bool,
    /// The time at which a worker began to look for references.
    looked_at: Time,
    is_gone: bool,
}

/// The right of a message to refer to a file.
#[derive(Debug, Clone, Copy)]
struct Right {
    /// The file was there for certain.
    at: Time,
    /// The longest time that one of the messages took from which this one has the reference.
    took: Time,
}

/// A reference of an entry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reference {
    id: MediaId,
    /// The longest time of a message on the way to this one, with its own; see [`Right`].
    took: Time,
}

/// Uploads and sends of files, by random numbers of their own.
pub(crate) fn files(seed: u64, users: usize, from: Time, until: Time) -> Vec<(usize, Time, Want)> {
    let mut random = Random::new(seed ^ 0x0066_696c_6573);
    let mut one = || {
        let (user, to) = (random.index(users), random.index(users));
        let what = match random.below(10) {
            0..3 => What::Upload,
            _ => What::SendFile {
                to,
                pick: random.next(),
                after_ms: if random.in_thousand(600) { random.between(10, 1200) } else { 0 },
            },
        };
        (user, random.between(from, until + 2 * KEPT), Want { group: 0, what })
    };
    (0..14).map(|_| one()).collect()
}

fn id_of(user: usize, number: u64) -> MediaId {
    let mut tail = [user as u8; 14];
    tail[6..].copy_from_slice(&number.to_be_bytes());
    MediaId::new(MAP.timeline_of_owner(&user_name(user)).index, tail)
}

fn bytes_of(id: &MediaId) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

/// A place for a file; `number`: that of the want.
pub(crate) fn creates(user: usize, incarnation: u64, number: u64) -> Op {
    Op::CreateMedia(Box::new(CreateMedia {
        user: user_name(user),
        incarnation,
        generation: incarnation,
        tail: bytes_of(&id_of(user, number)).slice(2..),
        size_bytes: SIZE,
        most_bytes: u64::from(MOST) * SIZE,
        most_files: MOST,
        ..CreateMedia::default()
    }))
}

/// All its bytes are there.
pub(crate) fn completes(user: usize, incarnation: u64, number: u64) -> Op {
    let id = bytes_of(&id_of(user, number));
    Op::CompleteMedia(CompleteMedia { user: user_name(user), incarnation, id, ..CompleteMedia::default() })
}

impl Model {
    /// A message that refers to a file; `None`: there is none. `number`: that of the want.
    pub(crate) fn sends_file(
        &mut self,
        user: usize,
        incarnation: u64,
        number: u64,
        (to, after_ms): (usize, u64),
        pick: u64,
    ) -> Option<Op> {
        let mut random = Random::new(pick);
        let mut known: Vec<(MediaId, Right)> = Vec::new();
        for (id, file) in &self.files.files {
            let held = self.references(id).map(|(_, reference)| reference.took).min();
            let right = match (held, file.whole_at) {
                (Some(took), _) if took < Time::MAX => Some(Right { at: self.files.now, took }),
                (None, Some(at)) if !file.was_held => Some(Right { at, took: 0 }),
                _ => None,
            };
            // Sometimes one that may be gone.
            let right = right.filter(|_| !file.is_gone && !random.in_thousand(100));
            known.push((*id, right.unwrap_or(Right { at: 0, took: Time::MAX })));
        }
        if known.is_empty() {
            return None;
        }
        let (id, right) = known[random.index(known.len())];
        let client_id = format!("f{user}-{number}");
        self.files.sending.insert((user_name(user), client_id.clone()), right);
        let header = Header { countable: true, media: vec![bytes_of(&id)], ..Header::default() };
        Some(Op::Send(Send { header: Some(Box::new(header)), ..send(user, incarnation, client_id, to, after_ms) }))
    }

    pub(crate) fn has_file(&self, envelope: &Envelope) -> bool {
        envelope.sender_device == DEVICE
            && self.files.sending.contains_key(&(envelope.sender.clone(), envelope.client_id.clone()))
    }

    /// The references of an entry that comes now.
    pub(crate) fn references_of(&mut self, envelope: &Envelope, header: Option<&Header>) -> Vec<Reference> {
        let key = (envelope.sender.clone(), envelope.client_id.clone());
        let right = self.files.sending.get(&key).copied().unwrap_or(Right { at: 0, took: Time::MAX });
        let took = right.took.max(self.files.now - right.at);
        let ids = header.into_iter().flat_map(|header| &header.media).filter_map(|id| MediaId::from_bytes(id));
        let references: Vec<_> = ids.map(|id| Reference { id, took }).collect();
        for Reference { id, .. } in &references {
            if let Some(file) = self.files.files.get_mut(id) {
                file.was_held = true;
            }
        }
        references
    }

    /// References to the file, each with the owner of the inbox that has it.
    fn references<'a>(&'a self, id: &'a MediaId) -> impl Iterator<Item = (&'a str, &'a Reference)> {
        let inboxes = self.inboxes.iter();
        let inboxes = inboxes.filter(move |((user, incarnation), _)| self.owner(user) == Some(*incarnation));
        inboxes.flat_map(move |((user, _), inbox)| {
            let entries = inbox.entries.iter().filter(|entry| !entry.is_gone);
            entries.flat_map(Entry::references).filter(move |reference| reference.id == *id).map(|of| (&**user, of))
        })
    }

    /// The state machine has applied this command of files.
    pub(crate) fn file_command(&mut self, op: &timeline_command::Op) {
        match op {
            timeline_command::Op::CreateMedia(op) => {
                self.files.files.extend(MediaId::from_bytes(&op.id).map(|id| (id, File::default())));
            }
            timeline_command::Op::CompleteMedia(op) => {
                let now = self.files.now;
                if let Some(file) = MediaId::from_bytes(&op.id).and_then(|id| self.files.files.get_mut(&id)) {
                    file.whole_at.get_or_insert(now);
                }
            }
            timeline_command::Op::CheckMedia(op) => {
                let now = self.files.now;
                for id in op.ids.iter().filter_map(|id| MediaId::from_bytes(id)) {
                    self.files.files.entry(id).or_default().looked_at = now;
                }
            }
            _ => {}
        }
    }
}

impl World<'_> {
    /// A command of the leader of a shard was applied.
    pub(crate) fn files_swept(&mut self, command: &Bytes) {
        self.model.files.now = self.schedule.now();
        let command = TimelineCommand::decode(command.clone()).expect("encoded");
        command.op.iter().for_each(|op| self.model.file_command(op));
    }

    /// Files have been looked for; those that are gone are not referred to.
    pub(crate) fn files_collected(&mut self, op: &CollectMedia) {
        let now = self.schedule.now();
        for id in op.unheld.iter().filter_map(|id| MediaId::from_bytes(id)) {
            let looked_at = self.model.files.files.get(&id).filter(|file| !file.is_gone).map(|file| file.looked_at);
            let Some(looked_at) = looked_at.filter(|_| !self.file_is_there(&id)) else { continue };
            let lost = self.model.references(&id);
            let lost = lost.filter(|(_, of)| of.took.saturating_add(now - looked_at) < KEPT).map(|(user, _)| user);
            let lost: Vec<String> = lost.map(str::to_owned).collect();
            if !lost.is_empty() {
                self.model.breaks(format!("the file {id:?} was removed, and messages of {lost:?} refer to it"));
            }
            self.model.files.files.entry(id).or_default().is_gone = true;
            self.report.collected += 1;
        }
    }

    fn file_is_there(&self, id: &MediaId) -> bool {
        let Some(shard) = id.shard(MAP) else { return false };
        let read = StoreOp::ReadMedia(ReadMedia { id: bytes_of(id) });
        matches!(self.cluster.read(shard, &read), Outcome::MediaRead(_))
    }

    /// A shard counts something else than what refers to the file there, or nothing refers to a file that is still there.
    pub(crate) fn files_wait(&self) -> Option<String> {
        for (id, file) in &self.model.files.files {
            let mut count = 0;
            for shard in MAP.all().filter(|shard| shard.kind == ShardKind::Timeline) {
                let of_shard = |(user, _): &(&str, &Reference)| MAP.timeline_of_owner(user) == shard;
                let expected = self.model.references(id).filter(of_shard).count() as u64;
                let found = self.cluster.media_references(shard, id);
                if found != expected {
                    return Some(format!("{shard} counts {found} references to {id:?}, and there are {expected}"));
                }
                count += expected;
            }
            if count == 0 && file.whole_at.is_some() && !file.is_gone {
                return Some(format!("nothing refers to the file {id:?}, and it stays"));
            }
        }
        None
    }

    /// Every file to which something refers in time is there.
    pub(crate) fn check_files(&self) -> Result<(), String> {
        let files = self.model.files.files.iter().filter(|(_, file)| file.whole_at.is_some() && !file.is_gone);
        let mut lost = files.filter(|(id, _)| !self.file_is_there(id));
        lost.next().map_or(Ok(()), |(id, _)| Err(format!("the file {id:?} is gone, and nobody has removed it")))
    }
}
