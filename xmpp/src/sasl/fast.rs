//! Tokens for signing in again (XEP-0484), made anew whenever they are needed instead of stored.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

use super::{Hash, Secret, TokenMechanism};
use crate::{Element, extension::date_time, ns};

/// The time in which the same token is given, in milliseconds: 14 days. It counts as long again.
const WINDOW_MS: u64 = 14 * 24 * 60 * 60 * 1000;

/// `<fast/>` of a client: it signs in with a token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fast {
    /// The token is to count no more (section 3.6).
    pub invalidates: bool,
}

impl Fast {
    /// `None` if the element is another one.
    pub(super) fn read(element: &Element) -> Option<Self> {
        let is_true = |value: &str| matches!(value, "1" | "true");
        element.is("fast", ns::FAST).then(|| Self { invalidates: element.attribute("invalidate").is_some_and(is_true) })
    }
}

/// The mechanism for which a client asks for a token. `None`: it does not ask, or there is no such mechanism.
pub(super) fn requested(element: &Element) -> Option<TokenMechanism> {
    let name = element.is("request-token", ns::FAST).then(|| element.attribute("mechanism")).flatten()?;
    TokenMechanism::ALL.iter().copied().find(|mechanism| mechanism.name() == name)
}

/// `<fast/>` for the features.
pub(super) fn feature(mechanisms: impl Iterator<Item = TokenMechanism>) -> Element {
    let mechanism = |mechanism: TokenMechanism| Element::new("mechanism", ns::FAST).with_text(mechanism.name());
    Element::new("fast", ns::FAST).with_children(mechanisms.map(mechanism))
}

/// Makes the tokens of one client of a user.
#[derive(Clone, Copy)]
pub struct TokenIssuer<'a> {
    /// A secret of the service.
    pub key: &'a [u8; 32],
    /// The id of the user.
    pub user: &'a str,
    /// The id of the client, see [`super::UserAgent::id`].
    pub agent: &'a str,
    /// The generation of the user's sign-ins: with another one all tokens are void.
    pub generation: u64,
}

impl fmt::Debug for TokenIssuer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenIssuer").field("user", &self.user).field("agent", &self.agent).finish_non_exhaustive()
    }
}

impl TokenIssuer<'_> {
    /// The tokens that are valid at this time, in milliseconds since 1970: the one that is given now, and the one before it. A client that
    /// has the latter is given the former ([`Self::element`]).
    ///
    /// XEP-0484, section 3.5: the server "MUST NOT invalidate the existing token until the new token is actually used by the client": the old
    /// one counts up to its end.
    pub fn valid(&self, mechanism: TokenMechanism, now_ms: u64) -> Vec<Secret> {
        let window = now_ms / WINDOW_MS;
        let windows = [Some(window), window.checked_sub(1)];
        windows.into_iter().flatten().map(|window| self.token(mechanism, window)).collect()
    }

    /// `<token/>` for the client.
    pub fn element(&self, mechanism: TokenMechanism, now_ms: u64) -> Element {
        let window = now_ms / WINDOW_MS;
        Element::new("token", ns::FAST)
            .with("expiry", date_time::format((window + 2) * WINDOW_MS))
            .with("token", self.token(mechanism, window).as_str().to_owned())
    }

    fn token(&self, mechanism: TokenMechanism, window: u64) -> Secret {
        // The lengths keep the parts apart.
        let mut message = b"FAST".to_vec();
        for part in [mechanism.name(), self.user, self.agent] {
            message.extend_from_slice(&(part.len() as u64).to_be_bytes());
            message.extend_from_slice(part.as_bytes());
        }
        message.extend_from_slice(&self.generation.to_be_bytes());
        message.extend_from_slice(&window.to_be_bytes());
        Secret::new(&BASE64_URL_SAFE_NO_PAD.encode(Hash::Sha256.hmac(self.key, &message)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const ISSUER: TokenIssuer<'static> =
        TokenIssuer { key: &[7; 32], user: "juliet", agent: "d4565fa7-4d72-4749-b3d3-740edbf87770", generation: 3 };
    const NOW_MS: u64 = 100 * WINDOW_MS + 5;

    #[test]
    fn a_token_counts_for_one_client_one_mechanism_and_two_windows() {
        let mechanism = TokenMechanism::Exporter;
        let valid =
            |ms| ISSUER.valid(mechanism, ms).into_iter().map(|token| token.as_str().to_owned()).collect::<Vec<_>>();
        let given = valid(NOW_MS)[0].clone();
        assert_eq!(given.len(), 43);
        let element = ISSUER.element(mechanism, NOW_MS);
        assert_eq!(element.attribute("token"), Some(&*given));
        let expiry = element.attribute("expiry").and_then(date_time::parse).expect("a time");
        assert_eq!(expiry, 102 * WINDOW_MS);
        // The token is the first one, then the second one, and then void.
        for (ms, at) in [
            (NOW_MS, Some(0)),
            (101 * WINDOW_MS, Some(1)),
            (expiry - 1, Some(1)),
            (expiry, None),
            (99 * WINDOW_MS, None),
        ] {
            assert_eq!(valid(ms).iter().position(|token| *token == given), at, "{ms}");
        }
        assert_eq!(valid(0).len(), 1, "at the beginning of time");
        let others = [
            TokenIssuer { key: &[8; 32], ..ISSUER },
            TokenIssuer { user: "romeo", ..ISSUER },
            TokenIssuer { user: "juliet\0", ..ISSUER },
            TokenIssuer { agent: "x", ..ISSUER },
            TokenIssuer { generation: 4, ..ISSUER },
        ];
        let mut tokens: HashSet<_> =
            others.iter().map(|other| other.token(mechanism, 100).as_str().to_owned()).collect();
        tokens.extend(TokenMechanism::ALL.iter().map(|mechanism| ISSUER.token(*mechanism, 100).as_str().to_owned()));
        assert_eq!(tokens.len(), 8);
        let shown = "TokenIssuer { user: \"juliet\", agent: \"d4565fa7-4d72-4749-b3d3-740edbf87770\", .. }";
        assert_eq!(format!("{ISSUER:?}"), shown, "without its key");
    }

    /// XEP-0484, sections 3.1, 3.2 and 3.6.
    #[test]
    fn elements_are_those_of_the_xep() {
        assert_eq!(
            feature(TokenMechanism::ALL.iter().copied()).to_string(),
            "<fast xmlns='urn:xmpp:fast:0'><mechanism>HT-SHA-256-EXPR</mechanism><mechanism>HT-SHA-256-ENDP</mechanism>\
             <mechanism>HT-SHA-256-NONE</mechanism></fast>"
        );
        let request = |name| Element::new("request-token", ns::FAST).with("mechanism", name);
        assert_eq!(requested(&request("HT-SHA-256-ENDP")), Some(TokenMechanism::ServerEndPoint));
        assert_eq!(
            (requested(&request("SCRAM-SHA-1")), requested(&Element::new("request-token", ns::FAST))),
            (None, None)
        );
        let fast = |value: Option<&'static str>| {
            let fast = Element::new("fast", ns::FAST).with("count", "123");
            Fast::read(&value.into_iter().fold(fast, |fast, value| fast.with("invalidate", value)))
        };
        for (value, invalidates) in [(None, false), (Some("true"), true), (Some("1"), true), (Some("0"), false)] {
            assert_eq!(fast(value), Some(Fast { invalidates }));
        }
        assert_eq!(Fast::read(&Element::new("fast", "urn:x")), None);
    }
}
