//! Scheduled messages whose time has come. Each is sent as its user would send it, with the same rules, and what became of it is noted in the user's
//! shard; a row of the outbox is settled in a later pass, when nothing is left to be sent. See docs/adr/0033-scheduled.md.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use carillon_proto::{
    InvalidId, LeaseId, ShardId, TimelineId, UserId, clock,
    pb::{
        client::Code,
        link::{self, Refusal, RouterReply, ScheduledNews, SendTo, router_request, send_to},
        store::{
            Account, Person, ReadUser, ReleaseScheduled, ScheduledChanged, ScheduledRow, SendScheduled,
            SettleScheduled, TimelineCommand, scheduled_row::State, store_request::Op, timeline_command,
        },
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    later::put_off,
    outbox::{Asked, Effect, OutboxWorker, RowPlace, cut},
};
use crate::{
    metrics,
    partition::Partitions,
    peers::Peers,
    reply::{Answer, InFlight, ReplySlot, Request},
    said::Said,
    store::{Store, StoreAnswer},
    topology::Topology,
};

/// Messages of one shard that are being sent at once.
const AT_ONCE: usize = 32;
/// Before the next messages are asked for.
const MORE: Duration = Duration::from_millis(500);
/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// The messages that are being sent, with their users. Bounded by what goes at once.
#[derive(Default)]
pub(super) struct Sendings(BTreeMap<RowPlace, String>);

/// The outcome of an attempt to send a message.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Sent,
    /// The message can't be sent, for this reason.
    Failed(String),
    /// The attempt is repeated later, for this reason.
    Again(String),
}

impl OutboxWorker {
    /// `next_ms`: when the first message that waits is to be sent; 0: none waits. True if it is asked for the messages whose time has come: then the
    /// outbox is read once more.
    pub(super) fn looks_at_scheduled(&mut self, next_ms: u64, now: Instant, time_ms: u64) -> bool {
        let is_due = next_ms != 0 && next_ms <= time_ms;
        if is_due && !self.pass.released {
            self.pass.pages = 0;
            let op = timeline_command::Op::ReleaseScheduled(ReleaseScheduled { time_ms });
            self.ask(Asked::Released, Op::Timeline(TimelineCommand { op: Some(op) }));
            return true;
        }
        // More were due than one command takes, or the outbox has no room.
        let wait = if is_due { MORE } else { Duration::from_millis(next_ms.saturating_sub(time_ms)) };
        self.next_scheduled = (next_ms != 0).then(|| now + wait);
        false
    }

    /// Whether nothing is to be done for this row. Otherwise it begins to be sent as soon as there is room: one message of a user after another.
    pub(super) fn is_sent(&mut self, place: RowPlace, send: &SendScheduled, row: Option<&ScheduledRow>) -> bool {
        let Some(row) = row.filter(|row| row.state() == State::Sending) else { return true };
        let user = row.sender.as_ref().map_or("", |sender| &sender.user);
        let waits = |sending: &String| sending == user;
        if self.sendings.0.len() < AT_ONCE && !self.sendings.0.values().any(waits) {
            self.sendings.0.insert(place, user.to_owned());
            self.effects.push(Effect::Send(place, Box::new((send.clone(), row.clone()))));
        }
        false
    }

    /// Takes the outcome of `Effect::Send`.
    pub(super) fn sent(&mut self, place: RowPlace, outcome: Result<(), String>, now: Instant) {
        self.sendings.0.remove(&place);
        if let Err(why) = outcome {
            tracing::debug!(shard = %self.shard, why, "a scheduled message is tried again");
            put_off(&mut self.later, place, now);
        }
        self.nudge(now);
    }
}

/// Sends messages for the workers of all shards. Cheap to clone.
#[derive(Clone)]
pub(super) struct Sender {
    pub(super) topology: watch::Receiver<Arc<Topology>>,
    pub(super) store: Store,
    pub(super) peers: Peers,
    pub(super) partitions: Partitions,
    /// Of each call of the store.
    pub(super) deadline: Duration,
}

impl Sender {
    /// Sends the message and notes what became of it. The error says why that has to be tried again.
    pub(super) async fn send(&self, shard: ShardId, task: SendScheduled, row: ScheduledRow) -> Result<(), String> {
        let person = task.sender.clone().unwrap_or_default();
        let verdict = self.verdict(&person, &row).await;
        let failed = match verdict {
            Verdict::Sent => String::new(),
            Verdict::Failed(why) => cut(why),
            Verdict::Again(why) => return Err(why),
        };
        let settle = SettleScheduled { number: task.number, id: task.id, failed };
        let op = Op::Timeline(TimelineCommand { op: Some(timeline_command::Op::SettleScheduled(settle)) });
        match self.store.call(shard, op, clock::now() + self.deadline).await {
            Ok(StoreAnswer::ScheduledChanged(changed)) => {
                metrics::scheduled(!changed.failed);
                self.tell(person, changed);
                Ok(())
            }
            Ok(_) => Err("the store gave another answer".to_owned()),
            Err(failure) => Err(failure.to_string()),
        }
    }

    async fn verdict(&self, person: &Person, row: &ScheduledRow) -> Verdict {
        let request = match self.generation(person).await {
            Ok(generation) => request(person, generation, row),
            Err(why) => return Verdict::Again(why),
        };
        match request {
            Ok((of, send)) => came_to(self.ask(of, send).await),
            Err(invalid) => Verdict::Failed(invalid.to_string()),
        }
    }

    /// A scheduled message is of no session: it is sent as long as its account is there.
    async fn generation(&self, person: &Person) -> Result<u64, String> {
        let user = UserId::new(&person.user).map_err(|invalid| invalid.to_string())?;
        let shard = self.topology.borrow().shards.directory_of(&user);
        let op = Op::ReadUser(ReadUser { user: person.user.clone(), ..ReadUser::default() });
        match self.store.call(shard, op, clock::now() + self.deadline).await {
            Ok(StoreAnswer::User(read)) => read
                .account
                .filter(|account| !account.deleted && account.incarnation == person.incarnation)
                .map(|Account { generation, .. }| generation)
                // The message goes with the inbox.
                .ok_or_else(|| "the account of its user has ended".to_owned()),
            Ok(_) => Err("the store gave another answer".to_owned()),
            Err(failure) => Err(failure.to_string()),
        }
    }

    /// Has this router send it. It may own neither side: then it tells the owners, as always when it no longer is one.
    async fn ask(&self, of: TimelineId, send: link::Send) -> Result<Answer, String> {
        if let TimelineId::Inbox(user) = &of
            && self.topology.borrow().elsewhere(user.as_str()).is_some()
        {
            // What this router knows of others' accounts may be old.
            self.partitions.changed(user.clone());
        }
        let (replies, mut answer) = mpsc::channel::<RouterReply>(1);
        let gone = || "the router is stopping".to_owned();
        let place = replies.reserve_owned().await.map_err(|_| gone())?;
        let slot = ReplySlot {
            id: 0,
            place,
            op: "send_scheduled",
            since: Instant::now(),
            _counted: InFlight::default().enter(),
        };
        let (op, deadline) = (router_request::Op::Send(send), clock::now() + self.deadline);
        let request = Request { of, op, lease: LeaseId(0), link: 0, deadline, span: None, slot };
        if !self.partitions.request(request).await {
            return Err(gone());
        }
        match clock::timeout(self.deadline + PATIENCE, answer.recv()).await.flatten() {
            Some(RouterReply { result: Some(answer), .. }) => Ok(answer),
            Some(_) | None => Err("there was no answer in time".to_owned()),
        }
    }

    fn tell(&self, person: Person, changed: ScheduledChanged) {
        let ScheduledChanged { version, id, changed: true, failed } = changed else { return };
        let owner = person.user.clone();
        let news = Said::Scheduled(ScheduledNews { user: Some(person), version, id, failed });
        // Devices that miss the news read the list at the next sign-in.
        match self.topology.borrow().elsewhere(&owner) {
            Some(address) => drop(self.peers.say(address, news)),
            None => drop(self.partitions.say(news)),
        }
    }
}

/// Whose owner sends it, and what.
fn request(person: &Person, generation: u64, row: &ScheduledRow) -> Result<(TimelineId, link::Send), InvalidId> {
    let to = row.to.as_ref().map(TimelineId::from_key).transpose()?.flatten();
    // The recipient was checked when the message was scheduled.
    let of = to.unwrap_or(TimelineId::Inbox(UserId::new(&person.user)?));
    let name = of.owner().to_owned().into();
    let to = if matches!(of, TimelineId::Group(_)) { send_to::To::Group(name) } else { send_to::To::User(name) };
    let send = link::Send {
        sender: person.user.clone().into(),
        sender_device: row.device.clone().into(),
        to: Some(SendTo { to: Some(to) }),
        client_id: row.client_id.clone().into(),
        content: row.content.clone(),
        header: row.header.clone(),
        expires_after_ms: row.expires_after_ms,
        to_incarnation: row.to_incarnation,
        incarnation: person.incarnation,
        generation,
        time_ms: row.time_ms,
        ..link::Send::default()
    };
    Ok((of, send))
}

fn came_to(answer: Result<Answer, String>) -> Verdict {
    match answer {
        Ok(Answer::Accepted(_)) => Verdict::Sent,
        // The user has just got other credentials, or its account has ended: its row says which.
        Ok(Answer::Refusal(refusal)) if refusal.retry || refusal.code() == Code::Unauthenticated => {
            Verdict::Again(refusal.reason)
        }
        Ok(Answer::Refusal(Refusal { reason, .. })) => Verdict::Failed(reason),
        Ok(_) => Verdict::Again("the router gave another answer".to_owned()),
        Err(why) => Verdict::Again(why),
    }
}
