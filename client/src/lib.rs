//! The native client of Carillon, over TCP, TLS, WebSocket and gRPC.
//!
//! [`Client`] stays signed in, sends each message exactly once and gives each envelope once and in order.
//! [`Connection`] is one connection, frame by frame, for whoever needs that control.

mod acks;
mod address;
mod attempts;
mod backoff;
mod client;
mod command;
mod config;
mod connection;
mod contacts;
mod conversations;
mod driver;
mod ending;
mod error;
mod event;
mod fetches;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod groups;
mod media;
mod outbox;
mod positions;
mod privacy;
mod references;
mod reports;
mod scheduled;
mod scram;
mod session;
mod sign_in;
mod ticket;
mod tls;

#[doc(hidden)]
pub mod simulation {
    pub use crate::session::simulation::{Device, Lost};
}

pub use address::{Address, Format, InvalidAddress, Transport};
pub use client::{Client, Pending};
pub use config::{Acknowledge, ClientConfig, Credential};
pub use connection::{ConnectOptions, Connection, ConnectionError};
pub use contacts::ContactChange;
pub use conversations::{ConversationList, ListVersion};
pub use ending::Ending;
pub use error::{FetchError, OpenError, RenewError, SendError};
pub use event::{Event, Events, State};
pub use groups::Change;
pub use media::{MediaError, Moved, NewFile};
pub use outbox::Refusal;
pub use references::Target;
pub use scheduled::{ScheduledChange, ScheduledList};
pub use scram::{Scram, ScramError};
pub use sign_in::{SignInError, resume, sign_in};
pub use ticket::Ticket;
pub use tls::{TlsError, Trust};
