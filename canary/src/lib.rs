//! The canary: two clients of reserved accounts, which send each other a message through the whole path every few seconds, and
//! report whether it was accepted and delivered as it was sent. See docs/operations.md.
//!
//! ```text
//! canary.rs      the role: opened, run and drained
//! accounts.rs    its accounts
//! device.rs      a client of one account
//! round.rs       one message
//! ledger.rs      what was sent and what has arrived, without clock and waiting
//! wellness.rs    whether the service delivers, as readiness
//! ```

mod accounts;
mod canary;
mod config;
mod device;
mod ledger;
pub mod metrics;
mod round;
mod wellness;

pub use canary::{Canary, OpenError};
pub use config::{CanaryConfig, InvalidConfig};
