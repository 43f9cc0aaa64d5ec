//! Proxies that may say whose connection they forward.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use tonic::codegen::http::{HeaderMap, header};

/// An address prefix, `10.0.0.0/8` or `2001:db8::/32`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cidr {
    network: IpAddr,
    bits: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address or a network such as 10.0.0.0/8")]
pub(crate) struct InvalidCidr(String);

/// The HTTP header that names the client. Only one is trusted: a proxy that sets one forwards the other as the client
/// wrote it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    #[default]
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

/// The proxies in front of the listeners.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proxies {
    pub(crate) trusted: Vec<Cidr>,
    pub(crate) header: ForwardedHeader,
}

/// Most consecutive proxies that are looked through; a longer chain was made up by a client.
const MAX_HOPS: usize = 32;

impl Proxies {
    pub(crate) fn trust(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|cidr| cidr.contains(address))
    }

    /// The client of a request: reading from the last proxy backwards, the first address that is none of our proxies.
    /// Everything before that was written by the client.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.trust(peer) {
            return peer;
        }
        let name = match self.header {
            ForwardedHeader::XForwardedFor => "x-forwarded-for",
            ForwardedHeader::Forwarded => header::FORWARDED.as_str(),
        };
        let values: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
        let mut client = peer;
        for hop in values.iter().rev().flat_map(|value| value.rsplit(',')).take(MAX_HOPS) {
            let named = match self.header {
                ForwardedHeader::XForwardedFor => address(hop.trim()),
                ForwardedHeader::Forwarded => forwarded_for(hop),
            };
            // A proxy that does not name its source: nothing before it can be trusted.
            let Some(named) = named else { break };
            client = named;
            if !self.trust(named) {
                break;
            }
        }
        client
    }
}

/// The `for` parameter of one Forwarded element (RFC 7239 section 4).
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let node = element.split(';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then_some(value)
    })?;
    address(node.trim_matches('"'))
}

/// With or without a port; an IPv6 address with a port stands in brackets.
fn address(text: &str) -> Option<IpAddr> {
    if let Some(rest) = text.strip_prefix('[') {
        let (inner, port) = rest.split_once(']')?;
        let port_is_good = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return inner.parse::<Ipv6Addr>().ok().filter(|_| port_is_good).map(|v6| IpAddr::V6(v6).to_canonical());
    }
    let without_port = match text.split_once(':') {
        Some((host, port)) if is_port(port) => host,
        _ => text,
    };
    without_port.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

fn is_port(text: &str) -> bool {
    // RFC 7239 section 6 allows ports that hide what they are.
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

impl Cidr {
    fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                self.bits == 0 || (network.to_bits() ^ address.to_bits()) >> (32 - self.bits) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                self.bits == 0 || (network.to_bits() ^ address.to_bits()) >> (128 - self.bits) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let invalid = || InvalidCidr(text.to_owned());
        let (network, bits) = match text.split_once('/') {
            Some((network, bits)) => (network, Some(bits.parse::<u8>().map_err(|_| invalid())?)),
            None => (text, None),
        };
        let network = network.parse::<IpAddr>().map_err(|_| invalid())?;
        let most = if network.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        if bits > most {
            return Err(invalid());
        }
        Ok(Self { network, bits })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("valid")
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn proxies(header: ForwardedHeader) -> Proxies {
        Proxies { trusted: vec![cidr("10.0.0.0/8"), cidr("2001:db8::/32")], header }
    }

    fn client(header: ForwardedHeader, peer: &str, lines: &[(&'static str, &str)]) -> IpAddr {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().expect("a value"));
        }
        proxies(header).client(ip(peer), &headers)
    }

    #[test]
    fn networks_contain_what_begins_like_them() {
        assert!(cidr("10.0.0.0/8").contains(ip("10.255.0.1")) && !cidr("10.0.0.0/8").contains(ip("11.0.0.1")));
        assert!(cidr("192.0.2.1").contains(ip("192.0.2.1")) && !cidr("192.0.2.1").contains(ip("192.0.2.2")));
        assert!(cidr("192.0.2.1").contains(ip("::ffff:192.0.2.1")), "as a socket for both families has it");
        assert!(cidr("2001:db8::/33").contains(ip("2001:db8:7fff::1")));
        assert!(!cidr("2001:db8::/33").contains(ip("2001:db8:8000::1")));
        assert!(cidr("0.0.0.0/0").contains(ip("1.2.3.4")) && !cidr("0.0.0.0/0").contains(ip("::1")));
        for bad in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "host", "10.0.0.0/-1"] {
            bad.parse::<Cidr>().expect_err(bad);
        }
    }

    #[test]
    fn the_client_is_the_last_that_no_proxy_of_ours_is() {
        let x = |peer: &str, value: &str| client(ForwardedHeader::XForwardedFor, peer, &[("x-forwarded-for", value)]);
        assert_eq!(x("192.0.2.9", "203.0.113.1"), ip("192.0.2.9"), "a stranger is not believed");
        assert_eq!(x("10.0.0.1", "203.0.113.1"), ip("203.0.113.1"));
        assert_eq!(x("10.0.0.1", "198.51.100.7, 203.0.113.1"), ip("203.0.113.1"), "the client wrote the first one");
        assert_eq!(x("10.0.0.1", "203.0.113.1, 10.2.3.4"), ip("203.0.113.1"), "two proxies in a row");
        assert_eq!(x("10.0.0.1", "10.0.0.7,10.2.3.4"), ip("10.0.0.7"), "somebody within");
        assert_eq!(x("10.0.0.1", "203.0.113.1, nonsense"), ip("10.0.0.1"));
        assert_eq!(x("10.0.0.1", "203.0.113.1:4711"), ip("203.0.113.1"));
        assert_eq!(x("10.0.0.1", "[2001:db9::7]:4711"), ip("2001:db9::7"));
        assert_eq!(x("2001:db8::1", "2001:db9::7"), ip("2001:db9::7"));
        assert_eq!(x("10.0.0.1", ""), ip("10.0.0.1"));
        let lines = [("x-forwarded-for", "198.51.100.7"), ("x-forwarded-for", "203.0.113.1")];
        assert_eq!(client(ForwardedHeader::XForwardedFor, "10.0.0.1", &lines), ip("203.0.113.1"), "two lines are one");
    }

    #[test]
    fn forwarded_is_understood_and_only_the_header_that_was_set_is_believed() {
        let f = |value: &str| client(ForwardedHeader::Forwarded, "10.0.0.1", &[("forwarded", value)]);
        assert_eq!(f("for=203.0.113.1;proto=https;by=10.0.0.1"), ip("203.0.113.1"));
        assert_eq!(f("proto=https; For=\"[2001:db9::7]:4711\""), ip("2001:db9::7"));
        assert_eq!(f("for=198.51.100.7, for=203.0.113.1, for=10.0.0.9"), ip("203.0.113.1"));
        assert_eq!(f("for=203.0.113.1, for=unknown"), ip("10.0.0.1"));
        assert_eq!(f("for=_hidden"), ip("10.0.0.1"));
        let both = [("forwarded", "for=198.51.100.7"), ("x-forwarded-for", "203.0.113.1")];
        assert_eq!(client(ForwardedHeader::XForwardedFor, "10.0.0.1", &both), ip("203.0.113.1"));
        assert_eq!(client(ForwardedHeader::Forwarded, "10.0.0.1", &both), ip("198.51.100.7"));
    }

    proptest! {
        #[test]
        fn a_client_cannot_choose_its_address(wrote in "[ -~]{0,60}", real in any::<u32>()) {
            // Outside of the trusted networks.
            let real = IpAddr::V4((real | 0x8000_0000).into());
            let value = format!("{wrote}, {real}");
            let seen = client(ForwardedHeader::XForwardedFor, "10.0.0.1", &[("x-forwarded-for", &value)]);
            prop_assert_eq!(seen, real);
        }
    }
}
