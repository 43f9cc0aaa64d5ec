//! The router: the owner of users on the ring. It knows where they are signed in, appends messages to their inboxes,
//! and pushes them to their gateways. Its memory holds what gateways have told it, and a cache of the store. See
//! `docs/architecture.md`.

mod accounts;
mod admin;
mod census;
mod checks;
mod companions;
mod config;
mod cursors;
mod delivery;
mod departures;
mod descriptions;
mod due;
mod followers;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod gateway_links;
mod group_changes;
mod group_messages;
mod link;
mod marks;
pub mod metrics;
mod missed;
mod owner;
mod part;
mod partition;
mod peers;
#[cfg(feature = "planted-bugs")]
mod planted;
mod presence;
mod privacy;
mod recent_keys;
mod register;
mod registry;
mod reply;
mod router;
mod said;
mod send;
mod server;
mod session;
#[doc(hidden)]
pub mod simulation;
mod store;
mod teller;
mod topology;
mod undelivered;
mod watches;
mod workers;

pub use config::{InvalidConfig, RouterConfig, UnknownRecipient};
pub use router::{OpenError, Router};
