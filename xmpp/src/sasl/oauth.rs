//! OAUTHBEARER (RFC 7628): tokens.

use super::{Secret, scram::Gs2};
use crate::error::SaslFailure;

/// The answer to a token that is not valid, before the failure. The client ends the exchange with [`END`].
///
/// RFC 7628, section 3.2.2: "For a failed authentication, the server returns an error result in JSON [RFC7159] format and fails the
/// authentication."
pub(super) const INVALID_TOKEN: &[u8] = br#"{"status":"invalid_token"}"#;

/// RFC 7628, section 3.2.3: "The client MUST then send either an additional client response consisting of a single %x01 (control A)
/// character to the server in order to allow the server to finish the exchange or a SASL abort message".
pub(super) const END: &[u8] = b"\x01";

/// The client's message.
pub(super) struct Bearer {
    pub(super) authzid: Option<String>,
    pub(super) token: Secret,
}

/// Reads the client's message.
pub(super) fn read(message: &[u8]) -> Result<Bearer, SaslFailure> {
    let malformed = SaslFailure::MalformedRequest;
    let text = std::str::from_utf8(message).map_err(|_| malformed)?;
    let (gs2, pairs) = Gs2::read(text)?;
    // OAUTHBEARER has no variant with channel binding.
    if gs2.binding.is_some() {
        return Err(malformed);
    }
    let pairs = pairs.strip_prefix('\x01').and_then(|pairs| pairs.strip_suffix('\x01')).ok_or(malformed)?;
    let mut token = None;
    // Each pair ends with the separator, the last one, too.
    for pair in pairs.strip_suffix('\x01').ok_or(malformed)?.split('\x01') {
        // RFC 7628, section 3.1: "Unknown key/value pairs MUST be ignored by the server."
        match pair.split_once('=') {
            Some(("auth", value)) if token.is_none() => token = Some(bearer(value)?),
            Some(("auth", _)) | None => return Err(malformed),
            Some(_) => {}
        }
    }
    Ok(Bearer { authzid: gs2.authzid, token: token.ok_or(malformed)? })
}

/// The token of `Bearer TOKEN`. The scheme's case does not matter (RFC 7235, section 2.1).
fn bearer(value: &str) -> Result<Secret, SaslFailure> {
    let malformed = SaslFailure::MalformedRequest;
    let (scheme, token) = value.trim_matches(' ').split_once(' ').ok_or(malformed)?;
    let token = token.trim_start_matches(' ');
    if !scheme.eq_ignore_ascii_case("Bearer") || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(malformed);
    }
    Ok(Secret::new(token))
}
