//! The router: owner of users on the ring. It knows where they are signed in, appends what is sent to them, and pushes
//! it to their gateways. Its memory is a cache of what the store knows. See `docs/architecture.md`.

mod admin;
mod backoff;
mod config;
mod cursors;
mod directory;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod lease;
mod link;
pub mod metrics;
mod owner;
mod partition;
mod peers;
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
