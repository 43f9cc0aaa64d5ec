//! The exchange at the start of a connection.

use std::sync::Arc;

use carillon_proto::{
    credentials::ClientKeys,
    pb::client::{self, Bye, Code, SignedIn, client_frame, server_frame, sign_in::Credential as Sent},
};
use parking_lot::Mutex;

use crate::{
    Connection, ConnectionError, Credential, Refusal, ScramError, Ticket,
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

    /// True if another credential may be taken where this one was not.
    fn is_about_the_credential(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            // A gateway of a release without tickets finds no credential, and ends the connection for good.
            Self::Bye(bye) => matches!(bye.code(), Code::Unauthenticated | Code::RateLimited),
            Self::Connection(_) | Self::Scram(_) | Self::Unexpected => false,
        }
    }
}

/// Derived keys and the resume ticket, kept for the next sign-in.
#[derive(Default)]
pub(crate) struct SignInCache {
    /// Derived keys, so that a reconnect does not pay for PBKDF2 again.
    keys: Mutex<Option<(Salt, Arc<ClientKeys>)>>,
    /// By which the service takes the device without its credential.
    pub(crate) ticket: Mutex<Option<Ticket>>,
}

/// Signs in on a new connection. `request` contains everything but the credential.
pub async fn sign_in(
    connection: &mut Connection,
    request: client::SignIn,
    credential: &Credential,
) -> Result<SignedIn, SignInError> {
    by_credential(connection, request, credential, &SignInCache::default()).await
}

/// Signs in by a ticket, on a new connection. If the ticket is refused, [`sign_in`] may follow on the same connection.
pub async fn resume(
    connection: &mut Connection,
    request: client::SignIn,
    ticket: &Ticket,
) -> Result<SignedIn, SignInError> {
    let request = client::SignIn { credential: Some(Sent::Ticket(ticket.bytes())), ..request };
    connection.send_frame(client_frame::Body::SignIn(request)).await?;
    signed_in(connection).await
}

/// Signs in by the ticket in the cache, if there is one, and by the credential if that is refused. The answer's ticket goes into
/// the cache and not further.
pub(crate) async fn sign_in_cached(
    connection: &mut Connection,
    request: client::SignIn,
    credential: &Credential,
    cache: &SignInCache,
) -> Result<SignedIn, SignInError> {
    let ticket = cache.ticket.lock().clone();
    let resumed = match &ticket {
        Some(ticket) => Some(resume(connection, request.clone(), ticket).await),
        None => None,
    };
    if let Some(Err(error)) = &resumed
        && error.is_about_the_credential()
    {
        *cache.ticket.lock() = None;
    }
    let mut signed_in = match resumed {
        Some(Err(SignInError::Refused(_))) | None => by_credential(connection, request, credential, cache).await?,
        Some(resumed) => resumed?,
    };
    *cache.ticket.lock() = Ticket::new(std::mem::take(&mut signed_in.ticket));
    Ok(signed_in)
}

async fn by_credential(
    connection: &mut Connection,
    request: client::SignIn,
    credential: &Credential,
    cache: &SignInCache,
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

async fn keys(password: &str, salt: &Salt, cache: &SignInCache) -> Result<Arc<ClientKeys>, ScramError> {
    if let Some((_, keys)) = cache.keys.lock().as_ref().filter(|(cached, _)| cached == salt) {
        return Ok(Arc::clone(keys));
    }
    let (password, wanted) = (password.to_owned(), salt.clone());
    // Hashing takes milliseconds, so it runs on a blocking thread.
    let derived =
        tokio::task::spawn_blocking(move || ClientKeys::derive(&password, &wanted.salt, wanted.iterations)).await;
    let keys = Arc::new(derived.map_err(|_| ScramError::Password("hashing the password failed".to_owned()))??);
    *cache.keys.lock() = Some((salt.clone(), Arc::clone(&keys)));
    Ok(keys)
}
