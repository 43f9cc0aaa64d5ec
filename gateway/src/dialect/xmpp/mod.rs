//! XMPP: a client's stream without sockets, clock and random numbers. See docs/adr/0038-xmpp.md, and docs/xmpp.md for what works.
//!
//! | module | what it is |
//! | --- | --- |
//! | `dialog` | one client: what its stream says, and what it is told |
//! | `header`, `sign_in`, `binding` | the steps until a client may send stanzas |
//! | `stanzas`, `iq` | stanzas, and requests that the service answers itself |
//! | `ends` | why a session has ended, as an error of the stream |
//! | `tcp` | a dialog with its parser of bytes |
//! | `service`, `seed` | what all clients share; names that nobody can guess |

mod binding;
mod dialog;
mod ends;
mod header;
mod iq;
mod seed;
mod service;
mod sign_in;
mod stanzas;
mod tcp;
#[cfg(test)]
mod tests;

pub(crate) use dialog::{Check, Dialog};
pub(crate) use ends::refusal;
pub(crate) use seed::Seed;
pub(crate) use service::Service;
pub(crate) use tcp::{Heard, TcpDialog};
