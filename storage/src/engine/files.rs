//! Looks at the files of the timeline engine before it opens them, for damage that it would pass over.
//!
//! fjall checks a block of a table whenever it reads it. But it takes the first record of a journal that it can't read for
//! the end of the journal, cuts the rest off, and goes on with the next one: what was applied in between is missing then. It
//! does not check the numbers of the batches in a journal, nor the list of its tables, which has a checksum beside it.
//!
//! | file | layout, numbers little endian |
//! | --- | --- |
//! | `N.jnl`, in the order of N | batches, then zeros |
//! | a batch | 1, number of items u32, sequence number u64; items; 3, XXH3 of the items u64, `FJL` and 3 |
//! | an item | 2, kind u8, compression u8, keyspace u64, length of the key u16, of the value u32, of the value here u32, key, value; or 4, keyspace u64 |
//! | `keyspaces/N/current` | number V of the list u64, XXH3 of `keyspaces/N/vV` u128, 0 |

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::damage::damaged;

const TRAILER: &[u8; 4] = b"FJL\x03";
/// Longer than any batch: entries are applied by the megabyte.
const MAX_ITEM_BYTES: u64 = 1 << 30;

/// An error is damage, unless a file can't be read at all. A folder that does not exist is sound.
pub(super) fn check(dir: &Path) -> io::Result<()> {
    check_lists(&dir.join("keyspaces"))?;
    let mut journals = Vec::new();
    for path in in_folder(dir)? {
        let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".jnl"));
        if let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) {
            journals.push((number, path));
        }
    }
    journals.sort_unstable();
    let (mut last_seqno, count) = (None, journals.len());
    for (at, (_, path)) in journals.into_iter().enumerate() {
        check_journal(&path, at + 1 == count, &mut last_seqno)?;
    }
    Ok(())
}

fn check_lists(keyspaces: &Path) -> io::Result<()> {
    for folder in in_folder(keyspaces)? {
        let current = folder.join("current");
        let bytes = match fs::read(&current) {
            Ok(bytes) => bytes,
            // A keyspace that was not finished. The engine removes it.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            Err(error) => return Err(error),
        };
        let broken = |path: &Path, why: &str| damaged(format!("file {}", path.display()), why);
        let parts = bytes.split_first_chunk().and_then(|(version, rest)| Some((version, rest.split_first_chunk()?)));
        let Some((version, (sum, [0]))) = parts else { return Err(broken(&current, "its form is wrong")) };
        let list = folder.join(format!("v{}", u64::from_le_bytes(*version)));
        match fs::read(&list) {
            Ok(bytes) if xxh3_128(&bytes) == u128::from_le_bytes(*sum) => {}
            Ok(_) => return Err(broken(&list, "its checksum is wrong")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(broken(&list, "it is missing")),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn in_folder(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// `is_last`: writes may have been torn by a kill at its end.
fn check_journal(path: &Path, is_last: bool, last_seqno: &mut Option<u64>) -> io::Result<()> {
    let file = File::open(path)?;
    let mut journal = Journal { reader: BufReader::with_capacity(256 * 1024, file), at: 0, items: Xxh3::new() };
    loop {
        let begin = journal.at;
        let why = match journal.batch() {
            Ok(Some(seqno)) if last_seqno.is_none_or(|last| last < seqno) => {
                *last_seqno = Some(seqno);
                continue;
            }
            Ok(Some(seqno)) => format!("batch {seqno} comes after a later one"),
            Ok(None) => return Ok(()),
            Err(Unreadable::Io(error)) => return Err(error),
            Err(Unreadable::Torn(why)) => {
                // Nothing is written behind a torn batch: a batch that ends there tells of damage.
                let rest = Rest::of(path, begin)?;
                if rest.is_zero || is_last && !rest.has_an_end {
                    return Ok(());
                }
                why.to_owned()
            }
        };
        return Err(damaged(format!("file {}", path.display()), format!("byte {begin}: {why}")));
    }
}

/// The part of a journal behind its last readable batch.
struct Rest {
    is_zero: bool,
    /// A batch ends there.
    has_an_end: bool,
}

impl Rest {
    fn of(path: &Path, from: u64) -> io::Result<Self> {
        const PIECE: usize = 64 * 1024;
        const END: usize = 1 + 8 + TRAILER.len();
        let is_end = |window: &[u8]| window[0] == 3 && window.ends_with(TRAILER);
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(from))?;
        let mut rest = Self { is_zero: true, has_an_end: false };
        let (mut piece, zeros) = (Vec::new(), vec![0; PIECE]);
        loop {
            // An end may begin in the piece before.
            let kept = piece.split_off(piece.len().saturating_sub(END - 1));
            piece = kept;
            let begin = piece.len();
            if (&mut file).take(PIECE as u64).read_to_end(&mut piece)? == 0 {
                return Ok(rest);
            }
            // Most of a journal may be free.
            if piece[begin..] == zeros[..piece.len() - begin] {
                piece.clear();
                continue;
            }
            rest.is_zero = false;
            rest.has_an_end |= piece.windows(END).any(is_end);
        }
    }
}

struct Journal {
    reader: BufReader<File>,
    at: u64,
    /// The hash of the items of the batch so far.
    items: Xxh3,
}

enum Unreadable {
    Io(io::Error),
    Torn(&'static str),
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Torn("a batch is cut off"),
            _ => Self::Io(error),
        }
    }
}

impl Journal {
    /// The sequence number of the next batch; `None` at the end of the file.
    fn batch(&mut self) -> Result<Option<u64>, Unreadable> {
        match self.take::<1>() {
            Ok([1]) => {}
            Ok(_) => return Err(Unreadable::Torn("no batch begins there")),
            Err(Unreadable::Torn(_)) => return Ok(None),
            Err(error) => return Err(error),
        }
        let count = u32::from_le_bytes(self.take()?);
        let seqno = u64::from_le_bytes(self.take()?);
        self.items.reset();
        for _ in 0..count {
            self.item()?;
        }
        let ([tag], sum, trailer) = (self.take()?, self.take()?, self.take()?);
        if tag != 3 || trailer != *TRAILER {
            return Err(Unreadable::Torn("a batch does not end where it should"));
        }
        if u64::from_le_bytes(sum) != self.items.digest() {
            return Err(Unreadable::Torn("the checksum of a batch is wrong"));
        }
        Ok(Some(seqno))
    }

    fn item(&mut self) -> Result<(), Unreadable> {
        match self.hashed()? {
            [2] => {
                let [_kind, _compression] = self.hashed()?;
                let _keyspace = self.hashed::<8>()?;
                let key = u16::from_le_bytes(self.hashed()?);
                let _unpacked = self.hashed::<4>()?;
                let value = u32::from_le_bytes(self.hashed()?);
                self.pass(u64::from(key) + u64::from(value))
            }
            [4] => self.hashed::<8>().map(drop),
            _ => Err(Unreadable::Torn("an item of a batch is of no kind")),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn hashed<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let bytes = self.take()?;
        self.items.update(&bytes);
        Ok(bytes)
    }

    fn pass(&mut self, len: u64) -> Result<(), Unreadable> {
        if len > MAX_ITEM_BYTES {
            return Err(Unreadable::Torn("an item of a batch is too long"));
        }
        let mut bytes = Vec::new();
        if (&mut self.reader).take(len).read_to_end(&mut bytes)? as u64 != len {
            return Err(Unreadable::Torn("a batch is cut off"));
        }
        self.at += len;
        self.items.update(&bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(key: &[u8], value: &[u8]) -> Vec<u8> {
        let mut item = vec![2, 0, 0];
        item.extend_from_slice(&7u64.to_le_bytes());
        item.extend_from_slice(&(key.len() as u16).to_le_bytes());
        item.extend_from_slice(&(value.len() as u32).to_le_bytes());
        item.extend_from_slice(&(value.len() as u32).to_le_bytes());
        [&item, key, value].concat()
    }

    fn batch(seqno: u64) -> Vec<u8> {
        let items = [item(b"key", &[seqno as u8; 50]), vec![4, 7, 0, 0, 0, 0, 0, 0, 0]].concat();
        let mut batch = vec![1, 2, 0, 0, 0];
        batch.extend_from_slice(&seqno.to_le_bytes());
        batch.extend_from_slice(&items);
        batch.push(3);
        batch.extend_from_slice(&xxhash_rust::xxh3::xxh3_64(&items).to_le_bytes());
        batch.extend_from_slice(TRAILER);
        batch
    }

    #[test]
    fn a_journal_that_is_not_the_last_is_whole_or_damaged() {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).expect("writes");
        let first = [batch(3), batch(5), batch(6), vec![0; 1000]].concat();
        let (sealed, active) = ("9.jnl", "10.jnl");
        write(active, &[batch(8), batch(9), vec![0; 1000]].concat());
        write(sealed, &first);
        check(dir.path()).expect("sound");
        let seqno = |bytes: &[u8], batch_number: usize| {
            let at = batch_number * batch(3).len() + 5;
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"))
        };
        for bit in 0..3 * batch(3).len() * 8 {
            let mut flipped = first.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            write(sealed, &flipped);
            let seqnos = [0, 1, 2].map(|number| seqno(&flipped, number));
            // Another number in the same place of the order changes nothing.
            let is_harmless = seqnos != [3, 5, 6] && seqnos.is_sorted_by(|a, b| a < b) && seqnos[2] < 8;
            assert_eq!(check(dir.path()).is_err(), !is_harmless, "bit {bit}");
        }
        write(sealed, &first[..batch(3).len() + 20]);
        check(dir.path()).expect_err("torn, but not the last");
    }

    #[test]
    fn only_the_end_of_the_last_journal_may_be_torn() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("1.jnl");
        let whole = [batch(3), batch(5)].concat();
        for len in 0..=whole.len() {
            for zeros in [0, 200_000] {
                fs::write(&path, [&whole[..len], &vec![0; zeros]].concat()).expect("writes");
                check(dir.path()).expect("as a kill may leave it");
            }
        }
        let mut flipped = whole.clone();
        flipped[20] ^= 1;
        fs::write(&path, flipped).expect("writes");
        let error = check(dir.path()).expect_err("another batch follows").to_string();
        assert!(error.contains("1.jnl") && error.contains("byte 0"), "{error}");
    }
}
