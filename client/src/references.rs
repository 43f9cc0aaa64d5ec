//! Messages that refer to messages.

use carillon_proto::{
    TimelineId,
    pb::client::{
        Accepted, Content, Edit, Envelope, Fetch, MessageRef, Page, Pin, Poll, Reaction, Recall, Recipient, ReplyTo,
        Vote, content::Body, recipient::To,
    },
};

use crate::{
    Client, FetchError, SendError,
    fetches::{Found, Query},
};

/// A message to which others refer.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Where messages about it go: to the other user of the conversation, or to the group.
    pub to: Recipient,
    pub message: MessageRef,
}

impl Target {
    /// A message as it stands in a timeline; `None` for the change of a group, which nothing refers to.
    pub fn of(timeline: &TimelineId, seq: u64, envelope: &Envelope) -> Option<Self> {
        let Envelope { id, sender, sender_device, to, client_id, change: None, expires_at_ms, .. } = envelope else {
            return None;
        };
        let (to, seq) = match (timeline, to.as_ref()?.to.as_ref()?) {
            (TimelineId::Group(group), _) => (Client::group(group.as_str()), seq),
            (TimelineId::Inbox(own), To::User(to)) if sender == own.as_str() => (Client::user(to), 0),
            (TimelineId::Inbox(_), To::User(_)) => (Client::user(sender), 0),
            (TimelineId::Inbox(_), To::Group(_)) => return None,
        };
        let message = MessageRef {
            id: id.clone(),
            sender: sender.clone(),
            sender_device: sender_device.clone(),
            client_id: client_id.clone(),
            seq,
            expires_at_ms: *expires_at_ms,
        };
        Some(Self { to, message })
    }

    /// The content as an answer to this message. `quote`: what is shown of it. Left out of an answer to a message that expires: a quote would
    /// outlive it.
    #[must_use]
    pub fn answered_by(&self, content: Content, quote: &str) -> Content {
        let quote = if self.message.expires_at_ms == 0 { quote } else { "" };
        let reply_to = ReplyTo { message: Some(self.message.clone()), quote: quote.to_owned() };
        Content { reply_to: Some(Box::new(reply_to)), ..content }
    }
}

/// For services with the feature `references`.
impl Client {
    /// Says the own message otherwise.
    pub async fn edit(&self, target: &Target, content: Content) -> Result<Accepted, SendError> {
        let edit = |message| Body::Edit(Box::new(Edit { target: message, content: Some(Box::new(content)) }));
        self.refer(target, edit).await
    }

    /// Takes a message back. `erase`: also from the service, for good.
    pub async fn recall(&self, target: &Target, erase: bool) -> Result<Accepted, SendError> {
        self.refer(target, |message| Body::Recall(Recall { target: message, erase })).await
    }

    /// Sets all of the user's reactions to the message; none: there are none any more.
    pub async fn react(&self, target: &Target, emojis: &[&str]) -> Result<Accepted, SendError> {
        let emojis = emojis.iter().map(|emoji| (*emoji).to_owned()).collect();
        self.refer(target, |message| Body::Reaction(Reaction { target: message, emojis })).await
    }

    pub async fn pin(&self, target: &Target) -> Result<Accepted, SendError> {
        self.refer(target, |message| Body::Pin(Pin { target: message, unpin: false })).await
    }

    pub async fn unpin(&self, target: &Target) -> Result<Accepted, SendError> {
        self.refer(target, |message| Body::Pin(Pin { target: message, unpin: true })).await
    }

    /// Sets all of the user's votes in the poll, by the numbers of its options from 0 on.
    pub async fn vote(&self, target: &Target, options: &[u32]) -> Result<Accepted, SendError> {
        let options = options.to_vec();
        self.refer(target, |message| Body::Vote(Vote { target: message, options })).await
    }

    pub fn poll(poll: Poll) -> Content {
        Content { body: Some(Body::Poll(poll)), ..Content::default() }
    }

    /// The earlier contents of the message at this position, edit by edit, if the service shows them. From position `from_seq` on, because the
    /// size of a page is limited.
    pub async fn edits(&self, timeline: &TimelineId, seq: u64, from_seq: u64) -> Result<Page, FetchError> {
        let timeline = Some(timeline.to_client());
        let fetch = Fetch { timeline, edits_of: seq, from_seq, ..Fetch::default() };
        match self.find(Query::Page(fetch)).await? {
            Found::Page(page) => Ok(page),
            _ => Err(FetchError::OtherAnswer),
        }
    }

    /// The messages that are pinned in this conversation, by position, from `from_seq` on. `timeline`: the own inbox for a conversation with
    /// a user, or that of the group.
    pub async fn pinned(&self, timeline: &TimelineId, with: Recipient, from_seq: u64) -> Result<Page, FetchError> {
        let timeline = Some(timeline.to_client());
        let fetch = Fetch { timeline, pinned_in: Some(with), from_seq, ..Fetch::default() };
        match self.find(Query::Page(fetch)).await? {
            Found::Page(page) => Ok(page),
            _ => Err(FetchError::OtherAnswer),
        }
    }

    async fn refer(
        &self,
        target: &Target,
        body: impl FnOnce(Option<MessageRef>) -> Body,
    ) -> Result<Accepted, SendError> {
        let body = Some(body(Some(target.message.clone())));
        self.send(target.to.clone(), Content { body, ..Content::default() }).await
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::{GroupId, UserId, pb::client::GroupChange};

    use super::*;

    #[test]
    fn a_target_is_named_by_its_envelope_and_goes_to_its_conversation() {
        let envelope = |sender: &str, to: Recipient| Envelope {
            id: "id".into(),
            sender: sender.into(),
            sender_device: "phone".into(),
            to: Some(to),
            client_id: "c".into(),
            ..Envelope::default()
        };
        let inbox = TimelineId::Inbox(UserId::new("alice").expect("valid"));
        let club = TimelineId::Group(GroupId::new("club").expect("valid"));
        let message = |sender: &str, seq| MessageRef {
            id: "id".into(),
            sender: sender.into(),
            sender_device: "phone".into(),
            client_id: "c".into(),
            seq,
            expires_at_ms: 0,
        };
        for (timeline, envelope, to, message) in [
            (&inbox, envelope("alice", Client::user("bob")), Client::user("bob"), message("alice", 0)),
            (&inbox, envelope("bob", Client::user("alice")), Client::user("bob"), message("bob", 0)),
            (&club, envelope("bob", Client::group("club")), Client::group("club"), message("bob", 7)),
        ] {
            assert_eq!(Target::of(timeline, 7, &envelope), Some(Target { to, message }));
        }
        assert_eq!(Target::of(&inbox, 7, &envelope("bob", Client::group("club"))), None, "of a membership");
        let passing = Envelope { expires_at_ms: 7, ..envelope("bob", Client::user("alice")) };
        let target = Target::of(&inbox, 7, &passing).expect("a message");
        assert_eq!(target.message.expires_at_ms, 7);
        let quote =
            |target: &Target| target.answered_by(Client::text("yes"), "secret").reply_to.map(|reply| reply.quote);
        assert_eq!(quote(&target).as_deref(), Some(""), "a quote would outlive it");
        let lasting = Target { message: MessageRef { expires_at_ms: 0, ..target.message.clone() }, ..target };
        assert_eq!(quote(&lasting).as_deref(), Some("secret"));
        let change = Some(Box::<GroupChange>::default());
        assert_eq!(Target::of(&club, 7, &Envelope { change, ..envelope("bob", Client::group("club")) }), None);
    }
}
