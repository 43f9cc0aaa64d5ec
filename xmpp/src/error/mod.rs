//! The errors that XMPP defines, as enums, and the elements that carry them.

/// An enum of the conditions of an error: elements that are empty, or have a text of their own.
macro_rules! conditions {
    ($(#[$of:meta])* $enum:ident { $($(#[$doc:meta])* $name:ident = $text:literal,)* }) => {
        $(#[$of])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $enum {
            $($(#[$doc])* $name,)*
        }

        impl $enum {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name of the element.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }

        impl std::fmt::Display for $enum {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

mod sasl;
mod stanza;
mod stream;

pub use sasl::SaslFailure;
pub use stanza::{ErrorType, StanzaCondition, StanzaError};
pub use stream::{StreamCondition, StreamError};
