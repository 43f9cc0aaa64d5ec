//! The client's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), without channel binding.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use carillon_proto::credentials::{ClientKeys, MAX_ITERATIONS, PasswordError};
use rand::RngExt as _;

/// One exchange.
pub struct Scram {
    nonce: String,
    first_bare: String,
}

/// The server's parameters for the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salt {
    pub salt: Vec<u8>,
    pub iterations: u32,
}

/// The exchange after the server's first message.
pub struct Challenged {
    without_proof: String,
    auth_message: String,
    pub salt: Salt,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    #[error("server's SCRAM message is not valid: {0}")]
    Message(&'static str),
    #[error("server asks for {0} rounds of PBKDF2, which is not 4096 to {MAX_ITERATIONS}")]
    Iterations(u64),
    #[error("{0}")]
    Password(String),
    #[error("server refused the password: {0}")]
    Refused(String),
    /// The answering server does not know the credentials: it is not the service that the user signed up with.
    #[error("server's signature is wrong: it does not know this user's credentials")]
    Signature,
}

impl From<PasswordError> for ScramError {
    fn from(error: PasswordError) -> Self {
        Self::Password(error.to_string())
    }
}

impl Scram {
    pub fn new(user: &str) -> Self {
        let noise: [u8; 18] = rand::rng().random();
        Self::with_nonce(user, BASE64_STANDARD.encode(noise))
    }

    pub(crate) fn with_nonce(user: &str, nonce: String) -> Self {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        Self { first_bare: format!("n={user},r={nonce}"), nonce }
    }

    /// client-first-message.
    pub fn first(&self) -> String {
        format!("n,,{}", self.first_bare)
    }

    /// Takes server-first-message.
    pub fn challenged(self, server_first: &[u8]) -> Result<Challenged, ScramError> {
        let text = std::str::from_utf8(server_first).map_err(|_| ScramError::Message("not UTF-8"))?;
        let mut parts = text.split(',');
        let nonce = field(parts.next(), "r=", "nonce is missing")?;
        let salt = field(parts.next(), "s=", "salt is missing")?;
        let iterations = field(parts.next(), "i=", "iteration count is missing")?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(ScramError::Message("nonce does not continue ours"));
        }
        let salt = BASE64_STANDARD.decode(salt).map_err(|_| ScramError::Message("salt is not base64"))?;
        let iterations: u64 = iterations.parse().map_err(|_| ScramError::Message("iteration count is not a number"))?;
        let iterations = u32::try_from(iterations)
            .ok()
            .filter(|rounds| (4096..=MAX_ITERATIONS).contains(rounds))
            .ok_or(ScramError::Iterations(iterations))?;
        let without_proof = format!("c=biws,r={nonce}");
        Ok(Challenged {
            auth_message: format!("{},{text},{without_proof}", self.first_bare),
            without_proof,
            salt: Salt { salt, iterations },
        })
    }
}

impl Challenged {
    /// client-final-message.
    pub fn final_message(&self, keys: &ClientKeys) -> String {
        let proof = BASE64_STANDARD.encode(keys.proof(self.auth_message.as_bytes()));
        format!("{},p={proof}", self.without_proof)
    }

    /// Checks server-final-message.
    pub fn verify(&self, keys: &ClientKeys, server_final: &[u8]) -> Result<(), ScramError> {
        let text = std::str::from_utf8(server_final).map_err(|_| ScramError::Message("not UTF-8"))?;
        let first = text.split(',').next().unwrap_or_default();
        if let Some(error) = first.strip_prefix("e=") {
            return Err(ScramError::Refused(error.to_owned()));
        }
        let signature = field(Some(first), "v=", "signature is missing")?;
        let signature =
            BASE64_STANDARD.decode(signature).map_err(|_| ScramError::Message("signature is not base64"))?;
        if keys.accepts(self.auth_message.as_bytes(), &signature) { Ok(()) } else { Err(ScramError::Signature) }
    }
}

fn field<'a>(part: Option<&'a str>, name: &str, missing: &'static str) -> Result<&'a str, ScramError> {
    part.and_then(|part| part.strip_prefix(name)).ok_or(ScramError::Message(missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER_FIRST: &[u8] =
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn exchange() -> Challenged {
        let scram = Scram::with_nonce("user", "rOprNGfwEbeRWgbNEkqO".to_owned());
        assert_eq!(scram.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        scram.challenged(SERVER_FIRST).expect("valid")
    }

    /// The example of RFC 7677 section 3.
    #[test]
    fn exchange_matches_rfc_7677() {
        let challenged = exchange();
        let keys = ClientKeys::derive("pencil", &challenged.salt.salt, challenged.salt.iterations).expect("valid");
        assert_eq!(
            challenged.final_message(&keys),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        challenged.verify(&keys, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").expect("the RFC's signature");
    }

    #[test]
    fn a_server_that_does_not_know_the_credentials_is_refused() {
        let challenged = exchange();
        let keys = ClientKeys::derive("pencil", &challenged.salt.salt, 4096).expect("valid");
        let verify = |text: &str| challenged.verify(&keys, text.as_bytes()).expect_err("refused");
        assert_eq!(
            verify("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5="),
            ScramError::Message("signature is not base64")
        );
        assert_eq!(verify("v=AAAA"), ScramError::Signature);
        assert_eq!(verify("e=invalid-proof"), ScramError::Refused("invalid-proof".to_owned()));
        assert_eq!(verify(""), ScramError::Message("signature is missing"));
    }

    #[test]
    fn a_weak_or_foreign_challenge_is_refused() {
        for challenge in
            ["r=abc,s=AAAA,i=4096", "r=xyz123,s=AAAA,i=4096", "r=abc1,s=AAAA,i=1", "r=abc1,s=AAAA,i=99999999", ""]
        {
            let scram = Scram::with_nonce("user", "abc".to_owned());
            assert!(scram.challenged(challenge.as_bytes()).is_err(), "{challenge}");
        }
        assert_eq!(Scram::with_nonce("a=b,c", "x".to_owned()).first(), "n,,n=a=3Db=2Cc,r=x");
    }
}
