//! The parts of a token, and typed access to their members.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{MAX_TOKEN_BYTES, TokenError, invalid, unique::Unique};

/// header.claims.signature, each in base64url.
pub(super) struct TokenParts<'a> {
    pub(super) header: &'a str,
    pub(super) claims: &'a str,
    pub(super) signature: &'a str,
    /// The signed bytes.
    pub(super) signed: &'a str,
}

impl<'a> TokenParts<'a> {
    pub(super) fn of(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Invalid(format!("it is longer than {MAX_TOKEN_BYTES} bytes")));
        }
        let mut all = token.split('.');
        match (all.next(), all.next(), all.next(), all.next()) {
            (Some(header), Some(claims), Some(signature), None) => {
                let signed = &token[..header.len() + 1 + claims.len()];
                Ok(Self { header, claims, signature, signed })
            }
            _ => Err(invalid("it must have three parts between dots")),
        }
    }
}

/// A JSON object of a token.
pub(super) struct Members {
    what: &'static str,
    members: Map<String, Value>,
}

impl Members {
    /// `what`: the name used in errors.
    pub(super) fn read(what: &'static str, encoded: &str) -> Result<Self, TokenError> {
        let wrong = |why: String| TokenError::Invalid(format!("its {what} {why}"));
        // Strict: no padding, no white space, no trailing bits.
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|error| wrong(format!("is not base64url: {error}")))?;
        match serde_json::from_slice(&bytes) {
            Ok(Unique(Value::Object(members))) => Ok(Self { what, members }),
            Ok(_) => Err(wrong("is not a JSON object".to_owned())),
            Err(error) => Err(wrong(format!("is not JSON: {error}"))),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.members.get(name)
    }

    /// A string member, if present.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, TokenError> {
        match self.members.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "must be a string")),
        }
    }

    pub(super) fn needed_text(&self, name: &str) -> Result<&str, TokenError> {
        self.text(name)?.ok_or_else(|| self.wrong(name, "is missing"))
    }

    /// A string, or an array of strings.
    pub(super) fn texts(&self, name: &str) -> Result<Option<Vec<&str>>, TokenError> {
        let one = |value: &'_ Value| match value {
            Value::String(_) => Ok(()),
            _ => Err(self.wrong(name, "must be a string or an array of strings")),
        };
        match self.members.get(name) {
            None => Ok(None),
            Some(Value::Array(items)) => {
                items.iter().try_for_each(one)?;
                Ok(Some(items.iter().filter_map(Value::as_str).collect()))
            }
            Some(value) => {
                one(value)?;
                Ok(Some(value.as_str().into_iter().collect()))
            }
        }
    }

    /// A NumericDate: seconds since 1970, possibly with a fraction.
    pub(super) fn seconds(&self, name: &str) -> Result<Option<f64>, TokenError> {
        match self.members.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) => match number.as_f64() {
                Some(seconds) if seconds.is_finite() => Ok(Some(seconds)),
                _ => Err(self.wrong(name, "is no time")),
            },
            Some(_) => Err(self.wrong(name, "must be a number of seconds")),
        }
    }

    fn wrong(&self, name: &str, why: &str) -> TokenError {
        TokenError::Invalid(format!("{name} of its {} {why}", self.what))
    }
}
