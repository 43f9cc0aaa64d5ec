//! The address of a gateway's listener, as a URL.

use std::{fmt, str::FromStr};

/// `tcp://host:7410`, `tls://host`, `ws://host:7411/ws`, `wss://host/ws`, `grpc://host:7412`, `grpcs://host`. With
/// `?format=json` a WebSocket carries JSON.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    pub transport: Transport,
    pub tls: bool,
    /// A name or an IP address; an IPv6 address has no brackets here.
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Transport {
    Tcp,
    WebSocket { path: String, format: Format },
    Grpc,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    Proto,
    Json,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "address {given:?} {wrong}; expected for example tcp://host:7410, tls://host:7410, ws://host:7411/ws, wss://host/ws, grpc://host:7412"
)]
pub struct InvalidAddress {
    given: String,
    wrong: &'static str,
}

impl Address {
    /// `host:port`, with brackets around an IPv6 address.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(given: &str) -> Result<Self, InvalidAddress> {
        parse(given).map_err(|wrong| InvalidAddress { given: given.to_owned(), wrong })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, path, format) = match &self.transport {
            Transport::Tcp => (if self.tls { "tls" } else { "tcp" }, "", Format::Proto),
            Transport::WebSocket { path, format } => (if self.tls { "wss" } else { "ws" }, path.as_str(), *format),
            Transport::Grpc => (if self.tls { "grpcs" } else { "grpc" }, "", Format::Proto),
        };
        let query = if format == Format::Json { "?format=json" } else { "" };
        write!(f, "{scheme}://{}{path}{query}", self.authority())
    }
}

fn parse(given: &str) -> Result<Address, &'static str> {
    let (scheme, rest) = given.split_once("://").ok_or("has no scheme")?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let format = match query {
        "" | "format=proto" => Format::Proto,
        "format=json" => Format::Json,
        _ => return Err("has a query other than format=json or format=proto"),
    };
    let (kind, tls, default_port) = match scheme {
        "tcp" => (Kind::Tcp, false, 7410),
        "tls" => (Kind::Tcp, true, 7410),
        "ws" => (Kind::WebSocket, false, 7411),
        "wss" => (Kind::WebSocket, true, 443),
        "grpc" => (Kind::Grpc, false, 7412),
        "grpcs" => (Kind::Grpc, true, 443),
        _ => return Err("has an unknown scheme"),
    };
    let transport = match kind {
        Kind::WebSocket => {
            let path = if path.is_empty() { "/ws" } else { path };
            Transport::WebSocket { path: path.to_owned(), format }
        }
        _ if format == Format::Json => return Err("asks for JSON, which only a WebSocket carries"),
        _ if !matches!(path, "" | "/") => return Err("has a path, which only a WebSocket has"),
        Kind::Tcp => Transport::Tcp,
        Kind::Grpc => Transport::Grpc,
    };
    let (host, port) = split_port(authority)?;
    let port = match port {
        None => default_port,
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or("has a port that is not 1 to 65535")?,
    };
    Ok(Address { transport, tls, host: host.to_owned(), port })
}

enum Kind {
    Tcp,
    WebSocket,
    Grpc,
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), &'static str> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("has a [ without ]")?;
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return Err("has something between ] and the port"),
        }
    } else {
        match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err("has an IPv6 address without brackets"),
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    if host.is_empty() || host.contains(['@', ' ']) { Err("has no valid host") } else { Ok((host, port)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for url in [
            "tcp://127.0.0.1:7410",
            "tls://chat.example:9000",
            "ws://[::1]:7411/ws",
            "wss://chat.example:443/chat/ws?format=json",
            "grpc://localhost:7412",
            "grpcs://chat.example:443",
        ] {
            assert_eq!(url.parse::<Address>().expect("valid").to_string(), url);
        }
    }

    #[test]
    fn ports_and_paths_have_defaults() {
        for (url, full) in [
            ("tcp://a", "tcp://a:7410"),
            ("ws://a?format=json", "ws://a:7411/ws?format=json"),
            ("wss://a/x", "wss://a:443/x"),
            ("grpc://[::1]", "grpc://[::1]:7412"),
        ] {
            assert_eq!(url.parse::<Address>().expect("valid").to_string(), full);
        }
    }

    #[test]
    fn what_is_not_an_address_is_refused_with_the_reason() {
        for (url, why) in [
            ("localhost:7410", "no scheme"),
            ("http://a", "unknown scheme"),
            ("tcp://a:0", "1 to 65535"),
            ("tcp://a:x", "1 to 65535"),
            ("tcp://::1:5", "without brackets"),
            ("tcp://:5", "no valid host"),
            ("tcp://a?format=json", "only a WebSocket"),
            ("tcp://a/ws", "only a WebSocket"),
            ("ws://a?x=1", "query"),
        ] {
            let error = url.parse::<Address>().expect_err(url).to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
