//! SCRAM (RFC 5802, RFC 7677), with channel binding and without.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use carillon_proto::{
    credentials::{self, ITERATIONS_EVER, PasswordError},
    pb::store::ScramCredentials,
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

use super::{ChannelBindings, user};
use crate::{Jid, error::SaslFailure};

/// The hash function of a mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hash {
    Sha1,
    Sha256,
}

impl Hash {
    /// The length of its output, in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    pub(crate) fn hash(self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => Sha1::digest(message).to_vec(),
            Self::Sha256 => Sha256::digest(message).to_vec(),
        }
    }

    pub(crate) fn hmac(self, key: &[u8], message: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => {
                // HMAC takes keys of any length (RFC 2104 section 3).
                let mut mac = Hmac::<Sha1>::new_from_slice(key).expect("any key length is valid");
                mac.update(message);
                mac.finalize().into_bytes().to_vec()
            }
            Self::Sha256 => credentials::hmac(key, message).to_vec(),
        }
    }

    pub(crate) fn salted(self, password: &str, salt: &[u8], iterations: u32) -> Zeroizing<Vec<u8>> {
        let mut salted = Zeroizing::new(vec![0; self.bytes()]);
        match self {
            Self::Sha1 => pbkdf2::pbkdf2_hmac::<Sha1>(password.as_bytes(), salt, iterations, &mut salted),
            Self::Sha256 => pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), salt, iterations, &mut salted),
        }
        salted
    }
}

/// The keys of a password for one hash function, as a server keeps them. They do not suffice to sign in.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    hash: Hash,
    salt: Vec<u8>,
    iterations: u32,
    stored_key: Vec<u8>,
    server_key: Vec<u8>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("hash", &self.hash).field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.stored_key.zeroize();
        self.server_key.zeroize();
    }
}

impl Keys {
    /// Keys as the store has them. `None` if they are not those of this hash function.
    pub fn stored(hash: Hash, stored: &ScramCredentials) -> Option<Self> {
        let is_sound = stored.stored_key.len() == hash.bytes()
            && stored.server_key.len() == hash.bytes()
            && !stored.salt.is_empty()
            && stored.iterations > 0;
        is_sound.then(|| Self {
            hash,
            salt: stored.salt.to_vec(),
            iterations: stored.iterations,
            stored_key: stored.stored_key.to_vec(),
            server_key: stored.server_key.to_vec(),
        })
    }

    /// Keys of a password. Slow by design: runs PBKDF2 with `iterations` iterations.
    pub fn derive(hash: Hash, password: &str, salt: &[u8], iterations: u32) -> Result<Self, PasswordError> {
        if password.is_empty() {
            return Err(PasswordError::Empty);
        }
        if password.len() > MAX_PASSWORD_BYTES {
            return Err(PasswordError::TooLong);
        }
        let password = stringprep::saslprep(password).map_err(|_| PasswordError::Forbidden)?;
        // RFC 4616, section 2: "if preparation fails or results in an empty string, verification SHALL fail".
        if password.is_empty() {
            return Err(PasswordError::Empty);
        }
        Ok(Self::of_salted(hash, &hash.salted(&password, salt, iterations), salt, iterations))
    }

    /// Keys of SaltedPassword (RFC 5802, section 3).
    pub(super) fn of_salted(hash: Hash, salted: &[u8], salt: &[u8], iterations: u32) -> Self {
        let client_key = Zeroizing::new(hash.hmac(salted, b"Client Key"));
        Self {
            hash,
            salt: salt.to_vec(),
            iterations,
            stored_key: hash.hash(&client_key),
            server_key: hash.hmac(salted, b"Server Key"),
        }
    }

    /// Keys for a user without any: always the same for the same name, so that nobody learns which users exist. No password fits them.
    /// `key` is a secret of the service, `user` the id of the user as every dialect has it.
    pub fn decoy(hash: Hash, key: &[u8; 32], user: &str) -> Self {
        // Keys of SHA-256 are the same as in the native dialect: different ones would tell that the user does not exist.
        let decoy = match hash {
            Hash::Sha256 => credentials::decoy(key, user),
            Hash::Sha1 => {
                let mut decoy = credentials::decoy(&credentials::hmac(key, b"SCRAM-SHA-1"), user);
                decoy.stored_key.truncate(hash.bytes());
                decoy.server_key.truncate(hash.bytes());
                decoy
            }
        };
        debug_assert!(ITERATIONS_EVER.contains(&decoy.iterations));
        Self {
            hash,
            salt: decoy.salt.to_vec(),
            iterations: decoy.iterations,
            stored_key: decoy.stored_key.to_vec(),
            server_key: decoy.server_key.to_vec(),
        }
    }

    pub(super) fn hash(&self) -> Hash {
        self.hash
    }

    /// Keys as the store has them.
    pub fn to_stored(&self) -> ScramCredentials {
        ScramCredentials {
            salt: self.salt.clone().into(),
            iterations: self.iterations,
            stored_key: self.stored_key.clone().into(),
            server_key: self.server_key.clone().into(),
        }
    }

    /// Whether this is the password. Slow by design, and as slow for a wrong one.
    pub fn accepts(&self, password: &str) -> bool {
        // A password that is refused for its form is replaced by one that is wrong, so that it takes as long.
        let given = Self::derive(self.hash, password, &self.salt, self.iterations);
        let is_valid = given.is_ok();
        let given = given.or_else(|_| Self::derive(self.hash, "wrong", &self.salt, self.iterations));
        given.is_ok_and(|given| bool::from(given.stored_key.ct_eq(&self.stored_key))) && is_valid
    }

    /// The ServerSignature, if the ClientProof is right. Takes as long if it is wrong.
    fn check(&self, auth_message: &[u8], proof: &[u8]) -> Option<Vec<u8>> {
        let signature = self.hash.hmac(&self.stored_key, auth_message);
        let key = signature.iter().enumerate().map(|(at, byte)| byte ^ proof.get(at).copied().unwrap_or(0));
        let client_key = Zeroizing::new(key.collect::<Vec<u8>>());
        let is_right = self.hash.hash(&client_key).ct_eq(&self.stored_key)
            & (proof.len() as u64).ct_eq(&(self.hash.bytes() as u64));
        bool::from(is_right).then(|| self.hash.hmac(&self.server_key, auth_message))
    }
}

const MAX_PASSWORD_BYTES: usize = 1024;

/// The header before the client's first message (RFC 5801, section 4).
pub(super) struct Gs2 {
    flag: Flag,
    /// The type of channel binding.
    pub(super) binding: Option<String>,
    pub(super) authzid: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flag {
    /// The client does not bind.
    No,
    /// The client would bind, and thinks that the server would not.
    Would,
    Yes,
}

impl Gs2 {
    /// The header, and what follows its last comma.
    pub(super) fn read(text: &str) -> Result<(Self, &str), SaslFailure> {
        let malformed = SaslFailure::MalformedRequest;
        let mut parts = text.splitn(3, ',');
        let (Some(flag), Some(authzid), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(malformed);
        };
        let (flag, binding) = match flag {
            "n" => (Flag::No, None),
            "y" => (Flag::Would, None),
            _ => {
                let name = flag.strip_prefix("p=").filter(|name| {
                    !name.is_empty()
                        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
                });
                (Flag::Yes, Some(name.ok_or(malformed)?.to_owned()))
            }
        };
        let authzid = match authzid {
            "" => None,
            _ => Some(unescape(authzid.strip_prefix("a=").ok_or(malformed)?)?),
        };
        Ok((Self { flag, binding, authzid }, rest))
    }
}

/// client-first-message.
pub(super) struct First {
    pub(super) user: Jid,
    /// The address as which the client wants to act.
    pub(super) authzid: Option<String>,
    /// The header and the data of channel binding, which the client has to repeat.
    binding: Vec<u8>,
    bare: String,
    nonce: String,
}

impl First {
    /// `binds`: the mechanism is one with channel binding. `offers_binding`: the client was offered such a one.
    pub(super) fn read(
        message: &[u8],
        host: &str,
        binds: bool,
        offers_binding: bool,
        bindings: &ChannelBindings,
    ) -> Result<Self, SaslFailure> {
        let malformed = SaslFailure::MalformedRequest;
        let text = std::str::from_utf8(message).map_err(|_| malformed)?;
        let (gs2, bare) = Gs2::read(text)?;
        let mut binding = text.as_bytes()[..text.len() - bare.len()].to_vec();
        match (gs2.flag, binds) {
            // RFC 5802, section 6: "If the flag is set to "y" and the server supports channel binding, the server MUST fail
            // authentication."
            (Flag::Would, _) if offers_binding => return Err(SaslFailure::NotAuthorized),
            (Flag::No | Flag::Would, false) => {}
            (Flag::Yes, true) => {
                // RFC 5802, section 6: "If the channel binding flag was "p" and the server does not support the indicated channel
                // binding type, then the server MUST fail authentication." "Servers MUST choose the channel binding type indicated
                // by the client, or fail authentication if they don't support it."
                let data = gs2.binding.as_deref().and_then(|name| bindings.data(name));
                binding.extend_from_slice(data.ok_or(SaslFailure::NotAuthorized)?);
            }
            _ => return Err(malformed),
        }
        // RFC 5802, section 5.1, of "m": "its presence in a client or a server message MUST cause authentication failure". "Unknown
        // optional extensions MUST be ignored upon receipt."
        let mut fields = bare.split(',');
        let name = fields.next().and_then(|field| field.strip_prefix("n=")).ok_or(malformed)?;
        let nonce = fields.next().and_then(|field| field.strip_prefix("r=")).ok_or(malformed)?;
        if fields.any(|field| field.starts_with("m=")) || !is_nonce(nonce) {
            return Err(malformed);
        }
        let user = user(&unescape(name)?, host)?;
        Ok(Self { user, authzid: gs2.authzid, binding, bare: bare.to_owned(), nonce: nonce.to_owned() })
    }

    /// server-first-message, and what checks the answer to it. `protection`: the hash of XEP-0474.
    pub(super) fn challenge(self, keys: Keys, server_nonce: &str, protection: Option<&str>) -> (String, Exchange) {
        let nonce = format!("{}{server_nonce}", self.nonce);
        let salt = BASE64_STANDARD.encode(&keys.salt);
        let mut server_first = format!("r={nonce},s={salt},i={}", keys.iterations);
        if let Some(hash) = protection {
            server_first.push_str(",h=");
            server_first.push_str(hash);
        }
        let begin = format!("{},{server_first},", self.bare);
        (server_first, Exchange { user: self.user, keys, binding: self.binding, nonce, begin })
    }
}

/// Waits for client-final-message.
pub(super) struct Exchange {
    pub(super) user: Jid,
    keys: Keys,
    binding: Vec<u8>,
    nonce: String,
    /// AuthMessage up to client-final-message-without-proof.
    begin: String,
}

impl Exchange {
    /// server-final-message, if the proof is right.
    pub(super) fn finish(&self, client_final: &[u8]) -> Result<String, SaslFailure> {
        let malformed = SaslFailure::MalformedRequest;
        let text = std::str::from_utf8(client_final).map_err(|_| malformed)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(malformed)?;
        let mut fields = without_proof.split(',');
        let binding = fields.next().and_then(|field| field.strip_prefix("c=")).ok_or(malformed)?;
        let binding = BASE64_STANDARD.decode(binding).map_err(|_| malformed)?;
        let nonce = fields.next().and_then(|field| field.strip_prefix("r=")).ok_or(malformed)?;
        if fields.any(|field| field.starts_with("m=")) {
            return Err(malformed);
        }
        let proof = BASE64_STANDARD.decode(proof).map_err(|_| malformed)?;
        // RFC 5802, section 6: "The server MUST always validate the client's "c=" field." Section 5.1: "The server MUST verify that the
        // nonce sent by the client in the second message is the same as the one sent by the server in its first message."
        let is_same = binding.ct_eq(&self.binding) & nonce.as_bytes().ct_eq(self.nonce.as_bytes());
        let message = format!("{}{without_proof}", self.begin);
        let signature = self.keys.check(message.as_bytes(), &proof);
        match signature {
            Some(signature) if bool::from(is_same) => Ok(format!("v={}", BASE64_STANDARD.encode(signature))),
            _ => Err(SaslFailure::NotAuthorized),
        }
    }
}

/// RFC 5802, section 5.1: "If the server receives a username that contains '=' not followed by either '2C' or '3D', then the server MUST
/// fail the authentication."
fn unescape(name: &str) -> Result<String, SaslFailure> {
    let mut pieces = name.split('=');
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (c, rest) = match (piece.strip_prefix("2C"), piece.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return Err(SaslFailure::MalformedRequest),
        };
        plain.push(c);
        plain.push_str(rest);
    }
    Ok(plain)
}

/// RFC 5802, section 5.1: "random printable ASCII characters excluding ','". At least as many as make a repeat unlikely.
fn is_nonce(text: &str) -> bool {
    (8..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_without_keys_looks_like_one_with_keys() {
        let of = |hash, user: &str| Keys::decoy(hash, &[7; 32], user).to_stored();
        for hash in [Hash::Sha1, Hash::Sha256] {
            assert_eq!(of(hash, "juliet"), of(hash, "juliet"), "always the same");
            assert_ne!(of(hash, "juliet").salt, of(hash, "romeo").salt);
            assert!(ITERATIONS_EVER.contains(&of(hash, "juliet").iterations));
            assert_eq!((of(hash, "juliet").salt.len(), of(hash, "juliet").stored_key.len()), (16, hash.bytes()));
            assert!(Keys::stored(hash, &of(hash, "juliet")).is_some());
        }
        assert_ne!(of(Hash::Sha1, "juliet").salt, of(Hash::Sha256, "juliet").salt);
        // The native dialect shows the same.
        assert_eq!(of(Hash::Sha256, "juliet"), credentials::decoy(&[7; 32], "juliet"));
        assert_eq!(Keys::stored(Hash::Sha1, &of(Hash::Sha256, "juliet")), None, "keys of another hash function");
    }
}
