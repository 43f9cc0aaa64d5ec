//! What a client is told at its start.

use std::{fmt, time::Duration};

use carillon_proto::{Position, TimelineId, pb::client::Start};

use crate::{Address, ConnectOptions};

/// How a client reaches the service and what it does by itself.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Gateways; the first one to try is chosen at random, the others follow in turn.
    pub addresses: Vec<Address>,
    pub connect: ConnectOptions,
    /// With a token: empty, or the token's subject.
    pub user: String,
    /// Names this device among those of the user; to be kept across starts.
    pub device: String,
    pub credential: Credential,
    /// How far the device has each timeline already; what comes after is delivered.
    pub positions: Vec<(TimelineId, Position)>,
    /// Where timelines begin that `positions` does not name.
    pub start: Start,
    pub acknowledge: Acknowledge,
    /// Sends without an answer; one more waits.
    pub max_pending: usize,
    /// After this time a send that was not accepted is given up.
    pub send_timeout: Duration,
    /// When nothing is heard for so long while a send waits for its answer, the client connects again. Longer than a
    /// gateway takes to say that it has no answer, which by default is 10 seconds.
    pub answer_patience: Duration,
    /// For a connection and the sign-in on it.
    pub sign_in_timeout: Duration,
    /// The pause after a failed attempt to connect, doubled each time up to the second.
    pub backoff: (Duration, Duration),
    /// Name and version of the program.
    pub program: String,
}

#[derive(Clone)]
pub enum Credential {
    Password(String),
    /// JSON Web Token.
    Token(String),
}

/// Who tells the service how far this device is.
#[derive(Debug, Clone, Copy)]
pub enum Acknowledge {
    /// The client, for an event that the application has taken when it asks for the next one; at most once in this
    /// time.
    Taken(Duration),
    /// The application, by [`crate::Client::acknowledge`]; sent at most once in this time.
    Explicit(Duration),
}

impl ClientConfig {
    pub fn new(addresses: Vec<Address>, user: &str, device: &str, credential: Credential) -> Self {
        Self {
            addresses,
            connect: ConnectOptions::default(),
            user: user.to_owned(),
            device: device.to_owned(),
            credential,
            positions: Vec::new(),
            start: Start::Cursor,
            acknowledge: Acknowledge::Taken(Duration::from_millis(200)),
            max_pending: 256,
            send_timeout: Duration::from_secs(30),
            answer_patience: Duration::from_secs(15),
            sign_in_timeout: Duration::from_secs(10),
            backoff: (Duration::from_millis(100), Duration::from_secs(10)),
            program: concat!("carillon-client/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl Acknowledge {
    pub(crate) fn interval(self) -> Duration {
        match self {
            Self::Taken(interval) | Self::Explicit(interval) => interval,
        }
    }
}

/// Never shows the secret.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password(..)",
            Self::Token(_) => "Token(..)",
        })
    }
}
