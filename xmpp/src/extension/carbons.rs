//! Copies for a user's other resources (XEP-0280), and stanzas that carry others (XEP-0297).

use super::delay;
use crate::{
    Element, Framing, Jid,
    stream::{Forwardable, Head, Routed, StanzaKind},
};

pub const NAMESPACE: &str = "urn:xmpp:carbons:2";
pub const FORWARD: &str = "urn:xmpp:forward:0";

/// The part that the user's other resource had in the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Sent,
    Received,
}

/// `<forwarded/>` without its stanza, for [`Routed::around`]. `ms`: when the stanza was received, in milliseconds since 1970.
///
/// XEP-0297, section 3.2: "The forwarding entity SHOULD add a \<delay/\> child to the \<forwarded/\> element to indicate to the recipient the
/// date/time that the forwarding entity received the original stanza."
pub fn forwarded(ms: Option<u64>) -> Element {
    Element::new("forwarded", FORWARD).with_children(ms.map(|ms| delay::element(None, ms)))
}

/// The copy of a message for other resources of `account`, a bare address.
///
/// XEP-0280, sections 7 and 8: "The wrapping message SHOULD maintain the same 'type' attribute value"; "the 'from' attribute MUST be the
/// Carbons-enabled user's bare JID".
pub fn carbon(
    direction: Direction,
    account: &Jid,
    stanza_type: Option<&str>,
    message: &Forwardable,
    framing: Framing,
) -> Routed {
    let name = match direction {
        Direction::Sent => "sent",
        Direction::Received => "received",
    };
    let head = Head { kind: StanzaKind::Message, from: account.bare(), id: None, stanza_type, lang: None };
    Routed::around(&head, &[Element::new(name, NAMESPACE), forwarded(None)], message, framing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Limits, read_stanza};

    /// XEP-0280, section 7, example 9, and section 8, example 12.
    #[test]
    fn copies_are_those_of_the_xep() {
        let stanza =
            "<message to='romeo@montague.example/garden' from='x' type='chat'><body>What man art thou</body></message>";
        let stanza = read_stanza(stanza, &Limits::default()).expect("valid");
        let message = stanza.forwardable("juliet@capulet.example/balcony", stanza.to());
        let inner = "<message to='romeo@montague.example/garden' from='juliet@capulet.example/balcony' \
                     xmlns='jabber:client' type='chat'><body>What man art thou</body></message>";
        assert_eq!(message.as_str(), inner);
        let romeo = Jid::new("romeo@montague.example/home").expect("an address");
        let copy = carbon(Direction::Received, &romeo, stanza.stanza_type(), &message, Framing::Tcp);
        assert_eq!(
            copy.text(Some("romeo@montague.example/home")),
            format!(
                "<message to='romeo@montague.example/home' from='romeo@montague.example' type='chat'>\
                 <received xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'>{inner}</forwarded></received></message>"
            )
        );
        let copy = carbon(Direction::Sent, &romeo, None, &message, Framing::WebSocket);
        assert_eq!(
            copy.text(None),
            format!(
                "<message from='romeo@montague.example' xmlns='jabber:client'>\
                 <sent xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'>{inner}</forwarded></sent></message>"
            )
        );
    }

    /// XEP-0313, section 4.2, example 5: a page of an archive.
    #[test]
    fn a_forwarded_stanza_has_the_time_of_its_arrival() {
        let stanza = read_stanza("<message id='1'/>", &Limits::default()).expect("valid");
        let result = Element::new("result", "urn:xmpp:mam:2").with("queryid", "f27").with("id", "28482-98726-73623");
        let head = Head {
            kind: StanzaKind::Message,
            from: "juliet@capulet.lit",
            id: Some("a"),
            stanza_type: None,
            lang: None,
        };
        let around = [result, forwarded(Some(1_278_803_305_000))];
        let routed = Routed::around(&head, &around, &stanza.forwardable("a@b", None), Framing::Tcp);
        assert_eq!(
            routed.text(Some("juliet@capulet.lit/chamber")),
            "<message to='juliet@capulet.lit/chamber' from='juliet@capulet.lit' id='a'>\
             <result xmlns='urn:xmpp:mam:2' queryid='f27' id='28482-98726-73623'><forwarded xmlns='urn:xmpp:forward:0'>\
             <delay xmlns='urn:xmpp:delay' stamp='2010-07-10T23:08:25Z'/>\
             <message from='a@b' xmlns='jabber:client' id='1'/></forwarded></result></message>"
        );
    }
}
