//! Keys of SCRAM for another hash function, which a client makes of the password while it signs in (XEP-0480).

use base64::{Engine as _, prelude::BASE64_STANDARD};
use carillon_proto::credentials::ITERATIONS;
use zeroize::Zeroizing;

use super::{Hash, Keys};
use crate::{Element, error::SaslFailure, ns};

/// A task between the proof of the client and its success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    hash: Hash,
    salt: Vec<u8>,
    iterations: u32,
}

impl Upgrade {
    /// `salt`: 16 random bytes, or those of keys that the user has.
    pub fn new(hash: Hash, salt: Vec<u8>) -> Self {
        Self { hash, salt, iterations: ITERATIONS }
    }

    /// The name of the task.
    ///
    /// XEP-0480, section 2.1: "implementations MUST use only the names of variants without channel-binding for the task names".
    pub fn task(hash: Hash) -> &'static str {
        match hash {
            Hash::Sha1 => "UPGR-SCRAM-SHA-1",
            Hash::Sha256 => "UPGR-SCRAM-SHA-256",
        }
    }

    /// The task that a client asks for. `None`: the element is another one, or there is no such task.
    pub(super) fn requested(element: &Element) -> Option<Hash> {
        let hashes = [Hash::Sha1, Hash::Sha256];
        let name = element.is("upgrade", ns::UPGRADE).then(|| element.text())?;
        hashes.into_iter().find(|hash| Self::task(*hash) == name.trim())
    }

    /// `<upgrade/>` for the features.
    pub(crate) fn feature(hash: Hash) -> Element {
        Element::new("upgrade", ns::UPGRADE).with_text(Self::task(hash))
    }

    /// `<task-data/>` for the client that has begun the task.
    ///
    /// XEP-0480, section 3: "To do so the server sends a \<salt/\> element namespaced to "urn:xmpp:scram-upgrade:0" containing the base64
    /// encoded salt [...] and an attribute named "iterations"".
    pub fn question(&self) -> Element {
        let salt = Element::new("salt", ns::SCRAM_UPGRADE)
            .with("iterations", self.iterations.to_string())
            .with_text(BASE64_STANDARD.encode(&self.salt));
        Element::new("task-data", ns::SASL2).with_child(salt)
    }

    /// The keys of `<task-data/>`, the client's answer. The service cannot see whether they are of the same password: whoever has signed in
    /// may set a new one.
    pub fn keys(&self, answer: &Element) -> Result<Keys, SaslFailure> {
        let hash = answer.child("hash", ns::SCRAM_UPGRADE).ok_or(SaslFailure::MalformedRequest)?;
        let text = Zeroizing::new(hash.text());
        let salted = BASE64_STANDARD.decode(text.trim()).map_err(|_| SaslFailure::IncorrectEncoding)?;
        let salted = Zeroizing::new(salted);
        if salted.len() != self.hash.bytes() {
            return Err(SaslFailure::MalformedRequest);
        }
        Ok(Keys::of_salted(self.hash, &salted, &self.salt, self.iterations))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Limits;

    fn answer(inside: &str) -> Element {
        let text = format!("<task-data xmlns='urn:xmpp:sasl:2'>{inside}</task-data>");
        Element::parse(&text, &Limits::default()).expect("valid")
    }

    /// XEP-0480, section 3. The hash of its example is of no password that it names; this one is of "pencil".
    #[test]
    fn an_upgrade_makes_the_keys_of_the_password() {
        let salt = BASE64_STANDARD.decode("QV9TWENSWFE2c2VrOGJmX1o=").expect("base64");
        let upgrade = Upgrade { hash: Hash::Sha256, salt: salt.clone(), iterations: 4096 };
        assert_eq!(
            upgrade.question().to_string(),
            "<task-data xmlns='urn:xmpp:sasl:2'><salt xmlns='urn:xmpp:scram-upgrade:0' iterations='4096'>QV9TWENSWFE2c2VrOGJmX1o=</salt></task-data>"
        );
        let hash = |text: &str| answer(&format!("<hash xmlns='urn:xmpp:scram-upgrade:0'>\n{text}\n</hash>"));
        let keys = upgrade.keys(&hash("Q8abK3WIX500A5++8zDamXbZWpoXgWMwdXKO9eFKk8w="));
        assert_eq!(keys, Ok(Keys::derive(Hash::Sha256, "pencil", &salt, 4096).expect("valid")));
        assert!(keys.is_ok_and(|keys| keys.accepts("pencil")));
        for (wrong, failure) in [
            (hash(""), SaslFailure::MalformedRequest),
            (hash("AAAA"), SaslFailure::MalformedRequest),
            (hash("A"), SaslFailure::IncorrectEncoding),
            (answer("<hash>AAAA</hash>"), SaslFailure::MalformedRequest),
            (answer(""), SaslFailure::MalformedRequest),
        ] {
            assert_eq!(upgrade.keys(&wrong), Err(failure), "{wrong}");
        }
    }

    #[test]
    fn tasks_have_names_without_channel_binding() {
        let new = Upgrade::new(Hash::Sha1, vec![1; 16]);
        assert!(new.question().to_string().contains(&format!("iterations='{ITERATIONS}'")));
        for hash in [Hash::Sha1, Hash::Sha256] {
            assert_eq!(Upgrade::requested(&Upgrade::feature(hash)), Some(hash));
        }
        let other = Element::new("upgrade", ns::UPGRADE).with_text("UPGR-SCRAM-SHA-512");
        assert_eq!((Upgrade::requested(&other), Upgrade::requested(&Element::new("upgrade", "urn:x"))), (None, None));
    }
}
