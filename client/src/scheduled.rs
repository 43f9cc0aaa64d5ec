//! Messages that the service sends later.

use std::time::Duration;

use carillon_proto::pb::client::{
    CancelScheduled, ChangeScheduled, Content, ReadScheduled, Recipient, Schedule, ScheduledChanged, ScheduledMessage,
    SendScheduledNow, SetScheduled, change_scheduled::Change,
};

use crate::{
    Client, FetchError,
    client::whole_ms,
    fetches::{Found, Query},
};

/// How often a list is read again that changes while it is read.
const READINGS: usize = 5;

/// A change of a scheduled message.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "each is used at once")]
pub enum ScheduledChange {
    /// Another content, another time, or both; an absent one stays. The time is in milliseconds since 1970-01-01T00:00:00Z.
    Set {
        content: Option<Content>,
        at_ms: Option<u64>,
    },
    Cancel,
    /// Sends the message at once.
    SendNow,
}

/// The scheduled messages of a user.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduledList {
    /// Later news of this version and earlier ones are older than the list.
    pub version: u64,
    /// In the order in which they were made.
    pub messages: Vec<ScheduledMessage>,
}

impl Client {
    /// Has the service send a message at this time, in milliseconds since 1970-01-01T00:00:00Z, at most a year ahead, whether or not the user is
    /// signed in then. Returns when it is stored for certain, with the id by which it can be changed.
    ///
    /// ```no_run
    /// # async fn example(client: carillon_client::Client, tomorrow_ms: u64) -> Result<(), carillon_client::FetchError> {
    /// use carillon_client::{Client, ScheduledChange};
    ///
    /// let id = client.schedule(Client::user("bob"), Client::text("happy birthday"), tomorrow_ms).await?;
    /// client.change_scheduled(id, ScheduledChange::Cancel).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn schedule(&self, to: Recipient, content: Content, at_ms: u64) -> Result<u64, FetchError> {
        self.schedule_as(self.next_id(), to, content, at_ms).await
    }

    /// Schedules with an id chosen by the application, which may have used it before for the same message: it is scheduled, and sent, once.
    pub async fn schedule_as(
        &self,
        client_id: String,
        to: Recipient,
        content: Content,
        at_ms: u64,
    ) -> Result<u64, FetchError> {
        self.schedule_expiring_as(client_id, to, content, at_ms, Duration::ZERO).await
    }

    /// Like [`Client::schedule`], for a message that is shown for so long from then on; see [`Client::send_expiring`].
    pub async fn schedule_expiring(
        &self,
        to: Recipient,
        content: Content,
        at_ms: u64,
        after: Duration,
    ) -> Result<u64, FetchError> {
        self.schedule_expiring_as(self.next_id(), to, content, at_ms, after).await
    }

    async fn schedule_expiring_as(
        &self,
        client_id: String,
        to: Recipient,
        content: Content,
        at_ms: u64,
        after: Duration,
    ) -> Result<u64, FetchError> {
        let expires_after_ms = whole_ms(after);
        let schedule =
            Schedule { request: 0, client_id, to: Some(to), content: Some(content), at_ms, expires_after_ms };
        Ok(self.scheduled_changed(Query::Schedule(schedule)).await?.id)
    }

    /// Changes a message that is not being sent yet, or that could not be sent. Refused with `CODE_NOT_FOUND` if it is being sent, or was sent or
    /// cancelled: also by this very request, if it had to be repeated because the connection was lost.
    pub async fn change_scheduled(&self, id: u64, change: ScheduledChange) -> Result<(), FetchError> {
        let change = Some(match change {
            ScheduledChange::Set { content, at_ms } => Change::Set(SetScheduled { content, at_ms }),
            ScheduledChange::Cancel => Change::Cancel(CancelScheduled {}),
            ScheduledChange::SendNow => Change::Now(SendScheduledNow {}),
        });
        self.scheduled_changed(Query::ChangeScheduled(ChangeScheduled { request: 0, id, change })).await.map(drop)
    }

    /// All messages that are to be sent, and those that could not be sent. From the first call on, this connection is told of changes by
    /// [`Event::Scheduled`](crate::Event::Scheduled): then read them again. A new connection is told nothing before the next call.
    pub async fn scheduled(&self) -> Result<ScheduledList, FetchError> {
        'reading: for _ in 0..READINGS {
            let mut list: Option<ScheduledList> = None;
            loop {
                let after = list.as_ref().and_then(|list| list.messages.last()).map_or(0, |message| message.id);
                let Found::ScheduledMessages(page) =
                    self.find(Query::Scheduled(ReadScheduled { request: 0, after })).await?
                else {
                    return Err(FetchError::OtherAnswer);
                };
                let list = list.get_or_insert(ScheduledList { version: page.version, messages: Vec::new() });
                if list.version != page.version {
                    continue 'reading;
                }
                list.messages.extend(page.messages);
                if page.complete {
                    return Ok(std::mem::replace(list, ScheduledList { version: 0, messages: Vec::new() }));
                }
            }
        }
        Err(FetchError::OtherAnswer)
    }

    async fn scheduled_changed(&self, query: Query) -> Result<ScheduledChanged, FetchError> {
        match self.find(query).await? {
            Found::ScheduledChanged(changed) => Ok(changed),
            _ => Err(FetchError::OtherAnswer),
        }
    }
}
