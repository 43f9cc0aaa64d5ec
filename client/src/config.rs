//! The settings of a client.

use std::{fmt, time::Duration};

use carillon_proto::{Position, TimelineId, pb::client::Start};

use crate::{Address, ConnectOptions, Transport};

/// How a client reaches the service, and what it does automatically.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Gateways; the first one to try is chosen at random, the others follow in turn.
    pub addresses: Vec<Address>,
    pub connect: ConnectOptions,
    /// With a token: empty, or the token's subject.
    pub user: String,
    /// Names this device among those of the user; keep it across starts.
    pub device: String,
    pub credential: Credential,
    /// How far the device has each timeline already; later entries are delivered.
    pub positions: Vec<(TimelineId, Position)>,
    /// Where delivery starts for timelines that are not in `positions`.
    pub start: Start,
    pub acknowledge: Acknowledge,
    /// Most unanswered sends; further ones wait.
    pub max_pending: usize,
    /// A send that was not accepted within this time is given up.
    pub send_timeout: Duration,
    /// The client reconnects when a send or a ping waits for its answer and nothing is heard for this long. Longer than a
    /// gateway takes to report that it has no answer, which by default is 10 seconds.
    pub answer_patience: Duration,
    /// Deadline for a connection and its sign-in.
    pub sign_in_timeout: Duration,
    /// The pause after a failed attempt to connect: the first, and the longest; it doubles each time.
    pub backoff: (Duration, Duration),
    /// Name and version of the program.
    pub program: String,
    /// Where files are, if the service does not name a host: for example https://chat.example.org. `None`: the host of the first
    /// address that is a WebSocket.
    pub media_url: Option<String>,
}

#[derive(Clone)]
pub enum Credential {
    Password(String),
    /// JSON Web Token.
    Token(String),
}

/// Whether the library or the application acknowledges deliveries.
#[derive(Debug, Clone, Copy)]
pub enum Acknowledge {
    /// The client: an event counts as taken when the application asks for the next one. Sent at most once in this time.
    Taken(Duration),
    /// The application, by [`crate::Client::acknowledge`]. Sent at most once in this time.
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
            media_url: None,
        }
    }
}

impl ClientConfig {
    /// Scheme and host of files for which the service names none.
    pub(crate) fn media_base(&self) -> Option<String> {
        let web_socket = |address: &&Address| matches!(address.transport, Transport::WebSocket { .. });
        let of = |address: &Address| format!("http{}://{}", if address.tls { "s" } else { "" }, address.authority());
        self.media_url.clone().or_else(|| self.addresses.iter().find(web_socket).map(of))
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
