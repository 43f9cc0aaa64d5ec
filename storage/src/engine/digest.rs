//! A running digest of all records of a directory shard. sled finds a page that was changed on disk, but it takes a lost
//! or an outdated one for the state in which the last crash left the file: the digest tells the difference.

use std::{fmt, hash::Hasher as _};

use siphasher::sip::SipHasher13;

/// The sum of the hashes of all records, and their number. Independent of the order in which they were written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Digest {
    sum: u64,
    count: u64,
}

/// Stands behind the value of `APPLIED`, with sum, count and a CRC-32 of everything before it. In a protobuf message, which
/// the value is, these three bytes begin a field of 20 bytes with the number 2047, which no message has: a program that
/// does not know of digests leaves them out.
const TAG: [u8; 3] = [0xfa, 0x7f, 20];
const BYTES: usize = TAG.len() + 20;

/// The value of `APPLIED`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sealed<'a> {
    /// Written by a program that does not know of digests.
    Without(&'a [u8]),
    With(&'a [u8], Digest),
    Broken,
}

impl Digest {
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.sum = self.sum.wrapping_add(hash(key, value));
        self.count = self.count.wrapping_add(1);
    }

    pub(super) fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.sum = self.sum.wrapping_sub(hash(key, value));
        self.count = self.count.wrapping_sub(1);
    }

    /// The value of `APPLIED`.
    pub(super) fn seal(&self, applied: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(applied.len() + BYTES);
        sealed.extend_from_slice(applied);
        sealed.extend_from_slice(&TAG);
        sealed.extend_from_slice(&self.sum.to_be_bytes());
        sealed.extend_from_slice(&self.count.to_be_bytes());
        sealed.extend_from_slice(&crc32fast::hash(&sealed).to_be_bytes());
        sealed
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records with sum {:x}", self.count, self.sum)
    }
}

impl<'a> Sealed<'a> {
    pub(super) fn read(value: &'a [u8]) -> Self {
        let Some((applied, digest)) = value.split_last_chunk::<BYTES>() else { return Self::Without(value) };
        let Some(rest) = digest.strip_prefix(&TAG) else { return Self::Without(value) };
        let (numbers, crc) = rest.split_at(16);
        if crc32fast::hash(&value[..value.len() - 4]).to_be_bytes() != crc {
            return Self::Broken;
        }
        let number = |at: usize| numbers[at..at + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        Self::With(applied, Digest { sum: number(0), count: number(8) })
    }
}

/// The keys of the hash are fixed: nobody is to be kept from finding collisions, and the value is stored.
fn hash(key: &[u8], value: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0, 0);
    hasher.write_u64(key.len() as u64);
    hasher.write(key);
    hasher.write(value);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_what_it_was_on_disk() {
        let mut digest = Digest::default();
        digest.add(b"key", b"value");
        assert_eq!(digest, Digest { sum: 0x7b2e_c3cc_102b_eff6, count: 1 });
    }

    #[test]
    fn it_does_not_depend_on_the_way_to_the_records() {
        let mut one = Digest::default();
        one.add(b"a", b"1");
        one.add(b"b", b"2");
        let mut other = Digest::default();
        other.add(b"b", b"0");
        other.add(b"a", b"1");
        other.remove(b"b", b"0");
        assert_ne!(one, other, "a record is lost");
        other.add(b"b", b"2");
        assert_eq!(one, other);
        let mut moved = Digest::default();
        moved.add(b"a1", b"");
        moved.add(b"b", b"2");
        assert_ne!(one, moved);
    }

    #[test]
    fn a_sealed_value_is_read_and_any_flipped_bit_of_it_found() {
        let mut digest = Digest::default();
        digest.add(b"a", b"1");
        for applied in [b"".as_slice(), b"applied", &[0xfa; 40]] {
            let sealed = digest.seal(applied);
            assert_eq!(Sealed::read(&sealed), Sealed::With(applied, digest));
            assert_eq!(Sealed::read(applied), Sealed::Without(applied));
            for bit in 0..sealed.len() * 8 {
                let mut flipped = sealed.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(Sealed::read(&flipped), Sealed::With(applied, digest), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_program_that_does_not_know_of_digests_reads_the_value() {
        use carillon_proto::pb::raft::SnapshotMeta;
        use prost::Message as _;
        let meta = SnapshotMeta { snapshot_id: "7".to_owned(), ..SnapshotMeta::default() };
        let sealed = Digest::default().seal(&meta.encode_to_vec());
        assert_eq!(SnapshotMeta::decode(&*sealed).expect("reads"), meta);
    }
}
