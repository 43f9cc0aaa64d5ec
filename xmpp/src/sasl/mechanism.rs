//! The mechanisms, and those that a connection is offered.

use super::Hash;
use crate::{Element, error::SaslFailure, ns};

/// A mechanism of SASL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mechanism {
    /// RFC 7677, with channel binding.
    ScramSha256Plus,
    ScramSha256,
    /// RFC 5802, with channel binding.
    ScramSha1Plus,
    ScramSha1,
    /// RFC 7628, with tokens.
    OAuthBearer,
    /// RFC 4616. Only inside TLS.
    Plain,
}

impl Mechanism {
    /// In the order in which they are offered: the strongest first.
    pub const ALL: &[Self] = &[
        Self::ScramSha256Plus,
        Self::ScramSha256,
        Self::ScramSha1Plus,
        Self::ScramSha1,
        Self::OAuthBearer,
        Self::Plain,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha1Plus => "SCRAM-SHA-1-PLUS",
            Self::ScramSha1 => "SCRAM-SHA-1",
            Self::OAuthBearer => "OAUTHBEARER",
            Self::Plain => "PLAIN",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mechanism| mechanism.name() == name)
    }

    /// `None` if it is not a mechanism of SCRAM.
    pub fn hash(self) -> Option<Hash> {
        match self {
            Self::ScramSha256Plus | Self::ScramSha256 => Some(Hash::Sha256),
            Self::ScramSha1Plus | Self::ScramSha1 => Some(Hash::Sha1),
            Self::OAuthBearer | Self::Plain => None,
        }
    }

    pub(crate) fn binds(self) -> bool {
        matches!(self, Self::ScramSha256Plus | Self::ScramSha1Plus)
    }

    /// Whether a reader of the stream sees a secret.
    fn shows_secrets(self) -> bool {
        matches!(self, Self::OAuthBearer | Self::Plain)
    }
}

/// The data that binds a sign-in to its TLS connection. `None`: the connection does not have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChannelBindings {
    /// `tls-exporter` (RFC 9266): 32 bytes that TLS 1.3 exports with the label `EXPORTER-Channel-Binding`.
    pub exporter: Option<Vec<u8>>,
    /// `tls-server-end-point` (RFC 5929, section 4): the hash of the server's certificate.
    pub server_end_point: Option<Vec<u8>>,
}

impl ChannelBindings {
    /// The types that the connection has, the strongest first.
    pub fn types(&self) -> impl Iterator<Item = &'static str> {
        let exporter = self.exporter.is_some().then_some("tls-exporter");
        exporter.into_iter().chain(self.server_end_point.is_some().then_some("tls-server-end-point"))
    }

    pub(crate) fn data(&self, binding: &str) -> Option<&[u8]> {
        match binding {
            "tls-exporter" => self.exporter.as_deref(),
            "tls-server-end-point" => self.server_end_point.as_deref(),
            _ => None,
        }
    }

    fn is_empty(&self) -> bool {
        self.exporter.is_none() && self.server_end_point.is_none()
    }
}

/// The offer to one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The domain that the client has named in its stream's header.
    pub host: String,
    /// The stream is inside TLS.
    pub is_encrypted: bool,
    pub bindings: ChannelBindings,
    /// The mechanisms that the server allows at all.
    pub allowed: Vec<Mechanism>,
}

impl Offer {
    /// The mechanisms for this connection, the strongest first.
    ///
    /// RFC 6120, section 6.3.4: "If the receiving entity considers TLS negotiation (Section 5) to be mandatory-to-negotiate before it will
    /// accept authentication with a particular SASL mechanism, it MUST NOT advertise that mechanism in its list of available SASL
    /// mechanisms before TLS negotiation has been completed." Mechanisms that show secrets are not offered without TLS.
    pub fn mechanisms(&self) -> impl Iterator<Item = Mechanism> {
        Mechanism::ALL.iter().copied().filter(|mechanism| self.check(*mechanism).is_ok())
    }

    /// `<mechanisms/>`, for the stream's features.
    pub fn element(&self) -> Element {
        let mechanism = |mechanism: Mechanism| Element::new("mechanism", ns::SASL).with_text(mechanism.name());
        Element::new("mechanisms", ns::SASL).with_children(self.mechanisms().map(mechanism))
    }

    /// `<sasl-channel-binding/>` (XEP-0440), for the stream's features. `None`: no mechanism binds.
    pub fn bindings_element(&self) -> Option<Element> {
        if !self.offers_binding() {
            return None;
        }
        let binding = |name| Element::new("channel-binding", ns::CHANNEL_BINDING).with("type", name);
        Some(
            Element::new("sasl-channel-binding", ns::CHANNEL_BINDING).with_children(self.bindings.types().map(binding)),
        )
    }

    /// Whether the client was told of a mechanism with channel binding.
    pub(super) fn offers_binding(&self) -> bool {
        self.mechanisms().any(Mechanism::binds)
    }

    /// The mechanism that the client asks for.
    pub(super) fn choose(&self, name: &str) -> Result<Mechanism, SaslFailure> {
        let mechanism = Mechanism::of_name(name).ok_or(SaslFailure::InvalidMechanism)?;
        self.check(mechanism).map(|()| mechanism)
    }

    fn check(&self, mechanism: Mechanism) -> Result<(), SaslFailure> {
        if !self.allowed.contains(&mechanism) || (mechanism.binds() && self.bindings.is_empty()) {
            return Err(SaslFailure::InvalidMechanism);
        }
        if mechanism.shows_secrets() && !self.is_encrypted {
            return Err(SaslFailure::EncryptionRequired);
        }
        Ok(())
    }
}
