//! Messages that are shown for a moment only: what gateways give out of them, and when the store removes their contents.

use carillon_proto::{
    TimelineId, UserId,
    pb::{
        client::{Envelope, server_frame},
        link::{Send, SendTo, router_request::Op, send_to},
        store::{ReadTimeline, TimelineRead, store_reply::Result as Outcome, store_request::Op as StoreOp},
    },
};
use prost::Message as _;

use crate::{
    clients::user_name,
    groups::{DEVICE, Want, What},
    model::{Entry, Model},
    random::Random,
    references::text,
    schedule::Time,
    store::MAP,
    world::World,
};

/// Sends of messages that expire, by random numbers of their own. A gateway would refuse times as short as these.
pub(crate) fn passing(seed: u64, users: usize, from: Time, until: Time) -> Vec<(usize, Time, Want)> {
    let mut random = Random::new(seed ^ 0x6578_7069_7265);
    let mut one = || {
        let (user, to) = (random.index(users), random.index(users));
        let what = What::Passing { to, after_ms: random.between(10, 1200) };
        (user, random.between(from, until), Want { group: 0, what })
    };
    (0..8).map(|_| one()).collect()
}

/// `number`: that of the want.
pub(crate) fn sends(user: usize, incarnation: u64, number: u64, to: usize, after_ms: u64) -> Op {
    Op::Send(send(user, incarnation, format!("e{user}-{number}"), to, after_ms))
}

/// A message with this client id, and with the id as its text.
pub(crate) fn send(user: usize, incarnation: u64, client_id: String, to: usize, after_ms: u64) -> Send {
    Send {
        sender: user_name(user).into(),
        sender_device: DEVICE.into(),
        to: Some(SendTo { to: Some(send_to::To::User(user_name(to).into())) }),
        content: text(&client_id).encode_to_vec().into(),
        client_id: client_id.into(),
        connection: 1,
        incarnation,
        generation: incarnation,
        expires_after_ms: after_ms,
        ..Send::default()
    }
}

/// True for such a message, and for what is left of one that had expired before it came.
pub(crate) fn is_passing(envelope: &Envelope) -> bool {
    envelope.expires_at_ms != 0 && (envelope.erased || envelope.sender_device == DEVICE)
}

impl Entry {
    /// The entry as the store has it now.
    pub(crate) fn stored(&self) -> bytes::Bytes {
        match (self.is_gone, self.is_recalled) {
            (true, _) => self.envelope.clone().without_content().encode_to_vec().into(),
            (false, true) => self.envelope.clone().recalled().encode_to_vec().into(),
            (false, false) => self.bytes.clone(),
        }
    }

    /// True if the store may have answered this, a while ago perhaps.
    pub(crate) fn may_be(&self, envelope: &Envelope) -> bool {
        *envelope == self.envelope
            || self.is_recalled && *envelope == self.envelope.clone().recalled()
            || self.envelope.expires_at_ms != 0 && *envelope == self.envelope.clone().without_content()
    }
}

impl Entry {
    /// True if a repeat may be answered with this as the first envelope.
    pub(crate) fn was_answered(&self, first: &bytes::Bytes) -> bool {
        *first == self.bytes || Envelope::decode(first.clone()).is_ok_and(|first| self.may_be(&first))
    }
}

impl Model {
    /// A gateway writes this to a client.
    pub(crate) fn gives_out(&mut self, frame: &server_frame::Body, now_ms: u64) {
        let server_frame::Body::Deliver(deliver) = frame else { return };
        let Some(envelope) = deliver.envelope.as_ref().filter(|envelope| envelope.expires_at_ms != 0) else { return };
        let is_over = now_ms >= envelope.expires_at_ms;
        if is_over != envelope.erased {
            let (id, at_ms) = (&envelope.id, envelope.expires_at_ms);
            let what = if is_over { "was given out after its time" } else { "was left out before its time" };
            self.breaks(format!("{id} {what}: at {now_ms}, and it ends at {at_ms}"));
        }
    }
}

impl World<'_> {
    /// Leaders have removed contents: never before their time.
    pub(crate) fn contents_were_removed(&mut self) {
        let now_ms = self.schedule.unix_ms();
        for user in (0..self.scenario.users).map(user_name) {
            let Some(incarnation) = self.model.owner(&user) else { continue };
            let timeline = TimelineId::Inbox(UserId::new(&user).expect("valid"));
            let op = ReadTimeline {
                timeline: Some(timeline.to_key()),
                incarnation,
                max_bytes: u32::MAX,
                ..ReadTimeline::default()
            };
            let read = self.cluster.read(MAP.timeline_of(&timeline), &StoreOp::ReadTimeline(op));
            let Outcome::TimelineRead(TimelineRead { entries, .. }) = read else { continue };
            let Some(inbox) = self.model.inboxes.get_mut(&(user.clone(), incarnation)) else { continue };
            let mut early = None;
            for (known, stored) in inbox.entries.iter_mut().zip(&entries) {
                if known.is_gone || known.envelope.expires_at_ms == 0 || stored.envelope == known.stored() {
                    continue;
                }
                known.is_gone = true;
                self.report.expired += 1;
                if now_ms < known.envelope.expires_at_ms {
                    early = Some(format!("{} was removed from the inbox of {user} before its time", known.envelope.id));
                }
            }
            if let Some(early) = early {
                self.model.breaks(early);
            }
        }
    }
}
