//! Messages that users have sent later: what is promised of them, and what has been seen.

use std::collections::BTreeMap;

use carillon_proto::{
    TimelineId, UserId,
    pb::{
        client::{Content, Envelope, Text, content},
        link::{self, router_request::Op},
        store::{
            self, CancelScheduled, ReadScheduled, ScheduledChanged, ScheduledRead, ScheduledRow, SendScheduledNow,
            change_scheduled::Change, scheduled_row::State, store_reply::Result as Outcome,
            store_request::Op as StoreOp,
        },
    },
};
use prost::Message as _;

use crate::{
    clients::user_name,
    groups::{DEVICE, Want, What},
    model::Model,
    random::Random,
    schedule::Time,
    store::MAP,
    world::World,
};

/// Messages that were to be sent later, by user and client id.
#[derive(Default)]
pub(crate) struct Scheduled(BTreeMap<(String, String), Planned>);

struct Planned {
    incarnation: u64,
    to: String,
    at_ms: u64,
    /// `None`: nobody has said that it is kept.
    id: Option<u64>,
    /// The user has wanted to take it back, and was told that this is done.
    may_be_cancelled: bool,
    is_cancelled: bool,
    /// The user has wanted it to be sent at once.
    at_once: bool,
}

/// Messages that users want sent later, and the times at which they want it, by random numbers of their own.
pub(crate) fn schedules(seed: u64, users: usize, from: Time, until: Time) -> Vec<(usize, Time, Want)> {
    let mut random = Random::new(seed ^ 0x7363_6865_6475);
    let mut one = || {
        let (user, to) = (random.index(users), random.index(users));
        let what = match random.below(10) {
            0..6 => What::Schedule { to, after_ms: random.between(0, 1500) },
            6..9 => What::TakeBack,
            _ => What::SendNow,
        };
        (user, random.between(from, until), Want { group: 0, what })
    };
    (0..16).map(|_| one()).collect()
}

impl Model {
    /// A user asks for it; `number` is that of the want.
    pub(crate) fn schedules(&mut self, user: usize, incarnation: u64, number: u64, to: usize, at_ms: u64) -> Op {
        let (name, client_id, to) = (user_name(user), format!("s{user}-{number}"), user_name(to));
        let content =
            Content { body: Some(content::Body::Text(Text { body: client_id.clone() })), ..Content::default() };
        let recipient = TimelineId::Inbox(UserId::new(&to).expect("valid")).to_key();
        let planned =
            Planned { incarnation, to, at_ms, id: None, may_be_cancelled: false, is_cancelled: false, at_once: false };
        self.scheduled.0.insert((name.clone(), client_id.clone()), planned);
        let schedule = store::Schedule {
            incarnation,
            sender_generation: incarnation,
            device: DEVICE.into(),
            client_id,
            to: Some(recipient),
            content: content.encode_to_vec().into(),
            at_ms,
            ..store::Schedule::default()
        };
        Op::Schedule(Box::new(link::Schedule { user: name, schedule: Some(schedule) }))
    }

    /// A change of one of the user's messages; `None`: there is none.
    pub(crate) fn changes_scheduled(&mut self, user: usize, incarnation: u64, what: What, time_ms: u64) -> Option<Op> {
        let name = user_name(user);
        let own = self.scheduled.0.iter_mut().filter(|((of, _), planned)| {
            *of == name && planned.incarnation == incarnation && planned.id.is_some() && !planned.is_cancelled
        });
        let (_, planned) = own.last()?;
        let change = if matches!(what, What::SendNow) {
            planned.at_once = true;
            Change::Now(SendScheduledNow { time_ms })
        } else {
            planned.may_be_cancelled = true;
            Change::Cancel(CancelScheduled {})
        };
        let id = planned.id?;
        let change = Some(store::ChangeScheduled { timeline: None, incarnation, id, change: Some(change) });
        Some(Op::ChangeScheduled(link::ChangeScheduled { user: name, change }))
    }

    /// A user hears that it is done.
    pub(crate) fn scheduled_answered(&mut self, op: &Op, changed: &ScheduledChanged) {
        let cancelled = match op {
            Op::Schedule(schedule) => {
                let client_id = schedule.schedule.as_ref().map_or("", |schedule| &schedule.client_id);
                if let Some(planned) = self.scheduled.0.get_mut(&(schedule.user.clone(), client_id.to_owned())) {
                    planned.id = Some(changed.id);
                }
                return;
            }
            Op::ChangeScheduled(op) => {
                let change = op.change.clone().unwrap_or_default();
                (op.user.clone(), change.incarnation, matches!(change.change, Some(Change::Cancel(_))))
            }
            _ => return,
        };
        let (user, incarnation, true) = cancelled else { return };
        let is_meant = |planned: &Planned| planned.incarnation == incarnation && planned.id == Some(changed.id);
        let found = self.scheduled.0.iter_mut().find(|((of, _), planned)| *of == user && is_meant(planned));
        let Some(((_, client_id), planned)) = found else { return };
        planned.is_cancelled = true;
        let (client_id, to) = (client_id.clone(), planned.to.clone());
        if self.is_in_inbox_of(&to, &user, &client_id) {
            self.breaks(format!("{client_id} of {user} was sent, and then cancelled"));
        }
    }

    fn is_in_inbox_of(&self, owner: &str, sender: &str, client_id: &str) -> bool {
        let key = (sender.to_owned(), DEVICE.to_owned(), client_id.to_owned());
        self.inboxes_of(owner).any(|inbox| inbox.known.contains_key(&key))
    }

    pub(crate) fn is_scheduled(&self, envelope: &Envelope) -> bool {
        envelope.sender_device == DEVICE
            && self.scheduled.0.contains_key(&(envelope.sender.clone(), envelope.client_id.clone()))
    }

    /// This envelope is new in an inbox.
    pub(crate) fn scheduled_is_sent(&self, envelope: &Envelope) -> Result<(), String> {
        let key = (envelope.sender.clone(), envelope.client_id.clone());
        let Some(planned) = self.scheduled.0.get(&key).filter(|_| envelope.sender_device == DEVICE) else {
            return Ok(());
        };
        let what = format!("{} of {}", envelope.client_id, envelope.sender);
        if planned.is_cancelled {
            return Err(format!("{what} was cancelled, and then sent"));
        }
        if envelope.time_ms < planned.at_ms && !planned.at_once {
            return Err(format!("{what} was sent at {}, before its time {}", envelope.time_ms, planned.at_ms));
        }
        Ok(())
    }
}

impl World<'_> {
    /// Scheduled messages that are kept for this user now; none if it has no account.
    fn scheduled_of(&self, user: &str) -> Vec<(u64, ScheduledRow)> {
        let Some(incarnation) = self.model.owner(user) else { return Vec::new() };
        let timeline = TimelineId::Inbox(UserId::new(user).expect("valid"));
        let read = ReadScheduled { timeline: Some(timeline.to_key()), incarnation, after: 0 };
        match self.cluster.read(MAP.timeline_of(&timeline), &StoreOp::ReadScheduled(read)) {
            Outcome::ScheduledRead(ScheduledRead { messages, complete: true, .. }) => {
                messages.into_iter().map(|message| (message.id, message.row.unwrap_or_default())).collect()
            }
            _ => Vec::new(),
        }
    }

    /// A message that has still to be sent.
    pub(crate) fn to_be_sent(&self) -> Option<String> {
        (0..self.scenario.users).map(user_name).find_map(|user| {
            let rows = self.scheduled_of(&user);
            let waits = rows.into_iter().find(|(_, row)| row.state() != State::Failed);
            waits.map(|(_, row)| format!("{} of {user} has still to be sent", row.client_id))
        })
    }

    /// Every message that was kept, and not cancelled, is in both inboxes, or is said to have failed.
    pub(crate) fn check_scheduled(&self) -> Result<(), String> {
        for ((user, client_id), planned) in &self.model.scheduled.0 {
            let Some(id) = planned.id.filter(|_| self.model.owner(user) == Some(planned.incarnation)) else { continue };
            let has_failed = self.scheduled_of(user).iter().any(|(of, _)| *of == id);
            let is_there = |owner: &str| self.model.is_in_inbox_of(owner, user, client_id);
            let has_come = is_there(&planned.to) || self.model.was_withheld_by_name(&planned.to, user, client_id);
            if !(planned.is_cancelled || has_failed || is_there(user) && has_come) {
                // The cancellation may have been carried out, and its answer lost.
                if planned.may_be_cancelled {
                    continue;
                }
                return Err(format!("{client_id} of {user} was to be sent to {}, and was not", planned.to));
            }
        }
        Ok(())
    }
}
