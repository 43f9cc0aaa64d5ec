//! A connection that is signed in and idle: one task and one socket, without the client's queues.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use carillon_client::{Connection, ConnectionError, Credential, SignInError, Ticket, resume, sign_in};
use carillon_proto::pb::client::{Ping, Renew, SignIn, SignOut, Start, client_frame::Body};
use tokio::time::{Instant, sleep_until, timeout};

use super::Environment;
use crate::{credentials::Credentials, report::recorder::Recorder};

pub(crate) struct Light {
    connection: Connection,
    heartbeat: Duration,
    recorder: Arc<Recorder>,
    user: String,
    credentials: Credentials,
}

/// By what a connection signs in.
pub(crate) enum By {
    Credential(Credential),
    /// The ticket of an earlier connection of this user and device.
    Ticket(Ticket),
}

/// Time limit for a connection and the sign-in on it.
const SIGN_IN: Duration = Duration::from_secs(30);
const SIGN_OUT: Duration = Duration::from_secs(5);

impl Light {
    /// Connects to the gateways in turn; `number` selects the gateway.
    pub(crate) async fn open(
        environment: &Environment,
        number: usize,
        names: (&str, &str),
    ) -> Result<Self, SignInError> {
        let by = By::Credential(environment.credentials.of(names.0));
        Ok(Self::enter(environment, number, names, &by).await?.0)
    }

    /// The same, with the ticket for the next connection of this user and device, if the service gives one.
    pub(crate) async fn enter(
        environment: &Environment,
        number: usize,
        (user, device): (&str, &str),
        by: &By,
    ) -> Result<(Self, Option<Ticket>), SignInError> {
        let addresses = &environment.target.addresses;
        let address = &addresses[number % addresses.len()];
        let request = SignIn {
            user: user.to_owned(),
            device: device.to_owned(),
            start: Start::Head.into(),
            client: "carillon-loadtest".to_owned(),
            ..SignIn::default()
        };
        let signing_in = async {
            let mut connection = Connection::connect(address, &environment.target.connect).await?;
            let signed_in = match by {
                By::Credential(credential) => sign_in(&mut connection, request, credential).await?,
                By::Ticket(ticket) => resume(&mut connection, request, ticket).await?,
            };
            Ok::<_, SignInError>((connection, signed_in))
        };
        let late = || ConnectionError::Timeout { address: address.to_string(), after: SIGN_IN };
        let (connection, signed_in) = timeout(SIGN_IN, signing_in).await.unwrap_or_else(|_| Err(late().into()))?;
        environment.recorder.signed_in();
        // Slightly early, as the client library does it, so that the ping arrives in time.
        let heartbeat = Duration::from_millis(signed_in.heartbeat_ms.max(1000).into()).mul_f64(0.9);
        let (recorder, credentials) = (Arc::clone(&environment.recorder), environment.credentials.clone());
        let light = Self { connection, heartbeat, recorder, user: user.to_owned(), credentials };
        Ok((light, Ticket::new(signed_in.ticket)))
    }

    /// Keeps the connection until the gateway ends it, which is counted in `lost`. The first ping comes after this part of the heartbeat: spread evenly
    /// over those that sign in at the same time, the pings of all come evenly, too.
    pub(crate) async fn hold(mut self, phase: f64, lost: Arc<AtomicU64>) {
        let mut next_ping = Instant::now() + self.heartbeat.mul_f64(phase);
        let mut next_token = self.credentials.renewed_after().map(|after| Instant::now() + after);
        loop {
            // All branches are cancel-safe.
            tokio::select! {
                frame = self.connection.next_frame() => {
                    if !matches!(frame, Ok(Some(_))) {
                        break;
                    }
                }
                () = sleep_until(next_ping) => {
                    next_ping += self.heartbeat;
                    if self.connection.send_frame(Body::Ping(Ping { nonce: 0 })).await.is_err() {
                        break;
                    }
                }
                () = sleep_until(next_token.unwrap_or(next_ping)), if next_token.is_some() => {
                    next_token = self.credentials.renewed_after().map(|after| Instant::now() + after);
                    let Credential::Token(token) = self.credentials.of(&self.user) else { continue };
                    // If it is refused, the gateway ends the connection with the earlier token.
                    if self.connection.send_frame(Body::Renew(Renew { request: 1, token })).await.is_err() {
                        break;
                    }
                }
            }
        }
        lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Signs out and waits for the answer.
    pub(crate) async fn sign_out(mut self) {
        let goodbye = async {
            self.connection.send_frame(Body::SignOut(SignOut {})).await?;
            while self.connection.next_frame().await?.is_some() {}
            Ok::<_, ConnectionError>(())
        };
        // A connection that breaks without an answer counts as signed out, too.
        let _ = timeout(SIGN_OUT, goodbye).await;
    }
}

impl Drop for Light {
    fn drop(&mut self) {
        self.recorder.signed_out();
    }
}
