//! The life of a message at the owner of its recipient. See docs/architecture.md, steps 2 to 5.

use bytes::Bytes;
use carillon_proto::{
    ClientId, DeviceId, DuplicateKey, Epoch, LeaseId, MessageId, ShardId, ShardMap, TimelineId, UserId, limits,
    pb::{
        client::{self, Recipient, recipient::To},
        link::{Accepted, RawEnvelope, Send},
        store::{Append, Appended, TimelineCommand, store_request::Op, timeline_command},
    },
    trace,
};
use prost::Message as _;
use tokio::time::Instant;
use tracing::Span;

use crate::{
    recent_keys::RecentKeys,
    reply::{Failure, ReplySlot, Request},
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
    /// The incarnation of the recipient's account when the first append began.
    pub(crate) recipient_incarnation: u64,
    /// The recipient was read again, because the cached account had ended.
    pub(crate) read_again: bool,
    key: DuplicateKey,
    /// The client has used its id for a message to another recipient, too: the key in the sender's inbox includes the
    /// recipient.
    pub(crate) key_names_recipient: bool,
    /// The key of the message that must precede this one.
    after: Option<DuplicateKey>,
    id: String,
    time_ms: u64,
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

/// The context of a request. The answer's slot is kept apart so that a refusal can use it.
pub(crate) struct RequestContext {
    pub(crate) user: UserId,
    pub(crate) lease: LeaseId,
    pub(crate) link: u64,
    pub(crate) deadline: Instant,
    pub(crate) span: Option<Span>,
    pub(crate) slot: ReplySlot,
}

impl RequestContext {
    pub(crate) fn of(request: Request) -> (carillon_proto::pb::link::router_request::Op, Self) {
        let Request { user, op, lease, link, deadline, span, slot } = request;
        (op, Self { user, lease, link, deadline, span, slot })
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
            let sender = UserId::new(&send.sender)?;
            let device = DeviceId::new(&send.sender_device)?;
            let client_id = ClientId::new(&send.client_id)?;
            let mut keys = keys.of(&sender, send.incarnation, &device, &recipient);
            let after = match &*send.after {
                "" => None,
                after => Some(keys.key_before(&ClientId::new(after)?)),
            };
            let key = keys.key(client_id);
            if send.content.len() > limits::MAX_FRAME_BYTES {
                return Err(Failure::TooLarge { bytes: send.content.len(), max: limits::MAX_FRAME_BYTES });
            }
            Ok::<_, Failure>((sender, key, after))
        };
        let (sender, key, after) = match named() {
            Ok(named) => named,
            Err(failure) => return Err((slot, failure)),
        };
        let time_ms = if send.time_ms == 0 { time_ms } else { send.time_ms };
        // Includes the recipient: a client may use one id for several.
        let id = MessageId::of(time_ms, key.to(&recipient)).to_string();
        let envelope = RawEnvelope {
            id,
            sender: sender.as_str().to_owned(),
            sender_device: send.sender_device,
            to: Some(Recipient { to: Some(To::User(recipient.as_str().to_owned())) }),
            client_id: send.client_id,
            time_ms,
            content: send.content,
        };
        let encoded = envelope.encode_to_vec().into();
        Ok(Self {
            sender,
            recipient,
            incarnation: send.incarnation,
            generation: send.generation,
            recipient_incarnation: 0,
            read_again: false,
            key,
            key_names_recipient: false,
            after,
            id: envelope.id,
            time_ms,
            envelope: encoded,
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

    /// The append to the recipient's inbox. It names the sender's session, and is refused if that is over by then.
    pub(crate) fn append_first(&self, shards: ShardMap) -> (ShardId, Op) {
        let append = self.append(&self.recipient, self.recipient_incarnation);
        let sender = Bytes::copy_from_slice(self.sender.as_str().as_bytes());
        Self::command(shards, Append { sender, sender_generation: self.generation, ..append }, &self.recipient)
    }

    /// The append to the sender's own inbox.
    pub(crate) fn append_second(&self, shards: ShardMap) -> (ShardId, Op) {
        Self::command(shards, self.append(&self.sender, self.incarnation), &self.sender)
    }

    /// Asks whether the message is in the sender's own inbox already.
    pub(crate) fn look_for_first(&self, shards: ShardMap) -> (ShardId, Op) {
        let append = self.append(&self.sender, self.incarnation);
        Self::command(shards, Append { only_repeat: true, ..append }, &self.sender)
    }

    fn append(&self, owner: &UserId, incarnation: u64) -> Append {
        let key = match self.key_names_recipient && *owner == self.sender {
            true => self.key.to(&self.recipient),
            false => self.key,
        };
        Append {
            timeline: Some(TimelineId::Inbox(owner.clone()).to_key()),
            duplicate_key: Bytes::copy_from_slice(&key.0),
            time_ms: self.time_ms,
            envelope: self.envelope.clone(),
            new_epoch: Epoch::random().0,
            after_key: self.after.map(|after| Bytes::copy_from_slice(&after.0)).unwrap_or_default(),
            incarnation,
            ..Append::default()
        }
    }

    fn command(shards: ShardMap, append: Append, owner: &UserId) -> (ShardId, Op) {
        let shard = shards.timeline_of(&TimelineId::Inbox(owner.clone()));
        (shard, Op::Timeline(TimelineCommand { op: Some(timeline_command::Op::Append(append)) }))
    }

    /// If this is a repeat, the message is what the first attempt wrote.
    pub(crate) fn adopt(&mut self, appended: &Appended) -> Result<(), Failure> {
        if appended.first_envelope.is_empty() || appended.first_envelope == self.envelope {
            return Ok(());
        }
        let first = RawEnvelope::decode(appended.first_envelope.clone())
            .map_err(|_| Failure::Store(StoreFailure::Unexpected))?;
        let to = first.to.and_then(|to| to.to);
        if !matches!(to, Some(To::User(user)) if user == self.recipient.as_str()) {
            return Err(Failure::ReusedElsewhere);
        }
        // Decoded only here, for repeats. The own envelope was made by this service.
        let own = RawEnvelope::decode(self.envelope.clone()).map_err(|_| Failure::Store(StoreFailure::Unexpected))?;
        if own.content != first.content {
            return Err(Failure::Reused);
        }
        self.id = first.id;
        self.time_ms = first.time_ms;
        self.envelope = appended.first_envelope.clone();
        Ok(())
    }

    /// The answer, with the position in the sender's inbox.
    pub(crate) fn accepted(&self, position: client::Position) -> Accepted {
        Accepted {
            message_id: self.id.clone(),
            timeline: Some(TimelineId::Inbox(self.sender.clone()).to_client()),
            position: Some(position),
            time_ms: self.time_ms,
        }
    }
}
