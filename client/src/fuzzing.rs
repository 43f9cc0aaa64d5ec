//! Entry points of the fuzz targets: parsers of bytes from a gateway, and of addresses.

use crate::{Address, Scram, connection};

/// A byte stream of a gateway.
pub fn frames(bytes: &[u8]) {
    connection::take_frames(bytes);
}

/// The gateway's messages of a password sign-in, separated by a line feed.
pub fn scram(bytes: &[u8]) {
    let at = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (first, _) = bytes.split_at(at);
    let scram = Scram::with_nonce("alice", "abc".to_owned());
    if let Ok(challenged) = scram.challenged(first) {
        assert!((4096..=1_000_000).contains(&challenged.salt.iterations));
    }
}

pub fn address(text: &str) {
    let Ok(address) = text.parse::<Address>() else { return };
    let shown = address.to_string();
    assert_eq!(shown.parse::<Address>().as_ref(), Ok(&address), "{shown}");
}
