//! The payload of each test message: run, sender, recipient, counter, intended time, and a checksum over them and the
//! filling.

use std::{fmt::Write as _, hash::Hasher as _, sync::LazyLock};

use carillon_proto::pb::client::{Content, Text, content::Body};
use siphasher::sip::SipHasher13;

/// One test message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload<'a> {
    pub run: &'a str,
    pub sender: &'a str,
    pub recipient: &'a str,
    /// Counts from 1 for each pair of sender and recipient, in the order of sending.
    pub counter: u64,
    /// The intended time of the send, in microseconds after the beginning of the run.
    pub intended_us: u64,
}

/// The message is not one of this program, or is not as it was sent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("payload is corrupt: {0}")]
pub struct Corrupt(pub &'static str);

/// Text that does not repeat within a message of the usual size.
static FILLING: LazyLock<String> = LazyLock::new(|| {
    let letter = |number: u64| char::from(b'a' + (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59) as u8 % 26);
    (1..8192).map(letter).collect()
});

const CHECKSUM_CHARS: usize = 16;

/// Text that brings a message to its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Filling {
    /// The same text in all messages, cheap for the sender.
    #[default]
    Repeated,
    /// Letters by chance, other ones in each message: a store can't make them much smaller.
    Noise,
}

impl Filling {
    fn fill(self, body: &mut String, until: usize, payload: &Payload<'_>) {
        match self {
            Self::Repeated => {
                let mut from = payload.counter as usize % 4096;
                while body.len() < until {
                    let to = FILLING.len().min(from + until - body.len());
                    body.push_str(&FILLING[from..to]);
                    from = 0;
                }
            }
            Self::Noise => {
                // A linear congruential generator, whose upper bits are good enough for this.
                let mut state = checksum(body);
                while body.len() < until {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let letters =
                        (0..5).map(|at| char::from(LETTERS[(state >> (34 + 6 * at)) as usize % LETTERS.len()]));
                    body.extend(letters.take(until - body.len()));
                }
            }
        }
    }
}

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl<'a> Payload<'a> {
    /// Text content of at least `bytes` bytes.
    pub fn to_content(&self, bytes: usize, filling: Filling) -> Content {
        let Self { run, sender, recipient, counter, intended_us } = self;
        let mut body = String::with_capacity(bytes.max(128));
        let _ = write!(body, "{run} {sender} {recipient} {counter} {intended_us} ");
        filling.fill(&mut body, bytes.saturating_sub(1 + CHECKSUM_CHARS), self);
        let digest = checksum(&body);
        let _ = write!(body, " {digest:016x}");
        Content { body: Some(Body::Text(Text { body })), ..Default::default() }
    }

    pub fn from_content(content: &'a Content) -> Result<Self, Corrupt> {
        let Some(Body::Text(Text { body })) = &content.body else { return Err(Corrupt("it is not a text")) };
        let (hashed, digest) = body.rsplit_once(' ').ok_or(Corrupt("it has no checksum"))?;
        if digest.len() != CHECKSUM_CHARS || u64::from_str_radix(digest, 16) != Ok(checksum(hashed)) {
            return Err(Corrupt("its checksum is wrong"));
        }
        let mut fields = hashed.split(' ');
        let mut next = || fields.next().ok_or(Corrupt("a field is missing"));
        let (run, sender, recipient, counter, intended_us) = (next()?, next()?, next()?, next()?, next()?);
        let counter = counter.parse().map_err(|_| Corrupt("its counter is not a number"))?;
        let intended_us = intended_us.parse().map_err(|_| Corrupt("its time is not a number"))?;
        Ok(Self { run, sender, recipient, counter, intended_us })
    }
}

/// SipHash 1-3 with a fixed key: it detects faults, not forgeries.
fn checksum(text: &str) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0x6361_7269_6c6c_6f6e, 0x6c6f_6164_7465_7374);
    hasher.write(text.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYLOAD: Payload<'_> =
        Payload { run: "r1", sender: "alice", recipient: "bob", counter: 7, intended_us: 1_234_567 };

    #[test]
    fn what_was_sent_is_read_back() {
        for bytes in [0, 64, 256, 5000, 20_000] {
            for filling in [Filling::Repeated, Filling::Noise] {
                let content = PAYLOAD.to_content(bytes, filling);
                assert_eq!(Payload::from_content(&content), Ok(PAYLOAD));
                let Some(Body::Text(Text { body })) = &content.body else { panic!("text") };
                assert!(body.len() == bytes || bytes < 64, "{} bytes instead of {bytes}", body.len());
            }
        }
    }

    #[test]
    fn noise_does_not_repeat() {
        let words = |counter| {
            let content = Payload { counter, ..PAYLOAD }.to_content(4096, Filling::Noise);
            let Some(Body::Text(Text { body })) = content.body else { panic!("text") };
            let words: Vec<_> = body.as_bytes()[32..4000].windows(6).map(<[u8]>::to_vec).collect();
            words
        };
        let (one, other) = (words(1), words(2));
        let all: std::collections::BTreeSet<_> = one.iter().chain(&other).collect();
        assert!(all.len() + 20 > one.len() + other.len(), "{} of {}", all.len(), one.len() + other.len());
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let Some(Body::Text(Text { body })) = PAYLOAD.to_content(256, Filling::Noise).body else { panic!("text") };
        for at in 0..body.len() {
            let mut bytes = body.clone().into_bytes();
            bytes[at] ^= 1;
            let body = String::from_utf8(bytes).expect("still ASCII");
            assert!(
                Payload::from_content(&Content { body: Some(Body::Text(Text { body })), ..Default::default() })
                    .is_err()
            );
        }
    }
}
