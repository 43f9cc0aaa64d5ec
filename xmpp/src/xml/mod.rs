//! XML as XMPP allows it (RFC 6120, section 11): where elements end in a stream of bytes, and what is in them.

pub(crate) mod chars;
pub(crate) mod escape;
pub(crate) mod read;
pub(crate) mod scan;
pub(crate) mod scope;
pub(crate) mod tag;
