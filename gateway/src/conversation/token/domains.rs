//! The token keys of each domain. A token that a domain's key has signed is for a user of this domain, and of no other.

use std::collections::BTreeMap;

use carillon_proto::{DomainId, UserId};

use super::{InvalidTokenKey, KeyId, Token, TokenError, TokenKeys, invalid};
use crate::config::{GatewayConfig, TokenAccounts};

pub(crate) struct TokenDomains {
    default: TokenKeys,
    others: BTreeMap<String, Domain>,
}

struct Domain {
    keys: TokenKeys,
    has_passwords: bool,
}

impl TokenDomains {
    /// Reads the key files.
    pub(crate) fn load(config: &GatewayConfig) -> Result<Self, InvalidTokenKey> {
        let mut others = BTreeMap::new();
        for (name, domain) in &config.domains {
            // The configuration has been validated.
            let Ok(id) = DomainId::new(name) else { continue };
            let keys = TokenKeys::load(&domain.jwt, Some(id))?;
            others.insert(name.clone(), Domain { keys, has_passwords: domain.password_sign_in });
        }
        Ok(Self { default: TokenKeys::load(&config.jwt, None)?, others })
    }

    /// Faults in the files and secrets of keys whose settings are complete.
    pub(crate) fn invalid(config: &GatewayConfig) -> Vec<InvalidTokenKey> {
        let others = config.domains.iter().flat_map(|(name, domain)| TokenKeys::invalid(&domain.jwt, Some(name)));
        TokenKeys::invalid(&config.jwt, None).into_iter().chain(others).collect()
    }

    /// True if tokens that this key has signed are taken for users of this domain.
    pub(crate) fn has(&self, key: KeyId, user: &UserId) -> bool {
        self.of(user.domain()).is_some_and(|keys| keys.has(key))
    }

    /// As [`TokenKeys::check`]. Without the name of a domain in `named` all keys are tried.
    pub(crate) fn check(&self, token: &str, named: &str, now_ms: u64) -> Result<Token, TokenError> {
        if let Some((_, domain)) = named.split_once('@') {
            let keys = self.of(Some(domain)).ok_or_else(|| invalid("the service has no domain of this name"))?;
            return keys.check(token, named, now_ms);
        }
        let first = self.default.check(token, named, now_ms);
        match first {
            Err(TokenError::Off | TokenError::Invalid(_)) => {
                let mut others = self.others.values().map(|domain| domain.keys.check(token, named, now_ms));
                others
                    .find(|checked| !matches!(checked, Err(TokenError::Off | TokenError::Invalid(_))))
                    .unwrap_or(first)
            }
            checked => checked,
        }
    }

    /// Whether this is one of the further domains.
    pub(crate) fn has_domain(&self, domain: &str) -> bool {
        self.others.contains_key(domain)
    }

    /// Whether users of this domain may have passwords. `default`: of the default one.
    pub(crate) fn have_passwords(&self, domain: Option<&str>, default: bool) -> bool {
        match domain {
            None => default,
            Some(domain) => self.others.get(domain).is_some_and(|domain| domain.has_passwords),
        }
    }

    /// When a token creates an account for a user of this domain.
    pub(crate) fn accounts(&self, domain: Option<&str>) -> TokenAccounts {
        self.of(domain).map_or(TokenAccounts::Never, |keys| keys.accounts)
    }

    fn of(&self, domain: Option<&str>) -> Option<&TokenKeys> {
        match domain {
            None => Some(&self.default),
            Some(domain) => self.others.get(domain).map(|domain| &domain.keys),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{NOW_MS, SECRET, good, hs, signed};
    use super::*;
    use crate::config::{DomainConfig, JwtAlgorithm, JwtConfig, JwtKeyConfig, Secret};
    use jsonwebtoken::{Algorithm, EncodingKey};
    use serde_json::json;

    const OTHER: &str = "another-secret-of-more-than-32-bytes";

    fn jwt(secret: &str) -> JwtConfig {
        let key = JwtKeyConfig { secret: Some(Secret(secret.to_owned())), ..JwtKeyConfig::new(JwtAlgorithm::HS256) };
        JwtConfig {
            keys: vec![key],
            audience: Some("chat".to_owned()),
            issuer: Some("app".to_owned()),
            ..JwtConfig::default()
        }
    }

    fn domains() -> TokenDomains {
        let acme = DomainConfig { jwt: jwt(OTHER), password_sign_in: false };
        let domains = [("acme.example".to_owned(), acme), ("b.example".to_owned(), DomainConfig::default())].into();
        TokenDomains::load(&GatewayConfig { jwt: jwt(SECRET), domains, ..GatewayConfig::default() }).expect("loads")
    }

    #[test]
    fn a_domains_tokens_are_for_its_users_alone() {
        let domains = domains();
        let of_other = |sub: &str| {
            let claims = json!({"sub": sub, "exp": NOW_MS / 1000 + 60, "aud": "chat", "iss": "app"});
            signed(Algorithm::HS256, &EncodingKey::from_secret(OTHER.as_bytes()), &claims)
        };
        let user = |token: &str, named: &str| domains.check(token, named, NOW_MS).map(|token| token.user.to_string());
        assert_eq!(user(&hs(&good()), "").as_deref(), Ok("alice"));
        for named in ["", "alice@acme.example"] {
            assert_eq!(user(&of_other("alice"), named).as_deref(), Ok("alice@acme.example"));
            assert_eq!(user(&of_other("alice@acme.example"), named).as_deref(), Ok("alice@acme.example"));
        }
        assert_eq!(user(&of_other("alice"), "alice"), Err(TokenError::OtherUser));
        for foreign in ["alice@b.example", "alice@", "alice@acme.example@acme.example", "alice@other.acme.example"] {
            let error = user(&of_other(foreign), "").expect_err(foreign);
            assert!(matches!(error, TokenError::Subject { .. }), "{error:?}");
        }
        let mut claims = good();
        claims["sub"] = json!("alice@acme.example");
        assert!(matches!(user(&hs(&claims), ""), Err(TokenError::Subject { .. })), "not by the default domain's key");
        assert!(matches!(user(&hs(&good()), "alice@acme.example"), Err(TokenError::Invalid(_))));
        assert_eq!(user(&of_other("alice"), "alice@b.example"), Err(TokenError::Off));
        assert!(matches!(user(&of_other("alice"), "alice@nowhere.example"), Err(TokenError::Invalid(_))));
        let wrong = user("x.y.z", "").expect_err("refused");
        assert!(wrong.is_a_guess(), "{wrong:?}");
    }

    #[test]
    fn keys_passwords_and_accounts_go_by_domains() {
        let domains = domains();
        let token = domains.check(&hs(&good()), "", NOW_MS).expect("good");
        let (alice, other) = (UserId::new("alice").expect("valid"), UserId::new("alice@acme.example").expect("valid"));
        assert!(domains.has(token.key, &alice) && !domains.has(token.key, &other));
        let passwords = [None, Some("acme.example"), Some("b.example"), Some("c.example")];
        assert_eq!(passwords.map(|domain| domains.have_passwords(domain, true)), [true, false, true, false]);
        assert_eq!(domains.accounts(Some("acme.example")), TokenAccounts::NewNames);
        assert_eq!(domains.accounts(Some("c.example")), TokenAccounts::Never);
    }
}
