//! What operators are told who watch a user.

use carillon_proto::{
    DeviceId, LeaseId, TimelineId, UserId,
    pb::{
        admin::{WatchEvent, watch_event::Kind},
        client::{Code, Position, recipient::To},
        link::{self, Direct, Origin, Push, RawEnvelope, Signal, send_to},
        store::{self, session::Protocol},
    },
};
use prost::Message as _;

use super::{Effect, Owner};
use crate::{reply::Failure, send::Sending, session::Session, watches::Watcher};

impl Owner {
    /// Tells the watcher from now on of everything that concerns the user.
    pub(crate) fn watch(&mut self, watcher: Watcher) {
        let user = watcher.user.clone();
        self.watches.get_or_insert_default().add(watcher);
        for Session { device, lease, connection, .. } in self.register.all_sessions(&user).to_vec() {
            let there = at(Kind::There, &user, &device, lease, connection);
            self.watched(&user, || there);
        }
    }

    /// Forgets who watches no more.
    pub(crate) fn sweep_watches(&mut self) {
        if self.watches.as_mut().is_some_and(|watches| !watches.sweep()) {
            self.watches = None;
        }
    }

    /// Tells those who watch the user.
    pub(crate) fn tell_watchers(&mut self, user: &UserId, event: &WatchEvent) {
        if let Some(watches) = &mut self.watches {
            watches.tell(user, event);
        }
    }

    /// Nearly always nobody watches anybody.
    fn watched(&mut self, user: &UserId, event: impl FnOnce() -> WatchEvent) {
        if self.watches.as_ref().is_some_and(|watches| watches.has(user)) {
            self.effects.push(Effect::Watched(user.clone(), Box::new(event())));
        }
    }

    /// Of a message between two users, either of whom may be watched.
    fn watched_message(&mut self, sending: &Sending, event: impl Fn(WatchEvent) -> WatchEvent) {
        let Some(watches) = &self.watches else { return };
        let users = [&sending.sender, &sending.recipient];
        let told = if sending.is_to_oneself() { &users[..1] } else { &users[..] };
        for user in told.iter().filter(|user| watches.has(user)) {
            self.effects.push(Effect::Watched((*user).clone(), Box::new(event(message(&sending.envelope)))));
        }
    }

    pub(super) fn watch_send(&mut self, sending: &Sending) {
        self.watched_message(sending, |message| WatchEvent { kind: Kind::Sent.into(), ..message });
    }

    pub(super) fn watch_stored(&mut self, sending: &Sending, seq: u64) {
        self.watched_message(sending, |message| WatchEvent { kind: Kind::Stored.into(), seq, ..message });
    }

    pub(super) fn watch_accepted(&mut self, sending: &Sending, seq: u64) {
        self.watched_message(sending, |message| WatchEvent { kind: Kind::Accepted.into(), seq, ..message });
    }

    /// Answers that the message was not accepted, or that this is not known.
    pub(super) fn refuse_send(&mut self, sending: Sending, failure: &Failure) {
        let refusal = failure.to_refusal();
        self.watched_message(&sending, |message| refused(message, refusal.code(), &refusal.reason));
        self.refuse(sending.slot, failure);
    }

    /// Refuses a message that could not even be read.
    pub(super) fn watch_unreadable(&mut self, send: &link::Send, failure: &Failure) {
        if self.watches.is_none() {
            return;
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let to = match send.to.as_ref().and_then(|to| to.to.as_ref()) {
            Some(send_to::To::User(to) | send_to::To::Group(to)) => text(to),
            None => String::new(),
        };
        let (refusal, sender) = (failure.to_refusal(), text(&send.sender));
        let message = WatchEvent {
            user: sender.clone(),
            device: text(&send.sender_device),
            to: to.clone(),
            client_id: text(&send.client_id),
            bytes: send.content.len() as u32,
            ..WatchEvent::default()
        };
        for user in [sender, to].iter().filter_map(|user| UserId::new(user).ok()) {
            self.watched(&user, || refused(message.clone(), refusal.code(), &refusal.reason));
        }
    }

    pub(super) fn watch_signed_in(&mut self, user: &UserId, session: &store::Session, announced: bool) {
        let kind = if announced { Kind::Announced } else { Kind::SignedIn };
        let protocol = match session.protocol() {
            Protocol::Tcp => "tcp",
            Protocol::Websocket => "websocket",
            Protocol::Grpc => "grpc",
            Protocol::Xmpp => "xmpp",
            Protocol::Unspecified => "other",
        };
        let (lease, connection) = (LeaseId(session.lease), session.connection);
        self.watched(user, || WatchEvent {
            protocol: protocol.to_owned(),
            ..at(kind, user, &session.device, lease, connection)
        });
    }

    pub(super) fn watch_not_signed_in(&mut self, user: &UserId, device: &str, failure: &Failure) {
        let refusal = failure.to_refusal();
        let event = WatchEvent { user: user.as_str().to_owned(), device: device.to_owned(), ..WatchEvent::default() };
        self.watched(user, || WatchEvent {
            kind: Kind::SignInRefused.into(),
            ..refused(event, refusal.code(), &refusal.reason)
        });
    }

    /// `why`: empty if the session has ended by itself.
    pub(super) fn watch_signed_out(&mut self, user: &UserId, session: &store::Session, why: &str) {
        let (lease, connection) = (LeaseId(session.lease), session.connection);
        self.watched(user, || WatchEvent {
            reason: why.to_owned(),
            ..at(Kind::SignedOut, user, &session.device, lease, connection)
        });
    }

    /// Sessions whose gateways have ended, before they are taken out of the register; and who owns the watched users now.
    pub(super) fn watch_topology(&mut self, owned_before: impl Fn(&UserId) -> bool) {
        let Some(watches) = &self.watches else { return };
        for user in watches.users() {
            for session in self.register.all_sessions(user).iter().filter(|known| self.topology.has_ended(known.lease))
            {
                let event = WatchEvent {
                    reason: "its gateway has ended".to_owned(),
                    ..at(Kind::SignedOut, user, &session.device, session.lease, session.connection)
                };
                self.effects.push(Effect::Watched(user.clone(), Box::new(event)));
            }
            let owns = self.topology.owns(user.as_str());
            if owns != owned_before(user) {
                let (kind, user) = (Kind::Owner.into(), user.clone());
                let event = WatchEvent { kind, user: user.as_str().to_owned(), owns, ..WatchEvent::default() };
                self.effects.push(Effect::Watched(user, Box::new(event)));
            }
        }
    }

    /// The event of a push, if somebody watches its user.
    pub(crate) fn watched_push(&self, gateway: LeaseId, push: &Push) -> Option<(UserId, WatchEvent)> {
        let watches = self.watches.as_ref()?;
        let Ok(Some(TimelineId::Inbox(user))) = TimelineId::from_client(push.timeline.as_ref()?) else { return None };
        if !watches.has(&user) {
            return None;
        }
        let event = WatchEvent {
            kind: Kind::Pushed.into(),
            seq: push.position.as_ref().map_or(0, |position| position.seq),
            bytes: push.envelope.len() as u32,
            gateway: gateway.0,
            connections: push.connections.clone(),
            ..message(&push.envelope)
        };
        Some((user, event))
    }

    pub(super) fn watch_head(&mut self, user: &UserId, gateway: LeaseId, seq: u64) {
        self.watched(user, || WatchEvent {
            kind: Kind::Head.into(),
            user: user.as_str().to_owned(),
            gateway: gateway.0,
            seq,
            ..WatchEvent::default()
        });
    }

    pub(super) fn watch_acknowledged(&mut self, user: &UserId, device: &DeviceId, position: Position) {
        self.watched(user, || WatchEvent {
            kind: Kind::Acknowledged.into(),
            user: user.as_str().to_owned(),
            device: device.as_str().to_owned(),
            seq: position.seq,
            ..WatchEvent::default()
        });
    }

    pub(super) fn watch_read(&mut self, user: &UserId, from_seq: u64) {
        self.watched(user, || WatchEvent {
            kind: Kind::Read.into(),
            user: user.as_str().to_owned(),
            seq: from_seq,
            ..WatchEvent::default()
        });
    }

    pub(super) fn watch_signal(&mut self, user: &UserId, Signal { from, device, body, .. }: &Signal) {
        self.watched(user, || direct(Kind::Signal, from.as_ref(), user, device, body.len()));
    }

    pub(super) fn watch_direct(&mut self, user: &UserId, Direct { from, device, body, .. }: &Direct) {
        self.watched(user, || direct(Kind::Directed, from.as_ref(), user, device, body.len()));
    }
}

fn at(kind: Kind, user: &UserId, device: &str, lease: LeaseId, connection: u64) -> WatchEvent {
    WatchEvent {
        kind: kind.into(),
        user: user.as_str().to_owned(),
        device: device.to_owned(),
        gateway: lease.0,
        connections: vec![connection],
        ..WatchEvent::default()
    }
}

/// What an envelope says of itself, without its content.
fn message(envelope: &bytes::Bytes) -> WatchEvent {
    // This service has made it.
    let envelope = RawEnvelope::decode(envelope.clone()).unwrap_or_default();
    let to = match envelope.to.and_then(|to| to.to) {
        Some(To::User(to) | To::Group(to)) => to,
        None => String::new(),
    };
    WatchEvent {
        user: envelope.sender,
        device: envelope.sender_device,
        to,
        client_id: envelope.client_id,
        message_id: envelope.id,
        bytes: envelope.content.len() as u32,
        ..WatchEvent::default()
    }
}

fn refused(event: WatchEvent, code: Code, reason: &str) -> WatchEvent {
    WatchEvent { kind: Kind::Refused.into(), code: code.into(), reason: reason.to_owned(), ..event }
}

fn direct(kind: Kind, from: Option<&Origin>, to: &UserId, device: &str, bytes: usize) -> WatchEvent {
    let Origin { user, device: from_device } = from.cloned().unwrap_or_default();
    WatchEvent {
        kind: kind.into(),
        user,
        device: from_device,
        to: to.as_str().to_owned(),
        to_device: device.to_owned(),
        bytes: bytes as u32,
        ..WatchEvent::default()
    }
}
