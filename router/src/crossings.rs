//! Which domains may talk to each other. Nothing crosses the border of a domain unless the operator allows it.

use std::{collections::BTreeSet, sync::Arc};

use carillon_proto::DomainId;

use crate::config::InvalidConfig;

const ANY: &str = "*";

/// Pairs of domains, each in both orders. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Crossings(Option<Arc<BTreeSet<(String, String)>>>);

impl Crossings {
    pub(crate) fn of(pairs: &[[String; 2]]) -> Self {
        let both = |[one, other]: &[String; 2]| [(one.clone(), other.clone()), (other.clone(), one.clone())];
        let pairs: BTreeSet<_> = pairs.iter().flat_map(both).collect();
        Self((!pairs.is_empty()).then(|| Arc::new(pairs)))
    }

    /// `None`: the default domain.
    pub(crate) fn allow(&self, one: Option<&str>, other: Option<&str>) -> bool {
        one == other || self.0.as_ref().is_some_and(|pairs| allowed(pairs, one.unwrap_or(""), other.unwrap_or("")))
    }
}

fn allowed(pairs: &BTreeSet<(String, String)>, one: &str, other: &str) -> bool {
    let has = |one: &str, other: &str| pairs.contains(&(one.to_owned(), other.to_owned()));
    has(one, other) || has(one, ANY) || has(ANY, other) || has(ANY, ANY)
}

pub(crate) fn check(pairs: &[[String; 2]]) -> Result<(), InvalidConfig> {
    for domain in pairs.iter().flatten().filter(|domain| !matches!(&***domain, "" | ANY)) {
        DomainId::check(domain).map_err(|error| InvalidConfig { key: "crossings", why: format!("names a {error}") })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_crosses_unless_it_is_allowed() {
        let pairs = |pairs: &[[&str; 2]]| pairs.iter().map(|pair| pair.map(str::to_owned)).collect::<Vec<_>>();
        let (a, b, c) = (Some("a.example"), Some("b.example"), Some("c.example"));
        let none = Crossings::of(&[]);
        assert!(none.allow(None, None) && none.allow(a, a));
        assert!(!none.allow(None, a) && !none.allow(a, b));
        let some = Crossings::of(&pairs(&[["b.example", "a.example"], ["", "c.example"]]));
        assert!(some.allow(a, b) && some.allow(b, a) && some.allow(None, c) && some.allow(c, None));
        assert!(!some.allow(a, c) && !some.allow(None, a));
        let any = Crossings::of(&pairs(&[["a.example", "*"]]));
        assert!(any.allow(a, None) && any.allow(c, a) && !any.allow(b, c));
        let all = Crossings::of(&pairs(&[["*", "*"]]));
        assert!(all.allow(a, None) && all.allow(b, c));

        check(&pairs(&[["", "*"], ["bücher.example", "a.example"]])).expect("valid");
        let wrong = check(&pairs(&[["a.example", "B.example"]])).expect_err("refused").to_string();
        assert!(wrong.ends_with("its normal form is \"b.example\""), "{wrong}");
    }
}
