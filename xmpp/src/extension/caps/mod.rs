//! Hashes of answers of service discovery, which presences carry (XEP-0115, XEP-0390). Entities with the same hash give the same answer.

mod legacy;
mod set;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};

pub use legacy::Legacy;
pub use set::HashSet;

use super::disco::Info;

/// The hash functions that can be checked here, by their names in XEP-0300. SHA3-256, which XEP-0414 demands beside SHA-256, is not among them:
/// an answer whose hashes are all by others is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// Only XEP-0115 has it.
    Sha1,
    Sha256,
    Sha512,
}

impl Algorithm {
    pub const ALL: &[Self] = &[Self::Sha1, Self::Sha256, Self::Sha512];

    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha-1",
            Self::Sha256 => "sha-256",
            Self::Sha512 => "sha-512",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|algorithm| algorithm.name() == name)
    }

    /// The hash in base64.
    fn hash(self, input: &[u8]) -> String {
        match self {
            Self::Sha1 => BASE64_STANDARD.encode(Sha1::digest(input)),
            Self::Sha256 => BASE64_STANDARD.encode(Sha256::digest(input)),
            Self::Sha512 => BASE64_STANDARD.encode(Sha512::digest(input)),
        }
    }
}

/// The reason why a hash is not that of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    #[error("the hash function is not known")]
    Algorithm,
    /// The answer breaks a rule without which several answers could have one hash.
    #[error("the answer is ill-formed")]
    IllFormed,
    #[error("the hash is that of another answer")]
    Hash,
}

#[cfg(test)]
mod tests;
