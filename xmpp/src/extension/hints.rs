//! Hints about storing and copying (XEP-0334), and the one of XEP-0280 against copies.

use super::carbons;
use crate::stream::Stanza;

pub const NAMESPACE: &str = "urn:xmpp:hints";

/// The hints of a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hints {
    /// `<store/>`: store it, though it may have no body.
    pub store: bool,
    /// `<no-store/>`: do not store it at all.
    pub no_store: bool,
    /// `<no-permanent-store/>`: do not keep it in an archive.
    pub no_permanent_store: bool,
    /// `<no-copy/>`: nobody but the addressee gets it.
    pub no_copy: bool,
    /// `<private/>` of XEP-0280: no carbons.
    pub private: bool,
}

impl Hints {
    /// The hints of a stanza. One of type `error` has none.
    ///
    /// XEP-0334, section 5: "Hints contained within a stanza of type 'error' SHOULD be ignored."
    pub fn of(stanza: &Stanza) -> Self {
        let mut hints = Self::default();
        if stanza.stanza_type() == Some("error") {
            return hints;
        }
        for child in stanza.children() {
            match (child.namespace, child.name) {
                (NAMESPACE, "store") => hints.store = true,
                (NAMESPACE, "no-store") => hints.no_store = true,
                (NAMESPACE, "no-permanent-store") => hints.no_permanent_store = true,
                (NAMESPACE, "no-copy") => hints.no_copy = true,
                (carbons::NAMESPACE, "private") => hints.private = true,
                _ => {}
            }
        }
        hints
    }

    /// Whether the sender asks that the message is not stored. A wish that it is stored does not count beside this one.
    pub fn forbids_storing(self) -> bool {
        self.no_store || self.no_permanent_store
    }

    /// Whether the sender wants no carbons.
    ///
    /// XEP-0334, section 4.3, of `<no-copy/>`: "This hint MUST only be included on messages addressed to full JIDs and explicitly does not
    /// override the behaviour defined in XMPP IM for handling messages to bare JIDs".
    pub fn forbids_carbons(self, is_to_full: bool) -> bool {
        self.private || (self.no_copy && is_to_full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Limits, read_stanza};

    /// XEP-0334, section 5: "Hints contained within a stanza of type 'error' SHOULD be ignored."
    #[test]
    fn hints_are_those_of_the_namespace() {
        let of = |text: &str| Hints::of(&read_stanza(text, &Limits::default()).expect("valid"));
        let none = Hints::default();
        for (hint, expected) in [
            ("<store xmlns='urn:xmpp:hints'/>", Hints { store: true, ..none }),
            ("<no-store xmlns='urn:xmpp:hints'/>", Hints { no_store: true, ..none }),
            ("<no-permanent-store xmlns='urn:xmpp:hints'/>", Hints { no_permanent_store: true, ..none }),
            ("<h:no-copy xmlns:h='urn:xmpp:hints'/>", Hints { no_copy: true, ..none }),
            ("<private xmlns='urn:xmpp:carbons:2'/>", Hints { private: true, ..none }),
            ("<store/><private xmlns='urn:xmpp:hints'/><x xmlns='urn:x'><store xmlns='urn:xmpp:hints'/></x>", none),
        ] {
            assert_eq!(of(&format!("<message>{hint}</message>")), expected, "{hint}");
            assert_eq!(of(&format!("<message type='error'>{hint}</message>")), none, "{hint}");
        }
        let both = Hints { store: true, no_permanent_store: true, ..none };
        assert!(both.forbids_storing() && !Hints { store: true, ..none }.forbids_storing());
        let no_copy = Hints { no_copy: true, ..none };
        assert_eq!((no_copy.forbids_carbons(true), no_copy.forbids_carbons(false)), (true, false));
        assert!(Hints { private: true, ..none }.forbids_carbons(false));
    }
}
