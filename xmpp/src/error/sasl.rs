//! Failures of SASL (RFC 6120, section 6.5).

use crate::{Element, ns};

conditions! {
    /// The cause of a failure (RFC 6120, section 6.5). The client may try again, unless it has tried too often.
    SaslFailure {
        /// The client has given up.
        Aborted = "aborted",
        AccountDisabled = "account-disabled",
        CredentialsExpired = "credentials-expired",
        /// The mechanism is only for encrypted streams.
        EncryptionRequired = "encryption-required",
        /// The data is not base64.
        IncorrectEncoding = "incorrect-encoding",
        /// The client may not act as the user that it names, or the name is no address.
        InvalidAuthzid = "invalid-authzid",
        /// The mechanism is not offered.
        InvalidMechanism = "invalid-mechanism",
        /// The data violates the rules of the mechanism.
        MalformedRequest = "malformed-request",
        MechanismTooWeak = "mechanism-too-weak",
        /// The credentials are wrong, or the user is not known: the two are not told apart.
        NotAuthorized = "not-authorized",
        TemporaryAuthFailure = "temporary-auth-failure",
    }
}

impl std::error::Error for SaslFailure {}

impl SaslFailure {
    /// `<failure/>`.
    ///
    /// RFC 6120, section 6.4.5: "the particular cause of failure MUST be communicated in an appropriate child element of the
    /// \<failure/\> element".
    pub fn element(self) -> Element {
        Element::new("failure", ns::SASL).with_child(Element::new(self.name(), ns::SASL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Framing;

    /// RFC 6120, section 6.4.5: "the particular cause of failure MUST be communicated in an appropriate child element".
    #[test]
    fn a_failure_has_its_cause() {
        let names: Vec<_> = SaslFailure::ALL.iter().map(|failure| failure.name()).collect();
        assert_eq!(names.len(), 11, "sections 6.5.1 to 6.5.11");
        assert!(names.is_sorted(), "the order of the sections is alphabetic");
        assert_eq!(
            SaslFailure::NotAuthorized.element().text_for(Framing::Tcp),
            "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>"
        );
    }
}
