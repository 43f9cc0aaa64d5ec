//! Delayed delivery (XEP-0203).

use super::date_time;
use crate::{Element, Jid, stream::Child};

pub const NAMESPACE: &str = "urn:xmpp:delay";

/// `<delay/>`. `ms`: the time at which the stanza was sent, in milliseconds since 1970. `from`: the entity that has kept it.
///
/// XEP-0203, section 2: "The format MUST adhere to the dateTime format specified in XEP-0082 and MUST be expressed in UTC."
pub fn element(from: Option<&Jid>, ms: u64) -> Element {
    let delay = Element::new("delay", NAMESPACE).with("stamp", date_time::format(ms));
    match from {
        Some(from) => delay.with("from", from.to_string()),
        None => delay,
    }
}

/// The time at which the stanza was sent, in milliseconds since 1970. `None` if the element is no `<delay/>`, or has no time.
pub fn stamp(delay: &Element) -> Option<u64> {
    delay.is("delay", NAMESPACE).then(|| delay.attribute("stamp")).flatten().and_then(date_time::parse)
}

/// Whether the element claims that the service has kept the stanza. `is_ours`: whether an address is of the service. A malformed address is
/// nobody's; clients that send a stanza again add the time without an address.
///
/// XEP-0203, section 5: "the recipient's server SHOULD discard a delayed delivery notation whose 'from' attribute matches the server's
/// JabberID".
pub fn is_forged(child: &Child<'_>, is_ours: impl FnOnce(&Jid) -> bool) -> bool {
    child.is("delay", NAMESPACE) && child.address("from").is_some_and(|from| is_ours(&from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Limits, read_stanza};

    /// XEP-0203, section 3, examples 1 and 3.
    #[test]
    fn a_delay_has_its_time_in_utc() {
        let from = Jid::new("capulet.com").expect("an address");
        let delay = element(Some(&from), 1_031_699_305_000);
        assert_eq!(
            delay.to_string(),
            "<delay xmlns='urn:xmpp:delay' stamp='2002-09-10T23:08:25Z' from='capulet.com'/>"
        );
        assert_eq!(stamp(&delay), Some(1_031_699_305_000));
        assert_eq!(element(None, 0).attribute("from"), None);
        for text in ["<delay xmlns='urn:xmpp:delay'/>", "<delay stamp='2002-09-10T23:08:25Z'/>"] {
            assert_eq!(stamp(&Element::parse(text, &Limits::default()).expect("valid")), None, "{text}");
        }
    }

    /// XEP-0203, section 5: "the recipient's server SHOULD discard a delayed delivery notation whose 'from' attribute matches the server's JabberID".
    #[test]
    fn a_client_does_not_delay_for_its_server() {
        let text = "<message><body/><delay xmlns='urn:xmpp:delay' from='Example.ORG'/><delay xmlns='urn:xmpp:delay'/>\
             <d:delay xmlns:d='urn:xmpp:delay' from='a@example.org&#x2f;x'/>\
             <delay xmlns='urn:xmpp:delay' from='other.example'/><delay xmlns='urn:xmpp:delay' from='a b@example.org'/>\
             <delay from='example.org'/></message>";
        let stanza = read_stanza(text, &Limits::default()).expect("valid");
        let forged: Vec<_> =
            stanza.children().map(|child| is_forged(&child, |from| from.domain() == "example.org")).collect();
        assert_eq!(forged, [false, true, false, true, false, false, false]);
    }
}
