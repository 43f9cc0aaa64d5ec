//! Names and ids, validated where they are made.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc, time::SystemTime};

use crate::{DuplicateKey, limits};

/// An id that a client or a file gave is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {given:?} is not valid: {wrong}")]
pub struct InvalidId {
    what: &'static str,
    /// At most 40 characters of what was given.
    given: String,
    wrong: Wrong,
}

/// What is wrong with an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Wrong {
    #[error("{0}")]
    Rule(&'static str),
    /// It would be an id in another form. Never taken for it: two that look alike must not be one.
    #[error("its normal form is {0:?}")]
    NotNormal(String),
}

impl InvalidId {
    fn new(what: &'static str, given: &str, wrong: Wrong) -> Self {
        Self { what, given: given.chars().take(40).collect(), wrong }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Validates. One that is not in its normal form is refused, and the error tells that form.
            pub fn new(given: &str) -> Result<Self, InvalidId> {
                let check: fn(&str) -> Result<(), Wrong> = $check;
                check(given).map(|()| Self(Arc::from(given))).map_err(|wrong| InvalidId::new($what, given, wrong))
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
    /// A user, in the normal form of the local part of an XMPP address (Nodeprep, RFC 3920 appendix A, which is a profile
    /// of stringprep over Unicode 3.2): lower case, no spaces, none of `"&'/:<>@`; 1 to 128 bytes.
    UserId, "user id", owner
);

impl UserId {
    /// The user whose normal form this has. Only where somebody has decided that several texts are one user.
    pub fn normalised(given: &str) -> Result<Self, InvalidId> {
        let normal = normal(given).map_err(|rule| InvalidId::new("user id", given, Wrong::Rule(rule)))?;
        Self::new(&normal)
    }
}

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

fn owner(given: &str) -> Result<(), Wrong> {
    let normal = normal(given).map_err(Wrong::Rule)?;
    if normal == given { Ok(()) } else { Err(Wrong::NotNormal(normal.into_owned())) }
}

/// The normal form of a user's or group's name.
fn normal(given: &str) -> Result<Cow<'_, str>, &'static str> {
    const RULE: &str = "1 to 128 bytes in lower case, without spaces and \" & ' / : < > @";
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-' | b'+');
    let fits = |name: &str| (1..=limits::MAX_OWNER_BYTES).contains(&name.len());
    // Not much longer than its normal form can be: nobody makes us work for nothing.
    if given.is_empty() || given.len() > 4 * limits::MAX_OWNER_BYTES {
        return Err(RULE);
    }
    if given.bytes().all(plain) {
        return if fits(given) { Ok(given.into()) } else { Err(RULE) };
    }
    let name = stringprep::nodeprep(given).map_err(|_| RULE)?;
    // What is told as a normal form is one.
    let again = stringprep::nodeprep(&name).map_err(|_| RULE)?;
    if fits(&name) && again == name { Ok(name) } else { Err(RULE) }
}

fn printable(given: &str, max: usize, rule: &'static str) -> Result<(), Wrong> {
    // Nearly all are plain: looked at by bytes, eight and more at a time.
    let plain = given.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if given.is_empty() || given.len() > max || (!plain && given.chars().any(char::is_control)) {
        Err(Wrong::Rule(rule))
    } else {
        Ok(())
    }
}

/// The id that the service gives to an accepted message: a ULID, 48 bits of milliseconds and 80 bits of the message's
/// duplicate key, which is a cryptographic hash, in Crockford's base 32.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(u128);

impl MessageId {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

    /// The id of the message with this key that was taken at `time_ms`. The same arguments give the same id.
    pub fn of(time_ms: u64, key: DuplicateKey) -> Self {
        Self((u128::from(time_ms) << 80) | (u128::from_be_bytes(key.0) >> 48))
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

impl std::str::FromStr for ConnectionHandle {
    type Err = InvalidHandle;

    fn from_str(text: &str) -> Result<Self, InvalidHandle> {
        let parse = || {
            let (lease, connection) = text.split_once('-')?;
            Some(Self { lease: LeaseId(lease.parse().ok()?), connection: connection.parse().ok()? })
        };
        parse().filter(|handle| handle.to_string() == text).ok_or_else(|| InvalidHandle(text.to_owned()))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a connection handle: two numbers with a hyphen between them, as SignedIn tells it")]
pub struct InvalidHandle(String);

/// Milliseconds since 1970, for stamping what is new. Never for deciding who owns what.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_ids_that_look_alike_are_refused_with_their_normal_form() {
        for normal in ["alice", "jörg", "a.b_c-d+e", "\\40", "two!alice"] {
            assert_eq!(UserId::new(normal).expect("valid").as_str(), normal);
            assert_eq!(UserId::normalised(normal).expect("valid").as_str(), normal);
        }
        for (given, normal) in [
            ("Alice", "alice"),
            ("Straße", "strasse"),
            ("ａｌｉｃｅ", "alice"),
            ("al\u{ad}ice", "alice"),
            ("al\u{200d}ice", "alice"),
            ("ﬁ", "fi"),
            ("jo\u{308}rg", "jörg"),
        ] {
            let error = UserId::new(given).expect_err(given).to_string();
            assert!(error.ends_with(&format!("its normal form is {normal:?}")), "{error}");
            assert_eq!(UserId::normalised(given).expect(given).as_str(), normal);
            let error = GroupId::new(given).expect_err(given).to_string();
            assert!(error.starts_with("group id"), "{error}");
        }
        for bad in ["", "a b", "a@b", "a/b", "\u{0}", &"x".repeat(129), &"X".repeat(129), &"ß".repeat(65), "\u{1f600}"]
        {
            let error = UserId::new(bad).expect_err("refused").to_string();
            assert!(error.contains("1 to 128 bytes"), "{error}");
            UserId::normalised(bad).expect_err("refused");
        }
    }

    #[test]
    fn devices_and_client_ids_are_what_was_given() {
        for given in ["Phone", "phone", "ｐｈｏｎｅ", "a b", "x@y", "\u{1f600}"] {
            assert_eq!(DeviceId::new(given).expect("valid").as_str(), given);
            assert_eq!(ClientId::new(given).expect("valid").as_str(), given);
        }
    }

    #[test]
    fn a_handle_is_read_as_it_was_written() {
        let handle = ConnectionHandle { lease: LeaseId(64), connection: 7 };
        assert_eq!(handle.to_string().parse(), Ok(handle));
        for wrong in ["", "64", "64-", "-7", "64-7-1", "+64-7", "064-7", "a-b"] {
            wrong.parse::<ConnectionHandle>().expect_err(wrong);
        }
    }

    #[test]
    fn message_ids_sort_by_time_and_are_26_characters() {
        let key = |byte| DuplicateKey([byte; 16]);
        let (a, b) = (MessageId::of(1, key(9)), MessageId::of(2, key(1)));
        assert_eq!(a.to_string(), MessageId::of(1, key(9)).to_string());
        assert_ne!(a.to_string(), MessageId::of(1, key(8)).to_string());
        assert!(a.to_string() < b.to_string());
        assert_eq!(a.to_string().len(), 26);
    }
}
