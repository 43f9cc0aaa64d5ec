//! Sign-in by JSON Web Token (RFC 7519). The time is a parameter.

use std::fs;

use carillon_proto::UserId;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, errors::ErrorKind};
use serde::Deserialize;

use crate::config::{JwtAlgorithm, JwtConfig, JwtKeyConfig};

/// A key in the configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
    #[error("jwt key file {path} can't be read: {why}")]
    File { path: String, why: std::io::Error },
    #[error("jwt key {path} is not a PEM public key for {algorithm:?}: {why}")]
    Key { path: String, algorithm: JwtAlgorithm, why: jsonwebtoken::errors::Error },
    #[error("jwt secret is {0} bytes but must be at least 32 (RFC 7518 section 3.2)")]
    ShortSecret(usize),
}

/// Why a token is not taken. For the operator's log and the client's eyes alike: whoever holds it has made it or was
/// given it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("sign-in by token is not set up")]
    Off,
    #[error("token is not valid: {0}")]
    Invalid(String),
    #[error("token has expired")]
    Expired,
    #[error("token is not valid yet")]
    TooEarly,
    #[error("token's subject is not a user id: {0}")]
    Subject(String),
    #[error("token is for another user than the one named in the sign-in")]
    OtherUser,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) user: UserId,
    /// When the session ends, in milliseconds since 1970.
    pub(crate) expires_ms: u64,
}

/// The keys of those who may make tokens.
pub(crate) struct TokenKeys {
    keys: Vec<Key>,
    leeway_s: u64,
}

struct Key {
    algorithm: Algorithm,
    kid: Option<String>,
    key: DecodingKey,
    validation: Validation,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    // NumericDate may have a fraction (RFC 7519 section 2).
    exp: f64,
    nbf: Option<f64>,
}

impl TokenKeys {
    /// Reads the key files.
    pub(crate) fn load(config: &JwtConfig) -> Result<Self, TokenKeyError> {
        let keys = config.keys.iter().map(|key| Key::load(key, config)).collect::<Result<_, _>>()?;
        Ok(Self { keys, leeway_s: config.leeway_s })
    }

    /// Checks signature and claims. `named`: the user of the sign-in frame, may be empty.
    pub(crate) fn check(&self, token: &str, named: &str, now_ms: u64) -> Result<Token, TokenError> {
        if self.keys.is_empty() {
            return Err(TokenError::Off);
        }
        let header = decode_header(token).map_err(invalid)?;
        let mut why = TokenError::Invalid("no key for its algorithm and kid".to_owned());
        let fits = |key: &&Key| key.algorithm == header.alg && (key.kid.is_none() || key.kid == header.kid);
        for key in self.keys.iter().filter(fits) {
            match decode::<Claims>(token, &key.key, &key.validation) {
                Ok(data) => return self.check_claims(data.claims, named, now_ms),
                Err(error) => why = invalid(error),
            }
        }
        Err(why)
    }

    fn check_claims(&self, claims: Claims, named: &str, now_ms: u64) -> Result<Token, TokenError> {
        let (now, leeway) = (now_ms as f64 / 1000.0, self.leeway_s as f64);
        if !claims.exp.is_finite() || claims.exp + leeway <= now {
            return Err(TokenError::Expired);
        }
        if claims.nbf.is_some_and(|nbf| nbf > now + leeway) {
            return Err(TokenError::TooEarly);
        }
        let user = UserId::new(&claims.sub).map_err(|error| TokenError::Subject(error.to_string()))?;
        if !named.is_empty() && UserId::new(named).as_ref() != Ok(&user) {
            return Err(TokenError::OtherUser);
        }
        // Saturates: `as` from f64 does.
        Ok(Token { user, expires_ms: ((claims.exp + leeway) * 1000.0) as u64 })
    }
}

impl Key {
    fn load(config: &JwtKeyConfig, jwt: &JwtConfig) -> Result<Self, TokenKeyError> {
        let (algorithm, key) = match config.algorithm {
            JwtAlgorithm::HS256 => (Algorithm::HS256, secret(config)?),
            JwtAlgorithm::RS256 => (Algorithm::RS256, public(config, DecodingKey::from_rsa_pem)?),
            JwtAlgorithm::ES256 => (Algorithm::ES256, public(config, DecodingKey::from_ec_pem)?),
            JwtAlgorithm::EdDSA => (Algorithm::EdDSA, public(config, DecodingKey::from_ed_pem)?),
        };
        let mut validation = Validation::new(algorithm);
        let mut required = vec!["exp", "sub"];
        // Times are checked here, against the time that is passed in.
        validation.validate_exp = false;
        if let Some(audience) = &jwt.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        if let Some(issuer) = &jwt.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        Ok(Self { algorithm, kid: config.kid.clone(), key, validation })
    }
}

fn secret(config: &JwtKeyConfig) -> Result<DecodingKey, TokenKeyError> {
    let bytes = match (&config.secret, &config.secret_file) {
        (Some(secret), _) => secret.0.clone().into_bytes(),
        (None, Some(path)) => fs::read(path)
            .map_err(|why| TokenKeyError::File { path: path.display().to_string(), why })?
            .trim_ascii_end()
            .to_vec(),
        (None, None) => Vec::new(),
    };
    if bytes.len() < 32 {
        return Err(TokenKeyError::ShortSecret(bytes.len()));
    }
    Ok(DecodingKey::from_secret(&bytes))
}

fn public(
    config: &JwtKeyConfig,
    parse: fn(&[u8]) -> jsonwebtoken::errors::Result<DecodingKey>,
) -> Result<DecodingKey, TokenKeyError> {
    let path = config.public_key_file.clone().unwrap_or_default();
    let shown = path.display().to_string();
    let pem = fs::read(&path).map_err(|why| TokenKeyError::File { path: shown.clone(), why })?;
    parse(&pem).map_err(|why| TokenKeyError::Key { path: shown, algorithm: config.algorithm, why })
}

fn invalid(error: jsonwebtoken::errors::Error) -> TokenError {
    match error.kind() {
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::ImmatureSignature => TokenError::TooEarly,
        _ => TokenError::Invalid(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    const NOW_MS: u64 = 1_800_000_000_000;
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const RSA_PRIVATE: &str = include_str!("testdata/rsa.pem");
    const RSA_PUBLIC: &str = include_str!("testdata/rsa.pub.pem");

    fn key(algorithm: JwtAlgorithm) -> JwtKeyConfig {
        JwtKeyConfig { algorithm, secret: None, secret_file: None, public_key_file: None, kid: None }
    }

    fn hs256() -> JwtKeyConfig {
        JwtKeyConfig { secret: Some(Secret(SECRET.to_owned())), ..key(JwtAlgorithm::HS256) }
    }

    fn config(keys: Vec<JwtKeyConfig>) -> JwtConfig {
        JwtConfig { keys, audience: Some("chat".to_owned()), issuer: Some("app".to_owned()), leeway_s: 5 }
    }

    fn good() -> Value {
        json!({"sub": "Alice", "exp": NOW_MS / 1000 + 60, "aud": "chat", "iss": "app"})
    }

    fn signed(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
        encode(&Header::new(algorithm), claims, key).expect("signs")
    }

    fn hs(claims: &Value) -> String {
        signed(Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()), claims)
    }

    #[test]
    fn all_four_algorithms_are_checked() {
        let folder = tempfile::tempdir().expect("folder");
        let file = |name: &str, pem: String| {
            let path = folder.path().join(name);
            fs::write(&path, pem).expect("writes");
            Some(path)
        };
        let ec = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("key");
        let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
        let keys = vec![
            JwtKeyConfig { secret_file: file("hs", format!("{SECRET}\n")), ..key(JwtAlgorithm::HS256) },
            JwtKeyConfig { public_key_file: file("rsa", RSA_PUBLIC.to_owned()), ..key(JwtAlgorithm::RS256) },
            JwtKeyConfig { public_key_file: file("ec", ec.public_key_pem()), ..key(JwtAlgorithm::ES256) },
            JwtKeyConfig { public_key_file: file("ed", ed.public_key_pem()), ..key(JwtAlgorithm::EdDSA) },
        ];
        let keys = TokenKeys::load(&config(keys)).expect("loads");
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
        let ed_key = |pair: &rcgen::KeyPair| EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).expect("key");
        for (algorithm, signer) in [
            (Algorithm::HS256, EncodingKey::from_secret(SECRET.as_bytes())),
            (Algorithm::RS256, EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).expect("key")),
            (Algorithm::ES256, EncodingKey::from_ec_pem(ec.serialize_pem().as_bytes()).expect("key")),
            (Algorithm::EdDSA, ed_key(&ed)),
        ] {
            let token = signed(algorithm, &signer, &good());
            let taken = keys.check(&token, "alice", NOW_MS).unwrap_or_else(|error| panic!("{algorithm:?}: {error}"));
            assert_eq!(taken.user.as_str(), "alice");
            assert_eq!(taken.expires_ms, NOW_MS + 65_000);
            // A changed body under the old signature.
            let mut parts: Vec<&str> = token.split('.').collect();
            let forged = signed(algorithm, &signer, &json!({"sub": "mallory"}));
            parts[1] = forged.split('.').nth(1).expect("three parts");
            assert!(matches!(keys.check(&parts.join("."), "", NOW_MS), Err(TokenError::Invalid(_))), "{algorithm:?}");
        }
        let token = signed(Algorithm::EdDSA, &ed_key(&other), &good());
        assert!(matches!(keys.check(&token, "", NOW_MS), Err(TokenError::Invalid(_))));
    }

    #[test]
    fn each_wrong_claim_is_refused() {
        let keys = TokenKeys::load(&config(vec![hs256()])).expect("loads");
        let with = |name: &str, value: Value| {
            let mut claims = good();
            claims[name] = value;
            hs(&claims)
        };
        let without = |name: &str| {
            let mut claims = good();
            claims.as_object_mut().expect("an object").remove(name);
            hs(&claims)
        };
        let now = NOW_MS / 1000;
        keys.check(&hs(&good()), "", NOW_MS).expect("good");
        keys.check(&with("exp", json!(now - 4)), "", NOW_MS).expect("within the leeway");
        keys.check(&with("aud", json!(["x", "chat"])), "", NOW_MS).expect("one of the audiences");
        assert_eq!(keys.check(&with("exp", json!(now - 5)), "", NOW_MS), Err(TokenError::Expired));
        assert_eq!(keys.check(&with("nbf", json!(now + 6)), "", NOW_MS), Err(TokenError::TooEarly));
        assert!(matches!(keys.check(&with("sub", json!("a b")), "", NOW_MS), Err(TokenError::Subject(_))));
        assert_eq!(keys.check(&hs(&good()), "bob", NOW_MS), Err(TokenError::OtherUser));
        for token in [
            with("aud", json!("other")),
            with("iss", json!("other")),
            with("exp", json!("soon")),
            without("exp"),
            without("sub"),
            without("aud"),
            without("iss"),
            signed(Algorithm::HS256, &EncodingKey::from_secret(b"another secret of 32 bytes and more"), &good()),
            signed(Algorithm::HS384, &EncodingKey::from_secret(SECRET.as_bytes()), &good()),
            "eyJhbGciOiJub25lIn0.e30.".to_owned(),
            String::new(),
        ] {
            let refused = keys.check(&token, "", NOW_MS);
            assert!(matches!(refused, Err(TokenError::Invalid(_))), "{token}: {refused:?}");
        }
    }

    #[test]
    fn a_key_with_a_kid_checks_only_tokens_with_it() {
        let named = JwtKeyConfig { kid: Some("one".to_owned()), ..hs256() };
        let keys = TokenKeys::load(&config(vec![named])).expect("loads");
        let with_kid = |kid: &str| {
            let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::HS256) };
            encode(&header, &good(), &EncodingKey::from_secret(SECRET.as_bytes())).expect("signs")
        };
        keys.check(&with_kid("one"), "", NOW_MS).expect("its kid");
        keys.check(&with_kid("two"), "", NOW_MS).expect_err("another kid");
        keys.check(&hs(&good()), "", NOW_MS).expect_err("no kid");
    }

    #[test]
    fn a_short_secret_is_refused() {
        let short = JwtKeyConfig { secret: Some(Secret("short".to_owned())), ..hs256() };
        assert!(matches!(TokenKeys::load(&config(vec![short])), Err(TokenKeyError::ShortSecret(5))));
    }
}
