//! A shard with scheduled messages in memory, as it should be.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use carillon_proto::pb::store::{
    Person, Schedule, ScheduledChanged, ScheduledRow, SendScheduled, SetScheduled, SettleScheduled,
    change_scheduled::Change, rejected::Reason, scheduled_row::State, timeline_key::Kind,
};

use super::commands::{USERS, key};
use crate::machine::timeline::scheduled::{CONTENT_BYTES, MESSAGES};

#[derive(Default, Clone)]
pub(super) struct Inbox {
    /// 0: there is none.
    pub(super) number: u64,
    pub(super) incarnation: u64,
    pub(super) version: u64,
    pub(super) messages: BTreeMap<u64, ScheduledRow>,
    gone: Vec<(Bytes, u64)>,
    /// Keys of the messages that are in the inbox itself.
    pub(super) sent: BTreeSet<Bytes>,
}

#[derive(Default)]
pub(super) struct Model {
    pub(super) inboxes: BTreeMap<&'static str, Inbox>,
    numbers: u64,
    pub(super) generations: BTreeMap<&'static str, u64>,
    /// Messages that workers were told to send.
    pub(super) sent: Vec<SendScheduled>,
}

pub(super) type Answer = Result<ScheduledChanged, Reason>;

impl Model {
    fn changed(inbox: &Inbox, id: u64, changed: bool) -> Answer {
        Ok(ScheduledChanged { version: inbox.version, id, changed, failed: false })
    }

    pub(super) fn schedule(&mut self, op: &Schedule) -> Answer {
        let user = USERS.into_iter().find(|user| op.timeline == Some(key(Kind::Inbox, user))).expect("known");
        if op.sender_generation < self.generations.get(user).copied().unwrap_or(0) {
            return Err(Reason::SenderGone);
        }
        let inbox = self.inboxes.entry(user).or_default();
        if op.incarnation < inbox.incarnation {
            return Err(Reason::Gone);
        }
        if inbox.number == 0 || op.incarnation > inbox.incarnation {
            self.numbers += 1;
            *inbox = Inbox { number: self.numbers, incarnation: op.incarnation, ..Inbox::default() };
        }
        if let Some((_, id)) = inbox.gone.iter().find(|(key, _)| *key == op.duplicate_key) {
            return Self::changed(inbox, *id, false);
        }
        if let Some((id, row)) = inbox.messages.iter().find(|(_, row)| row.duplicate_key == op.duplicate_key) {
            return if row.to == op.to { Self::changed(inbox, *id, false) } else { Err(Reason::Exists) };
        }
        let bytes: usize = inbox.messages.values().map(|row| row.content.len()).sum();
        if bytes + op.content.len() > CONTENT_BYTES as usize || inbox.messages.len() == MESSAGES as usize {
            return Err(Reason::Full);
        }
        inbox.version += 1;
        let row = ScheduledRow {
            sender: Some(Person { user: user.to_owned(), incarnation: op.incarnation }),
            duplicate_key: op.duplicate_key.clone(),
            device: op.device.clone(),
            client_id: op.client_id.clone(),
            to: op.to.clone(),
            content: op.content.clone(),
            header: op.header.clone(),
            at_ms: op.at_ms,
            expires_after_ms: op.expires_after_ms,
            to_incarnation: op.to_incarnation,
            state: State::Waiting.into(),
            ..ScheduledRow::default()
        };
        inbox.messages.insert(inbox.version, row);
        Self::changed(inbox, inbox.version, true)
    }

    pub(super) fn change(&mut self, user: usize, incarnation: u64, id: u64, change: &Change) -> Answer {
        let inbox = self.inboxes.entry(USERS[user]).or_default();
        if incarnation < inbox.incarnation {
            return Err(Reason::Gone);
        }
        let others: usize =
            inbox.messages.iter().filter(|(other, _)| **other != id).map(|(_, row)| row.content.len()).sum();
        let is_own = inbox.number != 0 && incarnation == inbox.incarnation;
        let row = inbox.messages.get_mut(&id).filter(|row| is_own && row.state() != State::Sending);
        let Some(row) = row else { return Err(Reason::NotFound) };
        match change {
            Change::Set(SetScheduled { content, at_ms, header }) => {
                let mut after = row.clone();
                if let Some(content) = content {
                    (after.content, after.header) = (content.clone(), header.clone());
                }
                if let Some(at_ms) = at_ms {
                    (after.at_ms, after.state, after.why) = (*at_ms, State::Waiting.into(), String::new());
                }
                if after == *row {
                    return Self::changed(inbox, id, false);
                }
                if others + after.content.len() > CONTENT_BYTES as usize {
                    return Err(Reason::Full);
                }
                *row = after;
            }
            Change::Cancel(_) => {
                let key = row.duplicate_key.clone();
                inbox.gone.push((key, id));
                inbox.messages.remove(&id);
            }
            Change::Now(now) => {
                (row.state, row.time_ms, row.why) = (State::Sending.into(), now.time_ms, String::new());
                self.sent.push(SendScheduled { sender: row.sender.clone(), number: inbox.number, id });
            }
        }
        inbox.version += 1;
        Self::changed(inbox, id, true)
    }

    pub(super) fn release(&mut self, time_ms: u64) {
        for (at_ms, number, id) in self.waiting() {
            let inbox = self.inboxes.values_mut().find(|inbox| inbox.number == number).expect("it waits in one");
            if at_ms <= time_ms {
                let row = inbox.messages.get_mut(&id).expect("it waits");
                (row.state, row.time_ms) = (State::Sending.into(), time_ms);
                inbox.version += 1;
                self.sent.push(SendScheduled { sender: row.sender.clone(), number, id });
            }
        }
    }

    /// `None`: the inbox has ended, so that nobody sees what becomes of it.
    pub(super) fn settle(&mut self, op: &SettleScheduled) -> Option<Answer> {
        let inbox = self.inboxes.values_mut().find(|inbox| inbox.number == op.number)?;
        let row = inbox.messages.get_mut(&op.id).filter(|row| row.state() == State::Sending);
        let Some(row) = row else { return Some(Self::changed(inbox, op.id, false)) };
        let failed = !op.failed.is_empty() && !inbox.sent.contains(&row.duplicate_key);
        if failed {
            (row.state, row.why) = (State::Failed.into(), op.failed.clone());
        } else {
            let key = row.duplicate_key.clone();
            inbox.gone.push((key, op.id));
            inbox.messages.remove(&op.id);
        }
        inbox.version += 1;
        Some(Ok(ScheduledChanged { version: inbox.version, id: op.id, changed: true, failed }))
    }

    /// The messages that are being sent: user and id.
    pub(super) fn sending(&self) -> Vec<(&'static str, u64)> {
        let of = |(user, inbox): (&&'static str, &Inbox)| {
            let rows = inbox.messages.iter().filter(|(_, row)| row.state() == State::Sending);
            rows.map(|(id, _)| (*user, *id)).collect::<Vec<_>>()
        };
        self.inboxes.iter().flat_map(of).collect()
    }

    pub(super) fn end(&mut self, user: &'static str, incarnation: u64) {
        let inbox = self.inboxes.entry(user).or_default();
        if inbox.incarnation < incarnation {
            *inbox = Inbox { incarnation, ..Inbox::default() };
        }
    }

    /// Times, numbers of inboxes and ids.
    pub(super) fn waiting(&self) -> Vec<(u64, u64, u64)> {
        let mut all = Vec::new();
        for inbox in self.inboxes.values() {
            let waits = inbox.messages.iter().filter(|(_, row)| row.state() == State::Waiting);
            all.extend(waits.map(|(id, row)| (row.at_ms, inbox.number, *id)));
        }
        all.sort_unstable();
        all
    }
}
