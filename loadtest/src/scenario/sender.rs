//! A user who sends.

use std::{sync::Arc, time::Instant};

use carillon_client::{Client, Pending, SendError};
use carillon_proto::pb::client::Accepted;
use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use tokio::sync::watch;

use super::{Load, pacer::Schedule};
use crate::{
    checker::{FlowCheck, Outcome},
    payload::Payload,
};

pub(crate) struct Sender {
    pub(crate) load: Arc<Load>,
    pub(crate) client: Client,
    /// The flows to which the user sends in turn. Not empty.
    pub(crate) flows: Vec<Arc<FlowCheck>>,
    /// `None`: as fast as the window allows.
    pub(crate) schedule: Option<Schedule>,
    /// The number of messages after which the sender is done.
    pub(crate) limit: Option<u64>,
    shard: usize,
}

impl Sender {
    pub(crate) fn new(load: &Arc<Load>, client: Client, flows: Vec<Arc<FlowCheck>>) -> Self {
        Self { shard: load.recorder.shard(), load: Arc::clone(load), client, flows, schedule: None, limit: None }
    }

    /// Sends in order until it is stopped or done, then waits for the answers.
    pub(crate) async fn run(self, mut stopped: watch::Receiver<bool>) {
        let mut answers = FuturesUnordered::new();
        let mut next = 0;
        // When the window was last seen full, in microseconds: messages that were due before wait for the service.
        let mut full_us = 0;
        while !*stopped.borrow() && self.limit.is_none_or(|limit| next < limit) {
            let now_us = self.now_us();
            let intended_us = self.schedule.as_ref().map_or(now_us, |schedule| schedule.intended_us(next));
            let room = answers.len() < self.load.window;
            if room && intended_us <= now_us {
                let mut due_us = intended_us;
                if self.schedule.is_some() && intended_us > full_us {
                    self.load.recorder.sent_on_schedule(intended_us, now_us);
                    due_us = now_us;
                }
                answers.extend(self.submit(next, (intended_us, due_us)).await);
                next += 1;
                while let Some(Some(())) = answers.next().now_or_never() {}
                continue;
            }
            if !room {
                full_us = now_us;
            }
            let due = async {
                match &self.schedule {
                    Some(schedule) => schedule.due.notified().await,
                    None => std::future::pending().await,
                }
            };
            // All three branches are cancel-safe.
            tokio::select! {
                biased;
                changed = stopped.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
                Some(()) = answers.next() => {
                    if !room {
                        full_us = self.now_us();
                    }
                }
                () = due, if room => {}
            }
        }
        self.give_up_the_rest(next);
        while let Some(()) = answers.next().await {}
    }

    /// `None` if the message was refused at once.
    async fn submit(&self, number: u64, (intended_us, due_us): (u64, u64)) -> Option<impl Future<Output = ()> + '_> {
        let flow = &self.flows[number as usize % self.flows.len()];
        let counter = flow.sending();
        let (sender, recipient) = (flow.name.sender.as_str(), flow.name.recipient.as_str());
        let payload = Payload { run: &self.load.run, sender, recipient, counter, intended_us };
        let content = payload.to_content(self.load.bytes, self.load.filling);
        let to = if flow.group.is_some() { Client::group(recipient) } else { Client::user(recipient) };
        match self.client.submit(to, content).await {
            Ok(pending) => Some(self.answer(flow, counter, (intended_us, due_us), pending)),
            Err(error) => {
                self.ended(flow, counter, (intended_us, due_us), outcome(&error));
                None
            }
        }
    }

    async fn answer(&self, flow: &FlowCheck, counter: u64, times: (u64, u64), pending: Pending) {
        let answer = pending.await;
        if let (Some(group), Ok(Accepted { position: Some(position), message_id, .. })) = (&flow.group, &answer) {
            group.accepted(position.seq, message_id);
        }
        let outcome = answer.map_or_else(|error| outcome(&error), |_| Outcome::Accepted);
        self.ended(flow, counter, times, outcome);
    }

    /// `times`: when the message was intended to be sent, and when it was due without what only the generator was late by.
    fn ended(&self, flow: &FlowCheck, counter: u64, times: (u64, u64), outcome: Outcome) {
        flow.ended(counter, outcome);
        self.load.recorder.ended(self.shard, times, outcome);
    }

    /// Messages that are due but will not be sent any more still record how long they have waited.
    fn give_up_the_rest(&self, mut next: u64) {
        let Some(schedule) = &self.schedule else { return };
        let now_us = self.now_us();
        while self.limit.is_none_or(|limit| next < limit) && schedule.intended_us(next) < now_us {
            self.load.recorder.not_sent(self.shard, schedule.intended_us(next), now_us);
            next += 1;
        }
    }

    fn now_us(&self) -> u64 {
        self.load.recorder.us(Instant::now())
    }
}

/// Only a final refusal means that the message was not carried out: without one, an earlier try may have been.
fn outcome(error: &SendError) -> Outcome {
    match error {
        SendError::Refused(refusal) if !refusal.retry => Outcome::Refused,
        SendError::InvalidId(_) => Outcome::Refused,
        SendError::Refused(_) | SendError::TimedOut { .. } | SendError::Ended(_) => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use carillon_client::Refusal;
    use carillon_proto::pb::client::Code;

    use super::*;

    #[test]
    fn a_refusal_for_now_leaves_the_outcome_open() {
        let refused = |retry| {
            let reason = String::new();
            SendError::Refused(Refusal { code: Code::Overloaded, reason, retry, retry_after: Duration::ZERO })
        };
        assert_eq!(outcome(&refused(true)), Outcome::Unknown);
        assert_eq!(outcome(&refused(false)), Outcome::Refused);
    }
}
