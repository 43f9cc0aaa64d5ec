//! The key by which a repeated send is recognised.

use sha2::{Digest as _, Sha256};

use crate::{ClientId, DeviceId, GroupId, UserId};

/// SHA-256 over sender, device and client id, each preceded by its length in bytes as one byte, truncated to 16 bytes.
/// If the sender's account has an incarnation: SHA-256 over that key and the incarnation as u64, truncated likewise.
/// Stored on disk, so the definition never changes. The hash is cryptographic, because whoever could construct a
/// collision could suppress another user's message.
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

    /// The key for a message to this recipient when the client has already used the same id for another message:
    /// SHA-256 over this key and the recipient, truncated to 16 bytes.
    pub fn to(self, recipient: &UserId) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(recipient.as_str().as_bytes());
        Self::cut(hash)
    }

    /// The same for a message to a group. A user of the same name has another key.
    pub fn to_group(self, group: &GroupId) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update([0]);
        hash.update(group.as_str().as_bytes());
        Self::cut(hash)
    }

    /// The key in an inbox for the envelope at this position of a group's timeline: SHA-256 over 0x00, which begins no other key, the group's
    /// incarnation and the position as u64, and the group's id, truncated to 16 bytes.
    pub fn of_membership(group: &GroupId, incarnation: u64, seq: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update([0]);
        hash.update(incarnation.to_be_bytes());
        hash.update(seq.to_be_bytes());
        hash.update(group.as_str().as_bytes());
        Self::cut(hash)
    }

    /// The key in a group's timeline for the envelope that says that a user whose account has ended is no longer a member: SHA-256 over
    /// 0xff, which begins no key of a message, the account's incarnation and the position of the change that had made the user a member
    /// (0: not known) as u64, the length of the user's id in one byte, that id, and the group's, truncated to 16 bytes.
    pub fn of_leaving(group: &GroupId, user: &UserId, incarnation: u64, after: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update([0xff]);
        hash.update(incarnation.to_be_bytes());
        hash.update(after.to_be_bytes());
        hash.update([user.as_str().len() as u8]);
        hash.update(user.as_str().as_bytes());
        hash.update(group.as_str().as_bytes());
        Self::cut(hash)
    }

    /// The key in a group's timeline for the envelope that makes another member the owner, as the change with this key took the last one:
    /// SHA-256 over 0xfe, which begins no key of a message, and this key, truncated to 16 bytes.
    #[must_use]
    pub fn of_heir(self) -> Self {
        let mut hash = Sha256::new();
        hash.update([0xfe]);
        hash.update(self.0);
        Self::cut(hash)
    }

    /// The key in a group's timeline for a change by the operator, who names it by these bytes: SHA-256 over 0xfd, which begins no key of a
    /// message, these bytes and the group's id, truncated to 16 bytes.
    pub fn of_operator(group: &GroupId, named: [u8; 16]) -> Self {
        let mut hash = Sha256::new();
        hash.update([0xfd]);
        hash.update(named);
        hash.update(group.as_str().as_bytes());
        Self::cut(hash)
    }

    /// The key of the same ids for a sender account of this incarnation, so that a message of the name's previous owner
    /// is not taken for a repeat of the next owner's. 0 stands for the first incarnation and leaves the key unchanged.
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
        let group = GroupId::new("bob").expect("valid");
        // The same, of the key with `\x00bob` behind it, and of `\x00`, 7 and 3 as u64, and `bob`.
        assert_eq!(hex(key.to_group(&group)), KEY_TO_GROUP);
        assert_eq!(hex(DuplicateKey::of_membership(&group, 7, 3)), KEY_OF_MEMBERSHIP);
        // Of `\xff`, 7 and 3 as u64, `\x03bob` and `bob`.
        let leaving = DuplicateKey::of_leaving(&group, &bob, 7, 3);
        assert_eq!(hex(leaving), KEY_OF_LEAVING);
        // Of `\xfe` and that key.
        assert_eq!(hex(leaving.of_heir()), KEY_OF_HEIR);
        // Of `\xfd`, sixteen bytes 7 and `bob`.
        assert_eq!(hex(DuplicateKey::of_operator(&group, [7; 16])), KEY_OF_OPERATOR);
    }

    const KEY: &str = "57bc915300902eb4eed5eacc6b7459e2";
    const KEY_TO_BOB: &str = "0be645a46d0240dfaa1aaa34066d1c43";

    const KEY_TO_GROUP: &str = "20193008a82fb0d6f5d25254e5d6586f";
    const KEY_OF_LEAVING: &str = "ab6f1a20559acf36ee488c897953728c";
    const KEY_OF_OPERATOR: &str = "a0ac6b4b97bf15ef2cda410bb712ce23";
    const KEY_OF_HEIR: &str = "9bbdd66353313124d194307fccc769f5";
    const KEY_OF_MEMBERSHIP: &str = "ba06126854227c66f3f0a2fddc77ae5a";

    fn hex(key: DuplicateKey) -> String {
        key.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
