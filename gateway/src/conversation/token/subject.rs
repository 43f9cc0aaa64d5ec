//! Maps a token's claim to a user id, such that two subjects never become one user by accident.

use carillon_proto::{DomainId, UserId};
use serde_json::Value;

use super::{TokenError, parts::Members};
use crate::config::{JwtConfig, UserForm};

/// Separates a realm from the subject. Subjects must not contain it while there are realms.
const REALM_END: char = '!';

/// How tokens name users.
pub(super) struct Subject {
    claim: String,
    form: UserForm,
    has_realms: bool,
    /// `None`: the default one.
    domain: Option<DomainId>,
}

impl Subject {
    pub(super) fn new(config: &JwtConfig, domain: Option<DomainId>) -> Self {
        let has_realms = config.keys.iter().any(|key| key.realm.is_some());
        Self { claim: config.user_claim.clone(), form: config.user_form, has_realms, domain }
    }

    /// `realm`: that of the signing key.
    pub(super) fn user(&self, claims: &Members, realm: Option<&str>) -> Result<UserId, TokenError> {
        let subject = claims.needed_text(&self.claim)?;
        // Anyone who may write any address into a profile could be anyone.
        if self.claim == "email" && claims.get("email_verified").is_some_and(|is| *is != Value::Bool(true)) {
            return Err(self.wrong("the address is not verified (email_verified)".to_owned()));
        }
        let escaped;
        let subject = match self.form {
            // Makers of a domain's tokens may write the whole id.
            UserForm::Exact | UserForm::Normalise => {
                let domain = self.domain.as_ref();
                let local = domain.and_then(|domain| subject.strip_suffix(domain.as_str())?.strip_suffix('@'));
                local.unwrap_or(subject)
            }
            UserForm::Escape => {
                escaped = escape(subject);
                &escaped
            }
        };
        if self.has_realms && subject.contains(REALM_END) {
            return Err(self.wrong(format!("it has a {REALM_END:?}, which ends a realm's name")));
        }
        let whole = match realm {
            Some(realm) => format!("{realm}{REALM_END}{subject}"),
            None => subject.to_owned(),
        };
        let domain = self.domain.as_ref();
        let user = match self.form {
            UserForm::Normalise => UserId::normalised_local(&whole, domain),
            UserForm::Exact | UserForm::Escape => UserId::local(&whole, domain),
        };
        user.map_err(|error| self.wrong(error.to_string()))
    }

    fn wrong(&self, why: String) -> TokenError {
        TokenError::Subject { claim: self.claim.clone(), why }
    }
}

/// Injective: plain characters stay, each other byte becomes a backslash and two digits. Characters that are invalid in
/// an XMPP address are escaped as in XEP-0106.
fn escape(subject: &str) -> String {
    let mut form = String::with_capacity(subject.len() + 8);
    for byte in subject.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'+' => form.push(byte.into()),
            _ => {
                form.push('\\');
                for digit in [byte >> 4, byte & 15] {
                    // The index is below 16.
                    form.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
                }
            }
        }
    }
    form
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The way back, which only the tests need.
    fn unescape(form: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let mut rest = form.as_bytes();
        while let Some((first, more)) = rest.split_first() {
            if *first == b'\\' {
                let digits = std::str::from_utf8(more.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &more[2..];
            } else {
                bytes.push(*first);
                rest = more;
            }
        }
        String::from_utf8(bytes).ok()
    }

    proptest! {
        #[test]
        fn whatever_is_escaped_is_an_id_and_can_be_read_back(subject in "\\PC{1,30}") {
            let form = escape(&subject);
            prop_assert_eq!(unescape(&form), Some(subject));
            prop_assert!(form.is_ascii() && !form.contains(REALM_END));
            match UserId::new(&form) {
                Ok(user) => prop_assert_eq!(user.as_str(), &*form),
                Err(_) => prop_assert!(form.len() > 128, "{}", form),
            }
        }
    }

    #[test]
    fn an_address_of_mail_reads_as_in_xmpp() {
        assert_eq!(escape("alice@example.org"), "alice\\40example.org");
        assert_eq!(escape("Alice@example.org"), "\\41lice\\40example.org");
        assert_eq!(escape("a\\40b"), "a\\5c40b");
        assert_eq!(escape("jörg"), "j\\c3\\b6rg");
    }
}
