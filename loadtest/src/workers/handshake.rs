//! How a coordinator and a worker show each other that they know the same secret, which is never sent: each signs a number that the
//! other has chosen at random.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncWrite};

use super::wire::{STRANGERS_BYTES, WireError, receive, send};

/// Shared by the coordinator and its workers.
#[derive(Clone)]
pub(crate) struct Secret(Arc<[u8]>);

/// The shortest secret, in bytes.
const LEAST: usize = 16;
/// How long each part of the handshake may take.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("the other side has another secret")]
    Secret,
    #[error("the other side is of version {0}, this one of {own}", own = VERSION)]
    Version(String),
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Challenge {
    version: String,
    nonce: [u8; 32],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    version: String,
    nonce: [u8; 32],
    proof: Vec<u8>,
    threads: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Welcome {
    proof: Vec<u8>,
}

impl Secret {
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("can't read the secret {}", path.display()))?;
        let secret = text.trim();
        anyhow::ensure!(
            secret.len() >= LEAST,
            "the secret in {} has {} bytes, and must have at least {LEAST}",
            path.display(),
            secret.len()
        );
        Ok(Self(secret.as_bytes().into()))
    }

    #[cfg(test)]
    pub(super) fn of(text: &str) -> Self {
        Self(text.as_bytes().into())
    }

    fn mac(&self, who: &str, (first, second): (&[u8; 32], &[u8; 32])) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        [b"carillon-loadtest ", who.as_bytes(), first, second].iter().for_each(|part| mac.update(part));
        mac
    }

    fn proof(&self, who: &str, nonces: (&[u8; 32], &[u8; 32])) -> Vec<u8> {
        self.mac(who, nonces).finalize().into_bytes().to_vec()
    }

    fn check(&self, who: &str, nonces: (&[u8; 32], &[u8; 32]), proof: &[u8]) -> Result<(), HandshakeError> {
        self.mac(who, nonces).verify_slice(proof).map_err(|_| HandshakeError::Secret)
    }
}

/// The coordinator's side. Returns the worker's number of threads.
pub(super) async fn admit(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    secret: &Secret,
) -> Result<usize, HandshakeError> {
    let own: [u8; 32] = rand::random();
    send(stream, &Challenge { version: VERSION.to_owned(), nonce: own }).await?;
    let answer: Answer = receive(stream, STRANGERS_BYTES, PATIENCE).await?;
    secret.check("worker", (&own, &answer.nonce), &answer.proof)?;
    if answer.version != VERSION {
        return Err(HandshakeError::Version(answer.version));
    }
    send(stream, &Welcome { proof: secret.proof("coordinator", (&answer.nonce, &own)) }).await?;
    Ok(answer.threads)
}

/// The worker's side.
pub(super) async fn join(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    secret: &Secret,
    threads: usize,
) -> Result<(), HandshakeError> {
    let challenge: Challenge = receive(stream, STRANGERS_BYTES, PATIENCE).await?;
    let own: [u8; 32] = rand::random();
    let proof = secret.proof("worker", (&challenge.nonce, &own));
    send(stream, &Answer { version: VERSION.to_owned(), nonce: own, proof, threads }).await?;
    if challenge.version != VERSION {
        return Err(HandshakeError::Version(challenge.version));
    }
    let welcome: Welcome = match receive(stream, STRANGERS_BYTES, PATIENCE).await {
        // A coordinator says nothing to whom it does not know.
        Err(WireError::Closed) => return Err(HandshakeError::Secret),
        welcome => welcome?,
    };
    secret.check("coordinator", (&own, &challenge.nonce), &welcome.proof)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn meet(coordinators: &str, workers: &str) -> (Result<usize, HandshakeError>, Result<(), HandshakeError>) {
        let (mut here, mut there) = tokio::io::duplex(4096);
        let (coordinators, workers) = (Secret::of(coordinators), Secret::of(workers));
        let coordinator = async {
            let admitted = admit(&mut here, &coordinators).await;
            drop(here);
            admitted
        };
        tokio::join!(coordinator, join(&mut there, &workers, 3))
    }

    #[tokio::test]
    async fn who_has_the_same_secret_is_admitted() {
        let (admitted, joined) = meet("a secret of both", "a secret of both").await;
        assert_eq!(admitted.expect("admitted"), 3);
        joined.expect("joined");
    }

    #[tokio::test]
    async fn another_secret_is_told_on_both_sides() {
        let (admitted, joined) = meet("a secret of one", "another secret").await;
        assert!(matches!(admitted, Err(HandshakeError::Secret)));
        assert!(matches!(joined, Err(HandshakeError::Secret)));
    }

    #[tokio::test]
    async fn a_coordinator_that_knows_no_secret_is_found_out() {
        let (mut here, mut there) = tokio::io::duplex(4096);
        let liar = async {
            send(&mut here, &Challenge { version: VERSION.to_owned(), nonce: [1; 32] }).await.expect("sent");
            let answer: Answer = receive(&mut here, STRANGERS_BYTES, PATIENCE).await.expect("read");
            // The worker's own proof is of no use.
            send(&mut here, &Welcome { proof: answer.proof }).await.expect("sent");
        };
        let secret = Secret::of("a secret of one");
        let (_, joined) = tokio::join!(liar, join(&mut there, &secret, 1));
        assert!(matches!(joined, Err(HandshakeError::Secret)));
    }

    #[test]
    fn a_secret_that_is_too_short_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("secret");
        std::fs::write(&path, "  short\n").expect("written");
        let error = Secret::read(&path).map(drop).expect_err("too short").to_string();
        assert!(error.contains("has 5 bytes"), "{error}");
    }
}
