//! Opening, announcing and closing sessions.

use carillon_proto::{
    DeviceId, LeaseId, TimelineId, UserId,
    pb::{
        client::Position,
        link::{SessionOpened, SessionPresence, TimelineHead, evict::Why},
        store::{self, DeleteSession, Head, PutSession, directory_command},
    },
    sessions,
};
use tokio::time::Instant;

use super::{Announced, Answer, Continuation, Effect, Owner, Waiter, unexpected};
use crate::{
    reply::{Failure, ReplySlot},
    send::RequestContext,
    session::Session,
    store::{StoreAnswer, StoreFailure},
};

impl Owner {
    pub(super) fn announce(
        &mut self,
        session: store::Session,
        (presence, shown): (Option<Box<SessionPresence>>, u64),
        parts: RequestContext,
        now: Instant,
    ) {
        let known = Session { presence: presence.clone(), shown, ..Session::new(&session, parts.link) };
        if let Some(incarnation) = self.register.knows(&parts.user, &known) {
            self.register.catch_up(&parts.user);
            self.register.told_again(&parts.user, &known);
            let RequestContext { user, deadline, slot, .. } = parts;
            return match self.register.head(&user) {
                // Since it was read from the store, every append has passed through here.
                Some((incarnation, position)) => self.known(&user, incarnation, session.generation, position, slot),
                None => self.told(user, incarnation, session, slot, deadline),
            };
        }
        let RequestContext { user, link, deadline, slot, .. } = parts;
        let announced = Announced { session, presence: (presence, shown), signs_in: false, link, slot, deadline };
        self.wait(&user, Waiter::Announce(Box::new(announced)), now);
    }

    /// Called when the user was read after the session was announced. The store decides whether it is the newest
    /// session of its device, unless its row is there and nothing newer was heard of meanwhile.
    pub(super) fn announced(&mut self, user: &UserId, incarnation: u64, rows: &[store::Session], announced: Announced) {
        let session = &announced.session;
        let (presence, shown) = announced.presence.clone();
        let known = Session { presence, shown, ..Session::new(session, announced.link) };
        let is_stored = rows.iter().any(|row| is_same(row, session) && row.generation == session.generation);
        if is_stored && !self.register.has_other(user, &known) {
            self.watch_signed_in(user, session, true);
            self.put(user, incarnation, known);
            let Announced { session, slot, deadline, .. } = announced;
            self.told(user.clone(), incarnation, session, slot, deadline);
        } else {
            self.put_session(user.clone(), announced, true);
        }
    }

    pub(super) fn put_session(&mut self, user: UserId, mut asked: Announced, announced: bool) {
        if let Err(wrong) = DeviceId::new(&asked.session.device) {
            let wrong = wrong.into();
            self.watch_not_signed_in(&user, &asked.session.device, &wrong);
            return self.refuse(asked.slot, &wrong);
        }
        user.as_str().clone_into(&mut asked.session.user);
        let op = directory_command::Op::PutSession(PutSession {
            session: Some(asked.session.clone()),
            announced,
            max_sessions: self.max_devices_per_user,
        });
        let deadline = asked.deadline;
        self.directory_write(&user, op, deadline, Continuation::Session(user.clone(), Box::new(asked)));
    }

    pub(super) fn session_put(&mut self, user: UserId, asked: Announced, answer: Result<StoreAnswer, StoreFailure>) {
        let Announced { mut session, presence: (presence, shown), signs_in, link, slot, deadline } = asked;
        let put = match answer {
            Ok(StoreAnswer::SessionPut(put)) => put,
            // The session may have been stored nevertheless: then the gateway closes it, or asks again.
            other => {
                let failure = not_put(other);
                self.watch_not_signed_in(&user, &session.device, &failure);
                return self.refuse(slot, &failure);
            }
        };
        if put.kept.is_some() {
            self.watch_signed_out(&user, &session, sessions::told(Why::Replaced));
            self.register.remove(&user, LeaseId(session.lease), session.connection);
            return self.lost(slot);
        }
        if let Some(replaced) = put.replaced.filter(|replaced| !is_same(replaced, &session)) {
            self.watch_signed_out(&user, &replaced, sessions::told(Why::Replaced));
            let (gateway, connection) = (LeaseId(replaced.lease), replaced.connection);
            self.effects.push(Effect::Evict { gateway, connection, why: Why::Replaced });
        }
        session.generation = put.generation;
        self.watch_signed_in(&user, &session, !signs_in);
        self.put(&user, put.incarnation, Session { presence, shown, ..Session::new(&session, link) });
        self.told(user, put.incarnation, session, slot, deadline);
    }

    /// Answers the announcement of a known session from memory. A session that has been in the register throughout can
    /// have missed only pushes that were dropped on its gateway's link.
    fn known(&mut self, user: &UserId, incarnation: u64, generation: u64, position: Position, slot: ReplySlot) {
        let head = Head { epoch: position.epoch, last: position.seq, ..Head::default() };
        let timeline = Some(TimelineId::Inbox(user.clone()).to_client());
        let heads = vec![TimelineHead { timeline, head: Some(head) }];
        let opened = SessionOpened { heads, replaced: false, incarnation, generation };
        self.effects.push(Effect::Answer(slot, Answer::SessionOpened(opened)));
    }

    /// The session is in the register: later appends are pushed, and the head covers earlier ones.
    fn told(&mut self, user: UserId, incarnation: u64, session: store::Session, slot: ReplySlot, deadline: Instant) {
        let store::Session { device, generation, .. } = session;
        let asked = Continuation::SessionHead { user: user.clone(), incarnation, generation, slot };
        self.read_head(&user, incarnation, device, deadline, asked);
    }

    fn put(&mut self, user: &UserId, incarnation: u64, session: Session) {
        for over in self.register.put(user, incarnation, session) {
            let (gateway, connection) = (over.lease, over.connection);
            self.effects.push(Effect::Evict { gateway, connection, why: Why::Deleted });
        }
        self.checks.add(&TimelineId::Inbox(user.clone()), self.inbox_shard(user));
    }

    /// The number of running gateways that have not announced all sessions by this ring. While it is not 0, no user can
    /// be said to be offline.
    pub(super) fn missing(&self) -> usize {
        self.register.missing(self.topology.gateways(), self.topology.ring.version())
    }

    pub(super) fn close_session(
        &mut self,
        session: &store::Session,
        parts: RequestContext,
        now: Instant,
        time_ms: u64,
    ) {
        let RequestContext { user, slot, deadline, .. } = parts;
        let (gateway, connection) = (LeaseId(session.lease), session.connection);
        self.watch_signed_out(&user, session, "");
        self.register.remove(&user, gateway, connection);
        // An announcement that still waits for the account would restore the session.
        let is_of_it = |waiter: &Waiter| match waiter {
            Waiter::Announce(announced) => is_same(&announced.session, session),
            Waiter::Send(_) | Waiter::Mark(_) | Waiter::Marks(_) | Waiter::ChatState(_) | Waiter::Nobody => false,
        };
        for waiter in self.accounts.take_waiters(&user, is_of_it) {
            if let Waiter::Announce(announced) = waiter {
                self.lost(announced.slot);
            }
        }
        self.cursors.flush_soon(now);
        let delete = DeleteSession {
            user: user.as_str().to_owned(),
            device: session.device.clone(),
            lease: session.lease,
            connection,
            time_ms,
            generation: session.generation,
        };
        let op = directory_command::Op::DeleteSession(delete);
        self.directory_write(
            &user,
            op,
            deadline,
            Continuation::SessionClosed { user: user.clone(), gateway, connection, slot },
        );
    }

    /// Answers an announcement: the session is over.
    fn lost(&mut self, slot: ReplySlot) {
        let lost = SessionOpened { replaced: true, ..SessionOpened::default() };
        self.effects.push(Effect::Answer(slot, Answer::SessionOpened(lost)));
    }
}

/// Why the session was not stored. "Too many devices" is temporary: it passes when a device signs out.
fn not_put(answer: Result<StoreAnswer, StoreFailure>) -> Failure {
    match answer {
        Err(StoreFailure::NoRoom { detail }) => Failure::Devices(detail),
        other => unexpected(other),
    }
}

/// True if both are the same incarnation of a device's session.
fn is_same(a: &store::Session, b: &store::Session) -> bool {
    a.device == b.device && a.lease == b.lease && a.connection == b.connection
}
