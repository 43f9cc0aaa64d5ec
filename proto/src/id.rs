//! Names and ids, validated where they are made.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use crate::{DuplicateKey, limits};

/// A client or a file gave an invalid id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {given:?} is not valid: {wrong}")]
pub struct InvalidId {
    what: &'static str,
    /// At most the first 40 characters of the given text.
    given: String,
    wrong: Wrong,
}

/// Why an id is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Wrong {
    #[error("{0}")]
    Rule(&'static str),
    /// The id is not in its normal form. It is refused instead of normalised: two ids that look alike must not be one.
    #[error("its normal form is {0:?}")]
    NotNormal(String),
}

impl InvalidId {
    fn new(what: &'static str, given: &str, wrong: Wrong) -> Self {
        Self { what, given: given.chars().take(40).collect(), wrong }
    }
}

/// The text of an id that came as bytes. `what`: the id, for the error.
pub fn id_text<'a>(what: &'static str, given: &'a [u8]) -> Result<&'a str, InvalidId> {
    let invalid = |_| InvalidId::new(what, &String::from_utf8_lossy(given), Wrong::Rule("ids are UTF-8"));
    std::str::from_utf8(given).map_err(invalid)
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Validates an id. An id that is not in its normal form is refused; the error names the normal form.
            pub fn new(given: &str) -> Result<Self, InvalidId> {
                Self::check(given).map(|()| Self(Arc::from(given)))
            }

            /// Validates an id without making one.
            pub fn check(given: &str) -> Result<(), InvalidId> {
                let check: fn(&str) -> Result<(), Wrong> = $check;
                check(given).map_err(|wrong| InvalidId::new($what, given, wrong))
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
    /// A user: a local part, and for users of another domain than the default one `@` and the [`DomainId`]. The local part is in the
    /// normal form of that of an XMPP address (Nodeprep, RFC 3920 appendix A, which is a profile of stringprep over Unicode 3.2):
    /// lower case, no spaces, none of `"&'/:<>@`; 1 to 128 bytes.
    UserId, "user id", owner
);

impl UserId {
    /// The domain, or `None` for the default one.
    pub fn domain(&self) -> Option<&str> {
        domain_in(&self.0)
    }

    /// A user of this domain, of the default one if it is `None`. The given text may not name a domain.
    pub fn local(given: &str, domain: Option<&DomainId>) -> Result<Self, InvalidId> {
        let wrong = |wrong| InvalidId::new("user id", given, wrong);
        let local = normal_local(given).map_err(|rule| wrong(Wrong::Rule(rule)))?;
        if local != given {
            return Err(wrong(Wrong::NotNormal(local.into_owned())));
        }
        Ok(Self(domain.map_or_else(|| Arc::from(given), |domain| format!("{given}@{domain}").into())))
    }

    /// Normalises, and is else as `local`.
    pub fn normalised_local(given: &str, domain: Option<&DomainId>) -> Result<Self, InvalidId> {
        let local = normal_local(given).map_err(|rule| InvalidId::new("user id", given, Wrong::Rule(rule)))?;
        Self::local(&local, domain)
    }

    /// Normalises, then validates. Use only where someone has decided that several spellings mean one user.
    pub fn normalised(given: &str) -> Result<Self, InvalidId> {
        let normal = normal(given).map_err(|rule| InvalidId::new("user id", given, Wrong::Rule(rule)))?;
        Self::new(&normal)
    }
}

name!(
    /// A group. The rules are those of user ids.
    GroupId, "group id", owner
);

impl GroupId {
    /// As [`UserId::domain`].
    pub fn domain(&self) -> Option<&str> {
        domain_in(&self.0)
    }
}

name!(
    /// A domain of users and groups: a host name in Unicode (UTS 46), in lower case, without a dot at its end; at most 255 bytes.
    DomainId, "domain", |given| {
        let normal = normal_domain(given).map_err(Wrong::Rule)?;
        if normal == given { Ok(()) } else { Err(Wrong::NotNormal(normal.into_owned())) }
    }
);

impl DomainId {
    /// Normalises, then validates. Use only where several spellings mean one domain, as in addresses.
    pub fn normalised(given: &str) -> Result<Self, InvalidId> {
        let normal = normal_domain(given).map_err(|rule| InvalidId::new("domain", given, Wrong::Rule(rule)))?;
        Self::new(&normal)
    }
}

/// The domain in the id of a user or a group; `None`: the default one.
pub(crate) fn domain_in(id: &str) -> Option<&str> {
    id.split_once('@').map(|(_, domain)| domain)
}

name!(
    /// A device of a user; the client chooses the id. 1 to 64 bytes without control characters.
    DeviceId, "device id", |given| printable(given, limits::MAX_DEVICE_BYTES, "1 to 64 bytes without control characters")
);
name!(
    /// The id that a client gives to a message that it sends; 1 to 64 bytes without control characters.
    ClientId, "client id", |given| printable(given, limits::MAX_CLIENT_ID_BYTES, "1 to 64 bytes without control characters")
);

fn owner(given: &str) -> Result<(), Wrong> {
    let normal = normal(given).map_err(Wrong::Rule)?;
    if normal == given { Ok(()) } else { Err(Wrong::NotNormal(normal.into_owned())) }
}

/// The normal form of the id of a user or group.
fn normal(given: &str) -> Result<Cow<'_, str>, &'static str> {
    let Some((local, domain)) = given.split_once('@') else { return normal_local(given) };
    let (local, domain) = (normal_local(local)?, normal_domain(domain)?);
    if local.len() + 1 + domain.len() == given.len() && given.starts_with(&*local) && given.ends_with(&*domain) {
        return Ok(given.into());
    }
    Ok(format!("{local}@{domain}").into())
}

fn normal_domain(given: &str) -> Result<Cow<'_, str>, &'static str> {
    const RULE: &str = "a domain is a host name of at most 255 bytes, in lower case, without a dot at its end";
    let plain = |label: &str| {
        let byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(byte)
            && !label.starts_with('-')
            && !label.ends_with('-')
            // Else it is the encoded form of something else, or may be.
            && label.as_bytes().get(2..4) != Some(b"--")
    };
    if given.len() > limits::MAX_DOMAIN_BYTES || given.ends_with('.') {
        return Err(RULE);
    }
    if given.split('.').all(plain) {
        return Ok(given.into());
    }
    let ascii = idna::domain_to_ascii_strict(given).map_err(|_| RULE)?;
    let (name, valid) = idna::domain_to_unicode(&ascii);
    // The reported normal form must itself be in normal form.
    let again = idna::domain_to_ascii_strict(&name).map_err(|_| RULE)?;
    let is_host = again.split('.').all(|label| plain(label) || label.starts_with("xn--"));
    if valid.is_ok() && again == ascii && is_host && name.len() <= limits::MAX_DOMAIN_BYTES {
        Ok(if name == given { given.into() } else { name.into() })
    } else {
        Err(RULE)
    }
}

/// The normal form of the part of an id before the domain.
fn normal_local(given: &str) -> Result<Cow<'_, str>, &'static str> {
    const RULE: &str = "1 to 128 bytes in lower case, without spaces and \" & ' / : < > @";
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-' | b'+');
    let fits = |name: &str| (1..=limits::MAX_OWNER_BYTES).contains(&name.len());
    // Bounds the work: a valid name is not much longer than its normal form.
    if given.is_empty() || given.len() > 4 * limits::MAX_OWNER_BYTES {
        return Err(RULE);
    }
    if given.bytes().all(plain) {
        return if fits(given) { Ok(given.into()) } else { Err(RULE) };
    }
    let name = stringprep::nodeprep(given).map_err(|_| RULE)?;
    // The reported normal form must itself be in normal form.
    let again = stringprep::nodeprep(&name).map_err(|_| RULE)?;
    if fits(&name) && again == name { Ok(name) } else { Err(RULE) }
}

fn printable(given: &str, max: usize, rule: &'static str) -> Result<(), Wrong> {
    // Nearly all names are plain ASCII and take this fast path, which the compiler vectorises.
    let plain = given.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if given.is_empty() || given.len() > max || (!plain && given.chars().any(char::is_control)) {
        Err(Wrong::Rule(rule))
    } else {
        Ok(())
    }
}

/// The id that the service gives to an accepted message: a ULID in Crockford's base 32. 48 bits are milliseconds, 80
/// bits are from the message's duplicate key, which is a cryptographic hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(u128);

impl MessageId {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

    /// The id of the message with this key, accepted at `time_ms`. The same arguments give the same id.
    pub fn of(time_ms: u64, key: DuplicateKey) -> Self {
        Self((u128::from(time_ms) << 80) | (u128::from_be_bytes(key.0) >> 48))
    }

    /// When the message was accepted, in milliseconds since 1970.
    pub fn time_ms(self) -> u64 {
        // 48 bits are left.
        (self.0 >> 80) as u64
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a message id: 26 digits and capital letters, as `Accepted` tells it")]
pub struct InvalidMessageId(String);

impl FromStr for MessageId {
    type Err = InvalidMessageId;

    fn from_str(text: &str) -> Result<Self, InvalidMessageId> {
        let parse = || {
            let digit = |byte| Self::ALPHABET.iter().position(|known| *known == byte).map(|digit| digit as u128);
            let fits = text.len() == 26 && text.as_bytes()[0] <= b'7';
            let add = |id, byte| Some(id << 5 | digit(byte)?);
            text.bytes().try_fold(0, add).filter(|_| fits).map(Self)
        };
        parse().ok_or_else(|| InvalidMessageId(text.chars().take(40).collect()))
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

/// The registration of one incarnation of a gateway or router. Ids are never reused, so an old incarnation can't be
/// mistaken for a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u64);

/// The unique id of a connection: the gateway's lease at sign-in, and a counter within that lease.
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
        for bad in ["", "a b", "@b", "a/b", "\u{0}", &"x".repeat(129), &"X".repeat(129), &"ß".repeat(65), "\u{1f600}"]
        {
            let error = UserId::new(bad).expect_err("refused").to_string();
            assert!(error.contains("1 to 128 bytes"), "{error}");
            UserId::normalised(bad).expect_err("refused");
        }
    }

    #[test]
    fn ids_of_another_domain_than_the_default_one_end_with_it() {
        let alice = UserId::new("alice@chat.example.org").expect("valid");
        assert_eq!((alice.domain(), UserId::new("alice").expect("valid").domain()), (Some("chat.example.org"), None));
        let domain = DomainId::new("bücher.example").expect("valid");
        for spelling in ["bücher.example", "BÜCHER.example", "xn--bcher-kva.example"] {
            assert_eq!(DomainId::normalised(spelling).as_ref(), Ok(&domain), "{spelling}");
        }
        DomainId::normalised("bücher..example").expect_err("two dots");
        let user = UserId::local("jörg", Some(&domain)).expect("valid");
        assert_eq!((user.as_str(), user.domain()), ("jörg@bücher.example", Some("bücher.example")));
        assert_eq!(UserId::new(user.as_str()), Ok(user.clone()));
        assert_eq!(UserId::normalised_local("JÖRG", Some(&domain)), Ok(user));
        assert_eq!(UserId::local("alice", None), UserId::new("alice"));
        for (given, normal) in [
            ("alice@Example.org", "alice@example.org"),
            ("alice@xn--bcher-kva.example", "alice@bücher.example"),
            ("Alice@BÜCHER.example", "alice@bücher.example"),
        ] {
            let error = GroupId::new(given).expect_err(given).to_string();
            assert!(error.ends_with(&format!("its normal form is {normal:?}")), "{error}");
            GroupId::new(normal).expect(normal);
        }
        let long = format!("{}.example", "a".repeat(64));
        for bad in [
            "a@",
            "a@b@c",
            "a@b c",
            "a@b/c",
            "a@.b",
            "a@b.",
            "a@b..c",
            "a@-b",
            "a@b-",
            "a@b_c",
            "a@*",
            &format!("a@{long}"),
        ] {
            UserId::new(bad).expect_err(bad);
        }
        for named in ["alice@example.org", "alice@", "Alice"] {
            UserId::local(named, None).expect_err(named);
        }
        DomainId::new(&vec!["a".repeat(60); 5].join(".")).expect_err("too long");
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

    #[test]
    fn a_message_id_is_read_as_it_was_written_and_tells_its_time() {
        let id = MessageId::of(1_700_000_000_123, DuplicateKey([0xa7; 16]));
        assert_eq!((id.to_string().parse(), id.time_ms()), (Ok(id), 1_700_000_000_123));
        let (lower, long) = (id.to_string().to_lowercase(), format!("{id}0"));
        for wrong in ["", "01", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ", "0IIIIIIIIIIIIIIIIIIIIIIIII", &lower, &long] {
            wrong.parse::<MessageId>().expect_err(wrong);
        }
    }
}
