//! Dialects: each turns a protocol's bytes into asks, and tells into bytes.

pub(crate) mod native;
pub(crate) mod xmpp;
