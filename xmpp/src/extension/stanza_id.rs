//! Stable ids of stanzas (XEP-0359).

use crate::{Element, Jid, stream::Child, stream::Stanza};

pub const NAMESPACE: &str = "urn:xmpp:sid:0";

/// The longest id of an origin, in bytes. Longer ones are none.
pub const MAX_ORIGIN_BYTES: usize = 1024;

/// `<stanza-id/>`.
///
/// XEP-0359, section 3: "The value of the 'by' attribute MUST be the XMPP address of the entity assigning the unique and stable stanza ID.
/// For one-on-one messages the assigning entity is the account. In groupchats the assigning entity is the room."
pub fn element(id: &str, by: &Jid) -> Element {
    Element::new("stanza-id", NAMESPACE).with("id", id.to_owned()).with("by", by.to_string())
}

/// `<origin-id/>`.
pub fn origin_element(id: &str) -> Element {
    Element::new("origin-id", NAMESPACE).with("id", id.to_owned())
}

/// The id that the sender's client has given: that of the first `<origin-id/>` that has one.
pub fn origin(stanza: &Stanza) -> Option<String> {
    let ids = stanza.children().filter(|child| child.is("origin-id", NAMESPACE));
    ids.filter_map(|child| child.attribute("id"))
        .find(|id| (1..=MAX_ORIGIN_BYTES).contains(&id.len()))
        .map(|id| id.into_owned())
}

/// Whether the element claims to be an id that the service has given. `is_ours`: whether an address is of the service. An address that
/// is malformed is nobody's.
///
/// XEP-0359, section 3: "Stanza ID generating entities, which encounter a \<stanza-id/\> element where the 'by' attribute matches the 'by'
/// attribute they would otherwise set, MUST delete that element even if they are not adding their own stanza ID." Other elements of the
/// namespace stay.
pub fn is_forged(child: &Child<'_>, is_ours: impl FnOnce(&Jid) -> bool) -> bool {
    child.is("stanza-id", NAMESPACE) && child.address("by").is_some_and(|by| is_ours(&by))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Limits, read_stanza};

    /// XEP-0359, section 3: such elements MUST be deleted; entities "SHOULD NOT strip any elements qualified by the 'urn:xmpp:sid:0' namespace [...]
    /// unless the preceding rule applied to those elements".
    #[test]
    fn ids_that_the_service_gives_are_its_own() {
        let text = "<message xmlns:s='urn:xmpp:sid:0'><body/><stanza-id xmlns='urn:xmpp:sid:0' id='1' by='Juliet@example.org'/>\
             <s:stanza-id by='juliet@example.org&#x2f;x' id='2'/><stanza-id xmlns='urn:xmpp:sid:0' id='3' by='room@muc.example.com'/>\
             <stanza-id xmlns='urn:xmpp:sid:0' id='4'/><stanza-id id='5' by='juliet@example.org'/>\
             <s:stanza-id s:by='juliet@example.org' id='6'/><s:origin-id/><s:origin-id id=''/><s:origin-id id='o&amp;1'/><s:origin-id id='o2'/></message>";
        let stanza = read_stanza(text, &Limits::default()).expect("valid");
        let ours = |by: &Jid| by.domain() == "example.org";
        let forged: Vec<_> = stanza.children().map(|child| is_forged(&child, ours)).collect();
        assert_eq!(forged, [false, true, true, false, false, false, false, false, false, false, false]);
        let by = Jid::new("juliet@example.org").expect("an address");
        let edited = stanza.edited(|child| !is_forged(child, ours), &[element("7", &by)]);
        assert!(edited.text().ends_with(
            "<s:origin-id id='o2'/><stanza-id xmlns='urn:xmpp:sid:0' id='7' by='juliet@example.org'/></message>"
        ));
        assert_eq!(edited.children().filter(|child| is_forged(child, ours)).count(), 1, "the service's own");
        assert_eq!(origin(&edited).as_deref(), Some("o&1"));
    }

    #[test]
    fn an_origin_has_one_id_of_a_bounded_length() {
        for (id, expected) in [("x".repeat(1024), true), ("x".repeat(1025), false)] {
            let text = format!("<message>{}</message>", origin_element(&id));
            let stanza = read_stanza(&text, &Limits::default()).expect("valid");
            assert_eq!(origin(&stanza), expected.then_some(id));
        }
    }
}
