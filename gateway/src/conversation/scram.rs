//! Server side of SCRAM-SHA-256 (RFC 5802, RFC 7677) without channel binding. The nonce is a parameter.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use carillon_proto::{credentials::check_proof, pb::store::ScramCredentials};

/// The exchange failed. Errors in the credentials are not distinguished.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScramError {
    #[error("SCRAM message {0}")]
    Malformed(&'static str),
    #[error("user or password is wrong")]
    Wrong,
}

/// client-first-message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientFirst {
    pub(crate) user: String,
    gs2: String,
    bare: String,
    nonce: String,
}

impl ClientFirst {
    pub(crate) fn parse(message: &[u8]) -> Result<Self, ScramError> {
        let text = std::str::from_utf8(message).map_err(|_| ScramError::Malformed("is not UTF-8"))?;
        let mut parts = text.splitn(3, ',');
        let (Some(binding), Some(authzid), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(ScramError::Malformed("has no gs2-header but must begin with n,,"));
        };
        // "y": the client supports channel binding but thinks that the server does not, which is true.
        if !matches!(binding, "n" | "y") {
            return Err(ScramError::Malformed("asks for channel binding, which is not offered"));
        }
        let mut fields = bare.split(',');
        let user = fields.next().and_then(|field| field.strip_prefix("n="));
        let user = unescape(user.ok_or(ScramError::Malformed("has no n= where it must be"))?)?;
        let nonce = fields.next().and_then(|field| field.strip_prefix("r="));
        let nonce = nonce.ok_or(ScramError::Malformed("has no r= where it must be"))?;
        if !(8..=256).contains(&nonce.len()) || !is_printable(nonce) {
            return Err(ScramError::Malformed("has a nonce that is not 8 to 256 printable characters"));
        }
        if !authzid.is_empty() {
            let named = authzid.strip_prefix("a=").ok_or(ScramError::Malformed("has a bad authorisation identity"))?;
            if unescape(named)? != user {
                return Err(ScramError::Malformed("asks to act as someone else"));
            }
        }
        let gs2 = text[..text.len() - bare.len()].to_owned();
        Ok(Self { user, gs2, bare: bare.to_owned(), nonce: nonce.to_owned() })
    }

    /// Makes the server-first-message, and what is needed to check the answer to it.
    pub(crate) fn challenge(self, credentials: ScramCredentials, server_nonce: &str) -> (String, Exchange) {
        let nonce = format!("{}{server_nonce}", self.nonce);
        let salt = BASE64_STANDARD.encode(&credentials.salt);
        let server_first = format!("r={nonce},s={salt},i={}", credentials.iterations);
        let begin = format!("{},{server_first},", self.bare);
        let exchange = Exchange { credentials, binding: BASE64_STANDARD.encode(self.gs2), nonce, begin };
        (server_first, exchange)
    }
}

/// Waits for client-final-message.
pub(crate) struct Exchange {
    credentials: ScramCredentials,
    binding: String,
    nonce: String,
    /// AuthMessage up to client-final-message-without-proof.
    begin: String,
}

impl Exchange {
    /// server-final-message, if the proof is right.
    pub(crate) fn finish(&self, client_final: &[u8]) -> Result<String, ScramError> {
        let text = std::str::from_utf8(client_final).map_err(|_| ScramError::Malformed("is not UTF-8"))?;
        let (without_proof, proof) =
            text.rsplit_once(",p=").ok_or(ScramError::Malformed("has no p= where it must be"))?;
        let mut fields = without_proof.split(',');
        if fields.next().and_then(|field| field.strip_prefix("c=")) != Some(self.binding.as_str()) {
            return Err(ScramError::Malformed("has another gs2-header than the first one"));
        }
        if fields.next().and_then(|field| field.strip_prefix("r=")) != Some(self.nonce.as_str()) {
            return Err(ScramError::Malformed("has another nonce than the challenge"));
        }
        let proof =
            BASE64_STANDARD.decode(proof).map_err(|_| ScramError::Malformed("has a proof that is not base64"))?;
        let message = format!("{}{without_proof}", self.begin);
        let signature = check_proof(&self.credentials, message.as_bytes(), &proof).ok_or(ScramError::Wrong)?;
        Ok(format!("v={}", BASE64_STANDARD.encode(signature)))
    }
}

/// saslname: `=2C` is a comma, `=3D` an equals sign; any other `=` is invalid.
fn unescape(name: &str) -> Result<String, ScramError> {
    let mut pieces = name.split('=');
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let rest = if let Some(rest) = piece.strip_prefix("2C") {
            plain.push(',');
            rest
        } else if let Some(rest) = piece.strip_prefix("3D") {
            plain.push('=');
            rest
        } else {
            return Err(ScramError::Malformed("has a name with an = that is neither =2C nor =3D"));
        };
        plain.push_str(rest);
    }
    Ok(plain)
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::credentials::{ClientKeys, decoy, new_credentials};
    use proptest::prelude::*;

    /// The example of RFC 7677 section 3. Its stored keys follow from its password; they are given here as they are
    /// in the store.
    #[test]
    fn the_exchange_is_that_of_rfc_7677() {
        let decode = |text: &str| BASE64_STANDARD.decode(text).expect("base64");
        let salt = decode("W22ZaJ0SNY7soEsUEjb6gQ==");
        let stored = ScramCredentials {
            salt: salt.into(),
            iterations: 4096,
            stored_key: decode("WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=").into(),
            server_key: decode("wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=").into(),
        };
        let first = ClientFirst::parse(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").expect("parses");
        assert_eq!(first.user, "user");
        let (challenge, exchange) = first.challenge(stored, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
        assert_eq!(challenge, "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        let answer = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
            p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let verdict = exchange.finish(answer).expect("right");
        assert_eq!(verdict, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn a_wrong_password_and_an_unknown_user_fail_alike() {
        let login = |stored: ScramCredentials, password: &str| {
            let first = ClientFirst::parse(b"n,,n=alice,r=0123456789").expect("parses");
            let (iterations, salt) = (stored.iterations, stored.salt.clone());
            let (challenge, exchange) = first.challenge(stored, "abcdef");
            let without_proof = "c=biws,r=0123456789abcdef";
            let message = format!("n=alice,r=0123456789,{challenge},{without_proof}");
            let proof = ClientKeys::derive(password, &salt, iterations).expect("derives").proof(message.as_bytes());
            exchange.finish(format!("{without_proof},p={}", BASE64_STANDARD.encode(proof)).as_bytes())
        };
        let stored = new_credentials("secret").expect("valid");
        login(stored.clone(), "secret").expect("right");
        assert_eq!(login(stored, "Secret"), Err(ScramError::Wrong));
        assert_eq!(login(decoy(&[7; 32], "alice"), "secret"), Err(ScramError::Wrong));
        assert_eq!(decoy(&[7; 32], "alice"), decoy(&[7; 32], "alice"));
        assert_ne!(decoy(&[7; 32], "alice").salt, decoy(&[7; 32], "bob").salt);
    }

    #[test]
    fn what_the_rfc_forbids_is_refused() {
        for bad in [
            "p=tls-unique,,n=alice,r=0123456789",
            "n,a=bob,n=alice,r=0123456789",
            "n,,m=x,n=alice,r=0123456789",
            "n,,n=al=ice,r=0123456789",
            "n,,n=alice",
            "n,,n=alice,r=short",
            "n=alice,r=0123456789",
            "",
        ] {
            ClientFirst::parse(bad.as_bytes()).expect_err(bad);
        }
        assert_eq!(ClientFirst::parse(b"y,a=a=2Cb=3D,n=a=2Cb=3D,r=0123456789").expect("good").user, "a,b=");
        let (_, exchange) =
            ClientFirst::parse(b"n,,n=alice,r=0123456789").expect("parses").challenge(decoy(&[0; 32], "a"), "x");
        for bad in ["", "c=biws,r=0123456789x", "c=eSws,r=0123456789x,p=AA==", "c=biws,r=0123456789,p=AA=="] {
            assert!(matches!(exchange.finish(bad.as_bytes()), Err(ScramError::Malformed(_))), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, text in "[nyp]?,?(a=)?,?n=[a=2C,]{0,8},?(r=[!-~]{0,20})?(,p=[A-Za-z=]{0,8})?") {
            for input in [bytes.as_slice(), text.as_bytes()] {
                if let Ok(first) = ClientFirst::parse(input) {
                    let (_, exchange) = first.challenge(decoy(&[0; 32], "a"), "x");
                    let _ = exchange.finish(input);
                }
            }
        }
    }
}
