//! The router: owner of users on the ring. It knows where they are signed in, appends what is sent to them, and pushes
//! it to their gateways. Its memory is what gateways tell and a cache of what the store knows. See `docs/architecture.md`.

mod accounts;
mod admin;
mod checks;
mod companions;
mod config;
mod cursors;
mod delivery;
mod due;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod gateway_links;
mod link;
pub mod metrics;
mod missed;
mod owner;
mod partition;
mod peers;
mod recent_keys;
mod register;
mod registry;
mod reply;
mod router;
mod send;
mod server;
#[doc(hidden)]
pub mod simulation;
mod store;
mod topology;

pub use config::{InvalidConfig, RouterConfig, UnknownRecipient};
pub use router::{OpenError, Router};
