//! Passes: the right to upload or download a file, in its URL. A pass is sealed with a key of the cluster, so that any gateway reads what
//! another one has written. Nothing is stored; whoever knows the URL may do what it says until it expires.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0 | version, 1 |
//! | 1 to 4 | id of the key |
//! | 5 to 36 | HMAC-SHA-256 of the version, the id and the contents |
//! | from 37 | [`Contents`], as protobuf |
//!
//! In the URL it is base64url without padding (RFC 4648, section 5).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use carillon_proto::{
    MediaId, UserId,
    credentials::hmac,
    peer::{PeerSecurity, Tier},
};
use prost::Message;
use subtle::ConstantTimeEq as _;

use crate::Version;

const VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 4;
const HEAD_BYTES: usize = 1 + KEY_ID_BYTES;
const MAC_BYTES: usize = 32;
/// Longest pass in an URL: names and types are short.
const MAX_TEXT_BYTES: usize = 2048;
/// The beginning of URLs of files, behind scheme and host.
pub const PATH: &str = "/media/";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    pub id: MediaId,
    pub size_bytes: u64,
    /// In milliseconds since 1970.
    pub expires_ms: u64,
    pub to: Purpose,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    Upload {
        user: UserId,
        /// Of the user's account.
        incarnation: u64,
    },
    Download {
        version: Version,
        /// By what is in the file.
        media_type: String,
        name: String,
        /// The user who has asked for the URL.
        whose: Whose,
    },
}

/// A user, by a number that tells the name to nobody outside of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Whose(pub u64);

impl Whose {
    /// Moderators, who share what one user has.
    pub const MODERATORS: Self = Self(0);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PassError {
    #[error(
        "the address of the file is not one of this service, or was made with a secret that is not in use any more"
    )]
    Unknown,
    #[error("the address of the file has expired: ask for another one")]
    Expired,
}

/// The keys that seal and open passes.
#[derive(Default)]
pub struct PassKeys(Vec<PassKey>);

struct PassKey {
    id: [u8; KEY_ID_BYTES],
    secret: [u8; 32],
}

/// The encoding. Numbers are never used again; another version may mean others.
#[derive(Clone, PartialEq, Message)]
struct Contents {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(uint64, tag = "2")]
    size_bytes: u64,
    #[prost(uint64, tag = "3")]
    expires_ms: u64,
    /// Of an upload.
    #[prost(string, tag = "4")]
    user: String,
    #[prost(uint64, tag = "5")]
    incarnation: u64,
    /// Of a download.
    #[prost(string, tag = "6")]
    media_type: String,
    #[prost(string, tag = "7")]
    name: String,
    /// Of other bytes than those that were uploaded.
    #[prost(bytes = "vec", tag = "8")]
    version: Vec<u8>,
    /// Of a download.
    #[prost(fixed64, tag = "9")]
    whose: u64,
}

impl PassKeys {
    /// The keys of all gateways of the cluster, which routers know as well: one for each secret that is in use.
    pub fn of(security: &PeerSecurity) -> Self {
        Self::new(security.derive_keys_of(Tier::Gateway, "gateway: addresses of files 1"))
    }

    /// The first one seals, all open.
    pub fn new(secrets: impl IntoIterator<Item = [u8; 32]>) -> Self {
        let key = |secret: [u8; 32]| {
            let [a, b, c, d, ..] = hmac(&secret, b"id");
            PassKey { id: [a, b, c, d], secret }
        };
        Self(secrets.into_iter().map(key).collect())
    }

    /// The number of a user, as long as the newest secret is in use.
    pub fn whose(&self, user: &UserId) -> Whose {
        let secret = self.0.first().map_or([0; 32], |key| key.secret);
        let [a, b, c, d, e, f, g, h, ..] = hmac(&secret, &[b"user ", user.as_str().as_bytes()].concat());
        Whose(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    /// `base`: what comes before the path, or nothing. `None` without a key.
    pub fn url(&self, base: &str, pass: &Pass) -> Option<String> {
        let key = self.0.first()?;
        let head = [&[VERSION][..], &key.id].concat();
        let contents = Contents::from(pass).encode_to_vec();
        let mac = hmac(&key.secret, &[&*head, &contents].concat());
        let sealed = URL_SAFE_NO_PAD.encode([&*head, &mac, &contents].concat());
        Some(format!("{}{PATH}{sealed}", base.trim_end_matches('/')))
    }

    /// Opens the path of an URL.
    pub fn open(&self, path: &str, now_ms: u64) -> Result<Pass, PassError> {
        let unknown = PassError::Unknown;
        let text = path.strip_prefix(PATH).filter(|text| text.len() <= MAX_TEXT_BYTES).ok_or(unknown)?;
        let sealed = URL_SAFE_NO_PAD.decode(text).map_err(|_| unknown)?;
        let (head, rest) = sealed.split_at_checked(HEAD_BYTES).ok_or(unknown)?;
        let key = self.0.iter().find(|key| head[0] == VERSION && head[1..] == key.id).ok_or(unknown)?;
        let (mac, contents) = rest.split_at_checked(MAC_BYTES).ok_or(unknown)?;
        let right: bool = hmac(&key.secret, &[head, contents].concat()).ct_eq(mac).into();
        if !right {
            return Err(unknown);
        }
        let pass = Pass::try_from(Contents::decode(contents).map_err(|_| unknown)?)?;
        if pass.expires_ms <= now_ms { Err(PassError::Expired) } else { Ok(pass) }
    }
}

impl From<&Pass> for Contents {
    fn from(pass: &Pass) -> Self {
        let contents = Self {
            id: pass.id.as_bytes().to_vec(),
            size_bytes: pass.size_bytes,
            expires_ms: pass.expires_ms,
            ..Self::default()
        };
        match &pass.to {
            Purpose::Upload { user, incarnation } => {
                Self { user: user.as_str().to_owned(), incarnation: *incarnation, ..contents }
            }
            Purpose::Download { version, media_type, name, whose } => {
                let version = match version {
                    Version::Uploaded => Vec::new(),
                    Version::Other(hash) => hash.to_vec(),
                };
                Self { media_type: media_type.clone(), name: name.clone(), version, whose: whose.0, ..contents }
            }
        }
    }
}

impl TryFrom<Contents> for Pass {
    type Error = PassError;

    fn try_from(contents: Contents) -> Result<Self, PassError> {
        let unknown = PassError::Unknown;
        let Contents { id, size_bytes, expires_ms, user, incarnation, media_type, name, version, whose } = contents;
        let to = if user.is_empty() {
            let version = match <[u8; 8]>::try_from(&*version) {
                Ok(hash) => Version::Other(hash),
                Err(_) if version.is_empty() => Version::Uploaded,
                Err(_) => return Err(unknown),
            };
            Purpose::Download { version, media_type, name, whose: Whose(whose) }
        } else {
            Purpose::Upload { user: UserId::new(&user).map_err(|_| unknown)?, incarnation }
        };
        Ok(Self { id: MediaId::from_bytes(&id).ok_or(unknown)?, size_bytes, expires_ms, to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn purpose() -> impl Strategy<Value = Purpose> {
        let upload = ("[a-z0-9]{1,128}", any::<u64>()).prop_map(|(user, incarnation)| {
            let user = UserId::new(&user).expect("valid");
            Purpose::Upload { user, incarnation }
        });
        let version = prop_oneof![Just(Version::Uploaded), any::<[u8; 8]>().prop_map(Version::Other)];
        let texts = (".{0,60}", ".{0,60}");
        let download = (version, texts, any::<u64>()).prop_map(|(version, (media_type, name), whose)| {
            Purpose::Download { version, media_type, name, whose: Whose(whose) }
        });
        prop_oneof![upload, download]
    }

    prop_compose! {
        fn pass()(
            tail in any::<[u8; 14]>(),
            size_bytes in any::<u64>(),
            expires_ms in NOW_MS + 1..u64::MAX,
            to in purpose(),
        ) -> Pass {
            Pass { id: MediaId::new(3, tail), size_bytes, expires_ms, to }
        }
    }

    proptest! {
        #[test]
        fn a_pass_says_after_its_way_what_was_sealed(pass in pass()) {
            let keys = PassKeys::new([[1; 32]]);
            let url = keys.url("https://a.example", &pass).expect("a key");
            let path = url.strip_prefix("https://a.example").expect("begins so");
            prop_assert_eq!(keys.open(path, NOW_MS), Ok(pass));
        }

        #[test]
        fn a_pass_of_which_any_byte_is_another_is_refused(
            pass in pass(), at in any::<prop::sample::Index>(), bits in 1u8..,
        ) {
            let keys = PassKeys::new([[1; 32], [2; 32]]);
            let url = keys.url("", &pass).expect("a key");
            let mut sealed = URL_SAFE_NO_PAD.decode(&url[PATH.len()..]).expect("base64");
            let at = at.index(sealed.len());
            sealed[at] ^= bits;
            let forged = format!("{PATH}{}", URL_SAFE_NO_PAD.encode(sealed));
            prop_assert_eq!(keys.open(&forged, NOW_MS), Err(PassError::Unknown));
        }

        #[test]
        fn other_paths_are_no_passes(path in "/media/.{0,3000}") {
            prop_assert_eq!(PassKeys::new([[1; 32]]).open(&path, NOW_MS), Err(PassError::Unknown));
        }
    }

    #[test]
    fn a_pass_counts_until_it_expires_and_while_its_secret_is_in_use() {
        let [old, new] = [[1; 32], [2; 32]];
        let [media_type, name] = [const { String::new() }; 2];
        let to = Purpose::Download { version: Version::Uploaded, media_type, name, whose: Whose(7) };
        let pass = Pass { id: MediaId::new(0, [0; 14]), size_bytes: 1, expires_ms: NOW_MS + 1, to };
        let url = PassKeys::new([old]).url("", &pass).expect("a key");
        assert_eq!(PassKeys::new([new, old]).open(&url, NOW_MS), Ok(pass.clone()));
        assert_eq!(PassKeys::new([new, old]).open(&url, NOW_MS + 1), Err(PassError::Expired));
        assert_eq!(PassKeys::new([new]).open(&url, NOW_MS), Err(PassError::Unknown));
        assert_eq!(PassKeys::default().url("", &pass), None);
    }
}
