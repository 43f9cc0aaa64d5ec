//! The header of a client's stream, and the features that answer it.

use carillon_xmpp::{
    Element, Framing, Jid,
    error::{StreamCondition, StreamError},
    ns,
    stream::Header,
};

use super::{
    dialog::{Dialog, Stage},
    sign_in::SigningIn,
};
use crate::config::XmppTls;

impl Dialog {
    /// The client has opened its stream, for the first time or anew.
    pub(super) fn opened(&mut self, header: &Header) {
        match self.host(header) {
            Ok(host) => {
                self.open(Some(header), Some(&host));
                if let Stage::SigningIn(_) = self.stage {
                    let begun = SigningIn::new(host, self);
                    self.stage = Stage::SigningIn(Some(Box::new(begun)));
                }
                let features = self.features();
                self.write(&features);
            }
            Err(error) => {
                self.open(Some(header), None);
                self.fail(&error);
            }
        }
    }

    /// The host that the header names, if the header is right.
    fn host(&self, header: &Header) -> Result<String, StreamError> {
        // RFC 6120, section 4.9.3.10: "the content namespace declared as the default namespace is not supported". Over WebSocket the header
        // declares none.
        if self.framing == Framing::Tcp && header.content_namespace() != Some(ns::CLIENT) {
            let error = StreamError::new(StreamCondition::InvalidNamespace);
            return Err(error.with_text("the content namespace must be jabber:client"));
        }
        // RFC 6120, section 4.7.5: "If either entity receives a stream header with no 'version' attribute, the entity MUST consider the
        // version supported by the other entity to be "0.9"". Section 4.9.3.25: it "specifies a version of XMPP that is not supported".
        if header.version().is_none_or(|(major, _)| major == 0) {
            return Err(StreamError::new(StreamCondition::UnsupportedVersion).with_text("the version must be 1.0"));
        }
        let Some(to) = &header.to else {
            let error = StreamError::new(StreamCondition::ImproperAddressing);
            return Err(error.with_text("the header must name the domain of the user in 'to'"));
        };
        let to = Jid::new(to).map_err(|error| StreamError::new(error.condition_of_to()))?;
        // RFC 6120, section 4.9.3.6: "The value of the 'to' attribute provided in the initial stream header does not correspond to an FQDN
        // that is serviced by the receiving entity."
        if to.local().is_some() || !to.is_bare() || !self.service.serves(to.domain()) {
            return Err(StreamCondition::HostUnknown.into());
        }
        match &self.stage {
            Stage::Proven(user) => {
                if to.domain() != user.domain() {
                    let error = StreamError::new(StreamCondition::HostUnknown);
                    return Err(error.with_text("the client has signed in at another domain"));
                }
                // RFC 6120, section 4.9.3.9: "The data provided in a 'from' attribute does not match an authorized JID".
                if let Some(from) = &header.from
                    && Jid::new(from).ok().is_none_or(|from| from.bare() != user.bare())
                {
                    return Err(StreamCondition::InvalidFrom.into());
                }
            }
            Stage::SigningIn(_) if !self.service.has_passwords(to.domain()) => {
                let error = StreamError::new(StreamCondition::PolicyViolation);
                return Err(error.with_text("users of this domain have no passwords, and XMPP needs one"));
            }
            Stage::SigningIn(_) | Stage::Binding { .. } | Stage::Bound(_) => {}
        }
        Ok(to.domain().to_owned())
    }

    /// RFC 6120, section 4.3.2: "the receiving entity MUST send a \<features/\> child element".
    fn features(&self) -> Element {
        let features = Element::new("features", ns::STREAMS);
        let Stage::SigningIn(signing_in) = &self.stage else {
            // RFC 6120, section 7.4: "Upon sending a new response stream header to the client after successful SASL negotiation, the server
            // MUST include a <bind/> element". Sessions of RFC 3921 are asked for by old clients.
            let session = Element::new("session", ns::SESSION).with_child(Element::new("optional", ns::SESSION));
            return features.with_child(Element::new("bind", ns::BIND)).with_child(session);
        };
        let features = if self.offers_tls() { features.with_child(self.starttls()) } else { features };
        let negotiation = signing_in.as_ref().and_then(|signing_in| signing_in.negotiation.as_ref());
        let Some(negotiation) = negotiation else { return features };
        let features = features.with_child(negotiation.offer().element());
        features.with_children(negotiation.offer().bindings_element())
    }

    /// RFC 6120, section 5.4.1: "If the receiving entity considers STARTTLS negotiation to be mandatory-to-negotiate, the \<starttls/\> element
    /// MUST contain an empty \<required/\> child element." Section 5.4.3.3: the features within TLS "MUST NOT include the STARTTLS feature".
    fn starttls(&self) -> Element {
        let starttls = Element::new("starttls", ns::TLS);
        match self.service.tls {
            XmppTls::Required => starttls.with_child(Element::new("required", ns::TLS)),
            XmppTls::Optional | XmppTls::Outside => starttls,
        }
    }
}
