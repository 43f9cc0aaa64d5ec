//! Forms that were filled in.

use std::collections::{BTreeMap, BTreeSet};

use super::{FORM_TYPE, Field, FieldType, Form, FormType};
use crate::{
    Jid,
    error::{StanzaCondition, StanzaError},
};

/// The values of a form that was filled in, each of which its field allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    values: BTreeMap<String, Vec<String>>,
}

/// A form that was filled in against the rules of the one that was offered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the field {var}: {wrong}")]
pub struct InvalidSubmission {
    pub var: String,
    pub wrong: Wrong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error("it must have a value")]
    Missing,
    #[error("it must have one value")]
    Many,
    #[error("its value is none of 0, 1, true and false")]
    Boolean,
    #[error("its value is none of those that are offered")]
    Choice,
    #[error("its value is no address")]
    Address,
    #[error("its value has more than one line")]
    Lines,
    #[error("its value may not be changed")]
    Hidden,
}

impl InvalidSubmission {
    /// The error for the sender, which names the field.
    pub fn stanza_error(&self) -> StanzaError {
        StanzaError::new(StanzaCondition::NotAcceptable).with_text(self.to_string())
    }
}

impl Form {
    /// Checks a submission of this form. Fields that the form does not have are ignored; fields that did not come back keep their value.
    ///
    /// XEP-0004, section 3.1: "The submission MAY include fields that were not provided in the empty form, but the form-processing entity
    /// MUST ignore any fields that it does not understand. Furthermore, the submission MAY omit fields not marked with \<required/\>".
    pub fn submission(&self, submitted: &Self) -> Result<Submission, InvalidSubmission> {
        debug_assert!(self.form_type == FormType::Form, "a form that was offered");
        let mut values = BTreeMap::new();
        for field in &self.fields {
            let (Some(var), Some(field_type)) = (&field.var, field.field_type) else { continue };
            let given = submitted.field(var).map_or(&[][..], |field| &field.values);
            let wrong = |wrong| InvalidSubmission { var: var.clone(), wrong };
            match field.check(field_type, given) {
                Ok(Some(given)) => values.insert(var.clone(), given),
                Ok(None) if field.is_required => return Err(wrong(Wrong::Missing)),
                // A field that came back without a value is one whose value is unset (section 3.6).
                Ok(None) if submitted.field(var).is_some() => values.insert(var.clone(), Vec::new()),
                Ok(None) => None,
                Err(found) => return Err(wrong(found)),
            };
        }
        Ok(Submission { values })
    }
}

impl Field {
    /// The values that were given, in one spelling each. `None`: there is none.
    fn check(&self, field_type: FieldType, given: &[String]) -> Result<Option<Vec<String>>, Wrong> {
        // An empty value is as good as none (section 3.6), unless a list offers it.
        let is_list = matches!(field_type, FieldType::ListMulti | FieldType::ListSingle);
        let is_offered = |value: &String| self.choices.iter().any(|choice| choice.value == *value);
        if given.iter().all(|value| value.is_empty() && !(is_list && is_offered(value))) {
            return Ok(None);
        }
        if given.len() > 1 && !field_type.has_many_values() {
            return Err(Wrong::Many);
        }
        match field_type {
            // XEP-0004, section 3.3: "the allowable lexical representations for the xs:boolean datatype are the strings "0" and "false" [...]
            // and the strings "1" and "true"".
            FieldType::Boolean => match given[0].as_str() {
                "1" | "true" => Ok(Some(vec!["1".to_owned()])),
                "0" | "false" => Ok(Some(vec!["0".to_owned()])),
                _ => Err(Wrong::Boolean),
            },
            // XEP-0004, section 3.3: the entity "MUST NOT insert new options".
            _ if is_list && !given.iter().all(is_offered) => Err(Wrong::Choice),
            // XEP-0004, section 3.3: "duplicate JIDs MUST be ignored".
            FieldType::JidMulti | FieldType::JidSingle => {
                let (mut known, mut addresses) = (BTreeSet::new(), Vec::with_capacity(given.len()));
                for text in given {
                    let address = Jid::new(text).map_err(|_| Wrong::Address)?.to_string();
                    if known.insert(address.clone()) {
                        addresses.push(address);
                    }
                }
                Ok(Some(addresses))
            }
            FieldType::TextSingle | FieldType::TextPrivate if given[0].contains(['\n', '\r']) => Err(Wrong::Lines),
            FieldType::Hidden if self.var.as_deref() == Some(FORM_TYPE) && given != self.values => Err(Wrong::Hidden),
            FieldType::Fixed => Ok(None),
            _ => Ok(Some(given.to_vec())),
        }
    }
}

impl Submission {
    /// The values of a field. Empty: it came back without one. `None`: it did not come back, and keeps its value.
    pub fn values(&self, var: &str) -> Option<&[String]> {
        self.values.get(var).map(Vec::as_slice)
    }

    /// The first value of a field; "" if it came back without one.
    pub fn text(&self, var: &str) -> Option<&str> {
        self.values(var).map(|values| values.first().map_or("", String::as_str))
    }

    /// The lines of a field of several ones as one text.
    pub fn lines(&self, var: &str) -> Option<String> {
        self.values(var).map(|values| values.join("\n"))
    }

    /// The value of a field of type boolean. `None` also if it came back without one.
    pub fn boolean(&self, var: &str) -> Option<bool> {
        self.values(var).and_then(|values| values.first()).map(|value| value == "1")
    }

    /// The addresses of a field.
    pub fn addresses(&self, var: &str) -> Option<Vec<Jid>> {
        self.values(var).map(|values| values.iter().filter_map(|value| Jid::new(value).ok()).collect())
    }
}
