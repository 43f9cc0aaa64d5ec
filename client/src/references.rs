//! Messages that refer to messages.

use carillon_proto::{
    TimelineId,
    pb::client::{
        Accepted, Content, Edit, Envelope, Fetch, ForwardedFrom, MessageRef, MessageState, Page, Pin, Poll, Reaction,
        Recall, Recipient, ReplyTo, Vote, content::Body, recipient::To,
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
    ///
    /// The answer stands in the conversation; [`Target::continued_by`] puts it into a thread.
    #[must_use]
    pub fn answered_by(&self, content: Content, quote: &str) -> Content {
        let quote = if self.message.expires_at_ms == 0 { quote } else { "" };
        let reply_to = ReplyTo { message: Some(self.message.clone()), quote: quote.to_owned() };
        Content { reply_to: Some(Box::new(reply_to)), ..content }
    }

    /// The content as one of the thread that this message begins.
    #[must_use]
    pub fn continued_by(&self, content: Content) -> Content {
        Content { thread: Some(Box::new(self.message.clone())), ..content }
    }
}

/// For services with the feature `references`.
impl Client {
    /// Says the own message otherwise. The content replaces all of it, also its mentions.
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

    /// The content of a message as it is now: that of its last edit, if there is one. `state`: that of its entry. `None`: it was recalled or
    /// erased, has expired, or is the change of a group.
    pub fn content_now<'a>(envelope: &'a Envelope, state: Option<&'a MessageState>) -> Option<&'a Content> {
        if envelope.erased || state.is_some_and(|state| state.recall.is_some()) {
            return None;
        }
        let edit = state.and_then(|state| state.edit.as_ref()).and_then(|edit| edit.content.as_ref());
        let edited = edit.and_then(|content| match content.body.as_ref()? {
            Body::Edit(edit) => edit.content.as_deref(),
            _ => None,
        });
        edited.or(envelope.content.as_ref())
    }

    /// The content of a message, to be forwarded: with its first author, without reply and mentions. `state`: that of its entry,
    /// by which an edited message is sent on as it is shown. `None`: it says nothing of its own, is a poll, is gone, or
    /// expires, because what is sent on would outlive it.
    pub fn forwarded(envelope: &Envelope, state: Option<&MessageState>) -> Option<Content> {
        if envelope.expires_at_ms != 0 {
            return None;
        }
        let said = Self::content_now(envelope, state)?;
        let body = said.body.as_ref().filter(|body| match body {
            Body::Text(_)
            | Body::Image(_)
            | Body::Audio(_)
            | Body::Video(_)
            | Body::File(_)
            | Body::Location(_)
            | Body::Custom(_) => true,
            Body::Edit(_) | Body::Recall(_) | Body::Reaction(_) | Body::Pin(_) | Body::Poll(_) | Body::Vote(_) => false,
        })?;
        let Envelope { id, sender, time_ms, .. } = envelope;
        let from = || ForwardedFrom { sender: sender.clone(), id: id.clone(), time_ms: *time_ms };
        let forwarded_from = said.forwarded_from.clone().unwrap_or_else(|| Box::new(from()));
        Some(Content { body: Some(body.clone()), forwarded_from: Some(forwarded_from), ..Content::default() })
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
    fn what_is_sent_on_is_what_is_shown_by_the_name_of_who_wrote_it_first() {
        let (bob, target) = (Client::user("bob"), MessageRef { id: "id".into(), ..MessageRef::default() });
        let target = Target { to: bob, message: target };
        let answer = target.answered_by(Client::text("yes"), "tea?");
        let envelope = Envelope { id: "1".into(), sender: "bob".into(), time_ms: 7, ..Envelope::default() };
        let said = Envelope { content: Some(answer), ..envelope.clone() };
        let on = Client::forwarded(&said, None).expect("says something");
        let from = ForwardedFrom { sender: "bob".into(), id: "1".into(), time_ms: 7 };
        let expected = Content { forwarded_from: Some(Box::new(from)), ..Client::text("yes") };
        assert_eq!(on, expected);
        let again = Envelope { id: "2".into(), sender: "carol".into(), content: Some(on), ..envelope.clone() };
        assert_eq!(Client::forwarded(&again, None), Some(expected.clone()), "by the first name");

        let edit = Edit { target: None, content: Some(Box::new(Client::text("no"))) };
        let edit = Content { body: Some(Body::Edit(Box::new(edit))), ..Content::default() };
        let edit = Envelope { content: Some(edit), ..Envelope::default() };
        let state = MessageState { edit: Some(edit.clone()), ..MessageState::default() };
        let edited = Client::forwarded(&said, Some(&state)).expect("says something");
        assert_eq!(edited, Content { forwarded_from: expected.forwarded_from, ..Client::text("no") });

        let recalled = MessageState { recall: Some(Envelope::default()), ..MessageState::default() };
        let poll = Envelope { content: Some(Client::poll(Poll::default())), ..envelope };
        assert_eq!(Client::forwarded(&said, Some(&recalled)), None);
        assert_eq!(Client::forwarded(&Envelope { expires_at_ms: 9, ..said.clone() }, None), None);
        assert_eq!(Client::forwarded(&Envelope { erased: true, ..said }, None), None);
        assert_eq!((Client::forwarded(&poll, None), Client::forwarded(&edit, None)), (None, None));
    }

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
