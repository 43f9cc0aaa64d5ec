//! Signing in and out.

use carillon_proto::{
    DeviceId, LeaseId, UserId,
    pb::{
        link::{SessionOpened, evict::Why},
        store::{DeleteSession, PutSession, Session, SessionPut, directory_command},
    },
};
use tokio::time::Instant;

use super::{Answer, Asked, Effect, Owner, Waiter, unexpected};
use crate::{
    directory::is_same,
    metrics,
    reply::{Failure, ReplySlot},
    send::Parts,
    store::{StoreAnswer, StoreFailure},
};

impl Owner {
    pub(super) fn announce(&mut self, session: Session, parts: Parts, now: Instant) {
        let Some(known) = self.directory.user(&parts.user, now) else {
            metrics::directory_lookup(false);
            let waiter = Waiter::Announce(Box::new((session, parts.slot, parts.deadline)));
            return self.wait(&parts.user, waiter, now);
        };
        metrics::directory_lookup(true);
        let incarnation = known.incarnation;
        if known.sessions.iter().any(|known| is_same(known, &session) && known.generation == session.generation) {
            let generation = session.generation;
            let asked = Asked::SessionHead { user: parts.user.clone(), incarnation, generation, slot: parts.slot };
            self.read_head(&parts.user, incarnation, session.device, parts.deadline, asked);
        } else {
            self.put_session(parts.user, session, true, parts.slot, parts.deadline);
        }
    }

    pub(super) fn put_session(
        &mut self,
        user: UserId,
        mut session: Session,
        announced: bool,
        slot: ReplySlot,
        deadline: Instant,
    ) {
        if let Err(wrong) = DeviceId::new(&session.device) {
            return self.refuse(slot, &wrong.into());
        }
        user.as_str().clone_into(&mut session.user);
        let op = directory_command::Op::PutSession(PutSession {
            session: Some(session.clone()),
            announced,
            max_sessions: self.max_devices_per_user,
        });
        let asked = Asked::Session { user: user.clone(), session, slot, deadline };
        self.directory_write(&user, op, deadline, asked);
    }

    pub(super) fn session_put(
        &mut self,
        user: UserId,
        mut session: Session,
        slot: ReplySlot,
        deadline: Instant,
        answer: Result<StoreAnswer, StoreFailure>,
    ) {
        let mut put = match answer {
            Ok(StoreAnswer::SessionPut(put)) => put,
            other => {
                // It may have been stored all the same.
                self.directory.forget(&user);
                return self.refuse(slot, &not_put(other));
            }
        };
        if let Some(kept) = put.kept.take() {
            self.directory.put(&user, put.incarnation, kept);
            let lost = SessionOpened { replaced: true, ..SessionOpened::default() };
            return self.effects.push(Effect::Answer(slot, Answer::SessionOpened(lost)));
        }
        if let Some(replaced) = put.replaced.take().filter(|replaced| !is_same(replaced, &session)) {
            let (gateway, connection) = (LeaseId(replaced.lease), replaced.connection);
            self.effects.push(Effect::Evict { gateway, connection, why: Why::Replaced });
        }
        let device = session.device.clone();
        let SessionPut { incarnation, generation, .. } = put;
        session.generation = generation;
        self.directory.put(&user, incarnation, session);
        // After the session is in the directory: what is appended from now on is pushed, what came before is in the
        // head.
        let asked = Asked::SessionHead { user: user.clone(), incarnation, generation, slot };
        self.read_head(&user, incarnation, device, deadline, asked);
    }

    pub(super) fn delete_session(&mut self, user: &UserId, session: &Session, deadline: Instant, asked: Asked) {
        let delete = DeleteSession {
            user: user.as_str().to_owned(),
            device: session.device.clone(),
            lease: session.lease,
            connection: session.connection,
        };
        self.directory_write(user, directory_command::Op::DeleteSession(delete), deadline, asked);
    }
}

/// Why the session was not stored. That the user has too many devices passes when one of them signs out.
fn not_put(answer: Result<StoreAnswer, StoreFailure>) -> Failure {
    match answer {
        Err(StoreFailure::NoRoom { detail }) => Failure::Devices(detail),
        other => unexpected(other),
    }
}
