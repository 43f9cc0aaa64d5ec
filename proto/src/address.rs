//! Addresses by which nodes reach each other.

use std::net::IpAddr;

/// Why an address is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("has \"{0}\", but must be host:port")]
    Form(String),
    #[error("has \"{0}\", but must name the host: that is an address to listen on, which leads each caller to itself")]
    Wildcard(String),
    #[error("has \"{0}\", but must name the port: 0 is any free one")]
    AnyPort(String),
}

/// Checks that other nodes can reach a node by this address.
pub fn check_reachable(address: &str) -> Result<(), AddressError> {
    let form = || AddressError::Form(address.to_owned());
    let (host, port) = address.rsplit_once(':').ok_or_else(form)?;
    let port: u16 = port.parse().map_err(|_| form())?;
    let bare = host.trim_matches(['[', ']']);
    if bare.is_empty() || bare.contains(char::is_whitespace) {
        return Err(form());
    }
    if bare == "*" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_unspecified()) {
        return Err(AddressError::Wildcard(address.to_owned()));
    }
    if port == 0 { Err(AddressError::AnyPort(address.to_owned())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_leads_to_one_place_is_reachable() {
        for right in ["10.0.0.1:7401", "node-1.carillon:7401", "[fd00::1]:7401", "localhost:1"] {
            check_reachable(right).expect(right);
        }
        for wildcard in ["0.0.0.0:7401", "[::]:7401", ":::7401", "[::ffff:0.0.0.0]:7401", "*:7401"] {
            assert_eq!(check_reachable(wildcard), Err(AddressError::Wildcard(wildcard.to_owned())), "{wildcard}");
        }
        for wrong in ["", "host", ":7401", "host:", "host:70000", "a b:1"] {
            assert_eq!(check_reachable(wrong), Err(AddressError::Form(wrong.to_owned())), "{wrong}");
        }
        assert_eq!(check_reachable("host:0"), Err(AddressError::AnyPort("host:0".to_owned())));
    }
}
