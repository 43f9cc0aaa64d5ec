//! The client's side of a stream up to its resource, for load generators and tests: events of the server go in, text for it comes out. The
//! caller has the socket, the TLS connection and the random nonce.
//!
//! The client signs in by XEP-0388 or RFC 6120. A hash of the offer (XEP-0474) is checked where the server gives one.

mod exchange;
mod features;
mod sign_in;

pub use features::{Inline, ServerFeatures};
pub use sign_in::{Act, SignIn, SignedIn};

use crate::{
    Jid,
    sasl::{Mechanism, TokenMechanism},
};

/// The user who signs in, and the secret.
#[derive(Clone)]
pub struct Account {
    /// The bare address of the user.
    pub jid: Jid,
    pub credentials: Credentials,
    /// The resource that is asked for. `None`: the server chooses.
    pub resource: Option<String>,
    /// The id of the installation, a UUID of version 4, for XEP-0388.
    pub agent: Option<String>,
}

/// The secret of the user.
#[derive(Clone)]
pub enum Credentials {
    Password(String),
    /// A token of OAUTHBEARER (RFC 7628).
    Bearer(String),
    /// A token of XEP-0484.
    Token(TokenMechanism, String),
}

/// The client's preferences among the offers of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preferences {
    /// The mechanisms that the client knows.
    pub mechanisms: Vec<Mechanism>,
    /// The client signs in by XEP-0388 where it can, and binds a resource by XEP-0386.
    pub sasl2: bool,
    /// The client asks for a token for this mechanism (XEP-0484).
    pub wants_token: Option<TokenMechanism>,
    /// The client makes keys of its password for the hash functions that the server asks for (XEP-0480).
    pub upgrades: bool,
}

impl Default for Preferences {
    fn default() -> Self {
        Self { mechanisms: Mechanism::ALL.to_vec(), sasl2: true, wants_token: None, upgrades: false }
    }
}

/// The reason why a client did not get in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignInError {
    #[error("the server has ended the stream: {0}")]
    Ended(String),
    #[error("the server's stream is not valid: {0}")]
    Invalid(String),
    #[error("the server has sent <{0}/> out of turn")]
    Unexpected(String),
    #[error("the server offers no mechanism that the client knows")]
    NoMechanism,
    #[error("the server has refused the credentials: {0}")]
    Refused(String),
    #[error("the server's part of the exchange is malformed")]
    Malformed,
    #[error("the server does not know the password or the token")]
    Impostor,
    #[error("the offer of the server was changed on its way")]
    Downgraded,
    #[error("the server binds no resource")]
    NotBound,
}

#[cfg(test)]
mod tests;
