//! Why a call of a [`crate::Client`] has failed.

use carillon_proto::InvalidId;

use crate::{Refusal, TlsError};

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("no address of a gateway was given")]
    NoAddress,
    #[error(transparent)]
    Tls(#[from] TlsError),
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SendError {
    #[error("message was refused: {0}")]
    Refused(Refusal),
    /// The message may or may not have been accepted. Sending it again with the same id is safe.
    #[error("no answer in time for message {client_id:?}{}", last.as_ref().map(|refusal| format!(", last refused with {refusal}")).unwrap_or_default())]
    TimedOut { client_id: String, last: Option<Refusal> },
    /// Whether the message was accepted is unknown, as after a timeout.
    #[error("client has ended: {0}")]
    Ended(String),
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FetchError {
    #[error("fetch was refused: {0}")]
    Refused(Refusal),
    #[error("no answer in time")]
    TimedOut,
    #[error("the service answered another question")]
    OtherAnswer,
    #[error("it has changed again and again while it was read")]
    Unsteady,
    #[error("client has ended: {0}")]
    Ended(String),
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RenewError {
    /// The session continues until the previous token expires; then this one is tried.
    #[error("token was refused: {0}")]
    Refused(Refusal),
    #[error("client has ended: {0}")]
    Ended(String),
}
