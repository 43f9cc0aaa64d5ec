//! Origins of web pages that may open a WebSocket: RFC 6455, section 10.2.

use hyper::{
    HeaderMap, Uri,
    header::{self, HeaderValue},
};

/// The operator's list. Programs other than browsers send no `Origin` and are not affected.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origins {
    /// Empty: any.
    list: Vec<Origin>,
}

/// An invalid origin in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "has {text:?}, but an origin is a scheme and a host, and a port that is not the scheme's own, such as \
     https://chat.example.org; https://*.example.org stands for all hosts below example.org"
)]
pub(crate) struct InvalidOrigin {
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: String,
    /// In lower case.
    host: String,
    /// Any host below `host`, but not `host`.
    below: bool,
    port: u16,
}

impl Origins {
    pub(crate) fn parse(list: &[String]) -> Result<Self, InvalidOrigin> {
        let parse = |text: &String| Origin::parse(text).ok_or_else(|| InvalidOrigin { text: text.clone() });
        Ok(Self { list: list.iter().map(parse).collect::<Result<_, _>>()? })
    }

    pub(crate) fn admit(&self, headers: &HeaderMap) -> bool {
        if self.list.is_empty() {
            return true;
        }
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => true,
            (Some(origin), None) => self.holds(origin),
            // No browser sends two: something in between is inconsistent.
            (Some(_), Some(_)) => false,
        }
    }

    fn holds(&self, origin: &HeaderValue) -> bool {
        let Some(origin) = origin.to_str().ok().and_then(Origin::parse) else { return false };
        self.list.iter().any(|allowed| allowed.covers(&origin))
    }
}

impl Origin {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let below = rest.starts_with("*.");
        let authority = rest.strip_prefix("*.").unwrap_or(rest).to_ascii_lowercase();
        let uri: Uri = format!("{scheme}://{authority}").parse().ok()?;
        let parsed = uri.authority()?;
        // Neither a path nor a user.
        if parsed.as_str() != authority || authority.contains('@') || parsed.host().contains('*') {
            return None;
        }
        let own_port = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            // An origin of a browser extension or a desktop program.
            _ => 0,
        };
        let port = parsed.port_u16().unwrap_or(own_port);
        Some(Self { scheme, host: parsed.host().to_owned(), below, port })
    }

    fn covers(&self, origin: &Self) -> bool {
        let host = if self.below {
            origin.host.strip_suffix(&self.host).is_some_and(|sub| sub.len() > 1 && sub.ends_with('.'))
        } else {
            origin.host == self.host
        };
        host && !origin.below && self.scheme == origin.scheme && self.port == origin.port
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(list: &[&str], origin: &str) -> bool {
        let list: Vec<String> = list.iter().map(|&text| text.to_owned()).collect();
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, HeaderValue::from_str(origin).expect("a value"));
        Origins::parse(&list).expect("valid").admit(&headers)
    }

    #[test]
    fn only_what_is_listed_comes_in() {
        let list = ["https://chat.example.org", "https://*.example.net", "http://localhost:8080", "tauri://localhost"];
        for good in [
            "https://chat.example.org",
            "https://Chat.Example.org:443",
            "https://a.example.net",
            "https://a.b.example.net",
            "http://localhost:8080",
            "tauri://localhost",
        ] {
            assert!(admits(&list, good), "{good}");
        }
        for bad in [
            "http://chat.example.org",
            "https://chat.example.org:8443",
            "https://chat.example.org.evil.example",
            "https://chat.example.org@evil.example",
            "https://example.net",
            "https://.example.net",
            "https://evilexample.net",
            "https://*.example.net",
            "http://localhost",
            "null",
            "",
        ] {
            assert!(!admits(&list, bad), "{bad}");
        }
        assert!(admits(&[], "https://anybody.example"));
    }

    #[test]
    fn what_is_no_origin_is_refused_with_an_example() {
        for bad in ["*", "chat.example.org", "https://chat.example.org/", "https://a.*.org", "https://"] {
            let error = Origins::parse(&[bad.to_owned()]).expect_err(bad);
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
    }
}
