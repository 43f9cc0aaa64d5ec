//! XEP-0390.

use super::{Algorithm, Info, Mismatch};
use crate::{
    Element,
    extension::{disco::Identity, form::Field},
};

const NAMESPACE: &str = "urn:xmpp:caps";
const HASHES: &str = "urn:xmpp:hashes:2";
const NODE: &str = "urn:xmpp:caps#";

/// Most hashes of a set that are read.
const MAX_HASHES: usize = 16;

/// `<c/>` of XEP-0390: several hashes of one answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HashSet {
    /// Names of the hash functions and hashes in base64.
    hashes: Vec<(String, String)>,
}

impl HashSet {
    /// `None` if the element is another one.
    pub fn read(element: &Element) -> Option<Self> {
        if !element.is("c", NAMESPACE) {
            return None;
        }
        let hashes = element.children().filter(|child| child.is("hash", HASHES)).take(MAX_HASHES);
        let hash = |hash: &Element| Some((hash.attribute("algo")?.to_owned(), hash.text()));
        Some(Self { hashes: hashes.filter_map(hash).collect() })
    }

    pub fn of(info: &Info, algorithms: &[Algorithm]) -> Result<Self, Mismatch> {
        let input = input(info)?;
        let hash = |algorithm: &Algorithm| (algorithm.name().to_owned(), algorithm.hash(&input));
        Ok(Self { hashes: algorithms.iter().map(hash).collect() })
    }

    pub fn element(&self) -> Element {
        let hash = |(algorithm, hash): &(String, String)| {
            Element::new("hash", HASHES).with("algo", algorithm.clone()).with_text(hash)
        };
        Element::new("c", NAMESPACE).with_children(self.hashes.iter().map(hash))
    }

    /// The node to ask for the answer, by which it is kept as well. `None`: no hash can be checked here.
    pub fn query_node(&self) -> Option<String> {
        self.strongest().map(|(algorithm, hash)| format!("{NODE}{}.{hash}", algorithm.name()))
    }

    /// Checks that `info` is the answer whose hash is that of [`Self::query_node`].
    ///
    /// XEP-0390, section 6.2.1: "A received Capability Hash which has not been verified MUST NOT be stored."
    pub fn verify(&self, info: &Info) -> Result<(), Mismatch> {
        let (algorithm, hash) = self.strongest().ok_or(Mismatch::Algorithm)?;
        if algorithm.hash(&input(info)?) == *hash { Ok(()) } else { Err(Mismatch::Hash) }
    }

    /// XEP-0390, section 4.2: the set "SHOULD NOT include any hash functions which MUST NOT be supported according to XEP-0300": SHA-1.
    fn strongest<'a>(&'a self) -> Option<(Algorithm, &'a String)> {
        let known = |(name, hash): &'a (String, String)| {
            let algorithm = Algorithm::of_name(name).filter(|algorithm| *algorithm != Algorithm::Sha1);
            algorithm.map(|algorithm| (algorithm, hash))
        };
        self.hashes.iter().filter_map(known).max_by_key(|(algorithm, _)| *algorithm)
    }
}

/// The input of the hash function (XEP-0390, section 4.1). All sorting is by bytes.
pub(super) fn input(info: &Info) -> Result<Vec<u8>, Mismatch> {
    // "If the <query/> element contains any elements except <identity/>, <feature/> [...] or XEP-0128 data forms, abort with an error." "If
    // any XEP-0128 <x/> element contains a data form which contains a <reported/> or <item/> element, abort with an error." "If any XEP-0128
    // <x/> element does not adhere to the "FORM_TYPE" protocol specified by XEP-0068, abort with an error."
    if info.has_others || info.forms.iter().any(|form| form.protocol().is_none()) {
        return Err(Mismatch::IllFormed);
    }
    let unit = |text: &str| [text.as_bytes(), b"\x1f"].concat();
    let features = joined(info.features.iter().map(|var| unit(var)), b'\x1c');
    let identity = |identity: &Identity| {
        let parts = [&identity.category, &identity.identity_type, &identity.lang, &identity.name];
        [&*parts.map(|part| unit(part)).concat(), b"\x1e"].concat()
    };
    let identities = joined(info.identities.iter().map(identity), b'\x1c');
    let field = |field: &Field| {
        let values = joined(field.values.iter().map(|value| unit(value)), b'\x1e');
        [unit(field.var.as_deref().unwrap_or_default()), values].concat()
    };
    let forms = info.forms.iter().map(|form| joined(form.fields.iter().map(field), b'\x1d'));
    Ok([features, identities, joined(forms, b'\x1c')].concat())
}

/// The sorted parts, and the byte that closes them.
fn joined(parts: impl Iterator<Item = Vec<u8>>, end: u8) -> Vec<u8> {
    let mut parts: Vec<_> = parts.collect();
    parts.sort_unstable();
    parts.push(vec![end]);
    parts.concat()
}
