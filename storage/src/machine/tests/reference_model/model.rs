//! Right pages for readers of timelines, made of nothing but the messages in them.

use std::collections::{BTreeMap, BTreeSet};

use carillon_proto::pb::{
    client::{Content, Envelope, PollTally, ReactionCount, Text, content::Body},
    link::RawMessageState,
    store::{Header, PollRules, Reference, Role, header::Kind, rejected::Reason},
};
use prost::Message as _;

/// One message in one timeline.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) envelope: Envelope,
    pub(super) header: Header,
    /// Of the sender's account.
    pub(super) incarnation: u64,
    /// The position of the message that it is about; `None`: that was not there.
    pub(super) target: Option<u64>,
    /// The members whom it mentions, each with the incarnation of the account.
    pub(super) mentioned: Vec<(String, u64)>,
}

/// A message that is about to be appended.
pub(super) struct Coming<'a> {
    pub(super) entry: &'a Entry,
    /// The user's own word.
    pub(super) by_sender: bool,
    /// In a group.
    pub(super) seq: u64,
    pub(super) id: &'a str,
    pub(super) id_time_ms: u64,
}

impl<'a> Coming<'a> {
    /// `reference` comes with the time in the id that it names.
    pub(super) fn of(entry: &'a Entry, reference: Option<&'a (Reference, u64)>) -> Self {
        Self {
            entry,
            by_sender: reference.is_some_and(|(reference, _)| reference.by_sender),
            seq: reference.map_or(0, |(reference, _)| reference.seq),
            id: reference.map_or("", |(reference, _)| &reference.id),
            id_time_ms: reference.map_or(0, |(_, time_ms)| *time_ms),
        }
    }
}

#[derive(Default)]
pub(super) struct Timeline {
    /// `None` for a group.
    pub(super) owner: Option<String>,
    pub(super) first: u64,
    /// The first one is at position 1.
    pub(super) entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
pub(super) struct Member {
    pub(super) incarnation: u64,
    pub(super) role: Role,
    pub(super) since: u64,
}

pub(super) type Members = BTreeMap<String, Member>;

fn rank(role: Role) -> u8 {
    match role {
        Role::Unspecified | Role::Reader => 0,
        Role::Member => 1,
        Role::Admin => 2,
        Role::Owner => 3,
    }
}

/// The remains of a message that was recalled for good.
pub(super) fn left_of(envelope: &Envelope) -> Envelope {
    let Envelope { id, sender, to, time_ms, .. } = envelope.clone();
    let content = Some(Content { body: Some(Body::Text(Text::default())), ..Content::default() });
    Envelope { id, sender, to, time_ms, content, erased: true, ..Envelope::default() }
}

/// The envelope that is shown of a message that was recalled, and of its edits.
fn recalled(envelope: &Envelope) -> Envelope {
    let Envelope { sender_device, client_id, .. } = envelope.clone();
    Envelope { sender_device, client_id, ..left_of(envelope) }
}

impl Timeline {
    pub(super) fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(super) fn at(&self, seq: u64) -> Option<&Entry> {
        if seq < self.first.max(1) { None } else { self.entries.get(seq as usize - 1) }
    }

    /// The message at this position as a reader gets it.
    pub(super) fn shown(&self, seq: u64) -> Envelope {
        let entry = self.at(seq).expect("kept");
        let of = if entry.header.kind() == Kind::Edit { entry.target } else { Some(seq) };
        match of.is_some_and(|of| self.is_recalled(of)) && !entry.envelope.erased {
            true => recalled(&entry.envelope),
            false => entry.envelope.clone(),
        }
    }

    /// The messages about this one, from the earliest to the one that counts.
    fn about(&self, seq: u64) -> Vec<(u64, &Entry)> {
        let all = self.entries.iter().zip(1..).filter(|(entry, _)| entry.target == Some(seq));
        let mut all: Vec<_> = all.map(|(entry, at)| (at, entry)).collect();
        if self.owner.is_some() {
            all.sort_by_key(|(_, entry)| (entry.envelope.time_ms, entry.envelope.id.clone()));
        }
        all
    }

    fn of_kind(&self, seq: u64, kind: Kind) -> Vec<(u64, &Entry)> {
        self.about(seq).into_iter().filter(|(_, entry)| entry.header.kind() == kind).collect()
    }

    fn is_recalled(&self, seq: u64) -> bool {
        !self.of_kind(seq, Kind::Recall).is_empty()
    }

    fn is_erased_by_recall(&self, seq: u64) -> bool {
        self.of_kind(seq, Kind::Recall).iter().any(|(_, entry)| entry.header.erase)
    }

    fn is_pinned(&self, seq: u64) -> bool {
        let pins = self.about(seq);
        let mut pins = pins.iter().filter(|(_, entry)| matches!(entry.header.kind(), Kind::Pin | Kind::Unpin));
        !self.is_recalled(seq) && pins.next_back().is_some_and(|(_, entry)| entry.header.kind() == Kind::Pin)
    }

    /// Pinned messages in the conversation of this message.
    fn pinned(&self, seq: u64) -> impl Iterator<Item = u64> {
        let conversation = |seq| self.at(seq).map(|entry| conversation(&entry.envelope));
        (self.first..=self.last())
            .filter(move |other| conversation(*other) == conversation(seq) && self.is_pinned(*other))
    }

    fn reactions(&self, seq: u64) -> BTreeSet<&String> {
        self.choices(seq, Kind::Reaction).into_values().flat_map(|entry| &entry.header.reactions).collect()
    }

    fn edits(&self, seq: u64) -> Vec<(u64, &Entry)> {
        let edits = self.of_kind(seq, Kind::Edit).into_iter();
        edits.filter(|(_, entry)| self.is_recalled(seq) || !entry.envelope.erased).collect()
    }

    /// The last choice of each user.
    fn choices(&self, seq: u64, kind: Kind) -> BTreeMap<&str, &Entry> {
        let all = self.of_kind(seq, kind).into_iter().map(|(_, entry)| (&*entry.envelope.sender, entry));
        let mut last: BTreeMap<_, _> = all.collect();
        last.retain(|_, entry| !entry.envelope.erased);
        last
    }

    /// Where the message is that is meant.
    fn find(&self, coming: &Coming<'_>) -> Option<u64> {
        let Envelope { sender, to, .. } = &coming.entry.envelope;
        let author = if coming.by_sender { Some(sender.clone()) } else { user_of(&coming.entry.envelope) };
        let is_meant = |(seq, entry): &(u64, &Entry)| {
            let here = match self.owner {
                Some(_) => {
                    conversation(&entry.envelope) == conversation(&coming.entry.envelope)
                        && Some(&entry.envelope.sender) == author.as_ref()
                }
                None => *seq == coming.seq && entry.envelope.to == *to,
            };
            here && entry.envelope.id == coming.id
        };
        let kept = self.entries.iter().zip(1..).map(|(entry, seq)| (seq, entry)).filter(|(seq, _)| *seq >= self.first);
        kept.filter(is_meant).map(|(seq, _)| seq).next()
    }

    /// Why a message is refused here, where it is decided; `Ok`: the position of the message that it is about.
    pub(super) fn decide(&self, coming: &Coming<'_>, members: &Members) -> Result<u64, Reason> {
        let Envelope { sender, time_ms, .. } = &coming.entry.envelope;
        let header = &coming.entry.header;
        let member = members.get(sender).filter(|member| member.incarnation == coming.entry.incarnation);
        if self.owner.is_none() {
            let member = member.ok_or(Reason::NotFound)?;
            if header.kind() != Kind::Recall && rank(member.role) < 1 {
                return Err(Reason::Forbidden);
            }
        }
        let Some(target) = self.find(coming) else {
            let soon = self.owner.is_some() && !coming.by_sender && time_ms.abs_diff(coming.id_time_ms) < 60_000;
            return Err(if soon { Reason::TooEarly } else { Reason::NotFound });
        };
        let Entry { envelope: said, header: of_target, incarnation, .. } = self.at(target).expect("it is there");
        if self.owner.is_none() && member.is_some_and(|member| target < member.since) {
            return Err(Reason::NotFound);
        }
        if said.erased {
            return Err(Reason::NotFound);
        }
        if of_target.kind() != Kind::Message {
            return Err(Reason::Invalid);
        }
        let again = header.kind() == Kind::Recall && header.erase && !self.is_erased_by_recall(target);
        if self.is_recalled(target) && !again {
            return Err(Reason::NotFound);
        }
        let by_author = said.sender == *sender && (self.owner.is_some() || *incarnation == coming.entry.incarnation);
        let by_author = by_author && coming.by_sender;
        match header.kind() {
            Kind::Message => {}
            Kind::Reaction => {
                let known = self.reactions(target);
                let new = header.reactions.iter().filter(|emoji| !known.contains(emoji)).count();
                if new > 0 && known.len() + new > 128 {
                    return Err(Reason::Full);
                }
            }
            Kind::Edit if !by_author => return Err(Reason::Forbidden),
            Kind::Edit if of_target.poll.is_some() => return Err(Reason::Invalid),
            Kind::Edit if time_ms.saturating_sub(said.time_ms) > header.edit_window_ms => return Err(Reason::TooLate),
            Kind::Edit if self.edits(target).len() == 100 => return Err(Reason::Full),
            Kind::Edit => {}
            Kind::Recall => {
                let of_author = members.get(&said.sender).map_or(0, |author| 1 + rank(author.role));
                let is_above = |member: &&Member| rank(member.role) >= 2 && 1 + rank(member.role) > of_author;
                if !by_author && (self.owner.is_some() || !member.as_ref().is_some_and(is_above)) {
                    return Err(Reason::Forbidden);
                }
            }
            Kind::Pin | Kind::Unpin => {
                if self.owner.is_none() && member.is_some_and(|member| rank(member.role) < 2) {
                    return Err(Reason::Forbidden);
                }
                if header.kind() == Kind::Pin && !self.is_pinned(target) && self.pinned(target).count() >= 50 {
                    return Err(Reason::Full);
                }
            }
            Kind::Vote => check_vote(header, of_target.poll, *time_ms)?,
        }
        Ok(target)
    }

    /// A message that was appended.
    pub(super) fn append(&mut self, coming: &Coming<'_>) {
        let mut entry = coming.entry.clone();
        if entry.header.kind() != Kind::Message {
            entry.target = self.find(coming);
        }
        let (kind, erase, target) = (entry.header.kind(), entry.header.erase, entry.target);
        self.entries.push(entry);
        let Some(target) = target else { return };
        let seq = self.last();
        if kind == Kind::Recall && erase {
            let edits: Vec<_> = self.of_kind(target, Kind::Edit).into_iter().map(|(seq, _)| seq).collect();
            edits.into_iter().chain([target]).for_each(|seq| self.erase(seq));
        } else if kind == Kind::Edit && self.is_erased_by_recall(target) {
            self.erase(seq);
        }
    }

    /// The pinned messages of the conversation with this user, or of the group.
    pub(super) fn pinned_with(&self, with: &str) -> Vec<u64> {
        let users = self.owner.as_ref().map(|owner| {
            let mut users = [owner.clone(), with.to_owned()];
            users.sort();
            users
        });
        let is_there = |seq: &u64| self.at(*seq).is_some_and(|entry| conversation(&entry.envelope) == users);
        (self.first..=self.last()).filter(is_there).filter(|seq| self.is_pinned(*seq)).collect()
    }

    /// How many unread messages mention this member, who has a mark.
    pub(super) fn mentions(&self, user: &str, member: Member, mark: u64) -> usize {
        let account = (user.to_owned(), member.incarnation);
        let is_own = |entry: &Entry| entry.envelope.sender == user && entry.incarnation == member.incarnation;
        let wrote = (1..=self.last()).filter(|seq| {
            let entry = &self.entries[*seq as usize - 1];
            is_own(entry) && entry.header.kind() == Kind::Message
        });
        let read = mark.max(member.since).max(wrote.max().unwrap_or(0));
        let unread = (read + 1).max(self.first)..=self.last();
        let mentions = unread.filter(|seq| {
            let Some(entry) = self.at(*seq) else { return false };
            // As it was edited last.
            let said = self.edits(*seq).last().map_or(entry, |(_, edit)| edit);
            let all = said.header.mentions.as_ref().is_some_and(|mentions| mentions.all || mentions.here);
            let is_message = entry.header.kind() == Kind::Message;
            let is_gone = entry.envelope.erased || self.is_recalled(*seq);
            is_message && !is_gone && (all || said.mentioned.contains(&account))
        });
        mentions.count().min(100)
    }

    pub(super) fn erase(&mut self, seq: u64) {
        let entry = &mut self.entries[seq as usize - 1];
        entry.envelope = left_of(&entry.envelope);
    }

    /// As a reader sees it.
    pub(super) fn state(&self, seq: u64, reader: Option<(&str, u64)>) -> RawMessageState {
        let bytes = |entry: &Entry| entry.envelope.encode_to_vec().into();
        if let Some((_, recall)) = self.of_kind(seq, Kind::Recall).last() {
            return RawMessageState { recall: bytes(recall), ..RawMessageState::default() };
        }
        let edits = self.edits(seq);
        let is_own = |user: &str, entry: &Entry| {
            reader.is_some_and(|(reader, incarnation)| {
                user == reader && (self.owner.is_some() || entry.incarnation == incarnation)
            })
        };
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        let mut own_reactions = Vec::new();
        for (user, entry) in self.choices(seq, Kind::Reaction) {
            entry.header.reactions.iter().for_each(|emoji| *counts.entry(emoji).or_default() += 1);
            if is_own(user, entry) {
                own_reactions.clone_from(&entry.header.reactions);
            }
        }
        let reactions =
            counts.into_iter().map(|(emoji, users)| ReactionCount { emoji: emoji.to_owned(), users }).collect();
        let poll = self.at(seq).and_then(|entry| entry.header.poll);
        RawMessageState {
            recall: Default::default(),
            edit: edits.last().map(|(_, edit)| bytes(edit)).unwrap_or_default(),
            edits: edits.len() as u32,
            reactions,
            own_reactions,
            pinned: self.is_pinned(seq),
            poll: poll.and_then(|poll| self.tally(seq, poll, is_own)),
        }
    }

    fn tally(&self, seq: u64, poll: PollRules, is_own: impl Fn(&str, &Entry) -> bool) -> Option<PollTally> {
        let mut tally = PollTally { votes: vec![0; poll.options as usize], ..PollTally::default() };
        for (user, entry) in self.choices(seq, Kind::Vote) {
            let chosen = &entry.header.votes;
            chosen.iter().for_each(|vote| tally.votes[*vote as usize] += 1);
            tally.voters += u32::from(!chosen.is_empty());
            if is_own(user, entry) {
                tally.own.clone_from(chosen);
            }
        }
        (tally.voters > 0).then_some(tally)
    }

    /// The message and its edits.
    pub(super) fn history(&self, seq: u64) -> Vec<(u64, Envelope)> {
        let edits = self.edits(seq).into_iter().map(|(seq, _)| seq);
        let kept = self.at(seq).map(|_| seq);
        kept.into_iter().chain(edits).map(|seq| (seq, self.shown(seq))).collect()
    }
}

fn check_vote(header: &Header, poll: Option<PollRules>, time_ms: u64) -> Result<(), Reason> {
    let poll = poll.ok_or(Reason::Invalid)?;
    if poll.until_ms != 0 && time_ms > poll.until_ms {
        return Err(Reason::TooLate);
    }
    let known = header.votes.iter().all(|vote| *vote < poll.options);
    if known && (poll.multiple || header.votes.len() < 2) { Ok(()) } else { Err(Reason::Invalid) }
}

/// The two users of a direct message; the same for all messages of a group.
fn conversation(envelope: &Envelope) -> Option<[String; 2]> {
    let mut users = [envelope.sender.clone(), user_of(envelope)?];
    users.sort();
    Some(users)
}

fn user_of(envelope: &Envelope) -> Option<String> {
    use carillon_proto::pb::client::recipient::To;
    match envelope.to.as_ref()?.to.as_ref()? {
        To::User(user) => Some(user.clone()),
        To::Group(_) => None,
    }
}
