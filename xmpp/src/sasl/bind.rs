//! Resources that are bound while signing in (XEP-0386).

use crate::{Element, ns};

/// Longest tag that is kept of a client's, in bytes. It becomes a part of the resource, which is the id of a device.
const TAG_BYTES: usize = 32;

/// `<bind/>` of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bind {
    /// The name of the client's software, as far as a resource may have it.
    pub tag: Option<String>,
    /// The requests in it: carbons, stream management and the like.
    pub features: Vec<Element>,
}

impl Bind {
    /// `None` if the element is another one.
    pub(super) fn read(element: &Element) -> Option<Self> {
        if !element.is("bind", ns::BIND2) {
            return None;
        }
        let tag = element.child("tag", ns::BIND2).map(|tag| tag_of(&tag.text())).filter(|tag| !tag.is_empty());
        let features = element.children().filter(|child| child.namespace() != ns::BIND2).cloned().collect();
        Some(Self { tag, features })
    }

    /// Whether there is a request of this name.
    pub fn asks(&self, name: &str, namespace: &str) -> bool {
        self.features.iter().any(|feature| feature.is(name, namespace))
    }

    /// The resource: the tag, a tilde and `stable`, which the server has chosen. The XEP recommends a slash, which ids of devices do not have.
    ///
    /// XEP-0386, section 3.2.1: "The SASL2 \<user-agent\> id itself MUST NOT be exposed by the server in the generated resource identifier."
    pub fn resource(&self, stable: &str) -> String {
        match &self.tag {
            Some(tag) => format!("{tag}~{stable}"),
            None => stable.to_owned(),
        }
    }
}

/// The characters that any resource may have: letters and digits of ASCII and some signs.
fn tag_of(given: &str) -> String {
    given.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')).take(TAG_BYTES).collect()
}

/// `<bind/>` for the features. `features`: the requests that it can take along.
pub(super) fn feature(features: &[&'static str]) -> Element {
    let feature = |var: &&'static str| Element::new("feature", ns::BIND2).with("var", *var);
    let inline = Element::new("inline", ns::BIND2).with_children(features.iter().map(feature));
    Element::new("bind", ns::BIND2).with_children((!features.is_empty()).then_some(inline))
}

/// `<bound/>`, for `<success/>`. `answers`: those to the requests in `<bind/>`.
pub fn bound(answers: impl IntoIterator<Item = Element>) -> Element {
    Element::new("bound", ns::BIND2).with_children(answers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Jid, jid::device, stream::Limits};

    fn read(text: &str) -> Option<Bind> {
        Bind::read(&Element::parse(text, &Limits::default()).expect("valid"))
    }

    /// XEP-0386, sections 3.1 and 3.2.
    #[test]
    fn elements_are_those_of_the_xep() {
        let bind = read(
            "<bind xmlns='urn:xmpp:bind:0'><tag>AwesomeXMPP</tag><enable xmlns='urn:xmpp:carbons:2'/>\
             <enable xmlns='urn:xmpp:sm:3' resume='1'/><inactive xmlns='urn:xmpp:csi:0'/></bind>",
        )
        .expect("a request");
        assert_eq!((bind.tag.as_deref(), bind.features.len()), (Some("AwesomeXMPP"), 3));
        assert!(bind.asks("enable", "urn:xmpp:carbons:2") && bind.asks("inactive", "urn:xmpp:csi:0"));
        assert!(!bind.asks("active", "urn:xmpp:csi:0"));
        assert_eq!(bind.resource("4232f4d4"), "AwesomeXMPP~4232f4d4");
        assert_eq!(Bind::default().resource("4232f4d4"), "4232f4d4");
        assert_eq!(read("<bind xmlns='urn:xmpp:bind:0'/>"), Some(Bind::default()));
        assert_eq!(read("<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>"), None);
        assert_eq!(
            feature(&["urn:xmpp:carbons:2", "urn:xmpp:sm:3"]).to_string(),
            "<bind xmlns='urn:xmpp:bind:0'><inline><feature var='urn:xmpp:carbons:2'/><feature var='urn:xmpp:sm:3'/></inline></bind>"
        );
        assert_eq!(feature(&[]).to_string(), "<bind xmlns='urn:xmpp:bind:0'/>");
        let metadata = Element::new("metadata", "urn:xmpp:mam:2");
        assert_eq!(
            bound([metadata]).to_string(),
            "<bound xmlns='urn:xmpp:bind:0'><metadata xmlns='urn:xmpp:mam:2'/></bound>"
        );
    }

    proptest! {
        #[test]
        fn every_resource_is_a_device_and_part_of_an_address(tag: String) {
            let text = Element::new("bind", ns::BIND2).with_child(Element::new("tag", ns::BIND2).with_text(tag));
            let resource = Bind::read(&text).expect("a request").resource("4232f4d4");
            prop_assert!(device(&resource).is_some(), "{}", resource);
            let jid = Jid::of_parts(Some("juliet"), "example.org", Some(&resource)).expect("an address");
            prop_assert_eq!(jid.resource(), Some(&*resource));
        }
    }
}
