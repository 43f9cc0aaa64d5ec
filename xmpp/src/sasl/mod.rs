//! The server's side of SASL (RFC 6120, section 6): the mechanisms, step by step. The caller looks up keys, checks passwords and tokens,
//! and gives the random nonce.

mod bind;
mod fast;
mod ht;
mod mechanism;
mod negotiation;
mod oauth;
mod plain;
mod protection;
mod sasl2;
mod scram;
mod secret;
mod upgrade;
mod wire;

#[cfg(any(test, feature = "client"))]
pub(crate) use {ht::hashed, protection::of_lists};

pub use bind::{Bind, bound};
pub use fast::{Fast, TokenIssuer};
pub use ht::TokenMechanism;
pub use mechanism::{ChannelBindings, Mechanism, Offer};
pub use negotiation::{Negotiation, Step};
pub use sasl2::{Authenticate, Features, Request2, UserAgent, continued, success};
pub use scram::{Hash, Keys};
pub use secret::Secret;
pub use upgrade::Upgrade;
pub use wire::Request;

use crate::{Jid, error::SaslFailure};

/// The address of the user who signs in by this name, at this host.
///
/// RFC 6120, section 6.3.7: the name is "a simple user name equal to the localpart of the user's JID". Some clients give the whole bare
/// address.
fn user(name: &str, host: &str) -> Result<Jid, SaslFailure> {
    // RFC 5802, section 5.1: "Upon receipt of the username by the server, the server MUST either prepare it using the "SASLprep" profile".
    let name = stringprep::saslprep(name).map_err(|_| SaslFailure::NotAuthorized)?;
    let jid = match name.split_once('@') {
        Some((local, domain)) => Jid::of_parts(Some(local), domain, None),
        None => Jid::of_parts(Some(&name), host, None),
    };
    let host = Jid::of_parts(None, host, None);
    match (jid, host) {
        (Ok(jid), Ok(host)) if jid.domain() == host.domain() => Ok(jid),
        _ => Err(SaslFailure::NotAuthorized),
    }
}

/// Whether `user` may act as the one that the client names: only as itself. `from`: the user whom the stream's header names, if that counts.
///
/// RFC 6120, section 6.3.8: "the value of an authorization identity MUST be a bare JID"; "the receiving entity is responsible for verifying
/// that the initiating entity is in fact allowed to assume the specified authorization identity; if not, the receiving entity MUST return
/// an \<invalid-authzid/\> SASL error".
fn check_authzid(authzid: Option<&str>, user: &Jid, from: Option<&Jid>) -> Result<(), SaslFailure> {
    match authzid.map(Jid::bare_of) {
        None => Ok(()),
        Some(Ok(named)) if named == *user && from.is_none_or(|from| named == *from) => Ok(()),
        Some(_) => Err(SaslFailure::InvalidAuthzid),
    }
}

#[cfg(test)]
mod tests;
