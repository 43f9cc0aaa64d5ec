//! Tokens for test users, signed as the service's own issuer signs them.

use std::{fs, io, path::Path, time::Duration};

use jsonwebtoken::{Algorithm, EncodingKey, Header};

/// How long a token is valid, unless something else is said.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

type FromPem = fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>;

#[derive(serde::Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
}

/// Signs tokens by one algorithm.
#[derive(Clone)]
pub struct TokenKey {
    header: Header,
    key: EncodingKey,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenKeyError {
    #[error("can't read the token key {path}: {source}")]
    Read { path: String, source: io::Error },
    #[error("{path} has no private key in PEM (PKCS #8) for ES256 (P-256), EdDSA (Ed25519) or RS256: {why}")]
    Invalid { path: String, why: jsonwebtoken::errors::Error },
}

/// An HS256 token, valid for a day.
pub fn sign(secret: &str, user: &str) -> String {
    TokenKey::of_secret(secret).sign(user, LIFETIME)
}

impl TokenKey {
    /// Signs by HS256.
    pub fn of_secret(secret: &str) -> Self {
        Self { header: Header::new(Algorithm::HS256), key: EncodingKey::from_secret(secret.as_bytes()) }
    }

    /// Reads a private key, whose kind says the algorithm. `kid` tells the service which of its keys it is.
    pub(crate) fn read(path: &Path, kid: Option<&str>) -> Result<Self, TokenKeyError> {
        let shown = || path.display().to_string();
        let pem = fs::read(path).map_err(|source| TokenKeyError::Read { path: shown(), source })?;
        let kinds: [(Algorithm, FromPem); 3] = [
            (Algorithm::ES256, EncodingKey::from_ec_pem),
            (Algorithm::EdDSA, EncodingKey::from_ed_pem),
            (Algorithm::RS256, EncodingKey::from_rsa_pem),
        ];
        let read = |(algorithm, from): (Algorithm, FromPem)| {
            let key = from(&pem)?;
            let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
            let key = Self { header, key };
            // A key on another curve is read, and can't sign.
            key.signed("anyone", LIFETIME).map(|_| key)
        };
        let [ec, ed, rsa] = kinds.map(read);
        ec.or(ed).or(rsa).map_err(|why| TokenKeyError::Invalid { path: shown(), why })
    }

    /// A token of this user, valid for so long.
    pub(crate) fn sign(&self, user: &str, lifetime: Duration) -> String {
        self.signed(user, lifetime).expect("a key that has signed before, and plain claims")
    }

    fn signed(&self, user: &str, lifetime: Duration) -> jsonwebtoken::errors::Result<String> {
        let now = carillon_proto::now_ms() / 1000;
        let claims = Claims { sub: user, iat: now, exp: now + lifetime.as_secs() };
        jsonwebtoken::encode(&self.header, &claims, &self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ES256: &str = include_str!("../tests/keys/es256.pem");

    #[test]
    fn the_kind_of_a_key_says_the_algorithm() {
        for (name, algorithm) in
            [("es256", Algorithm::ES256), ("ed25519", Algorithm::EdDSA), ("rs256", Algorithm::RS256)]
        {
            let path = format!("{}/tests/keys/{name}.pem", env!("CARGO_MANIFEST_DIR"));
            let key = TokenKey::read(path.as_ref(), Some("key-1")).unwrap_or_else(|error| panic!("{name}: {error}"));
            let header = jsonwebtoken::decode_header(key.sign("alice", LIFETIME)).expect("a token");
            assert_eq!((header.alg, header.kid.as_deref()), (algorithm, Some("key-1")));
        }
    }

    #[test]
    fn what_is_no_private_key_is_told_by_its_file() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("key.pem");
        let error = |text: &str| {
            fs::write(&path, text).expect("written");
            TokenKey::read(&path, None).err().expect("no key").to_string()
        };
        for text in ["", "a secret", &ES256.replace("PRIVATE KEY", "PUBLIC KEY"), &ES256[..80]] {
            let said = error(text);
            assert!(said.contains("key.pem") && said.contains("ES256"), "{said}");
        }
    }
}
