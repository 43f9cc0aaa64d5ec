//! What devices make of messages that they were shown, and what histories must show of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use carillon_proto::{
    TimelineId, UserId,
    pb::{
        client::{
            Content, Edit, Envelope, MessageRef, MessageState, Reaction, ReactionCount, Recall, Text, content::Body,
        },
        store::{ReadTimeline, TimelineRead, store_reply::Result as Outcome, store_request::Op},
    },
};
use prost::Message as _;

use crate::{
    clients::user_name,
    model::{Entry, Inbox, recipient_of},
    random::Random,
    store::MAP,
    world::World,
};

/// So many messages a device remembers.
const REMEMBERED: usize = 16;
const EMOJIS: [&[&str]; 4] = [&["x"], &["y"], &["x", "y"], &[]];

/// Messages between two users that a device knows.
#[derive(Default)]
pub(crate) struct Known {
    /// With the other user.
    messages: VecDeque<(String, MessageRef)>,
    /// Of the device's own sends: those that are about another message.
    about: BTreeSet<String>,
}

impl Known {
    /// A message that the device was shown in its own inbox.
    pub(crate) fn shown(&mut self, own: &str, envelope: &Envelope) {
        let Some(Body::Text(_)) = body(envelope).filter(|_| !envelope.erased) else { return };
        let recipient = recipient_of(envelope);
        let with = if envelope.sender == own { recipient } else { envelope.sender.clone() };
        let Envelope { id, sender, sender_device, client_id, expires_at_ms, .. } = envelope.clone();
        self.remember(with, MessageRef { id, sender, sender_device, client_id, seq: 0, expires_at_ms });
    }

    /// An own message that was accepted.
    pub(crate) fn sent(&mut self, own: &str, device: &str, client_id: &str, id: &str) {
        let with = client_id.split('-').next().and_then(|to| to.parse().ok()).map(user_name);
        if let Some(with) = with.filter(|_| !self.about.contains(client_id)) {
            let (sender, sender_device) = (own.to_owned(), device.to_owned());
            let (id, client_id) = (id.to_owned(), client_id.to_owned());
            self.remember(with, MessageRef { id, sender, sender_device, client_id, ..MessageRef::default() });
        }
    }

    fn remember(&mut self, with: String, message: MessageRef) {
        if self.messages.len() == REMEMBERED {
            self.messages.pop_front();
        }
        self.messages.push_back((with, message));
    }

    /// What the device says to this user: mostly something new.
    pub(crate) fn says(&mut self, own: &str, to: &str, client_id: &str, random: &mut Random) -> Content {
        // Mostly it would be too late for one that expires.
        let mut is_meant = |message: &MessageRef| message.expires_at_ms == 0 || random.in_thousand(200);
        let of_pair = self.messages.iter().filter(|(with, _)| with == to).map(|(_, message)| message);
        let of_pair: Vec<_> = of_pair.filter(|message| is_meant(message)).collect();
        if of_pair.is_empty() || !random.in_thousand(350) {
            return text(client_id);
        }
        let target = of_pair[random.index(of_pair.len())].clone();
        let (is_own, is_passing) = (target.sender == own, target.expires_at_ms != 0);
        self.about.insert(client_id.to_owned());
        let target = Some(target);
        // Sometimes what only the author may do.
        let body = match random.below(10) {
            0..4 if (is_own || random.in_thousand(200)) && !is_passing => {
                Body::Edit(Box::new(Edit { target, content: Some(Box::new(text(client_id))) }))
            }
            4 if is_own || random.in_thousand(200) => Body::Recall(Recall { target, erase: false }),
            _ => {
                let emojis = EMOJIS[random.index(EMOJIS.len())].iter().map(|emoji| (*emoji).to_owned()).collect();
                Body::Reaction(Reaction { target, emojis })
            }
        };
        Content { body: Some(body), ..Content::default() }
    }
}

pub(crate) fn text(body: &str) -> Content {
    Content { body: Some(Body::Text(Text { body: body.to_owned() })), ..Content::default() }
}

/// True for a message that counts as unread.
pub(crate) fn is_countable(envelope: &Envelope) -> bool {
    about(envelope).is_none()
}

fn body(envelope: &Envelope) -> Option<&Body> {
    envelope.content.as_ref()?.body.as_ref()
}

/// What the message is about.
fn about(envelope: &Envelope) -> Option<&MessageRef> {
    match body(envelope)? {
        Body::Edit(edit) => edit.target.as_ref(),
        Body::Recall(recall) => recall.target.as_ref(),
        Body::Reaction(reaction) => reaction.target.as_ref(),
        _ => None,
    }
}

fn pair(envelope: &Envelope) -> [String; 2] {
    let mut users = [envelope.sender.clone(), recipient_of(envelope)];
    users.sort();
    users
}

/// What has become of each message of the inbox, made of nothing but the messages in it.
fn states(inbox: &Inbox, owner: &str) -> Vec<MessageState> {
    let mut made: Vec<Vec<&Envelope>> = vec![Vec::new(); inbox.entries.len()];
    for (at, entry) in inbox.entries.iter().enumerate() {
        let envelope = &entry.envelope;
        let Some(target) = about(envelope) else { continue };
        let is_meant =
            |other: &Envelope| other.id == target.id && other.change.is_none() && pair(other) == pair(envelope);
        let found = inbox.entries[..at].iter().position(|other| is_meant(&other.envelope));
        let by_author = found.is_some_and(|found| inbox.entries[found].envelope.sender == envelope.sender);
        // Nobody else's edit or recall counts.
        if let Some(found) = found.filter(|_| by_author || matches!(body(envelope), Some(Body::Reaction(_)))) {
            made[found].push(envelope);
        }
    }
    for of_one in &mut made {
        of_one.sort_by(|a, b| (a.time_ms, &a.id).cmp(&(b.time_ms, &b.id)));
    }
    // Nothing is said about a message that is gone.
    let shown = |(of_one, entry): (Vec<&Envelope>, &Entry)| match entry.is_gone {
        true => MessageState::default(),
        false => state(&of_one, owner),
    };
    made.into_iter().zip(&inbox.entries).map(shown).collect()
}

/// Of a message that these are about, from the earliest on.
fn state(made: &[&Envelope], owner: &str) -> MessageState {
    let is = |wanted: fn(&Body) -> bool| made.iter().filter(move |envelope| body(envelope).is_some_and(wanted));
    if let Some(recall) = is(|body| matches!(body, Body::Recall(_))).next_back() {
        return MessageState { recall: Some((*recall).clone()), ..MessageState::default() };
    }
    let edits: Vec<_> = is(|body| matches!(body, Body::Edit(_))).collect();
    let mut chosen: BTreeMap<&str, &[String]> = BTreeMap::new();
    for envelope in made {
        if let Some(Body::Reaction(reaction)) = body(envelope) {
            chosen.insert(&envelope.sender, &reaction.emojis);
        }
    }
    let mut counts: BTreeMap<&String, u32> = BTreeMap::new();
    chosen.values().copied().flatten().for_each(|emoji| *counts.entry(emoji).or_default() += 1);
    MessageState {
        edit: edits.last().map(|edit| (**edit).clone()),
        edits: edits.len() as u32,
        reactions: counts.into_iter().map(|(emoji, users)| ReactionCount { emoji: emoji.clone(), users }).collect(),
        own_reactions: chosen.get(owner).map(|emojis| emojis.to_vec()).unwrap_or_default(),
        ..MessageState::default()
    }
}

impl World<'_> {
    /// Histories show of each message what has become of it.
    pub(crate) fn check_references(&mut self) -> Result<(), String> {
        for user in (0..self.scenario.users).map(user_name) {
            let incarnation = self.model.owner(&user).ok_or_else(|| format!("{user} is still deleted"))?;
            let Some(inbox) = self.model.inboxes.get(&(user.clone(), incarnation)) else { continue };
            let timeline = TimelineId::Inbox(UserId::new(&user).expect("valid"));
            let op = ReadTimeline {
                timeline: Some(timeline.to_key()),
                incarnation,
                states: true,
                max_bytes: u32::MAX,
                ..ReadTimeline::default()
            };
            let read = match self.cluster.read(MAP.timeline_of(&timeline), &Op::ReadTimeline(op)) {
                Outcome::TimelineRead(TimelineRead { entries, .. }) => entries,
                other => return Err(format!("the inbox of {user} can't be read: {other:?}")),
            };
            for (entry, expected) in read.iter().zip(states(inbox, &user)) {
                let mut found = MessageState::decode(entry.state.clone()).map_err(|error| error.to_string())?;
                found.reactions.sort_by(|a, b| a.emoji.cmp(&b.emoji));
                if found != expected {
                    let seq = entry.seq;
                    return Err(format!("{user} is shown of message {seq} {found:?}, not {expected:?}"));
                }
                self.report.annotated += u64::from(expected != MessageState::default());
            }
        }
        Ok(())
    }
}
