//! The key by which a repeated send is recognised.

use sha2::{Digest as _, Sha256};

use crate::{ClientId, DeviceId, UserId};

/// SHA-256 over sender, device and client id, each preceded by its length in bytes as one byte, cut to 16 bytes. On
/// disk for ever. A cryptographic hash, because whoever could choose a colliding id could keep another's message out.
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
        let digest: [u8; 32] = hash.finalize().into();
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        Self(key)
    }
}
