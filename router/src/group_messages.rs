//! A message or a change on its way into a group's timeline: stamped once, appended once.

use bytes::Bytes;
use carillon_proto::{
    ClientId, DeviceId, DuplicateKey, EnvelopeMarks, EnvelopeParts, EnvelopeTo, Epoch, GroupId, LeaseId, MessageId,
    TimelineId, UserId, expiring_at, id_text, limits,
    pb::{
        client::{self, recipient::To},
        link::{Accepted, RawEnvelope},
        store::{Append, Appended, Header, append::Admission},
    },
    trace,
};
use prost::Message as _;
use tokio::time::Instant;
use tracing::Span;

use crate::{
    reply::{Failure, ReplySlot},
    send::{ends_alike, ends_earlier, expiring, resolve},
    store::StoreFailure,
};

/// The context of a request about a group.
pub(crate) struct GroupContext {
    pub(crate) group: GroupId,
    pub(crate) lease: LeaseId,
    pub(crate) deadline: Instant,
    pub(crate) span: Option<Span>,
    pub(crate) slot: ReplySlot,
}

/// The message and its sender, of a `link::Send` or a `link::ChangeGroup`.
pub(crate) struct Said<'a> {
    pub(crate) sender: &'a [u8],
    pub(crate) sender_device: &'a [u8],
    pub(crate) client_id: &'a [u8],
    /// Empty: it follows nothing.
    pub(crate) after: &'a [u8],
    pub(crate) connection: u64,
    pub(crate) incarnation: u64,
    pub(crate) generation: u64,
    pub(crate) time_ms: u64,
    pub(crate) content: &'a [u8],
    /// An encoded `client::GroupChange`.
    pub(crate) change: &'a [u8],
    pub(crate) header: Option<&'a Header>,
    /// As in `link::Send`.
    pub(crate) expires_after_ms: u64,
    pub(crate) to_incarnation: Option<u64>,
}

/// In a group only the author's own messages are known by their keys.
fn resolved(header: &Header, incarnation: u64) -> Header {
    let mut header = header.clone();
    if let Some(reference) = &mut header.refers_to {
        resolve(reference, incarnation);
    }
    header
}

/// An envelope that is being appended to a group's timeline.
pub(crate) struct GroupMessage {
    pub(crate) group: GroupId,
    pub(crate) sender: UserId,
    /// Of the sender's account and session.
    pub(crate) incarnation: u64,
    pub(crate) generation: u64,
    /// The sender's domain does not talk to the group's: the store takes a recall of an own message, and nothing else.
    pub(crate) is_beyond: bool,
    /// The only incarnation of the group for which the message is; `None`: for the group that there is.
    wanted_incarnation: Option<u64>,
    key: DuplicateKey,
    after: Option<DuplicateKey>,
    id: String,
    pub(crate) time_ms: u64,
    header: Option<Box<Header>>,
    pub(crate) envelope: Bytes,
    /// The session that sent it.
    pub(crate) lease: LeaseId,
    pub(crate) connection: u64,
    pub(crate) deadline: Instant,
    /// When the append was handed to the store.
    pub(crate) since: Instant,
    pub(crate) slot: ReplySlot,
    /// Open until the message is answered.
    _span: Option<Span>,
    pub(crate) traceparent: String,
}

impl GroupMessage {
    /// `time_ms`: the time of acceptance, if the gateway does not give one.
    pub(crate) fn new(
        said: &Said<'_>,
        parts: GroupContext,
        now: Instant,
        time_ms: u64,
    ) -> Result<Self, (ReplySlot, Failure)> {
        let GroupContext { group, lease, deadline, span, slot } = parts;
        let named = || {
            if said.content.len() > limits::MAX_FRAME_BYTES {
                return Err(Failure::TooLarge { bytes: said.content.len(), max: limits::MAX_FRAME_BYTES });
            }
            let sender = UserId::new(id_text("sender", said.sender)?)?;
            let device = DeviceId::new(id_text("device", said.sender_device)?)?;
            let client_id = ClientId::new(id_text("client id", said.client_id)?)?;
            let key = |id: &ClientId| DuplicateKey::new(&sender, &device, id).of_incarnation(said.incarnation);
            let after = match id_text("client id of the message before", said.after)? {
                "" => None,
                after => Some(key(&ClientId::new(after)?)),
            };
            let key = key(&client_id);
            Ok((sender, device, client_id, key, after))
        };
        let (sender, device, client_id, key, after) = match named() {
            Ok(named) => named,
            Err(failure) => return Err((slot, failure)),
        };
        let time_ms = if said.time_ms == 0 { time_ms } else { said.time_ms };
        let header = said.header.map(|header| Box::new(resolved(header, said.incarnation)));
        let header = expiring(header, time_ms, said.expires_after_ms);
        let id = MessageId::of(time_ms, key.to_group(&group)).to_string();
        let envelope = EnvelopeParts {
            id: &id,
            sender: sender.as_str(),
            sender_device: device.as_str(),
            recipient: EnvelopeTo::Group(group.as_str()),
            client_id: client_id.as_str(),
            time_ms,
            content: said.content,
            change: said.change,
            expires_at_ms: header.as_ref().map_or(0, |header| header.expires_at_ms),
        };
        let mut encoded = Vec::with_capacity(envelope.encoded_len());
        envelope.encode(&mut encoded);
        Ok(Self {
            group,
            sender,
            incarnation: said.incarnation,
            generation: said.generation,
            is_beyond: false,
            wanted_incarnation: said.to_incarnation,
            key,
            after,
            id,
            time_ms,
            header,
            envelope: encoded.into(),
            lease,
            connection: said.connection,
            deadline,
            since: now,
            slot,
            traceparent: span.as_ref().map(trace::traceparent).unwrap_or_default(),
            _span: span,
        })
    }

    pub(crate) fn timeline(&self) -> TimelineId {
        TimelineId::Group(self.group.clone())
    }

    pub(crate) fn append(&self) -> Append {
        let admission = if self.is_beyond { Admission::Refused } else { Admission::Unspecified };
        Append {
            timeline: Some(self.timeline().to_key()),
            duplicate_key: Bytes::copy_from_slice(&self.key.0),
            time_ms: self.time_ms,
            envelope: self.envelope.clone(),
            new_epoch: Epoch::random().0,
            after_key: self.after.map(|after| Bytes::copy_from_slice(&after.0)).unwrap_or_default(),
            sender: Bytes::copy_from_slice(self.sender.as_str().as_bytes()),
            sender_generation: self.generation,
            sender_incarnation: self.incarnation,
            group_incarnation: self.wanted_incarnation,
            admission: admission.into(),
            header: self.header.clone(),
            ..Append::default()
        }
    }

    /// If this is a repeat, the message is what the first attempt wrote. True if it is one. Otherwise it ends as the group's rule says.
    pub(crate) fn adopt(&mut self, appended: &Appended) -> Result<bool, Failure> {
        if appended.first_envelope.is_empty() {
            if appended.expires_at_ms != 0 {
                let ended = expiring_at(&self.envelope, appended.expires_at_ms);
                self.envelope = ended.ok_or(Failure::Store(StoreFailure::Unexpected))?.into();
            }
            return Ok(false);
        }
        let decode =
            |bytes: &Bytes| RawEnvelope::decode(bytes.clone()).map_err(|_| Failure::Store(StoreFailure::Unexpected));
        let (first, own) = (decode(&appended.first_envelope)?, decode(&self.envelope)?);
        let to = first.to.as_ref().and_then(|to| to.to.as_ref());
        if !matches!(to, Some(To::Group(group)) if group == self.group.as_str()) {
            return Err(Failure::Store(StoreFailure::Unexpected));
        }
        // The group's rule may have ended the first one.
        let ends = ends_alike(&own, &first) || appended.expires_at_ms != 0 && ends_earlier(&first, &own);
        let is_same = (&own.content, &own.change) == (&first.content, &first.change) && ends;
        if !first.erased && !is_same {
            return Err(Failure::Reused);
        }
        (self.id, self.time_ms) = (first.id, first.time_ms);
        self.envelope = appended.first_envelope.clone();
        Ok(true)
    }

    /// The answer. Takes the id.
    pub(crate) fn accepted(&mut self, position: client::Position) -> Accepted {
        Accepted {
            message_id: std::mem::take(&mut self.id),
            timeline: Some(self.timeline().to_client()),
            position: Some(position),
            time_ms: self.time_ms,
            expires_at_ms: EnvelopeMarks::of(&self.envelope).expires_at_ms,
        }
    }
}
