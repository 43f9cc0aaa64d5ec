//! Messages from session to session that bypass the store.

use carillon_proto::{
    LeaseId, UserId, limits,
    pb::link::{Direct, Directed, Signal, Signaled},
};

use super::{Effect, Owner};
use crate::{metrics, reply::Failure, send::RequestContext};

impl Owner {
    /// Passes a signal to all sessions of a user, or to one device. The sender is not told whether it arrived.
    pub(crate) fn signal(&mut self, signal: Signal) {
        let Ok(user) = UserId::new(&signal.user) else { return };
        self.watch_signal(&user, &signal);
        let Signal { from, device, body, user: _ } = signal;
        if body.len() > limits::MAX_SIGNAL_BYTES {
            return metrics::signal(false);
        }
        let mut gateways: Vec<(LeaseId, Vec<u64>)> = Vec::new();
        let sessions = self.register.all_sessions(&user).iter();
        for session in sessions.filter(|session| device.is_empty() || *session.device == *device) {
            match gateways.iter_mut().find(|(lease, _)| *lease == session.lease) {
                Some((_, connections)) => connections.push(session.connection),
                None => gateways.push((session.lease, vec![session.connection])),
            }
        }
        for (gateway, connections) in gateways {
            let signal = Signaled { connections, from: from.clone(), body: body.clone(), notice: None };
            self.effects.push(Effect::Signal(gateway, signal));
        }
    }

    /// Passes a directed request to one session, whose gateway answers.
    pub(super) fn direct(&mut self, direct: Direct, parts: RequestContext) {
        self.watch_direct(&parts.user, &direct);
        let Direct { from, device, body, .. } = direct;
        if body.len() > limits::MAX_SIGNAL_BYTES {
            let failure = Failure::TooLarge { bytes: body.len(), max: limits::MAX_SIGNAL_BYTES };
            return self.refuse(parts.slot, &failure);
        }
        let mut sessions = self.register.all_sessions(&parts.user).iter();
        match sessions.find(|session| *session.device == *device) {
            Some(session) => {
                let directed = Directed { connection: session.connection, from, body, ..Directed::default() };
                let (slot, deadline) = (parts.slot, parts.deadline);
                self.effects.push(Effect::Direct { gateway: session.lease, directed, slot, deadline });
            }
            // The session may be on a gateway that has not announced it yet.
            None if self.missing() > 0 => self.refuse(parts.slot, &Failure::Unreached),
            None => self.refuse(parts.slot, &Failure::NotSignedIn),
        }
    }
}
