//! XMPP: a client's stream without sockets, clock and random numbers. See docs/adr/0038-xmpp.md, and docs/xmpp.md for what works.
//!
//! | module | what it is |
//! | --- | --- |
//! | `dialog` | the stream of a client: events and tells in, asks and bytes out |
//! | `header`, `sign_in`, `checks`, `binding` | the steps until a client may send stanzas |
//! | `stanzas`, `iq` | stanzas, and requests that the service answers itself |
//! | `ends` | the cause for which a session has ended, as an error of the stream |
//! | `tcp` | a dialog with its parser of bytes |
//! | `service`, `seed` | the part that all clients share; names that nobody can guess |

mod binding;
mod checks;
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

pub(crate) use checks::Check;
pub(crate) use dialog::Dialog;
pub(crate) use ends::refusal;
pub(crate) use seed::Seed;
pub(crate) use service::Service;
pub(crate) use tcp::{Heard, TcpDialog};
