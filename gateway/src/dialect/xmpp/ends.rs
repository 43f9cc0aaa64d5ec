//! The ends of sessions, in the words of XMPP.

use std::sync::Arc;

use carillon_proto::pb::client::Code;
use carillon_xmpp::{
    Framing,
    error::{ErrorType, StanzaCondition, StanzaError, StreamCondition},
};

use super::{Dialog, Seed, Service};
use crate::conversation::{Now, Tell};

/// The error that ends the stream; `None`: it is closed without one.
pub(super) fn end_of(code: Code) -> Option<StreamCondition> {
    match code {
        Code::SignedOut => None,
        // RFC 6120, section 7.7.2.2: "If the server follows behavior #3, it returns a <conflict/> stream error [...] to the currently connected
        // client".
        Code::Replaced => Some(StreamCondition::Conflict),
        Code::ShuttingDown => Some(StreamCondition::SystemShutdown),
        Code::TimedOut => Some(StreamCondition::ConnectionTimeout),
        Code::Overloaded | Code::TooSlow => Some(StreamCondition::ResourceConstraint),
        Code::Unauthenticated | Code::Expired | Code::Forbidden | Code::NotFound => {
            Some(StreamCondition::NotAuthorized)
        }
        Code::Invalid | Code::TooLarge | Code::RateLimited | Code::OutOfOrder | Code::Exists | Code::TooLate => {
            Some(StreamCondition::PolicyViolation)
        }
        Code::Unsupported => Some(StreamCondition::UnsupportedFeature),
        Code::Unspecified | Code::Unavailable | Code::Internal => Some(StreamCondition::InternalServerError),
    }
}

/// The answer to a request whose session ends before it has another one.
pub(super) fn refusal_of(code: Code) -> StanzaError {
    match code {
        // RFC 6120, section 7.6.2.1: "If the account has reached a limit on the number of simultaneous connected resources allowed, the server
        // MUST return a <resource-constraint/> stanza error".
        Code::Overloaded | Code::RateLimited | Code::TooSlow => StanzaCondition::ResourceConstraint.into(),
        Code::Unauthenticated | Code::Expired | Code::Forbidden | Code::NotFound => {
            StanzaCondition::NotAuthorized.into()
        }
        Code::Replaced => StanzaCondition::Conflict.into(),
        Code::Invalid
        | Code::TooLarge
        | Code::OutOfOrder
        | Code::Exists
        | Code::TooLate
        | Code::Unsupported
        | Code::Unspecified
        | Code::Unavailable
        | Code::Internal
        | Code::SignedOut
        | Code::ShuttingDown
        | Code::TimedOut => StanzaError::new(StanzaCondition::InternalServerError).with_type(ErrorType::Wait),
    }
}

/// A whole stream over TCP for a client for which there is no place.
pub(crate) fn refusal(service: Arc<Service>, seed: Seed, why: &str, now: Now) -> Vec<u8> {
    let mut dialog = Dialog::new(service, Framing::Tcp, seed, now);
    dialog.tell(Tell::Bye { code: Code::Overloaded, reason: why.to_owned(), again_ms: None, ended: None });
    dialog.out().to_vec()
}
