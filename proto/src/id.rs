//! Names and ids, validated where they are made.

use std::{fmt, str::FromStr, sync::Arc, time::SystemTime};

use rand::RngExt as _;

use crate::limits;

/// An id that a client or a file gave is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {given:?} is not valid: {rule}")]
pub struct InvalidId {
    what: &'static str,
    /// At most 40 characters of what was given.
    given: String,
    rule: &'static str,
}

impl InvalidId {
    fn new(what: &'static str, given: &str, rule: &'static str) -> Self {
        Self { what, given: given.chars().take(40).collect(), rule }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $normalise:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Validates and normalises.
            pub fn new(given: &str) -> Result<Self, InvalidId> {
                let normalise: fn(&str) -> Result<std::borrow::Cow<'_, str>, &'static str> = $normalise;
                normalise(given).map(|name| Self(Arc::from(name.as_ref()))).map_err(|rule| InvalidId::new($what, given, rule))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(given: &str) -> Result<Self, InvalidId> {
                Self::new(given)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// A user. Normalised like the local part of an XMPP address (nodeprep, RFC 3920 appendix A): lower case, no
    /// spaces, none of `"&'/:<>@`; 1 to 128 bytes.
    UserId, "user id", owner
);
name!(
    /// A group. The same rule as for users.
    GroupId, "group id", owner
);
name!(
    /// A device of a user, chosen by the client; 1 to 64 bytes without control characters.
    DeviceId, "device id", |given| printable(given, limits::MAX_DEVICE_BYTES, "1 to 64 bytes without control characters")
);
name!(
    /// The id that a client gives to a message it sends; 1 to 64 bytes without control characters.
    ClientId, "client id", |given| printable(given, limits::MAX_CLIENT_ID_BYTES, "1 to 64 bytes without control characters")
);

fn owner(given: &str) -> Result<std::borrow::Cow<'_, str>, &'static str> {
    const RULE: &str = "1 to 128 bytes in lower case, without spaces and \" & ' / : < > @";
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-' | b'+');
    if given.is_empty() || given.len() > limits::MAX_OWNER_BYTES {
        return Err(RULE);
    }
    if given.bytes().all(plain) {
        return Ok(given.into());
    }
    let name = stringprep::nodeprep(given).map_err(|_| RULE)?;
    if name.is_empty() || name.len() > limits::MAX_OWNER_BYTES { Err(RULE) } else { Ok(name) }
}

fn printable<'a>(given: &'a str, max: usize, rule: &'static str) -> Result<std::borrow::Cow<'a, str>, &'static str> {
    if given.is_empty() || given.len() > max || given.chars().any(char::is_control) {
        Err(rule)
    } else {
        Ok(given.into())
    }
}

/// The id that the service gives to an accepted message: a ULID, 48 bits of milliseconds and 80 random bits in
/// Crockford's base 32.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(u128);

impl MessageId {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

    /// A new one for a message that was taken at `time_ms`.
    pub fn random(time_ms: u64) -> Self {
        let noise: u128 = rand::rng().random();
        Self((u128::from(time_ms) << 80) | (noise >> 48))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; 26];
        for (i, byte) in text.iter_mut().enumerate() {
            *byte = Self::ALPHABET[((self.0 >> (5 * (25 - i))) & 31) as usize];
        }
        // The alphabet is ASCII.
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The registration of one incarnation of a gateway or router. Never given twice, so an old incarnation can't be
/// mistaken for a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u64);

/// The unique id of a connection: the gateway's lease at sign-in and a counter within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionHandle {
    pub lease: LeaseId,
    pub connection: u64,
}

impl fmt::Display for ConnectionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.lease.0, self.connection)
    }
}

/// Milliseconds since 1970, for stamping what is new. Never for deciding who owns what.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_ids_are_case_folded_and_refused_with_the_rule() {
        assert_eq!(UserId::new("Alice").expect("valid").as_str(), "alice");
        assert_eq!(UserId::new("jörg").expect("valid").as_str(), "jörg");
        for bad in ["", "a b", "a@b", "a/b", "\u{0}", &"x".repeat(129)] {
            let error = UserId::new(bad).expect_err("refused").to_string();
            assert!(error.contains("1 to 128 bytes"), "{error}");
        }
    }

    #[test]
    fn message_ids_sort_by_time_and_are_26_characters() {
        let (a, b) = (MessageId::random(1), MessageId::random(2));
        assert!(a.to_string() < b.to_string());
        assert_eq!(a.to_string().len(), 26);
    }
}
