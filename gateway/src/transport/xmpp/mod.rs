//! Transports of XMPP.

mod io;
pub(crate) mod stream;
