//! The operator's settings of domains, as every process knows them, and the tokens of their administrators. See
//! docs/adr/0036-domain-rules.md.

use std::{collections::BTreeMap, sync::Arc};

use rand::RngExt as _;
use sha2::{Digest as _, Sha256};

use crate::pb::store::Domain;

/// The beginning of administrators' tokens. Other tokens are not looked for.
const TOKEN_PREFIX: &str = "carillon-domain-";
const TOKEN_BYTES: usize = 32;

/// Domains by name; "" is the default one. Immutable, and cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Domains(Option<Arc<BTreeMap<String, Domain>>>);

impl Domains {
    pub fn of(rows: &[Domain]) -> Self {
        let by_name = || rows.iter().map(|row| (row.name.clone(), row.clone())).collect();
        Self((!rows.is_empty()).then(|| Arc::new(by_name())))
    }

    /// `None` is the default domain. Nothing is decided for most.
    pub fn get(&self, domain: Option<&str>) -> Option<&Domain> {
        self.0.as_ref()?.get(domain.unwrap_or_default())
    }

    /// The domain whose administrators have this token.
    pub fn of_token(&self, token: &str) -> Option<&Domain> {
        if !token.starts_with(TOKEN_PREFIX) {
            return None;
        }
        // Nobody finds a token by its hash, so comparing needs no constant time.
        let hash = token_hash(token);
        self.0.as_ref()?.values().find(|domain| domain.keys.iter().any(|key| *key.sha256 == hash))
    }
}

/// A new token of administrators: random, and nowhere kept.
pub fn new_domain_token() -> String {
    let random: [u8; TOKEN_BYTES] = rand::rng().random();
    let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{TOKEN_PREFIX}{random}")
}

/// By which the cluster knows the token.
pub fn token_hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The lower of two bounds; 0 in the second one: there is none.
pub fn narrowed<T: Ord + Default>(bound: T, of_domain: T) -> T {
    if of_domain == T::default() { bound } else { bound.min(of_domain) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::store::DomainKey;

    #[test]
    fn a_token_is_of_the_domain_that_has_its_hash() {
        let (one, other) = (new_domain_token(), new_domain_token());
        assert_ne!(one, other);
        let key = |token: &str| DomainKey { sha256: token_hash(token).to_vec().into(), created_ms: 1 };
        let row = |name: &str, keys| Domain { name: name.into(), keys, ..Domain::default() };
        let domains = Domains::of(&[row("", vec![]), row("acme.example", vec![key("carillon-domain-x"), key(&one)])]);
        assert_eq!(domains.of_token(&one).map(|domain| &*domain.name), Some("acme.example"));
        for wrong in [&other, "", TOKEN_PREFIX, &one[1..], &one[..one.len() - 1], &one.to_uppercase()] {
            assert!(domains.of_token(wrong).is_none(), "{wrong}");
        }
        assert!(Domains::default().of_token(&one).is_none());
        assert_eq!(domains.get(None).map(|domain| &*domain.name), Some(""));
        assert!(domains.get(Some("b.example")).is_none());
    }

    #[test]
    fn a_domain_narrows_and_never_widens() {
        assert_eq!([narrowed(10, 0), narrowed(10, 3), narrowed(10, 11)], [10, 3, 10]);
    }
}
