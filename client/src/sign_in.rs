//! The exchange at the start of a connection.

use std::sync::Arc;

use carillon_proto::{
    credentials::ClientKeys,
    pb::client::{self, Bye, Code, SignedIn, client_frame, server_frame, sign_in::Credential as Sent},
};
use parking_lot::Mutex;

use crate::{
    Connection, ConnectionError, Credential, Refusal, ScramError,
    scram::{Salt, Scram},
};

#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    #[error("sign-in was refused: {0}")]
    Refused(Refusal),
    #[error("gateway ended the connection: {:?}: {}", .0.code(), .0.reason)]
    Bye(Bye),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Scram(#[from] ScramError),
    #[error("gateway answered the sign-in with something else")]
    Unexpected,
}

impl SignInError {
    /// True if retrying with the same credential is of no use anywhere.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused(refusal) => !refusal.retry && refusal.code != Code::Internal,
            Self::Bye(bye) => !bye.reconnect,
            Self::Scram(error) => !matches!(error, ScramError::Message(_)),
            Self::Connection(ConnectionError::Tls(_)) => true,
            Self::Connection(_) | Self::Unexpected => false,
        }
    }
}

/// Derived keys, kept so that a reconnect does not pay for PBKDF2 again.
#[derive(Default)]
pub(crate) struct KeyCache(Mutex<Option<(Salt, Arc<ClientKeys>)>>);

/// Signs in on a new connection. `request` contains everything but the credential.
pub async fn sign_in(
    connection: &mut Connection,
    request: client::SignIn,
    credential: &Credential,
) -> Result<SignedIn, SignInError> {
    sign_in_cached(connection, request, credential, &KeyCache::default()).await
}

pub(crate) async fn sign_in_cached(
    connection: &mut Connection,
    request: client::SignIn,
    credential: &Credential,
    cache: &KeyCache,
) -> Result<SignedIn, SignInError> {
    match credential {
        Credential::Token(token) => {
            let request = client::SignIn { credential: Some(Sent::Token(token.clone())), ..request };
            connection.send_frame(client_frame::Body::SignIn(request)).await?;
            signed_in(connection).await
        }
        Credential::Password(password) => {
            let scram = Scram::new(&request.user);
            let first = Sent::ScramFirst(scram.first().into_bytes().into());
            let request = client::SignIn { credential: Some(first), ..request };
            connection.send_frame(client_frame::Body::SignIn(request)).await?;
            let challenge = match answer(connection).await? {
                server_frame::Body::Challenge(challenge) => challenge,
                _ => return Err(SignInError::Unexpected),
            };
            let challenged = scram.challenged(&challenge.scram_server_first)?;
            let keys = keys(password, &challenged.salt, cache).await?;
            let message = challenged.final_message(&keys).into_bytes().into();
            connection.send_frame(client_frame::Body::ScramFinal(client::ScramFinal { message })).await?;
            let signed_in = signed_in(connection).await?;
            challenged.verify(&keys, &signed_in.scram_server_final)?;
            Ok(signed_in)
        }
    }
}

async fn signed_in(connection: &mut Connection) -> Result<SignedIn, SignInError> {
    match answer(connection).await? {
        server_frame::Body::SignedIn(signed_in) => Ok(signed_in),
        _ => Err(SignInError::Unexpected),
    }
}

async fn answer(connection: &mut Connection) -> Result<server_frame::Body, SignInError> {
    match connection.next_frame().await?.ok_or(ConnectionError::Closed)?.body {
        Some(server_frame::Body::Refused(refused)) => Err(SignInError::Refused(refused.into())),
        Some(server_frame::Body::Bye(bye)) => Err(SignInError::Bye(bye)),
        Some(body) => Ok(body),
        None => Err(SignInError::Unexpected),
    }
}

async fn keys(password: &str, salt: &Salt, cache: &KeyCache) -> Result<Arc<ClientKeys>, ScramError> {
    if let Some((_, keys)) = cache.0.lock().as_ref().filter(|(cached, _)| cached == salt) {
        return Ok(Arc::clone(keys));
    }
    let (password, wanted) = (password.to_owned(), salt.clone());
    // Hashing takes milliseconds, so it runs on a blocking thread.
    let derived =
        tokio::task::spawn_blocking(move || ClientKeys::derive(&password, &wanted.salt, wanted.iterations)).await;
    let keys = Arc::new(derived.map_err(|_| ScramError::Password("hashing the password failed".to_owned()))??);
    *cache.0.lock() = Some((salt.clone(), Arc::clone(&keys)));
    Ok(keys)
}
