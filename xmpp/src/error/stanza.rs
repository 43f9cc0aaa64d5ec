//! Stanza errors (RFC 6120, section 8.3): the answer to a stanza that could not be handled. The stream goes on.

use std::borrow::Cow;

use super::stream::text_element;
use crate::{
    Element, Jid, ns,
    stream::{Stanza, StanzaKind},
};

/// The type of a stanza error, which tells the sender what to do (RFC 6120, section 8.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorType {
    /// Retry after giving credentials.
    Auth,
    /// Do not retry.
    Cancel,
    /// Go on: it is only a warning.
    Continue,
    /// Retry with other data.
    Modify,
    /// Retry later.
    Wait,
}

impl ErrorType {
    pub fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Cancel => "cancel",
            Self::Continue => "continue",
            Self::Modify => "modify",
            Self::Wait => "wait",
        }
    }
}

conditions! {
    /// The condition of a stanza error (RFC 6120, section 8.3.3).
    StanzaCondition {
        BadRequest = "bad-request",
        /// Something of this name or address exists already.
        Conflict = "conflict",
        FeatureNotImplemented = "feature-not-implemented",
        Forbidden = "forbidden",
        /// The recipient has another address for good. See [`StanzaError::gone`].
        Gone = "gone",
        InternalServerError = "internal-server-error",
        ItemNotFound = "item-not-found",
        /// An address is not valid.
        JidMalformed = "jid-malformed",
        /// The request is understood and does not fit what the recipient accepts.
        NotAcceptable = "not-acceptable",
        /// Nobody may do it.
        NotAllowed = "not-allowed",
        /// The sender has to sign in first.
        NotAuthorized = "not-authorized",
        PolicyViolation = "policy-violation",
        RecipientUnavailable = "recipient-unavailable",
        /// The recipient is at another address for now. See [`StanzaError::redirect`].
        Redirect = "redirect",
        RegistrationRequired = "registration-required",
        RemoteServerNotFound = "remote-server-not-found",
        RemoteServerTimeout = "remote-server-timeout",
        ResourceConstraint = "resource-constraint",
        ServiceUnavailable = "service-unavailable",
        SubscriptionRequired = "subscription-required",
        /// A condition of the application says more.
        UndefinedCondition = "undefined-condition",
        /// The request came out of order.
        UnexpectedRequest = "unexpected-request",
    }
}

impl StanzaCondition {
    /// The type that the RFC recommends. The first one, where it recommends two.
    pub fn usual_type(self) -> ErrorType {
        match self {
            Self::Forbidden | Self::NotAuthorized | Self::RegistrationRequired | Self::SubscriptionRequired => {
                ErrorType::Auth
            }
            Self::BadRequest | Self::JidMalformed | Self::NotAcceptable | Self::PolicyViolation | Self::Redirect => {
                ErrorType::Modify
            }
            Self::RecipientUnavailable
            | Self::RemoteServerTimeout
            | Self::ResourceConstraint
            | Self::UnexpectedRequest => ErrorType::Wait,
            Self::Conflict
            | Self::FeatureNotImplemented
            | Self::Gone
            | Self::InternalServerError
            | Self::ItemNotFound
            | Self::NotAllowed
            | Self::RemoteServerNotFound
            | Self::ServiceUnavailable
            | Self::UndefinedCondition => ErrorType::Cancel,
        }
    }
}

/// An error for the sender of a stanza.
#[derive(Debug, Clone, PartialEq)]
pub struct StanzaError {
    pub condition: StanzaCondition,
    pub error_type: ErrorType,
    /// For people who look for the cause, in English.
    pub text: Option<Cow<'static, str>>,
    /// The condition of an application, in a namespace of its own.
    pub application: Option<Box<Element>>,
    /// The entity that has found the error, if the stanza was addressed to another one.
    pub by: Option<Jid>,
    /// The other address of `gone` and `redirect`, as a URI.
    uri: Option<String>,
}

impl StanzaError {
    pub fn new(condition: StanzaCondition) -> Self {
        let error_type = condition.usual_type();
        Self { condition, error_type, text: None, application: None, by: None, uri: None }
    }

    /// The recipient has moved to `uri`, for example `xmpp:romeo@example.net`.
    pub fn gone(uri: impl Into<String>) -> Self {
        Self { uri: Some(uri.into()), ..Self::new(StanzaCondition::Gone) }
    }

    /// The recipient is at `uri` for now.
    pub fn redirect(uri: impl Into<String>) -> Self {
        Self { uri: Some(uri.into()), ..Self::new(StanzaCondition::Redirect) }
    }

    pub fn with_type(self, error_type: ErrorType) -> Self {
        Self { error_type, ..self }
    }

    pub fn with_text(self, text: impl Into<Cow<'static, str>>) -> Self {
        Self { text: Some(text.into()), ..self }
    }

    pub fn with_application(self, condition: Element) -> Self {
        Self { application: Some(Box::new(condition)), ..self }
    }

    pub fn with_by(self, by: Jid) -> Self {
        Self { by: Some(by), ..self }
    }

    /// The answer to `stanza`, which `sender` has sent. `None` if nothing may be answered.
    ///
    /// RFC 6120, section 8.3.1: "An entity that receives an error stanza MUST NOT respond to the stanza with a further error
    /// stanza". Section 8.2.3: "An entity that receives a stanza of type "result" or "error" MUST NOT respond to the stanza by
    /// sending a further IQ response of type "result" or "error"".
    ///
    /// The sender is a parameter, because the server sets it (section 8.1.2.1) and does not believe the stanza. An address in
    /// `to` that is malformed is not repeated (section 8.3.1, rule 2).
    pub fn answer(&self, stanza: &Stanza, sender: &Jid) -> Option<Element> {
        let kind = stanza.kind()?;
        match (kind, stanza.stanza_type()) {
            (_, Some("error")) | (StanzaKind::Iq, Some("result")) => return None,
            _ => {}
        }
        let mut answer = Element::new(kind.name(), ns::CLIENT).with("type", "error").with("to", sender.to_string());
        if let Some(to) = stanza.to().and_then(|to| Jid::new(to).ok()) {
            answer = answer.with("from", to.to_string());
        }
        // Section 8.3.1: "In all cases, the value of the 'id' attribute MUST match that of the generated stanza (or be empty
        // if the generated stanza did not include an 'id' attribute)". "If the generated stanza was <iq/> then the error
        // stanza MUST include an 'id' attribute."
        if let Some(id) = stanza.id().or((kind == StanzaKind::Iq).then_some("")) {
            answer = answer.with("id", id.to_owned());
        }
        Some(answer.with_child(self.element()))
    }

    /// `<error/>`.
    ///
    /// RFC 6120, section 8.3.2: the element "MUST contain a defined condition element".
    pub fn element(&self) -> Element {
        let mut condition = Element::new(self.condition.name(), ns::STANZA_ERRORS);
        if let Some(uri) = &self.uri {
            condition = condition.with_text(uri.clone());
        }
        let mut error = Element::new("error", ns::CLIENT).with("type", self.error_type.name());
        if let Some(by) = &self.by {
            error = error.with("by", by.to_string());
        }
        error = error.with_child(condition);
        if let Some(text) = &self.text {
            error = error.with_child(text_element(ns::STANZA_ERRORS, text.clone()));
        }
        if let Some(application) = &self.application {
            error = error.with_child((**application).clone());
        }
        error
    }
}

impl From<StanzaCondition> for StanzaError {
    fn from(condition: StanzaCondition) -> Self {
        Self::new(condition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Framing,
        stream::{Limits, read_stanza},
    };

    fn answer(stanza: &str, error: &StanzaError) -> Option<String> {
        let stanza = read_stanza(stanza, &Limits::default()).expect("a stanza");
        let sender = Jid::new("juliet@im.example.com/balcony").expect("an address");
        error.answer(&stanza, &sender).map(|answer| answer.text_for(Framing::Tcp))
    }

    #[test]
    fn the_conditions_are_those_of_the_rfc() {
        let names: Vec<_> = StanzaCondition::ALL.iter().map(|condition| condition.name()).collect();
        assert_eq!(names.len(), 22, "sections 8.3.3.1 to 8.3.3.22");
        assert!(names.is_sorted(), "the order of the sections is alphabetic");
        let of = |error_type: ErrorType| {
            StanzaCondition::ALL.iter().filter(|condition| condition.usual_type() == error_type).count()
        };
        let counts = [ErrorType::Auth, ErrorType::Cancel, ErrorType::Modify, ErrorType::Wait].map(of);
        assert_eq!(counts, [4, 9, 5, 4], "the types that the RFC recommends");
    }

    /// RFC 6120, section 8.3.1: "the value of the 'id' attribute MUST match that of the generated stanza", "An error stanza MUST
    /// contain an \<error/\> child element".
    #[test]
    fn an_answer_goes_to_the_sender_with_the_id_that_it_answers() {
        assert_eq!(
            answer(
                "<iq type='get' id='a&amp;&apos;1' to='Romeo@Example.net/orchard'><q xmlns='x'/></iq>",
                &StanzaCondition::ServiceUnavailable.into()
            )
            .as_deref(),
            Some(
                "<iq type='error' to='juliet@im.example.com/balcony' from='romeo@example.net/orchard' id='a&amp;&apos;1'>\
                 <error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
            )
        );
        let full = StanzaError::new(StanzaCondition::PolicyViolation)
            .with_type(ErrorType::Wait)
            .with_text("too many")
            .with_by(Jid::new("im.example.com").expect("an address"))
            .with_application(Element::new("spam", ns::APPLICATION_ERRORS));
        assert_eq!(
            answer("<message to='romeo@example.net'><body>hi</body></message>", &full).as_deref(),
            Some(
                "<message type='error' to='juliet@im.example.com/balcony' from='romeo@example.net'>\
                 <error type='wait' by='im.example.com'>\
                 <policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>\
                 <text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas' xml:lang='en'>too many</text>\
                 <spam xmlns='urn:xmpp:errors'/></error></message>"
            )
        );
        let gone = answer("<presence id='1'/>", &StanzaError::gone("xmpp:romeo@afterlife.example.net"));
        assert!(
            gone.as_deref().is_some_and(|text| text.contains(">xmpp:romeo@afterlife.example.net</gone>")),
            "{gone:?}"
        );
        let redirect = answer("<presence id='1'/>", &StanzaError::redirect("xmpp:conference.example.net"));
        assert!(
            redirect.as_deref().is_some_and(|text| text.contains(">xmpp:conference.example.net</redirect>")),
            "{redirect:?}"
        );
        // The id is empty where a question has none.
        let none = answer("<iq type='get'/>", &StanzaCondition::BadRequest.into());
        assert!(none.as_deref().is_some_and(|text| text.contains(" id=''")), "{none:?}");
    }

    /// RFC 6120, section 8.3.1, rule 2: the addresses are swapped unless this would "force the sender of the error stanza to
    /// include a malformed JID".
    #[test]
    fn a_malformed_address_is_not_repeated() {
        let answer =
            answer("<iq type='set' id='1' to='a b@c'><q xmlns='x'/></iq>", &StanzaCondition::JidMalformed.into());
        assert_eq!(
            answer.as_deref(),
            Some(
                "<iq type='error' to='juliet@im.example.com/balcony' id='1'><error type='modify'>\
                 <jid-malformed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
            )
        );
    }

    /// RFC 6120, section 8.3.1: "An entity that receives an error stanza MUST NOT respond to the stanza with a further error
    /// stanza".
    #[test]
    fn an_error_never_answers_an_error_nor_an_answer() {
        for stanza in [
            "<message type='error' id='1'/>",
            "<presence type='error'/>",
            "<iq type='error' id='1'/>",
            "<iq type='result' id='1'/>",
            "<foo xmlns='urn:x' id='1'/>",
        ] {
            assert_eq!(answer(stanza, &StanzaCondition::BadRequest.into()), None, "{stanza}");
        }
    }
}
