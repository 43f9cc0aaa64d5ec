//! Frames of the gateway, one after the other.

use std::time::{Duration, Instant};

use carillon_proto::pb::client::{self, refused::What, server_frame::Body as Frame};

use super::{RENEWAL, lost_because, timeline};
use crate::{
    Ending, Event, FetchError, Refusal, RenewError, SendError, Ticket,
    contacts::OWN,
    driver::{Driver, End, bye_pause},
    fetches::Found,
    positions::Step,
};

/// Request number of frames that nobody has asked for.
const UNASKED: u32 = 0;
/// Least pause before the client repeats its own requests.
const OWN_AGAIN: Duration = Duration::from_secs(1);

impl Driver {
    pub(super) fn handle(&mut self, body: Frame, now: Instant) -> Result<(), End> {
        match body {
            Frame::Deliver(deliver) => self.on_deliver(deliver),
            Frame::Accepted(accepted) => self.on_accepted(accepted),
            Frame::Refused(refused) => self.on_refused(refused, now),
            Frame::Trimmed(trimmed) => {
                let timeline = timeline(trimmed.timeline.as_ref())?;
                let first = trimmed.first.ok_or_else(|| lost_because("Trimmed has no position"))?.into();
                if self.positions.trimmed(&timeline, first) {
                    self.events.push(Event::Trimmed { timeline, first });
                }
                Ok(())
            }
            Frame::Page(page) => self.found(page.request, Found::Page(page)),
            Frame::Group(group) => self.found(group.request, Found::Group(*group)),
            Frame::Members(members) => self.found(members.request, Found::Members(members)),
            Frame::MediaSlot(slot) => self.found(slot.request, Found::MediaSlot(slot)),
            Frame::MediaUrl(url) => self.found(url.request, Found::MediaUrl(url)),
            Frame::ScheduledChanged(changed) if changed.request == UNASKED => {
                self.events.push(Event::Scheduled(changed));
                Ok(())
            }
            Frame::ScheduledChanged(changed) => self.found(changed.request, Found::ScheduledChanged(changed)),
            Frame::ScheduledMessages(list) => self.found(list.request, Found::ScheduledMessages(list)),
            Frame::Groups(groups) => self.found(groups.request, Found::Groups(groups)),
            Frame::Conversations(changed) if changed.request == UNASKED => {
                self.events.push(Event::Conversations(changed));
                Ok(())
            }
            Frame::Conversations(read) => self.found(read.request, Found::Conversations(read)),
            Frame::Marks(marks) if marks.request == UNASKED => {
                self.events.push(Event::Marks(marks));
                Ok(())
            }
            Frame::Marks(marks) => self.found(marks.request, Found::Marks(marks)),
            Frame::Contacts(contacts) => {
                self.events.extend(self.contacts.read(&contacts));
                self.found(contacts.request, Found::Contacts(contacts))
            }
            Frame::Done(done) => self.found(done.request, Found::Done),
            Frame::ContactNews(news) => {
                self.events.extend(self.contacts.news(*news));
                Ok(())
            }
            Frame::Presences(told) => {
                for presence in told.presences {
                    self.events.extend(self.contacts.presence(presence));
                }
                Ok(())
            }
            Frame::Privacy(privacy) => {
                self.events.extend(self.privacy.read(&privacy));
                self.found(privacy.request, Found::Privacy(privacy))
            }
            Frame::PrivacyNews(news) => {
                self.events.extend(self.privacy.news(news));
                Ok(())
            }
            Frame::ChatState(told) => {
                self.events.push(Event::ChatState(told));
                Ok(())
            }
            Frame::Timelines(begun) => self.delivered_from(&begun.timelines),
            Frame::Renewed(renewed) => {
                self.renewed(Ok(Ticket::new(renewed.ticket)));
                Ok(())
            }
            Frame::Pong(pong) => {
                for head in pong.heads {
                    let timeline = timeline(head.timeline.as_ref())?;
                    if let Some(position) = head.position
                        && self.positions.is_stuck(&timeline, position.into())
                    {
                        return Err(lost_because("the gateway does not deliver what it has"));
                    }
                }
                Ok(())
            }
            Frame::Bye(bye) => {
                let why = if bye.reason.is_empty() { bye.code().as_str_name().to_owned() } else { bye.reason.clone() };
                let after = bye_pause(&bye);
                Err(match bye.reconnect {
                    true => End::Lost { why, after },
                    false => End::Final { ending: Ending::of_bye(&bye, true), why },
                })
            }
            Frame::Challenge(_) | Frame::SignedIn(_) => Err(lost_because("a frame of the sign-in came after it")),
        }
    }

    fn found(&mut self, request: u32, found: Found) -> Result<(), End> {
        if let Some(answer) = self.fetches.answered(request) {
            let _ = answer.send(Ok(found));
        }
        Ok(())
    }

    fn on_deliver(&mut self, deliver: client::Deliver) -> Result<(), End> {
        let timeline = timeline(deliver.timeline.as_ref())?;
        let (Some(position), Some(envelope)) = (deliver.position, deliver.envelope) else {
            return Err(lost_because("Deliver has no position or no envelope"));
        };
        let position = position.into();
        match self.positions.step(&timeline, position) {
            Step::Next => self.events.push(Event::Delivered { timeline, position, envelope }),
            Step::Known => {}
            Step::Gap { has } => {
                let why = format!("{timeline} came with {position:?} after {has:?}");
                return Err(End::Lost { why, after: None });
            }
        }
        Ok(())
    }

    fn on_accepted(&mut self, accepted: client::Accepted) -> Result<(), End> {
        let timeline = timeline(accepted.timeline.as_ref())?;
        let position = accepted.position.ok_or_else(|| lost_because("Accepted has no position"))?.into();
        // A later one is delivered in its turn, and so are changes of groups; timelines that the device does not follow deliver nothing.
        let counts = !self.outbox.is_change(&accepted.client_id);
        if counts && self.positions.get(&timeline).is_some() && self.positions.step(&timeline, position) == Step::Next {
            self.events.push(Event::Sent {
                timeline,
                position,
                client_id: accepted.client_id.clone(),
                message_id: accepted.message_id.clone(),
                time_ms: accepted.time_ms,
                expires_at_ms: accepted.expires_at_ms,
            });
        }
        if let Some(answer) = self.outbox.accepted(&accepted.client_id) {
            answer.give(Ok(accepted));
        }
        Ok(())
    }

    fn on_refused(&mut self, refused: client::Refused, now: Instant) -> Result<(), End> {
        let what = refused.what.clone();
        let refusal = Refusal::from(refused);
        match what {
            Some(What::ClientId(client_id)) => {
                if let Some(answer) = self.outbox.refused(&client_id, &refusal, now) {
                    answer.give(Err(SendError::Refused(refusal)));
                }
                Ok(())
            }
            Some(What::Request(RENEWAL)) => {
                self.renewed(Err(RenewError::Refused(refusal)));
                Ok(())
            }
            Some(What::Request(OWN)) => {
                if refusal.retry {
                    self.own_again.get_or_insert(now + refusal.retry_after.max(OWN_AGAIN));
                }
                Ok(())
            }
            Some(What::Request(request)) => {
                if let Some(answer) = self.fetches.answered(request) {
                    let _ = answer.send(Err(FetchError::Refused(refusal)));
                }
                Ok(())
            }
            None => Err(End::Lost { why: refusal.to_string(), after: Some(refusal.retry_after) }),
        }
    }

    /// The answer belongs to the oldest renewal: the gateway answers renewals in order.
    fn renewed(&mut self, result: Result<Option<Ticket>, RenewError>) {
        if let Some(renewal) = self.renewals.pop_front() {
            let result = result.map(|ticket| self.use_token(renewal.token, ticket));
            let _ = renewal.answer.send(result);
        }
    }
}
