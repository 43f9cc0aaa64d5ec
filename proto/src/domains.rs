//! The operator's settings of domains, as every process knows them, and the tokens of their administrators. See
//! docs/adr/0036-domain-rules.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rand::RngExt as _;
use sha2::{Digest as _, Sha256};

use crate::{id::domain_in, pb::store::Domain};

/// Stands for any domain in `Domain.crosses_to`.
pub const ANY_DOMAIN: &str = "*";

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

    /// True if users of these domains may talk to each other: nothing crosses the border of a domain unless the operator allows it. `None` is the
    /// default domain.
    pub fn allow(&self, one: Option<&str>, other: Option<&str>) -> bool {
        one == other || self.names(one, other) || self.names(other, one)
    }

    /// True if users and groups with these ids may talk to each other.
    pub fn allow_ids(&self, one: &str, other: &str) -> bool {
        let (one, other) = (domain_of(one), domain_of(other));
        one == other || self.allow(Some(one), Some(other))
    }

    /// True if the row of this domain names the other one.
    fn names(&self, domain: Option<&str>, other: Option<&str>) -> bool {
        let other = other.unwrap_or_default();
        self.get(domain).is_some_and(|row| row.crosses_to.iter().any(|name| name == other || name == ANY_DOMAIN))
    }

    /// The domains whose users may talk to users of this one, by the rows of both: names, or [`ANY_DOMAIN`].
    pub fn crossings_of(&self, domain: &str) -> Vec<String> {
        let own = self.get(Some(domain)).into_iter().flat_map(|row| row.crosses_to.iter().cloned());
        let rows = self.0.iter().flat_map(|rows| rows.keys());
        let others = rows.filter(|other| *other != domain && self.names(Some(other), Some(domain))).cloned();
        let all: BTreeSet<String> = own.chain(others).collect();
        all.into_iter().collect()
    }

    /// True if the same domains may talk to each other by these rows.
    pub fn have_same_crossings(&self, other: &Self) -> bool {
        self.crossings().eq(other.crossings())
    }

    /// The rows that name other domains.
    fn crossings(&self) -> impl Iterator<Item = (&str, &[String])> {
        let rows = self.0.iter().flat_map(|rows| rows.values()).filter(|row| !row.crosses_to.is_empty());
        rows.map(|row| (&*row.name, &*row.crosses_to))
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

/// The domain in the id of a user or a group; "" is the default one.
pub fn domain_of(id: &str) -> &str {
    domain_in(id).unwrap_or_default()
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
    fn nothing_crosses_unless_a_row_of_one_of_both_allows_it() {
        let row = |name: &str, crosses_to: &[&str]| {
            let crosses_to = crosses_to.iter().map(|name| (*name).to_owned()).collect();
            Domain { name: name.into(), crosses_to, ..Domain::default() }
        };
        let (a, b, c) = (Some("a.example"), Some("b.example"), Some("c.example"));
        let none = Domains::default();
        assert!(none.allow(None, None) && none.allow(a, a) && none.allow_ids("ann@a.example", "bob@a.example"));
        assert!(!none.allow(None, a) && !none.allow(a, b) && !none.allow_ids("ann@a.example", "ann"));
        let some = Domains::of(&[row("", &["c.example"]), row("b.example", &["a.example"])]);
        assert!(some.allow(a, b) && some.allow(b, a) && some.allow(None, c) && some.allow(c, None));
        assert!(!some.allow(a, c) && !some.allow(None, a));
        assert!(
            some.allow_ids("ann@b.example", "club@a.example") && !some.allow_ids("ann@b.example", "ann@b.example.a")
        );
        assert_eq!(some.crossings_of("a.example"), ["b.example"]);
        assert_eq!([some.crossings_of("c.example"), some.crossings_of("d.example")], [vec![String::new()], vec![]]);
        let any = Domains::of(&[row("a.example", &["*"])]);
        assert!(any.allow(a, None) && any.allow(c, a) && !any.allow(b, c) && !any.allow(None, b));
        assert_eq!([any.crossings_of("a.example"), any.crossings_of("b.example")], [["*"], ["a.example"]]);
        assert!(some.have_same_crossings(&some) && !some.have_same_crossings(&any) && !any.have_same_crossings(&none));
        assert!(none.have_same_crossings(&Domains::of(&[row("a.example", &[])])));
    }

    #[test]
    fn a_domain_narrows_and_never_widens() {
        assert_eq!([narrowed(10, 0), narrowed(10, 3), narrowed(10, 11)], [10, 3, 10]);
    }
}
