//! One conversation: its messages, how far it is read, and what the user wants of it.

use std::collections::{BTreeMap, BTreeSet};

use carillon_client::Client;
use carillon_proto::{
    GroupId, Position, TimelineId, UserId,
    pb::client::{
        ConversationSettings, Envelope, Mentions, MessageRef, MessageRequest, MessageState, Recipient, UserMark,
        content::Body, recipient::To,
    },
};

use crate::text;

/// Whom the user talks with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum With {
    User(UserId),
    Group(GroupId),
}

impl With {
    pub(crate) fn of(recipient: &Recipient) -> Option<Self> {
        match recipient.to.as_ref()? {
            To::User(user) => UserId::new(user).ok().map(Self::User),
            To::Group(group) => GroupId::new(group).ok().map(Self::Group),
        }
    }

    /// The conversation of a message in a timeline of this user.
    pub(crate) fn of_message(timeline: &TimelineId, envelope: &Envelope, user: &UserId) -> Option<Self> {
        match timeline {
            TimelineId::Group(group) => Some(Self::Group(group.clone())),
            TimelineId::Inbox(_) if envelope.sender == user.as_str() && envelope.change.is_none() => {
                Self::of(envelope.to.as_ref()?)
            }
            // News of a membership are the group's.
            TimelineId::Inbox(_) if envelope.change.is_some() => None,
            TimelineId::Inbox(_) => UserId::new(&envelope.sender).ok().map(Self::User),
        }
    }

    pub(crate) fn recipient(&self) -> Recipient {
        let to = match self {
            Self::User(user) => To::User(user.to_string()),
            Self::Group(group) => To::Group(group.to_string()),
        };
        Recipient { to: Some(to) }
    }

    /// Where its messages are.
    pub(crate) fn timeline(&self, user: &UserId) -> TimelineId {
        match self {
            Self::User(_) => TimelineId::Inbox(user.clone()),
            Self::Group(group) => TimelineId::Group(group.clone()),
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::User(user) => user.as_str(),
            Self::Group(group) => group.as_str(),
        }
    }

    pub(crate) fn is_group(&self) -> bool {
        matches!(self, Self::Group(_))
    }
}

/// A message that has its position.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Said {
    /// How others refer to it, but for its position.
    pub(crate) message: MessageRef,
    pub(crate) time_ms: u64,
    pub(crate) text: String,
    /// A line below the message: edited, pinned, reactions.
    pub(crate) about: String,
    pub(crate) has_file: bool,
    pub(crate) is_poll: bool,
    pub(crate) mentions: Option<Box<Mentions>>,
    /// Nothing can be said about it any more.
    pub(crate) is_gone: bool,
}

impl Said {
    pub(crate) fn of(envelope: &Envelope, state: Option<&MessageState>) -> Self {
        let Envelope { id, sender, sender_device, client_id, time_ms, expires_at_ms, .. } = envelope;
        let message = MessageRef {
            id: id.clone(),
            sender: sender.clone(),
            sender_device: sender_device.clone(),
            client_id: client_id.clone(),
            seq: 0,
            expires_at_ms: *expires_at_ms,
        };
        let (text, about) = text::of(envelope, state);
        let body = envelope.content.as_ref().and_then(|content| content.body.as_ref());
        let has_file = matches!(body, Some(Body::Image(_) | Body::Audio(_) | Body::Video(_) | Body::File(_)));
        let is_poll = matches!(body, Some(Body::Poll(_)));
        let is_gone = envelope.erased || envelope.change.is_some() || state.is_some_and(|state| state.recall.is_some());
        let mentions = Client::content_now(envelope, state).and_then(|content| content.mentions.clone());
        Self { message, time_ms: *time_ms, text, about, has_file, is_poll, mentions, is_gone }
    }
}

/// The message that this one is about, if it says nothing of its own.
pub(crate) fn about(envelope: &Envelope) -> Option<&MessageRef> {
    match envelope.content.as_ref()?.body.as_ref()? {
        Body::Edit(edit) => edit.target.as_ref(),
        Body::Recall(recall) => recall.target.as_ref(),
        Body::Reaction(reaction) => reaction.target.as_ref(),
        Body::Pin(pin) => pin.target.as_ref(),
        Body::Vote(vote) => vote.target.as_ref(),
        _ => None,
    }
}

/// A message of this device without a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) client_id: String,
    pub(crate) text: String,
    pub(crate) has_file: bool,
    pub(crate) is_poll: bool,
    pub(crate) mentions: Option<Box<Mentions>>,
    /// Why it was not accepted.
    pub(crate) refused: Option<String>,
}

/// How far the others have what the user says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reached {
    Accepted,
    Delivered,
    Read,
}

#[derive(Debug, Default)]
pub(crate) struct Thread {
    pub(crate) said: BTreeMap<u64, Said>,
    pub(crate) pending: Vec<Pending>,
    pub(crate) unread: u64,
    /// Position of the newest message, also of one that is not in `said`.
    pub(crate) last_seq: u64,
    /// Up to here the user has read.
    pub(crate) read: Option<Position>,
    pub(crate) settings: ConversationSettings,
    /// Whether the user wants what a stranger has begun.
    pub(crate) request: MessageRequest,
    /// Of the other user: the ids of the last messages that it has read, and that have reached it.
    pub(crate) mark: UserMark,
    /// When messages in `said` expire, in milliseconds since 1970, and their positions.
    pub(crate) expiring: BTreeSet<(u64, u64)>,
}

impl Thread {
    /// A stranger has begun it, and the user has not accepted it.
    pub(crate) fn is_request(&self) -> bool {
        self.request != MessageRequest::Unspecified
    }

    /// Adds a message. False: it was known. `user`: the one of this terminal.
    pub(crate) fn put(&mut self, seq: u64, said: Said, user: &UserId) -> bool {
        self.last_seq = self.last_seq.max(seq);
        if said.message.expires_at_ms != 0 {
            self.expiring.insert((said.message.expires_at_ms, seq));
        }
        let is_gone = said.is_gone;
        let known = self.said.insert(seq, said);
        if is_gone && known.as_ref().is_some_and(|known| !known.is_gone) {
            self.gone(seq, user);
        }
        known.is_none()
    }

    /// The message at this position has nothing to be read any more.
    fn gone(&mut self, seq: u64, user: &UserId) {
        let is_unread = self.read.is_none_or(|read| read.seq < seq);
        if is_unread && self.said.get(&seq).is_some_and(|said| said.message.sender != user.as_str()) {
            self.unread = self.unread.saturating_sub(1);
        }
    }

    /// Position of the newest message that is shown.
    pub(crate) fn newest_seq(&self) -> u64 {
        self.said.last_key_value().map_or(0, |(seq, _)| *seq)
    }

    /// When the first of the messages that are shown expires.
    pub(crate) fn expires_at_ms(&self) -> Option<u64> {
        self.expiring.first().map(|(at_ms, _)| *at_ms)
    }

    /// Forgets what messages said whose time is over.
    pub(crate) fn expire(&mut self, now_ms: u64, user: &UserId) {
        while let Some((_, seq)) = self.expiring.first().copied().filter(|(at_ms, _)| *at_ms <= now_ms) {
            self.expiring.pop_first();
            if let Some(said) = self.said.get_mut(&seq) {
                let was_there = !std::mem::replace(&mut said.is_gone, true);
                (said.text, said.about) = (text::EXPIRED.to_owned(), String::new());
                if was_there {
                    self.gone(seq, user);
                }
            }
        }
    }

    /// The message of this device has its position.
    pub(crate) fn accepted(&mut self, client_id: &str) -> Option<Pending> {
        let at = self.pending.iter().position(|pending| pending.client_id == client_id)?;
        Some(self.pending.remove(at))
    }

    /// The file of a message of this device is there: this is what it says.
    pub(crate) fn uploaded(&mut self, client_id: &str, text: String) {
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.client_id == client_id) {
            (pending.text, pending.has_file) = (text, true);
        }
    }

    pub(crate) fn refused(&mut self, client_id: &str, why: String) {
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.client_id == client_id) {
            pending.refused = Some(why);
        }
    }

    /// Forgets messages that were refused.
    pub(crate) fn forget_refused(&mut self) {
        self.pending.retain(|pending| pending.refused.is_none());
    }

    pub(crate) fn marked(&mut self, mark: &UserMark) {
        for (known, new) in [(&mut self.mark.read_id, &mark.read_id), (&mut self.mark.delivered_id, &mark.delivered_id)]
        {
            let (known_at, new_at) = (place(&self.said, known), place(&self.said, new));
            if new_at > known_at {
                known.clone_from(new);
            }
        }
    }

    /// How far the other user has the message of this position.
    pub(crate) fn reached(&self, seq: u64, id: &str) -> Reached {
        let is_behind = |mark: &str| !mark.is_empty() && (seq, id) <= place(&self.said, mark);
        if is_behind(&self.mark.read_id) {
            Reached::Read
        } else if is_behind(&self.mark.delivered_id) {
            Reached::Delivered
        } else {
            Reached::Accepted
        }
    }

    /// The newest message of others that is shown.
    pub(crate) fn newest_of_others(&self, user: &UserId) -> Option<u64> {
        self.said.iter().rev().find(|(_, said)| said.message.sender != user.as_str()).map(|(seq, _)| *seq)
    }

    /// The newest message of which this is so, and about which something can be said.
    pub(crate) fn newest_that(&self, is: impl Fn(&Said) -> bool) -> Option<u64> {
        self.said.iter().rev().find(|(_, said)| !said.is_gone && is(said)).map(|(seq, _)| *seq)
    }

    /// Where the message with this id stands.
    pub(crate) fn find(&self, id: &str) -> Option<u64> {
        self.said.iter().rev().find(|(_, said)| said.message.id == id).map(|(seq, _)| *seq)
    }
}

/// Where the message with this id stands: behind all that is known, if it is not among them and its id, which begins with the time, is
/// later.
fn place<'a>(said: &BTreeMap<u64, Said>, id: &'a str) -> (u64, &'a str) {
    let known = said.iter().rev().find(|(_, said)| said.message.id == id).map(|(seq, _)| *seq);
    let before = || said.iter().rev().find(|(_, said)| &*said.message.id < id).map_or(0, |(seq, _)| *seq);
    (known.unwrap_or_else(before), id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread() -> Thread {
        let mut thread = Thread::default();
        for (seq, id) in [(3, "A"), (5, "B"), (9, "C")] {
            let message = MessageRef { id: id.to_owned(), sender: "me".to_owned(), ..MessageRef::default() };
            let said = Said { message, time_ms: 1, text: String::new(), about: String::new(), ..Said::default() };
            assert!(thread.put(seq, said, &UserId::new("me").expect("valid")));
        }
        thread
    }

    fn mark(read_id: &str, delivered_id: &str) -> UserMark {
        UserMark { read_id: read_id.to_owned(), delivered_id: delivered_id.to_owned(), ..UserMark::default() }
    }

    fn all(thread: &Thread) -> Vec<Reached> {
        thread.said.iter().map(|(seq, said)| thread.reached(*seq, &said.message.id)).collect()
    }

    #[test]
    fn marks_reach_up_to_their_message_and_never_go_back() {
        use Reached::{Accepted, Delivered, Read};
        let mut thread = thread();
        assert_eq!(all(&thread), [Accepted, Accepted, Accepted]);
        thread.marked(&mark("A", "B"));
        assert_eq!(all(&thread), [Read, Delivered, Accepted]);
        thread.marked(&mark("", "A"));
        assert_eq!(all(&thread), [Read, Delivered, Accepted]);
        // A message that this device has not loaded, between two that it has.
        thread.marked(&mark("BB", "BB"));
        assert_eq!(all(&thread), [Read, Read, Accepted]);
        thread.marked(&mark("C", "C"));
        assert_eq!(all(&thread), [Read, Read, Read]);
    }
}
