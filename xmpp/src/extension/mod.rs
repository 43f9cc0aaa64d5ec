//! Payloads of stanzas that a server reads or writes itself, by their XEPs. Each reader takes an element that was read by the limits of its
//! stream, so that what it makes of it is bounded by these.

pub mod caps;
pub mod carbons;
pub mod date_time;
pub mod delay;
pub mod disco;
pub mod form;
pub mod hints;
pub mod page;
pub mod stanza_id;
