//! A hash of the offer (XEP-0474), by which clients notice that the lists were changed on their way.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{Hash, Offer};

impl Offer {
    /// The hash in base64. The list is the same by RFC 6120 and by XEP-0388; the mechanisms of XEP-0484 are in a list of their own.
    ///
    /// XEP-0474, section 6.1: "If the server simultaneously advertises SASL1 and SASL2, only the mechanism list of the SASL protocol the
    /// client uses for authentication MUST be considered for hashing." The bindings count if they were announced by XEP-0440.
    pub(super) fn protection(&self, hash: Hash) -> String {
        let mechanisms = self.mechanisms().map(|mechanism| mechanism.name()).collect();
        let bindings = self.offers_binding().then(|| self.bindings.types().collect());
        BASE64_STANDARD.encode(hash.hash(of_lists(mechanisms, bindings).as_bytes()))
    }
}

/// The string S of XEP-0474, section 6.1. All sorting is by bytes.
pub(crate) fn of_lists(mut mechanisms: Vec<&str>, bindings: Option<Vec<&str>>) -> String {
    mechanisms.sort_unstable();
    let mut s = mechanisms.join("\x1e");
    if let Some(mut bindings) = bindings {
        bindings.sort_unstable();
        s.push('\x1f');
        s.push_str(&bindings.join("\x1e"));
    }
    s
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sasl::{ChannelBindings, Mechanism};

    /// XEP-0474, section 6.3.
    #[test]
    fn the_hash_is_that_of_the_example() {
        let offer = Offer {
            host: "example.org".to_owned(),
            is_encrypted: true,
            bindings: ChannelBindings { exporter: Some(vec![7; 32]), server_end_point: Some(vec![8; 32]) },
            allowed: vec![Mechanism::ScramSha1Plus, Mechanism::ScramSha1],
        };
        assert_eq!(offer.protection(Hash::Sha1), "G6k/rBLDqgOhRRaCuuatSDFkJ08=");
        let unbound = Offer { bindings: ChannelBindings::default(), ..offer };
        assert_eq!(unbound.protection(Hash::Sha256), BASE64_STANDARD.encode(Hash::Sha256.hash(b"SCRAM-SHA-1")));
        assert_eq!(of_lists(vec!["b", "a"], Some(Vec::new())), "a\x1eb\x1f");
    }
}
