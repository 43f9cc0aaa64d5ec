//! The errors that XMPP defines, as enums, and the elements that carry them.

mod sasl;
mod stanza;
mod stream;

pub use sasl::SaslFailure;
pub use stanza::{ErrorType, StanzaCondition, StanzaError};
pub use stream::{StreamCondition, StreamError};
