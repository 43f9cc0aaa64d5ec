//! SCRAM-SHA-256 keys (RFC 5802 section 3, RFC 7677), shared by the code that makes, checks and proves them.

use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::pb::store::ScramCredentials;

/// PBKDF2 iterations for new credentials. RFC 7677 asks for at least 4,096.
pub const ITERATIONS: u32 = 10_000;
/// Every iteration count that was ever used for credentials, including the current one. None is ever removed: decoy
/// credentials for unknown users draw from all of them, so an old count does not reveal that an account exists.
pub const ITERATIONS_EVER: &[u32] = &[ITERATIONS];
/// Clients refuse more PBKDF2 iterations than this.
pub const MAX_ITERATIONS: u32 = 1_000_000;

#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    #[error("password is empty")]
    Empty,
    #[error("password is longer than 1024 bytes")]
    TooLong,
    #[error("password has characters that SASLprep (RFC 4013) forbids")]
    Forbidden,
}

/// The keys that a client computes from its password.
pub struct ClientKeys {
    client_key: Zeroizing<[u8; 32]>,
    server_key: Zeroizing<[u8; 32]>,
}

impl ClientKeys {
    /// Slow by design: runs PBKDF2 with `iterations` iterations.
    pub fn derive(password: &str, salt: &[u8], iterations: u32) -> Result<Self, PasswordError> {
        if password.is_empty() {
            return Err(PasswordError::Empty);
        }
        if password.len() > 1024 {
            return Err(PasswordError::TooLong);
        }
        let password = stringprep::saslprep(password).map_err(|_| PasswordError::Forbidden)?;
        let mut salted = Zeroizing::new([0; 32]);
        pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), salt, iterations, &mut *salted);
        Ok(Self {
            client_key: Zeroizing::new(hmac(&*salted, b"Client Key")),
            server_key: Zeroizing::new(hmac(&*salted, b"Server Key")),
        })
    }

    /// The ClientProof for the AuthMessage of this exchange.
    pub fn proof(&self, auth_message: &[u8]) -> [u8; 32] {
        let signature = hmac(&sha256(&*self.client_key), auth_message);
        std::array::from_fn(|i| self.client_key[i] ^ signature[i])
    }

    /// Checks the ServerSignature, which proves that the server knows the credentials.
    pub fn accepts(&self, auth_message: &[u8], server_signature: &[u8]) -> bool {
        hmac(&*self.server_key, auth_message).ct_eq(server_signature).into()
    }
}

/// New credentials for the store, with a random salt.
pub fn new_credentials(password: &str) -> Result<ScramCredentials, PasswordError> {
    let salt: [u8; 16] = rand::rng().random();
    let keys = ClientKeys::derive(password, &salt, ITERATIONS)?;
    Ok(ScramCredentials {
        salt: salt.to_vec().into(),
        iterations: ITERATIONS,
        stored_key: sha256(&*keys.client_key).to_vec().into(),
        server_key: keys.server_key.to_vec().into(),
    })
}

/// Server side: returns the ServerSignature if the proof is right. Takes the same time if it is wrong.
pub fn check_proof(stored: &ScramCredentials, auth_message: &[u8], proof: &[u8]) -> Option<[u8; 32]> {
    let signature = hmac(&stored.stored_key, auth_message);
    let mut client_key = Zeroizing::new([0u8; 32]);
    for (i, byte) in client_key.iter_mut().enumerate() {
        *byte = proof.get(i).copied().unwrap_or(0) ^ signature[i];
    }
    let right = sha256(&*client_key).ct_eq(&*stored.stored_key) & (proof.len() as u64).ct_eq(&32);
    bool::from(right).then(|| hmac(&stored.server_key, auth_message))
}

/// Credentials for a user without any: always the same for the same name, so that nobody learns which users exist. No
/// password fits them.
pub fn decoy(key: &[u8; 32], user: &str) -> ScramCredentials {
    let made_up = |what: &str| hmac(key, format!("{what}\0{user}").as_bytes()).to_vec();
    let mut salt = made_up("salt");
    salt.truncate(16);
    ScramCredentials {
        salt: salt.into(),
        iterations: iterations(&made_up("iterations"), ITERATIONS_EVER),
        stored_key: made_up("stored key").into(),
        server_key: made_up("server key").into(),
    }
}

/// An iteration count for a decoy, chosen from all that real credentials may have.
fn iterations(made_up: &[u8], ever: &[u32]) -> u32 {
    let place = made_up.first().map_or(0, |byte| usize::from(*byte)) % ever.len().max(1);
    ever.get(place).copied().unwrap_or(ITERATIONS)
}

/// HMAC-SHA-256.
pub fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    // HMAC takes keys of any length (RFC 2104 section 3).
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any key length is valid");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::{Engine as _, prelude::BASE64_STANDARD};

    /// The example of RFC 7677 section 3.
    #[test]
    fn proof_and_signature_match_rfc_7677() {
        let salt = BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let keys = ClientKeys::derive("pencil", &salt, 4096).expect("valid");
        let message = b"n=user,r=rOprNGfwEbeRWgbNEkqO,\
            r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
            c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let proof = keys.proof(message);
        assert_eq!(BASE64_STANDARD.encode(proof), "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        let stored = ScramCredentials {
            salt: salt.into(),
            iterations: 4096,
            stored_key: sha256(&*keys.client_key).to_vec().into(),
            server_key: keys.server_key.to_vec().into(),
        };
        let signature = check_proof(&stored, message, &proof).expect("right proof");
        assert_eq!(BASE64_STANDARD.encode(signature), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert!(keys.accepts(message, &signature));
        let mut wrong = proof;
        wrong[0] ^= 1;
        assert!(check_proof(&stored, message, &wrong).is_none());
        assert!(check_proof(&stored, message, &[]).is_none());
    }

    #[test]
    fn made_up_credentials_have_every_number_of_rounds_that_real_ones_may_have() {
        assert!(ITERATIONS_EVER.contains(&ITERATIONS));
        let ever = [4096, 10_000];
        let of = |user: u32| iterations(&hmac(&[7; 32], format!("iterations\0user{user}").as_bytes()), &ever);
        for rounds in ever {
            let count = (0..1000).filter(|user| of(*user) == rounds).count();
            assert!((300..700).contains(&count), "{count} of 1000 have {rounds}");
        }
        assert_eq!(of(1), of(1), "always the same for one name");
        let made_up = decoy(&[7; 32], "nobody").iterations;
        assert!(ITERATIONS_EVER.contains(&made_up));
    }
}
