//! What turns the bytes of a protocol into asks, and tells into its bytes.

pub(crate) mod native;
