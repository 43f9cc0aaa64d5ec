//! The number of synced writes that the log must hold.
//!
//! raft-engine takes the first record that it can't read for a write torn by a crash, and drops it with everything
//! behind it. To tell damage from a torn write, each synced write carries a running number into the log. Once the write
//! is on disk, the number goes into the file `high-water` beside the log, without a sync of its own: it is exact after
//! a killed process, and after a power failure it may be too low, never too high. It is too short to be torn: empty or
//! zeros, it was never written; with another checksum it is damaged.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
};

use crate::damage::damaged;

/// Number and CRC-32 of its bytes, both big endian.
const BYTES: usize = 12;

pub(super) struct HighWater(File);

impl HighWater {
    /// Opens or creates the file. Returns its number, or 0 if it was never written.
    pub(super) fn open(path: &Path) -> io::Result<(Self, u64)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = [0; BYTES];
        let number = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) if bytes == [0; BYTES] => 0,
            Ok(()) => decode(&bytes).ok_or_else(|| {
                let why = "its checksum is wrong, so nobody knows where the log must end";
                damaged(format!("file {}", path.display()), why)
            })?,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(error),
        };
        Ok((Self(file), number))
    }

    /// Records that the log holds `number` synced writes.
    pub(super) fn set(&self, number: u64) -> io::Result<()> {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        bytes[8..].copy_from_slice(&crc32fast::hash(&number.to_be_bytes()).to_be_bytes());
        self.0.write_all_at(&bytes, 0)
    }
}

fn decode(bytes: &[u8; BYTES]) -> Option<u64> {
    let (number, sum) = bytes.split_at(8);
    let number: [u8; 8] = number.try_into().ok()?;
    (crc32fast::hash(&number).to_be_bytes() == *sum).then(|| u64::from_be_bytes(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_is_read_back_and_damage_is_found() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("high-water");
        let (mark, number) = HighWater::open(&path).expect("opens");
        assert_eq!(number, 0);
        mark.set(7).expect("written");
        mark.set(8).expect("written");
        assert_eq!(HighWater::open(&path).expect("opens").1, 8);
        for bit in 0..BYTES * 8 {
            let mut bytes = [0; BYTES];
            mark.0.read_exact_at(&mut bytes, 0).expect("reads");
            bytes[bit / 8] ^= 1 << (bit % 8);
            let flipped = folder.path().join("flipped");
            std::fs::write(&flipped, bytes).expect("writes");
            assert!(HighWater::open(&flipped).is_err(), "bit {bit}");
        }
        mark.0.set_len(0).expect("cut");
        assert_eq!(HighWater::open(&path).expect("opens").1, 0, "a file system may forget what was never synced");
    }
}
