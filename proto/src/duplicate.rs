//! The key by which a repeated send is recognised.

use sha2::{Digest as _, Sha256};

use crate::{ClientId, DeviceId, UserId};

/// SHA-256 over sender, device and client id, each preceded by its length in bytes as one byte, cut to 16 bytes; if the
/// sender's account has an incarnation, SHA-256 over that and the incarnation as u64, cut likewise. On disk for ever. A cryptographic hash, because whoever could choose a colliding id could keep another's message out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DuplicateKey(pub [u8; 16]);

impl DuplicateKey {
    pub fn new(sender: &UserId, device: &DeviceId, client_id: &ClientId) -> Self {
        let mut hash = Sha256::new();
        for part in [sender.as_str(), device.as_str(), client_id.as_str()] {
            // All ids are at most 128 bytes.
            hash.update([part.len() as u8]);
            hash.update(part.as_bytes());
        }
        Self::cut(hash)
    }

    /// The key of a message to this recipient whose client has called another message by the same id: SHA-256 over this
    /// key and the recipient, cut to 16 bytes.
    pub fn to(self, recipient: &UserId) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(recipient.as_str().as_bytes());
        Self::cut(hash)
    }

    /// The key of the same ids for the sender with this incarnation of its account: what the name's owner before has sent
    /// is not repeated by the next one. 0: the first one, of old.
    #[must_use]
    pub fn of_incarnation(self, incarnation: u64) -> Self {
        if incarnation == 0 {
            return self;
        }
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(incarnation.to_be_bytes());
        Self::cut(hash)
    }

    fn cut(hash: Sha256) -> Self {
        let digest: [u8; 32] = hash.finalize().into();
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        Self(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_never_change() {
        let id = |id: &str| (UserId::new(id).expect("valid"), DeviceId::new(id).expect("valid"));
        let ((alice, phone), (bob, _)) = (id("alice"), id("bob"));
        let key = DuplicateKey::new(&alice, &phone, &ClientId::new("1").expect("valid"));
        // By sha256sum, of `\x05alice\x05alice\x011` and of the first 16 bytes of that with `bob` behind them.
        assert_eq!(hex(key), KEY);
        assert_eq!(hex(key.to(&bob)), KEY_TO_BOB);
        assert_ne!(key.to(&bob), key.to(&alice));
    }

    const KEY: &str = "57bc915300902eb4eed5eacc6b7459e2";
    const KEY_TO_BOB: &str = "0be645a46d0240dfaa1aaa34066d1c43";

    fn hex(key: DuplicateKey) -> String {
        key.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
