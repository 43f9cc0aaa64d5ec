//! Hashed tokens (draft-ietf-kitten-sasl-ht): a client shows in one message that it has a token of XEP-0484.

use subtle::ConstantTimeEq as _;

use super::{ChannelBindings, Hash, Offer, Secret, user};
use crate::{Jid, error::SaslFailure};

/// A mechanism with SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TokenMechanism {
    /// With the channel binding `tls-exporter`.
    Exporter,
    /// With the channel binding `tls-server-end-point`.
    ServerEndPoint,
    /// Without channel binding.
    Unbound,
}

impl TokenMechanism {
    /// The strongest first.
    pub const ALL: &[Self] = &[Self::Exporter, Self::ServerEndPoint, Self::Unbound];

    pub fn name(self) -> &'static str {
        match self {
            Self::Exporter => "HT-SHA-256-EXPR",
            Self::ServerEndPoint => "HT-SHA-256-ENDP",
            Self::Unbound => "HT-SHA-256-NONE",
        }
    }

    /// The mechanisms that a connection may use.
    ///
    /// XEP-0484, section 6: "FAST authentication MUST only be performed over a secure connection (e.g. using TLS with verified certificates)."
    pub fn offered(offer: &Offer) -> impl Iterator<Item = Self> {
        let is_offered = |mechanism: &Self| offer.is_encrypted && mechanism.binding(&offer.bindings).is_some();
        Self::ALL.iter().copied().filter(is_offered)
    }

    /// The data of channel binding. `None`: the connection does not have it.
    pub(crate) fn binding(self, bindings: &ChannelBindings) -> Option<&[u8]> {
        match self {
            Self::Exporter => bindings.exporter.as_deref(),
            Self::ServerEndPoint => bindings.server_end_point.as_deref(),
            Self::Unbound => Some(&[]),
        }
    }
}

/// A client that says that it has a token.
pub(super) struct Claim {
    pub(super) user: Jid,
    pub(super) mechanism: TokenMechanism,
    binding: Vec<u8>,
    hash: Vec<u8>,
}

/// Reads the client's message: its user, NUL, and the hash.
pub(super) fn read(
    message: &[u8],
    mechanism: TokenMechanism,
    binding: &[u8],
    host: &str,
) -> Result<Claim, SaslFailure> {
    let malformed = SaslFailure::MalformedRequest;
    let nul = message.iter().position(|byte| *byte == 0).ok_or(malformed)?;
    let name = std::str::from_utf8(&message[..nul]).map_err(|_| malformed)?;
    let hash = &message[nul + 1..];
    if hash.len() != Hash::Sha256.bytes() {
        return Err(malformed);
    }
    Ok(Claim { user: user(name, host)?, mechanism, binding: binding.to_vec(), hash: hash.to_vec() })
}

impl Claim {
    /// The place of the client's token among `tokens`, and the answer by which the server shows that it has the token, too. Compares all tokens,
    /// so that the time does not tell the place.
    pub(super) fn check(&self, tokens: &[Secret]) -> Option<(usize, Vec<u8>)> {
        let mut found = None;
        for (at, token) in tokens.iter().enumerate() {
            let is_it = hashed(token, "Initiator", &self.binding).ct_eq(&self.hash);
            if bool::from(is_it) {
                found = Some((at, hashed(token, "Responder", &self.binding)));
            }
        }
        found
    }
}

/// HMAC of who speaks and of the channel binding, by the token.
pub(crate) fn hashed(token: &Secret, speaker: &str, binding: &[u8]) -> Vec<u8> {
    Hash::Sha256.hmac(token.as_str().as_bytes(), &[speaker.as_bytes(), binding].concat())
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    use proptest::prelude::*;

    use super::*;
    use crate::sasl::{Mechanism, Negotiation, Step};

    fn negotiation(is_encrypted: bool) -> Negotiation {
        let bindings = ChannelBindings { exporter: Some(vec![7; 32]), server_end_point: Some(vec![8; 32]) };
        let allowed = Mechanism::ALL.to_vec();
        Negotiation::new(Offer { host: "example.com".to_owned(), is_encrypted, bindings, allowed })
    }

    fn juliet() -> Jid {
        Jid::new("juliet@example.com").expect("an address")
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text)
    }

    fn message(token: &str, binding: &[u8]) -> Vec<u8> {
        [b"juliet\0", &*hashed(&secret(token), "Initiator", binding)].concat()
    }

    #[test]
    fn a_hash_is_an_hmac_by_the_token() {
        // Computed by another implementation of HMAC.
        let hash = hashed(&secret("secret-token:fast-1"), "Initiator", &[7; 32]);
        assert_eq!(BASE64_STANDARD.encode(hash), "4ix5lwYStA4pd75Ogih4Mt2YRIbbC565yhta7CkuwSQ=");
    }

    /// XEP-0484, section 3.4: "Servers MUST bind tokens to the mechanism selected by the client".
    #[test]
    fn a_token_signs_in_by_each_mechanism_and_is_answered() {
        let tokens = [secret("new"), secret("current")];
        for (mechanism, binding) in [
            (TokenMechanism::Exporter, &[7; 32][..]),
            (TokenMechanism::ServerEndPoint, &[8; 32]),
            (TokenMechanism::Unbound, &[]),
        ] {
            for (at, token) in tokens.iter().enumerate() {
                let mut negotiation = negotiation(true);
                let asked = negotiation.start_with_token(mechanism.name(), Some(&message(token.as_str(), binding)));
                assert_eq!(asked, Ok((juliet(), mechanism)));
                let (step, found) = negotiation.tokens(&juliet(), mechanism, &tokens);
                let answer = hashed(token, "Responder", binding);
                assert_eq!((step, found), (Step::Success { user: juliet(), data: Some(answer) }, Some(at)));
                let again = negotiation.start_with_token(mechanism.name(), Some(&message("new", binding)));
                assert_eq!(again, Err(SaslFailure::MalformedRequest), "signed in already");
            }
            for wrong in [&[9; 32][..], &[7; 32], &[8; 32], &[]].into_iter().filter(|wrong| *wrong != binding) {
                let mut negotiation = negotiation(true);
                assert!(negotiation.start_with_token(mechanism.name(), Some(&message("new", wrong))).is_ok());
                assert_eq!(
                    negotiation.tokens(&juliet(), mechanism, &tokens),
                    (Step::Failure(SaslFailure::CredentialsExpired), None)
                );
            }
        }
    }

    /// XEP-0484, section 4.2: "it MUST instead fail the authentication (returning the SASL 'credentials-expired' error condition), and then allow
    /// the client to authenticate using other mechanisms".
    #[test]
    fn a_token_that_is_not_valid_fails_and_other_mechanisms_do_not() {
        let mut negotiation = negotiation(true);
        for tokens in [&[secret("other")][..], &[]] {
            assert!(negotiation.start_with_token("HT-SHA-256-NONE", Some(&message("lost", &[]))).is_ok());
            assert_eq!(
                negotiation.tokens(&juliet(), TokenMechanism::Unbound, tokens).0,
                Step::Failure(SaslFailure::CredentialsExpired)
            );
        }
        let step = negotiation.start("PLAIN", Some(b"\0juliet\0pencil"), "nonce");
        assert!(matches!(step, Step::Password { .. }), "{step:?}");
        // The answer to an attempt that was given up.
        assert_eq!(
            negotiation.tokens(&juliet(), TokenMechanism::Unbound, &[]).0,
            Step::Failure(SaslFailure::TemporaryAuthFailure)
        );
        assert!(negotiation.start_with_token("HT-SHA-256-NONE", Some(&message("new", &[]))).is_ok());
        let eve = Jid::new("eve@example.com").expect("an address");
        assert_eq!(
            negotiation.tokens(&eve, TokenMechanism::Unbound, &[secret("new")]).0,
            Step::Failure(SaslFailure::TemporaryAuthFailure)
        );
        assert_eq!(
            negotiation.tokens(&juliet(), TokenMechanism::Unbound, &[secret("new")]).0,
            Step::Failure(SaslFailure::TemporaryAuthFailure)
        );
        assert!(negotiation.refusal().is_some(), "too many failures");
        // The tokens of another mechanism come late: they are bound to that one.
        let mut negotiation = self::negotiation(true);
        assert!(negotiation.start_with_token("HT-SHA-256-EXPR", Some(&message("new", &[7; 32]))).is_ok());
        assert!(negotiation.start_with_token("HT-SHA-256-NONE", Some(&message("new", &[]))).is_ok());
        let late = negotiation.tokens(&juliet(), TokenMechanism::Exporter, &[secret("new")]).0;
        assert_eq!(late, Step::Failure(SaslFailure::TemporaryAuthFailure));
    }

    #[test]
    fn messages_have_their_form_and_mechanisms_are_those_of_the_connection() {
        let good = message("t", &[]);
        for malformed in [&b""[..], b"juliet", &good[..38], &[&*good, b"x"].concat(), &[b"\xff\0", &good[7..]].concat()]
        {
            let step = negotiation(true).start_with_token("HT-SHA-256-NONE", Some(malformed));
            assert_eq!(step, Err(SaslFailure::MalformedRequest), "{malformed:?}");
        }
        let none = negotiation(true).start_with_token("HT-SHA-256-NONE", None);
        assert_eq!(none, Err(SaslFailure::MalformedRequest));
        for (negotiation, mechanism) in [
            (negotiation(false), "HT-SHA-256-NONE"),
            (negotiation(true), "HT-SHA-256-UNIQ"),
            (negotiation(true), "SCRAM-SHA-256"),
        ] {
            let mut negotiation = negotiation;
            let step = negotiation.start_with_token(mechanism, Some(&good));
            assert_eq!(step, Err(SaslFailure::InvalidMechanism), "{mechanism}");
        }
        let offer = Offer { bindings: ChannelBindings::default(), ..negotiation(true).offer().clone() };
        assert_eq!(TokenMechanism::offered(&offer).collect::<Vec<_>>(), [TokenMechanism::Unbound]);
        let other = [b"juliet@other.example\0", &good[7..]].concat();
        let step = negotiation(true).start_with_token("HT-SHA-256-NONE", Some(&other));
        assert_eq!(step, Err(SaslFailure::NotAuthorized));
    }

    proptest! {
        #[test]
        fn no_message_signs_in_without_the_token(bytes: Vec<u8>, hash in prop::collection::vec(any::<u8>(), 32)) {
            for message in [bytes, [b"juliet\0", &*hash].concat()] {
                for mechanism in TokenMechanism::ALL {
                    let mut negotiation = negotiation(true);
                    if let Ok((user, asked)) = negotiation.start_with_token(mechanism.name(), Some(&message)) {
                        prop_assert!(matches!(negotiation.tokens(&user, asked, &[secret("x"), secret("y")]).0, Step::Failure(_)));
                    }
                }
            }
        }
    }
}
