//! Service discovery (XEP-0030, XEP-0128): the identities, the features and the data of an entity.

use super::form::{Form, InvalidForm};
use crate::{Element, ns};

/// Most identities, features and forms together.
pub const MAX_ENTRIES: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    pub category: String,
    pub identity_type: String,
    /// The language of the name; "" if there is none.
    pub lang: String,
    /// "" if there is none.
    pub name: String,
}

impl Identity {
    pub fn new(category: &str, identity_type: &str, name: &str) -> Self {
        let [category, identity_type, name] = [category, identity_type, name].map(str::to_owned);
        Self { category, identity_type, lang: String::new(), name }
    }
}

/// The answer of an entity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Info {
    pub identities: Vec<Identity>,
    pub features: Vec<String>,
    pub forms: Vec<Form>,
    /// The answer has elements of other kinds, or a form with more than fields.
    pub has_others: bool,
}

/// An answer that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInfo {
    #[error("the element is no <query/> of {}", ns::DISCO_INFO)]
    Element,
    #[error("an identity has no category or no type, or a feature has no name")]
    Nameless,
    #[error("there are more than {MAX_ENTRIES} identities, features and forms")]
    Entries,
    #[error(transparent)]
    Form(#[from] InvalidForm),
}

impl Info {
    /// Reads `<query/>`. `lang`: the language that holds around it, that of the stanza or its stream.
    pub fn read(query: &Element, lang: Option<&str>) -> Result<Self, InvalidInfo> {
        if !query.is("query", ns::DISCO_INFO) {
            return Err(InvalidInfo::Element);
        }
        let lang = query.lang().or(lang).unwrap_or_default();
        let mut info = Self::default();
        for (at, child) in query.children().enumerate() {
            if at == MAX_ENTRIES {
                return Err(InvalidInfo::Entries);
            }
            let named = |name| child.attribute(name).filter(|value| !value.is_empty()).ok_or(InvalidInfo::Nameless);
            if child.is("identity", ns::DISCO_INFO) {
                info.identities.push(Identity {
                    category: named("category")?.to_owned(),
                    identity_type: named("type")?.to_owned(),
                    lang: child.lang().unwrap_or(lang).to_owned(),
                    name: child.attribute("name").unwrap_or_default().to_owned(),
                });
            } else if child.is("feature", ns::DISCO_INFO) {
                info.features.push(named("var")?.to_owned());
            } else if let Some(form) = Form::read(child) {
                let form = form?;
                info.has_others |= !form.reported.is_empty() || !form.items.is_empty();
                info.forms.push(form);
            } else {
                info.has_others = true;
            }
        }
        Ok(info)
    }

    /// `<query/>` for an answer. `node`: that of the question.
    pub fn element(&self, node: Option<&str>) -> Element {
        let mut query = Element::new("query", ns::DISCO_INFO);
        if let Some(node) = node {
            query = query.with("node", node.to_owned());
        }
        for identity in &self.identities {
            let mut element = Element::new("identity", ns::DISCO_INFO)
                .with("category", identity.category.clone())
                .with("type", identity.identity_type.clone());
            if !identity.name.is_empty() {
                element = element.with("name", identity.name.clone());
            }
            if !identity.lang.is_empty() {
                element = element.with_lang(identity.lang.clone());
            }
            query = query.with_child(element);
        }
        let feature = |var: &String| Element::new("feature", ns::DISCO_INFO).with("var", var.clone());
        query.with_children(self.features.iter().map(feature)).with_children(self.forms.iter().map(Form::element))
    }

    pub fn has_feature(&self, var: &str) -> bool {
        self.features.iter().any(|feature| feature == var)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Limits;

    fn read(inside: &str, lang: Option<&str>) -> Result<Info, InvalidInfo> {
        let text = format!("<query xmlns='http://jabber.org/protocol/disco#info'>{inside}</query>");
        Info::read(&Element::parse(&text, &Limits::default()).expect("valid"), lang)
    }

    /// XEP-0030, section 3.1: each identity "MUST possess the 'category' and 'type' attributes", each feature "MUST possess a 'var' attribute".
    #[test]
    fn an_answer_is_read_as_it_was_written() {
        let info = Info {
            identities: vec![
                Identity { lang: "de".to_owned(), ..Identity::new("server", "im", "Carillon") },
                Identity::new("account", "registered", ""),
            ],
            features: vec![ns::DISCO_INFO.to_owned(), "a&b".to_owned()],
            forms: vec![Form::of(crate::extension::form::FormType::Result, "urn:x")],
            has_others: false,
        };
        let element = info.element(Some("n#1"));
        assert_eq!(element.attribute("node"), Some("n#1"));
        assert_eq!(Info::read(&element, None), Ok(info.clone()));
        assert!(info.has_feature("a&b") && !info.has_feature("a"));
        // The language of the stanza holds for names that have none.
        let identity = "<identity category='client' type='pc' name='x'/>";
        let lang = |lang| read(identity, lang).expect("valid").identities[0].lang.clone();
        assert_eq!((lang(Some("el")), lang(None)), ("el".to_owned(), String::new()));
        assert!(!read(identity, None).expect("valid").has_others);
        for other in ["<x xmlns='urn:x'/>", "<x xmlns='jabber:x:data' type='result'><item><field var='a'/></item></x>"]
        {
            assert!(read(other, None).expect("valid").has_others, "{other}");
        }
        for (inside, error) in [
            ("<identity category='client'/>", InvalidInfo::Nameless),
            ("<identity category='' type='x'/>", InvalidInfo::Nameless),
            ("<feature/>", InvalidInfo::Nameless),
            ("<x xmlns='jabber:x:data'/>", InvalidInfo::Form(InvalidForm::Type)),
            (&"<feature var='a'/>".repeat(1025), InvalidInfo::Entries),
        ] {
            assert_eq!(read(inside, None), Err(error));
        }
        assert_eq!(Info::read(&Element::new("query", "urn:x"), None), Err(InvalidInfo::Element));
    }
}
