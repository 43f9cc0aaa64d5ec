//! A sign-in by a resume ticket, and the tickets that a client is given.

use bytes::Bytes;
use carillon_proto::{DeviceId, UserId, pb::client::Code};

use super::{
    AskId, Effect, Now, Proof, Rules, Session, State, Tell,
    sign_in::SignIn,
    ticket::{Ticket, TicketError},
};
use crate::{metrics, outcome::refusal};

/// The way of a sign-in by ticket, for metrics and the log.
pub(super) const TICKET: &str = "ticket";

impl Rules {
    /// A ticket for a device that has just given its credential; empty if there are none.
    pub(super) fn new_ticket(
        &self,
        now: Now,
        (user, device): (&UserId, &DeviceId),
        proof: Proof,
        credential_expires_ms: Option<u64>,
    ) -> Bytes {
        let expires_ms = self.ticket_expires_ms(now, credential_expires_ms);
        self.seal(&Ticket { user: user.clone(), device: device.clone(), proof, credential_expires_ms, expires_ms })
    }

    /// When a ticket expires that stands for a credential that is given now.
    pub(super) fn ticket_expires_ms(&self, now: Now, credential_expires_ms: Option<u64>) -> u64 {
        let lifetime_ms = u64::try_from(self.ticket_lifetime.as_millis()).unwrap_or(u64::MAX);
        now.unix_ms.saturating_add(lifetime_ms).min(credential_expires_ms.unwrap_or(u64::MAX))
    }

    pub(super) fn seal(&self, ticket: &Ticket) -> Bytes {
        if self.ticket_lifetime.is_zero() { Bytes::new() } else { self.tickets.load().seal(ticket) }
    }

    /// Opens a sealed ticket. Fails unless it is for this user and device, and credentials of its kind are still taken.
    pub(super) fn open_ticket(
        &self,
        now: Now,
        sealed: &[u8],
        named: &str,
        device: &DeviceId,
    ) -> Result<Ticket, TicketError> {
        if self.ticket_lifetime.is_zero() {
            return Err(TicketError::Off);
        }
        let ticket = self.tickets.load().open(sealed, now.unix_ms)?;
        ticket.check(named, device)?;
        let is_taken = match &ticket.proof {
            Proof::Password { .. } => self.have_passwords(&ticket.user),
            Proof::Token { key, .. } => self.tokens.load().has(*key, &ticket.user),
        };
        if is_taken { Ok(ticket) } else { Err(TicketError::CredentialOff) }
    }
}

impl Session {
    /// The ticket is not taken. The client may give its credential on the same connection, once.
    pub(super) fn ticket_refused(&mut self, now: Now, named: &str, error: TicketError, out: &mut Vec<Effect>) {
        let reason = error.to_string();
        if error.is_a_guess() {
            if let Err(wait) = self.rules.throttle.check_address(self.address, now.instant) {
                return self.throttled(now, TICKET, named, wait, out);
            }
            self.rules.throttle.failed(self.address, None, now.instant);
            metrics::sign_in(TICKET, "unauthenticated");
            self.tell_failed(now, TICKET, named, &reason);
        } else {
            metrics::sign_in(TICKET, "stale");
        }
        self.state = State::SigningIn(Box::new(SignIn::Again));
        out.push(Effect::Tell(Tell::Refused { asked: AskId::SignIn, why: refusal(Code::Unauthenticated, &reason, 0) }));
    }
}
