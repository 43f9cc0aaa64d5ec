//! Looks for a text in the raw files of a folder.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

const PIECE: usize = 4 << 20;

/// The files below a folder that have these bytes, in any place.
pub(super) fn files_with(folder: &Path, wanted: &[u8]) -> io::Result<Vec<PathBuf>> {
    let (finder, mut found, mut folders) = (Finder::new(wanted), Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
                continue;
            }
            match finder.is_in(&entry.path()) {
                // The node has deleted it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                Ok(true) => found.push(entry.path()),
                Ok(false) => {}
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Boyer, Moore and Horspool's search: most bytes of a file are not looked at.
struct Finder<'a> {
    wanted: &'a [u8],
    /// For each byte under the end of the wanted ones: how far these may move on.
    skips: [usize; 256],
}

impl<'a> Finder<'a> {
    fn new(wanted: &'a [u8]) -> Self {
        let mut skips = [wanted.len().max(1); 256];
        for (at, byte) in wanted.iter().enumerate().take(wanted.len().saturating_sub(1)) {
            skips[usize::from(*byte)] = wanted.len() - 1 - at;
        }
        Self { wanted, skips }
    }

    fn is_in(&self, path: &Path) -> io::Result<bool> {
        let mut file = File::open(path)?;
        let mut bytes = vec![0; PIECE + self.wanted.len()];
        // Bytes from the end of the piece before.
        let mut kept = 0;
        loop {
            let read = file.read(&mut bytes[kept..])?;
            if read == 0 {
                return Ok(false);
            }
            let end = kept + read;
            if self.find(&bytes[..end]) {
                return Ok(true);
            }
            kept = end.min(self.wanted.len().saturating_sub(1));
            bytes.copy_within(end - kept..end, 0);
        }
    }

    fn find(&self, bytes: &[u8]) -> bool {
        let (length, mut at) = (self.wanted.len(), 0);
        while let Some(here) = bytes.get(at..at + length) {
            if here == self.wanted {
                return true;
            }
            at += self.skips[usize::from(here[length - 1])];
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_wherever_it_stands() {
        let folder = tempfile::tempdir().expect("folder");
        fs::create_dir(folder.path().join("inner")).expect("made");
        let path = folder.path().join("inner/file");
        let wanted = b"abcabd";
        for at in [0, 1, 1000, PIECE - 7, PIECE - 3, PIECE, PIECE + 1, PIECE + 6, 2 * PIECE + 3] {
            let mut bytes = b"abcab".repeat(at / 5 + 1)[..at].to_vec();
            fs::write(&path, &bytes).expect("written");
            assert!(files_with(folder.path(), wanted).expect("read").is_empty(), "at {at}");
            bytes.extend(wanted);
            fs::write(&path, &bytes).expect("written");
            assert_eq!(files_with(folder.path(), wanted).expect("read"), std::slice::from_ref(&path), "at {at}");
            bytes.extend(b"behind");
            fs::write(&path, &bytes).expect("written");
            assert_eq!(files_with(folder.path(), wanted).expect("read").len(), 1, "at {at}");
        }
    }
}
