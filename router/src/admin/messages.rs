//! What became of a message: from the replicas of the inboxes of its sender and its recipient, from the rows of their sessions, and
//! from the gateways that have them. Nothing is recorded for it.

mod devices;
mod replicas;

use carillon_proto::{
    ClientId, DeviceId, DuplicateKey, InvalidId, MessageId, UserId, now_ms,
    pb::{
        admin::{
            InboxTrace, SentMessage, TraceMessageReply, TraceMessageRequest, TracedMessage, kept_message::Which,
            trace_message_request::Message as Asked,
        },
        client::{Envelope, recipient::To},
        store::{DuplicateKeys, FoundMessage, find_message_request::By},
    },
};
use prost::Message as _;
use tonic::Status;

use self::replicas::Answers;
use super::{Admin, user_id};

/// A user whose inbox is looked into.
struct Owner {
    user: UserId,
    found: carillon_proto::pb::store::User,
}

impl Admin {
    pub(super) async fn message(&self, request: TraceMessageRequest) -> Result<TraceMessageReply, Status> {
        match request.message {
            Some(Asked::Sent(sent)) => self.sent(&sent).await,
            Some(Asked::Kept(kept)) => {
                let owner = self.owner(user_id(&kept.user)?).await?;
                let by = match kept.which {
                    Some(Which::Seq(seq)) => By::Seq(seq),
                    Some(Which::MessageId(id)) => {
                        id.parse::<MessageId>().map_err(|error| Status::invalid_argument(error.to_string()))?;
                        By::MessageId(id)
                    }
                    None => return Err(Status::invalid_argument("neither a position nor an id is named")),
                };
                let answers = self.ask_replicas(&owner, &by).await?;
                let message = answers.message().and_then(traced);
                self.reply(message, owner, answers).await
            }
            None => Err(Status::invalid_argument("no message is named")),
        }
    }

    async fn sent(&self, sent: &SentMessage) -> Result<TraceMessageReply, Status> {
        let sender = self.owner(user_id(&sent.sender)?).await?;
        let to = (!sent.to.is_empty()).then(|| user_id(&sent.to)).transpose()?;
        let keys = keys_of(sent, &sender, to.as_ref()).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let by = By::Keys(DuplicateKeys { keys });
        let answers = self.ask_replicas(&sender, &by).await?;
        // A client may use one id for messages to several users.
        let is_it = |message: &TracedMessage| to.as_ref().is_none_or(|to| message.to == to.as_str());
        let message = answers.message().and_then(traced).filter(is_it);
        match (message, to) {
            (None, Some(to)) if to != sender.user => {
                let to = self.owner(to).await?;
                let at_recipient = self.ask_replicas(&to, &by).await?;
                let message = at_recipient.message().and_then(traced);
                let inboxes =
                    vec![self.inbox(to, at_recipient).await, self.inbox(sender, answers.without_message()).await];
                Ok(TraceMessageReply { message, inboxes, now_ms: now_ms() })
            }
            (message, _) => self.reply(message, sender, answers).await,
        }
    }

    /// Completes it by the other inbox in which the message stands, if it was found.
    async fn reply(
        &self,
        message: Option<TracedMessage>,
        owner: Owner,
        answers: Answers,
    ) -> Result<TraceMessageReply, Status> {
        let mut inboxes = Vec::with_capacity(2);
        if let Some(message) = &message
            && message.sender != message.to
        {
            let is_sender = owner.user.as_str() == message.sender;
            let other = self.owner(user_id(if is_sender { &message.to } else { &message.sender })?).await?;
            let at_other = self.ask_replicas(&other, &By::MessageId(message.id.clone())).await?;
            inboxes.push(self.inbox(other, at_other).await);
            inboxes.insert(usize::from(is_sender), self.inbox(owner, answers).await);
        } else {
            inboxes.push(self.inbox(owner, answers).await);
        }
        Ok(TraceMessageReply { message, inboxes, now_ms: now_ms() })
    }

    async fn owner(&self, user: UserId) -> Result<Owner, Status> {
        let found = self.read(&user).await?;
        match found.account {
            Some(_) => Ok(Owner { user, found }),
            None => Err(Status::not_found(format!("there never was a user {user}"))),
        }
    }

    async fn inbox(&self, owner: Owner, answers: Answers) -> InboxTrace {
        let head = answers.head();
        let devices = self.devices_of(&owner, answers.devices()).await;
        let topology = self.topology.borrow().clone();
        let router = topology.ring.owner(owner.user.as_str()).map(|router| router.address.to_string());
        InboxTrace {
            deleted: owner.found.account.as_ref().is_some_and(|account| account.deleted),
            user: owner.user.as_str().to_owned(),
            shard: Some(answers.shard().to_pb()),
            seq: answers.message().map_or(0, |found| found.seq),
            epoch: head.epoch,
            first: head.first,
            last: head.last,
            replicas: answers.into_replicas(),
            devices,
            router: router.unwrap_or_default(),
        }
    }
}

/// Those that the message can have: the second one is of a client that uses one id for messages to several users.
fn keys_of(sent: &SentMessage, sender: &Owner, to: Option<&UserId>) -> Result<Vec<bytes::Bytes>, InvalidId> {
    let (device, client_id) = (DeviceId::new(&sent.device)?, ClientId::new(&sent.client_id)?);
    let incarnation = sender.found.account.as_ref().map_or(0, |account| account.incarnation);
    let key = DuplicateKey::new(&sender.user, &device, &client_id).of_incarnation(incarnation);
    let named = to.map(|to| key.to(to));
    Ok(named.into_iter().chain([key]).map(|key| bytes::Bytes::copy_from_slice(&key.0)).collect())
}

/// `None`: it is no envelope that this release can read.
fn traced(found: &FoundMessage) -> Option<TracedMessage> {
    let envelope = Envelope::decode(found.envelope.clone()).ok()?;
    let to = match envelope.to?.to? {
        To::User(to) => to,
        To::Group(_) => return None,
    };
    Some(TracedMessage {
        id: envelope.id,
        sender: envelope.sender,
        device: envelope.sender_device,
        to,
        client_id: envelope.client_id,
        time_ms: envelope.time_ms,
        content_bytes: found.content_bytes,
    })
}
