//! Stream errors (RFC 6120, section 4.9): each ends the stream on which it is sent.

use std::borrow::Cow;

use crate::{Element, ns};

conditions! {
    /// The condition of a stream error (RFC 6120, section 4.9.3).
    StreamCondition {
        /// The XML cannot be processed, and no condition says it better.
        BadFormat = "bad-format",
        /// A prefix is unsupported or is missing where it is needed.
        BadNamespacePrefix = "bad-namespace-prefix",
        /// Another stream takes the place of this one.
        Conflict = "conflict",
        /// Nothing was heard from the peer for too long.
        ConnectionTimeout = "connection-timeout",
        /// The host of the header is no longer served.
        HostGone = "host-gone",
        /// The host of the header is not served.
        HostUnknown = "host-unknown",
        /// `to` or `from` is missing or is no address.
        ImproperAddressing = "improper-addressing",
        InternalServerError = "internal-server-error",
        /// `from` is not the address of the user who has signed in.
        InvalidFrom = "invalid-from",
        /// The namespace of the header or the content is not supported.
        InvalidNamespace = "invalid-namespace",
        /// The XML does not fit its schema.
        InvalidXml = "invalid-xml",
        /// Data came before the stream was authenticated.
        NotAuthorized = "not-authorized",
        /// The XML is not well-formed, or not by its namespaces.
        NotWellFormed = "not-well-formed",
        /// A local rule is violated, for example a limit of size.
        PolicyViolation = "policy-violation",
        RemoteConnectionFailed = "remote-connection-failed",
        /// The stream must be opened anew, for example for new certificates.
        Reset = "reset",
        ResourceConstraint = "resource-constraint",
        /// A comment, a processing instruction, a document type or an entity.
        RestrictedXml = "restricted-xml",
        /// The peer is sent to another host. The text of the element is the host; see [`StreamError::see_other_host`].
        SeeOtherHost = "see-other-host",
        SystemShutdown = "system-shutdown",
        /// A condition of the application says more.
        UndefinedCondition = "undefined-condition",
        /// The bytes are not UTF-8.
        UnsupportedEncoding = "unsupported-encoding",
        UnsupportedFeature = "unsupported-feature",
        /// A first-level element is not known.
        UnsupportedStanzaType = "unsupported-stanza-type",
        /// The header's `version` is not supported.
        UnsupportedVersion = "unsupported-version",
    }
}

/// An error that ends a stream.
///
/// RFC 6120, section 4.9.1.1: "if an error occurs at the level of the stream, the entity that detects the error MUST send an
/// \<error/\> element with an appropriate child element specifying the error condition and then immediately close the stream".
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}{}{}", condition.name(), if text.is_some() { ": " } else { "" }, text.as_deref().unwrap_or_default())]
pub struct StreamError {
    pub condition: StreamCondition,
    /// For people who look for the cause, in English.
    pub text: Option<Cow<'static, str>>,
    /// The condition of an application, in a namespace of its own.
    pub application: Option<Box<Element>>,
    /// The host of [`StreamCondition::SeeOtherHost`].
    host: Option<String>,
}

impl StreamError {
    pub fn new(condition: StreamCondition) -> Self {
        Self { condition, text: None, application: None, host: None }
    }

    pub fn with_text(self, text: impl Into<Cow<'static, str>>) -> Self {
        Self { text: Some(text.into()), ..self }
    }

    pub fn with_application(self, condition: Element) -> Self {
        Self { application: Some(Box::new(condition)), ..self }
    }

    /// Sends the peer to `host`: a name or an address, with a port or without. An IPv6 address is in square brackets.
    ///
    /// RFC 6120, section 4.9.3.19: "the XML character data of the \<see-other-host/\> element returned by the server MUST
    /// specify the alternate FQDN or IP address at which to connect".
    pub fn see_other_host(host: impl Into<String>) -> Self {
        Self { host: Some(host.into()), ..Self::new(StreamCondition::SeeOtherHost) }
    }

    /// `<stream:error/>`. The end of the stream follows it.
    ///
    /// RFC 6120, section 4.9.2: the element "MUST contain a child element corresponding to one of the defined stream error
    /// conditions (Section 4.9.3); this element MUST be qualified by the 'urn:ietf:params:xml:ns:xmpp-streams' namespace".
    pub fn element(&self) -> Element {
        let mut condition = Element::new(self.condition.name(), ns::STREAM_ERRORS);
        if let Some(host) = &self.host {
            condition = condition.with_text(host.clone());
        }
        let mut error = Element::new("error", ns::STREAMS).with_child(condition);
        if let Some(text) = &self.text {
            error = error.with_child(text_element(ns::STREAM_ERRORS, text.clone()));
        }
        if let Some(application) = &self.application {
            error = error.with_child((**application).clone());
        }
        error
    }
}

impl From<StreamCondition> for StreamError {
    fn from(condition: StreamCondition) -> Self {
        Self::new(condition)
    }
}

/// `<text/>` of an error.
pub(super) fn text_element(namespace: &'static str, text: Cow<'static, str>) -> Element {
    Element::new("text", namespace).with_lang("en").with_text(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Framing;

    #[test]
    fn the_conditions_are_those_of_the_rfc() {
        let names: Vec<_> = StreamCondition::ALL.iter().map(|condition| condition.name()).collect();
        assert_eq!(names.len(), 25, "sections 4.9.3.1 to 4.9.3.25");
        assert!(names.is_sorted(), "the order of the sections is alphabetic");
    }

    /// RFC 6120, section 4.9.2: "MUST contain a child element corresponding to one of the defined stream error conditions",
    /// "MUST be qualified by the 'urn:ietf:params:xml:ns:xmpp-streams' namespace".
    #[test]
    fn an_error_has_its_condition_its_text_and_what_the_application_says() {
        let plain = StreamError::from(StreamCondition::NotWellFormed).element();
        assert_eq!(
            plain.text_for(Framing::Tcp),
            "<stream:error><not-well-formed xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>"
        );
        let full = StreamError::new(StreamCondition::PolicyViolation)
            .with_text("a & b")
            .with_application(Element::new("stanza-too-big", ns::APPLICATION_ERRORS));
        assert_eq!(full.to_string(), "policy-violation: a & b");
        assert_eq!(
            full.element().text_for(Framing::WebSocket),
            "<stream:error xmlns:stream='http://etherx.jabber.org/streams'>\
             <policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
             <text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>a &amp; b</text>\
             <stanza-too-big xmlns='urn:xmpp:errors'/></stream:error>"
        );
        assert_eq!(
            StreamError::see_other_host("[2001:41D0:1:A49b::1]:9222").element().text_for(Framing::Tcp),
            "<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>[2001:41D0:1:A49b::1]:9222\
             </see-other-host></stream:error>"
        );
    }
}
