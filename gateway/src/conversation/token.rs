//! Sign-in by JSON Web Token (RFC 7519, RFC 7515, RFC 8725). The time is a parameter. `rules_tests.rs` lists each MUST
//! with its test, and those that do not apply.

mod domains;
mod key;
mod parts;
#[cfg(test)]
mod rules_tests;
mod subject;
#[cfg(test)]
mod tests;
mod unique;

use carillon_proto::{DomainId, UserId};

pub(crate) use domains::TokenDomains;
pub(crate) use key::KeyId;
pub use key::{InvalidTokenKey, TokenKeyError, read_token_secret};

use crate::config::{JwtConfig, TokenAccounts};
use key::Key;
use parts::{Members, TokenParts};
use subject::Subject;

/// Longest token: what a frame before the sign-in can carry.
const MAX_TOKEN_BYTES: usize = carillon_proto::limits::MAX_FRAME_BYTES_BEFORE_SIGN_IN;
/// Longest `jti`, in bytes.
const MAX_TOKEN_ID_BYTES: usize = 128;

/// Why a token is not taken. For the operator's log and the client's eyes alike: whoever holds it has made it or was
/// given it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("sign-in by token is not set up")]
    Off,
    #[error("token is not valid: {0}")]
    Invalid(String),
    /// Rightly signed, but not for this service, or lacking something.
    #[error("token is not valid: {0}")]
    Unfit(String),
    #[error("token has expired")]
    Expired,
    #[error("token is not valid yet")]
    TooEarly,
    #[error("token's iat is in the future")]
    IssuedAhead,
    #[error("token's {claim} is not a user id: {why}")]
    Subject { claim: String, why: String },
    #[error("token is for another user than the one named in the sign-in")]
    OtherUser,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) user: UserId,
    /// When the session ends, in milliseconds since 1970.
    pub(crate) expires_ms: u64,
    /// The earliest time at which the token can have been made, in milliseconds since 1970: its `iat` less the leeway; `None`
    /// without `iat`.
    pub(crate) issued_ms: Option<u64>,
    /// The token's own name (`jti`), 1 to 128 bytes; `None` without one. By it a single token can be taken back.
    pub(crate) id: Option<String>,
    /// The key that has signed it.
    pub(crate) key: KeyId,
}

impl TokenError {
    /// True if the error may come from guessing: the token was not rightly signed.
    pub(crate) fn is_a_guess(&self) -> bool {
        match self {
            Self::Invalid(_) => true,
            Self::Off
            | Self::Unfit(_)
            | Self::Expired
            | Self::TooEarly
            | Self::IssuedAhead
            | Self::Subject { .. }
            | Self::OtherUser => false,
        }
    }

    fn rightly_signed(self) -> Self {
        match self {
            Self::Invalid(why) => Self::Unfit(why),
            other => other,
        }
    }
}

/// The keys of those who may make tokens for users of one domain.
struct TokenKeys {
    keys: Vec<Key>,
    leeway_s: u64,
    audience: Option<String>,
    /// The type of tokens as the name of a media type, without `application/`; `None`: `JWT`, `at+jwt` or nothing.
    typ: Option<String>,
    subject: Subject,
    accounts: TokenAccounts,
}

impl TokenKeys {
    /// Reads the key files. `domain`: `None` for the default one.
    fn load(config: &JwtConfig, domain: Option<DomainId>) -> Result<Self, InvalidTokenKey> {
        let name = domain.as_ref().map(DomainId::as_str);
        let keys = each_key(config, name).collect::<Result<_, _>>()?;
        Ok(Self {
            keys,
            leeway_s: config.leeway_s,
            audience: config.audience.clone(),
            typ: config.typ.as_deref().map(media_type),
            subject: Subject::new(config, domain),
            accounts: config.accounts,
        })
    }

    /// Faults in the files and secrets of keys whose settings are complete.
    fn invalid(config: &JwtConfig, domain: Option<&str>) -> Vec<InvalidTokenKey> {
        let keys = each_key(config, domain).zip(&config.keys).filter(|(_, key)| key.validate().is_ok());
        keys.filter_map(|(loaded, _)| loaded.err()).collect()
    }

    /// True if tokens that this key has signed are taken.
    fn has(&self, key: KeyId) -> bool {
        self.keys.iter().any(|known| known.id == key)
    }

    /// Checks signature and claims. `named`: the user of the sign-in frame, may be empty.
    fn check(&self, token: &str, named: &str, now_ms: u64) -> Result<Token, TokenError> {
        if self.keys.is_empty() {
            return Err(TokenError::Off);
        }
        let parts = TokenParts::of(token)?;
        let header = Members::read("header", parts.header)?;
        self.check_header(&header)?;
        let (algorithm, kid) = (header.needed_text("alg")?, header.text("kid")?);
        let fits = |key: &&Key| key.fits(algorithm, kid);
        let key = self.keys.iter().filter(fits).find(|key| key.has_signed(&parts));
        let Some(key) = key else {
            let any = self.keys.iter().any(|key| fits(&key));
            return Err(invalid(if any { "its signature is wrong" } else { "no key for its algorithm and kid" }));
        };
        // Read only now: nobody but the key's holder can make the claims' reader work.
        let claims = Members::read("claims", parts.claims).map_err(TokenError::rightly_signed)?;
        self.check_claims(key, &claims, named, now_ms).map_err(TokenError::rightly_signed)
    }

    fn check_header(&self, header: &Members) -> Result<(), TokenError> {
        // No extension is understood, so none can be critical; `b64` (RFC 7797) changes what is signed.
        if header.has("crit") || header.has("b64") {
            return Err(invalid("its header asks for an extension that is not understood here"));
        }
        if header.text("cty")?.is_some() {
            return Err(invalid("it has a cty: a token within a token is not taken"));
        }
        let typ = header.text("typ")?.map(media_type);
        let right = match (&self.typ, &typ) {
            (Some(wanted), Some(typ)) => wanted == typ,
            (Some(_), None) => false,
            (None, Some(typ)) => matches!(&**typ, "jwt" | "at+jwt"),
            (None, None) => true,
        };
        if right { Ok(()) } else { Err(invalid("its typ is that of another kind of token")) }
    }

    fn check_claims(&self, key: &Key, claims: &Members, named: &str, now_ms: u64) -> Result<Token, TokenError> {
        let (now, leeway) = (now_ms as f64 / 1000.0, self.leeway_s as f64);
        let expires = claims.seconds("exp")?.ok_or_else(|| invalid("it has no exp"))?;
        let (not_before, issued) = (claims.seconds("nbf")?, claims.seconds("iat")?);
        if expires + leeway <= now {
            return Err(TokenError::Expired);
        }
        if not_before.is_some_and(|at| at > now + leeway) {
            return Err(TokenError::TooEarly);
        }
        // Else it would outlive each "issued before" that an operator says.
        if issued.is_some_and(|at| at > now + leeway) {
            return Err(TokenError::IssuedAhead);
        }
        let issuer = claims.text("iss")?;
        if key.issuer.is_some() && key.issuer.as_deref() != issuer {
            return Err(invalid("its iss is not the issuer of the key that signed it"));
        }
        // "MUST be rejected" if it names an audience and this service is none.
        let audiences = claims.texts("aud")?;
        let for_us = match (&self.audience, &audiences) {
            (Some(own), Some(named)) => named.iter().any(|name| name == own),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !for_us {
            return Err(invalid("its aud does not name this service"));
        }
        let id = claims.text("jti")?;
        if id.is_some_and(|id| !(1..=MAX_TOKEN_ID_BYTES).contains(&id.len())) {
            return Err(TokenError::Invalid(format!("its jti must be 1 to {MAX_TOKEN_ID_BYTES} bytes")));
        }
        let user = self.subject.user(claims, key.realm.as_deref())?;
        if !named.is_empty() && named != user.as_str() {
            return Err(TokenError::OtherUser);
        }
        // Saturates: `as` from f64 does.
        let ms = |seconds: f64| (seconds * 1000.0) as u64;
        let id = id.map(str::to_owned);
        let (expires_ms, issued_ms) = (ms(expires + leeway), issued.map(|at| ms(at - leeway)));
        Ok(Token { user, expires_ms, issued_ms, id, key: key.id })
    }
}

fn each_key(config: &JwtConfig, domain: Option<&str>) -> impl Iterator<Item = Result<Key, InvalidTokenKey>> {
    let keys = config.keys.iter().enumerate();
    let place = domain.map(|domain| format!("domains.{domain:?}.")).unwrap_or_default();
    keys.map(move |(at, key)| {
        Key::load(key, config).map_err(|why| InvalidTokenKey { place: format!("{place}jwt.keys[{at}]"), why })
    })
}

/// "It is RECOMMENDED that producers omit an application/ prefix"; names of media types know no case.
fn media_type(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    name.strip_prefix("application/").map(str::to_owned).unwrap_or(name)
}

fn invalid(why: &str) -> TokenError {
    TokenError::Invalid(why.to_owned())
}
