//! The features of a server's stream.

use crate::{
    Element, ns,
    sasl::{ChannelBindings, Mechanism},
};

/// `<stream:features/>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerFeatures {
    pub starttls: bool,
    /// The mechanisms of RFC 6120, by their names.
    pub mechanisms: Vec<String>,
    /// The channel bindings (XEP-0440). `None`: they are not announced.
    pub bindings: Option<Vec<String>>,
    /// The mechanisms of XEP-0388, by their names. Empty: there is no such profile.
    pub mechanisms2: Vec<String>,
    pub inline: Inline,
    /// A resource can be bound (RFC 6120, section 7).
    pub bind: bool,
    /// A session has to be asked for (RFC 3921).
    pub session: bool,
    /// Streams are managed (XEP-0198).
    pub stream_management: bool,
}

/// The requests that XEP-0388 can take along.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inline {
    pub bind: bool,
    pub stream_management: bool,
    /// The mechanisms of XEP-0484, by their names.
    pub tokens: Vec<String>,
    /// The tasks of XEP-0480.
    pub upgrades: Vec<String>,
}

impl ServerFeatures {
    /// `None` if the element is another one.
    pub fn read(element: &Element) -> Option<Self> {
        if !element.is("features", ns::STREAMS) {
            return None;
        }
        let mut features = Self::default();
        for child in element.children() {
            match (child.namespace(), child.name()) {
                (ns::TLS, "starttls") => features.starttls = true,
                (ns::SASL, "mechanisms") => features.mechanisms = texts(child, "mechanism", ns::SASL),
                (ns::CHANNEL_BINDING, "sasl-channel-binding") => {
                    let bindings = child.children().filter(|child| child.is("channel-binding", ns::CHANNEL_BINDING));
                    let bindings = bindings.filter_map(|binding| binding.attribute("type").map(str::to_owned));
                    features.bindings = Some(bindings.collect());
                }
                (ns::SASL2, "authentication") => {
                    features.mechanisms2 = texts(child, "mechanism", ns::SASL2);
                    features.inline = Inline::read(child);
                }
                (ns::BIND, "bind") => features.bind = true,
                (ns::SESSION, "session") => features.session = child.child("optional", ns::SESSION).is_none(),
                (ns::STREAM_MANAGEMENT, "sm") => features.stream_management = true,
                _ => {}
            }
        }
        Some(features)
    }

    /// The strongest of the mechanisms that both sides know. Those with channel binding need a binding that both sides have.
    pub(super) fn choose(
        &self,
        offered: &[String],
        known: &[Mechanism],
        bindings: &ChannelBindings,
    ) -> Option<Mechanism> {
        let is_offered = |mechanism: &Mechanism| offered.iter().any(|name| name == mechanism.name());
        let can_bind = self.binding(bindings).is_some();
        Mechanism::ALL
            .iter()
            .copied()
            .filter(|mechanism| known.contains(mechanism) && (can_bind || !mechanism.binds()))
            .find(is_offered)
    }

    /// The strongest channel binding that both sides have. If the server announces none, any of the client is tried.
    pub(super) fn binding(&self, bindings: &ChannelBindings) -> Option<&'static str> {
        let is_announced = |name: &&'static str| {
            self.bindings.as_ref().is_none_or(|announced| announced.iter().any(|announced| announced == name))
        };
        bindings.types().find(is_announced)
    }
}

impl Inline {
    fn read(authentication: &Element) -> Self {
        let inline = authentication.child("inline", ns::SASL2);
        let child = |name, namespace| inline.and_then(|inline| inline.child(name, namespace));
        Self {
            bind: child("bind", ns::BIND2).is_some(),
            stream_management: child("sm", ns::STREAM_MANAGEMENT).is_some(),
            tokens: child("fast", ns::FAST).map(|fast| texts(fast, "mechanism", ns::FAST)).unwrap_or_default(),
            upgrades: texts(authentication, "upgrade", ns::UPGRADE),
        }
    }
}

/// The texts of the children of this name.
fn texts(element: &Element, name: &str, namespace: &str) -> Vec<String> {
    element.children().filter(|child| child.is(name, namespace)).map(|child| child.text().trim().to_owned()).collect()
}
