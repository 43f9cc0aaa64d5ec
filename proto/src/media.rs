//! Names of files that the service keeps. See docs/adr/0030-media.md.
//!
//! | name | bytes | where it stands |
//! | --- | --- | --- |
//! | [`MediaReference`] | shard u16, 22 random ones | in messages, and nowhere else |
//! | [`MediaId`] | shard u16, 14 of SHA-256 over the reference's random bytes | in the store, in URLs, in the names of objects, in logs |
//!
//! The one can't be found from the other, so an URL or a log tells nobody the reference by which one asks for a file.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::{
    ShardId, ShardKind, ShardMap,
    pb::client::{Content, content::Body},
};

const SECRET_BYTES: usize = 22;
const TAIL_BYTES: usize = 14;

/// The name of a file in messages. Whoever knows it could have read the file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MediaReference {
    shard: u16,
    secret: [u8; SECRET_BYTES],
}

/// The name of a file in the store. Stored on disk, so the definition never changes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MediaId([u8; 16]);

/// What a name of a file is made of before its shard is known.
#[derive(Clone, Copy)]
pub struct MediaSecret([u8; SECRET_BYTES]);

impl MediaSecret {
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The file's id without its shard.
    pub fn tail(&self) -> [u8; TAIL_BYTES] {
        let mut tail = [0; TAIL_BYTES];
        tail.copy_from_slice(&Sha256::digest(self.0)[..TAIL_BYTES]);
        tail
    }

    pub fn in_shard(self, shard: u16) -> MediaReference {
        MediaReference { shard, secret: self.0 }
    }
}

/// Shows nothing: it is a secret.
impl fmt::Debug for MediaSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MediaSecret")
    }
}

impl MediaReference {
    pub const BYTES: usize = 2 + SECRET_BYTES;

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (shard, secret) = bytes.split_first_chunk()?;
        Some(Self { shard: u16::from_be_bytes(*shard), secret: secret.try_into().ok()? })
    }

    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..2].copy_from_slice(&self.shard.to_be_bytes());
        bytes[2..].copy_from_slice(&self.secret);
        bytes
    }

    /// The file to which the body refers, or that of the edit in it: with the message, its reader can get the file.
    pub fn of_content(content: &Content) -> Option<Self> {
        match content.body.as_ref()? {
            Body::Image(media) | Body::Audio(media) | Body::Video(media) | Body::File(media) => {
                Self::from_bytes(&media.id)
            }
            Body::Edit(edit) => Self::of_content(edit.content.as_ref()?),
            _ => None,
        }
    }

    pub fn id(self) -> MediaId {
        MediaId::new(self.shard, MediaSecret(self.secret).tail())
    }
}

/// Shows the id, which tells nobody the reference.
impl fmt::Debug for MediaReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MediaReference of {}", self.id())
    }
}

impl MediaId {
    pub fn new(shard: u16, tail: [u8; TAIL_BYTES]) -> Self {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&shard.to_be_bytes());
        bytes[2..].copy_from_slice(&tail);
        Self(bytes)
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The timeline shard with the file's row; `None` if there is no such shard.
    pub fn shard(&self, map: ShardMap) -> Option<ShardId> {
        let shard = ShardId { kind: ShardKind::Timeline, index: u16::from_be_bytes([self.0[0], self.0[1]]) };
        map.has(shard).then_some(shard)
    }
}

/// In hexadecimal digits.
impl fmt::Display for MediaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for MediaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_never_change() {
        let reference = MediaSecret([7; SECRET_BYTES]).in_shard(258);
        assert_eq!(reference.id().to_string(), "01028925c25250266425c07c5fa4c3ac");
        assert_eq!(MediaReference::from_bytes(&reference.to_bytes()), Some(reference));
        assert_eq!(MediaId::from_bytes(reference.id().as_bytes()), Some(reference.id()));
    }

    #[test]
    fn other_lengths_are_no_names() {
        for length in [0, 1, 23, 25, 100] {
            assert_eq!(MediaReference::from_bytes(&vec![1; length]), None, "{length}");
        }
        assert_eq!(MediaId::from_bytes(&[1; 15]), None);
    }

    #[test]
    fn a_file_is_in_a_shard_that_there_is() {
        let map = ShardMap { directory: 1, timeline: 3 };
        assert_eq!(MediaId::new(2, [0; 14]).shard(map), Some(ShardId { kind: ShardKind::Timeline, index: 2 }));
        assert_eq!(MediaId::new(3, [0; 14]).shard(map), None);
    }

    #[test]
    fn neither_a_secret_nor_a_reference_is_shown() {
        let secret = MediaSecret([0xab; SECRET_BYTES]);
        let shown = format!("{secret:?} {:?}", secret.in_shard(1));
        assert!(!shown.contains("abab"), "{shown}");
    }
}
