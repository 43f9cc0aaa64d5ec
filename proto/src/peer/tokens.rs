//! Authorisation between nodes: each tier has a token, sent in the metadata of each call.
//!
//! A token permits what its tier needs and nothing else: a compromised gateway can speak neither as a storage node nor
//! as the operator. Each tier's token is derived from the cluster's secret, or configured by itself; then a gateway's
//! machine holds the gateways' token and no more.

use std::sync::Arc;

use arc_swap::ArcSwap;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq as _};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
};

use super::{PeerError, vouch};
use crate::{credentials::hmac, tier::Tier};

/// The tokens known to this node: its own if its tier makes calls, and those of its callers if it serves them.
#[derive(Clone, Default)]
pub struct TierTokens {
    by_tier: [Arc<[Token]>; Tier::ALL.len()],
}

/// In the form that the metadata carries.
#[derive(Clone)]
struct Token(MetadataValue<Ascii>);

/// Two while a token is being replaced: the first is presented, both are accepted.
const MOST: usize = 2;

impl TierTokens {
    /// Derives the tokens of all tiers from the cluster's secrets: one a line, the active one first.
    pub fn derived(secrets: &str) -> Result<Self, PeerError> {
        let secrets = lines(secrets)?;
        let of = |tier| secrets.iter().map(|secret| Token::new(&derive(secret, tier))).collect::<Result<_, _>>();
        Ok(Self { by_tier: [of(Tier::Storage)?, of(Tier::Router)?, of(Tier::Gateway)?, of(Tier::Operator)?] })
    }

    /// Sets the tokens of a tier: one a line, the active one first.
    pub fn give(&mut self, tier: Tier, tokens: &str) -> Result<(), PeerError> {
        self.by_tier[tier as usize] = lines(tokens)?.into_iter().map(Token::new).collect::<Result<_, _>>()?;
        Ok(())
    }

    pub fn has(&self, tier: Tier) -> bool {
        !self.of(tier).is_empty()
    }

    fn of(&self, tier: Tier) -> &[Token] {
        &self.by_tier[tier as usize]
    }

    /// The token that a node of this tier presents.
    pub(super) fn presented(&self, tier: Tier) -> Result<MetadataValue<Ascii>, PeerError> {
        self.of(tier).first().map(|token| token.0.clone()).ok_or(PeerError::NoToken { tier })
    }

    /// A key for this purpose from each token of the tier.
    pub(super) fn keys(&self, tier: Tier, purpose: &str) -> Vec<[u8; 32]> {
        let key = |token: &Token| hmac(token.0.as_encoded_bytes(), format!("carillon key 1 {purpose}").as_bytes());
        self.of(tier).iter().map(key).collect()
    }

    /// The tier that a token belongs to. Takes constant time for tokens of the right length.
    fn whose(&self, given: &[u8]) -> Option<Tier> {
        Tier::ALL.into_iter().find(|tier| {
            let equal = self.of(*tier).iter().map(|token| given.ct_eq(token.0.as_encoded_bytes()));
            bool::from(equal.fold(Choice::from(0), |any, one| any | one))
        })
    }
}

/// Derives a tier's token from the cluster's secret, for nodes that should hold the token only.
pub fn derive(secret: &str, tier: Tier) -> String {
    // RFC 2104 takes keys of any length.
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length is right");
    mac.update(format!("carillon token 1 {tier}").as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The secrets or tokens in a file, one a line.
pub fn lines(text: &str) -> Result<Vec<&str>, PeerError> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.len() > MOST {
        return Err(PeerError::TooMany { lines: lines.len() });
    }
    for line in &lines {
        let visible = line.bytes().all(|byte| byte.is_ascii_graphic());
        if !(16..=512).contains(&line.len()) || !visible {
            return Err(PeerError::Secret { bytes: line.len() });
        }
    }
    if lines.is_empty() { Err(PeerError::Secret { bytes: 0 }) } else { Ok(lines) }
}

impl Token {
    fn new(token: &str) -> Result<Self, PeerError> {
        let wrong = |_| PeerError::Secret { bytes: token.len() };
        let mut header = MetadataValue::try_from(format!("Bearer {token}")).map_err(wrong)?;
        header.set_sensitive(true);
        Ok(Self(header))
    }
}

/// Adds the current token of the caller's tier.
#[derive(Clone)]
pub struct AddToken {
    pub(super) tokens: Arc<ArcSwap<TierTokens>>,
    pub(super) tier: Tier,
}

impl Interceptor for AddToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let token = self.tokens.load().presented(self.tier);
        let token = token.map_err(|error| Status::unauthenticated(error.to_string()))?;
        request.metadata_mut().insert("authorization", token);
        Ok(request)
    }
}

/// Admits callers of some tiers, and stores the caller's [`Tier`] in the request's extensions.
#[derive(Clone)]
pub struct CheckToken {
    pub(super) tokens: Arc<ArcSwap<TierTokens>>,
    pub(super) allowed: &'static [Tier],
}

impl Interceptor for CheckToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let given = request.metadata().get("authorization").map(|value| value.as_encoded_bytes()).unwrap_or_default();
        match self.tokens.load().whose(given) {
            Some(tier) if self.allowed.contains(&tier) => {
                // A caller with a valid token is a node or the operator.
                vouch(&request);
                request.extensions_mut().insert(tier);
                Ok(request)
            }
            Some(tier) => Err(Status::permission_denied(format!("the {tier} token does not open this"))),
            None => Err(Status::unauthenticated("the token is missing, or is another cluster's")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    const SECRET: &str = "0123456789abcdef";
    const OTHER: &str = "0123456789abcdeX";

    fn check(tokens: &TierTokens, allowed: &'static [Tier], token: &str) -> Result<Tier, Code> {
        let mut check = CheckToken { tokens: Arc::new(ArcSwap::from_pointee(tokens.clone())), allowed };
        let mut request = Request::new(());
        if !token.is_empty() {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ascii"));
        }
        let taken = check.call(request).map_err(|status| status.code())?;
        Ok(*taken.extensions().get::<Tier>().expect("told"))
    }

    #[test]
    fn each_tier_opens_what_is_for_it_alone() {
        let tokens = TierTokens::derived(SECRET).expect("valid");
        for tier in Tier::ALL {
            for allowed in [&[Tier::Storage][..], &[Tier::Router], &[Tier::Gateway, Tier::Router], &[Tier::Operator]] {
                let right = if allowed.contains(&tier) { Ok(tier) } else { Err(Code::PermissionDenied) };
                assert_eq!(check(&tokens, allowed, &derive(SECRET, tier)), right, "{tier} to {allowed:?}");
                assert_eq!(check(&tokens, allowed, &derive(OTHER, tier)), Err(Code::Unauthenticated));
                assert_eq!(check(&tokens, allowed, ""), Err(Code::Unauthenticated));
                // The secret itself is no token.
                assert_eq!(check(&tokens, allowed, SECRET), Err(Code::Unauthenticated));
            }
        }
    }

    #[test]
    fn two_are_taken_while_one_is_replaced() {
        let tokens = TierTokens::derived(&format!("{OTHER}\n{SECRET}\n")).expect("valid");
        for secret in [SECRET, OTHER] {
            assert_eq!(check(&tokens, &[Tier::Router], &derive(secret, Tier::Router)), Ok(Tier::Router));
        }
        let presented = tokens.presented(Tier::Router).expect("there");
        assert_eq!(presented.to_str().expect("ascii"), format!("Bearer {}", derive(OTHER, Tier::Router)));
    }

    #[test]
    fn keys_are_those_of_a_tier_a_purpose_and_a_secret_the_active_one_first() {
        let keys = |secrets: &str, tier, purpose| TierTokens::derived(secrets).expect("valid").keys(tier, purpose);
        let one = keys(SECRET, Tier::Gateway, "a");
        assert_eq!(one, keys(SECRET, Tier::Gateway, "a"));
        assert_ne!(one, keys(SECRET, Tier::Gateway, "b"));
        assert_ne!(one, keys(SECRET, Tier::Router, "a"));
        let other = keys(OTHER, Tier::Gateway, "a");
        assert_eq!(keys(&format!("{OTHER}\n{SECRET}"), Tier::Gateway, "a"), [other, one].concat());
    }

    #[test]
    fn a_gateway_needs_its_own_token_alone() {
        let mut tokens = TierTokens::default();
        tokens.give(Tier::Gateway, &derive(SECRET, Tier::Gateway)).expect("valid");
        tokens.presented(Tier::Gateway).expect("there");
        assert!(matches!(tokens.presented(Tier::Router), Err(PeerError::NoToken { tier: Tier::Router })));
    }

    #[test]
    fn what_is_no_secret_is_refused_without_showing_it() {
        for text in ["short", "", "\n", "spaces in it are not visible", "a\u{e9}0123456789abcdef"] {
            let error = TierTokens::derived(text).err().expect("refused").to_string();
            assert!(error.contains("16 to 512") && (text.trim().is_empty() || !error.contains(text)), "{error}");
        }
        let three = format!("{SECRET}\n{OTHER}\n{SECRET}");
        assert!(matches!(TierTokens::derived(&three), Err(PeerError::TooMany { lines: 3 })));
    }
}
