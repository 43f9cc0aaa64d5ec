//! Settings of sign-in with JSON Web Tokens.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::InvalidConfig;

/// Sign-in with JSON Web Tokens: off while there are no keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JwtConfig {
    pub keys: Vec<JwtKeyConfig>,
    /// If set, the token's audience must be this. If not, a token that names an audience is refused.
    pub audience: Option<String>,
    /// If set, the token's issuer must be this.
    pub issuer: Option<String>,
    /// If set, the `typ` in the token's header must be this. If not, it may be `JWT`, `at+jwt` or absent.
    pub typ: Option<String>,
    /// The claim that names the user.
    pub user_claim: String,
    /// How the claim becomes a user id.
    pub user_form: UserForm,
    /// Tolerated clock difference, in seconds.
    pub leeway_s: u64,
    /// When a token creates an account for its user.
    pub accounts: TokenAccounts,
}

/// For which users a token creates an account, if there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenAccounts {
    /// Names that nobody has had yet; a deleted user stays deleted.
    NewNames,
    /// Deleted users, too: they get a new, empty account.
    Always,
    /// `None`: only the operator creates accounts.
    Never,
}

impl Default for JwtConfig {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            audience: None,
            issuer: None,
            typ: None,
            user_claim: "sub".to_owned(),
            user_form: UserForm::Exact,
            leeway_s: 30,
            accounts: TokenAccounts::NewNames,
        }
    }
}

/// How the text of a claim becomes a user id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserForm {
    /// The claim, which must be a user id in normal form.
    Exact,
    /// The normal form of the claim. Several texts become one user: only for an issuer that never gives such texts to
    /// two users.
    Normalise,
    /// The claim, escaped: the letters a to z, digits and `._-+` stay, each other byte becomes a backslash and two
    /// digits. No two texts become one user.
    Escape,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtKeyConfig {
    pub algorithm: JwtAlgorithm,
    /// HS256: this or `secret_file`.
    #[serde(default)]
    pub secret: Option<Secret>,
    /// HS256: a file of one line; trailing white space is ignored.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// RS256, ES256, EdDSA: PEM.
    #[serde(default)]
    pub public_key_file: Option<PathBuf>,
    /// If set, this key checks only tokens with this `kid`.
    #[serde(default)]
    pub kid: Option<String>,
    /// Tokens signed with this key must come from this issuer; if not set, from `jwt.issuer`.
    #[serde(default)]
    pub issuer: Option<String>,
    /// Prefix of the user ids of its tokens, followed by a `!`. Each issuer needs one of its own; one issuer may have
    /// none.
    #[serde(default)]
    pub realm: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum JwtAlgorithm {
    HS256,
    RS256,
    ES256,
    EdDSA,
}

impl JwtAlgorithm {
    /// The name in the `alg` of a token.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::RS256 => "RS256",
            Self::ES256 => "ES256",
            Self::EdDSA => "EdDSA",
        }
    }
}

/// A secret that is never printed.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[secret]")
    }
}

impl JwtConfig {
    pub(super) fn invalid(&self) -> Vec<InvalidConfig> {
        let keys = self.keys.iter().enumerate().filter_map(|(at, key)| {
            let why = key.validate().err()?;
            Some(InvalidConfig {
                key: "jwt.keys",
                why: format!("has a key, the one at [{at}], that can't be used: {why}"),
            })
        });
        keys.chain(self.validate_together().err()).collect()
    }

    fn validate_together(&self) -> Result<(), InvalidConfig> {
        if self.user_claim.is_empty() {
            let why = "is empty but must name a claim, for example sub".to_owned();
            return Err(InvalidConfig { key: "jwt.user_claim", why });
        }
        // "sub" is unique within one issuer only (RFC 7519 section 4.1.2).
        let issuer = |key: &JwtKeyConfig| key.issuer.clone().or_else(|| self.issuer.clone());
        for (at, key) in self.keys.iter().enumerate() {
            let clash = self.keys[..at].iter().find(|other| other.realm == key.realm && issuer(other) != issuer(key));
            if let Some(other) = clash {
                let name = |key| issuer(key).unwrap_or_else(|| "no issuer".to_owned());
                let why = format!(
                    "has keys of {:?} and {:?} with the same realm, but each issuer must have its own: their users would \
                     be taken for each other",
                    name(other),
                    name(key)
                );
                return Err(InvalidConfig { key: "jwt.keys", why });
            }
        }
        Ok(())
    }
}

impl JwtKeyConfig {
    /// A key that still needs a secret or a file.
    pub fn new(algorithm: JwtAlgorithm) -> Self {
        Self { algorithm, secret: None, secret_file: None, public_key_file: None, kid: None, issuer: None, realm: None }
    }

    /// Checks that the key has what its algorithm needs.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        let realm = self.realm.as_deref().unwrap_or("x");
        if realm.is_empty() || realm.len() > 32 || !realm.bytes().all(plain) {
            return Err(format!("its realm is {realm:?} but must be 1 to 32 letters a to z, digits, dots and dashes"));
        }
        let given = (self.secret.is_some(), self.secret_file.is_some(), self.public_key_file.is_some());
        let right = match self.algorithm {
            JwtAlgorithm::HS256 => matches!(given, (true, false, false) | (false, true, false)),
            JwtAlgorithm::RS256 | JwtAlgorithm::ES256 | JwtAlgorithm::EdDSA => given == (false, false, true),
        };
        if right {
            return Ok(());
        }
        let need = match self.algorithm {
            JwtAlgorithm::HS256 => "HS256 must have either secret or secret_file, and nothing else",
            JwtAlgorithm::RS256 | JwtAlgorithm::ES256 | JwtAlgorithm::EdDSA => {
                "RS256, ES256 and EdDSA must have public_key_file, and no secret"
            }
        };
        Err(need.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::GatewayConfig;

    #[test]
    fn issuers_share_no_realm() {
        let key = |issuer: Option<&str>, realm: Option<&str>| JwtKeyConfig {
            secret: Some(Secret("x".to_owned())),
            issuer: issuer.map(str::to_owned),
            realm: realm.map(str::to_owned),
            ..JwtKeyConfig::new(JwtAlgorithm::HS256)
        };
        let check = |keys: Vec<JwtKeyConfig>| {
            let jwt = JwtConfig { keys, ..Default::default() };
            GatewayConfig { jwt, ..Default::default() }.validate().map_err(|error| error.key)
        };
        assert_eq!(check(vec![key(None, None), key(None, None)]), Ok(()));
        assert_eq!(check(vec![key(Some("a"), None), key(Some("b"), Some("b")), key(Some("b"), Some("b"))]), Ok(()));
        for wrong in [
            vec![key(Some("a"), None), key(Some("b"), None)],
            vec![key(Some("a"), None), key(None, None)],
            vec![key(Some("a"), Some("x")), key(Some("b"), Some("x"))],
            vec![key(None, Some("a!b"))],
            vec![key(None, Some(""))],
        ] {
            assert_eq!(check(wrong), Err("jwt.keys"));
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = Some(Secret("hunter2".to_owned()));
        let key = JwtKeyConfig { secret, ..JwtKeyConfig::new(JwtAlgorithm::HS256) };
        assert!(!format!("{key:?}").contains("hunter2"));
        assert!(!serde_json::to_string(&key).expect("serialises").contains("hunter2"));
    }
}
