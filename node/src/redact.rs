//! Takes secrets out of texts that leave the machine. Nothing should write them in the first place: this is for what did.

use std::borrow::Cow;

/// What stands in the place of a secret.
pub(crate) const REDACTED: &str = "[secret]";
/// A shorter text would be found in others by chance.
const SHORTEST: usize = 8;
/// The beginning of a JSON Web Token, `{"` in base64url (RFC 7519 section 3).
const TOKEN_BEGINS: &str = "eyJ";

/// Knows the secrets of one configuration.
#[derive(Clone, Default)]
pub(crate) struct Redactor {
    /// The longest first: one may be a part of another.
    secrets: Vec<String>,
}

impl Redactor {
    pub(crate) fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let secrets = secrets.into_iter().map(|secret| secret.trim().to_owned());
        let mut secrets: Vec<String> = secrets.filter(|secret| secret.len() >= SHORTEST).collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        Self { secrets }
    }

    /// The text without the known secrets, and without what looks like a token of a user.
    pub(crate) fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = without_tokens(text);
        for secret in &self.secrets {
            if text.contains(secret.as_str()) {
                text = Cow::Owned(text.replace(secret.as_str(), REDACTED));
            }
        }
        text
    }
}

fn without_tokens(text: &str) -> Cow<'_, str> {
    if !text.contains(TOKEN_BEGINS) {
        return Cow::Borrowed(text);
    }
    let is_of_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(TOKEN_BEGINS) {
        let (before, token) = rest.split_at(at);
        let end = token.find(|c: char| !is_of_token(c)).unwrap_or(token.len());
        kept.push_str(before);
        // Header, claims and signature.
        kept.push_str(if token[..end].matches('.').count() >= 2 { REDACTED } else { &token[..end] });
        rest = &token[end..];
    }
    kept.push_str(rest);
    Cow::Owned(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_tokens_do_not_stay() {
        let redactor =
            Redactor::new(["0123456789abcdef".to_owned(), "0123456789abcdef-and-more\n".to_owned(), "ab".to_owned()]);
        let redact = |text| redactor.redact(text).into_owned();
        assert_eq!(redact("key=0123456789abcdef-and-more;x=0123456789abcdef"), "key=[secret];x=[secret]");
        assert_eq!(redact("a table, a cab"), "a table, a cab", "what is too short for a secret stays");
        assert_eq!(redact("token eyJhbGciOi.eyJzdWIi.c2ln-_x, eyJust"), "token [secret], eyJust");
        assert_eq!(redact("eyJé eyJa.b.c"), "eyJé [secret]");
    }
}
