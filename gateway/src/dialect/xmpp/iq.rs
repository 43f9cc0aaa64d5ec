//! Requests: each has exactly one answer, at once.

use carillon_xmpp::{
    Element,
    error::StanzaCondition,
    ns,
    stream::{IqType, Stanza},
};

use super::{
    dialog::{Dialog, Step},
    stanzas::Recipient,
};
use crate::conversation::Now;

/// The namespaces that the server's domain answers, for `disco#info` (XEP-0030).
const OF_SERVER: [&str; 5] = [ns::DISCO_INFO, ns::DISCO_ITEMS, ns::PING, ns::VERSION, ns::TIME];
/// The namespaces that a user's own account answers.
const OF_ACCOUNT: [&str; 3] = [ns::DISCO_INFO, ns::DISCO_ITEMS, ns::PING];

impl Dialog {
    /// RFC 6120, section 8.2.3: "An entity that receives an IQ request of type "get" or "set" MUST reply with an IQ response of type "result"
    /// or "error"."
    pub(super) fn iq(
        &mut self,
        stanza: &Stanza,
        recipient: Result<Recipient, StanzaCondition>,
        now: Now,
    ) -> Option<Step> {
        let answered = match (stanza.iq_type(), recipient) {
            // RFC 6120, section 8.2.3: "An entity that receives a stanza of type "result" or "error" MUST NOT respond to the stanza by
            // sending a further IQ response".
            (Ok(IqType::Result | IqType::Error), _) => return None,
            (Err(condition), _) | (Ok(_), Err(condition)) => Err(condition),
            (Ok(kind), Ok(recipient)) => {
                let request = stanza.element();
                // `iq_type` has counted the children.
                let child = request.children().next()?;
                if (kind, child.name(), child.namespace()) == (IqType::Set, "bind", ns::BIND) && is_served(recipient) {
                    return self.bind(stanza, child);
                }
                answer(kind, child, recipient, now).map(|payload| (recipient, payload))
            }
        };
        match answered {
            Ok((recipient, payload)) => self.result(stanza, recipient, payload),
            Err(condition) => self.refuse(stanza, &condition.into()),
        }
        None
    }

    /// RFC 6120, section 8.2.3: "The response MUST preserve the 'id' attribute of the request". Section 8.1.2.1: an answer of the server "MUST
    /// include a 'from' attribute whose value is the bare JID (i.e., \<domainpart\>) of the server"; one of the account "MUST either (a) not
    /// include a 'from' attribute or (b) include a 'from' attribute whose value is the account's bare JID".
    fn result(&mut self, stanza: &Stanza, recipient: Recipient, payload: Option<Element>) {
        let Some(own) = self.own_address() else { return };
        let from = match recipient {
            Recipient::Server => Some(own.domain()),
            Recipient::Account => stanza.to().map(|_| own.bare()),
            Recipient::Other => None,
        };
        let mut result = Element::new("iq", ns::CLIENT).with("type", "result");
        result = result.with("id", stanza.id().unwrap_or_default().to_owned()).with("to", own.to_string());
        if let Some(from) = from {
            result = result.with("from", from.to_owned());
        }
        self.write(&result.with_children(payload));
    }
}

fn is_served(recipient: Recipient) -> bool {
    matches!(recipient, Recipient::Server | Recipient::Account)
}

fn answer(kind: IqType, request: &Element, recipient: Recipient, now: Now) -> Result<Option<Element>, StanzaCondition> {
    match (kind, recipient, request.name(), request.namespace()) {
        (IqType::Get, Recipient::Server, "query", ns::DISCO_INFO) => {
            info(request, ("server", "im"), &OF_SERVER).map(Some)
        }
        (IqType::Get, Recipient::Account, "query", ns::DISCO_INFO) => {
            info(request, ("account", "registered"), &OF_ACCOUNT).map(Some)
        }
        (IqType::Get, Recipient::Server | Recipient::Account, "query", ns::DISCO_ITEMS) => {
            match request.attribute("node") {
                None => Ok(Some(Element::new("query", ns::DISCO_ITEMS))),
                Some(_) => Err(StanzaCondition::ItemNotFound),
            }
        }
        (IqType::Get, Recipient::Server | Recipient::Account, "ping", ns::PING) => Ok(None),
        (IqType::Get, Recipient::Server, "query", ns::VERSION) => Ok(Some(version())),
        (IqType::Get, Recipient::Server, "time", ns::TIME) => Ok(Some(time(now))),
        // The session of RFC 3921 is there since the resource is.
        (IqType::Set, Recipient::Server | Recipient::Account, "session", ns::SESSION) => Ok(None),
        // RFC 6120, section 10.3.3: "If the IQ stanza is of type "get" or "set" and the server does not understand the namespace that qualifies
        // the payload, the server MUST return an error to the sending entity, which MUST be <service-unavailable/>."
        _ => Err(StanzaCondition::ServiceUnavailable),
    }
}

fn info(
    request: &Element,
    identity: (&'static str, &'static str),
    features: &[&'static str],
) -> Result<Element, StanzaCondition> {
    if request.attribute("node").is_some() {
        return Err(StanzaCondition::ItemNotFound);
    }
    let (category, of_type) = identity;
    let identity = Element::new("identity", ns::DISCO_INFO).with("category", category).with("type", of_type);
    let feature = |name: &&'static str| Element::new("feature", ns::DISCO_INFO).with("var", *name);
    let info = Element::new("query", ns::DISCO_INFO).with_child(identity.with("name", "Carillon"));
    Ok(info.with_children(features.iter().map(feature)))
}

/// XEP-0092
fn version() -> Element {
    let part = |name, text: &str| Element::new(name, ns::VERSION).with_text(text);
    let parts = [part("name", "Carillon"), part("version", env!("CARGO_PKG_VERSION"))];
    Element::new("query", ns::VERSION).with_children(parts)
}

/// XEP-0202, in the form of XEP-0082.
fn time(now: Now) -> Element {
    let seconds = i64::try_from(now.unix_ms / 1000).unwrap_or_default();
    let utc = prost_types::Timestamp { seconds, nanos: 0 }.to_string();
    let zone = Element::new("tzo", ns::TIME).with_text("+00:00");
    Element::new("time", ns::TIME).with_child(zone).with_child(Element::new("utc", ns::TIME).with_text(utc))
}
