//! What devices make of messages that they were shown, and what histories must show of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use carillon_proto::{
    GroupId, Position, TimelineId, UserId,
    pb::{
        client::{
            Content, Edit, Envelope, MessageRef, MessageState, Pin, Poll, PollTally, Reaction, ReactionCount, Recall,
            Text, Vote, content::Body,
        },
        store::{Person, ReadTimeline, StoredEntry, TimelineRead, store_reply::Result as Outcome, store_request::Op},
    },
};
use prost::Message as _;

use crate::{
    clients::user_name,
    groups::group_name,
    membership::Group,
    model::{Entry, recipient_of},
    random::Random,
    store::MAP,
    world::World,
};

/// Messages that a device remembers.
const REMEMBERED: usize = 16;
const EMOJIS: [&[&str]; 4] = [&["x"], &["y"], &["x", "y"], &[]];
const VOTES: [&[u32]; 4] = [&[0], &[1], &[0, 1], &[]];
const OPTIONS: [&str; 2] = ["a", "b"];

/// Messages of conversations that a device knows.
#[derive(Default)]
pub(crate) struct Known {
    /// With whom: the other user, or the group with `@` before its name. And whether it is a poll.
    messages: VecDeque<(String, MessageRef, bool)>,
    /// Own sends of the device that are about another message.
    about: BTreeSet<String>,
    /// And those that are polls.
    polls: BTreeSet<String>,
}

/// The name of a conversation in a group.
fn in_group(group: &str) -> String {
    format!("@{group}")
}

impl Known {
    /// A message that the device was shown.
    pub(crate) fn shown(&mut self, own: &str, timeline: &TimelineId, position: Position, envelope: &Envelope) {
        let is_poll = match body(envelope).filter(|_| !envelope.erased) {
            Some(Body::Text(_)) => false,
            Some(Body::Poll(_)) => true,
            _ => return,
        };
        let (with, seq) = match timeline {
            TimelineId::Group(group) => (in_group(group.as_str()), position.seq),
            TimelineId::Inbox(_) if envelope.sender == own => (recipient_of(envelope), 0),
            TimelineId::Inbox(_) => (envelope.sender.clone(), 0),
        };
        let Envelope { id, sender, sender_device, client_id, expires_at_ms, .. } = envelope.clone();
        self.remember(with, MessageRef { id, sender, sender_device, client_id, seq, expires_at_ms }, is_poll);
    }

    /// An own message that was accepted.
    pub(crate) fn sent(&mut self, own: &str, device: &str, position: Position, client_id: &str, id: &str) {
        let to = client_id.split('-').next().unwrap_or_default();
        let with = match to.strip_prefix('g') {
            Some(group) => group.parse().ok().map(|group| (in_group(&group_name(group)), position.seq)),
            None => to.parse().ok().map(|to| (user_name(to), 0)),
        };
        if let Some((with, seq)) = with.filter(|_| !self.about.contains(client_id)) {
            let (sender, sender_device) = (own.to_owned(), device.to_owned());
            let is_poll = self.polls.contains(client_id);
            let (id, client_id) = (id.to_owned(), client_id.to_owned());
            let message = MessageRef { id, sender, sender_device, client_id, seq, ..MessageRef::default() };
            self.remember(with, message, is_poll);
        }
    }

    fn remember(&mut self, with: String, message: MessageRef, is_poll: bool) {
        if self.messages.len() == REMEMBERED {
            self.messages.pop_front();
        }
        self.messages.push_back((with, message, is_poll));
    }

    /// The next message of the device to this user: mostly something new.
    pub(crate) fn says(&mut self, own: &str, to: &str, client_id: &str, random: &mut Random) -> Content {
        // Mostly it would be too late for one that expires.
        let mut is_meant = |message: &MessageRef| message.expires_at_ms == 0 || random.in_thousand(200);
        let of_pair = self.messages.iter().filter(|(with, ..)| with == to);
        let of_pair: Vec<_> = of_pair.filter(|(_, message, _)| is_meant(message)).collect();
        if of_pair.is_empty() || !random.in_thousand(350) {
            return self.says_something(client_id, random);
        }
        let (_, target, is_poll) = of_pair[random.index(of_pair.len())].clone();
        let (is_own, is_passing) = (target.sender == own, target.expires_at_ms != 0);
        self.about.insert(client_id.to_owned());
        let target = Some(target);
        // Sometimes what only the author may do, or an admin, or with a poll.
        let body = match random.below(12) {
            0..4 if (is_own || random.in_thousand(200)) && !is_passing && !is_poll => {
                Body::Edit(Box::new(Edit { target, content: Some(Box::new(text(client_id))) }))
            }
            4 if is_own || random.in_thousand(200) => Body::Recall(Recall { target, erase: false }),
            5 | 6 => Body::Pin(Pin { target, unpin: random.in_thousand(300) }),
            7..10 if is_poll || random.in_thousand(100) => {
                Body::Vote(Vote { target, options: VOTES[random.index(VOTES.len())].to_vec() })
            }
            _ => {
                let emojis = EMOJIS[random.index(EMOJIS.len())].iter().map(|emoji| (*emoji).to_owned()).collect();
                Body::Reaction(Reaction { target, emojis })
            }
        };
        Content { body: Some(body), ..Content::default() }
    }

    /// The same in a group.
    pub(crate) fn says_in_group(&mut self, own: &str, group: &str, client_id: &str, random: &mut Random) -> Content {
        self.says(own, &in_group(group), client_id, random)
    }

    fn says_something(&mut self, client_id: &str, random: &mut Random) -> Content {
        if !random.in_thousand(150) {
            return text(client_id);
        }
        self.polls.insert(client_id.to_owned());
        let options = OPTIONS.map(str::to_owned).to_vec();
        let poll = Poll { question: client_id.to_owned(), options, multiple: random.in_thousand(500), until_ms: 0 };
        Content { body: Some(Body::Poll(poll)), ..Content::default() }
    }
}

pub(crate) fn text(body: &str) -> Content {
    Content { body: Some(Body::Text(Text { body: body.to_owned() })), ..Content::default() }
}

/// True for a message that counts as unread.
pub(crate) fn is_countable(envelope: &Envelope) -> bool {
    about(envelope).is_none()
}

pub(crate) fn body(envelope: &Envelope) -> Option<&Body> {
    envelope.content.as_ref()?.body.as_ref()
}

/// The message that this one is about.
pub(crate) fn about(envelope: &Envelope) -> Option<&MessageRef> {
    match body(envelope)? {
        Body::Edit(edit) => edit.target.as_ref(),
        Body::Recall(recall) => recall.target.as_ref(),
        Body::Reaction(reaction) => reaction.target.as_ref(),
        Body::Pin(pin) => pin.target.as_ref(),
        Body::Vote(vote) => vote.target.as_ref(),
        _ => None,
    }
}

/// True for a message from one of these users to the other.
pub(crate) fn is_between(envelope: &Envelope, one: &str, other: &str) -> bool {
    let mut users = [one, other];
    users.sort_unstable();
    pair(envelope) == users
}

fn pair(envelope: &Envelope) -> [String; 2] {
    let mut users = [envelope.sender.clone(), recipient_of(envelope)];
    users.sort();
    users
}

/// The state of each message of an inbox with these entries, made of nothing but the messages in it.
pub(crate) fn states(entries: &[Entry], owner: &str) -> Vec<MessageState> {
    let mut made: Vec<Vec<&Entry>> = vec![Vec::new(); entries.len()];
    for (at, entry) in entries.iter().enumerate() {
        let envelope = &entry.envelope;
        let Some(target) = about(envelope) else { continue };
        let is_meant =
            |other: &Envelope| other.id == target.id && other.change.is_none() && pair(other) == pair(envelope);
        let found = entries[..at].iter().position(|other| is_meant(&other.envelope));
        let by_author = found.is_some_and(|found| entries[found].envelope.sender == envelope.sender);
        // Nobody else's edit or recall counts.
        if let Some(found) = found.filter(|_| by_author || !is_of_author(envelope)) {
            made[found].push(entry);
        }
    }
    for of_one in &mut made {
        of_one.sort_by(|a, b| (a.envelope.time_ms, &a.envelope.id).cmp(&(b.envelope.time_ms, &b.envelope.id)));
    }
    // Nothing is said about a message that is gone.
    let shown = |(of_one, entry): (Vec<&Entry>, &Entry)| match entry.is_gone {
        true => MessageState::default(),
        false => state(&of_one, entry, &(owner.to_owned(), 0)),
    };
    made.into_iter().zip(entries).map(shown).collect()
}

/// The same of a group when it had so many entries, for this reader. The order is that of the positions.
pub(crate) fn states_in(group: &Group, upto: usize, reader: &(String, u64)) -> Vec<MessageState> {
    let entries = &group.entries[..upto];
    let mut made: Vec<Vec<&Entry>> = vec![Vec::new(); upto];
    for (seq, entry) in (1..).zip(entries) {
        let envelope = &entry.envelope;
        let Some(target) = about(envelope) else { continue };
        let found = entries.get((target.seq as usize).wrapping_sub(1)).filter(|_| target.seq < seq);
        let Some(found) = found.filter(|found| found.envelope.id == target.id) else { continue };
        let by_author = found.envelope.sender == envelope.sender;
        let leads = group.may_lead(seq, &envelope.sender);
        let counts = match body(envelope) {
            Some(Body::Edit(_)) => by_author,
            Some(Body::Recall(_)) => by_author || leads,
            Some(Body::Pin(_)) => leads,
            _ => true,
        };
        if counts {
            made[target.seq as usize - 1].push(entry);
        }
    }
    made.into_iter().zip(entries).map(|(of_one, entry)| state(&of_one, entry, reader)).collect()
}

/// True for what only the author of a message makes of it, in a conversation of two.
fn is_of_author(envelope: &Envelope) -> bool {
    matches!(body(envelope), Some(Body::Edit(_) | Body::Recall(_)))
}

/// The state of a message, made of the messages about it, from the earliest on.
fn state(made: &[&Entry], target: &Entry, reader: &(String, u64)) -> MessageState {
    let is = |wanted: fn(&Body) -> bool| {
        made.iter().map(|entry| &entry.envelope).filter(move |envelope| body(envelope).is_some_and(wanted))
    };
    if let Some(recall) = is(|body| matches!(body, Body::Recall(_))).next_back() {
        return MessageState { recall: Some(recall.clone()), ..MessageState::default() };
    }
    let edits: Vec<_> = is(|body| matches!(body, Body::Edit(_))).collect();
    // By sender: which of its accounts, and what it said last.
    let mut chosen: BTreeMap<&str, (u64, &[String])> = BTreeMap::new();
    let mut voted: BTreeMap<&str, (u64, &[u32])> = BTreeMap::new();
    let mut pinned = false;
    for entry in made {
        let sender = &*entry.envelope.sender;
        match body(&entry.envelope) {
            Some(Body::Reaction(reaction)) => _ = chosen.insert(sender, (entry.by, &reaction.emojis[..])),
            Some(Body::Vote(vote)) => _ = voted.insert(sender, (entry.by, &vote.options[..])),
            Some(Body::Pin(pin)) => pinned = !pin.unpin,
            _ => {}
        }
    }
    let mut counts: BTreeMap<&String, u32> = BTreeMap::new();
    chosen.values().flat_map(|(_, emojis)| *emojis).for_each(|emoji| *counts.entry(emoji).or_default() += 1);
    let own_reactions = chosen.get(&*reader.0).filter(|(by, _)| *by == reader.1);
    MessageState {
        edit: edits.last().map(|edit| (**edit).clone()),
        edits: edits.len() as u32,
        reactions: counts.into_iter().map(|(emoji, users)| ReactionCount { emoji: emoji.clone(), users }).collect(),
        own_reactions: own_reactions.map(|(_, emojis)| emojis.to_vec()).unwrap_or_default(),
        pinned,
        poll: tally(target, &voted, reader),
        ..MessageState::default()
    }
}

/// `None`: nobody has voted.
fn tally(target: &Entry, voted: &BTreeMap<&str, (u64, &[u32])>, reader: &(String, u64)) -> Option<PollTally> {
    let Some(Body::Poll(poll)) = body(&target.envelope) else { return None };
    let voters = voted.values().filter(|(_, votes)| !votes.is_empty()).count() as u32;
    let mut votes = vec![0; poll.options.len()];
    voted.values().flat_map(|(_, votes)| *votes).for_each(|vote| votes[*vote as usize] += 1);
    let own = voted.get(&*reader.0).filter(|(by, _)| *by == reader.1).map(|(_, votes)| votes.to_vec());
    (voters > 0).then(|| PollTally { votes, voters, own: own.unwrap_or_default() })
}

impl World<'_> {
    /// Histories show of each message what has become of it.
    pub(crate) fn check_references(&mut self) -> Result<(), String> {
        for user in (0..self.scenario.users).map(user_name) {
            let incarnation = self.model.owner(&user).ok_or_else(|| format!("{user} is still deleted"))?;
            if let Some(inbox) = self.model.inboxes.get(&(user.clone(), incarnation)) {
                let timeline = TimelineId::Inbox(UserId::new(&user).expect("valid"));
                let read = ReadTimeline { incarnation, ..reads_states(&timeline) };
                self.report.annotated +=
                    check_states(&user, &self.history(&timeline, read)?, &states(&inbox.entries, &user))?;
            }
            for (name, group) in self.model.groups.0.iter().filter(|(_, group)| group.is_member(&user)) {
                let timeline = TimelineId::Group(GroupId::new(name).expect("valid"));
                let reader = Some(Person { user: user.clone(), incarnation });
                let read = ReadTimeline { reader, ..reads_states(&timeline) };
                let expected = states_in(group, group.entries.len(), &(user.clone(), incarnation));
                self.report.annotated_in_groups += check_states(&user, &self.history(&timeline, read)?, &expected)?;
            }
        }
        Ok(())
    }

    fn history(&self, timeline: &TimelineId, read: ReadTimeline) -> Result<Vec<StoredEntry>, String> {
        match self.cluster.read(MAP.timeline_of(timeline), &Op::ReadTimeline(read)) {
            Outcome::TimelineRead(TimelineRead { entries, .. }) => Ok(entries),
            other => Err(format!("{timeline} can't be read: {other:?}")),
        }
    }
}

fn reads_states(timeline: &TimelineId) -> ReadTimeline {
    ReadTimeline { timeline: Some(timeline.to_key()), states: true, max_bytes: u32::MAX, ..ReadTimeline::default() }
}

/// The number of messages about which there is something. `expected`: of all positions, from the first one on.
fn check_states(user: &str, read: &[StoredEntry], expected: &[MessageState]) -> Result<u64, String> {
    let mut annotated = 0;
    for entry in read {
        let expected = &expected[entry.seq as usize - 1];
        let mut found = MessageState::decode(entry.state.clone()).map_err(|error| error.to_string())?;
        found.reactions.sort_by(|a, b| a.emoji.cmp(&b.emoji));
        if found != *expected {
            return Err(format!("{user} is shown of message {} {found:?}, not {expected:?}", entry.seq));
        }
        annotated += u64::from(*expected != MessageState::default());
    }
    Ok(annotated)
}
