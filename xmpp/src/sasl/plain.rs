//! PLAIN (RFC 4616).

use super::{Secret, check_authzid, user};
use crate::{Jid, error::SaslFailure};

/// Reads the only message of the client.
///
/// RFC 4616, section 2: "the NUL (U+0000) character MUST NOT appear in authzid, authcid, or passwd productions". "Servers MUST be capable of
/// accepting authzid, authcid, and passwd productions up to and including 255 octets": longer ones fit, too.
pub(super) fn read(message: &[u8], host: &str, from: Option<&Jid>) -> Result<(Jid, Secret), SaslFailure> {
    let text = std::str::from_utf8(message).map_err(|_| SaslFailure::MalformedRequest)?;
    let fields: Vec<_> = text.splitn(4, '\0').collect();
    let [authzid, name, password] = fields[..] else { return Err(SaslFailure::MalformedRequest) };
    if name.is_empty() || password.is_empty() {
        return Err(SaslFailure::MalformedRequest);
    }
    let user = user(name, host)?;
    check_authzid(Some(authzid).filter(|authzid| !authzid.is_empty()), &user, from)?;
    Ok((user, Secret::new(password)))
}
