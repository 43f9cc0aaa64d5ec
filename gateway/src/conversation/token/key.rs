//! The keys that check tokens.

use std::{fs, path::Path};

use carillon_proto::credentials::hmac;
use jsonwebtoken::{
    Algorithm, DecodingKey,
    crypto::{rust_crypto, verify},
};

use super::parts::TokenParts;
use crate::config::{JwtAlgorithm, JwtConfig, JwtKeyConfig};

/// A key in the configuration can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {why}")]
pub struct InvalidTokenKey {
    /// For example `jwt.keys[0]`.
    pub place: String,
    pub why: TokenKeyError,
}

/// Why a key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
    #[error("{path} can't be read: {why}")]
    File { path: String, why: std::io::Error },
    #[error("{path} is not a PEM public key for {algorithm:?}: {why}")]
    Key { path: String, algorithm: JwtAlgorithm, why: jsonwebtoken::errors::Error },
    #[error("the secret is {0} bytes but must be at least 32 (RFC 7518 section 3.2)")]
    ShortSecret(usize),
    #[error("the secret is a PEM file: a public key is no secret")]
    PublicSecret,
    #[error("{path} has {lines} lines but must be one line, the secret; a second secret is a key of its own")]
    Lines { path: String, lines: usize },
    #[error("the secret has a line feed but must be one line without one")]
    LineFeed,
    #[error("{path} has {bits} bits but RS256 needs at least 2048 (RFC 7518 section 3.3)")]
    ShortKey { path: String, bits: usize },
    #[error("{path} is on another curve but ES256 needs P-256 (RFC 7518 section 3.4)")]
    Curve { path: String },
}

/// Shortest secret for HS256, in bytes.
const MIN_SECRET_BYTES: usize = 32;
/// Shortest modulus for RS256, in bits.
const MIN_RSA_BITS: usize = 2048;
/// Size of an uncompressed P-256 point.
const P256_POINT_BYTES: usize = 65;

/// Tells a key from others, without telling anything of it: the beginning of an HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyId(pub(crate) [u8; 8]);

pub(super) struct Key {
    pub(super) id: KeyId,
    algorithm: JwtAlgorithm,
    kid: Option<String>,
    key: DecodingKey,
    /// The issuer that tokens must name.
    pub(super) issuer: Option<String>,
    pub(super) realm: Option<String>,
}

impl KeyId {
    fn of(algorithm: JwtAlgorithm, key: &DecodingKey) -> Self {
        // Keys are read from PEM files and secrets, which have bytes; those of JSON Web Keys would not.
        let bytes = key.try_get_as_bytes().unwrap_or_default();
        let [a, b, c, d, e, f, g, h, ..] = hmac(bytes, algorithm.name().as_bytes());
        Self([a, b, c, d, e, f, g, h])
    }
}

impl Key {
    pub(super) fn load(config: &JwtKeyConfig, jwt: &JwtConfig) -> Result<Self, TokenKeyError> {
        let key = match config.algorithm {
            JwtAlgorithm::HS256 => secret(config)?,
            JwtAlgorithm::RS256 => rsa(config)?,
            JwtAlgorithm::ES256 => {
                let (path, key) = public(config, DecodingKey::from_ec_pem)?;
                if key.try_get_as_bytes().is_ok_and(|point| point.len() != P256_POINT_BYTES) {
                    return Err(TokenKeyError::Curve { path });
                }
                key
            }
            JwtAlgorithm::EdDSA => public(config, DecodingKey::from_ed_pem)?.1,
        };
        let id = KeyId::of(config.algorithm, &key);
        let issuer = config.issuer.clone().or_else(|| jwt.issuer.clone());
        Ok(Self { id, algorithm: config.algorithm, kid: config.kid.clone(), key, issuer, realm: config.realm.clone() })
    }

    /// True if the key is for tokens with this header. Names of algorithms are case-sensitive, and each key has one
    /// algorithm.
    pub(super) fn fits(&self, algorithm: &str, kid: Option<&str>) -> bool {
        self.algorithm.name() == algorithm && (self.kid.is_none() || self.kid.as_deref() == kid)
    }

    pub(super) fn has_signed(&self, parts: &TokenParts<'_>) -> bool {
        let algorithm = match self.algorithm {
            JwtAlgorithm::HS256 => Algorithm::HS256,
            JwtAlgorithm::RS256 => Algorithm::RS256,
            JwtAlgorithm::ES256 => Algorithm::ES256,
            JwtAlgorithm::EdDSA => Algorithm::EdDSA,
        };
        verify(parts.signature, parts.signed.as_bytes(), &self.key, algorithm).unwrap_or(false)
    }
}

/// The secret in a `secret_file`, without trailing white space.
pub fn read_token_secret(path: &Path) -> Result<Vec<u8>, TokenKeyError> {
    let shown = || path.display().to_string();
    let bytes = fs::read(path).map_err(|why| TokenKeyError::File { path: shown(), why })?;
    let secret = bytes.trim_ascii_end();
    // In binary secrets a line feed is a byte like any other. A PEM file gets an error of its own.
    match str::from_utf8(secret).map(|text| text.lines().count()) {
        Ok(lines @ 2..) if !is_pem(secret) => Err(TokenKeyError::Lines { path: shown(), lines }),
        _ => Ok(secret.to_vec()),
    }
}

fn is_pem(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(b"-----BEGIN")
}

fn secret(config: &JwtKeyConfig) -> Result<DecodingKey, TokenKeyError> {
    let bytes = match (&config.secret, &config.secret_file) {
        (Some(secret), _) => secret.0.clone().into_bytes(),
        (None, Some(path)) => read_token_secret(path)?,
        (None, None) => Vec::new(),
    };
    if is_pem(&bytes) {
        return Err(TokenKeyError::PublicSecret);
    }
    // A multi-line text in the configuration ends like this; the signer would not know about it.
    if config.secret.is_some() && bytes.contains(&b'\n') {
        return Err(TokenKeyError::LineFeed);
    }
    if bytes.len() < MIN_SECRET_BYTES {
        return Err(TokenKeyError::ShortSecret(bytes.len()));
    }
    Ok(DecodingKey::from_secret(&bytes))
}

fn rsa(config: &JwtKeyConfig) -> Result<DecodingKey, TokenKeyError> {
    let (path, key) = public(config, DecodingKey::from_rsa_pem)?;
    let wrong = |why| TokenKeyError::Key { path: path.clone(), algorithm: config.algorithm, why };
    let der = key.try_get_as_bytes().map_err(wrong)?;
    let components = rust_crypto::DEFAULT_PROVIDER.key_utils.rsa_pub_components_from_public_key;
    let (modulus, _) = components(der).map_err(wrong)?;
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let bits = modulus.get(zeros).map_or(0, |first| (modulus.len() - zeros) * 8 - first.leading_zeros() as usize);
    if bits < MIN_RSA_BITS { Err(TokenKeyError::ShortKey { path, bits }) } else { Ok(key) }
}

fn public(
    config: &JwtKeyConfig,
    parse: fn(&[u8]) -> jsonwebtoken::errors::Result<DecodingKey>,
) -> Result<(String, DecodingKey), TokenKeyError> {
    let path = config.public_key_file.clone().unwrap_or_default();
    let shown = path.display().to_string();
    let pem = fs::read(&path).map_err(|why| TokenKeyError::File { path: shown.clone(), why })?;
    match parse(&pem) {
        Ok(key) => Ok((shown, key)),
        Err(why) => Err(TokenKeyError::Key { path: shown, algorithm: config.algorithm, why }),
    }
}
