//! The client's part of a mechanism.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use carillon_proto::credentials::MAX_ITERATIONS;
use zeroize::Zeroizing;

use super::{Account, Credentials, SignInError};
use crate::sasl::{ChannelBindings, Hash, Mechanism, Secret, TokenMechanism, hashed, of_lists};

/// The part of the server that is awaited.
pub(super) enum Exchange {
    /// The challenge of SCRAM.
    Scram(Scram),
    /// The signature of the server, or its answer to a token.
    Verdict(Vec<u8>),
    /// No proof: the mechanism has none, or it was given before.
    Nothing,
    /// The salt for keys of this hash function (XEP-0480).
    Task(Hash),
}

pub(super) struct Scram {
    hash: Hash,
    password: Zeroizing<String>,
    gs2: String,
    bare: String,
    nonce: String,
    /// The data of channel binding.
    binding: Vec<u8>,
    /// The string S of XEP-0474.
    offered: String,
}

/// The channel binding of the client.
pub(super) struct Binding<'a> {
    /// The type, with a mechanism that binds.
    pub(super) name: Option<&'static str>,
    pub(super) bindings: &'a ChannelBindings,
    /// The server offers mechanisms that bind.
    pub(super) is_offered: bool,
}

/// The client's first message. `mechanism`: one that fits the credentials. `nonce`: random printable ASCII without commas.
pub(super) fn begin(
    account: &Account,
    mechanism: Mechanism,
    binding: &Binding<'_>,
    nonce: &str,
    offered: (Vec<&str>, Option<Vec<&str>>),
) -> Result<(Vec<u8>, Exchange), SignInError> {
    let name = account.jid.local().ok_or(SignInError::NoMechanism)?;
    match (&account.credentials, mechanism.hash()) {
        (Credentials::Password(password), Some(hash)) => {
            // RFC 5802, section 6: "y" is for a client that would bind, of a server that offers no mechanism that does.
            let gs2 = match binding.name {
                Some(name) => format!("p={name},,"),
                None if !binding.is_offered && binding.bindings.types().next().is_some() => "y,,".to_owned(),
                None => "n,,".to_owned(),
            };
            let data = binding.name.and_then(|name| binding.bindings.data(name)).unwrap_or_default();
            let bare = format!("n={},r={nonce}", name.replace('=', "=3D").replace(',', "=2C"));
            let first = format!("{gs2}{bare}").into_bytes();
            let password = stringprep::saslprep(password).map_err(|_| SignInError::NoMechanism)?.into_owned();
            let scram = Scram {
                hash,
                password: password.into(),
                gs2,
                bare,
                nonce: nonce.to_owned(),
                binding: data.to_vec(),
                offered: of_lists(offered.0, offered.1),
            };
            Ok((first, Exchange::Scram(scram)))
        }
        (Credentials::Password(password), None) if mechanism == Mechanism::Plain => {
            Ok((format!("\0{name}\0{password}").into_bytes(), Exchange::Nothing))
        }
        (Credentials::Bearer(token), None) if mechanism == Mechanism::OAuthBearer => {
            Ok((format!("n,a={},\x01auth=Bearer {token}\x01\x01", account.jid.bare()).into_bytes(), Exchange::Nothing))
        }
        _ => Err(SignInError::NoMechanism),
    }
}

/// The only message of a client that has a token.
pub(super) fn with_token(
    account: &Account,
    mechanism: TokenMechanism,
    token: &str,
    bindings: &ChannelBindings,
) -> Result<(Vec<u8>, Exchange), SignInError> {
    let name = account.jid.local().ok_or(SignInError::NoMechanism)?;
    let binding = mechanism.binding(bindings).ok_or(SignInError::NoMechanism)?;
    let token = Secret::new(token);
    let message = [name.as_bytes(), b"\0", &hashed(&token, "Initiator", binding)].concat();
    Ok((message, Exchange::Verdict(hashed(&token, "Responder", binding))))
}

impl Scram {
    /// client-final-message, and server-final-message that has to follow it.
    pub(super) fn answer(&self, challenge: &[u8]) -> Result<(Vec<u8>, Vec<u8>), SignInError> {
        let malformed = SignInError::Malformed;
        let text = std::str::from_utf8(challenge).map_err(|_| malformed.clone())?;
        let mut fields = text.split(',');
        let mut field = |name| fields.next().and_then(|field| field.strip_prefix(name)).ok_or(malformed.clone());
        let (nonce, salt, iterations) = (field("r=")?, field("s=")?, field("i=")?);
        let salt = BASE64_STANDARD.decode(salt).map_err(|_| malformed.clone())?;
        let iterations: u32 = iterations.parse().map_err(|_| malformed.clone())?;
        // RFC 5802, section 5.1: "The client MUST verify that the initial part of the nonce used in subsequent messages is the same as the
        // nonce it initially specified."
        let is_new = nonce.strip_prefix(&*self.nonce).is_some_and(|rest| !rest.is_empty());
        if !is_new || salt.is_empty() || !(1..=MAX_ITERATIONS).contains(&iterations) {
            return Err(malformed);
        }
        for extension in fields {
            match extension.split_once('=') {
                Some(("m", _)) => return Err(malformed),
                // XEP-0474, section 6.2: "If the hashes do not match, the client MUST fail the authentication."
                Some(("h", hash)) if hash != BASE64_STANDARD.encode(self.hash.hash(self.offered.as_bytes())) => {
                    return Err(SignInError::Downgraded);
                }
                _ => {}
            }
        }
        let hash = self.hash;
        let salted = hash.salted(&self.password, &salt, iterations);
        let client_key = Zeroizing::new(hash.hmac(&salted, b"Client Key"));
        let binding = BASE64_STANDARD.encode([self.gs2.as_bytes(), &self.binding].concat());
        let without_proof = format!("c={binding},r={nonce}");
        let message = format!("{},{text},{without_proof}", self.bare);
        let signature = hash.hmac(&hash.hash(&client_key), message.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, signature)| key ^ signature).collect();
        let verdict = hash.hmac(&hash.hmac(&salted, b"Server Key"), message.as_bytes());
        Ok((
            format!("{without_proof},p={}", BASE64_STANDARD.encode(proof)).into_bytes(),
            format!("v={}", BASE64_STANDARD.encode(verdict)).into_bytes(),
        ))
    }
}

/// SaltedPassword in base64, for a task of XEP-0480.
pub(super) fn salted(hash: Hash, password: &str, salt: &str, iterations: &str) -> Result<String, SignInError> {
    let malformed = SignInError::Malformed;
    let salt = BASE64_STANDARD.decode(salt.trim()).map_err(|_| malformed.clone())?;
    let iterations: u32 = iterations.parse().map_err(|_| malformed.clone())?;
    if salt.is_empty() || !(1..=MAX_ITERATIONS).contains(&iterations) {
        return Err(malformed);
    }
    let password = stringprep::saslprep(password).map_err(|_| SignInError::NoMechanism)?;
    Ok(BASE64_STANDARD.encode(&*hash.salted(&password, &salt, iterations)))
}
