//! Messages that are about other messages of their timeline. See docs/adr/0029-references.md.

mod recall;
mod trim;

use std::io;

use bytes::Bytes;
use carillon_proto::{
    DuplicateKey, MessageId, UserId,
    pb::store::{
        Annotated, Append, ConversationsMoved, Header, Member, Pins, RecordHeader, Reference, Stamp, TimelineKey,
        UserAnnotation, header::Kind, rejected::Reason,
    },
};
use prost::Message;

use super::{Batch, CachedTimeline, Outcome, TimelineState, groups::answer, media_holds};
use crate::machine::{
    annotations::{self, Case, EnvelopeHead, InGroup},
    broken, emptied, erasure,
    groups::{self, Refused},
    keys::{self, RowBytes, Stored},
};

/// For how long after a message one that refers to it waits until it arrives: the recipient has a message before the sender's inbox has
/// it.
const ARRIVES_MS: u64 = 60_000;
const ARRIVES_RETRY_MS: u32 = 200;

/// The header and the envelope of a message with a header, as they are stored.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) header: Option<Box<Header>>,
    /// Instead of the envelope.
    pub(super) envelope: Option<Bytes>,
    /// As in `RecordHeader`.
    pub(super) expires_ms: u64,
    pub(super) recalled: bool,
    /// The conversation in which less is unread now.
    pub(super) moved: Option<Box<ConversationsMoved>>,
}

/// A message that another one is about.
struct Target {
    seq: u64,
    said: EnvelopeHead,
    header: Header,
    /// As in `RecordHeader`.
    expires_ms: u64,
    /// The number by which the message counts as unread, if it does.
    number: Option<u64>,
    /// The sender of the other one is its author.
    by_author: bool,
}

/// The member of a group who sends a message that is about another one.
#[derive(Clone, Copy)]
struct ReferringMember {
    row: Member,
    /// The first position that the member may read.
    reads_from: u64,
}

/// Where a message that is about another one is to stand.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) state: TimelineState,
    pub(super) owner: &'a str,
    pub(super) in_group: bool,
}

impl Batch<'_> {
    /// Carries out what the message makes of another one, or says why not.
    pub(super) fn refer(
        &mut self,
        held: Option<&CachedTimeline>,
        op: &Append,
        header: &Header,
        in_group: bool,
    ) -> io::Result<Result<Kept, Outcome>> {
        if header.kind() == Kind::Message {
            if let Some((held, mentions)) = held.filter(|_| in_group).zip(header.mentions.as_ref()) {
                self.mention(&held.state, mentions)?;
            }
            let expires_ms = self.expires_ms(op, header);
            return Ok(Ok(Kept { header: Some(Box::new(header.clone())), expires_ms, ..Kept::default() }));
        }
        let said =
            EnvelopeHead::decode(op.envelope.clone()).map_err(|_| broken("envelope of a message with a header"))?;
        let reference = header.refers_to.as_ref().ok_or_else(|| broken("reference"))?;
        // The recipient's inbox has decided already.
        let is_copy = !in_group && op.sender.is_empty();
        let owner = owner_of(op.timeline.as_ref())?;
        let place = held.map(|held| Place { state: held.state, owner, in_group });
        let member = match in_group.then_some(place) {
            Some(place) => match self.referring_member(place, op, header)? {
                Ok(member) => Some(member),
                Err(refused) => return Ok(Err(answer(refused))),
            },
            None => None,
        };
        let found = match place {
            Some(place) => self.target(place, reference, &said)?.map(|target| (place, target)),
            None => None,
        };
        let Some((place, target)) = found else {
            if is_copy {
                let expires_ms = self.expires_ms(op, header);
                let header = Header { target_seq: 0, ..header.clone() };
                return Ok(Ok(Kept { header: Some(Box::new(header)), expires_ms, ..Kept::default() }));
            }
            return Ok(Err(answer(missing(reference, said.time_ms, in_group))));
        };
        let row = self.annotated(place.state.number, target.seq)?;
        if !is_copy && let Err(refused) = self.may_refer(place, member, header, &said, &target, &row)? {
            return Ok(Err(answer(refused)));
        }
        let has_expired = target.header.expires_at_ms != 0 && target.said.erased;
        let is_edit = header.kind() == Kind::Edit;
        let (late_edit, recalled) = (is_edit && (row.erased || has_expired), is_edit && row.recall.is_some());
        let moved = match has_expired {
            true => None,
            false => self.annotate(place, op, header, &said, &target, row)?,
        };
        let envelope = if late_edit { erasure::tombstone(&op.envelope)? } else { None };
        let expires_ms = match target.expires_ms {
            _ if late_edit || header.expires_at_ms == 0 => 0,
            0 => self.expires_ms(op, header),
            with_target => with_target,
        };
        let mut header = Header { target_seq: target.seq, ..header.clone() };
        if envelope.is_some() {
            header.media.clear();
            header.mentions = None;
        }
        let (header, envelope) = (Some(Box::new(header)), envelope.map(Bytes::from));
        Ok(Ok(Kept { header, envelope, expires_ms, recalled, moved }))
    }

    fn target(&self, place: Place<'_>, reference: &Reference, said: &EnvelopeHead) -> io::Result<Option<Target>> {
        let number = place.state.number;
        if place.in_group {
            // The key has the sender's incarnation in it: who has it has written the message.
            let by_author = match &*reference.key {
                [] => false,
                key => self.get(&keys::duplicate(number, &key_of(key)?), keys::number_of)? == Some(reference.seq),
            };
            return self.target_at(place, reference.seq, by_author, reference, said);
        }
        let key = DuplicateKey(key_of(&reference.key)?);
        let recipient = if reference.by_sender { said.recipient() } else { Some(&*said.sender) };
        // The author has used the client id for a message to somebody else, too.
        let other = recipient.and_then(|recipient| UserId::new(recipient).ok()).map(|recipient| key.to(&recipient));
        for key in [Some(key), other].into_iter().flatten() {
            let Some(seq) = self.get(&keys::duplicate(number, &key.0), keys::number_of)? else { continue };
            if let Some(target) = self.target_at(place, seq, reference.by_sender, reference, said)? {
                return Ok(Some(target));
            }
        }
        Ok(None)
    }

    /// The message at this position, if it is the one that is meant.
    fn target_at(
        &self,
        place: Place<'_>,
        seq: u64,
        by_author: bool,
        reference: &Reference,
        about: &EnvelopeHead,
    ) -> io::Result<Option<Target>> {
        let found = self.get(&keys::record(place.state.number, seq), |record| {
            let Stored { header, envelope, .. } = Stored::decode(record)?;
            // Something that is no envelope is not meant.
            let Ok(said) = EnvelopeHead::decode(envelope) else { return Ok(None) };
            let (expires_ms, number) = (header.expires_ms, emptied::number_of(&header));
            let header = header.message.map(|header| *header).unwrap_or_default();
            Ok(Some(Target { seq, said, header, expires_ms, number, by_author }))
        })?;
        let is_meant = |target: &Target| {
            let EnvelopeHead { id, sender, change, .. } = &target.said;
            let is_here = place.in_group || target.said.is_between_the_same(about);
            *id == reference.id && change.is_empty() && is_here && (!by_author || *sender == about.sender)
        };
        Ok(found.flatten().filter(is_meant))
    }

    fn may_refer(
        &self,
        place: Place<'_>,
        member: Option<ReferringMember>,
        header: &Header,
        said: &EnvelopeHead,
        target: &Target,
        row: &Annotated,
    ) -> io::Result<Result<(), Refused>> {
        let in_group = match member {
            Some(ReferringMember { reads_from, .. }) if target.seq < reads_from => return Ok(Err(not_there())),
            Some(ReferringMember { row, .. }) => {
                let author = self.member_named(place.state.number, &target.said.sender)?;
                let is_above_author = groups::is_above(&row, author.as_ref());
                Some(InGroup { is_admin: groups::is_admin(&row), is_above_author })
            }
            None => None,
        };
        let pinned = match header.kind() {
            Kind::Pin => self.pins(place, said)?.1.seqs.len(),
            _ => 0,
        };
        let Target { said: target_said, header: target_header, by_author, .. } = target;
        Ok(annotations::check(&Case {
            header,
            said,
            target: target_said,
            target_header,
            row,
            by_author: *by_author,
            in_group,
            pinned,
        }))
    }

    fn referring_member(
        &self,
        place: Option<Place<'_>>,
        op: &Append,
        header: &Header,
    ) -> io::Result<Result<ReferringMember, Refused>> {
        let Some(number) = place.map(|place| place.state.number) else { return Ok(Err(groups::no_group())) };
        let Some(group) = self.living_group(number)? else { return Ok(Err(groups::no_group())) };
        let settings = group.settings.unwrap_or_default();
        let sender = self.sender_member(number, op)?;
        let recalls = header.kind() == Kind::Recall;
        let member = groups::may_refer(sender.as_ref(), op.time_ms, recalls).and_then(|row| {
            let reads_from = groups::readable_from(&settings, Some(row))?;
            Ok(ReferringMember { row: *row, reads_from })
        });
        Ok(member)
    }

    fn annotate(
        &mut self,
        place: Place<'_>,
        op: &Append,
        header: &Header,
        said: &EnvelopeHead,
        target: &Target,
        mut row: Annotated,
    ) -> io::Result<Option<Box<ConversationsMoved>>> {
        let Place { state: TimelineState { number, last, .. }, in_group, .. } = place;
        let mut moved = None;
        let stamp = Stamp { seq: last + 1, time_ms: said.time_ms, id: said.id.clone() };
        // A later recall for good takes away all edits.
        if row.recall.is_some() && !matches!(header.kind(), Kind::Recall | Kind::Edit) {
            return Ok(None);
        }
        match header.kind() {
            Kind::Message => return Ok(None),
            Kind::Edit => {
                if in_group {
                    self.mention_anew(&place.state, target.seq, &row, &target.header, header.mentions.as_ref())?;
                }
                annotations::put_edit(&mut row, stamp, in_group);
            }
            Kind::Recall => moved = self.recall(place, header.erase, stamp, said, target, &mut row)?,
            Kind::Reaction | Kind::Vote => self.choose(place, op, header, stamp, target, &mut row)?,
            Kind::Pin | Kind::Unpin => {
                if annotations::is_later(&stamp, row.pin.as_ref(), in_group) {
                    row.pin = Some(stamp);
                    self.set_pinned(place, said, target.seq, &mut row, header.kind() == Kind::Pin)?;
                }
            }
        }
        self.put_annotated(number, target.seq, &row);
        Ok(moved)
    }

    /// Reactions and votes of a user.
    fn choose(
        &mut self,
        place: Place<'_>,
        op: &Append,
        header: &Header,
        stamp: Stamp,
        target: &Target,
        row: &mut Annotated,
    ) -> io::Result<()> {
        let Place { state: TimelineState { number, .. }, in_group, .. } = place;
        let user = sender_of(op, place.owner)?;
        let key = chosen(header.kind(), number, target.seq, user);
        let before = self.get(&key, decode::<UserAnnotation>)?;
        if !annotations::is_later(&stamp, before.as_ref().and_then(|before| before.last.as_ref()), in_group) {
            return Ok(());
        }
        if let Some(before) = &before {
            annotations::count_down(row, &before.reactions, &before.votes);
        }
        let options = target.header.poll.map_or(0, |poll| poll.options);
        annotations::count_up(row, &header.reactions, &header.votes, options);
        let (reactions, votes) = (header.reactions.clone(), header.votes.clone());
        // In a group the next one is later anyway.
        if in_group && reactions.is_empty() && votes.is_empty() {
            self.changes.delete(key);
        } else {
            let after = UserAnnotation { last: Some(stamp), incarnation: op.sender_incarnation, reactions, votes };
            self.changes.put(key, after.encode_to_vec());
        }
        Ok(())
    }

    fn set_pinned(
        &mut self,
        place: Place<'_>,
        said: &EnvelopeHead,
        seq: u64,
        row: &mut Annotated,
        pinned: bool,
    ) -> io::Result<()> {
        if row.pinned == pinned {
            return Ok(());
        }
        row.pinned = pinned;
        let (key, mut pins) = self.pins(place, said)?;
        pins.seqs.retain(|known| *known != seq);
        if pinned {
            pins.seqs.push(seq);
        }
        self.put_pins(key, &pins);
        Ok(())
    }

    /// Pinned messages of the conversation that this message is of.
    fn pins(&self, place: Place<'_>, said: &EnvelopeHead) -> io::Result<(RowBytes, Pins)> {
        let peer = if place.in_group { "" } else { said.peer_of(place.owner).unwrap_or_default() };
        let key = keys::pins(place.state.number, peer);
        let pins = self.get(&key, decode::<Pins>)?.unwrap_or_default();
        Ok((key, pins))
    }

    fn put_pins(&mut self, key: RowBytes, pins: &Pins) {
        if pins.seqs.is_empty() {
            self.changes.delete(key);
        } else {
            self.changes.put(key, pins.encode_to_vec());
        }
    }

    /// Forgets what others have made of the message at this position.
    pub(super) fn forget_annotated(
        &mut self,
        place: Place<'_>,
        said: &EnvelopeHead,
        seq: u64,
        header: &Header,
    ) -> io::Result<()> {
        let number = place.state.number;
        let key = keys::annotated(number, seq);
        let found = self.get(&key, decode::<Annotated>)?;
        if place.in_group {
            self.forget_mentions_of(number, seq, &found.clone().unwrap_or_default(), header)?;
        }
        if let Some(mut row) = found {
            self.set_pinned(place, said, seq, &mut row, false)?;
            self.changes.delete(key);
        }
        Ok(())
    }

    fn annotated(&self, number: u64, seq: u64) -> io::Result<Annotated> {
        Ok(self.get(&keys::annotated(number, seq), decode::<Annotated>)?.unwrap_or_default())
    }

    fn put_annotated(&mut self, number: u64, seq: u64, row: &Annotated) {
        let key = keys::annotated(number, seq);
        if *row == Annotated::default() {
            self.changes.delete(key);
        } else {
            self.changes.put(key, row.encode_to_vec());
        }
    }

    /// The message at this position, of a user that is being erased, no longer counts for the message that it is about.
    pub(super) fn withdraw(&mut self, number: u64, seq: u64, user: &str, header: &Header) -> io::Result<()> {
        let target = header.target_seq;
        if let Some(mentions) = &header.mentions {
            // An edit mentions by its target.
            self.forget_mentions(number, if header.kind() == Kind::Edit { target } else { seq }, mentions)?;
        }
        let Some(mut row) = self.get(&keys::annotated(number, target), decode::<Annotated>)? else { return Ok(()) };
        match header.kind() {
            Kind::Edit => row.edits.retain(|edit| edit.seq != seq),
            Kind::Reaction | Kind::Vote => {
                let key = chosen(header.kind(), number, target, user);
                let chosen = self.get(&key, decode::<UserAnnotation>)?;
                let Some(chosen) = chosen.filter(|chosen| chosen.last.as_ref().is_some_and(|last| last.seq == seq))
                else {
                    return Ok(());
                };
                annotations::count_down(&mut row, &chosen.reactions, &chosen.votes);
                self.changes.delete(key);
            }
            Kind::Message | Kind::Recall | Kind::Pin | Kind::Unpin => return Ok(()),
        }
        self.put_annotated(number, target, &row);
        Ok(())
    }
}

/// The key of what a user has chosen.
fn chosen(kind: Kind, number: u64, seq: u64, user: &str) -> RowBytes {
    match kind {
        Kind::Vote => keys::votes(number, seq, user),
        _ => keys::reactions(number, seq, user),
    }
}

/// The header without what a user has said in it, of which nothing is left to expire.
pub(super) fn silent(header: RecordHeader) -> RecordHeader {
    let emptied = |message: Header| Header {
        mentions: None,
        reactions: Vec::new(),
        votes: Vec::new(),
        media: Vec::new(),
        ..message
    };
    let message = header.message.map(|message| Box::new(emptied(*message)));
    RecordHeader { message, expires_ms: 0, ..header }
}

fn missing(reference: &Reference, time_ms: u64, in_group: bool) -> Refused {
    let said_ms = reference.id.parse::<MessageId>().map_or(0, MessageId::time_ms);
    if !in_group && !reference.by_sender && time_ms.abs_diff(said_ms) < ARRIVES_MS {
        let detail = "the message that this one refers to is not in its sender's inbox yet".to_owned();
        return Refused { reason: Reason::TooEarly, detail, retry_after_ms: ARRIVES_RETRY_MS };
    }
    not_there()
}

fn not_there() -> Refused {
    groups::refused(Reason::NotFound, "the message that this one refers to is not in the conversation any more")
}

fn key_of(key: &[u8]) -> io::Result<[u8; 16]> {
    key.try_into().map_err(|_| broken("key of a reference"))
}

pub(super) fn owner_of(timeline: Option<&TimelineKey>) -> io::Result<&str> {
    let timeline = timeline.ok_or_else(|| broken("timeline of a command"))?;
    str::from_utf8(&timeline.owner).map_err(|_| broken("owner of a timeline"))
}

/// The copy in the sender's own inbox names no sender.
fn sender_of<'a>(op: &'a Append, owner: &'a str) -> io::Result<&'a str> {
    let sender = str::from_utf8(&op.sender).map_err(|_| broken("sender of a command"))?;
    Ok(if sender.is_empty() { owner } else { sender })
}

fn decode<M: Message + Default>(value: &[u8]) -> io::Result<M> {
    M::decode(value).map_err(|_| broken("row of a message that others refer to"))
}
