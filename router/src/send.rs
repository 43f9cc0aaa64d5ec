//! The life of a message at the owner of its recipient. See docs/architecture.md, steps 2 to 5.

use bytes::Bytes;
use carillon_proto::{
    ClientId, DuplicateKey, EnvelopeParts, EnvelopeTo, Epoch, LeaseId, MessageId, ShardId, ShardMap, TimelineId,
    UserId, id_text, limits,
    pb::{
        client::{self, recipient::To},
        link::{Accepted, RawEnvelope, Send},
        store::{
            Append, Appended, ConversationsMoved, Header, Reference, TimelineCommand, TimelineKey, append::Admission,
            header::Kind, store_request::Op, timeline_command, timeline_key,
        },
    },
    trace,
};
use prost::Message as _;
use tokio::time::Instant;
use tracing::Span;

use crate::{
    recent_keys::RecentKeys,
    reply::{Failure, ReplySlot},
    store::StoreFailure,
};

/// A message that is being appended.
pub(crate) struct Sending {
    pub(crate) sender: UserId,
    pub(crate) recipient: UserId,
    /// The incarnation of the sender's account, according to the sender's session.
    pub(crate) incarnation: u64,
    /// The generation of the sender's session.
    generation: u64,
    /// The only incarnation of the recipient's account for which the message is; `None`: for whoever has the name.
    pub(crate) wanted_incarnation: Option<u64>,
    /// The incarnation of the recipient's account when the first append began.
    pub(crate) recipient_incarnation: u64,
    /// Whether the recipient takes messages of the sender.
    pub(crate) admission: Admission,
    /// The recipient has blocked the sender, and does not get it.
    pub(crate) withheld: bool,
    /// The recipient does not know the sender: nothing is told of what is delivered.
    pub(crate) in_request: bool,
    /// What the last append has made of the conversation.
    pub(crate) moved: Option<Box<ConversationsMoved>>,
    /// The recipient's name had a previous owner.
    pub(crate) is_remade: bool,
    /// The recipient was read again, because the cached account had ended.
    pub(crate) read_again: bool,
    key: DuplicateKey,
    /// What both appends hold, in one buffer.
    bytes: Shared,
    /// The client has used its id for a message to another recipient, too: the key in the sender's inbox includes the
    /// recipient.
    pub(crate) key_names_recipient: bool,
    /// The session wants to hear when a device of the recipient has it.
    pub(crate) wants_marks: bool,
    pub(crate) id: String,
    time_ms: u64,
    /// `None`: the message is plain.
    header: Option<Box<Header>>,
    /// The envelope in both inboxes, now or later.
    pub(crate) envelope: Bytes,
    /// The session that sent it.
    pub(crate) lease: LeaseId,
    pub(crate) connection: u64,
    pub(crate) deadline: Instant,
    /// When the current append was handed to the store.
    pub(crate) since: Instant,
    pub(crate) slot: ReplySlot,
    /// Open until the message is answered.
    _span: Option<Span>,
    pub(crate) traceparent: String,
}

/// Completes the key by which a message is found. One that is no key is refused by the store.
pub(crate) fn resolve(reference: &mut Reference, of_author: u64) {
    if let Ok(key) = <[u8; 16]>::try_from(&*reference.key) {
        reference.key = Bytes::copy_from_slice(&DuplicateKey(key).of_incarnation(of_author).0);
    }
}

/// The header of a message of this time that is shown for so long; 0: without end. An edit has the end of its message already.
pub(crate) fn expiring(header: Option<Box<Header>>, time_ms: u64, expires_after_ms: u64) -> Option<Box<Header>> {
    if expires_after_ms == 0 {
        return header;
    }
    let mut header = header.unwrap_or_else(|| Box::new(Header { countable: true, ..Header::default() }));
    header.expires_at_ms = time_ms.saturating_add(expires_after_ms);
    Some(header)
}

/// True if both are shown for as long, or until the same time as edits are.
pub(crate) fn ends_alike(own: &RawEnvelope, first: &RawEnvelope) -> bool {
    let shown_for_ms = |said: &RawEnvelope| said.expires_at_ms.saturating_sub(said.time_ms);
    own.expires_at_ms == first.expires_at_ms || shown_for_ms(own) == shown_for_ms(first)
}

/// True for a first message that is shown for a shorter time than this one asks for.
pub(crate) fn ends_earlier(first: &RawEnvelope, own: &RawEnvelope) -> bool {
    let shown_for_ms = |said: &RawEnvelope| said.expires_at_ms.saturating_sub(said.time_ms);
    first.expires_at_ms != 0 && (own.expires_at_ms == 0 || shown_for_ms(first) < shown_for_ms(own))
}

/// The context of a request. The answer's slot is kept apart so that a refusal can use it.
pub(crate) struct RequestContext {
    pub(crate) user: UserId,
    pub(crate) lease: LeaseId,
    pub(crate) link: u64,
    pub(crate) deadline: Instant,
    pub(crate) span: Option<Span>,
    pub(crate) slot: ReplySlot,
}

/// Small parts of the appends, in the buffer of the envelope: so they are made, and repeated, without a copy.
struct Shared {
    sender: Bytes,
    recipient: Bytes,
    key: Bytes,
    /// The key of the message that must precede this one; empty if none must.
    after: Bytes,
}

impl Shared {
    /// The encoded envelope, and the other parts.
    fn new(envelope: &EnvelopeParts<'_>, key: DuplicateKey, after: Option<DuplicateKey>) -> (Bytes, Self) {
        let (envelope_len, after) = (envelope.encoded_len(), after.as_ref().map_or(&[][..], |after| &after.0));
        let mut buffer = Vec::with_capacity(envelope_len + key.0.len() + after.len());
        let names = envelope.encode(&mut buffer);
        buffer.extend_from_slice(&key.0);
        buffer.extend_from_slice(after);
        let buffer = Bytes::from(buffer);
        let key_end = envelope_len + key.0.len();
        let shared = Self {
            sender: buffer.slice(names.sender),
            recipient: buffer.slice(names.recipient),
            key: buffer.slice(envelope_len..key_end),
            after: buffer.slice(key_end..),
        };
        (buffer.slice(..envelope_len), shared)
    }
}

impl Sending {
    /// Stamps the message. `time_ms`: the time of acceptance, if the gateway does not give one.
    pub(crate) fn new(
        send: Send,
        parts: RequestContext,
        keys: &mut RecentKeys,
        now: Instant,
        time_ms: u64,
    ) -> Result<Self, (ReplySlot, Failure)> {
        let RequestContext { user: recipient, lease, deadline, span, slot, .. } = parts;
        let mut named = || {
            let sender_device = id_text("device", &send.sender_device)?;
            let mut keys = keys.of(id_text("sender", &send.sender)?, send.incarnation, sender_device, &recipient)?;
            let client_id = id_text("client id", &send.client_id)?;
            let after = match id_text("client id of the message before", &send.after)? {
                "" => None,
                after => Some(keys.key_before(after)?),
            };
            let key = keys.key(ClientId::new(client_id)?);
            if send.content.len() > limits::MAX_FRAME_BYTES {
                return Err(Failure::TooLarge { bytes: send.content.len(), max: limits::MAX_FRAME_BYTES });
            }
            Ok::<_, Failure>((keys.sender, sender_device, client_id, key, after))
        };
        let (sender, sender_device, client_id, key, after) = match named() {
            Ok(named) => named,
            Err(failure) => return Err((slot, failure)),
        };
        let time_ms = if send.time_ms == 0 { time_ms } else { send.time_ms };
        let header = expiring(send.header, time_ms, send.expires_after_ms);
        // Includes the recipient: a client may use one id for several.
        let id = MessageId::of(time_ms, key.to(&recipient)).to_string();
        let envelope = EnvelopeParts {
            id: &id,
            sender: sender.as_str(),
            sender_device,
            recipient: EnvelopeTo::User(recipient.as_str()),
            client_id,
            time_ms,
            content: &send.content,
            change: &[],
            expires_at_ms: header.as_ref().map_or(0, |header| header.expires_at_ms),
        };
        let (envelope, bytes) = Shared::new(&envelope, key, after);
        Ok(Self {
            sender,
            recipient,
            incarnation: send.incarnation,
            generation: send.generation,
            wanted_incarnation: send.to_incarnation,
            recipient_incarnation: 0,
            admission: Admission::Unspecified,
            withheld: false,
            in_request: false,
            moved: None,
            is_remade: false,
            read_again: false,
            key,
            bytes,
            key_names_recipient: false,
            wants_marks: send.wants_marks,
            id,
            time_ms,
            header,
            envelope,
            lease,
            connection: send.connection,
            deadline,
            since: now,
            slot,
            traceparent: span.as_ref().map(trace::traceparent).unwrap_or_default(),
            _span: span,
        })
    }

    pub(crate) fn is_to_oneself(&self) -> bool {
        self.sender == self.recipient
    }

    /// True if the message takes back another one of the sender.
    pub(crate) fn takes_back(&self) -> bool {
        self.header.as_ref().is_some_and(|header| header.kind() == Kind::Recall)
    }

    /// The append to the recipient's inbox. It names the sender's session, and is refused if that is over by then.
    pub(crate) fn append_first(&self, shards: ShardMap) -> (ShardId, Op) {
        let append = self.append(&self.bytes.recipient, self.bytes.key.clone(), self.recipient_incarnation);
        let sender = self.bytes.sender.clone();
        let append = Append {
            sender,
            sender_generation: self.generation,
            peer_incarnation: self.incarnation,
            admission: self.admission.into(),
            ..append
        };
        Self::command(shards, append, &self.recipient)
    }

    /// The append to the sender's own inbox. If the message was withheld from the recipient's, this one decides what may be made of another
    /// message: a sender who is blocked is refused what it would be refused otherwise.
    pub(crate) fn append_second(&self, shards: ShardMap) -> (ShardId, Op) {
        let mut append = self.append_to_sender();
        if self.withheld {
            (append.sender, append.sender_generation) = (self.bytes.sender.clone(), self.generation);
        }
        Self::command(shards, append, &self.sender)
    }

    /// Asks whether the message is in the sender's own inbox already.
    pub(crate) fn look_for_first(&self, shards: ShardMap) -> (ShardId, Op) {
        Self::command(shards, Append { only_repeat: true, ..self.append_to_sender() }, &self.sender)
    }

    fn append_to_sender(&self) -> Append {
        let key = match self.key_names_recipient {
            true => Bytes::copy_from_slice(&self.key.to(&self.recipient).0),
            false => self.bytes.key.clone(),
        };
        let append = self.append(&self.bytes.sender, key, self.incarnation);
        let (peer, peer_incarnation) = (self.bytes.recipient.clone(), self.recipient_incarnation);
        Append { peer, peer_incarnation, ..append }
    }

    fn append(&self, owner: &Bytes, duplicate_key: Bytes, incarnation: u64) -> Append {
        Append {
            timeline: Some(TimelineKey { kind: timeline_key::Kind::Inbox.into(), owner: owner.clone() }),
            duplicate_key,
            time_ms: self.time_ms,
            envelope: self.envelope.clone(),
            new_epoch: Epoch::random().0,
            after_key: self.bytes.after.clone(),
            incarnation,
            header: self.header(),
            ..Append::default()
        }
    }

    /// The header for the store, which knows a message by its author's incarnation, too.
    fn header(&self) -> Option<Box<Header>> {
        let mut header = self.header.clone()?;
        if let Some(reference) = &mut header.refers_to {
            let of_author = if reference.by_sender { self.incarnation } else { self.recipient_incarnation };
            resolve(reference, of_author);
        }
        Some(header)
    }

    fn command(shards: ShardMap, append: Append, owner: &UserId) -> (ShardId, Op) {
        let shard = shards.timeline_of_owner(owner.as_str());
        (shard, Op::Timeline(TimelineCommand { op: Some(timeline_command::Op::Append(append)) }))
    }

    /// If this is a repeat, the message is what the first attempt wrote.
    pub(crate) fn adopt(&mut self, appended: &Appended) -> Result<(), Failure> {
        if appended.first_envelope.is_empty() || appended.first_envelope == self.envelope {
            return Ok(());
        }
        let first = RawEnvelope::decode(appended.first_envelope.clone())
            .map_err(|_| Failure::Store(StoreFailure::Unexpected))?;
        let to = first.to.as_ref().and_then(|to| to.to.as_ref());
        if !matches!(to, Some(To::User(user)) if user == self.recipient.as_str()) {
            return Err(Failure::ReusedElsewhere);
        }
        // Decoded only here, for repeats. The own envelope was made by this service.
        let own = RawEnvelope::decode(self.envelope.clone()).map_err(|_| Failure::Store(StoreFailure::Unexpected))?;
        // A message that was taken back for good meanwhile is still the same one.
        let is_same = own.content == first.content && ends_alike(&own, &first);
        if !first.erased && !is_same {
            return Err(Failure::Reused);
        }
        self.id = first.id;
        self.time_ms = first.time_ms;
        if let Some(header) = self.header.as_mut().filter(|header| header.expires_at_ms != 0) {
            header.expires_at_ms = first.expires_at_ms;
        }
        self.envelope = appended.first_envelope.clone();
        Ok(())
    }

    /// The answer, with the position in the sender's inbox. Takes the id.
    pub(crate) fn accepted(&mut self, position: client::Position) -> Accepted {
        Accepted {
            message_id: std::mem::take(&mut self.id),
            timeline: Some(TimelineId::Inbox(self.sender.clone()).to_client()),
            position: Some(position),
            time_ms: self.time_ms,
            expires_at_ms: self.header.as_ref().map_or(0, |header| header.expires_at_ms),
        }
    }
}
