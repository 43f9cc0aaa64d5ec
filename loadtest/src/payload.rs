//! What each test message carries: run, sender, counter, and a checksum over them and the filling.

use std::fmt::Write as _;

use carillon_proto::pb::client::{Content, Text, content::Body};
use sha2::{Digest as _, Sha256};

/// One test message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    pub run: String,
    pub sender: String,
    pub recipient: String,
    /// From 1 for each pair of sender and recipient, in the order of sending.
    pub counter: u64,
}

/// Not one of our messages, or not as it was sent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("payload is corrupt: {0}")]
pub struct Corrupt(pub &'static str);

impl Payload {
    /// Text content of at least `bytes` bytes.
    pub fn to_content(&self, bytes: usize) -> Content {
        let mut body = format!("{} {} {} {} ", self.run, self.sender, self.recipient, self.counter);
        while body.len() + 17 < bytes {
            let _ = write!(body, "{:x}", self.counter.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ body.len() as u64);
        }
        let digest = checksum(&body);
        let _ = write!(body, " {digest}");
        Content { body: Some(Body::Text(Text { body })) }
    }

    pub fn from_content(content: &Content) -> Result<Self, Corrupt> {
        let Some(Body::Text(Text { body })) = &content.body else { return Err(Corrupt("it is not a text")) };
        let (hashed, digest) = body.rsplit_once(' ').ok_or(Corrupt("it has no checksum"))?;
        if checksum(hashed) != digest {
            return Err(Corrupt("its checksum is wrong"));
        }
        let mut fields = hashed.split(' ').map(str::to_owned);
        let mut next = || fields.next().ok_or(Corrupt("a field is missing"));
        let (run, sender, recipient, counter) = (next()?, next()?, next()?, next()?);
        let counter = counter.parse().map_err(|_| Corrupt("its counter is not a number"))?;
        Ok(Self { run, sender, recipient, counter })
    }
}

fn checksum(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).fold(String::with_capacity(16), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload() -> Payload {
        Payload { run: "r1".into(), sender: "alice".into(), recipient: "bob".into(), counter: 7 }
    }

    #[test]
    fn what_was_sent_is_read_back() {
        for bytes in [0, 64, 256, 5000] {
            let content = payload().to_content(bytes);
            assert_eq!(Payload::from_content(&content), Ok(payload()));
        }
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let Some(Body::Text(Text { body })) = payload().to_content(256).body else { panic!("text") };
        for at in [0, 20, 100, body.len() - 1] {
            let mut bytes = body.clone().into_bytes();
            bytes[at] ^= 1;
            let body = String::from_utf8(bytes).expect("still ASCII");
            assert!(Payload::from_content(&Content { body: Some(Body::Text(Text { body })) }).is_err());
        }
    }
}
